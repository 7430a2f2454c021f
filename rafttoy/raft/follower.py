"""Followers (and learners): take entries, heartbeats and snapshots from the leader, hand requests on to it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rafttoy.errors import MalformedMessage
from rafttoy.raft import election
from rafttoy.raft.config import ReadOnlyOption
from rafttoy.raft.errors import InvalidConfChange, ProposalDropped
from rafttoy.raft.members import Change, restore
from rafttoy.raft.messages import Message, MessageType
from rafttoy.raft.types import NONE, ReadState, Snapshot

if TYPE_CHECKING:
    from rafttoy.raft.core import Handler, Raft

__all__ = ["HANDLERS"]

_M = MessageType
_APP_RESP = MessageType.APP_RESP


def on_append(r: Raft, m: Message) -> None:
    r.election_elapsed = 0
    r.lead = m.from_
    log = r.log
    index = m.index
    if index < log.committed:  # matches as it is, and nothing before the commit index may change
        r.send_after_append(Message(_APP_RESP, m.from_, r.id, r.term, 0, log.committed))
        return
    last_new = log.maybe_append(index, m.log_term, m.entries, m.commit)
    if last_new is not None:
        r.send_after_append(Message(_APP_RESP, m.from_, r.id, r.term, 0, last_new))
        return
    # Where could the logs agree? Not at an index whose term here is later than the leader's there: skip all those at once.
    hint, hint_term = log.find_conflict_by_term(min(index, log.last_index), m.log_term)
    if r.trace is not None:
        here = log.term_or_zero(index)
        r.trace(f"{r.id} rejected {m.log_term}/{index} from {m.from_}: has term {here} there; suggests {hint_term}/{hint}")
    r.send_after_append(Message(_APP_RESP, m.from_, r.id, r.term, hint_term, index, reject=True, reject_hint=hint))


def on_heartbeat(r: Raft, m: Message) -> None:
    if m.commit > r.log.last_index:
        # The leader believes that this log reaches further: either it does not speak Raft, or this node lost durable entries.
        raise MalformedMessage(f"commit index {m.commit} from {m.from_} is past the last entry {r.log.last_index}: was the log lost?")
    r.election_elapsed = 0
    r.lead = m.from_
    r.log.commit_to(m.commit)
    r.send(Message(_M.HEARTBEAT_RESP, m.from_, r.id, r.term, context=m.context))


def on_snapshot(r: Raft, m: Message) -> None:
    snapshot = m.snapshot if m.snapshot is not None else Snapshot()
    r.election_elapsed = 0
    r.lead = m.from_
    index = r.log.last_index if _restore(r, snapshot) else r.log.committed
    r.send_after_append(Message(_APP_RESP, m.from_, r.id, r.term, 0, index))


def _restore(r: Raft, snapshot: Snapshot) -> bool:
    """Makes the snapshot the log. False if it was not needed: what it stands for is committed here, or is now."""
    log, metadata = r.log, snapshot.metadata
    if metadata.index <= log.committed:
        return False
    if r.id not in metadata.conf_state:
        if r.trace is not None:
            r.trace(f"{r.id} ignored the snapshot at {metadata.index}: it is not among its members")
        return False
    if log.matches(metadata.index, metadata.term):
        log.commit_to(metadata.index)
        return False
    try:
        members = restore(metadata.conf_state)
    except InvalidConfChange as error:
        raise MalformedMessage(f"snapshot at {metadata.index}: {error}") from None
    log.restore(snapshot)
    everyone_anew = frozenset(members.ids)
    r.tracker.votes = {}
    r.switch_to(Change(members, everyone_anew))
    if r.trace is not None:
        r.trace(f"{r.id} restores the snapshot {metadata.term}/{metadata.index}")
    return True


# --- handed on to the leader ---


def _leader_for(r: Raft, m: Message) -> int:
    if r.lead == NONE and r.trace is not None:
        r.trace(f"{r.id} dropped {m.type.name}: no leader at term {r.term}")
    return r.lead


def on_prop(r: Raft, m: Message) -> None:
    """The entries are not placed yet (term 0): the leader encodes them anew."""
    if r.lead == NONE:
        raise ProposalDropped(f"no leader at term {r.term}")
    if r.disable_proposal_forwarding:
        raise ProposalDropped(f"not forwarded to {r.lead}, the leader at term {r.term}")
    r.send(Message(_M.PROP, r.lead, m.from_ or r.id, entries=m.entries))


def on_transfer_leader(r: Raft, m: Message) -> None:
    if lead := _leader_for(r, m):
        r.send(Message(_M.TRANSFER_LEADER, lead, m.from_, r.term))


def on_read_index(r: Raft, m: Message) -> None:
    if lead := _leader_for(r, m):
        r.send(Message(_M.READ_INDEX, lead, m.from_ or r.id, context=m.context))


# --- the rest ---


def on_read_index_resp(r: Raft, m: Message) -> None:
    r.read_states.append(ReadState(m.index, m.context))


def on_timeout_now(r: Raft, m: Message) -> None:
    """The leader hands over (thesis §3.10). Without PreVote: nobody needs to be asked whether there is a leader."""
    if r.trace is not None:
        r.trace(f"{r.id} was asked by {m.from_} to take over at term {r.term}")
    election.hup(r, pre_vote=False, context=election.TRANSFER)


def on_forget_leader(r: Raft, _m: Message) -> None:
    """The application knows that the leader is gone: PreVotes may be granted at once. Not with leases, which trust that they are not."""
    if r.read_only_option is ReadOnlyOption.LEASE_BASED:
        if r.trace is not None:
            r.trace(f"{r.id} does not forget its leader: reads trust its lease")
    elif r.lead != NONE:
        if r.trace is not None:
            r.trace(f"{r.id} forgets leader {r.lead} at term {r.term}")
        r.lead = NONE


HANDLERS: dict[MessageType, Handler] = {
    _M.PROP: on_prop,
    _M.APP: on_append,
    _M.HEARTBEAT: on_heartbeat,
    _M.SNAP: on_snapshot,
    _M.TRANSFER_LEADER: on_transfer_leader,
    _M.TIMEOUT_NOW: on_timeout_now,
    _M.READ_INDEX: on_read_index,
    _M.READ_INDEX_RESP: on_read_index_resp,
    _M.FORGET_LEADER: on_forget_leader,
}
