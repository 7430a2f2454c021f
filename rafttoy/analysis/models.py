"""Where model files are: those that are shipped, by name, and those of the user, by path."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from rafttoy.errors import ConfigError, unknown

__all__ = ["DEFAULT_MODEL", "find_model", "shipped_models"]

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
