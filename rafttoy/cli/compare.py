"""`rafttoy compare`: measurement and prediction of the same cells, side by side."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import click

from rafttoy.analysis import formats
from rafttoy.analysis.calibrate import quick_calibration
from rafttoy.analysis.compare import Comparison, compare
from rafttoy.analysis.compare_text import detail_tables, verdict
from rafttoy.analysis.curves import panels
from rafttoy.analysis.html import page
from rafttoy.analysis.interval import add_intervals
from rafttoy.analysis.models import open_model
from rafttoy.analysis.plots import draw
from rafttoy.cli.console import Rows, check_verified, note, note_host, print_metrics, print_table, progress, tell_foreign, tell_warnings
from rafttoy.cli.options import Request, model_option, option, run_options
from rafttoy.cli.types import PERCENT
from rafttoy.errors import RunError
from rafttoy.experiment import Result, run_grid


@click.command(
    short_help="Measure and predict the same cells, side by side.",
    epilog="""\b
Examples:
  rafttoy compare --pipeline basic,parallel-append --conc 1,16,128,1024
  rafttoy compare --transport tcp --wal etcd,file --model mine.toml --max-error 15
  rafttoy compare --conc 1,128 --count 3 -o json > results.jsonl
  rafttoy compare --pipeline basic,async-apply --conc 1,16,128,1024 --plot --html compare.html""",
)
@run_options
@model_option(None, "Predict with this model instead of calibrating one first.")
@option("--html", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write tables and curves to one HTML file as well.")
@option("--plot", is_flag=True, help="Draw the curves: measured, predicted, closed form.")
@option("--detail", is_flag=True, help="Show batches, intervals, how busy each resource is, and where the error comes from.")
@option("--max-error", type=PERCENT, metavar="PCT", help="Exit 1 if the throughput of any cell is predicted further off than that.")
def command(request: Request, model: str | None, html: Path | None, plot: bool, detail: bool, max_error: float | None) -> None:
    """Run every cell of the grid for real and on the model, and print how well the one predicts the other.

    Without --model, short calibration runs on this host come first; the cells that they measure are never those they predict.
    The table shows a row a cell: operations a second, measured and predicted, the error of the prediction, latencies, and the
    resource that binds. --detail, --plot and --html add what stands behind them, the closed form's ceiling beside the other two.
    -o json, csv and gobench print the rows of both worlds; the predicted ones have `error_pct`.
    """
    cells, plan = request.cells, request.plan
    charged = open_model(model) if model is not None else None
    if charged is not None:
        tell_foreign(charged)
    real: list[Result] = []
    sim: list[Result] = []
    note(f"seed {plan.seed}")
    note_host(plan)
    try:
        if charged is None:
            with progress("calibrating") as moving:
                charged = quick_calibration(cells, plan, moving, request.data_dir)
        with progress("measuring") as moving:
            run_grid(
                "real",
                cells,
                plan,
                count=request.count,
                data_dir=request.data_dir,
                flags=request.flags,
                on_result=real.append,
                progress=moving,
                say=note,
                verbose=request.verbose,
            )
        with progress("predicting") as moving:
            run_grid("sim", cells, plan, count=request.count, model=charged, flags=request.flags, on_result=sim.append, progress=moving)
        with progress("how far off it may be") as moving:
            add_intervals(sim, plan, charged, moving)
    finally:  # an interrupt or an error leaves what was finished before it
        comparison = compare(real, sim)
        _print(request, comparison, plot=plot, detail=detail)
        if html is not None and comparison.rows:
            html.write_text(page(f"rafttoy: {len(comparison.pairs)} cells measured and predicted", comparison.rows), encoding="utf-8")
            note(f"wrote {html}")
    check_verified(comparison.rows)
    if len(comparison.pairs) < len(cells):
        lost = next(cell for cell in cells if cell not in {pair.cell for pair in comparison.pairs})
        raise RunError(f"nothing was acknowledged within the measured time: {lost}")
    if max_error is not None:
        comparison.check(max_error)


def _print(request: Request, comparison: Comparison, *, plot: bool, detail: bool) -> None:
    if request.output != "table":
        with Rows(request.output, ["real", "sim"], request.cells, metrics=request.metrics) as rows:
            for row in comparison.rows:
                rows.add(row)
        return
    for row in comparison.rows:
        tell_warnings(row)
    if comparison.pairs:
        print_table(formats.comparison_table(comparison))
        click.echo(f"\n{comparison.summary()}\n{verdict(comparison.pairs)}")
    if comparison.pairs and detail:
        for table in detail_tables(comparison.pairs):
            click.echo()
            print_table(table)
    if plot:
        for panel in panels(comparison.rows):
            click.echo(f"\n{draw(panel, min(100, shutil.get_terminal_size().columns), colour=sys.stdout.isatty())}")
    if alone := comparison.unpaired():
        print_table(formats.results_table(alone))
    if request.metrics:
        print_metrics(comparison.rows)
