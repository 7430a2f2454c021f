"""Linearizable reads without a log entry (thesis §6.4).

Rule 1: a leader answers only once an entry of its own term is committed; until then requests wait. Rule 2: SAFE reads are confirmed
when a quorum has answered a heartbeat sent after the request; the heartbeat carries the request's context, and confirming one
request confirms those before it. Rule 3: LEASE_BASED reads trust CheckQuorum's lease and are answered at once.
A context names its request: it must be unique among those waiting, and not empty.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafttoy.raft.config import ReadOnlyOption
from rafttoy.raft.messages import Message, MessageType
from rafttoy.raft.quorum import VoteResult
from rafttoy.raft.types import NONE, ReadState

if TYPE_CHECKING:
    from rafttoy.raft.core import Raft

__all__ = ["PendingReads", "on_heartbeat_context", "on_read_index", "release_postponed"]


class _Read:
    __slots__ = ("acks", "index", "request")

    def __init__(self, request: Message, index: int) -> None:
        self.request, self.index = request, index
        self.acks: dict[int, bool] = {}


class PendingReads:
    """Requests of this term that wait for a quorum's heartbeat responses, in order."""

    __slots__ = ("waiting",)

    def __init__(self) -> None:
        self.waiting: dict[bytes, _Read] = {}

    def last_context(self) -> bytes:
        """What the next ordinary heartbeat should carry: it may confirm all that wait."""
        return next(reversed(self.waiting), b"")

    def add(self, request: Message, index: int) -> None:
        """A context that is waiting already is not added again."""
        self.waiting.setdefault(request.context, _Read(request, index))

    def ack(self, id: int, context: bytes) -> dict[int, bool]:
        """Who has confirmed that request so far; nobody if it does not wait (any more)."""
        read = self.waiting.get(context)
        if read is None:
            return {}
        read.acks[id] = True
        return read.acks

    def release(self, context: bytes) -> list[_Read]:
        """Takes out that request and those before it."""
        if context not in self.waiting:
            return []
        out = []
        for waiting in list(self.waiting):
            out.append(self.waiting.pop(waiting))
            if waiting == context:
                break
        return out


def on_read_index(r: Raft, m: Message) -> None:
    """A leader was asked, by its own application or by a follower."""
    if r.committed_in_term():
        _confirm(r, m)
    else:
        r.postponed_reads.append(m)


def release_postponed(r: Raft) -> None:
    """The term has its first commit: requests that waited for it go on."""
    postponed, r.postponed_reads = r.postponed_reads, []
    for m in postponed:
        _confirm(r, m)


def on_heartbeat_context(r: Raft, m: Message) -> None:
    """A follower answered a heartbeat that carried a request's context."""
    if r.read_only_option is not ReadOnlyOption.SAFE:
        return
    acks = r.reads.ack(m.from_, m.context)
    if r.tracker.members.voters.vote_result(acks) is VoteResult.WON:
        for read in r.reads.release(m.context):
            _answer(r, read.request, read.index)


def _confirm(r: Raft, m: Message) -> None:
    """What is committed by now is to be confirmed, unless that takes nobody else: by lease, or where this node is the only voter.

    etcd/raft answers for an only voter before it looks at the term, and whoever that voter is. But a voter that was left alone and has
    just elected itself may hold entries that the leader before it committed with its help and that it does not yet know to be
    committed (rule 1); and a leader that removed itself is no voter while it goes on leading."""
    voters = r.tracker.members.voters
    if r.read_only_option is ReadOnlyOption.LEASE_BASED or (voters.is_singleton and r.id in voters):
        _answer(r, m, r.log.committed)
        return
    r.reads.add(m, r.log.committed)
    r.reads.ack(r.id, m.context)
    r.broadcast_heartbeat(m.context)


def _answer(r: Raft, request: Message, index: int) -> None:
    if request.from_ in (NONE, r.id):
        r.read_states.append(ReadState(index, request.context))
    else:
        r.send(Message(MessageType.READ_INDEX_RESP, to=request.from_, term=r.term, index=index, context=request.context))
