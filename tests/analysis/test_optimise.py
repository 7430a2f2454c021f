"""The search for throughput within a latency, on models where the best is known."""

from __future__ import annotations

import pytest

from rafttoy.analysis.explain_text import choice_flags, choices_table
from rafttoy.analysis.optimise import Choice, Goal, optimise, parse_goal
from rafttoy.cell import Cell, Plan
from rafttoy.errors import ConfigError
from rafttoy.sim.model import Linear
from tests.analysis.beds import make_model

CELL = Cell(wal="file", engine="mem", transport="tcp", conc=1)
MODEL = make_model(sync_us=1_000, delay_us=100, stages={"propose": Linear(entry_us=10.0)})
"""A round takes 10 µs a proposal and, in `basic`, 2.2 ms besides; 1.2 ms where syncs are side by side."""


def test_goals() -> None:
    assert parse_goal("p99=5ms") == Goal("p99", 5000.0)
    assert parse_goal("mean=250us").limit_us == 250.0
    assert str(parse_goal("p50=1.5s")) == "p50 <= 1500 ms"


@pytest.mark.parametrize("text", ["p99", "p99=5", "p99<5ms", "p98=5ms", "ops=5ms", "p99=-5ms"])
def test_what_is_no_goal(text: str) -> None:
    with pytest.raises(ConfigError, match="--optimise"):
        parse_goal(text)


def search(goal: str, pipelines: tuple[str, ...], most: int = 4096) -> list[Choice]:
    return optimise(CELL, MODEL, Plan(), parse_goal(goal), pipelines=pipelines, most_conc=most, rounds=12)


def test_the_load_fills_the_limit_but_does_not_pass_it() -> None:
    """Round = 2.2 ms + 10 µs N <= 5 ms: N = 280, of which the search finds at least eight tenths."""
    best = search("p99=5ms", ("basic",))[0]
    assert 224 <= best.cell.conc <= 280
    assert best.result.latency_us["p99"] <= 5000


def test_the_pipeline_whose_syncs_are_side_by_side_takes_more() -> None:
    best, *others = search("p99=5ms", ("basic", "parallel-append"))
    assert best.cell.pipeline == "parallel-append"
    assert 304 <= best.cell.conc <= 380
    assert all(other.result.ops_per_s <= best.result.ops_per_s * 1.02 for other in others)
    assert {other.cell.pipeline for other in others} == {"basic", "parallel-append"}


def test_the_search_keeps_within_the_load_it_is_given() -> None:
    assert search("p99=5ms", ("basic",), most=64)[0].cell.conc == 64


def test_a_limit_that_nobody_keeps() -> None:
    assert search("p99=1ms", ("basic", "parallel-append")) == []


def test_a_choice_is_told_as_flags_of_bench() -> None:
    choices = search("p99=5ms", ("basic",), most=8)
    assert {(choice.plan.max_inflight, choice.plan.max_message_bytes) for choice in choices} > {(0, 0)}
    knobbed = next(choice for choice in choices if choice.plan.max_inflight)
    flags = " ".join(choice_flags(knobbed))
    assert flags.startswith("--pipeline basic --wal file --engine mem --transport tcp --conc 8 --bytes 256 --nodes 3 --max-inflight ")
    assert choices_table(choices).row_count == len(choices)
