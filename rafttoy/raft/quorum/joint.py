"""Two sets of voters, both of which must agree (thesis §4.3). The outgoing one is empty outside of a transition."""

from __future__ import annotations

from collections.abc import Mapping

from rafttoy.raft.quorum.majority import MajorityConfig
from rafttoy.raft.quorum.result import VoteResult

__all__ = ["JointConfig"]

_NOBODY = MajorityConfig()


class JointConfig:
    """Immutable. `ids` are all voters of either half, ascending."""

    __slots__ = ("_set", "ids", "incoming", "outgoing")

    def __init__(self, incoming: MajorityConfig = _NOBODY, outgoing: MajorityConfig = _NOBODY) -> None:
        self.incoming, self.outgoing = incoming, outgoing
        self._set = frozenset((*incoming, *outgoing))
        self.ids = tuple(sorted(self._set))

    def __contains__(self, id: int) -> bool:
        return id in self._set

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JointConfig) and (self.incoming, self.outgoing) == (other.incoming, other.outgoing)

    def __hash__(self) -> int:
        return hash((self.incoming, self.outgoing))

    def __str__(self) -> str:
        return f"{self.incoming}&&{self.outgoing}" if self.outgoing else str(self.incoming)

    @property
    def is_joint(self) -> bool:
        return len(self.outgoing) > 0

    @property
    def is_singleton(self) -> bool:
        """One voter and no transition: its own word is the quorum's."""
        return len(self.incoming) == 1 and not self.outgoing

    def committed_index(self, acked: Mapping[int, int]) -> int:
        """What both halves have committed."""
        return min(self.incoming.committed_index(acked), self.outgoing.committed_index(acked))

    def vote_result(self, votes: Mapping[int, bool]) -> VoteResult:
        first, second = self.incoming.vote_result(votes), self.outgoing.vote_result(votes)
        if first is second:
            return first
        if VoteResult.LOST in (first, second):
            return VoteResult.LOST
        return VoteResult.PENDING
