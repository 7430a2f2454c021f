"""How good predictions are: errors over cells, order of cells, and where in a peer's work they come from."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Sequence

import msgspec

from rafttoy.analysis.compare import Pair
from rafttoy.cell import Cell

__all__ = [
    "Agreement",
    "Residual",
    "latency_error_pct",
    "latency_mape_pct",
    "latency_noise_pct",
    "noise_pct",
    "noise_text",
    "rank_agreement",
    "residuals",
    "same_but_pipeline",
]


class Agreement(msgspec.Struct, frozen=True):
    """Of pairs of cells whose measured gap exceeds the noise: how many are predicted in the measured order. `wrong` are those that are
    not, each (the faster, the slower) as measured."""

    right: int
    total: int
    wrong: list[tuple[Cell, Cell]]

    def __str__(self) -> str:
        return f"{self.right} of {self.total}"


class Residual(msgspec.Struct, frozen=True):
    """CPU time of one stage, in µs per proposal over all cells, measured and predicted. `share_pct` is of all that was measured."""

    stage: str
    measured_us: float
    predicted_us: float
    share_pct: float

    @property
    def error_pct(self) -> float:
        return 100 * (self.predicted_us / self.measured_us - 1) if self.measured_us else 0.0


def latency_error_pct(pair: Pair, metric: str) -> float:
    measured = pair.measured.latency_us[metric]
    return 100 * (pair.predicted.latency_us[metric] / measured - 1) if measured else 0.0


def latency_mape_pct(pairs: Sequence[Pair], metric: str) -> float:
    """Mean absolute error of a predicted latency (`p50`, `p99`, …) over the cells, in percent."""
    return statistics.fmean(abs(latency_error_pct(pair, metric)) for pair in pairs)


def noise_pct(pairs: Sequence[Pair]) -> float:
    """Mean spread of the repeats: no prediction is better than that."""
    return statistics.fmean(pair.spread_pct for pair in pairs)


def latency_noise_pct(pairs: Sequence[Pair], metric: str) -> float:
    """The same of a latency (`p50`, `p99`, …)."""
    return statistics.fmean(pair.latency_spread_pct[metric] for pair in pairs)


def noise_text(pairs: Sequence[Pair]) -> str:
    """What is known of it, of throughput and latencies, for a person to read."""
    repeats = max(pair.repeats for pair in pairs)
    if repeats == 1:
        return "unknown, for want of repeats (--count)"
    p50, p99 = (latency_noise_pct(pairs, metric) for metric in ("p50", "p99"))
    return f"of {repeats} runs ±{noise_pct(pairs):.1f} %, of their p50 ±{p50:.1f} %, p99 ±{p99:.1f} %"


def same_but_pipeline(one: Cell, other: Cell) -> bool:
    return one.pipeline != other.pipeline and msgspec.structs.replace(one, pipeline=other.pipeline) == other


def rank_agreement(pairs: Sequence[Pair], comparable: Callable[[Cell, Cell], bool] = lambda one, other: True) -> Agreement:
    """Over all pairs of closed-loop cells that are `comparable` (an open loop is served at its rate, whatever serves it). A gap exceeds the
    noise if the ranges of the repeats do not meet."""
    right = total = 0
    wrong: list[tuple[Cell, Cell]] = []
    for one, other in itertools.combinations([pair for pair in pairs if not pair.cell.rate], 2):
        if not comparable(one.cell, other.cell):
            continue
        first, second = one.measured.ops_per_s, other.measured.ops_per_s
        if abs(first - second) <= (first * one.spread_pct + second * other.spread_pct) / 100:
            continue
        total += 1
        if (first > second) == (one.predicted.ops_per_s > other.predicted.ops_per_s):
            right += 1
        else:
            wrong.append((one.cell, other.cell) if first > second else (other.cell, one.cell))
    return Agreement(right, total, wrong)


def residuals(pairs: Sequence[Pair]) -> list[Residual]:
    """Stages of the leader and of the followers, the most expensive first. A stage that only one world has counts in it."""
    spent: dict[str, list[float]] = {}
    ops = [0, 0]
    for pair in pairs:
        for side, result in enumerate((pair.measured, pair.predicted)):
            ops[side] += result.ops
            for name, stage in result.stages.items():
                spent.setdefault(name, [0.0, 0.0])[side] += stage["cpu_us"]
    if not all(ops):
        return []
    total = sum(measured for measured, _ in spent.values()) or 1.0
    rows = [
        Residual(name, round(measured / ops[0], 4), round(predicted / ops[1], 4), round(100 * measured / total, 1))
        for name, (measured, predicted) in spent.items()
    ]
    return sorted(rows, key=lambda row: -row.measured_us)
