"""Every transcript comes out as it is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.raft.scenario import DIRECTORY, Scenario, rewriting

TRANSCRIPTS = sorted(DIRECTORY.glob("*.txt"))


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    text = path.read_text()
    now = Scenario().run(text)
    if rewriting():
        path.write_text(now)
    else:
        assert now == text


def test_a_changed_transcript_is_noticed() -> None:
    text = (DIRECTORY / "single_voter.txt").read_text()
    assert Scenario().run(text.replace("sync 2/4", "sync 2/5")) == text


def test_there_is_a_transcript_for_every_area() -> None:
    names = {path.stem for path in TRANSCRIPTS}
    areas = {
        *("bootstrap", "proposal_forwarding", "prevote", "checkquorum", "leader_lease", "randomized_timeout", "transfer_leader"),
        *("forget_leader", "learner_must_vote", "campaign_on_leave", "conflict_hints", "conflict_hints_follower", "inflight_messages"),
        *("inflight_bytes", "max_size_per_msg", "max_committed_size", "max_uncommitted_size", "heartbeat_recovers_probe"),
        *("lagging_commit", "slow_follower_after_compaction", "snapshot_applied", "snapshot_status", "snapshot_overtaken"),
        *("confchange_v1_add", "confchange_v2_auto", "confchange_v2_implicit", "confchange_v2_explicit", "confchange_demote"),
        *("confchange_pending", "confchange_v1_remove_leader", "confchange_v1_remove_leader_stepdown", "confchange_disable_validation"),
        *("read_index_safe", "read_index_lease", "async_storage_writes", "async_storage_writes_aba", "restart", "truncate_inside_batch"),
        *("log_compaction", "malformed"),
    }
    assert areas <= names
