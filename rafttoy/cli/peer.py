"""`rafttoy peer`: one long-lived member of a cluster of several hosts."""

from __future__ import annotations

import os
from pathlib import Path

import click

from rafttoy.analysis.formats import metrics_table
from rafttoy.cell import Cell, Plan
from rafttoy.cli.console import note, note_host, print_table
from rafttoy.cli.options import (
    busy_poll_option,
    check_cpus,
    component_options,
    config_option,
    connect_option,
    cpus_option,
    data_dir_option,
    fresh_option,
    id_option,
    idle_option,
    make_cluster,
    metrics_option,
    peers_option,
    sync_option,
    verbose_option,
)
from rafttoy.cli.types import CpuSet
from rafttoy.experiment import validate
from rafttoy.worlds import serve_peer


@click.command(
    short_help="Serve as one member of a cluster, run after run.",
    epilog="""\b
Example, on the second of three hosts:
  rafttoy peer --id 2 --peers 10.0.0.1:1234,10.0.0.2:1234,10.0.0.3:1234 --data-dir /mnt/data1""",
)
@component_options(many=False)
@id_option
@peers_option
@data_dir_option
@fresh_option
@sync_option
@connect_option
@cpus_option
@busy_poll_option
@idle_option
@metrics_option
@verbose_option
@config_option
def command(
    pipeline: str,
    wal: str,
    engine: str,
    storage: str,
    transport: str,
    id: int | None,
    peers: tuple[str, ...] | None,
    data_dir: Path | None,
    fresh: bool,
    sync: str,
    connect_timeout: float,
    cpus: tuple[CpuSet, ...] | None,
    busy_poll: str,
    idle: str,
    metrics: bool,
    verbose: bool,
) -> None:
    """Run one peer until it is interrupted or terminated.

    It takes part in the leader's runs (`rafttoy bench --id --peers` on another host), one after another, without a restart
    between them. The leader tells it the pipeline, the storage and the load; --transport, --sync, --idle and --busy-poll are its own, and
    --peers must be the same on every member. Started again with the same --data-dir it rejoins its group and catches up.
    """
    cluster = make_cluster(id, peers, [transport])
    if cluster is None:
        raise click.UsageError("--id and --peers are needed")
    cell = Cell(pipeline=pipeline, wal=wal, engine=engine, storage=storage, transport=transport, nodes=len(cluster.peers))
    plan = Plan(sync=sync, connect_seconds=connect_timeout, busy_poll=busy_poll, idle=idle)
    validate(cell, plan)
    if cpus:
        check_cpus(cpus, 1)
        os.sched_setaffinity(0, cpus[0])
    note_host(plan)
    recorded = serve_peer(
        id=cluster.id, peers=cluster.peers, cell=cell, plan=plan, data_dir=data_dir, say=note, verbose=verbose, fresh=fresh
    )
    if metrics:
        print_table(metrics_table(f"peer {cluster.id}", recorded))
