"""The state of one node, its transitions, and what happens to a message before its role sees it.

What a message does is looked up by role and type: `leader.py`, `follower.py` and `candidate.py` hold those tables, one function a
message. Rule 1: `step` and `tick` only change this state and queue messages. Rule 2: a message that promises something (a vote, an
accepted append) goes to `msgs_after_append`: it may leave only once what it promises is durable. That holds for what a node says
to itself too, so a leader counts its own append only once it is durable (etcd#14370 is what happens otherwise).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress

from rafttoy.errors import ConfigError, StorageError
from rafttoy.raft import candidate, election, follower, leader
from rafttoy.raft.confchange import ConfChangeV2
from rafttoy.raft.config import Config, Trace
from rafttoy.raft.entries import EntryBatch
from rafttoy.raft.errors import ProposalDropped
from rafttoy.raft.log import RaftLog
from rafttoy.raft.members import Change, change, restore
from rafttoy.raft.messages import Message, MessageType
from rafttoy.raft.reads import PendingReads
from rafttoy.raft.tracker import Tracker
from rafttoy.raft.types import EMPTY_HARD_STATE, NONE, ConfState, ReadState, Snapshot, StateRole

__all__ = ["Raft"]

_FOLLOWER, _CANDIDATE, _LEADER, _PRE_CANDIDATE = StateRole
_M = MessageType
_APP, _HEARTBEAT, _SNAP, _PRE_VOTE, _VOTE = _M.APP, _M.HEARTBEAT, _M.SNAP, _M.PRE_VOTE, _M.VOTE


Handler = Callable[["Raft", Message], None]
"""What a role does with a message of one type."""


class Raft:
    """One node. `RawNode` is the way in; this class trusts its callers."""

    __slots__ = (
        "check_quorum",
        "disable_conf_change_validation",
        "disable_proposal_forwarding",
        "draws",
        "election_elapsed",
        "election_timeout",
        "heartbeat_elapsed",
        "heartbeat_timeout",
        "id",
        "lead",
        "lead_transferee",
        "log",
        "max_msg_size",
        "max_uncommitted_size",
        "msgs",
        "msgs_after_append",
        "pending_conf_index",
        "postponed_reads",
        "pre_vote",
        "random_timeout",
        "randomized_election_timeout",
        "read_only_option",
        "read_states",
        "reads",
        "role",
        "skip_commit_broadcast",
        "step_down_on_removal",
        "term",
        "trace",
        "tracker",
        "uncommitted_size",
        "vote",
    )

    def __init__(self, config: Config) -> None:
        """Raises ConfigError or StorageError if what was stored contradicts itself or `config.applied`."""
        self.id = config.id
        self.log = RaftLog(config.storage, config.applying_limit)
        self.tracker = Tracker(config.id, config.max_inflight_msgs, config.inflight_bytes_limit)
        self.max_msg_size = config.max_size_per_msg
        self.max_uncommitted_size = config.uncommitted_limit
        self.election_timeout = config.election_tick
        self.heartbeat_timeout = config.heartbeat_tick
        self.check_quorum = config.check_quorum
        self.pre_vote = config.pre_vote
        self.read_only_option = config.read_only_option
        self.disable_proposal_forwarding = config.disable_proposal_forwarding
        self.disable_conf_change_validation = config.disable_conf_change_validation
        self.step_down_on_removal = config.step_down_on_removal
        self.skip_commit_broadcast = config.skip_commit_broadcast
        self.random_timeout: Callable[[int], int] | None = config.random_timeout
        self.trace: Trace | None = None

        self.term = 0
        self.vote = NONE
        self.role = _FOLLOWER
        self.lead = NONE
        self.msgs: list[Message] = []
        self.msgs_after_append: list[Message] = []
        self.read_states: list[ReadState] = []
        self.lead_transferee = NONE
        self.pending_conf_index = 0
        self.uncommitted_size = 0
        self.reads = PendingReads()
        self.postponed_reads: list[Message] = []  # until the term has a commit; kept across terms, for the next time this node leads
        self.election_elapsed = self.heartbeat_elapsed = 0
        self.randomized_election_timeout = 0
        self.draws = 0

        hard_state, conf_state = config.storage.initial_state()
        self.switch_to(Change(restore(conf_state)))
        log = self.log
        if hard_state != EMPTY_HARD_STATE:
            if not log.committed <= hard_state.commit <= log.last_index:
                raise StorageError(f"stored commit index {hard_state.commit} is not in {log.committed}..{log.last_index}")
            log.committed, self.term, self.vote = hard_state.commit, hard_state.term, hard_state.vote
        if config.applied:
            if not log.applied <= config.applied <= log.committed:
                raise ConfigError(f"applied {config.applied} is not in {log.applied}..{log.committed}, what the log allows")
            log.applied_to(config.applied, 0)
        self.become_follower(self.term, NONE)
        self.trace = config.trace
        if self.trace is not None:
            self.trace(f"{self.id} starts at term {self.term}, {self.tracker.members}, {log}")

    # --- transitions ---

    def _reset(self, term: int) -> None:
        if term != self.term:
            self.term = term
            self.vote = NONE
        self.lead = NONE
        self.election_elapsed = self.heartbeat_elapsed = 0
        self._draw_timeout()
        self.lead_transferee = NONE
        self.tracker.reset(self.log.last_index)
        self.pending_conf_index = 0
        self.uncommitted_size = 0
        self.reads = PendingReads()

    def become_follower(self, term: int, lead: int) -> None:
        self._reset(term)
        self.lead = lead
        self.role = _FOLLOWER
        if self.trace is not None:
            self.trace(f"{self.id} became follower at term {self.term}")

    def become_candidate(self) -> None:
        assert self.role is not _LEADER
        self._reset(self.term + 1)
        self.vote = self.id
        self.role = _CANDIDATE
        if self.trace is not None:
            self.trace(f"{self.id} became candidate at term {self.term}")

    def become_pre_candidate(self) -> None:
        """Only the role changes: neither term nor vote, since the campaign may come to nothing (thesis §9.6)."""
        assert self.role is not _LEADER
        self.tracker.votes = {}
        self.lead = NONE
        self.role = _PRE_CANDIDATE
        if self.trace is not None:
            self.trace(f"{self.id} became pre-candidate at term {self.term}")

    def become_leader(self) -> None:
        assert self.role is not _FOLLOWER
        self._reset(self.term)
        self.lead = self.id
        self.role = _LEADER
        own = self.tracker.progress[self.id]
        own.become_replicate()
        own.recent_active = True
        # There may be a configuration change in the tail: no other one before all of it is applied (thesis §4.1).
        self.pending_conf_index = self.log.last_index
        if self.trace is not None:
            self.trace(f"{self.id} became leader at term {self.term}")
        # An entry of the new term: with it everything before is committed (thesis §6.4). Without data, so no limit stops it.
        leader.append(self, [EntryBatch.empty(self.log.last_index + 1, self.term)])

    def _draw_timeout(self) -> None:
        """Between one and two election timeouts (thesis §3.4)."""
        n = self.election_timeout
        self.draws += 1
        extra = _spread(self.id, self.term, self.draws) % n if self.random_timeout is None else self.random_timeout(n)
        self.randomized_election_timeout = n + extra

    # --- time ---

    def tick(self) -> None:
        if self.role is _LEADER:
            leader.tick(self)
        else:
            election.tick(self)

    # --- messages ---

    def step(self, m: Message) -> None:
        """Raises ProposalDropped for a proposal, MalformedMessage for what no correct peer sends."""
        term = m.term
        if term != self.term and term:
            if term < self.term:
                self._step_older(m)
                return
            if not self._step_newer(m):
                return
        _HANDLERS[self.role][m.type](self, m)

    def _step_newer(self, m: Message) -> bool:
        """A message of a later term: mostly, that term is now ours. False if the message is to be ignored."""
        type = m.type
        if type is _VOTE or type is _PRE_VOTE:
            forced = m.context == election.TRANSFER
            in_lease = self.check_quorum and self.lead != NONE and self.election_elapsed < self.election_timeout
            if in_lease and not forced:
                # Heard from a leader within the minimum timeout: who asks now would only disrupt it (thesis §4.2.3).
                if self.trace is not None:
                    left = self.election_timeout - self.election_elapsed
                    self.trace(f"{self.id} ignored {type.name} from {m.from_}: the lease of {self.lead} lasts {left} more ticks")
                return False
            if type is _PRE_VOTE:
                return True  # asks for a vote in a term that has not begun
        elif type is _M.PRE_VOTE_RESP and not m.reject:
            return True  # echoes the term we asked for; a rejection tells the term of who rejects
        if self.trace is not None:
            self.trace(f"{self.id} at term {self.term} received {type.name} from {m.from_} at the later term {m.term}")
        self.become_follower(m.term, m.from_ if type is _APP or type is _HEARTBEAT or type is _SNAP else NONE)
        return True

    def _step_older(self, m: Message) -> None:
        """A message of an earlier term: ignored, unless silence would leave its sender stuck."""
        type = m.type
        if type is _HEARTBEAT or type is _APP:
            if self.check_quorum or self.pre_vote:
                # A node whose term ran ahead while it was cut off cannot raise the others' terms by campaigning (leases, PreVote):
                # it lets the leader know with this answer, so that there is a new election and it can take part again.
                self.send_after_append(Message(_M.APP_RESP, m.from_, self.id, self.term))
                return
        elif type is _PRE_VOTE:
            # A candidate with a higher term but a shorter log, from before PreVote was switched on, would deadlock us: it learns our term.
            self.send_after_append(Message(_M.PRE_VOTE_RESP, m.from_, self.id, self.term, reject=True))
            return
        elif type is _M.STORAGE_APPEND_RESP:
            # The entries it attests to may have been overwritten since (see `RawNode._append_response`), but a snapshot holds committed
            # state, whatever the term.
            if m.snapshot is not None:
                self.applied_snapshot(m.snapshot)
            if m.index and self.trace is not None:
                self.trace(
                    f"{self.id} at term {self.term} ignored that {m.log_term}/{m.index} is durable: told at the earlier term {m.term}"
                )
            return
        if self.trace is not None:
            self.trace(f"{self.id} at term {self.term} ignored {type.name} from {m.from_} at the earlier term {m.term}")

    def send(self, m: Message) -> None:
        """Leaves at once."""
        m.from_ = m.from_ or self.id
        assert m.to != self.id, m
        self.msgs.append(m)

    def send_after_append(self, m: Message) -> None:
        """Leaves once all that is unstable now is durable (rule 2)."""
        self.msgs_after_append.append(m)

    # --- storage answers ---

    def stable_to(self, index: int, log_term: int) -> None:
        if index and not self.log.unstable.stable_to(index, log_term) and self.trace is not None:
            self.trace(f"{self.id} ignored the append of {log_term}/{index}: it is not in the unstable log (any more)")

    def applied_snapshot(self, snapshot: Snapshot) -> None:
        self.log.unstable.snapshot_stable_to(snapshot.index)
        self.applied_to(snapshot.index, 0)

    def applied_to(self, index: int, nbytes: int) -> None:
        """The application has applied up to `index`. A leader then leaves a joint configuration that wants to be left."""
        log = self.log
        log.applied_to(max(index, log.applied), nbytes)
        if self.role is _LEADER and self.tracker.members.auto_leave and log.applied >= self.pending_conf_index:
            if self.trace is not None:
                self.trace(f"{self.id} leaves the joint configuration {self.tracker.members}")
            with suppress(ProposalDropped):  # a transfer is under way; the next leader will leave it
                leader.propose_conf_change(self, ConfChangeV2(), b"")  # without data: no size limit refuses it

    def reduce_uncommitted(self, nbytes: int) -> None:
        """May underestimate what is uncommitted (it starts at 0 with each term), never overestimate it."""
        self.uncommitted_size = max(0, self.uncommitted_size - nbytes)

    # --- members ---

    @property
    def promotable(self) -> bool:
        """Whether it may campaign: a voter that is not waiting for a snapshot to be applied."""
        own = self.tracker.progress.get(self.id)
        return own is not None and not own.is_learner and self.log.unstable.snapshot is None

    def apply_conf_change(self, by: ConfChangeV2) -> ConfState:
        """While a snapshot waits to be applied, the members already are those of the snapshot. A change that was still being applied
        when it arrived is part of it. (etcd/raft applies it on top, which fails or makes other members than the group has.)"""
        if self.log.unstable.snapshot is not None:
            return self.tracker.members.conf_state()
        return self.switch_to(change(self.tracker.members, by))

    def switch_to(self, change: Change) -> ConfState:
        """The members are these from now on. A leader acts on it: the quorum may have shrunk, newcomers want entries."""
        self.tracker.install(change, self.log.last_index)
        members = self.tracker.members
        if self.trace is not None:
            self.trace(f"{self.id} switched to configuration {members}")
        if self.role is _LEADER:
            if self.id not in members.voters:
                # Removed or demoted. It may go on leading without being counted until its successor is found (thesis §4.2.2).
                if self.step_down_on_removal:
                    self.become_follower(self.term, NONE)
            else:
                if self.maybe_commit():
                    leader.broadcast_append(self)
                else:
                    for id, progress in self.tracker.others:
                        leader.maybe_send_append(self, id, progress, send_if_empty=False)
                if self.lead_transferee not in members.voters:
                    self.lead_transferee = NONE
        return members.conf_state()

    # --- small questions ---

    def maybe_commit(self) -> bool:
        return self.log.maybe_commit(self.tracker.committed(), self.term)

    def committed_in_term(self) -> bool:
        """Whether the leader knows the commit index to be current (thesis §6.4, step 1)."""
        return self.log.term_or_zero(self.log.committed) == self.term

    def broadcast_heartbeat(self, context: bytes) -> None:
        for id, progress in self.tracker.others:
            leader.send_heartbeat(self, id, progress, context)


def _spread(id: int, term: int, draws: int) -> int:
    """A fixed, well mixed function of its arguments (splitmix64's finalizer)."""
    x = (id * 0x9E3779B97F4A7C15 + term * 0xBF58476D1CE4E5B9 + draws * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & 0xFFFFFFFFFFFFFFFF
    x = ((x ^ x >> 27) * 0x94D049BB133111EB) & 0xFFFFFFFFFFFFFFFF
    return x ^ x >> 31


# --- what each role does with each message ---


def _ignore(_r: Raft, _m: Message) -> None:
    pass


def _on_storage_append_resp(r: Raft, m: Message) -> None:
    r.stable_to(m.index, m.log_term)
    if m.snapshot is not None:
        r.applied_snapshot(m.snapshot)


def _on_storage_apply_resp(r: Raft, m: Message) -> None:
    if m.entries:
        r.applied_to(m.entries[-1].last, sum(batch.size for batch in m.entries))
        r.reduce_uncommitted(sum(batch.payload_bytes for batch in m.entries))


_COMMON: dict[MessageType, Handler] = {
    _M.HUP: election.on_hup,
    _M.VOTE: election.on_vote,
    _M.PRE_VOTE: election.on_vote,
    _M.STORAGE_APPEND_RESP: _on_storage_append_resp,
    _M.STORAGE_APPLY_RESP: _on_storage_apply_resp,
}


def _table(own: Mapping[MessageType, Handler]) -> tuple[Handler, ...]:
    return tuple(own.get(type) or _COMMON.get(type) or _ignore for type in MessageType)


_HANDLERS: tuple[tuple[Handler, ...], ...] = (
    _table(follower.HANDLERS),
    _table(candidate.HANDLERS | {_M.VOTE_RESP: candidate.on_vote_resp}),
    _table(leader.HANDLERS),
    _table(candidate.HANDLERS | {_M.PRE_VOTE_RESP: candidate.on_vote_resp}),
)
"""By StateRole, then by MessageType. A candidate does not count pre-votes, which may still arrive from before."""
