"""The same model with one cost changed. Costs are named by dotted keys, as in the model's file.

    hardware.disk.sync_us        in full; or short: disk.sync_us, links.grpc.delay_us, stages.propose.entry_us, kv.leveldb.write, cores

A key may name one cost, a list (quantiles), or a whole table, whose costs are then all scaled.
"""

from __future__ import annotations

import math
import tomllib
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from rafttoy.errors import ConfigError, unknown
from rafttoy.sim.model import Model, parse_model

__all__ = ["apply_settings", "change", "scaled"]

_NO_COSTS = (
    "sync_percent",
    "concurrency",
    "hosts",
    "sync_factor",
    "cores",
    "at",
    "times",
    "pairs_at",
    "pairs_times",
    "spread",
    "spread_percent",
    "spreads",
    "pace",
    "flush_bytes",
    "interruptions",
    "lock_us",
    "placed",
    "reads_in_turn",
    "commit_broadcast",
)
"""Scaling the table that they are in leaves them alone."""


def apply_settings(model: Model, settings: Sequence[str]) -> Model:
    """Each of `settings` is `KEY=VALUE`, applied in order. Raises ConfigError naming the key."""
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals or not key or not value:
            raise ConfigError(f"--set {setting}: KEY=VALUE, as in disk.sync_us=50 or links.grpc=x0.5")
        model = change(model, key.strip(), value.strip())
    return model


def change(model: Model, key: str, value: str) -> Model:
    """`value` is a number (a list keeps its shape: its median becomes that), `x0.5` (everything below `key` times that), or a
    TOML value that takes the old one's place. Raises ConfigError naming the key."""
    document = msgspec.to_builtins(model)
    table, name = _find(document, key)
    _set(table, name, key, value)
    short = key.removeprefix("software.").removeprefix("hardware.")
    for costs in document["software"]["groups"].values():  # what holds for all holds for those that differ as well
        if costs["disk"] is None:
            del costs["disk"]
        if found := _descend(costs, short):
            _set(*found, key, value)
    return parse_model(document, f"with --set {key}={value}")


def _set(table: dict[str, Any], name: str, key: str, value: str) -> None:
    old = table[name]
    if value.startswith("x"):
        factor = _number(value[1:], key, value)
        if factor < 0:
            raise ConfigError(f"--set {key}={value}: a factor is not negative")
        table[name] = _scale(old, factor, key)
    elif isinstance(old, dict):
        raise ConfigError(f"--set {key}={value}: a table of {', '.join(map(str, old))}; name one of them, or scale them all: {key}=x0.5")
    elif isinstance(old, list) and not value.startswith("["):
        middle = old[len(old) // 2]
        wanted = _number(value, key, value)
        if not middle:
            raise ConfigError(f"--set {key}={value}: its median is 0: give a list")
        table[name] = [quantile * wanted / middle for quantile in old]
    else:
        table[name] = _toml(value, key)


def scaled(model: Model, key: str, factor: float) -> Model:
    """The model with all costs below `key` times `factor`."""
    return change(model, key, f"x{factor!r}")


def _find(document: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """(table, name in it) of a dotted key, in full or short. Names may have dots in them (`engine.apply`)."""
    hardware, software = document["hardware"], document["software"]
    for table in (document, hardware, software):
        found = _descend(table, key)
        if found is not None and (table is not document or key.partition(".")[0] in ("hardware", "software")):
            return found
    known = [*_paths(hardware, ""), *_paths(software, "")]
    near = [path for path in known if path.count(".") <= key.count(".")] or known
    error = unknown("--set", key, near)
    raise ConfigError(str(error).partition("; there are")[0] + f"; at the top: {', '.join([*hardware, *software])}")


def _descend(table: dict[str, Any], key: str) -> tuple[dict[str, Any], str] | None:
    if key in table:
        return table, key
    for name, value in table.items():
        if isinstance(value, dict) and key.startswith(f"{name}."):
            found = _descend(value, key[len(name) + 1 :])
            if found is not None:
                return found
    return None


def _paths(table: dict[str, Any], prefix: str) -> Iterator[str]:
    for name, value in table.items():
        yield f"{prefix}{name}"
        if isinstance(value, dict):
            yield from _paths(value, f"{prefix}{name}.")


def _scale(value: Any, factor: float, key: str) -> Any:
    if isinstance(value, dict):
        return {name: inner if name in _NO_COSTS else _scale(inner, factor, key) for name, inner in value.items()}
    if isinstance(value, list):
        return [_scale(item, factor, key) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"--set {key}: {value!r} cannot be scaled")
    return max(1, round(value * factor)) if isinstance(value, int) else value * factor


def _number(text: str, key: str, value: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise ConfigError(f"--set {key}={value}: a number, as in {key}=50, or a factor, as in {key}=x0.5")
    return number


def _toml(value: str, key: str) -> Any:
    try:
        return tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        if value.isidentifier():
            return value  # a word without its quotes: hosts=each
        raise ConfigError(f"--set {key}={value}: not a number, a factor, or a TOML value") from None
