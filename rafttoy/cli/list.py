"""`rafttoy list`: what the flags can name."""

from __future__ import annotations

import inspect
from collections.abc import Iterable

import click
import msgspec
from rich import box
from rich.table import Table

from rafttoy.analysis.models import describe, shipped_models
from rafttoy.cli.console import print_table
from rafttoy.cli.options import config_option, output_option
from rafttoy.pipeline import PIPELINES
from rafttoy.storage import ENGINES, STORAGES, WALS
from rafttoy.worlds import TRANSPORTS


@click.command(short_help="Show components, pipelines and models.", epilog="\b\nExample:\n  rafttoy list -o json")
@output_option("table", "json")
@config_option
def command(output: str) -> None:
    """Show every name that --pipeline, --wal, --engine, --storage, --transport and --model take, with what it is."""
    rows = _rows()
    if output == "json":
        for kind, name, description in rows:
            click.echo(msgspec.json.encode({"kind": kind, "name": name, "description": description}))
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for heading in ("kind", "name", "description"):
        table.add_column(heading, no_wrap=heading != "description")
    for row in rows:
        table.add_row(*row)
    print_table(table)


_STORES = {"mem": "a dict in memory", "leveldb": "LevelDB", "rocksdb": "RocksDB (needs rocksdict)"}
_DESCRIPTIONS: dict[str, dict[str, str]] = {
    "wal": _STORES
    | {
        "mem": "memory, nothing durable; mem:5ms takes 5 ms for what would be a sync",
        "etcd": "etcd's log, in its on-disk format",
        "file": "recycled, prewritten segments, one checksum a batch",
    },
    "engine": _STORES,
    "storage": _STORES | {"split": "a log and an engine of their own: --wal and --engine"},
    "transport": TRANSPORTS,
}


def _rows() -> list[tuple[str, str, str]]:
    """(flag, name, description)."""
    rows = [("pipeline", name, _first_line(pipeline)) for name, pipeline in PIPELINES.items()]
    components: dict[str, Iterable[str]] = {"wal": WALS, "engine": ENGINES, "storage": STORAGES, "transport": TRANSPORTS}
    for kind, names in components.items():
        rows += [(kind, name, _DESCRIPTIONS[kind].get(name, "")) for name in names]
    rows += [("model", name, describe(path)) for name, path in shipped_models().items()]
    return rows


def _first_line(function: object) -> str:
    return (inspect.getdoc(function) or "").partition("\n")[0].rstrip(".")
