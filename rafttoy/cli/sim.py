"""`rafttoy sim`: the same cells on the model."""

from __future__ import annotations

import click

from rafttoy.analysis.models import DEFAULT_MODEL, open_model
from rafttoy.cli.config import rank
from rafttoy.cli.console import Rows, check_verified, note, progress, tell_foreign
from rafttoy.cli.options import Request, model_option, run_options
from rafttoy.experiment import run_grid


@click.command(
    short_help="Predict the same cells, on a model.",
    epilog="""\b
Examples:
  rafttoy sim --conc 1,16,128,1024
  rafttoy sim --nodes 3,5,7 --bytes 256,4096 --model mine.toml -o csv""",
)
@run_options
@model_option(DEFAULT_MODEL, "What runs are charged: a shipped model (`rafttoy list`) or a file.")
def command(request: Request, model: str) -> None:
    """Run every cell of the grid in virtual time and print a row for each.

    The code that runs is the one that `bench` runs; its costs come from a model file. The same seed gives the same results, to
    the last digit. Cells are those of `bench`: the grid is the product of the lists.
    """
    charged = open_model(model)
    if rank(click.get_current_context(), "model"):  # who names none knows that it is not this host's
        tell_foreign(charged)
    note(f"seed {request.plan.seed}")
    with Rows(request.output, ["sim"], request.cells, metrics=request.metrics) as rows, progress("simulating") as moving:
        run_grid(
            "sim",
            request.cells,
            request.plan,
            count=request.count,
            model=charged,
            data_dir=request.data_dir,
            flags=request.flags,
            on_result=rows.add,
            progress=moving,
            say=note,
            verbose=request.verbose,
        )
    check_verified(rows.results)
