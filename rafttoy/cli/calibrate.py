"""`rafttoy calibrate`: a model of this host."""

from __future__ import annotations

import itertools
import platform
from pathlib import Path

import click
import msgspec
from rich import box
from rich.table import Table

from rafttoy.analysis.calibrate import Calibration, calibrate
from rafttoy.analysis.models import dump_model
from rafttoy.cell import Cell
from rafttoy.cli.config import rank
from rafttoy.cli.console import note, note_host, print_table, progress
from rafttoy.cli.options import Request, grid_options, option
from rafttoy.sim.model import load_model
from rafttoy.worlds import TRANSPORTS

_STORAGES = (("split", "file", "leveldb"), ("split", "mem", "mem"), ("leveldb", "leveldb", "leveldb"))
"""What a model is calibrated for unless flags say: a log in files, none at all, and one store for both."""


@click.command(
    short_help="Measure this host, and write a model of it.",
    epilog="""\b
Examples:
  rafttoy calibrate
  rafttoy calibrate --data-dir /mnt/data1 --transport tcp --wal file,etcd --engine mem,leveldb --into lab.toml""",
)
@grid_options("table", "json")
@option("--into", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="The model's file; without it models/HOST.toml.")
def command(request: Request, into: Path | None) -> None:
    """Run training cells on this host, fit what every step costs, and write the model file that sim, compare, explain and sweep take.

    The flags say what it is for: it is fitted for their transports, storages and sizes, and never on one of their cells, so that
    these can judge it. Without flags: file+leveldb over tcp and grpc, mem+mem and leveldb over tcp, in about a minute. With --count N
    every training cell is run N times: on a host that others use, too, one run is off by more than the fit.
    The table shows each fit with its error: the root mean square over the training runs, in percent of what was measured.
    """
    cells = _wanted(request)
    into = into if into is not None else Path("models") / f"{platform.node()}.toml"
    note(f"seed {request.plan.seed}")
    note_host(request.plan)
    with progress("calibrating") as moving:
        made = calibrate(cells, request.plan, moving, request.data_dir, repeats=request.count)
    into.parent.mkdir(parents=True, exist_ok=True)
    into.write_text(dump_model(made.model), encoding="utf-8")
    load_model(into)  # what is written is what can be read
    if request.output == "json":
        click.echo(msgspec.json.encode({"model": str(into), "fits": made.fits, "calibrated": made.model.calibrated}))
    else:
        print_table(_fits(made))
    note(f"wrote {into}")


def _wanted(request: Request) -> list[Cell]:
    """The cells of the flags; of what they leave open, all that a model is calibrated for."""
    ctx = click.get_current_context()
    cells = request.cells
    storages: list[tuple[str, str, str] | None] = [None] if any(rank(ctx, name) for name in ("wal", "engine", "storage")) else [*_STORAGES]
    transports = [""] if rank(ctx, "transport") else [*TRANSPORTS]
    groups = list(itertools.product(transports, storages))
    if len(transports) > 1 and len(storages) > 1:
        groups = [("grpc", _STORAGES[0]), *(("tcp", storage) for storage in _STORAGES)]
    wanted = []
    for (transport, storage), cell in itertools.product(groups, cells):
        kind, wal, engine = storage or (cell.storage, cell.wal, cell.engine)
        wanted.append(msgspec.structs.replace(cell, transport=transport or cell.transport, storage=kind, wal=wal, engine=engine))
    return list(dict.fromkeys(wanted))


def _fits(made: Calibration) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("of", "cost", "error", "runs", "CPU time"):
        table.add_column(heading, justify="left" if heading in ("of", "cost") else "right", no_wrap=True)
    for fit in sorted(made.fits, key=lambda fit: (fit.part, -fit.share_pct)):
        share = f"{fit.share_pct:.1f} %" if fit.share_pct else ""
        table.add_row(fit.part, fit.name, f"{fit.error_pct:.1f} %", str(fit.samples), share)
    return table
