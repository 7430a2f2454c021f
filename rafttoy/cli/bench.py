"""`rafttoy bench`: cells on real disks and sockets."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from rafttoy.cli.console import Rows, check_verified, note, note_host, progress
from rafttoy.cli.options import (
    Request,
    busy_poll_option,
    check_cpus,
    cpus_option,
    fresh_option,
    id_option,
    keep_option,
    make_cluster,
    on_cluster,
    option,
    peers_option,
    run_options,
)
from rafttoy.cli.types import CpuSet
from rafttoy.experiment import run_grid
from rafttoy.worlds import check_profile


@click.command(
    short_help="Measure cells: a local cluster, or the leader of a running one.",
    epilog="""\b
Examples:
  rafttoy bench --pipeline basic,parallel-append --conc 1,16,128
  rafttoy bench --wal etcd --engine mem --transport tcp --rate 5000 --duration 10s
  rafttoy bench --data-dir /mnt/data1 --keep --verify
  rafttoy bench --id 1 --peers 10.0.0.1:1234,10.0.0.2:1234,10.0.0.3:1234 --count 3 -o gobench""",
)
@run_options
@id_option
@peers_option
@keep_option
@fresh_option
@cpus_option
@busy_poll_option
@option(
    "--profile",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a profile of the leader in the measured time: cProfile's, or py-spy's flame graph if FILE ends with .svg.",
)
def command(
    request: Request,
    id: int | None,
    peers: tuple[str, ...] | None,
    keep: bool,
    fresh: bool,
    cpus: tuple[CpuSet, ...] | None,
    busy_poll: str,
    profile: Path | None,
) -> None:
    """Run every cell of the grid for real and print a row for each.

    Every flag with a comma takes a list; the grid is the product of the lists. By default a cell runs on three peer processes on
    loopback, which bench starts and ends. With --id and --peers it is the leader of a cluster whose other members are running
    (`rafttoy peer`): they need no restart between runs. With --keep the peers keep their data in --data-dir, and the first run
    goes on with the group that it finds there.
    """
    if (keep or fresh) and request.data_dir is None:
        raise click.UsageError(f"--{'keep' if keep else 'fresh'} needs --data-dir")
    cluster = make_cluster(id, peers, {cell.transport for cell in request.cells})
    if cluster is not None:
        request = on_cluster(request, cluster)
    if cpus is not None:
        processes = 1 if cluster is not None else max(1 if cell.transport == "mem" else cell.nodes for cell in request.cells)
        check_cpus(cpus, processes)
    if profile is not None:
        if len(request.cells) > 1:
            raise click.UsageError(f"--profile takes one cell, not {len(request.cells)}")
        check_profile(profile, request.count)
    note(f"seed {request.plan.seed}")
    note_host(request.plan)
    with Rows(request.output, ["real"], request.cells, metrics=request.metrics) as rows, progress("measuring") as moving:
        run_grid(
            "real",
            request.cells,
            msgspec.structs.replace(request.plan, busy_poll=busy_poll),
            count=request.count,
            data_dir=request.data_dir,
            cluster=cluster,
            flags=request.flags,
            on_result=rows.add,
            progress=moving,
            say=note,
            verbose=request.verbose,
            keep=keep,
            fresh=fresh,
            cpus=cpus,
            profile=profile,
        )
    check_verified(rows.results)
