"""A peer: one member of one group. Mailbox → core → pipeline.

The peer gives pipelines their steps (`ready`, `save`, `send`, `apply`, `ack`, `advance`); the pipeline is their order. All of it
runs on one event loop: what comes meanwhile waits in a mailbox and is handled as a batch when the pipeline asks for the next Ready.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine, Sequence
from enum import Enum
from typing import Any

import google_crc32c
import msgspec

from rafttoy.errors import MalformedMessage, PeerError
from rafttoy.observe import Metrics
from rafttoy.ports import DONE, SAVE_HERE_BRIEF_BYTES, SAVE_HERE_BYTES, Packet, Ports, Sized, Task
from rafttoy.proposal import AcknowledgedRun, Desk, Tracker, join_payloads
from rafttoy.quota import Quota
from rafttoy.raft import (
    NONE,
    ConfChange,
    ConfChangeV2,
    Config,
    HardState,
    Message,
    MessageType,
    ProposalDropped,
    RawNode,
    Ready,
    Snapshot,
    StateRole,
)
from rafttoy.raft.entries import EntryBatch, EntryType
from rafttoy.raft.runs import total_size
from rafttoy.storage import Recovered, Storage
from rafttoy.wire import Epoch, RaftMsg, decode, encode

__all__ = ["AckOn", "ApplyOn", "LogDigest", "Peer", "RaftOptions", "split_appends"]

_APP = MessageType.APP
_APP_RESP = MessageType.APP_RESP
_LONG_APPLY_BYTES = 64 << 10
"""Before the leader applies so much it tells followers of the commit: they apply it meanwhile. Of less, the next append tells."""
_NORMAL = EntryType.NORMAL


_PACKET_BYTES = 16 << 20
"""Of entries in one packet of several messages. Receivers take no packet beyond MESSAGE_LIMIT_BYTES."""

_FAR_BEHIND = 8
"""A leader keeps this many times the log that it keeps otherwise, for a member that is behind: more than the quota, by which one that
is not gone can be."""


class AckOn(Enum):
    """When a proposal is acknowledged."""

    COMMIT = "commit"
    APPLY = "apply"


class ApplyOn(Enum):
    """Who applies committed entries."""

    ALL = "all"
    LEADER = "leader"


class RaftOptions(msgspec.Struct, frozen=True):
    """What the original sets in code. Its election timeout (600 ms) is too near a stall of a busy host; CheckQuorum and PreVote
    keep a leader that is only slow. Without a bound of the bytes in flight, a follower that came back was sent all that it lacked at
    once: half a gigabyte, in two copies. With `commit_broadcast` a leader tells of each commit at once, as the original does."""

    tick_ns: int = 100_000_000
    election_ticks: int = 10
    heartbeat_ticks: int = 1
    max_inflight_messages: int = 4096
    max_inflight_bytes: int = 64 << 20
    max_message_bytes: int = 8 << 20
    keep_log_bytes: int = 16 << 20
    quota_bytes: int = 32 << 20
    commit_broadcast: bool = False


def split_appends(messages: Sequence[Message]) -> tuple[list[Message], list[Message]]:
    """(appends, the rest): the leader's appends may leave before it has saved them itself (thesis §10.2.1)."""
    appends: list[Message] = []
    others: list[Message] = []
    for message in messages:
        (appends if message.type is _APP else others).append(message)
    return appends, others


def _without_stale(messages: Sequence[Message]) -> list[Message]:
    """Of messages that travel together, those that a later one does not say as well: answers to appends that were accepted before
    another (an index covers all below it; the original's `compressMsg`). To Raft they are messages that were lost."""
    kept: list[Message] = []
    response = None
    for message in reversed(messages):
        if message.type is _APP_RESP and not message.reject:
            if response is not None and message.term == response.term and message.index <= response.index:
                continue
            response = message
        kept.append(message)
    kept.reverse()
    return kept


def _extent(rd: Ready) -> tuple[int, int]:
    """(entries, bytes) that a Ready is about: what it costs grows with the memory that it touches, and lets go."""
    count = size = 0
    for batch in rd.entries:
        count += batch.count
        size += batch.size
    for batch in rd.committed_entries:
        count += batch.count
        size += batch.size
    return count, size


