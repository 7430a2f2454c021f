"""How far a prediction may be off by the errors of the fits that it is made of."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from rafttoy.analysis.explain import simulate
from rafttoy.analysis.plans import brief
from rafttoy.analysis.whatif import apply_settings
from rafttoy.cell import Cell, Plan
from rafttoy.experiment import Progress, Result
from rafttoy.sim.model import Model

__all__ = ["add_intervals", "prediction_interval"]

_PARTS: dict[str, tuple[str, ...]] = {
    "disk": ("hardware.disk",),
    "links": ("hardware.links",),
    "stages": ("software.stages",),
    "kv": ("software.kv",),
}
"""Of `error_pct` -> costs of the model that it is of."""

_NINE_IN_TEN = 1.645  # standard errors either side of the middle of a normal distribution


def prediction_interval(
    result: Result, plan: Plan, model: Model, run: Callable[[Cell, Plan, Model], Result] = simulate
) -> dict[str, tuple[float, float]] | None:
    """{`ops_per_s`, `p50_us`, `p99_us`: (low, high)} about a simulated `result`, within which nine of ten measurements lie if the fits'
    errors are what the model says and nothing else is wrong with it. None if the model does not say.

    First-order propagation: each part of the model is made dearer by its standard error; the relative effects on the prediction are
    independent and add up as squares (JCGM 100, "Guide to the expression of uncertainty in measurement", §5.1). They are found by runs
    as short as `rafttoy.analysis.plans.brief` makes them, which share their random numbers."""
    if model.calibrated is None or not model.calibrated.error_pct:
        return None
    cell = result.cell()
    short = brief(cell, plan, model)
    middle = _figures(run(cell, short, model))
    squares = dict.fromkeys(middle, 0.0)
    for part, error_pct in model.calibrated.error_pct.items():
        dearer = apply_settings(model, [f"{key}=x{1 + error_pct / 100}" for key in _PARTS[part]])
        for name, value in _figures(run(cell, short, dearer)).items():
            squares[name] += (value / middle[name] - 1) ** 2
    out = {}
    for name, value in _figures(result).items():
        half = _NINE_IN_TEN * math.sqrt(squares[name])
        out[name] = (round(value / (1 + half), 1), round(value * (1 + half), 1))
    return out


def add_intervals(predicted: Sequence[Result], plan: Plan, model: Model, progress: Progress) -> None:
    """To simulated results, of each cell once: its repeats differ by their random numbers only."""
    found: dict[Cell, dict[str, tuple[float, float]] | None] = {}
    for i, result in enumerate(predicted):
        cell = result.cell()
        if cell not in found:
            progress(str(cell), i / len(predicted))
            found[cell] = prediction_interval(result, plan, model)
        result.interval = found[cell]


def _figures(result: Result) -> dict[str, float]:
    return {"ops_per_s": result.ops_per_s, "p50_us": result.latency_us["p50"], "p99_us": result.latency_us["p99"]}
