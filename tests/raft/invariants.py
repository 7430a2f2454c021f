"""What Raft promises (thesis fig. 3.2), checked on a whole group from the outside.

    election safety        at most one leader a term
    log matching           an entry has one content and one predecessor, whatever log it is in: so logs that share an entry share a prefix
    leader completeness    a leader has every entry committed before
    state-machine safety   every node applies the same entries in the same order
and, besides: a commit index does not go back while a process runs, and a read sees what was committed before it was asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rafttoy.raft import EntryBatch, Snapshot, StateRole

if TYPE_CHECKING:
    from tests.raft.hosts import Host

__all__ = ["InvariantViolated", "Invariants"]


class InvariantViolated(AssertionError):
    """What Raft promises did not hold."""


def frames(batch: EntryBatch) -> list[bytes]:
    """Each entry as it is encoded: type, term, index and data."""
    data = batch.frames
    assert isinstance(data, bytes | memoryview)
    if batch.ends is None:
        stride = batch.stride
        return [bytes(data[at : at + stride]) for at in range(0, batch.size, stride)]
    return [bytes(data[batch.offset(i) : batch.offset(i + 1)]) for i in range(batch.count)]


class Invariants:
    """What is known of the group as a whole."""

    def __init__(self, bootstrapped: int) -> None:
        """Entries 1..bootstrapped count as committed from the start, at term 1."""
        self.leaders: dict[int, int] = {}
        self.entries: dict[tuple[int, int], tuple[int, bytes]] = {}
        self.committed = dict.fromkeys(range(1, bootstrapped + 1), 1) | {0: 0}
        self.committed_in: dict[int, int] = {}  # in which term it was committed
        self.max_committed = bootstrapped
        self.state_machine: dict[int, bytes] = {}
        self.reads: dict[bytes, int] = {}
        self.read_answers = 0

    def entries_saved(self, host: Host, batches: Sequence[EntryBatch]) -> None:
        """Log matching, by induction: each (term, index) has one content and one predecessor's term."""
        assert host.node is not None
        known = self.entries
        first = batches[0].first
        before = host.disk.term(first - 1) if host.disk.first_index() <= first <= host.disk.last_index() + 1 else None
        if before is None:
            raise InvariantViolated(f"log matching: {host.id} saves {first} into {host.disk.first_index()}..{host.disk.last_index()}")
        for batch in batches:
            for index, frame in enumerate(frames(batch), batch.first):
                entry = (before, frame)
                if known.setdefault((batch.term, index), entry) != entry:
                    raise InvariantViolated(
                        f"log matching: {batch.term}/{index} is {entry} on {host.id}, {known[batch.term, index]} elsewhere"
                    )
                before = batch.term

    def entries_applied(self, host: Host, batch: EntryBatch) -> None:
        if batch.first != host.applied + 1:
            raise InvariantViolated(f"state-machine safety: {host.id} applies {batch.first} after {host.applied}")
        machine = self.state_machine
        for index, frame in enumerate(frames(batch), batch.first):
            if machine.setdefault(index, frame) != frame:
                raise InvariantViolated(f"state-machine safety: {host.id} applies {frame!r} at {index}, elsewhere {machine[index]!r}")

    def snapshot_saved(self, snapshot: Snapshot) -> None:
        if self.committed.get(snapshot.index) != snapshot.term:
            raise InvariantViolated(f"state-machine safety: snapshot {snapshot.term}/{snapshot.index}, committed {self.committed}")

    def happened(self, host: Host) -> None:
        """After anything that happened on that host."""
        node = host.node
        assert node is not None
        r = node.raft
        log = r.log
        commit = log.committed
        if commit != host.commit:
            if commit < host.commit:
                raise InvariantViolated(f"commit index of {host.id} went from {host.commit} back to {commit}")
            self._check_commit(host, commit)
            host.commit = commit
        role = r.role
        if role is not host.role:
            host.role = role
            if role is StateRole.LEADER:
                self._check_leader(host)
        for state in r.read_states:
            if state.index < self.reads[state.request_ctx]:
                raise InvariantViolated(f"a read on {host.id} sees {state.index}, before it {self.reads[state.request_ctx]} was committed")

    def _check_commit(self, host: Host, commit: int) -> None:
        assert host.node is not None
        log, known = host.node.raft.log, self.committed
        term = log.term(commit)
        if commit <= self.max_committed:
            if known[commit] != term:
                raise InvariantViolated(
                    f"leader completeness: {host.id} commits {term}/{commit}, elsewhere it was {known[commit]}/{commit}"
                )
            return
        low = self.max_committed
        here = log.term_or_zero(low)
        if here not in (known[low], 0):
            raise InvariantViolated(f"leader completeness: {host.id} commits {commit} behind {here}/{low}, which was {known[low]}/{low}")
        for index in range(low + 1, commit + 1):
            known[index] = log.term(index)
            self.committed_in[index] = host.node.term
        self.max_committed = commit

    def _check_leader(self, host: Host) -> None:
        assert host.node is not None
        r = host.node.raft
        if self.leaders.setdefault(r.term, host.id) != host.id:
            raise InvariantViolated(f"election safety: {self.leaders[r.term]} and {host.id} lead term {r.term}")
        at = self.max_committed
        while self.committed_in.get(at, 0) >= r.term:  # committed by a later leader: this one was elected late, by votes of before
            at -= 1
        if r.log.last_index < at or (at >= r.log.first_index() and r.log.term(at) != self.committed[at]):
            raise InvariantViolated(f"leader completeness: {host.id} leads term {r.term} without {self.committed[at]}/{at}")
