"""Model files: where those that are shipped and those of the user are, and how one is written."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import tomlkit

from rafttoy.errors import ConfigError, unknown
from rafttoy.sim.model import Model

__all__ = ["DEFAULT_MODEL", "dump_model", "find_model", "shipped_models"]

DEFAULT_MODEL = "default"


def _directory() -> Path:
    """`models` inside the package as installed from a wheel, or beside it in a checkout."""
    package = Path(str(resources.files("rafttoy")))
    inside = package / "models"
    return inside if inside.is_dir() else package.parent / "models"


def shipped_models() -> dict[str, Path]:
    """Name → file, by name."""
    return {path.stem: path for path in sorted(_directory().glob("*.toml"))}


def find_model(name_or_path: str) -> Path:
    """A shipped model's file, or the file of that path. ConfigError with what there is otherwise.

    What has a directory or ends in `.toml` is a path; anything else is a name."""
    path = Path(name_or_path)
    if path.suffix == ".toml" or len(path.parts) > 1:
        if path.is_file():
            return path
        raise ConfigError(f"--model: no file {name_or_path}")
    shipped = shipped_models()
    if name_or_path not in shipped:
        raise unknown("--model", name_or_path, shipped)
    return shipped[name_or_path]


_COMMENTS = {
    "hardware": "What the machine costs.",
    "hardware.disk": "sync_us: quantiles of a 4 KiB synced write, alone, at sync_percent. concurrency: factor with 1, 2, 3 … at once.",
    "hardware.links": "delay_us: one way. send, receive: a packet's work on a loop. background: core time beside the loops, each side.",
    "software": "What the code costs: fixed_us + entry_us * entries + byte_ns * bytes / 1000, in microseconds, an execution.",
}


def dump_model(model: Model) -> str:
    """The model as a commented TOML file, which `load_model` reads back."""
    document = tomlkit.document()
    _fill(document, msgspec.to_builtins(model), "")
    return tomlkit.dumps(document)


def _fill(table: Any, content: dict[str, Any], path: str) -> None:
    """Plain values first, small tables in line, larger ones under headings of their own."""
    for key, value in content.items():
        if not isinstance(value, dict):
            table[key] = value
    for key, value in content.items():
        if not isinstance(value, dict):
            continue
        if value and not any(isinstance(inner, dict | list) for inner in value.values()) and path:
            inline = tomlkit.inline_table()
            inline.update(value)
            table[key] = inline
            continue
        name = f"{path}.{key}".lstrip(".")
        inner_table = tomlkit.table()
        if name in _COMMENTS:
            inner_table.comment(_COMMENTS[name])
        _fill(inner_table, value, name)
        table[key] = inner_table
