"""Random faults, planted bugs, and that a seed is a run."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.raft.cluster import run
from tests.raft.planted import BUGS, RARE, caught_by, transcript_that_notices

SEEDS = 300
SHARDS = 10

CAUGHT_WITHIN = 100
"""Seeds. The ones that do are recorded in docs/raft.md."""


@pytest.mark.parametrize("shard", range(SHARDS))
def test_invariants_hold(shard: int) -> None:
    for seed in range(shard, SEEDS, SHARDS):
        try:
            run(seed)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.parametrize("name", BUGS)
def test_planted_bug_is_caught(name: str) -> None:
    assert caught_by(name, CAUGHT_WITHIN) is not None


@pytest.mark.parametrize("name", RARE)
def test_rare_bug_is_noticed_by_a_transcript(name: str) -> None:
    assert transcript_that_notices(name) is not None


def test_planted_bugs_are_pulled_out_again() -> None:
    before = run(0)
    assert caught_by("votes_without_log_check") is not None
    assert run(0) == before


def test_a_seed_is_a_run_whatever_the_hash_seed() -> None:
    code = "from tests.raft.cluster import run; print([run(seed) for seed in range(8)])"
    traces = [
        subprocess.run(
            [sys.executable, "-c", code], env=os.environ | {"PYTHONHASHSEED": seed}, capture_output=True, text=True, check=True
        ).stdout
        for seed in ("0", "1", "12345")
    ]
    assert traces[0].count("'") == 16
    assert traces == [f"{[run(seed) for seed in range(8)]}\n"] * 3
