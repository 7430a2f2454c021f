"""Candidates and pre-candidates: count votes, yield to a leader."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafttoy.raft import election, follower, leader
from rafttoy.raft.errors import ProposalDropped
from rafttoy.raft.messages import Message, MessageType
from rafttoy.raft.quorum import VoteResult
from rafttoy.raft.types import NONE, StateRole

if TYPE_CHECKING:
    from rafttoy.raft.core import Raft

__all__ = ["HANDLERS", "on_vote_resp"]

_M = MessageType


def on_vote_resp(r: Raft, m: Message) -> None:
    """A voter's answer, or this node's own, now that it is durable."""
    r.tracker.record_vote(m.from_, not m.reject)
    granted, rejected, result = r.tracker.tally()
    if r.trace is not None:
        r.trace(f"{r.id} has {granted} granted and {rejected} rejected of {m.type.name} at term {r.term}, last from {m.from_}")
    if result is VoteResult.WON:
        if r.role is StateRole.PRE_CANDIDATE:
            election.campaign(r, pre_vote=False)
        elif r.tracker.votes.get(r.id):
            # Its own vote is among them, so its term is durable. etcd/raft leads without: with asynchronous writes the others' votes
            # may come first, and what leads then, fails and restarts in the term before may win the same term again, and fill the
            # same indexes with other entries.
            r.become_leader()
            leader.broadcast_append(r)
    elif result is VoteResult.LOST:
        r.become_follower(r.term, NONE)


def _on_prop(r: Raft, _m: Message) -> None:
    raise ProposalDropped(f"no leader at term {r.term}")


def _on_leader(r: Raft, m: Message) -> None:
    """Somebody leads this very term."""
    r.become_follower(m.term, m.from_)
    follower.HANDLERS[m.type](r, m)


HANDLERS = {_M.PROP: _on_prop, _M.APP: _on_leader, _M.HEARTBEAT: _on_leader, _M.SNAP: _on_leader}
