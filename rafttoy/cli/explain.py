"""`rafttoy explain`: what binds, what would bind next, what each change would give."""

from __future__ import annotations

import click
import msgspec

from rafttoy.analysis import formats
from rafttoy.analysis.calibrate import quick_calibration
from rafttoy.analysis.explain import explain
from rafttoy.analysis.explain_text import choice_flags, choices_table, explanation_text, what_if_table
from rafttoy.analysis.models import DEFAULT_MODEL, open_model
from rafttoy.analysis.optimise import Goal, parse_goal
from rafttoy.analysis.optimise import optimise as search
from rafttoy.analysis.whatif import apply_settings
from rafttoy.cli.config import rank
from rafttoy.cli.console import note, note_host, print_table, progress, tell_foreign, tell_warnings
from rafttoy.cli.options import Request, grid_options, model_option, option, set_option
from rafttoy.errors import CheckFailed, ConfigError
from rafttoy.experiment import run_grid
from rafttoy.pipeline import PIPELINES
from rafttoy.sim.model import Model

_MOST_CONC = 4096


@click.command(
    short_help="Say what binds a cell, and what every change would give.",
    epilog="""\b
Examples:
  rafttoy explain --conc 128
  rafttoy explain --pipeline basic --conc 1 --nodes 5 --bytes 4096 --set disk.sync_us=50
  rafttoy explain --transport tcp --set links.tcp=x0.5 --set cores=8 -o json
  rafttoy explain --transport tcp --optimise p99=5ms""",
)
@grid_options("table", "json")
@model_option(DEFAULT_MODEL, "What runs are charged: a shipped model (`rafttoy list`), a file, or hardware=NAME,software=NAME.")
@set_option
@option(
    "--optimise", metavar="LATENCY=LIMIT", help="Search the most throughput within a limit, as p99=5ms, and confirm it with a real run."
)
def command(request: Request, model: str, set: tuple[str, ...], optimise: str | None) -> None:
    """Simulate a cell, name the resource that binds it, and rank what would make it faster.

    Each row of the table is a simulation of the same cell with one thing otherwise: a cost of the model at half, or another pipeline,
    transport, log or store. With --set, costs are changed beforehand, and the cell before the change is shown beside.

    --optimise p99=5ms looks in the model for the pipeline, the number of proposals in flight (at most --conc, if given) and the
    pipelining and batching of appends that give the most throughput within that limit, then measures the best of them here; without
    --model it calibrates one of this host first. Exit status 1: nothing keeps the limit in the model, or the real run did not.
    """
    named = rank(click.get_current_context(), "model") > 0
    goal = parse_goal(optimise) if optimise is not None else None
    charged = open_model(model)
    if named:
        tell_foreign(charged)
    note(f"seed {request.plan.seed}")
    if goal is not None:
        if not named:  # what it finds is measured here, so it must be sought in a model of here
            with progress("calibrating") as moving:
                charged = quick_calibration(request.cells, request.plan, moving, request.data_dir)
        _optimise(request, apply_settings(charged, set), goal)
        return
    for i, cell in enumerate(request.cells):
        with progress("explaining") as moving:
            found = explain(cell, charged, request.plan, settings=set, progress=moving)
        tell_warnings(found.result)
        if request.output == "json":
            click.echo(msgspec.json.encode(found))
        else:
            click.echo("\n" * (i > 0) + explanation_text(found, set))
            print_table(what_if_table(found))


def _optimise(request: Request, model: Model, goal: Goal) -> None:
    ctx = click.get_current_context()
    bases = list(dict.fromkeys(msgspec.structs.replace(cell, pipeline="basic", conc=1, rate=0.0) for cell in request.cells))
    if len(bases) > 1:
        raise ConfigError("--optimise: one storage, transport, size and number of nodes at a time")
    pipelines = list(dict.fromkeys(cell.pipeline for cell in request.cells)) if rank(ctx, "pipeline") else list(PIPELINES)
    most = max(cell.conc for cell in request.cells) if rank(ctx, "conc") else _MOST_CONC
    with progress("searching") as moving:
        choices = search(bases[0], model, request.plan, goal, pipelines=pipelines, most_conc=most, progress=moving)
    if not choices:
        raise CheckFailed(f"--optimise: no pipeline keeps {goal} in the model, not even with one proposal in flight")
    best = choices[0]
    plan = msgspec.structs.replace(request.plan, max_inflight=best.plan.max_inflight, max_message_bytes=best.plan.max_message_bytes)
    note_host(plan)
    with progress("confirming") as moving:
        measured = run_grid("real", [best.cell], plan, data_dir=request.data_dir, flags=request.flags, progress=moving, say=note)[0]
    tell_warnings(measured)
    if request.output == "json":
        click.echo(msgspec.json.encode({"goal": str(goal), "choices": choices, "measured": measured, "met": goal.met(measured)}))
    else:
        print_table(choices_table(choices))
        click.echo(f"\nbest with {goal}, predicted and measured: rafttoy bench {' '.join(choice_flags(best))}")
        print_table(formats.results_table([best.result, measured]))
    if not goal.met(measured):
        raise CheckFailed(f"--optimise: measured, {goal.metric} is {formats.human_us(measured.latency_us[goal.metric])}: not {goal}")
