"""The leader's book-keeping: the members, the progress of each, and the votes of a campaign."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

from rafttoy.raft.inflights import Inflights
from rafttoy.raft.members import Change, Members
from rafttoy.raft.progress import Progress
from rafttoy.raft.quorum import VoteResult

__all__ = ["Tracker"]

_MATCH = attrgetter("match")


class Tracker:
    """progress  of every member, in ascending order of id: iteration is deterministic
    others    the same without this node, as (id, progress)
    """

    __slots__ = ("_incoming", "_outgoing", "id", "max_inflight_bytes", "max_inflight_msgs", "members", "others", "progress", "votes")

    def __init__(self, id: int, max_inflight_msgs: int, max_inflight_bytes: int) -> None:
        self.id = id
        self.max_inflight_msgs, self.max_inflight_bytes = max_inflight_msgs, max_inflight_bytes
        self.members = Members()
        self.progress: dict[int, Progress] = {}
        self.others: Sequence[tuple[int, Progress]] = ()
        self.votes: dict[int, bool] = {}
        self._incoming: Sequence[Progress] = ()
        self._outgoing: Sequence[Progress] = ()

    # --- members ---

    def install(self, change: Change, last_index: int) -> None:
        """Makes these the members. Newcomers are probed from the last index (they most likely need a snapshot, which the first
        rejection reveals) and count as active until the next CheckQuorum, before which they cannot have answered."""
        members, old = change.members, self.progress
        progress = {}
        for id in members.ids:
            if id in old and id not in change.fresh:
                progress[id] = old[id]
                progress[id].is_learner = id in members.learners
            else:
                progress[id] = Progress(0, max(last_index, 1), self._inflights(), is_learner=id in members.learners, recent_active=True)
        self.members = members
        self._set_progress(progress)

    def reset(self, last_index: int) -> None:
        """A new term: nothing is known of the others, and all of one's own log matches."""
        progress = {}
        for id, old in self.progress.items():
            match = last_index if id == self.id else 0
            progress[id] = Progress(match, last_index + 1, self._inflights(), is_learner=old.is_learner)
        self._set_progress(progress)
        self.votes = {}

    def _set_progress(self, progress: dict[int, Progress]) -> None:
        self.progress = progress
        self.others = tuple((id, p) for id, p in progress.items() if id != self.id)
        voters = self.members.voters
        self._incoming = tuple(progress[id] for id in voters.incoming)
        self._outgoing = tuple(progress[id] for id in voters.outgoing)

    def _inflights(self) -> Inflights:
        return Inflights(self.max_inflight_msgs, self.max_inflight_bytes)

    # --- quorums ---

    def committed(self) -> int:
        """The highest index that a quorum (of both halves) has. Only while there are voters."""
        voters = self.members.voters
        index: int = sorted(map(_MATCH, self._incoming))[voters.incoming.rank]
        if self._outgoing:
            index = min(index, sorted(map(_MATCH, self._outgoing))[voters.outgoing.rank])
        return index

    def quorum_active(self) -> bool:
        """Whether a quorum was heard from since the last such question (thesis §6.2)."""
        active = {id: p.recent_active for id, p in self.progress.items() if not p.is_learner}
        return self.members.voters.vote_result(active) is VoteResult.WON

    def record_vote(self, id: int, granted: bool) -> None:
        """The first word counts."""
        self.votes.setdefault(id, granted)

    def tally(self) -> tuple[int, int, VoteResult]:
        """(granted, rejected, outcome); the counts are for people, and of voters only."""
        cast = [self.votes[id] for id in self.members.voters.ids if id in self.votes]
        granted = sum(cast)
        return granted, len(cast) - granted, self.members.voters.vote_result(self.votes)
