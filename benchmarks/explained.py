"""Whether what the model names as binding does bind: the resource is changed for real, and the ceiling must move as predicted.

    python benchmarks/explained.py --into explained.jsonl

Three resources, each with a change that this host can make: the disk (a log in memory, or one with half the delay), the processor (all
peers on one core), the transport (tcp for grpc). The cell is measured with and without the change in interleaved rounds, and
simulated with and without it; what is compared is by how much the throughput moved. Each round begins with training cells, on which a
model is calibrated unless `--model` names one (none of them is a cell that it is asked about): a host that was faster in three rounds of
five had the model 16 % off. Ends with status 1 if a prediction is further off than `--max-error`. It wants a quiet host, for ten minutes.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import click
import msgspec
from rich import box
from rich.table import Table

from benchmarks.accuracy import is_missing, keep, model_of
from rafttoy.analysis.calibrate import measure_round
from rafttoy.analysis.explain import simulate
from rafttoy.analysis.formats import human_count
from rafttoy.analysis.plans import brief
from rafttoy.analysis.whatif import apply_settings
from rafttoy.cell import Cell, Plan
from rafttoy.cli.console import note, print_table, progress, run_script
from rafttoy.cli.types import COUNT, DURATION, PERCENT
from rafttoy.errors import CheckFailed
from rafttoy.experiment import Result, run_grid
from rafttoy.sim.model import Model

ONE_CORE = ((0,), (0,), (0,))
ROUNDS = 2000


class Change(NamedTuple):
    """A cell, and what is changed: another cell, or the processors (`settings` are the same change to the model)."""

    resource: str
    what: str
    before: Cell
    after: Cell
    cpus: tuple[tuple[int, ...], ...] | None = None
    settings: tuple[str, ...] = ()


def _change(resource: str, what: str, cell: Cell, **fields: str) -> Change:
    return Change(resource, what, cell, msgspec.structs.replace(cell, **fields))


MEMORY = Cell(wal="mem", engine="mem", transport="tcp", conc=1024)
CHANGES = [
    _change("disk", "a log in memory", Cell(pipeline="basic", wal="file", engine="mem", transport="tcp", conc=16), wal="mem"),
    _change("disk", "a log in memory", Cell(wal="file", engine="mem", transport="tcp", conc=128), wal="mem"),
    _change("disk", "half the delay", Cell(pipeline="basic", wal="mem:2ms", engine="mem", transport="tcp", conc=128), wal="mem:1ms"),
    Change("cores", "one core", MEMORY, MEMORY, ONE_CORE, ("cores=1",)),
    _change("network", "tcp for grpc", msgspec.structs.replace(MEMORY, transport="grpc"), transport="tcp"),
    _change("network", "tcp for grpc", msgspec.structs.replace(MEMORY, transport="grpc", conc=128), transport="tcp"),
]
SMALL = [_change("disk", "half the delay", Cell(pipeline="basic", wal="mem:20ms", engine="mem", transport="tcp", conc=4), wal="mem:10ms")]


class Finding(msgspec.Struct, frozen=True):
    """`moved` and `predicted` are throughput after over throughput before: the median of rounds, and simulated."""

    resource: str
    what: str
    cell: str
    binding: str
    before: list[float]
    after: list[float]
    moved: float
    predicted: float

    @property
    def error_pct(self) -> float:
        return 100 * (self.predicted / self.moved - 1)


def measure(change: Change, plan: Plan, data_dir: Path | None) -> tuple[float, float]:
    """Throughput of one round, without the change and with it."""
    rates = {}
    for changed in (False, True) if plan.seed % 2 else (True, False):
        cell, cpus = (change.after, change.cpus) if changed else (change.before, None)
        (result,) = run_grid("real", [cell], plan, data_dir=data_dir, cpus=cpus, say=note)
        rates[changed] = result.ops_per_s
    return rates[False], rates[True]


def predict(change: Change, model: Model) -> tuple[Result, float]:
    """(the cell as it is, by how much the change moves it)."""
    changed = apply_settings(model, change.settings)
    before = simulate(change.before, brief(change.before, Plan(), model, ROUNDS), model)
    after = simulate(change.after, brief(change.after, Plan(), changed, ROUNDS), changed)
    return before, after.ops_per_s / before.ops_per_s


def find(change: Change, model: Model, rates: Sequence[tuple[float, float]]) -> Finding:
    result, predicted = predict(change, model)
    before, after = ([pair[i] for pair in rates] for i in range(2))
    return Finding(
        resource=change.resource,
        what=change.what,
        cell=str(change.before),
        binding=result.binding,
        before=before,
        after=after,
        moved=statistics.median(after) / statistics.median(before),
        predicted=predicted,
    )


def table(findings: Sequence[Finding]) -> Table:
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("change", "cell", "binds, by the model"):
        out.add_column(heading)
    for heading in ("before", "after", "moved", "predicted", "off by"):
        out.add_column(heading, justify="right", no_wrap=True)
    for found in findings:
        out.add_row(
            f"{found.resource}: {found.what}",
            found.cell,
            found.binding,
            human_count(statistics.median(found.before)),
            human_count(statistics.median(found.after)),
            f"{found.moved:.2f}x",
            f"{found.predicted:.2f}x",
            f"{found.error_pct:+.0f} %",
        )
    return out


@click.command(context_settings={"show_default": True})
@click.option("--into", type=click.Path(path_type=Path, dir_okay=False), default="explained.jsonl", help="Findings, a line each.")
@click.option("--model", type=click.Path(path_type=Path, dir_okay=False), help="Without it INTO with .toml, made if missing.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where logs and stores go.")
@click.option("--rounds", type=COUNT, default=5)
@click.option("--duration", type=DURATION, default="2s")
@click.option("--warmup", type=DURATION, default="1s")
@click.option("--max-error", type=PERCENT, default=15.0, help="Status 1 if a prediction is further off.")
@click.option("--small", is_flag=True, help="One change.")
def main(
    into: Path, model: Path | None, data_dir: Path | None, rounds: int, duration: float, warmup: float, max_error: float, small: bool
) -> None:
    """Change what binds, and see."""
    changes = SMALL if small else CHANGES
    plan = Plan(seconds=duration, warmup_seconds=warmup)
    cells = list(dict.fromkeys(cell for change in changes for cell in (change.before, change.after)))
    training, charged = into.with_suffix(".training.jsonl"), model or into.with_suffix(".toml")
    rates: list[list[tuple[float, float]]] = [[] for _ in changes]
    for seed in range(1, rounds + 1):
        seeded = msgspec.structs.replace(plan, seed=seed)
        if not charged.exists() and is_missing(training, seed):
            with progress(f"calibrating, round {seed}") as moving:
                keep(measure_round(cells, seeded, moving, data_dir), training)
        with progress(f"measuring, round {seed}") as moving:
            for i, change in enumerate(changes):
                moving(f"{change.resource}: {change.what}", i / len(changes))
                rates[i].append(measure(change, seeded, data_dir))
    trusted = model_of(training, charged)
    findings = [find(change, trusted, pairs) for change, pairs in zip(changes, rates, strict=True)]
    into.write_bytes(b"".join(msgspec.json.encode(found) + b"\n" for found in findings))
    print_table(table(findings))
    if off := [found for found in findings if abs(found.error_pct) > max_error]:
        raise CheckFailed(", ".join(f"{found.resource} ({found.what}): {found.error_pct:+.0f} %" for found in off))


if __name__ == "__main__":
    run_script(main)
