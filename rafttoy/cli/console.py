"""What a user sees: data on stdout; seed, progress, notes and errors on stderr."""

from __future__ import annotations

import io
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any, Self

import click
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from rafttoy import experiment
from rafttoy.analysis import formats
from rafttoy.analysis.manifest import host, is_optimized
from rafttoy.analysis.models import foreign
from rafttoy.cell import Cell, Plan
from rafttoy.errors import CheckFailed, RafttoyError
from rafttoy.experiment import Result
from rafttoy.sim.model import Model
from rafttoy.worlds import SyncReport, why_asleep

__all__ = [
    "Rows",
    "check_verified",
    "note",
    "print_metrics",
    "print_table",
    "progress",
    "run_script",
    "tell_doubts",
    "tell_foreign",
    "tell_warnings",
]

_WIDE = 1000  # columns of a table that is not shown but kept: no line is folded


def note(text: str) -> None:
    """One line on stderr."""
    click.echo(f"rafttoy: {text}", err=True)


def note_host(plan: Plan) -> None:
    """What makes real runs here slower than they need be, before there are any."""
    if not is_optimized():
        note("this Python was built without --enable-optimizations; a distribution's, which is built with them, is up to 1.4 times as fast")
    if plan.idle == "poll" and (why := why_asleep()):
        note(f"idle processors sleep, and each message has to wake them: {why} (--idle sleep, to have it so)")


def print_table(table: Table) -> None:
    if sys.stdout.isatty():
        Console(file=sys.stdout, highlight=False).print(table)
        return
    kept = io.StringIO()
    Console(file=kept, width=_WIDE, highlight=False, no_color=True).print(table)
    click.echo("\n".join(line.rstrip() for line in kept.getvalue().splitlines()))


def print_metrics(results: Sequence[Result]) -> None:
    for result in results:
        print_table(formats.metrics_table(f"{result.world}: {result.cell()}", result.metrics))


def tell_warnings(result: Result) -> None:
    for warning in result.warnings:
        note(f"{result.world} {result.cell()}: {warning}")


def tell_foreign(model: Model) -> None:
    """That a model is of another host, if it is."""
    if text := foreign(model):
        note(text)


def tell_doubts(report: SyncReport) -> None:
    """What is not plausible about a device's syncs, if anything is."""
    for doubt in report.doubts:
        note(f"{report.directory}: {doubt}")


@contextmanager
def progress(title: str) -> Generator[experiment.Progress]:
    """A bar on stderr while the block runs; nothing where stderr is not a terminal."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[what]}"), TimeElapsedColumn())
    with Progress(
        *columns,
        console=console,
        transient=True,
        disable=not console.is_terminal,
        redirect_stdout=sys.stdout.isatty(),  # rows pass above the bar on a terminal; elsewhere stdout stays what it is
    ) as bar:
        task = bar.add_task(title, total=1.0, what="")
        yield lambda what, share: bar.update(task, completed=share, what=what)


class Rows:
    """Results on stdout: rows as they come, a table once the block ends, however it ends."""

    def __init__(self, output: str, worlds: Sequence[str], cells: Sequence[Cell], *, metrics: bool = False) -> None:
        self.results: list[Result] = []
        self._output = output
        self._metrics = metrics
        self._parts = formats.name_parts(worlds, cells)
        self._begun = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._output == "table" and self.results:
            print_table(formats.results_table(self.results))
        if self._metrics and self._output != "json":
            print_metrics(self.results)

    def add(self, result: Result) -> None:
        self.results.append(result)
        tell_warnings(result)
        if self._output == "json":
            click.echo(formats.json_line(result))
        elif self._output == "csv":
            self._lines(formats.csv_header(), formats.csv_row(result))
        elif self._output == "gobench":
            about: dict[str, Any] = host()
            self._lines(formats.gobench_header(about), formats.gobench_line(result, self._parts, about["cores"]))

    def _lines(self, header: str, line: str) -> None:
        if not self._begun:
            self._begun = True
            click.echo(header)
        click.echo(line)


def check_verified(results: Sequence[Result]) -> None:
    """CheckFailed naming the first cell whose replicas do not hold what was acknowledged."""
    wrong = [result for result in results if result.verified is False]
    if wrong:
        raise CheckFailed(f"--verify: {len(wrong)} of {len(results)} runs failed; first: {wrong[0].world} {wrong[0].cell()}")


def run_script(command: click.Command) -> None:
    """Runs a script's command. What its user can mend is a line on stderr and an exit status, as `rafttoy` has them."""
    try:
        command()
    except RafttoyError as error:
        note(f"error: {error}")
        sys.exit(error.exit_status)
