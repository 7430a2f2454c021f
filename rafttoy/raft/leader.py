"""Leaders: append, replicate, commit, step down (thesis §3.5, §3.6; pipelining §10.2.1).

Appends go to a follower by the state of its progress (`progress.py`). What an answer changes is done before anything new is sent.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from rafttoy.errors import MalformedMessage, StorageError
from rafttoy.raft import reads
from rafttoy.raft.confchange import ConfChange, ConfChangeV2, decode_conf_change
from rafttoy.raft.entries import EntryBatch, EntryType, Payloads
from rafttoy.raft.errors import Compacted, ProposalDropped, SnapshotTemporarilyUnavailable, Unavailable
from rafttoy.raft.messages import Message, MessageType
from rafttoy.raft.progress import Progress, ProgressState
from rafttoy.raft.runs import total_payload, total_size
from rafttoy.raft.types import NONE, StateRole

if TYPE_CHECKING:
    from rafttoy.raft.core import Handler, Raft

__all__ = [
    "HANDLERS",
    "announce_commit",
    "append",
    "broadcast_append",
    "maybe_send_append",
    "propose",
    "propose_conf_change",
    "send_heartbeat",
    "tick",
]

_M = MessageType
_APP, _APP_RESP, _HEARTBEAT = _M.APP, _M.APP_RESP, _M.HEARTBEAT
_PROBE, _REPLICATE, _SNAPSHOT = ProgressState.PROBE, ProgressState.REPLICATE, ProgressState.SNAPSHOT
_NORMAL = EntryType.NORMAL


# --- time ---


def tick(r: Raft) -> None:
    r.heartbeat_elapsed += 1
    r.election_elapsed += 1
    if r.election_elapsed >= r.election_timeout:
        r.election_elapsed = 0
        if r.check_quorum:
            on_check_quorum(r)
        r.lead_transferee = NONE  # a transfer that takes longer than this has failed (thesis §3.10)
    if r.role is StateRole.LEADER and r.heartbeat_elapsed >= r.heartbeat_timeout:
        r.heartbeat_elapsed = 0
        r.broadcast_heartbeat(r.reads.last_context())


def on_check_quorum(r: Raft) -> None:
    """Steps down if a quorum is out of reach, so that clients look elsewhere (thesis §6.2)."""
    others = r.tracker.others
    if not r.tracker.quorum_active():
        if r.trace is not None:
            r.trace(f"{r.id} steps down at term {r.term}: no quorum was heard from for an election timeout")
        r.become_follower(r.term, NONE)
        others = r.tracker.others
    for _, progress in others:
        progress.recent_active = False


# --- proposals ---


def propose(r: Raft, payloads: Payloads) -> EntryBatch:
    """Appends to the log and sends on. Raises ProposalDropped."""
    _check_may_propose(r)
    log = r.log
    last_term = log.last_term
    batch = EntryBatch.encode(log.last_index + 1, r.term, _NORMAL, payloads)
    entries = [batch]
    append(r, entries)
    for id, progress in r.tracker.others:
        if progress.streams_from(batch.first) and batch.size <= r.max_msg_size:
            _send_append(r, id, progress, last_term, entries, batch.count, batch.size)
        else:
            maybe_send_append(r, id, progress)
    return batch


def propose_conf_change(r: Raft, by: ConfChange | ConfChangeV2, data: bytes) -> EntryBatch:
    """As `propose`, `data` being the change encoded. One that may not be made now becomes an entry without data, so that the log
    tells that it was refused."""
    _check_may_propose(r)
    batch = _place_conf_change(r, by, data, r.log.last_index + 1)
    append(r, [batch])
    broadcast_append(r)
    return batch


def _check_may_propose(r: Raft) -> None:
    if r.id not in r.tracker.progress:
        raise ProposalDropped(f"{r.id} leads, but is no member any more")
    if r.lead_transferee != NONE:
        raise ProposalDropped(f"leadership is being transferred to {r.lead_transferee}")


def on_prop(r: Raft, m: Message) -> None:
    """Proposals handed on by a follower."""
    if not m.entries:
        raise MalformedMessage(f"a proposal without entries from {m.from_}")
    _check_may_propose(r)
    changes = [  # all decoded before the first one counts as pending
        [(decode_conf_change(batch.type, data), data) for data in batch.payloads()] if batch.type is not _NORMAL else []
        for batch in m.entries
    ]
    placed: list[EntryBatch] = []
    first = r.log.last_index + 1
    for batch, decoded in zip(m.entries, changes, strict=True):
        if batch.type is _NORMAL:
            placed.append(EntryBatch.encode(first, r.term, _NORMAL, batch.to_payloads()))
        else:
            placed += [_place_conf_change(r, by, data, index) for index, (by, data) in enumerate(decoded, first)]
        first += batch.count
    append(r, placed)
    broadcast_append(r)


def _place_conf_change(r: Raft, by: ConfChange | ConfChangeV2, data: bytes, index: int) -> EntryBatch:
    """One change at a time: none is proposed while one may be unapplied (thesis §4.1), only leaving follows entering."""
    joint, leaves = r.tracker.members.voters.is_joint, not by.as_v2().changes
    refused = None
    if r.pending_conf_index > r.log.applied:
        refused = f"one at index {r.pending_conf_index} may be unapplied (applied to {r.log.applied})"
    elif joint and not leaves:
        refused = "the joint configuration must be left first"
    elif leaves and not joint:
        refused = "there is no joint configuration to leave"
    if refused is not None and not r.disable_conf_change_validation:
        if r.trace is not None:
            r.trace(f"{r.id} refuses {by} at {r.tracker.members}: {refused}")
        return EntryBatch.empty(index, r.term)
    r.pending_conf_index = index
    return EntryBatch.encode(index, r.term, by.entry_type, Payloads.of([data]))


def append(r: Raft, batches: Sequence[EntryBatch]) -> None:
    """Raises ProposalDropped when too much is uncommitted. Entries without data are never refused."""
    size = total_payload(batches)
    if size:
        uncommitted = r.uncommitted_size
        if uncommitted and uncommitted + size > r.max_uncommitted_size:
            raise ProposalDropped(f"{uncommitted} uncommitted bytes and {size} more exceed {r.max_uncommitted_size}")
        r.uncommitted_size = uncommitted + size
    last = r.log.append(batches)
    # Told to itself once durable: only then does the own append count.
    r.msgs_after_append.append(Message(_APP_RESP, r.id, r.id, r.term, 0, last))


# --- sending ---


def broadcast_append(r: Raft) -> None:
    """To everyone who is not paused; without entries it carries the commit index."""
    for id, progress in r.tracker.others:
        maybe_send_append(r, id, progress)


def announce_commit(r: Raft) -> None:
    """To those who can commit more than they were told of."""
    committed = r.log.committed
    for id, progress in r.tracker.others:
        if progress.can_bump_commit(committed):
            maybe_send_append(r, id, progress)


def maybe_send_append(r: Raft, to: int, progress: Progress, *, send_if_empty: bool = True) -> bool:
    """Sends what the follower lacks, or a snapshot if that was compacted. False if nothing was sent."""
    if progress.flow_paused or progress.state is _SNAPSHOT:
        return False
    log = r.log
    next = progress.next
    try:
        prev_term = log.term(next - 1)
    except (Compacted, Unavailable):
        return _maybe_send_snapshot(r, to, progress)
    entries: list[EntryBatch] = []
    if next <= log.last_index and (progress.state is not _REPLICATE or not progress.inflights.full):
        try:
            entries = log.entries(next, r.max_msg_size)
        except Compacted:
            return send_if_empty and _maybe_send_snapshot(r, to, progress)
    if entries:
        count, size = entries[-1].last + 1 - next, total_size(entries)
    elif send_if_empty:
        count = size = 0
    else:
        return False
    _send_append(r, to, progress, prev_term, entries, count, size)
    return True


def _send_append(r: Raft, to: int, progress: Progress, prev_term: int, entries: Sequence[EntryBatch], count: int, size: int) -> None:
    """`count` entries of `size` bytes from `progress.next` on."""
    committed = r.log.committed
    r.msgs.append(Message(_APP, to, r.id, r.term, prev_term, progress.next - 1, entries, committed))
    progress.sent_entries(count, size)
    progress.sent_commit = committed


def _maybe_send_snapshot(r: Raft, to: int, progress: Progress) -> bool:
    if not progress.recent_active:  # likely down: a snapshot is too large to send on the off chance
        return False
    try:
        snapshot = r.log.snapshot()
    except SnapshotTemporarilyUnavailable:
        return False
    if not snapshot.index:
        raise StorageError(f"the log begins at {r.log.first_index()}, yet there is no snapshot of what came before")
    progress.become_snapshot(snapshot.index)
    if r.trace is not None:
        r.trace(f"{r.id} sends {to} the snapshot {snapshot.term}/{snapshot.index} [{progress}]")
    r.msgs.append(Message(_M.SNAP, to, r.id, r.term, snapshot=snapshot))
    return True


def send_heartbeat(r: Raft, to: int, progress: Progress, context: bytes) -> None:
    """With the commit index as far as the follower is known to match: beyond, its log may be another one."""
    commit = min(progress.match, r.log.committed)
    r.msgs.append(Message(_HEARTBEAT, to, r.id, r.term, commit=commit, context=context))
    progress.sent_commit = commit


# --- answers ---


def on_append_resp(r: Raft, m: Message) -> None:
    progress = r.tracker.progress.get(m.from_)
    if progress is None:
        return
    if m.reject:
        progress.recent_active = True
        _on_append_rejected(r, m, progress)
        return
    index, log = m.index, r.log
    if index > log.last_index:
        raise MalformedMessage(f"{m.from_} acknowledges entry {index}, the last one is {log.last_index}")
    progress.recent_active = True
    state = progress.state
    if not progress.maybe_update(index) and not (index == progress.match and state is _PROBE):
        return
    if state is _PROBE:
        progress.become_replicate()
    elif state is _SNAPSHOT and progress.match + 1 >= log.first_index():
        # Whatever snapshot it applied, from whomever: the log reaches on from there. Probing first takes the snapshot into account.
        progress.become_probe()
        progress.become_replicate()
        if r.trace is not None:
            r.trace(f"{r.id} resumes sending to {m.from_} after a snapshot [{progress}]")

    if index > log.committed and r.maybe_commit():
        if r.postponed_reads:
            reads.release_postponed(r)
        if not r.skip_commit_broadcast:
            broadcast_append(r)
    elif not r.skip_commit_broadcast and m.from_ != r.id and progress.can_bump_commit(log.committed):
        maybe_send_append(r, m.from_, progress)
    if m.from_ == r.id:
        return
    # The window may have room for several messages now, or a probe has turned into replication.
    while progress.next <= log.last_index and maybe_send_append(r, m.from_, progress, send_if_empty=False):
        pass
    if m.from_ == r.lead_transferee and progress.match == log.last_index:
        r.send(Message(_M.TIMEOUT_NOW, m.from_, r.id, r.term))


def _on_append_rejected(r: Raft, m: Message, progress: Progress) -> None:
    """The follower's log does not match at m.index. It suggests m.reject_hint, where its term is m.log_term.

    An index whose term here is later than that cannot match either: terms only grow along the follower's log, so at or below the hint
    it has none as late. Skip to the last index here with at most that term. With the follower doing the same on its side, a
    probe costs at most one round trip a term, however long the diverging tails are."""
    hint = m.reject_hint
    if m.log_term:
        hint, _ = r.log.find_conflict_by_term(hint, m.log_term)
    if progress.maybe_decrease(m.index, hint):
        if progress.state is _REPLICATE:
            progress.become_probe()
        if r.trace is not None:
            r.trace(f"{r.id} was rejected by {m.from_} at {m.index}, hint {m.log_term}/{m.reject_hint}: [{progress}]")
        maybe_send_append(r, m.from_, progress)


def on_heartbeat_resp(r: Raft, m: Message) -> None:
    """The follower lives: one append may be sent even if the window is full or a probe was lost, lest both wait for ever. A follower
    that lacks nothing but is probed gets an empty one, whose answer puts it back into REPLICATE."""
    progress = r.tracker.progress.get(m.from_)
    if progress is None:
        return
    progress.recent_active = True
    progress.flow_paused = False
    if progress.match < r.log.last_index or progress.state is _PROBE:
        maybe_send_append(r, m.from_, progress)
    if m.context:
        reads.on_heartbeat_context(r, m)


def on_snap_status(r: Raft, m: Message) -> None:
    """The application tells how sending a snapshot went. Either way the next append waits: for the follower's answer if it went
    well, for a heartbeat interval if not."""
    progress = r.tracker.progress.get(m.from_)
    if progress is None or progress.state is not _SNAPSHOT:
        return
    if m.reject:
        progress.pending_snapshot = 0  # before probing, which would begin behind it
    progress.become_probe()
    progress.flow_paused = True
    if r.trace is not None:
        r.trace(f"{r.id}: the snapshot for {m.from_} {'failed' if m.reject else 'was sent'} [{progress}]")


def on_unreachable(r: Raft, m: Message) -> None:
    """Appends in flight are likely lost: find out how far they got."""
    progress = r.tracker.progress.get(m.from_)
    if progress is not None and progress.state is _REPLICATE:
        progress.become_probe()
        if r.trace is not None:
            r.trace(f"{r.id} could not reach {m.from_} [{progress}]")


def on_transfer_leader(r: Raft, m: Message) -> None:
    """To m.from_ (thesis §3.10): bring it up to date, then tell it to campaign at once. Proposals are dropped meanwhile."""
    to = m.from_
    progress = r.tracker.progress.get(to)
    if progress is None or progress.is_learner or to == r.lead_transferee:
        return
    r.lead_transferee = NONE  # a later request replaces an earlier one
    if to == r.id:
        return
    if r.trace is not None:
        r.trace(f"{r.id} transfers leadership to {to} at term {r.term}")
    r.election_elapsed = 0  # it has one election timeout
    r.lead_transferee = to
    if progress.match == r.log.last_index:
        r.send(Message(_M.TIMEOUT_NOW, to, r.id, r.term))
    else:
        maybe_send_append(r, to, progress)


def _on_beat(r: Raft, _m: Message) -> None:
    r.broadcast_heartbeat(r.reads.last_context())


def _on_check_quorum(r: Raft, _m: Message) -> None:
    on_check_quorum(r)


HANDLERS: dict[MessageType, Handler] = {
    _M.BEAT: _on_beat,
    _M.CHECK_QUORUM: _on_check_quorum,
    _M.PROP: on_prop,
    _M.READ_INDEX: reads.on_read_index,
    _M.APP_RESP: on_append_resp,
    _M.HEARTBEAT_RESP: on_heartbeat_resp,
    _M.SNAP_STATUS: on_snap_status,
    _M.UNREACHABLE: on_unreachable,
    _M.TRANSFER_LEADER: on_transfer_leader,
}
