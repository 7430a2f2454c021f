"""How long the model takes over a large grid, against measuring it, and how much a short run leaves to chance.

    python benchmarks/sweep_speed.py

Three figures: seconds of a simulated sweep of 7 pipelines by 4 storages by 13 concurrencies; how many times longer measuring the same
cells takes (from a sample of them, measured as `rafttoy bench` does by default); and the spread over seeds of a cell of that sweep, in
throughput and p99. Ends with status 1 if the sweep takes more than `--most` seconds, or measuring is less than `--times` slower.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Sequence

import click
import msgspec

from rafttoy.analysis.models import DEFAULT_MODEL, open_model
from rafttoy.analysis.plans import ROUNDS, brief
from rafttoy.analysis.sweep import sweep
from rafttoy.cell import Cell, Plan
from rafttoy.cli.console import note, progress, run_script
from rafttoy.cli.types import COUNT
from rafttoy.errors import CheckFailed
from rafttoy.experiment import run_grid
from rafttoy.pipeline import PIPELINES
from rafttoy.sim.model import Model

STORAGES = (("split", "mem", "mem"), ("split", "file", "mem"), ("split", "file", "leveldb"), ("leveldb", "leveldb", "leveldb"))
LOADS = tuple(1 << i for i in range(13))
LONG_ROUNDS = 3000
SEEDS = 10


def grid(pipelines: Sequence[str], loads: Sequence[int]) -> list[Cell]:
    return [
        Cell(pipeline=pipeline, storage=storage, wal=wal, engine=engine, transport="tcp", conc=conc)
        for pipeline in pipelines
        for storage, wal, engine in STORAGES
        for conc in loads
    ]


def simulated_seconds(cells: Sequence[Cell], model: Model, workers: int) -> float:
    begun = time.monotonic()
    with progress("simulating") as moving:
        sweep("sim", cells, lambda cell: brief(cell, Plan(), model), model=model, workers=workers, progress=moving)
    return time.monotonic() - begun


def measured_seconds(cells: Sequence[Cell], sample: int) -> float:
    """Of all cells, from every so-manieth one."""
    chosen = cells[:: max(1, len(cells) // sample)][:sample]
    begun = time.monotonic()
    with progress("measuring") as moving:
        run_grid("real", chosen, Plan(), progress=moving, say=note)
    return (time.monotonic() - begun) / len(chosen) * len(cells)


def spread_pct(cell: Cell, model: Model) -> tuple[float, float]:
    """(throughput, p99): root mean square over seeds of the difference from a long run, in percent."""
    long = run_grid("sim", [cell], brief(cell, Plan(seed=SEEDS + 1), model, LONG_ROUNDS), model=model)[0]
    short = run_grid("sim", [cell], brief(cell, Plan(), model), count=SEEDS, model=model)
    pairs = [(run.ops_per_s / long.ops_per_s - 1, run.latency_us["p99"] / long.latency_us["p99"] - 1) for run in short]
    rates, tails = zip(*pairs, strict=True)
    return _rms_pct(rates), _rms_pct(tails)


def _rms_pct(values: Sequence[float]) -> float:
    return 100 * math.sqrt(statistics.fmean(value * value for value in values))


@click.command(context_settings={"show_default": True})
@click.option("--model", default=DEFAULT_MODEL)
@click.option("--workers", type=COUNT, default=2)
@click.option("--sample", type=click.IntRange(min=0), default=8, help="Cells to measure; 0: none.")
@click.option("--most", type=float, default=90.0, help="Seconds that the sweep may take.")
@click.option("--times", type=float, default=20.0, help="How much slower measuring must be.")
@click.option("--small", is_flag=True, help="Two pipelines at three concurrencies.")
def main(model: str, workers: int, sample: int, most: float, times: float, small: bool) -> None:
    """Time a sweep."""
    charged = open_model(model)
    cells = grid(("basic", "async-storage"), LOADS[::6]) if small else grid(list(PIPELINES), LOADS)
    seconds = simulated_seconds(cells, charged, workers)
    figures: dict[str, object] = {"cells": len(cells), "rounds": ROUNDS, "workers": workers, "sim_seconds": round(seconds, 1)}
    real = measured_seconds(cells, sample) if sample else 0.0
    if sample:
        figures |= {"real_seconds": round(real), "times_faster": round(real / seconds, 1)}
    for conc in (1, 128):
        rate, tail = spread_pct(Cell(transport="tcp", conc=conc), charged)
        figures[f"spread_pct conc={conc}"] = {"ops_per_s": round(rate, 2), "p99": round(tail, 1)}
    click.echo(msgspec.json.encode(figures))
    if seconds > most:
        raise CheckFailed(f"the sweep took {seconds:.1f} s, more than {most:g}")
    if sample and real < times * seconds:
        raise CheckFailed(f"measuring takes {real / seconds:.1f} times as long, less than {times:g}")


if __name__ == "__main__":
    run_script(main)
