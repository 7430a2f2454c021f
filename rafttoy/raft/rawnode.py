"""The core's driver-facing side. The loop of an application (classic mode):

    1. Feed it: `tick()` in regular intervals, `step(m)` what arrives from others, `propose(...)` what clients want.
    2. While `has_ready()`, take `rd = ready()` and do, in this order:
       a. send those of `rd.messages` that are appends (the leader may write its disk in parallel with its followers, thesis §10.2.1);
       b. save `rd.snapshot`, `rd.entries` and `rd.hard_state`, durably if `rd.must_sync`;
       c. send the other messages: they promise what b made durable;
       d. apply `rd.snapshot`, then `rd.committed_entries`; a configuration change also through `apply_conf_change`;
       e. `advance(rd)`: what b and d did counts from now on.

With `Config.async_storage_writes` there is no `advance`: `rd.messages` then hold STORAGE_APPEND for `LOCAL_APPEND_THREAD` and
STORAGE_APPLY for `LOCAL_APPLY_THREAD`. Each is to carry out what it gets, in order, and then deliver the message's `responses`, those
to this node through `step`. A STORAGE_APPEND need not be durable unless it says `must_sync`: responses may attest to what earlier ones
made so. One with a snapshot is, and replaces the application's state, so what STORAGE_APPLYs are outstanding then are carried out first.
The fields of the Ready repeat what the messages carry.

Buffers and batches handed out are shared with the core: nobody changes them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from rafttoy.errors import ConfigError
from rafttoy.raft import follower, leader
from rafttoy.raft.confchange import ConfChange, ConfChangeType, ConfChangeV2
from rafttoy.raft.config import Config
from rafttoy.raft.core import Raft
from rafttoy.raft.entries import EntryBatch, EntryType, Payloads
from rafttoy.raft.errors import ProposalDropped, StepLocalMessage
from rafttoy.raft.messages import Message, MessageType, is_response
from rafttoy.raft.progress import Progress
from rafttoy.raft.runs import total_payload
from rafttoy.raft.status import Status
from rafttoy.raft.types import (
    EMPTY_HARD_STATE,
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfState,
    HardState,
    ReadState,
    Snapshot,
    SoftState,
    StateRole,
)
from rafttoy.raft.validate import check_message

__all__ = ["RawNode", "Ready"]

_M = MessageType
_NONE: Sequence[EntryBatch] = ()


class Ready(msgspec.Struct, eq=False, gc=False):
    """What the application has to do. See the module's text for the order.

    soft_state         None when unchanged
    hard_state         to save; None when unchanged
    read_states        reads confirmed
    entries            to save, replacing whatever stands at their indexes and behind
    snapshot           to save and apply before anything else; None when there is none
    committed_entries  to apply; they were saved before, or are in `entries`
    messages           to send; all but appends only once everything above is saved
    must_sync          whether saving hard state and entries must be durable: entries, the term or the vote are new. (A snapshot
                       always must, together with the hard state.) Whatever hard state was saved before without a sync is to be
                       durable with it: that a commit index never lags behind the entries saved after it is what makes it safe
                       to campaign with the members one has applied.
    """

    soft_state: SoftState | None = None
    hard_state: HardState | None = None
    read_states: Sequence[ReadState] = ()
    entries: Sequence[EntryBatch] = ()
    snapshot: Snapshot | None = None
    committed_entries: Sequence[EntryBatch] = ()
    messages: Sequence[Message] = ()
    must_sync: bool = False


class RawNode:
    """One member of a group. Not for several threads at once. Raises what `Raft.__init__` and `Config` raise when made."""

    __slots__ = ("_async", "_attests", "_lead", "_outstanding", "_prev_hard", "_role", "_to_self", "raft")

    def __init__(self, config: Config) -> None:
        self.raft = r = Raft(config)
        self._async = config.async_storage_writes
        self._lead, self._role = r.lead, r.role
        self._prev_hard = HardState(r.term, r.vote, r.log.committed)
        # What `advance` will do, decided when the Ready was handed out.
        self._outstanding: Ready | None = None
        self._to_self: list[Message] = []
        self._attests: tuple[int, int, int] | None = None  # (the term then, index and term of the last entry to be durable)

    def bootstrap(self, peers: Sequence[int]) -> None:
        """Starts a group on an empty storage: configuration changes that add `peers` at indexes 1..N, term 1, committed at once.
        Every member does the same. They are handed out as committed entries too, and may be applied again. ConfigError for no peers
        or a storage that is not empty."""
        r = self.raft
        if not peers:
            raise ConfigError("a group needs at least one peer to begin with")
        if r.log.last_index:
            raise ConfigError("only an empty storage can be bootstrapped")
        self._prev_hard = EMPTY_HARD_STATE  # so that the first Ready saves it
        r.become_follower(1, 0)
        changes = [ConfChange(ConfChangeType.ADD_NODE, id) for id in peers]
        r.log.append([EntryBatch.encode(1, 1, EntryType.CONF_CHANGE, Payloads.of([change.encode() for change in changes]))])
        r.log.committed = len(peers)
        for change in changes:
            r.apply_conf_change(change.as_v2())

    # --- looking ---

    @property
    def id(self) -> int:
        return self.raft.id

    @property
    def lead(self) -> int:
        return self.raft.lead

    @property
    def role(self) -> StateRole:
        return self.raft.role

    @property
    def term(self) -> int:
        return self.raft.term

    @property
    def commit(self) -> int:
        return self.raft.log.committed

    @property
    def applied(self) -> int:
        return self.raft.log.applied

    @property
    def last_index(self) -> int:
        return self.raft.log.last_index

    @property
    def conf_state(self) -> ConfState:
        return self.raft.tracker.members.conf_state()

    def status(self) -> Status:
        """A copy of everything worth showing; progress of the others on a leader only."""
        return Status.of(self.raft)

    def progress(self, id: int) -> Progress | None:
        """Of that member, live (not to be changed); None for who is none. Meaningful on a leader."""
        return self.raft.tracker.progress.get(id)

    def progresses(self) -> Iterator[tuple[int, Progress]]:
        """(id, progress) of every member, this node's own included, in ascending order of id."""
        return iter(self.raft.tracker.progress.items())

    # --- feeding ---

    def tick(self) -> None:
        self.raft.tick()

    def step(self, m: Message) -> None:
        """A message from another node, from a storage thread, or of this node to itself. Answers from who is no member are dropped.
        Raises MalformedMessage (nothing was changed, but that a later term was taken over) for what no correct peer sends, and
        ProposalDropped for a proposal that another node handed on. A transport lets nothing through that claims to come from a
        storage thread: this cannot be told here."""
        r = self.raft
        if m.from_ >= LOCAL_APPLY_THREAD:
            if not self._async or m.type not in (_M.STORAGE_APPEND_RESP, _M.STORAGE_APPLY_RESP):
                raise StepLocalMessage(f"{m.type!r} is no answer of a storage thread")
            r.step(m)
            return
        check_message(m, r.id)
        if m.from_ in r.tracker.progress or not is_response(m.type):
            r.step(m)

    def campaign(self) -> None:
        self.raft.step(Message(_M.HUP, from_=self.raft.id))

    def propose(self, payloads: Payloads) -> EntryBatch:
        """Appends to the leader's log: the batch with the index and term it was given. On a follower that forwards, the batch has term
        and index 0 and is on its way to the leader. Raises ProposalDropped."""
        r = self.raft
        if r.role is StateRole.LEADER:
            return leader.propose(r, payloads)
        return self._forward(EntryType.NORMAL, payloads)

    def propose_conf_change(self, change: ConfChange | ConfChangeV2) -> EntryBatch:
        """As `propose`. A leader that refuses the change (one is pending, or it does not fit the configuration) appends an entry of
        type NORMAL without data in its place."""
        r = self.raft
        if r.role is StateRole.LEADER:
            return leader.propose_conf_change(r, change, change.encode())
        return self._forward(change.entry_type, Payloads.of([change.encode()]))

    def _forward(self, type: EntryType, payloads: Payloads) -> EntryBatch:
        r = self.raft
        if r.role is not StateRole.FOLLOWER:
            raise ProposalDropped(f"no leader at term {r.term}")
        batch = EntryBatch.encode(0, 0, type, payloads)
        follower.on_prop(r, Message(_M.PROP, from_=r.id, entries=(batch,)))
        return batch

    def apply_conf_change(self, change: ConfChange | ConfChangeV2) -> ConfState:
        """For every configuration change among the committed entries, unless the application rejects it. Returns the members from now on,
        to be saved with the next snapshot. Raises InvalidConfChange if it cannot follow the present members."""
        return self.raft.apply_conf_change(change.as_v2())

    def commit_announcements(self) -> Sequence[Message]:
        """With `skip_commit_broadcast`, before the application waits: what tells the others of the commit index, to be sent at once.
        Nothing while messages wait for the next Ready, behind which these belong."""
        r = self.raft
        if r.role is not StateRole.LEADER or r.msgs:
            return ()
        leader.announce_commit(r)
        messages, r.msgs = r.msgs, []
        return messages

    def read_index(self, context: bytes) -> None:
        """Asks for a linearizable read. `context`, unique among those waiting and not empty, comes back in a ReadState; never, if there is
        no leader or it changes: ask again."""
        self.raft.step(Message(_M.READ_INDEX, context=context))

    def transfer_leader(self, to: int) -> None:
        self.raft.step(Message(_M.TRANSFER_LEADER, from_=to))

    def forget_leader(self) -> None:
        """A follower: there is no leader any more, as far as is known. Ignored with lease-based reads."""
        self.raft.step(Message(_M.FORGET_LEADER))

    def report_unreachable(self, id: int) -> None:
        """The last message to `id` did not arrive."""
        self.raft.step(Message(_M.UNREACHABLE, from_=id))

    def report_snapshot(self, id: int, *, ok: bool) -> None:
        """The snapshot sent to `id` arrived, or did not. Must be told, or nothing else is sent to it until it answers by itself."""
        self.raft.step(Message(_M.SNAP_STATUS, from_=id, reject=not ok))

    # --- Ready ---

    def has_ready(self) -> bool:
        r = self.raft
        if r.msgs or r.msgs_after_append:
            return True
        log = r.log
        unstable, hard = log.unstable, self._prev_hard
        return (
            log.committed != hard.commit
            or (unstable.batches and unstable.in_progress <= unstable.batches[-1].last)
            or (log.applying < log.committed and log.has_next_committed(not self._async))
            or r.term != hard.term
            or r.vote != hard.vote
            or r.role is not self._role
            or r.lead != self._lead
            or (unstable.snapshot is not None and not unstable.snapshot_in_progress)
            or len(r.read_states) > 0
        )

    def ready(self) -> Ready:
        """What there is to do. From now on it counts as being done."""
        r = self.raft
        log = r.log
        unstable = log.unstable
        soft = hard = None
        if r.lead != self._lead or r.role is not self._role:
            self._lead, self._role = r.lead, r.role
            soft = SoftState(r.lead, r.role)
        term, vote, commit, before = r.term, r.vote, log.committed, self._prev_hard
        must_sync = term != before.term or vote != before.vote
        if must_sync or commit != before.commit:
            hard = self._prev_hard = HardState(term, vote, commit)
        entries = committed = _NONE
        if unstable.batches:
            entries = unstable.take()
            must_sync = must_sync or len(entries) > 0
        if log.applying < commit:
            committed = log.take_committed(not self._async)
        messages, r.msgs = r.msgs, []
        rd = Ready(soft, hard, (), entries, None, committed, messages, must_sync)
        if r.read_states:
            rd.read_states, r.read_states = r.read_states, []
        if unstable.snapshot is not None:
            rd.snapshot = unstable.take_snapshot()
        after, r.msgs_after_append = r.msgs_after_append, []
        if self._async:
            self._add_storage_messages(rd, messages, after)
            return rd
        assert self._outstanding is None, "advance was not called"
        self._outstanding = rd
        for m in after:
            (messages if m.to != r.id else self._to_self).append(m)
        if unstable.batches:
            self._attests = (term, log.last_index, log.last_term)
        return rd

    def advance(self, rd: Ready) -> None:
        """The application has done what `rd`, the last Ready, asked for. Not with `async_storage_writes`."""
        assert not self._async, "with async_storage_writes the storage threads' responses take the place of advance"
        assert rd is self._outstanding, "that is not the last Ready"
        r = self.raft
        self._outstanding = None
        # First the own acknowledgment, while the entries' terms are found at the log's unstable end.
        if self._to_self:
            messages, self._to_self = self._to_self, []
            for m in messages:
                r.step(m)
        if self._attests is not None:
            term, index, log_term = self._attests
            self._attests = None
            if term == r.term:  # see `_append_response`
                r.stable_to(index, log_term)
        if rd.snapshot is not None:
            r.applied_snapshot(rd.snapshot)
        applied = rd.committed_entries
        if applied:
            r.applied_to(applied[-1].last, r.log.applying_bytes)  # one Ready is out at a time
            if r.uncommitted_size:
                r.reduce_uncommitted(total_payload(applied))

    def _append_response(self, rd: Ready) -> Message | None:
        """Attests, once the storage has done all it was given so far, that it holds the log up to the last index of now.

        An attestation counts only in the term it was made in (`Raft.step` drops it otherwise). Entries may be overwritten, and
        overwritten back to the same term and index, while appends wait in line: an old append of the same entry would then be taken for
        the new one, though the storage is still to write the one in between (an ABA problem). Within one term a log's end is not
        replaced, so an attestation of the present term is about what is here. Since late ones are dropped, each made while anything is
        unstable attests to the whole log, not just to its own entries: each change of term writes a hard state, thus makes one."""
        r = self.raft
        log = r.log
        if log.unstable.batches:
            index, log_term = log.last_index, log.last_term
        elif rd.snapshot is not None:
            index = log_term = 0
        else:
            return None
        return Message(_M.STORAGE_APPEND_RESP, r.id, LOCAL_APPEND_THREAD, r.term, log_term, index, snapshot=rd.snapshot)

    def _add_storage_messages(self, rd: Ready, messages: list[Message], after: list[Message]) -> None:
        r = self.raft
        if rd.entries or rd.hard_state is not None or rd.snapshot is not None or after:
            response = self._append_response(rd)
            if response is not None:
                after.append(response)  # behind the own acknowledgment, see `advance`
            hard = rd.hard_state or EMPTY_HARD_STATE
            messages.append(
                Message(
                    _M.STORAGE_APPEND,
                    LOCAL_APPEND_THREAD,
                    r.id,
                    hard.term,
                    entries=rd.entries,
                    commit=hard.commit,
                    vote=hard.vote,
                    snapshot=rd.snapshot,
                    responses=after,
                    must_sync=rd.must_sync,
                )
            )
        if rd.committed_entries:
            done = Message(_M.STORAGE_APPLY_RESP, r.id, LOCAL_APPLY_THREAD, entries=rd.committed_entries)
            messages.append(Message(_M.STORAGE_APPLY, LOCAL_APPLY_THREAD, r.id, entries=rd.committed_entries, responses=(done,)))
