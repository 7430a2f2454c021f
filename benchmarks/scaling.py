"""How cost grows with the work: throughput against payload, cluster size and concurrency, and what binds each.

    python benchmarks/scaling.py --into scaling.jsonl
    python benchmarks/scaling.py --pipeline basic,async-storage --wal file --engine leveldb --axis conc

Takes the flags of `rafttoy bench`, with other defaults. Of each cell that they mean, a table an axis in Markdown: along it one field
changes, the others stay. Of repeats (`--count`) the run of median throughput is shown. With `--into` the results are kept as they come,
and an interrupted run goes on where it ended. It wants a quiet host and takes about four minutes a cell; `--small` is its own test.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import click
import msgspec

from rafttoy.analysis.formats import human_count, human_us
from rafttoy.analysis.sweep import sweep
from rafttoy.cell import Cell
from rafttoy.cli.console import note, progress, run_script
from rafttoy.cli.options import Request, grid_options
from rafttoy.errors import ConfigError
from rafttoy.experiment import Result

AXES: dict[str, tuple[int, ...]] = {
    "bytes": (16, 64, 256, 1024, 4096, 16384, 65536),
    "nodes": (1, 3, 5, 7),
    "conc": tuple(4**i for i in range(8)),
}
SMALL: dict[str, tuple[int, ...]] = {"bytes": (16, 4096), "nodes": (1, 3), "conc": (1, 64)}
DEFAULTS = {"wal": "mem", "engine": "mem", "transport": "tcp", "count": "3"}
HEADINGS = ("ops/s", "min…max", "MB/s", "p50", "p99", "batch", "CPU µs an op", "binds", "of harness")


def cells_of(base: Cell, axis: str, values: Sequence[int]) -> list[Cell]:
    return [msgspec.structs.replace(base, **{axis: value}) for value in values]


def row(axis: str, runs: Sequence[Result]) -> list[str]:
    """Of all runs of one cell."""
    rates = sorted(run.ops_per_s for run in runs)
    run = sorted(runs, key=lambda run: run.ops_per_s)[(len(runs) - 1) // 2]
    busy = f" {run.utilisation[run.binding]:.0%}" if run.binding in run.utilisation else ""
    return [
        str(getattr(run, axis)),
        human_count(run.ops_per_s),
        f"{human_count(rates[0])}…{human_count(rates[-1])}",
        f"{run.mb_per_s:.1f}",
        human_us(run.latency_us["p50"]),
        human_us(run.latency_us["p99"]),
        f"{run.batch['mean']:.1f}",
        f"{run.cpu_us_per_op['total']:.1f}" if run.cpu_us_per_op else "",
        run.binding + busy,
        f"{run.ops_per_s / run.harness_ops_per_s:.0%}" if run.harness_ops_per_s else "",
    ]


def table(axis: str, base: Cell, results: Sequence[Result]) -> str:
    """In Markdown, below a line that says what stays the same."""
    by_cell: dict[Cell, list[Result]] = {}
    for result in results:
        by_cell.setdefault(result.cell(), []).append(result)
    fixed = {"bytes": f"{base.bytes} B", "nodes": f"{base.nodes} nodes", "conc": base.load_name()}
    same = [base.pipeline, base.storage_name(), base.transport, *(text for name, text in fixed.items() if name != axis)]
    lines = [f"{axis}: {', '.join(same)}", ""]
    body = [[axis, *HEADINGS], ["---:"] * (1 + len(HEADINGS)), *(row(axis, runs) for runs in by_cell.values())]
    return "\n".join([*lines, *(f"| {' | '.join(cells)} |" for cells in body)])


@click.command(context_settings={"default_map": DEFAULTS})
@grid_options("markdown")
@click.option("--axis", "axes", multiple=True, type=click.Choice(list(AXES)), default=list(AXES), help="Along what.  [default: all]")
@click.option("--into", type=click.Path(path_type=Path, dir_okay=False), help="Results are kept here, and not measured again.")
@click.option("--small", is_flag=True, help="Two values an axis.")
def main(request: Request, axes: Sequence[str], into: Path | None, small: bool) -> None:
    """Measure along each axis, and print a table of each."""
    if "conc" in axes and any(cell.rate for cell in request.cells):
        raise ConfigError("an open loop has no concurrency to vary: --axis bytes --axis nodes")
    told = False
    for base in request.cells:
        for axis in axes:
            cells = cells_of(base, axis, (SMALL if small else AXES)[axis])
            with progress(axis) as moving:
                results = sweep(
                    "real",
                    cells,
                    lambda cell: request.plan,
                    count=request.count,
                    into=into,
                    data_dir=request.data_dir,
                    flags=request.flags,
                    progress=moving,
                    say=note,
                )
            if not told:
                told = True
                click.echo(title(results[0]))
            click.echo(f"\n{table(axis, base, results)}")


def title(result: Result) -> str:
    made, host = result.manifest, result.manifest["host"]
    return f"rafttoy {made['versions']['rafttoy']} {made['commit']}, {host['cores']} cores of {host['cpu']}, sync {result.sync}"


if __name__ == "__main__":
    run_script(main)
