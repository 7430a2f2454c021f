"""Whom a leader waits for."""

from __future__ import annotations

import pytest

from rafttoy.quota import Quota
from rafttoy.raft import Payloads
from rafttoy.raft.entries import EntryBatch, EntryType
from rafttoy.raft.inflights import Inflights
from rafttoy.raft.progress import Progress
from rafttoy.storage.log import Log

ACTIVE_TICKS = 10


def log_of(entries: int) -> Log:
    log = Log(0)
    log.append([EntryBatch.encode(i, 1, EntryType.NORMAL, Payloads.sized(1, 100)) for i in range(1, entries + 1)])
    return log


LOG = log_of(1000)
ENTRY = LOG.total_bytes / 1000


def follower(match: int, *, active: bool = True) -> Progress:
    return Progress(match, match + 1, Inflights(10, 0), recent_active=active)


def ticked(*followers: Progress, quota: Quota | None = None, times: int = 1, committed: int = 1000) -> Quota:
    quota = quota or Quota(int(10 * ENTRY), ACTIVE_TICKS)
    for _ in range(times):
        quota.tick(enumerate(followers, 2), committed, LOG)
    return quota


@pytest.mark.parametrize(("lacks", "waits"), [(0, False), (9, False), (11, True), (39, True), (41, False)])
def test_one_that_comes_is_waited_for_if_it_is_near(lacks: int, waits: bool) -> None:
    """As after an election: nothing is known of earlier."""
    assert ticked(follower(1000), follower(1000 - lacks)).exhausted is waits


def test_one_that_kept_up_is_waited_for_however_far_it_is() -> None:
    progress = follower(1000)
    quota = ticked(progress)
    assert not quota.exhausted
    progress.match = 100
    assert ticked(progress, quota=quota).exhausted
    progress.match = 991
    quota.look([(2, progress)], 1000, LOG)
    assert not quota.exhausted


def test_what_is_not_committed_is_not_lacked() -> None:
    assert not ticked(follower(500), committed=505).exhausted


def test_one_that_is_silent_is_waited_for_half_a_minute() -> None:
    progress = follower(1000)
    quota = ticked(progress)
    progress.match, progress.recent_active = 100, False
    assert ticked(progress, quota=quota, times=300).exhausted
    assert not ticked(progress, quota=quota).exhausted


def test_one_whose_connection_is_lost_counts_again_once_it_was_heard_from() -> None:
    """What tells that it is active may be older than the loss, until CheckQuorum has asked anew."""
    progress = follower(985)
    quota = ticked(progress)
    assert quota.exhausted
    quota.lost(2)
    assert not ticked(progress, quota=quota, times=ACTIVE_TICKS - 1).exhausted
    assert ticked(progress, quota=quota).exhausted


def test_one_that_needs_a_snapshot_is_not_waited_for() -> None:
    progress = follower(1000)
    quota = ticked(progress)
    log = log_of(1000)
    log.compact(500)
    progress.match = 400
    quota.tick([(2, progress)], 1000, log)
    assert not quota.exhausted


def test_another_term_knows_nothing_of_the_others() -> None:
    progress = follower(1000)
    quota = ticked(progress)
    progress.match = 100
    assert ticked(progress, quota=quota).exhausted
    quota.clear()
    assert not quota.exhausted
    assert not ticked(progress, quota=quota).exhausted
