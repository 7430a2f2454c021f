"""What flags are made of: durations, comma-separated lists, addresses."""

from __future__ import annotations

import math
import re
from typing import Any

import click

__all__ = ["COUNT", "CPUS", "DURATION", "PEERS", "PERCENT", "RATE", "SETTINGS", "Commas", "CpuSet"]

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?|\.[0-9]+)(us|µs|ms|s|m|h)")
_SECONDS = {"us": 1e-6, "µs": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}
_ADDRESS = re.compile(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/\[\]]+):([0-9]{1,5})")


class Duration(click.ParamType[float, Any]):
    """`2s`, `500ms`, `1.5m` → seconds."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        match = _DURATION.fullmatch(value)
        if match is None:
            self.fail(f"{value!r} is not a duration: a number and its unit, as in 2s, 500ms or 1m", param, ctx)
        return float(match[1]) * _SECONDS[match[2]]


class Commas(click.ParamType[tuple[Any, ...], Any]):
    """`a,b,c` → a tuple of items, each once, in the order given."""

    def __init__(self, item: click.ParamType[Any, Any] = click.STRING) -> None:
        self.item = item
        self.name = item.name

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[Any, ...]:
        if isinstance(value, tuple):
            return value
        items = [self.item.convert(part.strip(), param, ctx) for part in value.split(",")]
        if "" in items:
            self.fail(f"{value!r} has an empty item", param, ctx)
        return tuple(dict.fromkeys(items))

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        return f"{self.item.get_metavar(param, ctx) or self.name.upper()},…"


class Address(click.ParamType[str, Any]):
    """`host:port`; IPv6 in brackets."""

    name = "host:port"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        match = _ADDRESS.fullmatch(value)
        if match is None or not 1 <= int(match[2]) <= 65535:
            self.fail(f"{value!r} is not an address: host:port, as in 10.0.0.1:1234 or [fd00::1]:1234", param, ctx)
        return str(value)


class Peers(Commas):
    """Addresses of the nodes 1…N."""

    def __init__(self) -> None:
        super().__init__(Address())

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        peers = super().convert(value, param, ctx)
        if isinstance(value, str) and len(peers) != value.count(",") + 1:
            self.fail("an address stands there twice: each node has its own", param, ctx)
        return peers


class CpuSet(tuple[int, ...]):
    """Numbers of processors, ascending; as text, what the flag takes."""

    __slots__ = ()

    def __str__(self) -> str:
        runs: list[list[int]] = []
        for cpu in self:
            if runs and cpu == runs[-1][-1] + 1:
                runs[-1].append(cpu)
            else:
                runs.append([cpu])
        return "+".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)


class Cpus(click.ParamType[tuple[CpuSet, ...], Any]):
    """`0,1,2-3+5` → a set for each peer: ranges as taskset has them, `+` between the parts of a set. `any` → no set."""

    name = "SET,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[CpuSet, ...]:
        if isinstance(value, tuple):
            return value
        if value == "any":
            return ()
        sets = []
        for text in value.split(","):
            cpus: set[int] = set()
            for part in text.strip().split("+"):
                match = re.fullmatch(r"([0-9]{1,4})(?:-([0-9]{1,4}))?", part)
                if match is None:
                    self.fail(f"{text!r} is no set of processors: numbers and ranges, as in 0, 2-3 or 0+2-3 (or any)", param, ctx)
                cpus.update(range(int(match[1]), int(match[2] or match[1]) + 1))
            if not cpus:
                self.fail(f"{text!r} has no processor in it", param, ctx)
            sets.append(CpuSet(sorted(cpus)))
        return tuple(sets)


class Settings(click.ParamType[tuple[str, ...], Any]):
    """`KEY=VALUE,…`; commas within brackets are of the value."""

    name = "KEY=VALUE,…"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, ...]:
        if isinstance(value, tuple):
            return value
        items = [item.strip() for item in re.split(r",(?![^\[]*\])", value)]
        for item in items:
            key, equals, setting = item.partition("=")
            if not (key and equals and setting):
                self.fail(f"{item!r} is no setting: KEY=VALUE, as in disk.sync_us=50 or links.grpc=x0.5", param, ctx)
        return tuple(items)


class Finite(click.FloatRange):
    """A number, but neither infinite nor NaN (which no range refuses by itself)."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


DURATION = Duration()
COUNT = click.IntRange(min=1)
CPUS = Cpus()
RATE = Finite(min=0, min_open=True)
PERCENT = Finite(min=0)
PEERS = Peers()
SETTINGS = Settings()
