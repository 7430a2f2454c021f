"""`rafttoy wal-bench`: logs by themselves, with the raw device beside them."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import click
import msgspec

from rafttoy.analysis import walbench
from rafttoy.analysis.formats import gobench_header
from rafttoy.analysis.manifest import host
from rafttoy.analysis.models import DEFAULT_MODEL, open_model
from rafttoy.analysis.walbench import BATCHES, BYTES, WalResult
from rafttoy.cell import MAX_PAYLOAD_BYTES
from rafttoy.cli.console import note, print_table, progress, tell_doubts
from rafttoy.cli.options import config_option, data_dir_option, model_option, option, output_option, sync_option
from rafttoy.cli.types import COUNT, DURATION, Commas
from rafttoy.worlds import WORLDS, RealBench, SimBench, check_sync


def _list(numbers: tuple[int, ...]) -> str:
    return ",".join(map(str, numbers))


@click.command(
    short_help="Measure logs by themselves: batch by bytes, and the raw device.",
    epilog="""\b
Examples:
  rafttoy wal-bench
  rafttoy wal-bench --wal file,etcd --batch 64,256,1024 --bytes 256 --data-dir /mnt/data1
  rafttoy wal-bench --world sim --model gp3 --wal file -o json""",
)
@option("--wal", type=Commas(), metavar="NAME,…", show_default="all that are installed", help="Logs.")
@option("--batch", type=Commas(COUNT), default=_list(BATCHES), metavar="N,…", help="Entries of a save.")
@option("--bytes", type=Commas(click.IntRange(1, MAX_PAYLOAD_BYTES)), default=_list(BYTES), metavar="N,…", help="Payload of an entry.")
@option("--depth", type=COUNT, default=2, metavar="N", help="Saves under way: 1 waits for each, 2 prepares the next meanwhile.")
@option("--duration", type=DURATION, default="0.5s", help="How long each log, batch and size is measured.")
@option("--world", type=click.Choice(WORLDS), default="real", help="This host's disk, or a model's.")
@model_option(DEFAULT_MODEL, "With --world sim: whose disk it is.")
@data_dir_option
@sync_option
@output_option("table", "gobench", "json")
@config_option
def command(
    wal: tuple[str, ...] | None,
    batch: tuple[int, ...],
    bytes: tuple[int, ...],
    depth: int,
    duration: float,
    world: str,
    model: str,
    data_dir: Path | None,
    sync: str,
    output: str,
) -> None:
    """Save batches in every log, of every size, and write the raw device beside it.

    The raw device is the ceiling: blocks of the size that a batch has, written and synced one after another over prewritten space, with
    none of our code. `of raw` is the log's rate over the device's; the two are measured in turns.
    """
    found: list[WalResult] = []
    cores = host()["cores"]
    with ExitStack() as stack:
        bench: walbench.Bench
        if world == "sim":
            bench = stack.enter_context(SimBench(open_model(model), sync))
        else:
            if data_dir is not None:
                data_dir.mkdir(parents=True, exist_ok=True)
            if sync != "none":
                tell_doubts(check_sync(data_dir))
            bench = stack.enter_context(RealBench(data_dir, sync))
        chosen = wal if wal is not None else bench.wals()
        cells = len(chosen) * len(batch) * len(bytes)
        moving = stack.enter_context(progress("measuring"))
        if output == "gobench":
            click.echo(gobench_header(host()))

        def add(result: WalResult) -> None:
            found.append(result)
            moving(f"{result.wal} {result.batch} x {result.bytes}", len(found) / cells)
            if output == "json":
                click.echo(msgspec.json.encode(result))
            elif output == "gobench":
                click.echo(walbench.gobench_line(result, cores))

        try:
            walbench.run_wal_bench(bench, chosen, batch, bytes, depth=depth, seconds=duration, on_result=add)
        finally:
            if output == "table" and found:
                print_table(walbench.table(found))
    if world == "real" and sync == "none":
        note("--sync none: nothing was made durable, and figures say nothing about the disk")
