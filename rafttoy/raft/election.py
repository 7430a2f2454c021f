"""Campaigns and votes (thesis §3.4, §3.6.1; PreVote §9.6; leases §4.2.3)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafttoy.raft.messages import Message, MessageType
from rafttoy.raft.types import NONE, StateRole

if TYPE_CHECKING:
    from rafttoy.raft.core import Raft

__all__ = ["TRANSFER", "campaign", "hup", "on_hup", "on_vote", "tick"]

_M = MessageType
_RESPONSE = {_M.VOTE: _M.VOTE_RESP, _M.PRE_VOTE: _M.PRE_VOTE_RESP}

TRANSFER = b"CampaignTransfer"
"""The context of a vote request that the leader itself asked for: a lease does not stop it (thesis §4.2.3, end)."""


def tick(r: Raft) -> None:
    r.election_elapsed += 1
    if r.election_elapsed >= r.randomized_election_timeout and r.promotable:
        r.election_elapsed = 0
        hup(r, pre_vote=r.pre_vote)


def on_hup(r: Raft, _m: Message) -> None:
    hup(r, pre_vote=r.pre_vote)


def hup(r: Raft, *, pre_vote: bool, context: bytes = b"") -> None:
    """Campaigns, if it may."""
    if r.role is StateRole.LEADER:
        return
    why = None
    if not r.promotable:
        why = "it is no voter, or waits for a snapshot"
    elif r.log.has_unapplied_conf_change():
        # It might campaign with members that a committed change has replaced already.
        why = "committed configuration changes wait to be applied"
    if why is not None:
        if r.trace is not None:
            r.trace(f"{r.id} cannot campaign at term {r.term}: {why}")
        return
    campaign(r, pre_vote=pre_vote, context=context)


def campaign(r: Raft, *, pre_vote: bool, context: bytes = b"") -> None:
    """Asks every voter, itself included: its own vote counts once it is durable, as everybody's."""
    if pre_vote:
        r.become_pre_candidate()
        type, term = _M.PRE_VOTE, r.term + 1
    else:
        r.become_candidate()
        type, term = _M.VOTE, r.term
    for id in r.tracker.members.voters.ids:
        if id == r.id:
            r.send_after_append(Message(_RESPONSE[type], id, id, term))
        else:
            r.send(Message(type, id, r.id, term, r.log.last_term, r.log.last_index, context=context))


def on_vote(r: Raft, m: Message) -> None:
    """Asked for a vote, or whether it would give one. Learners are asked too, and answer: one that was promoted may not know yet,
    and its vote may be needed to elect who tells it (etcd#7625 discusses it)."""
    type = m.type
    may_vote = (
        r.vote == m.from_  # a repetition
        or (r.vote == NONE and r.lead == NONE)
        or (type is _M.PRE_VOTE and m.term > r.term)  # promises nothing
    )
    if may_vote and r.log.is_up_to_date(m.index, m.log_term):
        # With the term of the request: a pre-candidate counts answers of the term it would have, and this node's may be behind.
        r.send_after_append(Message(_RESPONSE[type], m.from_, r.id, m.term))
        if type is _M.VOTE:
            r.election_elapsed = 0
            r.vote = m.from_
        verdict = "granted"
    else:
        r.send_after_append(Message(_RESPONSE[type], m.from_, r.id, r.term, reject=True))
        verdict = "rejected"
    if r.trace is not None:
        mine = f"vote {r.vote}, last {r.log.last_term}/{r.log.last_index}"
        r.trace(f"{r.id} {verdict} {type.name} of {m.from_} (last {m.log_term}/{m.index}) at term {r.term}: {mine}")
