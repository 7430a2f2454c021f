"""`rafttoy sweep`: a grid of cells, in parallel, resumable."""

from __future__ import annotations

import time
from pathlib import Path

import click

from rafttoy.analysis.models import DEFAULT_MODEL, open_model
from rafttoy.analysis.plans import brief
from rafttoy.analysis.sweep import sweep
from rafttoy.analysis.whatif import apply_settings
from rafttoy.cell import Cell, Plan
from rafttoy.cli.config import rank
from rafttoy.cli.console import Rows, check_verified, note, note_host, progress, tell_foreign
from rafttoy.cli.options import FORMATS, Request, grid_options, model_option, option, set_option
from rafttoy.cli.types import COUNT
from rafttoy.sim.model import Model


@click.command(
    short_help="Run a grid of cells, in parallel, resumable.",
    epilog="""\b
Examples:
  rafttoy sweep --pipeline basic,async-storage --conc 1,4,16,64,256,1024,4096 --into sweep.jsonl
  rafttoy sweep --bytes 64,256,1024,4096 --nodes 3,5,7 --set disk.sync_us=50 -o csv
  rafttoy sweep --world real --wal file,etcd --conc 1,16,256 --into real.jsonl
  rafttoy sweep --conc 1,16,256 --dask tcp://10.0.0.1:8786""",
)
@grid_options(*FORMATS)
@option("--world", type=click.Choice(["sim", "real"]), default="sim", help="Predict the cells, or measure them.")
@model_option(DEFAULT_MODEL, "What simulated runs are charged: a shipped model, a file, or hardware=NAME,software=NAME.")
@set_option
@option(
    "--into",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Keep results here, a JSON line each; skip those that it has.",
)
@option("--workers", type=COUNT, metavar="N", help="Processes that simulate; without it, one a core.")
@option("--dask", metavar="ADDRESS", help="Run on the workers of this Dask cluster instead.")
def command(
    request: Request, world: str, model: str, set: tuple[str, ...], into: Path | None, workers: int | None, dask: str | None
) -> None:
    """Run every cell of the grid, in the model unless --world real, and print a row for each in the order of the grid.

    Simulated cells run in parallel, each for so many rounds that throughput is told to within about one percent, unless
    --duration or --proposals say how long. Real ones run one after another on this host. With --into, a sweep that was
    interrupted goes on where it ended; cells that fail are told of at the end, and tried again the next time. On a Dask
    cluster (`pip install 'rafttoy[dask]'`) workers need rafttoy installed, and to measure, one thread each.
    """
    ctx = click.get_current_context()
    if dask is not None and workers is not None:
        raise click.UsageError("--dask and --workers exclude each other: give one of them")
    charged: Model | None = None
    if world == "sim":
        charged = apply_settings(open_model(model), set)
        if rank(ctx, "model"):
            tell_foreign(charged)
    as_given = world == "real" or any(rank(ctx, name) for name in ("duration", "proposals"))

    def plan(cell: Cell) -> Plan:
        return request.plan if as_given or charged is None else brief(cell, request.plan, charged)

    note(f"seed {request.plan.seed}")
    if world == "real":
        note_host(request.plan)
    begun = time.monotonic()
    ran = 0
    with Rows(request.output, [world], request.cells, metrics=request.metrics) as rows, progress("sweeping") as moving:

        def count(_: object) -> None:
            nonlocal ran
            ran += 1

        for result in sweep(
            world,
            request.cells,
            plan,
            count=request.count,
            model=charged,
            into=into,
            workers=workers or 0,
            dask=dask,
            data_dir=request.data_dir,
            flags=request.flags,
            on_result=count,
            progress=moving,
            say=note,
        ):
            rows.add(result)
    skipped = len(rows.results) - ran
    note(f"{ran} runs in {time.monotonic() - begun:.1f} s" + (f", {skipped} found in {into}" if skipped else ""))
    check_verified(rows.results)
