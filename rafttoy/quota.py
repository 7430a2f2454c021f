"""How far a leader may run ahead of the followers that keep up with it.

A quorum is enough to commit, so the slowest follower may fall behind without end: the log is kept for it, and in the end only a snapshot
of all content brings it back. Therefore proposals wait while a follower that keeps up otherwise lacks more than a quota of what is
committed (CockroachDB's quota pool). Who is gone does not count: a minority must not stop a group (thesis §2.1).
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from rafttoy.raft.progress import Progress
from rafttoy.storage.log import Log

__all__ = ["Quota"]

_PATIENCE_TICKS = 300
"""A follower that says nothing for so long is gone. Stores hold a peer up for seconds, and it comes back (LevelDB for 11 s)."""

_NEAR = 4
"""Who comes, or is found by a new leader, and lacks so many quotas at most is waited for until it has caught up: a leadership is lost just
when stores hold their peers up, and one that lacked a little more than a quota then was left behind for good."""


class Quota:
    """Of a leader. `exhausted`: nothing is to be proposed until a follower has caught up. A progress tells for `active_ticks` that its
    follower is active after it was last heard from (CheckQuorum's interval)."""

    __slots__ = ("_active_ticks", "_away", "_heard", "_limit_bytes", "_now", "exhausted")

    def __init__(self, limit_bytes: int, active_ticks: int) -> None:
        self.exhausted = False
        self._limit_bytes = limit_bytes
        self._active_ticks = active_ticks
        self._now = 0
        self._heard: dict[int, int] = {}  # when each that is, or was, abreast was last heard from
        self._away: dict[int, int] = {}  # until when what tells of activity is older than the loss of the connection

    def clear(self) -> None:
        """There is no leader here, or another term: nothing is known of the others."""
        self.exhausted = False
        self._heard.clear()

    def lost(self, id: int) -> None:
        """The connection to this follower is lost."""
        self._heard.pop(id, None)
        self._away[id] = self._now + self._active_ticks

    def tick(self, followers: Iterable[tuple[int, Progress]], committed: int, log: Log) -> None:
        """Who has come, who is gone, and whether to wait. Who needs a snapshot is waited for no longer."""
        self._now = now = self._now + 1
        heard = self._heard
        self.exhausted = False
        for id, progress in followers:
            lacks = _lacks_bytes(progress, committed, log)
            near = id in heard or lacks <= _NEAR * self._limit_bytes
            if near and progress.recent_active and now >= self._away.get(id, 0):
                heard[id] = now
            if id in heard:
                if lacks == math.inf or now - heard[id] > _PATIENCE_TICKS:
                    del heard[id]
                elif lacks > self._limit_bytes:
                    self.exhausted = True

    def look(self, followers: Iterable[tuple[int, Progress]], committed: int, log: Log) -> None:
        """Whether those for whom proposals wait have caught up."""
        self.exhausted = any(
            id in self._heard and self._limit_bytes < _lacks_bytes(progress, committed, log) < math.inf for id, progress in followers
        )


def _lacks_bytes(progress: Progress, committed: int, log: Log) -> float:
    """Entries are taken for as large as those of the log are on average; inf where the log no longer has them all."""
    first, last = log.first_index(), log.last_index()
    if progress.match + 1 < first:
        return math.inf
    return max(0, committed - progress.match) * log.total_bytes / (last + 1 - first) if last >= first else 0.0
