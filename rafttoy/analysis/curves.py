"""Results as curves: throughput and latency over the load, measured, predicted, and the closed form's."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from rafttoy.cell import Cell
from rafttoy.experiment import Result

__all__ = ["CURVES", "Curve", "Panel", "Point", "panels"]

CURVES = ("measured", "predicted", "ceiling")


class Point(msgspec.Struct, frozen=True):
    """`load` is proposals in flight, or a second. Latency is the mean; None where it has no bound. `low` and `high` bound throughput: the
    range of the repeats of a measurement, the interval of a prediction."""

    load: float
    ops_per_s: float
    latency_us: float | None
    low: float
    high: float


class Curve(msgspec.Struct, frozen=True):
    name: str
    points: list[Point]


class Panel(msgspec.Struct, frozen=True):
    """All curves of what differs in nothing but its load. `load_name` is `conc` or `rate`."""

    title: str
    load_name: str
    curves: list[Curve]


def panels(results: Sequence[Result]) -> list[Panel]:
    """In the order in which configurations first appear; those with a single load have no curve."""
    groups: dict[Cell, list[Result]] = {}
    for result in results:
        groups.setdefault(_configuration(result), []).append(result)
    out = []
    for key, rows in groups.items():
        curves = [curve for name in CURVES if (curve := _curve(name, rows)).points]
        if curves and max(len(curve.points) for curve in curves) > 1:
            title = f"{key.pipeline}, {key.storage_name()}, {key.transport}, {key.nodes} nodes, {key.bytes} B"
            out.append(Panel(title, "rate" if key.rate else "conc", curves))
    return out


def _configuration(result: Result) -> Cell:
    """The cell without its load, but for what kind of load it is."""
    cell = result.cell()
    return msgspec.structs.replace(cell, conc=0 if cell.rate else 1, rate=1.0 if cell.rate else 0.0)


def _curve(name: str, rows: Sequence[Result]) -> Curve:
    world = "real" if name == "measured" else "sim"
    loads: dict[float, list[Result]] = {}
    for row in rows:
        if row.world == world and row.ops_per_s:
            loads.setdefault(row.rate or float(row.conc), []).append(row)
    points = [point for load in sorted(loads) if (point := _point(name, load, loads[load])) is not None]
    return Curve(name, points)


def _point(name: str, load: float, repeats: Sequence[Result]) -> Point | None:
    if name == "ceiling":
        bound = repeats[0].ceiling
        return Point(load, bound.ops_per_s, bound.latency_us, bound.ops_per_s, bound.ops_per_s) if bound is not None else None
    rates = [result.ops_per_s for result in repeats]
    middle = statistics.median_low(rates)
    latency_us = next(result.latency_us["mean"] for result in repeats if result.ops_per_s == middle)
    low, high = min(rates), max(rates)
    intervals = [result.interval["ops_per_s"] for result in repeats if result.interval is not None]
    if intervals:
        low, high = min(low for low, _ in intervals), max(high for _, high in intervals)
    return Point(load, middle, latency_us, low, high)
