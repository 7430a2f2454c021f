"""`rafttoy report`: one HTML page of result files."""

from __future__ import annotations

from pathlib import Path

import click

from rafttoy.analysis.html import page
from rafttoy.analysis.sweep import read_results
from rafttoy.cli.console import note
from rafttoy.cli.options import config_option, option


@click.command(
    short_help="Make one HTML page of result files.",
    epilog="""\b
Examples:
  rafttoy report results.jsonl --html results.html
  rafttoy report real.jsonl sim.jsonl > page.html""",
)
@click.argument("files", type=click.Path(path_type=Path, dir_okay=False), nargs=-1, required=True)
@option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the page here instead of to stdout.")
@option("--title", default="rafttoy", help="Of the page.")
@config_option
def command(files: tuple[Path, ...], html: Path | None, title: str) -> None:
    """Make a self-contained page (tables, and curves as SVG; no script, no network) of the JSON lines that -o json and sweep --into write.

    Real and simulated runs of the same cells are put side by side, from whichever files they come.
    """
    text = page(title, [result for file in files for result in read_results(file)])
    if html is None:
        click.echo(text, nl=False)
    else:
        html.write_text(text, encoding="utf-8")
        note(f"wrote {html}")
