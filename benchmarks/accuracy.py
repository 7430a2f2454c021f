"""How well predictions hold on cells that no fit has seen: one command, from calibration to a line in the ledger.

    python benchmarks/accuracy.py --into accuracy.jsonl

Runs rounds: in each, for every group of cells (a storage over a transport) its training cells, then a dozen of its test cells once, then
its training cells again, and so on, to the training cells a last time; each round has an order of its own, so that no cell always follows
the same one (what a run wrote is on its way to the device when the next begins). A model of this host is fitted to the training cells of
all rounds, and predicts the test cells; printed are errors of throughput, p50 and p99 (of the medians of their runs), the worst cell, how
many pairs of pipelines stand in the right order, and the noise. Training stands before and after testing for the reason that the two sides
of `versus.py` alternate: a shared host is a third faster or slower a minute later, and a calibration that was all done before would be of
another host. No fit sees a test cell: the two lists are printed and disjoint. Interrupted, it goes on where it ended. It wants a quiet host
and takes about half an hour; `--small` is its own test.
"""

from __future__ import annotations

import datetime as dt
import random
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from rafttoy.analysis import formats, ledger
from rafttoy.analysis.calibrate import Round, calibration_of, measure_group, probe_round, training_cells
from rafttoy.analysis.compare import Comparison, compare
from rafttoy.analysis.compare_text import detail_tables, verdict
from rafttoy.analysis.html import page
from rafttoy.analysis.interval import add_intervals
from rafttoy.analysis.models import dump_model, open_model
from rafttoy.analysis.sweep import read_results, sweep
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

LONG, LONG_FROM_CONC = 2.0, 512
"""Cells of a store with so many in flight, and open loops, run so many times as long: one that has its buffer full in 1.2 s flushes once
or twice in two seconds (69, 71 and 89 thousand a second, one after the other; 78, 82 and 83 in four)."""

TESTS_A_TRAINING = 12
"""Test cells between two runs of the training cells: a minute."""

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


def saturated(cells: Sequence[Cell]) -> list[Cell]:
    return [cell for cell in cells if cell.conc == SATURATED and cell.pipeline in OPEN and cell.transport == "tcp"]


def open_loops(measured: Sequence[Result], cells: Sequence[Cell]) -> list[Cell]:
    """At shares of the throughput that the same configuration reached in a closed loop, in two digits: the first round says it, so that a
    resumed run asks for the same."""
    reached = {result.cell(): result.ops_per_s for result in reversed(measured) if not result.rate}
    loops = []
    for cell in cells:
        for share in SHARES:
            rate = float(f"{share * reached[cell]:.2g}")
            loops.append(msgspec.structs.replace(cell, conc=0, rate=rate))
    return loops


def plan_of(cell: Cell, plan: Plan) -> Plan:
    """How that cell is run, in both worlds."""
    flushes = cell.engine != "mem" and (cell.rate or cell.conc >= LONG_FROM_CONC)
    return msgspec.structs.replace(plan, seconds=LONG * plan.seconds) if flushes else plan


def measure(cells: Sequence[Cell], plan: Plan, into: Path, data_dir: Path | None) -> list[Result]:
    with progress(f"round {plan.seed}, testing") as moving:
        return sweep("real", cells, lambda cell: plan_of(cell, plan), into=into, data_dir=data_dir, progress=moving, say=note)


def is_missing(training: Path, seed: int) -> bool:
    """Whether that round, a line of `training`, is yet to be trained on."""
    return not training.exists() or len(training.read_bytes().splitlines()) < seed


def keep(found: Round, training: Path) -> None:
    with training.open("ab") as file:
        file.write(msgspec.json.encode(found) + b"\n")


def train(found: Round | None, group: Sequence[Cell], plan: Plan, data_dir: Path | None) -> None:
    """Runs a group's training cells, for the round that wants them."""
    if found is not None:
        with progress(f"round {plan.seed}, training") as moving:
            moving(group[0].group_name(), 0.0)
            found.runs.extend(measure_group(group, plan, data_dir))


def run_round(closed: Sequence[Cell], plan: Plan, into: Path, training: Path | None, data_dir: Path | None) -> list[Result]:
    """Of every test cell a result, in `into`; open loops are of the saturated ones among `closed`. What was trained on is a line of
    `training`; nothing is, where that has the round already, or is None."""
    found = probe_round(plan, data_dir) if training is not None and is_missing(training, plan.seed) else None
    results: list[Result] = []
    for group in training_cells(closed):
        own = [cell for cell in closed if cell.group_name() == group[0].group_name()]
        random.Random(plan.seed).shuffle(own)
        for at in range(0, len(own), TESTS_A_TRAINING):
            train(found, group, plan, data_dir)
            results += measure(own[at : at + TESTS_A_TRAINING], plan, into, data_dir)
        results += measure(open_loops(read_results(into), saturated(own)), plan, into, data_dir)
        train(found, group, plan, data_dir)
    if training is not None and found is not None:
        keep(found, training)
    return results


def model_of(training: Path, path: Path) -> Model:
    """The model in `path`, or one that is fitted now to the rounds in `training`, and written there."""
    if not path.exists():
        rounds = [msgspec.json.decode(line, type=Round) for line in training.read_bytes().splitlines()]
        path.write_text(dump_model(calibration_of(rounds).model), encoding="utf-8")
    return open_model(str(path))


def predict(cells: Sequence[Cell], plan: Plan, model: Model, repeats: int) -> list[Result]:
    """By runs as long as the measured ones, and as many: a store that flushes in its third second does so in both worlds."""
    with progress("predicting") as moving:
        found = sweep("sim", cells, lambda cell: plan_of(cell, plan), count=repeats, model=model, progress=moving, say=note)
    with progress("how far off it may be") as moving:
        add_intervals(found, plan, model, moving)
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
    training = [cell for group in training_cells(closed) for cell in group]
    assert not set(training) & set(closed), "a cell that is fitted on cannot judge"
    if listed:
        for title, cells in (("training", training), ("test", closed)):
            for cell in cells:
                click.echo(f"{title} {cell}")
        return
    plan = Plan(seconds=duration, warmup_seconds=warmup)
    rounds, charged = into.with_suffix(".training.jsonl"), model or into.with_suffix(".toml")
    real = []
    for seed in range(1, repeats + 1):
        seeded = msgspec.structs.replace(plan, seed=seed)
        real += run_round(closed, seeded, into, None if charged.exists() else rounds, data_dir)
    tested = list(dict.fromkeys(result.cell() for result in real))
    trusted = model_of(rounds, charged)
    comparison = compare(real, predict(tested, plan, trusted, repeats))
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