def _in_packets(messages: Sequence[Message]) -> list[list[Message]]:
    """Messages, in order, in groups of at most `_PACKET_BYTES` of entries, or of one message."""
    groups: list[list[Message]] = []
    room = 0
    for message in messages:
        size = total_size(message.entries)
        if size > room or not groups:
            groups.append([])
            room = _PACKET_BYTES
        groups[-1].append(message)
        room -= size
    return groups


class LogDigest:
    """Of the committed log, whatever its batches were: a CRC-32C over all frames; over sizes where payload is Sized."""

    __slots__ = ("_crc", "index", "size", "term")

    def __init__(self) -> None:
        self._crc = 0
        self.index = self.term = self.size = 0

    def add(self, batches: Sequence[EntryBatch]) -> None:
        for batch in batches:
            frames = batch.frames
            assert batch.first == self.index + 1, "committed entries come in order"
            assert frames is not None
            if not isinstance(frames, Sized):
                self._crc = google_crc32c.extend(self._crc, bytes(frames))
            self.index, self.term, self.size = batch.last, batch.term, self.size + batch.size

    def __str__(self) -> str:
        return f"{self.index}/{self.term}/{self.size}/{self._crc:08x}"


class Peer(Desk):
    """Steps of one peer in one epoch; made anew for the next. One that `shares_loop` with others always hands its saves over,
    and so does the only member of a group: it waits for nothing else, and its loop would never turn."""

    def __init__(
        self,
        ports: Ports,
        id: int,
        members: Sequence[int],
        epoch: Epoch,
        storage: Storage,
        recovered: Recovered,
        *,
        options: RaftOptions,
        async_storage: bool,
        verify: bool,
        metrics: Metrics,
        on_acknowledged: Callable[[AcknowledgedRun], None] | None,
        on_newer: Callable[[RaftMsg], None],
        on_control: Callable[[bytes], None],
        by_reference: bool = False,
        shares_loop: bool = False,
    ) -> None:
        super().__init__(ports, Tracker(keep_runs=verify, on_run=on_acknowledged))
        self.id = id
        self.epoch = epoch
        self.tasks = ports.tasks
        self.storage = storage
        self.metrics = metrics
        self.digest: LogDigest | None = LogDigest() if verify else None
        self.applied = recovered.applied
        self.is_leader = False
        self._members = members
        self._options = options
        self._clock = ports.clock
        self._links = ports.links
        self._on_newer = on_newer
        self._on_control = on_control
        self._by_reference = by_reference
        self._here_bytes = 0
        if not shares_loop and len(members) > 1:
            self._here_bytes = SAVE_HERE_BRIEF_BYTES if ports.links.deferred else SAVE_HERE_BYTES
        self._brief_bytes = min(self._here_bytes, SAVE_HERE_BRIEF_BYTES)
        self._packets: list[Packet] = []
        self._local: list[Message] = []
        self._unreachable: list[int] = []
        self._ticked = self._campaign = False
        self._ending = self._failed = False
        self._ready_ns = 0
        self._load = (0, 0)
        self._acked = recovered.applied
        self._untold = False
        self._quota = Quota(options.quota_bytes, options.election_ticks)
        self.stranded = False
        """Somebody needs a snapshot, and the content is larger than one can be."""
        stage = ports.cpu.stage
        self._receiving, self._readying = stage("receive"), stage("ready")
        self._sending, self._advancing = stage("send"), stage("advance")
        rng = ports.random.stream(f"election-{epoch}")
        self.node = RawNode(
            Config(
                id=id,
                storage=storage.log,
                election_tick=options.election_ticks,
                heartbeat_tick=options.heartbeat_ticks,
                max_inflight_msgs=options.max_inflight_messages,
                max_inflight_bytes=max(options.max_inflight_bytes, options.max_message_bytes),
                max_size_per_msg=options.max_message_bytes,
                applied=recovered.applied,
                check_quorum=True,
                pre_vote=True,
                disable_proposal_forwarding=True,
                async_storage_writes=async_storage,
                skip_commit_broadcast=not options.commit_broadcast,
                random_timeout=lambda ticks: int(rng.integers(ticks)),
            )
        )
        if recovered.fresh:
            self.node.bootstrap(members)

    # --- what others do to a peer ---

    def receive(self, packet: Packet) -> None:
        self._packets.append(packet)
        self._signal.set()

    def campaign(self) -> None:
        """Seeks the leadership, by an election or from whoever leads."""
        self._campaign = True
        self._signal.set()

    def unreachable(self, peer: int) -> None:
        self._unreachable.append(peer)
        self._signal.set()

    def end(self) -> None:
        """Ends the epoch: the pipeline's next `ready` returns None."""
        self._ending = True
        self._signal.set()

    def fail(self) -> None:
        """Something of this peer has failed: it ends, and says nothing any more."""
        self._failed = True
        self.end()

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> Task:
        return self.tasks.spawn(coroutine, f"peer {self.id} {name}")

    async def follow_log(self) -> None:
        """For verification after a restart: what was applied in an earlier life."""
        if self.digest is None or not self.applied:
            return
        if self.storage.log.first_index() == 1:
            self.digest.add(await self.storage.read_log(1, self.applied + 1))
        else:
            self.digest = None

    async def tick(self) -> None:
        """A task: raft's clock. Ticks that come while the peer cannot look at them count once, as those of Go's `time.Ticker`: a leader
        whose store held it up for seconds would have ten election timeouts at once, in which nobody can answer."""
        while not self._ending:
            await self._clock.sleep_ns(self._options.tick_ns)
            self._ticked = True
            self._signal.set()

    # --- the steps of a pipeline ---

    async def ready(self) -> Ready | None:
        """Feeds the core with all that has come, and returns what it wants done; waits while there is nothing. None at the end."""
        node, signal, quota, proposals = self.node, self._signal, self._quota, self.proposals
        while not self._ending:
            signal.clear()
            if self._packets:
                await self._receive()
            if self._local:
                local, self._local = self._local, []
                for message in local:
                    node.step(message)
            if self._ticked or self._campaign or self._unreachable:
                self._housekeep()
                await self._compact()
            if quota.exhausted:
                quota.look(node.progresses(), node.commit, self.storage.log)
            if proposals.waiting and not quota.exhausted:
                await self._propose()
            if node.has_ready():
                mark = self._readying.start()
                rd = node.ready()
                if rd.soft_state is not None:
                    self._role_changed(rd.soft_state.raft_state)
                self._ready_ns = self._clock.now_ns()
                self._load = _extent(rd)
                await self._readying.done(mark, *self._load)
                return rd
            if not (self._packets or self._local or (proposals.waiting and not quota.exhausted)):
                self._untold = self._acked < node.commit  # who is answered proposes, and that append tells: half as many packets
                if not self._untold:
                    await self.tell_commit()
                await signal.wait()
        return None

    def save(self, rd: Ready, *, here: bool = False, brief: bool = False) -> Awaitable[None]:
        """The log and the hard state are durable once it returns, where the core asked for that. With `here` nobody waits for
        what the loop could do meanwhile: it may wait for the disk itself; with `brief` only for little."""
        if rd.snapshot is not None:
            return self._save_snapshot(rd, rd.snapshot)
        if rd.entries or rd.hard_state is not None:
            most = 0 if not here else self._brief_bytes if brief else self._here_bytes
            return self._save(rd.entries, rd.hard_state, rd.must_sync, most)
        return DONE

    async def _save_snapshot(self, rd: Ready, snapshot: Snapshot) -> None:
        await self.install(snapshot, rd.hard_state)
        if rd.entries or rd.hard_state is not None:
            await self._save(rd.entries, rd.hard_state, rd.must_sync)

    async def save_messages(self, appends: Sequence[Message]) -> None:
        """The same for STORAGE_APPEND messages whose entries follow one another, in one write."""
        for message in appends:
            if message.snapshot is not None:
                await self.install(message.snapshot, HardState(message.term, message.vote, message.commit))
        entries = [batch for message in appends for batch in message.entries]
        states = [HardState(m.term, m.vote, m.commit) for m in appends if m.term or m.vote or m.commit]
        if entries or states:
            await self._save(entries, states[-1] if states else None, any(message.must_sync for message in appends))

    async def install(self, snapshot: Snapshot, hard_state: HardState | None) -> None:
        """A snapshot that the leader sent takes the place of log and engine."""
        await self.storage.install_snapshot(snapshot, hard_state)
        self.applied = snapshot.metadata.index
        if self.digest is not None:
            self.digest = None  # what came before is not known entry by entry

    def _save(self, entries: Sequence[EntryBatch], hard_state: HardState | None, must_sync: bool, here_bytes: int = 0) -> Awaitable[None]:
        if not entries:
            return self.storage.save(entries, hard_state, sync=must_sync)
        begin_ns = self._clock.now_ns()
        saved = self.storage.save(entries, hard_state, sync=must_sync, here=total_size(entries) <= here_bytes)
        if saved is not DONE:
            return self._saved(saved, begin_ns, entries)
        self.metrics.saves.append((self._clock.now_ns() - begin_ns, entries[-1].last - entries[0].first + 1))
        return DONE

    async def _saved(self, saved: Awaitable[None], begin_ns: int, entries: Sequence[EntryBatch]) -> None:
        await saved
        self.metrics.saves.append((self._clock.now_ns() - begin_ns, entries[-1].last - entries[0].first + 1))

    def send(self, messages: Sequence[Message]) -> Awaitable[None]:
        """Hands messages to the links at once: one packet to each destination, or a few where they carry much."""
        if not messages or self._failed:
            return DONE
        mark = self._sending.start()
        count = nbytes = 0
        outbox: dict[int, list[Message]] = {}
        for message in messages:
            for batch in message.entries:
                if batch.frames is None:
                    return self._send_evicted(messages)
                count += batch.count
            to = message.to
            if to in outbox:
                outbox[to].append(message)
            else:
                outbox[to] = [message]
        epoch, by_reference, links = self.epoch, self._by_reference, self._links
        for to, waiting in outbox.items():
            stream = links.stream(to)
            for together in (waiting,) if len(waiting) == 1 else _in_packets(_without_stale(waiting)):
                packet = encode(epoch, together, by_reference=by_reference)
                count += 1
                nbytes += packet.size
                stream.send(packet)
        return self._sending.done(mark, count, nbytes)

    async def _send_evicted(self, messages: Sequence[Message]) -> None:
        await self.send([await self._resident(message) for message in messages])

    def tell_commit(self) -> Awaitable[None]:
        """A leader's commit index travels with its next append. Followers that would wait for one are told now."""
        return self.send(self.node.commit_announcements()) if self.is_leader else DONE

    def apply(self, committed: Sequence[EntryBatch]) -> Awaitable[None]:
        """Applies committed entries in order; configuration changes in their place."""
        return self._apply(committed) if committed else DONE

    async def _apply(self, committed: Sequence[EntryBatch]) -> None:
        begin_ns = self._clock.now_ns()
        size = 0
        resident = data = True
        for batch in committed:
            resident = resident and batch.frames is not None
            data = data and batch.type is _NORMAL
            size += batch.size
        if not resident:
            committed = await self.storage.load(committed)
        if self.digest is not None:
            self.digest.add(committed)
        if size > _LONG_APPLY_BYTES:
            await self.tell_commit()
        await (self.storage.apply(committed) if data else self._apply_in_place(committed))
        self.applied = committed[-1].last
        self.metrics.applies.append((self._clock.now_ns() - begin_ns, committed[-1].last - committed[0].first + 1))

    async def skip(self, committed: Sequence[EntryBatch]) -> None:
        """Stands for `apply` where a lazy follower does not apply: the committed log is still followed, for verification."""
        if committed and self.digest is not None:
            self.digest.add(await self.storage.load(committed))
        self.storage.skip(committed)

    def acked(self, index: int) -> None:
        """If the client proposes nothing now, `ready` tells followers of the commit."""
        self._acked = index
        if self._untold:
            self._untold = False
            self._signal.set()

    def advance(self, rd: Ready) -> Awaitable[None]:
        """Tells the core that the Ready was carried out."""
        mark = self._advancing.start()
        self.node.advance(rd)
        self.metrics.rounds.append(self._clock.now_ns() - self._ready_ns)
        return self._advancing.done(mark, *self._load)

    async def deliver(self, responses: Sequence[Message]) -> None:
        """Responses of a storage task: to this node's core, or to others."""
        remote = []
        for message in responses:
            if message.to == self.id:
                self._local.append(message)
                self._signal.set()
            else:
                remote.append(message)
        if remote:
            await self.send(remote)

    # --- inside ---

    def _receive(self) -> Awaitable[None]:
        mark = self._receiving.start()
        packets, self._packets = self._packets, []
        count = nbytes = 0
        for packet in packets:
            nbytes += packet.size
            try:
                for msg in decode(packet):
                    count += self._route(msg)
            except MalformedMessage as error:
                packet.reject(str(error))
        return self._receiving.done(mark, count, nbytes)

    def _route(self, msg: RaftMsg) -> int:
        """How many messages and entries those were."""
        if msg.control:
            self._on_control(msg.control)
        count = 0
        if msg.epoch == self.epoch and not self._ending:
            step = self.node.step
            for message in msg.messages:
                count += 1
                for batch in message.entries:
                    count += batch.count
                if message.from_ == self.id:
                    raise MalformedMessage(f"{message.type.name} from another that claims to be peer {self.id} as well")
                try:
                    step(message)
                except MalformedMessage:
                    raise
                except PeerError:
                    pass  # from one who is no member (any more): ignored, as etcd/raft's callers do
        elif msg.epoch > self.epoch:
            self._on_newer(msg)
        return count

    def _housekeep(self) -> None:
        node = self.node
        if self._ticked:
            self._ticked = False
            node.tick()
            self.metrics.fold()
            if self.is_leader:
                self._quota.tick(node.progresses(), node.commit, self.storage.log)
        unreachable, self._unreachable = self._unreachable, []
        for peer in unreachable:
            node.report_unreachable(peer)
            self._quota.lost(peer)
        if self._campaign:
            self._campaign = False
            if node.lead in (NONE, self.id):
                node.campaign()
            else:  # it holds a lease (CheckQuorum), and its log may be ahead: it hands over once this one has caught up (thesis §3.10)
                node.transfer_leader(self.id)

    async def _compact(self) -> None:
        """Old entries go by size (not those that a member still needs, unless it is too far behind). Who needs what is gone is made
        a snapshot when it is back and asks."""
        storage = self.storage
        if storage.log.snapshot_wanted and self.is_leader and not self.stranded:
            self.stranded = await storage.create_snapshot() is None
        keep = self._options.keep_log_bytes * storage.retain
        if self.digest is not None or storage.log.total_bytes < keep + keep // 2:  # seldom and much, not often and little
            return
        index = storage.compactable(keep)
        if self.is_leader:
            needed = min(progress.match for _, progress in self.node.progresses())
            index = min(index, max(needed, storage.compactable(_FAR_BEHIND * keep)))
        if index:
            await storage.compact(index)

    def _propose(self) -> Awaitable[None]:
        mark = self._proposing.start()
        if self.client is not None:
            self.client.top_up()
        waiting = self.proposals.drain()
        payloads = join_payloads([entry[0] for entry in waiting])
        try:
            batch = self.node.propose(payloads)
        except ProposalDropped:
            for pieces, client, token in waiting:
                client.failed(token, 0, pieces.count)
        else:
            self.tracker.register(batch, waiting)
        return self._proposing.done(mark, payloads.count, payloads.nbytes)

    def _role_changed(self, role: StateRole) -> None:
        was, self.is_leader = self.is_leader, role is StateRole.LEADER
        self._quota.clear()
        if was and not self.is_leader:
            self.tracker.fail_all()  # their fate is another leader's to decide

    async def _apply_in_place(self, committed: Sequence[EntryBatch]) -> None:
        """Configuration changes in their place."""
        data: list[EntryBatch] = []
        for batch in committed:
            if batch.type is not _NORMAL:
                await self.storage.apply(data)
                data = []
                await self._apply_conf_change(batch)
            else:
                data.append(batch)
        await self.storage.apply(data)

    async def _apply_conf_change(self, batch: EntryBatch) -> None:
        for index, data in enumerate(batch.payloads(), batch.first):
            change = ConfChange.decode(data) if batch.type is EntryType.CONF_CHANGE else ConfChangeV2.decode(data)
            await self.storage.set_conf_state(self.node.apply_conf_change(change), index)

    async def _resident(self, message: Message) -> Message:
        if all(batch.frames is not None for batch in message.entries):
            return message
        entries = await self.storage.load(message.entries)
        m = message
        return Message(m.type, m.to, m.from_, m.term, m.log_term, m.index, entries, m.commit)
