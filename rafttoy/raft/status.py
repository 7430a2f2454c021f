"""A node's state as a value, for people and tools."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rafttoy.raft.members import Members
from rafttoy.raft.progress import Progress
from rafttoy.raft.types import HardState, SoftState, StateRole

if TYPE_CHECKING:
    from rafttoy.raft.core import Raft

__all__ = ["Status"]


@dataclass(frozen=True, slots=True)
class Status:
    """`progress` (copies) by id on a leader, {} elsewhere."""

    id: int
    hard_state: HardState
    soft_state: SoftState
    applied: int
    lead_transferee: int
    members: Members
    progress: dict[int, Progress]

    @staticmethod
    def of(r: Raft) -> Status:
        leads = r.role is StateRole.LEADER
        return Status(
            r.id,
            HardState(r.term, r.vote, r.log.committed),
            SoftState(r.lead, r.role),
            r.log.applied,
            r.lead_transferee,
            r.tracker.members,
            {id: progress.copy() for id, progress in r.tracker.progress.items()} if leads else {},
        )

    def to_json(self) -> dict[str, Any]:
        """Plain values, ready for json.dumps."""
        return {
            "id": self.id,
            "term": self.hard_state.term,
            "vote": self.hard_state.vote,
            "commit": self.hard_state.commit,
            "lead": self.soft_state.lead,
            "raft_state": self.soft_state.raft_state.name.lower(),
            "applied": self.applied,
            "progress": {str(id): {"match": p.match, "next": p.next, "state": p.state.name.lower()} for id, p in self.progress.items()},
            "lead_transferee": self.lead_transferee,
        }
