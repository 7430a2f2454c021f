"""A group of nodes under random faults, with Raft's invariants checked at each step. One seed, one run, always the same.

Faults: messages lost, repeated, overtaken; partitions; crashes at every point of handling a Ready, losing what was not synced;
restarts; compaction and snapshots, reported or not; leadership transfers; membership changes, simple and joint. Half of the seeds use
asynchronous storage writes; PreVote, CheckQuorum, limits and timeouts vary too.

Invariants: `invariants.py`; and once faults stop, proposals are committed and applied by every member.
"""

from __future__ import annotations

import hashlib
from array import array
from collections.abc import Sequence
from contextlib import suppress
from random import Random

from rafttoy.raft import (
    LOCAL_APPEND_THREAD,
    LOCAL_APPLY_THREAD,
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    Config,
    HardState,
    Message,
    MessageType,
    Payloads,
    ProposalDropped,
    Ready,
    StateRole,
)
from tests.raft.hosts import Crash, Host
from tests.raft.invariants import Invariants, InvariantViolated

__all__ = ["Cluster", "InvariantViolated", "run"]

STEPS = 400
_APP, _SNAP = MessageType.APP, MessageType.SNAP
_LEADER = StateRole.LEADER
_SIZES = (3, 3, 3, 5, 5, 7)


