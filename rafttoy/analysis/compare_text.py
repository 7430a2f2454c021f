"""What stands behind a comparison, for a person to read."""

from __future__ import annotations

from collections.abc import Sequence

from rich import box
from rich.table import Table

from rafttoy.analysis.accuracy import latency_mape_pct, noise_text, rank_agreement, residuals, same_but_pipeline
from rafttoy.analysis.compare import Pair
from rafttoy.analysis.formats import human_count, human_us
from rafttoy.experiment import Result

__all__ = ["detail_tables", "verdict"]


def verdict(pairs: Sequence[Pair]) -> str:
    """Errors of latencies, order, noise; one line."""
    parts = [f"MAPE of p50 {latency_mape_pct(pairs, 'p50'):.1f} %, of p99 {latency_mape_pct(pairs, 'p99'):.1f} %"]
    ordered, pipelines = rank_agreement(pairs), rank_agreement(pairs, same_but_pipeline)
    if ordered.total:
        parts.append(f"{ordered} pairs of cells in the measured order")
    if pipelines.total:
        parts.append(f"{pipelines} pairs of pipelines")
    parts.append(f"noise {noise_text(pairs)}")
    return "; ".join(parts)


def detail_tables(pairs: Sequence[Pair]) -> list[Table]:
    """Each cell's batches, interval and resources; CPU time by stage over all cells."""
    return [_cells(pairs), _resources(pairs), _stages(pairs)]


def _table(title: str, *columns: str) -> Table:
    table = Table(title=title, title_justify="left", title_style="", box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for i, column in enumerate(columns):
        table.add_column(column, justify="right" if i else "left", no_wrap=True)
    return table


def _cells(pairs: Sequence[Pair]) -> Table:
    table = _table(
        "measured / predicted", "cell", "ops/s", "nine in ten within", "mean latency", "batch", "ceiling latency", "ceiling binds"
    )
    for pair in pairs:
        sides = (pair.measured, pair.predicted)
        interval, bound = pair.predicted.interval, pair.predicted.ceiling
        low, high = interval["ops_per_s"] if interval is not None else (0.0, 0.0)
        table.add_row(
            str(pair.cell),
            " / ".join(human_count(side.ops_per_s) for side in sides),
            f"{human_count(low)} to {human_count(high)}" if interval is not None else "",
            " / ".join(human_us(side.latency_us["mean"]) for side in sides),
            " / ".join(f"{side.batch['mean']:.1f}" for side in sides),
            human_us(bound.latency_us) if bound is not None and bound.latency_us is not None else "",
            bound.binding if bound is not None else "",
        )
    return table


def _resources(pairs: Sequence[Pair]) -> Table:
    names = list(dict.fromkeys(name for pair in pairs for side in (pair.measured, pair.predicted) for name in side.utilisation))
    table = _table("how busy, measured / predicted", "cell", *names)
    for pair in pairs:
        table.add_row(str(pair.cell), *(f"{_share(pair.measured, name)} / {_share(pair.predicted, name)}" for name in names))
    return table


def _share(result: Result, name: str) -> str:
    return f"{100 * result.utilisation[name]:.0f} %" if name in result.utilisation else "-"


def _stages(pairs: Sequence[Pair]) -> Table:
    table = _table("CPU time of stages, over all cells", "stage", "of all", "measured µs a proposal", "predicted", "error")
    for row in residuals(pairs):
        table.add_row(row.stage, f"{row.share_pct:.1f} %", f"{row.measured_us:.3f}", f"{row.predicted_us:.3f}", f"{row.error_pct:+.0f} %")
    return table
