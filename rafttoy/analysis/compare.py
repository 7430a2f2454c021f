"""Measurement and prediction of the same cells, side by side."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

import msgspec

from rafttoy.cell import Cell
from rafttoy.errors import CheckFailed
from rafttoy.experiment import Result

__all__ = ["Comparison", "Pair", "compare"]


class Pair(msgspec.Struct, frozen=True):
    """One cell in both worlds. `measured` and `predicted` are the runs of median throughput among the repeats, with the medians of their
    latencies, each by itself (an open loop is served at its rate in all of them: which is the median one says nothing of how long it took);
    `spread_pct` is half the range of the measured throughputs, relative to the median: what an error can be no better than.
    `latency_spread_pct` is that of each latency."""

    cell: Cell
    measured: Result
    predicted: Result
    repeats: int
    spread_pct: float
    latency_spread_pct: dict[str, float]

    @property
    def error_pct(self) -> float:
        """Of the predicted throughput; positive: the model is too fast."""
        return _error_pct(self.predicted, self.measured)

    @property
    def binding(self) -> str:
        """The resource that binds; where the worlds disagree, `measured / predicted`."""
        real, sim = self.measured.binding, self.predicted.binding
        return real if real == sim else f"{real} / {sim}"


class Comparison(msgspec.Struct, frozen=True):
    """`rows` are all results in the order of the grid: of each cell the real ones, then the sim ones with their error."""

    pairs: list[Pair]
    rows: list[Result]

    def mape_pct(self) -> float:
        """Mean absolute error of predicted throughput over the cells, in percent."""
        return sum(abs(pair.error_pct) for pair in self.pairs) / len(self.pairs)

    def unpaired(self) -> list[Result]:
        """Rows of cells that only one world finished."""
        paired = {pair.cell for pair in self.pairs}
        return [row for row in self.rows if row.cell() not in paired]

    def worst(self) -> Pair:
        return max(self.pairs, key=lambda pair: abs(pair.error_pct))

    def summary(self) -> str:
        worst = self.worst()
        cells = "1 cell" if len(self.pairs) == 1 else f"{len(self.pairs)} cells"
        return f"throughput of {cells}: MAPE {self.mape_pct():.1f} %, worst {worst.error_pct:+.1f} % ({worst.cell})"

    def check(self, max_error_pct: float) -> None:
        """CheckFailed if the prediction of any cell is further off than that, either way."""
        wrong = [pair for pair in self.pairs if abs(pair.error_pct) > max_error_pct]
        if wrong:
            worst = self.worst()
            raise CheckFailed(
                f"{len(wrong)} of {len(self.pairs)} cells beyond --max-error {max_error_pct:g} %; worst: "
                f"{worst.error_pct:+.1f} % ({worst.cell})"
            )


def compare(real: Sequence[Result], sim: Sequence[Result]) -> Comparison:
    """Pairs by cell. A cell that one world lacks (an interrupted run) has its rows, but no pair."""
    measured, predicted = _by_cell(real), _by_cell(sim)
    pairs: list[Pair] = []
    rows: list[Result] = []
    for cell in dict.fromkeys((*measured, *predicted)):
        seen, foretold = measured.get(cell, []), predicted.get(cell, [])
        if seen and foretold and (middle := _median(seen)).ops_per_s > 0:
            spread_pct = _spread_pct([run.ops_per_s for run in seen])
            latencies = {name: _spread_pct([run.latency_us[name] for run in seen]) for name in middle.latency_us}
            pairs.append(Pair(cell, middle, _median(foretold), len(seen), spread_pct, latencies))
            foretold = [msgspec.structs.replace(run, error_pct=round(_error_pct(run, middle), 2)) for run in foretold]
        rows += (*seen, *foretold)
    return Comparison(pairs, rows)


def _error_pct(predicted: Result, measured: Result) -> float:
    return 100.0 * (predicted.ops_per_s - measured.ops_per_s) / measured.ops_per_s


def _spread_pct(values: Sequence[float]) -> float:
    """Half of their range, relative to their median."""
    middle = statistics.median(values)
    return 50.0 * (max(values) - min(values)) / middle if middle else 0.0


def _by_cell(results: Sequence[Result]) -> dict[Cell, list[Result]]:
    out: dict[Cell, list[Result]] = {}
    for result in results:
        out.setdefault(result.cell(), []).append(result)
    return out


def _median(runs: Sequence[Result]) -> Result:
    """The run of median throughput (of two middle ones the slower), with the latencies' medians."""
    middle = sorted(runs, key=lambda run: run.ops_per_s)[(len(runs) - 1) // 2]
    latency_us = {name: statistics.median(run.latency_us[name] for run in runs) for name in middle.latency_us}
    return msgspec.structs.replace(middle, latency_us=latency_us)