class Cluster:
    def __init__(self, seed: int) -> None:
        self.random = random = Random(seed)
        self.size = random.choice(_SIZES)
        self.asynchronous = random.random() < 0.5
        self.pre_vote, self.check_quorum = random.random() < 0.5, random.random() < 0.5
        self.max_size = random.choice((1, 64, 300, 1 << 20))
        self.inflight = random.choice((1, 2, 8, 256))
        self.step_down = random.random() < 0.5
        self.loss = random.choice((0.0, 0.02, 0.1, 0.2))
        self.reorder = random.choice((1, 1, 4, 20))
        self.operator = random.choice((0.0, 0.08, 0.12))  # how much of what happens is a membership change
        self.chaos = random.choice((0.02, 0.05) if self.operator else (0.04, 0.08, 0.12, 0.16))  # while it storms
        self.storm = False
        self.slow = 0  # whose disk hardly gets on
        self.network: list[Message] = []
        self.late: list[Message] = []
        self.cut: frozenset[int] = frozenset()
        self.faults = True
        self.crash_in = 0  # points at which the next Ready's handling may crash: see `_handle`
        self.proposals = 0
        self.trace = array("q")
        self.voters = tuple(range(1, (self.size if random.random() < 0.7 else 3) + 1))
        self.invariants = Invariants(len(self.voters))
        self.hosts = {id: Host(id, self) for id in range(1, self.size + 1)}
        for host in self.hosts.values():
            host.start()
        self.circle = [*self.hosts.values(), *self.hosts.values()]
        self.hosts[1].node.campaign()  # type: ignore[union-attr]
        for _ in range(4):
            self._pump(self.voters)

    def config(self, host: Host) -> Config:
        return Config(
            id=host.id,
            storage=host.disk,
            election_tick=5,
            heartbeat_tick=2,
            applied=host.applied,
            async_storage_writes=self.asynchronous,
            max_size_per_msg=self.max_size,
            max_inflight_msgs=self.inflight,
            pre_vote=self.pre_vote,
            check_quorum=self.check_quorum,
            step_down_on_removal=self.step_down,
            random_timeout=self.random.randrange,
        )

    def note(self, *what: int) -> None:
        self.trace.extend(what)

    # --- work ---

    def step(self, host: Host, m: Message) -> None:
        node = host.node
        if node is None:
            return
        self.note(1, m.type, m.from_ & 0xFF, m.to & 0xFF, m.term, m.index, m.commit, m.reject)
        with suppress(ProposalDropped):
            node.step(m)
        self.invariants.happened(host)

    def handle(self, host: Host) -> None:
        """Takes a Ready and does what it says, or crashes on the way."""
        node = host.node
        if node is None or not node.has_ready():
            return
        rd = node.ready()
        self.note(2, host.id, node.term, node.commit, node.last_index, len(rd.messages))
        for state in rd.read_states:
            self.invariants.read_answers += state.request_ctx in self.invariants.reads
        try:
            if self.asynchronous:
                self._hand_out(host, rd.messages)
            else:
                self._handle(host, rd)
                node.advance(rd)
        except Crash:
            host.crash()
            return
        self.invariants.happened(host)

    def _handle(self, host: Host, rd: Ready) -> None:
        """Appends leave before the save, as when the leader writes in parallel with its followers; the rest after it."""
        self.network += [m for m in rd.messages if m.type is _APP]
        self._maybe_crash(1)
        host.save(rd.hard_state, rd.snapshot, rd.entries, sync=rd.must_sync)
        self._maybe_crash(2)
        self.network += [m for m in rd.messages if m.type is not _APP]
        self._maybe_crash(3)
        host.apply(rd.committed_entries)

    def _maybe_crash(self, point: int) -> None:
        if self.crash_in == point:
            self.crash_in = 0
            raise Crash

    def _hand_out(self, host: Host, messages: Sequence[Message]) -> None:
        for m in messages:
            if m.to == LOCAL_APPEND_THREAD:
                host.appends.append(m)
            elif m.to == LOCAL_APPLY_THREAD:
                host.applies.append(m)
            else:
                self.network.append(m)

    def append_thread(self, host: Host) -> None:
        if host.node is None or not host.appends:
            return
        while host.appends[0].snapshot is not None and host.applies:  # a snapshot is applied behind what came before it
            self.apply_thread(host)
        m = host.appends.pop(0)
        state = HardState(m.term, m.vote, m.commit) if m.term or m.commit else None
        host.save(state, m.snapshot, m.entries, sync=m.must_sync)
        self._respond(host, m.responses)

    def apply_thread(self, host: Host) -> None:
        if host.node is None or not host.applies:
            return
        m = host.applies.pop(0)
        host.apply(m.entries)
        self._respond(host, m.responses)
        self.invariants.happened(host)

    def _respond(self, host: Host, responses: Sequence[Message]) -> None:
        for m in responses:
            if m.to == host.id:
                self.step(host, m)
            else:
                self.network.append(m)

    def deliver(self, at: int, *, keep: bool = False) -> None:
        m = self.network[at] if keep else self.network.pop(at)
        if (m.from_ in self.cut) != (m.to in self.cut):
            self._lost(m)
            return
        host = self.hosts[m.to]
        if host.node is None:
            self._lost(m)
            return
        self.arrive(m)

    def arrive(self, m: Message) -> None:
        self.step(self.hosts[m.to], m)
        if m.type is _SNAP:  # a transport knows whether it got it across, and has to tell
            self._report_snapshot(m, ok=True)

    def _report_snapshot(self, m: Message, *, ok: bool) -> None:
        sender = self.hosts[m.from_]
        if sender.node is not None:
            sender.node.report_snapshot(m.to, ok=ok)
            self.invariants.happened(sender)

    def _lost(self, m: Message) -> None:
        """Or late, by any time. The sender's transport may notice, and says so; of a snapshot it always knows in the end."""
        if self.faults and self.random.random() < 0.5:
            self.late.append(m)
        if m.type is _SNAP:
            self._report_snapshot(m, ok=False)
        elif self.random.random() < 0.3:
            sender = self.hosts[m.from_]
            if sender.node is not None:
                sender.node.report_unreachable(m.to)
                self.invariants.happened(sender)

    # --- what may happen ---

    def propose(self, host: Host) -> None:
        if host.node is None:
            return
        count = self.random.choice((1, 1, 2, 5))
        payloads = []
        for _ in range(count):
            self.proposals += 1
            payloads.append(b"%d" % self.proposals)
        try:
            host.node.propose(Payloads.of(payloads))
        except ProposalDropped:
            return
        self.note(3, host.id, host.node.last_index)

    def change_members(self, host: Host) -> None:
        if host.node is None:
            return
        random, members = self.random, host.members
        if members.voters_outgoing:  # leave it, if it does not leave by itself
            changes: tuple[ConfChangeSingle, ...] = ()
        else:
            changes = tuple(self._some_change(set(members.voters)) for _ in range(random.choice((1, 1, 2, 3))))
        voters = set(members.voters)
        stay = voters - {single.node_id for single in changes if single.type is not ConfChangeType.ADD_NODE}
        if 2 * len(stay) <= len(voters):
            # Who stays must be a majority of today's voters, as every operator's handbook asks for: else, if the leader fails right
            # behind the change, who knows least that it is committed may need the votes of those who left with a longer log.
            return
        try:
            if len(changes) == 1 and random.random() < 0.5:
                host.node.propose_conf_change(ConfChange(changes[0].type, changes[0].node_id))
            else:
                transition = random.choice(tuple(ConfChangeTransition)) if changes else ConfChangeTransition.AUTO
                host.node.propose_conf_change(ConfChangeV2(transition, changes))
        except ProposalDropped:
            return
        self.note(4, host.id, len(changes))

    def _some_change(self, voters: set[int]) -> ConfChangeSingle:
        random = self.random
        outside = [id for id in self.hosts if id not in voters]
        if outside and random.random() < 0.6:
            kind = ConfChangeType.ADD_NODE if random.random() < 0.7 else ConfChangeType.ADD_LEARNER_NODE
            return ConfChangeSingle(kind, random.choice(outside))
        kind = ConfChangeType.REMOVE_NODE if random.random() < 0.6 else ConfChangeType.ADD_LEARNER_NODE
        return ConfChangeSingle(kind, random.randint(1, self.size))

    def read(self, host: Host) -> None:
        if host.node is None:
            return
        context = b"read %d" % len(self.invariants.reads)
        self.invariants.reads[context] = self.invariants.max_committed
        host.node.read_index(context)

    def disturb(self) -> None:
        """A fault, or an operator's whim; often about a leader."""
        random = self.random
        leads = self._leaders()
        host = random.choice(leads) if leads and random.random() < 0.5 else self.hosts[random.randint(1, self.size)]
        kind = random.randrange(26)
        self.note(5, host.id, kind)
        node = host.node
        if kind <= 2:
            self.cut = frozenset(random.sample(range(1, self.size + 1), random.randint(1, self.size // 2)))
        elif kind == 3:
            self.cut = frozenset()
        elif kind == 4 and node is not None:
            host.crash()
        elif kind == 5:
            self.crash_in = random.randint(1, 3)
            self.handle(host)
            self.crash_in = 0
        elif kind == 6 and node is not None:
            host.compact(random.choice((0, 1, 5)))
        elif kind == 7 and node is not None:
            node.transfer_leader(random.randint(1, self.size))
        elif kind <= 9:
            (node or host.start()).campaign()
        elif kind == 10 and node is not None:
            node.forget_leader()
        elif kind == 11:
            lost, self.network = self.network, []
            for m in lost:
                self._lost(m)
        elif kind >= 12:
            self._coup()
        if host.node is not None:
            self.invariants.happened(host)

    def _leaders(self) -> list[Host]:
        """Who holds itself for one."""
        return [host for host in self.hosts.values() if host.role is _LEADER]

    def _heal(self) -> None:
        self.cut = frozenset()
        for host in self.hosts.values():
            if host.node is None:
                host.start()

    def _coup(self) -> None:
        """The smallest majority (of what somebody holds for the voters) is on its own, and one of it wants to lead: what Raft's proofs
        are about."""
        random = self.random
        members = random.choice(self.circle).members
        voters = members.voters_outgoing if members.voters_outgoing and random.random() < 0.5 else members.voters
        voters = voters or tuple(self.hosts)
        group = random.sample(voters, len(voters) // 2 + 1)
        self.cut = frozenset(group)
        for id in group:
            if random.random() < 0.35:
                self.hosts[id].crash()
            (self.hosts[id].node or self.hosts[id].start()).forget_leader()
        self._pump(group)
        up = [host for host in self.hosts.values() if host.id in group and host.node is not None]
        best = max(up, key=lambda host: (host.node.raft.log.last_term, host.node.last_index), default=None)  # type: ignore[union-attr]
        if best is None:
            return
        for _ in range(2):
            host = best if random.random() < 0.7 else random.choice(up)
            if host.node is not None:
                host.node.campaign()
                self.invariants.happened(host)
            for _ in range(random.randint(2, 4 + 3 * self.pre_vote + 4 * self.asynchronous)):
                self._pump(group)
                if any(self.hosts[id].role is _LEADER for id in group):
                    return

    def _pump(self, ids: Sequence[int]) -> None:
        """One orderly round among those: everybody's work, then every message."""
        for id in ids:
            host = self.hosts[id]
            self.handle(host)
            if self.asynchronous:
                self._disk_and_application(host)
        waiting, self.network = self.network, []
        for m in waiting:
            if m.to in ids and m.from_ in ids:
                self.arrive(m)
            else:
                self.network.append(m)

    def random_step(self) -> None:
        random = self.random
        if random.random() < 0.03:  # calm and storm take turns
            self.storm = not self.storm
            if not self.storm and random.random() < 0.8:
                self._heal()
            self.slow = random.choice(leads).id if (leads := self._leaders()) and random.random() < 0.6 else 0
        x = random.random()
        if x < (self.chaos if self.storm else self.chaos / 4):
            self.disturb()
            return
        x = random.random()
        if x < 0.1 and not self.storm and not self.cut:
            self._pump(range(1, self.size + 1))
        elif x < 0.40:
            if self.late and random.random() < 0.15:
                self.network.insert(0, self.late.pop(int(random.random() * len(self.late))))
            self._deliver_some()
        elif x < 0.70:
            self._work_some()
        elif x < 0.83:
            for host in self._some_hosts():
                if host.node is None and random.random() < 0.5:
                    continue
                (host.node or host.start()).tick()
                self.invariants.happened(host)
        else:
            leads = self._leaders()
            host = random.choice(leads) if leads and random.random() < 0.9 else self.hosts[random.randint(1, self.size)]
            if x > 0.96:
                self.read(min(leads, key=lambda host: host.node.term) if leads and x > 0.98 else host)  # type: ignore[union-attr]
            elif x > 0.96 - self.operator:
                self.change_members(host)
            else:
                self.propose(host)

    def _deliver_some(self) -> None:
        random = self.random
        loss = self.loss if self.storm else 0.0
        for _ in range(1 + int(random.random() * (self.size if self.storm else 3 * self.size))):
            if not self.network:
                return
            at = int(random.random() * min(self.reorder, len(self.network)))
            y = random.random()
            if y < loss:
                self._lost(self.network.pop(at))
            else:
                self.deliver(at, keep=y > 1 - loss)

    def _some_hosts(self) -> list[Host]:
        """A run of them, in a circle."""
        start, count = int(self.random.random() * self.size), 1 + int(self.random.random() * self.size)
        return self.circle[start : start + count]

    def _work_some(self) -> None:
        """Some hosts take a Ready; some disks and applications get on, a slow one seldom."""
        for host in self._some_hosts():
            self.handle(host)
            if self.asynchronous:
                self._disk_and_application(host)

    def _disk_and_application(self, host: Host) -> None:
        slow = host.id == self.slow
        if self.random.random() < (0.05 if slow else 0.6):
            self.append_thread(host)
        if self.random.random() < 0.6:
            self.apply_thread(host)

    # --- the end of faults ---

    def settle(self) -> None:
        """Everybody runs, every message arrives: within bounded time there is a leader, and what it proposes is applied by all."""
        self.faults = False
        self._heal()
        target = None
        for round in range(400):
            self._quiet_round()
            leaders = [host for host in self.hosts.values() if host.node is not None and host.node.role is _LEADER]
            leader = max(leaders, key=lambda host: host.node.term, default=None)  # type: ignore[union-attr]
            if leader is None or leader.node is None:
                continue
            if target is not None and self.invariants.max_committed >= target:
                behind = [id for id in self._members(leader) if self.hosts[id].applied < target]
                if not behind:
                    return
            if target is None or round % 40 == 39:
                if leader.id not in self._members(leader):  # it removed itself: its application lets go
                    leader.crash()
                    leader.start()
                    continue
                try:
                    target = leader.node.propose(Payloads.of([b"last"])).last
                except ProposalDropped:
                    continue
        if not self._left_unheard():
            raise InvariantViolated(f"no progress: committed {self.invariants.max_committed}, wanted {target}")

    def _left_unheard(self) -> bool:
        """The one way in which a group may stay without a leader, here as in etcd/raft: a change of members takes effect when it is
        applied, not when it is appended (thesis §4.1 has it the other way). A leader that committed its own removal, or demotion, and
        then stopped leading, whose every message that told of the commit was lost, is still a voter to those who remain: they need its
        vote, and its log is longer than theirs."""
        for host in self.hosts.values():
            if host.node is None or host.id in host.node.conf_state.voters:
                continue
            remaining = [node for id in host.node.conf_state.voters if (node := self.hosts[id].node) is not None]
            if all(
                host.id in (*node.conf_state.voters, *node.conf_state.voters_outgoing)
                and node.commit < host.node.commit
                and node.raft.log.last_index < host.node.last_index
                for node in remaining
            ):
                return True
        return False

    def _members(self, host: Host) -> list[int]:
        assert host.node is not None
        return list(host.node.raft.tracker.members.ids)

    def _quiet_round(self) -> None:
        for host in self.hosts.values():
            if host.node is not None:
                host.node.tick()
                self.invariants.happened(host)
        for _ in range(8):
            for host in self.hosts.values():
                self.handle(host)
                while host.appends:
                    self.append_thread(host)
                while host.applies:
                    self.apply_thread(host)
            if not self.network:
                break
            waiting, self.network = self.network, []
            for m in waiting:
                self.arrive(m)


def run(seed: int, steps: int = STEPS) -> str:
    """The trace's hash. Raises InvariantViolated; anything else that is raised is a bug as well."""
    cluster = Cluster(seed)
    for _ in range(steps):
        cluster.random_step()
    cluster.settle()
    cluster.note(6, cluster.invariants.max_committed, len(cluster.invariants.leaders), cluster.invariants.read_answers)
    return hashlib.blake2b(cluster.trace.tobytes(), digest_size=16).hexdigest()
