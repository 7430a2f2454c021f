"""Model files: where those that are shipped and those of the user are, how two make one, how one is written, what to say of one."""

from __future__ import annotations

import platform
import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import msgspec
import tomlkit

from rafttoy.cell import Cell
from rafttoy.errors import ConfigError, unknown
from rafttoy.sim.model import LinkWork, Model, load_model, parse_model

__all__ = ["DEFAULT_MODEL", "describe", "dump_model", "find_model", "foreign", "open_model", "outside", "shipped_models"]

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


_HALVES = ("hardware", "software")


def open_model(text: str) -> Model:
    """The model that `--model` names: a shipped one, a file, or the halves of two: `hardware=m5d.4xlarge,software=default`.

    Raises ConfigError naming the file and the key for anything missing, unknown or absurd."""
    if "=" in text:
        return _compose(text)
    path = find_model(text)
    document = _read(path)
    missing = [half for half in _HALVES if half not in document]
    if len(missing) == 1 and "meta" in document:
        halves = {half: DEFAULT_MODEL if half in missing else text for half in _HALVES}
        joined = ",".join(f"{half}={name}" for half, name in halves.items())
        raise ConfigError(f"model {text} has no {missing[0]} half; take it from another: --model {joined}")
    return load_model(path)


def describe(path: Path) -> str:
    """What a model file says of itself, and which halves it has. Raises ConfigError for one that is none."""
    document = _read(path)
    if missing := [half for half in _HALVES if half not in document]:
        other = open_model(f"{missing[0]}={DEFAULT_MODEL}," + ",".join(f"{half}={path}" for half in _HALVES if half not in missing))
        half = f"{next(half for half in _HALVES if half not in missing)} half"
        meta = msgspec.convert(document.get("meta", {"name": path.stem}), type(other.meta))
    else:
        half, meta = "", load_model(path).meta
    return ", ".join(part for part in (half, meta.host, meta.date, meta.method, meta.confidence) if part)


def _read(path: Path) -> dict[str, Any]:
    """The document; what is no TOML is for `load_model` to refuse."""
    try:
        return tomllib.loads(path.read_text())
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError):
        load_model(path)
        raise


def _compose(text: str) -> Model:
    """Hardware of one file, software of another. What a packet costs a processor is software: it comes from that file, where it has
    links; its delay and bandwidth are hardware."""
    named = dict(part.strip().partition("=")[::2] for part in text.split(","))
    if sorted(named) != sorted(_HALVES):
        raise ConfigError(f"--model {text}: hardware=NAME,software=NAME, each a shipped model or a file")
    documents = {half: _read(find_model(named[half])) for half in _HALVES}
    for half, document in documents.items():
        if half not in document:
            raise ConfigError(f"--model {text}: {named[half]} has no {half} half")
    hardware = dict(documents["hardware"]["hardware"])
    costs = documents["software"].get("hardware", {}).get("links", {})
    links = {}
    for transport, link in hardware.get("links", {}).items():
        work = {name: value for name, value in costs.get(transport, {}).items() if name in LinkWork.__struct_fields__}
        links[transport] = link | work
    hardware["links"] = links
    about = [documents[half].get("meta", {}) for half in _HALVES]
    meta = {
        "name": "+".join(str(part.get("name", named[half])) for half, part in zip(_HALVES, about, strict=True)),
        "method": "; ".join(f"{half}: {part['method']}" for half, part in zip(_HALVES, about, strict=True) if part.get("method")),
        "confidence": "; ".join(
            f"{half}: {part['confidence']}" for half, part in zip(_HALVES, about, strict=True) if part.get("confidence")
        ),
    }
    return parse_model({"meta": meta, "hardware": hardware, "software": documents["software"]["software"]}, text)


def foreign(model: Model) -> str:
    """What to tell if the model was calibrated on another host than this one; else nothing."""
    here = platform.node()
    if not model.meta.host or model.meta.host == here:
        return ""
    return f"model {model.meta.name} is of another host ({model.meta.host}, this is {here}): it predicts that one"


_FAR = 4.0
"""A cell this many times beyond what the model was calibrated on is far outside."""


def outside(model: Model, cell: Cell) -> list[str]:
    """What of a cell is far outside the model's calibration, in words."""
    calibrated = model.calibrated
    if calibrated is None:
        return []
    notes = []
    for name, (low, high) in (("conc", calibrated.conc), ("bytes", calibrated.bytes), ("nodes", calibrated.nodes)):
        value = getattr(cell, name)
        if value and not low / _FAR <= value <= high * _FAR:
            notes.append(f"{name}={value} is far outside what the model was calibrated on ({low} to {high})")
    for what, value, known in (("transport", cell.transport, calibrated.transports), ("storage", cell.storage_name(), calibrated.storages)):
        if known and value not in known:
            notes.append(f"{what} {value} is not among what the model was calibrated on ({', '.join(known)})")
    return notes


_COMMENTS = {
    "hardware": "What the machine costs.",
    "hardware.disk": "sync_us: quantiles of a 4 KiB synced write, alone, at sync_percent. concurrency: factor with 1, 2, 3 … at once.",
    "hardware.links": "delay_us: one way. send, receive: a packet's work on a loop; wake_us: of a turn. background: core time beside.",
    "calibrated": "What the training cells had, from the smallest to the largest; error_pct: standard errors of the fits.",
    "software": "Costs in µs: fixed_us + entry_us * entries + byte_ns * bytes / 1000. lock_us: a loop keeps its lock, placed: a core.",
}


_CURVE = ("at", "times", "spreads")


def dump_model(model: Model) -> str:
    """The model as a commented TOML file, which `load_model` reads back."""
    document = tomlkit.document()
    _fill(document, msgspec.to_builtins(model), "")
    return tomlkit.dumps(document)


def _fill(table: Any, content: dict[str, Any], path: str) -> None:
    """Plain values first, small tables in line, larger ones under headings of their own."""
    for key, value in content.items():
        if not isinstance(value, dict) and value is not None and (value or key not in _CURVE):
            table[key] = value
    for key, value in content.items():
        if not isinstance(value, dict) or (key in ("groups", "links") and not value):
            continue
        if value and path and not any(isinstance(inner, dict | list) and name not in _CURVE for name, inner in value.items()):
            inline = tomlkit.inline_table()
            inline.update({name: inner for name, inner in value.items() if inner or name not in _CURVE})
            table[key] = inline
            continue
        name = f"{path}.{key}".lstrip(".")
        inner_table = tomlkit.table()
        if name in _COMMENTS:
            inner_table.comment(_COMMENTS[name])
        _fill(inner_table, value, name)
        table[key] = inner_table
