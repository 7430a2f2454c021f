"""What a leader knows of one follower, and how it sends to it.

    PROBE      one append at a time, until the follower's log is known to match (one message a heartbeat interval)
    REPLICATE  appends are pipelined optimistically, within the inflight window
    SNAPSHOT   a snapshot is on its way: nothing else is sent

Rule 1: match < next. Rule 2: entries between match and next are in flight. Rule 3: in SNAPSHOT, next == pending_snapshot + 1.
"""

from __future__ import annotations

from enum import IntEnum

from rafttoy.raft.inflights import Inflights

__all__ = ["Progress", "ProgressState"]


class ProgressState(IntEnum):
    PROBE = 0
    REPLICATE = 1
    SNAPSHOT = 2


_PROBE, _REPLICATE, _SNAPSHOT = ProgressState.PROBE, ProgressState.REPLICATE, ProgressState.SNAPSHOT


class Progress:
    """match             highest index known to be in the follower's log
    next              the index of the next entry to send
    sent_commit       highest commit index in flight to it
    pending_snapshot  index of the snapshot that is on its way
    recent_active     heard from since the last CheckQuorum
    flow_paused       sends wait for a heartbeat response (probing, or the window is full)
    """

    __slots__ = ("flow_paused", "inflights", "is_learner", "match", "next", "pending_snapshot", "recent_active", "sent_commit", "state")

    def __init__(self, match: int, next: int, inflights: Inflights, *, is_learner: bool = False, recent_active: bool = False) -> None:
        self.match, self.next = match, next
        self.inflights = inflights
        self.is_learner = is_learner
        self.recent_active = recent_active
        self.state = _PROBE
        self.sent_commit = 0
        self.pending_snapshot = 0
        self.flow_paused = False

    def copy(self) -> Progress:
        other = Progress(self.match, self.next, self.inflights.copy(), is_learner=self.is_learner, recent_active=self.recent_active)
        other.state, other.sent_commit = self.state, self.sent_commit
        other.pending_snapshot, other.flow_paused = self.pending_snapshot, self.flow_paused
        return other

    # --- transitions ---

    def _enter(self, state: ProgressState) -> None:
        self.state = state
        self.flow_paused = False
        self.pending_snapshot = 0
        self.inflights.clear()

    def become_probe(self) -> None:
        """After a snapshot that arrived, probing begins behind it; otherwise behind what is known to match."""
        behind_snapshot = self.pending_snapshot + 1 if self.state is _SNAPSHOT else 0
        self._enter(_PROBE)
        self.next = max(self.match + 1, behind_snapshot)
        self.sent_commit = min(self.sent_commit, self.next - 1)

    def become_replicate(self) -> None:
        self._enter(_REPLICATE)
        self.next = self.match + 1

    def become_snapshot(self, index: int) -> None:
        self._enter(_SNAPSHOT)
        self.pending_snapshot = index
        self.next = index + 1
        self.sent_commit = index

    # --- sending ---

    @property
    def paused(self) -> bool:
        """Nothing is sent now: a probe is unanswered, the window is full, or a snapshot is on its way."""
        return self.flow_paused or self.state is _SNAPSHOT

    def streams_from(self, index: int) -> bool:
        """Whether it was sent all before `index`, and may be sent what comes from there on."""
        return self.next == index and self.state is _REPLICATE and not self.flow_paused and not self.inflights.full

    def sent_entries(self, count: int, nbytes: int) -> None:
        """An append with `count` entries (perhaps none) was sent from `next` on."""
        if self.state is _REPLICATE:
            if count:
                self.next += count
                self.inflights.add(self.next - 1, nbytes)
            # The message that fills the window, and any sent while it is full, is a probe: wait before the next one.
            self.flow_paused = self.inflights.full
        else:
            assert self.state is _PROBE, "appends are not sent while a snapshot is on its way"
            if count:
                self.flow_paused = True

    def can_bump_commit(self, index: int) -> bool:
        """Whether a message with commit `index` could tell the follower something new: only up to next - 1 can it commit."""
        sent = self.sent_commit
        return index > sent and sent < self.next - 1

    # --- answers ---

    def maybe_update(self, index: int) -> bool:
        """The follower has everything up to `index`; False if that is old news."""
        if index <= self.match:
            return False
        self.match = index
        if self.next <= index:
            self.next = index + 1
        self.flow_paused = False
        if self.state is _REPLICATE:
            self.inflights.free_to(index)
        return True

    def maybe_decrease(self, rejected: int, match_hint: int) -> bool:
        """The follower rejected an append behind `rejected` and suggests to try behind `match_hint`; False if that is old news
        (messages may be reordered and duplicated)."""
        if self.state is _REPLICATE:
            if rejected <= self.match:
                return False
            self.next = self.match + 1
        else:
            # A probe is answered before the next one leaves, so a genuine rejection names the probe that is out.
            if self.next - 1 != rejected:
                return False
            self.next = max(min(rejected, match_hint + 1), self.match + 1)
            self.flow_paused = False
        self.sent_commit = min(self.sent_commit, self.next - 1)  # what was sent beyond will not have been committed there
        return True

    def __str__(self) -> str:
        words = [f"{self.state.name.lower()} match={self.match} next={self.next}"]
        if self.is_learner:
            words.append("learner")
        if self.paused:
            words.append("paused")
        if self.pending_snapshot:
            words.append(f"pending_snapshot={self.pending_snapshot}")
        if not self.recent_active:
            words.append("inactive")
        if self.inflights:
            words.append(f"inflight={len(self.inflights)}{'[full]' if self.inflights.full else ''}")
        return " ".join(words)
