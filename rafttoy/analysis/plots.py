"""Curves in a terminal."""

from __future__ import annotations

from collections.abc import Sequence

import plotext

from rafttoy.analysis.curves import Curve, Panel
from rafttoy.analysis.formats import human_us

__all__ = ["draw"]

_MARKERS = {"measured": "dot", "predicted": "x", "ceiling": "-"}
_HEIGHT = 16
_TICKS = 5


def draw(panel: Panel, width: int, *, colour: bool) -> str:
    """Two plots one above the other, each `width` columns: throughput by load, latency by throughput."""
    by_load = _plot(panel.curves, f"{panel.title}: ops/s by {panel.load_name}", width, latency=False)
    by_throughput = _plot(panel.curves, "mean latency by ops/s", width, latency=True)
    text = f"{by_load}\n{by_throughput}"
    return text if colour else "\n".join(line.rstrip() for line in plotext.uncolorize(text).splitlines())


def _plot(curves: Sequence[Curve], title: str, width: int, *, latency: bool) -> str:
    plotext.clear_figure()  # the library keeps one figure, which nothing else here draws on
    plotext.theme("clear")
    plotext.plotsize(width, _HEIGHT)
    plotext.title(title)
    if latency:
        plotext.yscale("log")
    else:
        plotext.xscale("log")
    xs: list[float] = []
    ys: list[float] = []
    for curve in curves:
        points = [point for point in curve.points if not latency or point.latency_us]
        x = [point.ops_per_s if latency else point.load for point in points]
        y = [float(point.latency_us or 0.0) if latency else point.ops_per_s for point in points]
        if points:
            plotext.plot(x, y, label=curve.name, marker=_MARKERS[curve.name])
            xs += x
            ys += y
    if xs:
        _label(xs, ys, latency=latency)
    return str(plotext.build())


def _label(xs: Sequence[float], ys: Sequence[float], *, latency: bool) -> None:
    if latency:
        low, high = min(ys), max(ys)
        ticks = [low * (high / low) ** (i / (_TICKS - 1)) for i in range(_TICKS)]
        plotext.yticks(ticks, [human_us(tick) for tick in ticks])
        steps = [max(xs) * i / (_TICKS - 1) for i in range(_TICKS)]
        plotext.xlim(0, max(xs))
        plotext.xticks(steps, [f"{step:,.0f}" for step in steps])
        return
    steps = [max(ys) * i / (_TICKS - 1) for i in range(_TICKS)]
    plotext.ylim(0, max(ys))
    plotext.yticks(steps, [f"{step:,.0f}" for step in steps])
    loads = sorted(set(xs))
    shown = loads[:: max(1, len(loads) // 8)]
    plotext.xticks(shown, [f"{load:g}" for load in shown])
