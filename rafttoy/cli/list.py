"""`rafttoy list`: what the flags can name."""

from __future__ import annotations

import inspect
from typing import Any

import click
import msgspec
from rich import box
from rich.table import Table

from rafttoy.analysis.models import shipped_models
from rafttoy.cli.console import print_table
from rafttoy.cli.options import config_option, output_option
from rafttoy.pipeline import PIPELINES
from rafttoy.sim.model import load_model
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


def _rows() -> list[tuple[str, str, str]]:
    """(flag, name, description)."""
    tables: dict[str, dict[str, Any]] = {
        "pipeline": dict(PIPELINES),
        "wal": dict(WALS),
        "engine": dict(ENGINES),
        "storage": dict(STORAGES),
        "transport": dict(TRANSPORTS),
    }
    rows = [(kind, name, describe(entry)) for kind, table in tables.items() for name, entry in table.items()]
    for name, path in shipped_models().items():
        meta = load_model(path).meta
        rows.append(("model", name, ", ".join(part for part in (meta.host, meta.date, meta.confidence) if part)))
    return rows


def describe(entry: Any) -> str:
    """A description as it stands, or the first line of what a class or function says of itself."""
    text = entry if isinstance(entry, str) else inspect.getdoc(entry) or ""
    return text.partition("\n")[0].rstrip(".")
