"""Hundreds of random command scripts come out here as they came out on etcd/raft v3.6.0, whose output was recorded."""

from __future__ import annotations

import pytest

from tests.raft.lockstep.compare import EXPECTED, fingerprint
from tests.raft.lockstep.ours import run
from tests.raft.lockstep.script import script

PRINTS = EXPECTED.read_text().split()
SHARDS = 8


@pytest.mark.parametrize("shard", range(SHARDS))
def test_as_etcd_raft(shard: int) -> None:
    for seed in range(shard, len(PRINTS), SHARDS):
        assert fingerprint(run(script(seed))) == PRINTS[seed], (
            f"seed {seed}: compare with python -m tests.raft.lockstep --start {seed} --count 1"
        )


def test_scripts_reach_the_corners() -> None:
    """A comparison is worth what it covers: every message type, every role, snapshots, joint configurations, panics."""
    text = "\n".join(line for seed in range(120) for line in run(script(seed)))
    for type in (*range(2, 10), *range(13, 23)):
        assert f" t{type} " in text, type
    for wanted in (" S0 ", " S1 ", " S2 ", " S3 ", " s0 ", " s1 ", " s2 ", "ltrue", "][1 2][", "PANIC", "dropped", "rs=", "Rtrue"):
        assert wanted in text, wanted
