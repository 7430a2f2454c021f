"""The most throughput within a latency limit: a search in the model over pipelines, loads and the pipelining and batching of appends."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import msgspec

from rafttoy.analysis.explain import simulate
from rafttoy.analysis.plans import ROUNDS, brief
from rafttoy.cell import Cell, Plan
from rafttoy.errors import ConfigError, unknown
from rafttoy.experiment import Progress, Result
from rafttoy.sim.model import Model

__all__ = ["Choice", "Goal", "optimise", "parse_goal"]

_METRICS = ("mean", "p50", "p90", "p99", "p999", "max")
_GOAL = re.compile(r"(\w+)=(\d+(?:\.\d+)?)(us|µs|ms|s)")
_US = {"us": 1.0, "µs": 1.0, "ms": 1e3, "s": 1e6}
_FINE = 1.1
"""Loads are told apart to within a tenth."""

_KNOBS = ((1, 0), (0, 64 << 10), (8, 64 << 10))
"""(max_inflight, max_message_bytes) tried beside the peers' own, on the best pipelines."""

_FINALISTS = 2
_RETREATS = 5
_LONGER = 5  # a p99 of two hundred rounds is that of two of them


class Goal(msgspec.Struct, frozen=True):
    """A latency of a result that must not be above `limit_us`."""

    metric: str
    limit_us: float

    def __str__(self) -> str:
        return f"{self.metric} <= {self.limit_us / 1e3:g} ms"

    def met(self, result: Result) -> bool:
        return result.latency_us[self.metric] <= self.limit_us


def parse_goal(text: str) -> Goal:
    """`p99=5ms`. Raises ConfigError."""
    match = _GOAL.fullmatch(text)
    if match is None:
        raise ConfigError(f"--optimise {text}: a latency and its limit, as in p99=5ms")
    if match[1] not in _METRICS:
        raise unknown("--optimise", match[1], _METRICS)
    return Goal(match[1], float(match[2]) * _US[match[3]])


class Choice(msgspec.Struct, frozen=True):
    """A cell that meets the goal in the model, and the plan with its knobs."""

    cell: Cell
    plan: Plan
    result: Result


def optimise(
    cell: Cell,
    model: Model,
    plan: Plan,
    goal: Goal,
    *,
    pipelines: Sequence[str],
    most_conc: int,
    rounds: int = ROUNDS,
    progress: Progress = lambda what, share: None,
    run: Callable[[Cell, Plan, Model], Result] = simulate,
) -> list[Choice]:
    """Choices that meet the goal in the model, the best (most ops/s) first; empty if there is none. Components, bytes and nodes are those
    of `cell`; its load is not: the most proposals in flight, up to `most_conc`, that keep within the limit."""
    total = len(pipelines) + _FINALISTS * len(_KNOBS) + 1
    found: list[Choice] = []

    def consider(pipeline: str, knobs: tuple[int, int]) -> None:
        progress(pipeline, len(tried) / total)
        tried.append(pipeline)
        base = msgspec.structs.replace(cell, pipeline=pipeline, rate=0.0)
        own = msgspec.structs.replace(plan, max_inflight=knobs[0], max_message_bytes=knobs[1])
        best = _most_within(base, own, model, goal, most_conc, rounds, run)
        if best is not None:
            found.append(best)

    tried: list[str] = []
    for pipeline in pipelines:
        consider(pipeline, (0, 0))
    ranked = sorted(found, key=lambda choice: -choice.result.ops_per_s)
    for choice in ranked[:_FINALISTS]:
        for knobs in _KNOBS:
            consider(choice.cell.pipeline, knobs)
    progress("the best", (total - 1) / total)
    return _confirmed(sorted(found, key=lambda choice: -choice.result.ops_per_s), model, goal, rounds, run)


def _most_within(
    base: Cell, plan: Plan, model: Model, goal: Goal, most_conc: int, rounds: int, run: Callable[[Cell, Plan, Model], Result]
) -> Choice | None:
    """The largest load within the limit: doubled until it is passed, then halved in between. Throughput and latency both grow with it."""

    def at(conc: int) -> Choice:
        one = msgspec.structs.replace(base, conc=conc)
        fits = brief(one, plan, model, rounds)
        return Choice(one, fits, run(one, fits, model))

    low: Choice | None = None
    conc = high = 1
    while True:
        choice = at(conc)
        if not goal.met(choice.result):
            high = conc
            break
        low = choice
        if conc >= most_conc:
            return low
        conc = min(2 * conc, most_conc)
    while low is not None and high > _FINE * low.cell.conc and high - low.cell.conc > 1:
        choice = at((low.cell.conc + high) // 2)
        if goal.met(choice.result):
            low = choice
        else:
            high = choice.cell.conc
    return low


def _confirmed(ranked: Sequence[Choice], model: Model, goal: Goal, rounds: int, run: Callable[[Cell, Plan, Model], Result]) -> list[Choice]:
    """The same, led by the first that a longer simulation agrees with, at its load or up to a third below: it was found at the edge."""
    for i, choice in enumerate(ranked):
        cell = choice.cell
        for _ in range(_RETREATS):
            result = run(cell, brief(cell, choice.plan, model, _LONGER * rounds), model)
            if goal.met(result):
                return [Choice(cell, choice.plan, result), *ranked[i + 1 :]]
            if cell.conc == 1:
                break
            cell = msgspec.structs.replace(cell, conc=max(1, int(cell.conc / _FINE)))
    return []
