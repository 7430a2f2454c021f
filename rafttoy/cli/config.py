"""Options from a file: `--config FILE`. A flag outranks a `RAFTTOY_*` variable, which outranks the file."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import click

from rafttoy.errors import ConfigError, unknown

__all__ = ["rank", "read_config", "set_by_user", "source"]

_OWN = ("config", "help")  # of a command, but not of a file


def read_config(path: Path, command: str, options: Iterable[str], tables: Mapping[str, Iterable[str]]) -> dict[str, str]:
    """Parameter name → text, as a flag would have it, for `command`.

    Keys are flags without their dashes, at the top for every command that has them, or in a table named like the command. `options`
    are the command's parameter names; `tables` those of every command. Raises ConfigError naming the file and the key."""
    try:
        document = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"--config {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"--config {path}: not TOML: {error}") from None
    anywhere = list(dict.fromkeys(name for names in tables.values() for name in names if name not in _OWN))
    out: dict[str, str] = {}
    own: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict):
            if key not in tables:
                raise unknown(f"--config {path}: table", key, tables)
            names = [name for name in tables[key] if name not in _OWN]
            for inner, inner_value in value.items():
                _check(path, f"{key}.", inner, inner_value, names)
            if key == command:
                own = value
        else:
            _check(path, "", key, value, anywhere)
            if _parameter(key) in options:
                out[_parameter(key)] = _text(value)
    return out | {_parameter(key): _text(value) for key, value in own.items()}


def _parameter(key: str) -> str:
    return key.replace("-", "_")


def _check(path: Path, prefix: str, key: str, value: Any, names: Iterable[str]) -> None:
    if _parameter(key) not in names:
        raise unknown(f"--config {path}: key", prefix + key, [prefix + name.replace("_", "-") for name in names])
    items = value if isinstance(value, list) else [value]
    if not items or not all(isinstance(item, str | int | float) for item in items):
        raise ConfigError(f"--config {path}: {prefix}{key} must be a string, a number, true, false, or a list of those")


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(_text, value)) if isinstance(value, list) else str(value)


def source(ctx: click.Context, parameter: click.Parameter) -> str:
    """Where a parameter's value came from, as its user knows it: the flag, the variable, or the file with its key."""
    kind = ctx.get_parameter_source(parameter.name) if parameter.name else None
    flag = max(parameter.opts, key=len)
    if kind is click.core.ParameterSource.ENVIRONMENT:
        return f"{flag} (from {parameter.envvar})"
    if kind is click.core.ParameterSource.DEFAULT_MAP:
        return f"{flag} (from {ctx.meta.get('rafttoy.config', '--config')})"
    return flag


def rank(ctx: click.Context, name: str) -> int:
    """3 for a flag, 2 for a variable, 1 for the file, 0 for a default."""
    ranks = {
        click.core.ParameterSource.COMMANDLINE: 3,
        click.core.ParameterSource.ENVIRONMENT: 2,
        click.core.ParameterSource.DEFAULT_MAP: 1,
    }
    kind = ctx.get_parameter_source(name)
    return ranks.get(kind, 0) if kind is not None else 0


def set_by_user(ctx: click.Context) -> dict[str, str]:
    """Flag → text of all that was set, by flag, variable or file."""
    out = {}
    for name, value in ctx.params.items():
        if value is not None and rank(ctx, name):
            out[name.replace("_", "-")] = _text(list(value) if isinstance(value, tuple) else value)
    return out
