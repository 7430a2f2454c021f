"""How well predictions hold on cells that no fit has seen: one command, from calibration to a line in the ledger.

    python benchmarks/accuracy.py --into accuracy.jsonl

Runs rounds: in each, the training cells of a calibration, then every test cell once. A model of this host is fitted to the training
cells of all rounds, and predicts the test cells; printed are errors of throughput, p50 and p99 (of medians), the worst cell, how many
pairs of pipelines stand in the right order, and the noise. Training alternates with testing for the reason that the two sides of
`versus.py` do: a shared host is a third faster or slower ten minutes later, and a calibration that was all done before would be of another
host. No fit sees a test cell: the two lists are printed and disjoint. Interrupted, it goes on where it ended. It wants a quiet host and
takes about half an hour; `--small` is its own test.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from rafttoy.analysis import formats, ledger
from rafttoy.analysis.calibrate import Round, calibration_of, measure_round, training_cells
from rafttoy.analysis.compare import Comparison, compare
from rafttoy.analysis.compare_text import detail_tables, verdict
from rafttoy.analysis.html import page
from rafttoy.analysis.interval import prediction_interval
from rafttoy.analysis.models import dump_model, open_model
from rafttoy.analysis.sweep import sweep
from rafttoy.cell import Cell, Plan
from rafttoy.cli.console import note, print_table, progress, run_script
from rafttoy.cli.types import COUNT, DURATION
from rafttoy.experiment import Result
from rafttoy.pipeline import PIPELINES
from rafttoy.sim.model import Model

ROOT = Path(__file__).resolve().parents[1]
SHARES = (0.3, 0.6, 0.9)
"""Of what a closed loop of `SATURATED` reaches: the rates of the open loops."""

SATURATED = 1024
Storage = tuple[str, str, str]
FILE: Storage = ("split", "file", "leveldb")
MEMORY: Storage = ("split", "mem", "mem")
COMBINED: Storage = ("leveldb", "leveldb", "leveldb")
ETCD: Storage = ("split", "etcd", "mem")


def cells_of(pipelines: Sequence[str], storage: Storage, transport: str, loads: Sequence[int], sizes: Sequence[int] = (256,)) -> list[Cell]:
    kind, wal, engine = storage
    return [
        Cell(pipeline=pipeline, storage=kind, wal=wal, engine=engine, transport=transport, conc=conc, bytes=size)
        for pipeline in pipelines
        for conc in loads
        for size in sizes
    ]


CLOSED = [
    *cells_of(list(PIPELINES), FILE, "tcp", (1, 16, 128, SATURATED)),
    *cells_of(("basic", "parallel-append", "async-storage"), FILE, "grpc", (1, 64, 4096)),
    *cells_of(("parallel-append", "async-apply-early-ack-lazy-follower"), MEMORY, "tcp", (1, 128, 4096)),
    *cells_of(("parallel-append",), MEMORY, "grpc", (16, SATURATED)),
    *cells_of(("basic", "async-apply"), COMBINED, "tcp", (8, 512)),
    *cells_of(("parallel-append", "async-storage"), ETCD, "tcp", (1, 128)),
    *cells_of(("parallel-append",), FILE, "tcp", (64,), (64, 1024, 4096)),
]
OPEN = ("parallel-append", "async-storage")
"""Pipelines of the open loops, over tcp on `FILE`."""

SMALL = cells_of(("basic", "async-storage"), MEMORY, "tcp", (4, SATURATED))


def open_loops(measured: Sequence[Result], cells: Sequence[Cell]) -> list[Cell]:
    """At shares of the throughput that the same configuration reached in a closed loop, in two digits: the first round says it, so that a
    resumed run asks for the same."""
    reached = {result.cell(): result.ops_per_s for result in reversed(measured)}
    loops = []
    for cell in cells:
        for share in SHARES:
            rate = float(f"{share * reached[cell]:.2g}")
            loops.append(msgspec.structs.replace(cell, conc=0, rate=rate))
    return loops


def measure(cells: Sequence[Cell], plan: Plan, seed: int, into: Path, data_dir: Path | None) -> list[Result]:
    with progress(f"measuring, round {seed}") as moving:
        seeded = msgspec.structs.replace(plan, seed=seed)
        return sweep("real", cells, lambda cell: seeded, into=into, data_dir=data_dir, progress=moving, say=note)


def train(cells: Sequence[Cell], plan: Plan, seed: int, into: Path, data_dir: Path | None) -> None:
    """A round of the calibration, appended to `into` unless it is there."""
    if not into.exists() or len(into.read_bytes().splitlines()) < seed:
        with progress(f"calibrating, round {seed}") as moving:
            found = measure_round(cells, msgspec.structs.replace(plan, seed=seed), moving, data_dir)
        with into.open("ab") as file:
            file.write(msgspec.json.encode(found) + b"\n")


def model_of(training: Path, path: Path) -> Model:
    """The model in `path`, or one that is fitted now to the rounds in `training`, and written there."""
    if not path.exists():
        rounds = [msgspec.json.decode(line, type=Round) for line in training.read_bytes().splitlines()]
        path.write_text(dump_model(calibration_of(rounds).model), encoding="utf-8")
    return open_model(str(path))


def predict(cells: Sequence[Cell], plan: Plan, model: Model) -> list[Result]:
    """By runs as long as the measured ones: a store that flushes in its third second does so in both worlds."""
    with progress("predicting") as moving:
        found = sweep("sim", cells, lambda cell: plan, model=model, progress=moving, say=note)
    for result in found:
        result.interval = prediction_interval(result, plan, model)
    return found


def report(comparison: Comparison, training: Sequence[Cell], tested: Sequence[Cell]) -> None:
    for title, cells in (("training", training), ("test", tested)):
        click.echo(f"{title} cells ({len(cells)}):")
        for cell in cells:
            click.echo(f"  {cell}")
    click.echo()
    print_table(formats.comparison_table(comparison))
    for table in detail_tables(comparison.pairs):
        click.echo()
        print_table(table)
    click.echo(f"\n{comparison.summary()}\n{verdict(comparison.pairs)}")


@click.command(context_settings={"show_default": True})
@click.option("--into", type=click.Path(path_type=Path, dir_okay=False), default="accuracy.jsonl", help="Measurements, kept as they come.")
@click.option(
    "--model", type=click.Path(path_type=Path, dir_okay=False), help="Model to judge; without it INTO with .toml, made if missing."
)
@click.option(
    "--ledger",
    "book",
    type=click.Path(path_type=Path, dir_okay=False),
    default=str(ROOT / "models/ledger.jsonl"),
    help="Where a line is added.",
)
@click.option("--html", type=click.Path(path_type=Path, dir_okay=False), help="Write the page as well.")
@click.option("--data-dir", type=click.Path(path_type=Path), help="Where logs and stores go.")
@click.option("--repeats", type=COUNT, default=3, help="Runs of every cell.")
@click.option("--duration", type=DURATION, default="2s")
@click.option("--warmup", type=DURATION, default="1s")
@click.option("--list", "listed", is_flag=True, help="Print the closed-loop test cells and the training cells, and run nothing.")
@click.option("--small", is_flag=True, help="A handful of cells.")
def main(
    into: Path,
    model: Path | None,
    book: Path,
    html: Path | None,
    data_dir: Path | None,
    repeats: int,
    duration: float,
    warmup: float,
    listed: bool,
    small: bool,
) -> None:
    """Judge predictions on this host."""
    closed = SMALL if small else CLOSED
    saturated = [cell for cell in closed if cell.conc == SATURATED and cell.pipeline in OPEN and cell.transport == "tcp"]
    training = [cell for group in training_cells(closed) for cell in group]
    assert not set(training) & set(closed), "a cell that is fitted on cannot judge"
    if listed:
        for title, cells in (("training", training), ("test", closed)):
            for cell in cells:
                click.echo(f"{title} {cell}")
        return
    plan = Plan(seconds=duration, warmup_seconds=warmup)
    rounds, charged = into.with_suffix(".training.jsonl"), model or into.with_suffix(".toml")
    tested, real = closed, []
    for seed in range(1, repeats + 1):
        if not charged.exists():
            train(closed, plan, seed, rounds, data_dir)
        if seed == 1:
            tested = [*closed, *open_loops(measure(closed, plan, seed, into, data_dir), saturated)]
        real += measure(tested, plan, seed, into, data_dir)
    trusted = model_of(rounds, charged)
    comparison = compare(real, predict(tested, plan, trusted))
    report(comparison, training, tested)
    if html is not None:
        html.write_text(page("rafttoy: accuracy on unseen cells", comparison.rows), encoding="utf-8")
    today = dt.datetime.now(dt.UTC).date().isoformat()
    ledger.append(book, ledger.entry_of(comparison, date=today, model=trusted.meta.name))
    entries = ledger.read(book)
    click.echo(f"ledger: {entries[-1]}")
    if said := ledger.drift(entries):
        click.echo(f"ledger: {said}")


if __name__ == "__main__":
    run_script(main)
