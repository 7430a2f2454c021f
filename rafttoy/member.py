"""A long-lived member of a group: one peer after another, an epoch each.

A newer epoch makes the member drop its state and begin anew, so that peers serve run after run without a restart (the original's
TestEpoch). Beside Raft's messages, members exchange control messages over the same links: what the next epoch is made of, when the
measured window begins, what was recorded. An epoch that comes without one begins with the settings of the last.

A durable storage keeps the epoch beside it: a member that is started again in its directory resumes it, with its log, hard state and
engine as they were, and catches up with the group.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from rafttoy.cell import Cell, Plan
from rafttoy.control import (
    RESEND_NS,
    Answer,
    Ask,
    Control,
    Hello,
    Mark,
    Opening,
    PeerReport,
    Requests,
    Setting,
    StageTotals,
    decode_control,
    encode_control,
)
from rafttoy.errors import ConfigError, MalformedMessage, RunError, StorageError
from rafttoy.observe import Metrics
from rafttoy.peer import Peer, RaftOptions
from rafttoy.pipeline import PIPELINES
from rafttoy.ports import Packet, Ports, Task
from rafttoy.proposal import AcknowledgedRun
from rafttoy.storage import ENGINES, STORAGES, Identity, Storage, make_storage, parse_wal
from rafttoy.sync import Signal
from rafttoy.wire import Epoch, RaftMsg, decode, encode

__all__ = ["Member"]


_EPOCH, _EPOCH_TEMPORARY = "EPOCH", "EPOCH.tmp"


def _with_knobs(options: RaftOptions, plan: Plan) -> RaftOptions:
    """What the plan says of pipelining and batching holds for the run."""
    return msgspec.structs.replace(
        options,
        max_inflight_messages=plan.max_inflight or options.max_inflight_messages,
        max_message_bytes=plan.max_message_bytes or options.max_message_bytes,
    )


_CAMPAIGN_NS = (250_000_000, 4_000_000_000)


def _check(cell: Cell) -> None:
    """Raises MalformedMessage for a component that this member does not have: whoever asks for it may be of another version."""
    if cell.pipeline not in PIPELINES:
        raise MalformedMessage(f"unknown pipeline {cell.pipeline!r}")
    if cell.storage not in STORAGES or (cell.storage == "split" and cell.engine not in ENGINES):
        raise MalformedMessage(f"unknown storage {cell.storage_name()!r}")
    try:
        if cell.storage == "split":
            parse_wal(cell.wal)
    except ConfigError as error:
        raise MalformedMessage(str(error)) from None


class Member:
    """Member `id` of `nodes`. With `fresh` it forgets what its directory holds. `log` tells a person, a line at a time."""

    def __init__(
        self,
        ports: Ports,
        id: int,
        nodes: int,
        *,
        cell: Cell,
        plan: Plan,
        options: RaftOptions | None = None,
        by_reference: bool = False,
        fresh: bool = False,
        log: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.ports = ports
        self.id = id
        self.ids = list(range(1, nodes + 1))
        self.epoch = Epoch()
        self.cell = cell
        self.plan = plan
        self.peer: Peer | None = None
        self.storage: Storage | None = None
        self.metrics = Metrics()
        self.lost: dict[int, int] = {}
        """Connections lost since the epoch began, by peer."""
        self.failure: BaseException | None = None
        self._options = options or RaftOptions()
        self._by_reference = by_reference
        self._log = log
        self._storage_name = ""
        self._signal = Signal(ports.tasks)
        self._next: tuple[Epoch, Cell, Plan] | None = None
        self._fresh = fresh
        self._early: list[RaftMsg] = []
        self._idle_packets: list[Packet] = []
        self._greeter: tuple[int, int] | None = None
        self._requests = Requests(ports, [other for other in self.ids if other != id], self._send_control)
        self._begun: list[tuple[tuple[Epoch, Cell, Plan], Any]] = []
        self.on_acknowledged: Callable[[AcknowledgedRun], None] | None = None
        """Told of every run of proposals as it is acknowledged, before the client is."""
        self._campaign_at_ns = 0
        self._campaign_wait_ns = _CAMPAIGN_NS[0]
        self._usage0 = (0, 0)
        self._counters0: dict[str, int] = {}
        self._buffered_pairs0 = self._filled_buffers0 = 0
        self._stopped = False
        self._on_failure: Callable[[BaseException], None] = lambda error: None
        ports.tasks.on_failure(self.fail)

    # --- life ---

    async def serve(self) -> None:
        """Listens and runs one epoch after another until `stop`; first the one that `find_epoch` found.

        Raises RunError when the address is taken."""
        await self.ports.links.listen(self._on_packet, self._on_loss)
        try:
            while not self._stopped:
                if self._next is None:
                    self._read_idle()
                    if self._next is None:
                        await self._signal.wait()
                    continue
                await self._run_epoch(*self._next)
        except Exception as error:
            self.fail(error)  # before anyone finds the peer gone, and wonders why
            raise
        await self._close()

    def stop(self) -> None:
        self._stopped = True
        if self.peer is not None:
            self.peer.end()
        self._signal.set()

    def on_failure(self, callback: Callable[[BaseException], None]) -> None:
        """`callback` is told once that this member failed."""
        self._on_failure = callback

    def fail(self, error: BaseException) -> None:
        """A task of this member ended with an error: the peer stops at once. Nothing is retried."""
        if self.failure is None:
            self.failure = error
            self._stopped = True
            if self.peer is not None:
                self.peer.client = None  # whatever is still under way acknowledges nothing
                self.peer.fail()
            for _, future in self._begun:
                if not future.done():
                    future.set_result(None)
            self._on_failure(error)

    async def find_epoch(self) -> None:
        """What an earlier life of this member left in its directory is resumed by `serve`. Called before it, once.

        Raises ConfigError for a directory that is not this member's, StorageError."""
        files = self.ports.files
        names = await files.listdir()
        if not names:
            return
        await self._identity(self.cell, fresh=self._fresh).claim(self.ports)
        if self._fresh:
            await self._forget_epoch()
        elif _EPOCH in names:
            file = await files.open(_EPOCH)
            data = await file.pread(0, 1 << 16)
            await file.close()
            try:
                setting = msgspec.json.decode(data, type=Setting)
            except msgspec.MsgspecError as error:
                raise StorageError(f"{files.root}/{_EPOCH}: {error}") from None
            self._next = (Epoch(*setting.epoch), setting.cell, setting.plan)
            self.epoch = Epoch(*setting.epoch)

    def _identity(self, cell: Cell, *, fresh: bool) -> Identity:
        return Identity(self.id, cell.storage_name(), fresh)

    async def _keep_epoch(self, setting: Setting) -> None:
        files = self.ports.files
        file = await files.open(_EPOCH_TEMPORARY, create=True)
        await file.truncate(0)
        await file.pwritev(0, [msgspec.json.encode(setting)], sync=True)
        await file.close()
        await files.rename(_EPOCH_TEMPORARY, _EPOCH)
        await files.sync_directory()

    async def _forget_epoch(self) -> None:
        files = self.ports.files
        if _EPOCH in await files.listdir():
            await files.unlink(_EPOCH)
            await files.sync_directory()

    async def _run_epoch(self, epoch: Epoch, cell: Cell, plan: Plan) -> None:
        self._next = None
        resumed = epoch == self.epoch
        self.epoch, self.cell, self.plan = epoch, cell, plan
        self.lost = {}
        self._campaign_at_ns, self._campaign_wait_ns = 0, _CAMPAIGN_NS[0]
        opening = self.ports.tasks.spawn(self._tell_opening(), f"member {self.id} opening")
        try:
            storage = await (self._reopened(cell, plan) if resumed else self._emptied(cell, plan))
            self.metrics = Metrics()
            recovered = await storage.open()
            for note in recovered.notes:
                self._log(note)
            if storage.durable:
                await self._keep_epoch(Setting((epoch.process_nanos, epoch.bench_iter), cell, plan))
        finally:
            opening.cancel()
        peer = Peer(
            self.ports,
            self.id,
            self.ids,
            epoch,
            storage,
            recovered,
            options=_with_knobs(self._options, plan),
            async_storage=cell.pipeline == "async-storage",
            verify=plan.verify,
            metrics=self.metrics,
            on_acknowledged=self.on_acknowledged,
            on_newer=self._on_newer,
            on_control=self._on_control,
            by_reference=self._by_reference,
            shares_loop=cell.transport == "mem",
        )
        await peer.follow_log()
        self._log(f"epoch {epoch}: {cell}" + (f", resumed at index {recovered.applied}" if not recovered.fresh else ""))
        self.peer = peer
        ticker: Task = peer.spawn(peer.tick(), "ticker")
        early, self._early = self._early, []
        for packet in [encode(msg.epoch, msg.messages, by_reference=True) for msg in early if msg.epoch == epoch]:
            peer.receive(packet)
        for packet in self._idle_packets:
            peer.receive(packet)
        self._idle_packets = []
        if self._greeter is not None:
            self._reply(*self._greeter)
            self._greeter = None
        for setting, future in self._begun:
            if setting == (epoch, cell, plan) and not future.done():
                future.set_result(peer)
        try:
            await PIPELINES[cell.pipeline](peer)
        finally:
            ticker.cancel()
            self.peer = None
            peer.tracker.fail_all()

    async def _emptied(self, cell: Cell, plan: Plan) -> Storage:
        """A storage of the cell's kind with nothing in it."""
        await self._forget_epoch()
        if self.storage is not None and cell.storage_name() == self._storage_name:
            await self.storage.reset()
            return self.storage
        await self._close_storage()
        return self._make_storage(cell, plan, fresh=True)

    async def _reopened(self, cell: Cell, plan: Plan) -> Storage:
        """The storage with all that it held when the epoch was left, or when this member ended."""
        await self._close_storage()
        return self._make_storage(cell, plan, fresh=False)

    def _make_storage(self, cell: Cell, plan: Plan, *, fresh: bool) -> Storage:
        self.storage = make_storage(
            self.ports,
            storage=cell.storage,
            wal=cell.wal,
            engine=cell.engine,
            cache_bytes=plan.cache_bytes,
            sync=plan.sync,
            identity=self._identity(cell, fresh=fresh),
        )
        self._storage_name = cell.storage_name()
        return self.storage

    async def _close_storage(self) -> None:
        if self.storage is not None:
            storage, self.storage = self.storage, None
            await storage.close()

    async def _close(self) -> None:
        if self.failure is None and self.storage is not None:
            await self.storage.close()
        await self.ports.links.close()

    # --- what comes in ---

    def _on_packet(self, packet: Packet) -> None:
        if self.peer is not None:
            self.peer.receive(packet)
        else:
            self._idle_packets.append(packet)
            self._signal.set()

    def _on_loss(self, peer: int) -> None:
        self.lost[peer] = self.lost.get(peer, 0) + 1
        if self.peer is not None:
            self.peer.unreachable(peer)

    def _read_idle(self) -> None:
        """Between epochs nothing but control and a newer epoch matters."""
        packets, self._idle_packets = self._idle_packets, []
        for packet in packets:
            try:
                for msg in decode(packet):
                    if msg.control:
                        self._on_control(msg.control)
                    if msg.messages and msg.epoch > self.epoch:
                        self._on_newer(msg)
            except MalformedMessage as error:
                packet.reject(str(error))

    def _on_newer(self, msg: RaftMsg) -> None:
        if not msg.messages:
            return
        self._early.append(msg)
        self._switch(msg.epoch, self.cell, self.plan)

    def _switch(self, epoch: Epoch, cell: Cell, plan: Plan) -> None:
        if self._next is None or epoch >= self._next[0]:
            self._next = (epoch, cell, plan)
            if self.peer is not None:
                self.peer.end()
            self._signal.set()

    def _on_control(self, data: bytes) -> None:
        message = decode_control(data)
        if isinstance(message, Hello):
            epoch, setting = Epoch(*message.setting.epoch), message.setting
            _check(setting.cell)
            if epoch > self.epoch or (epoch == self.epoch and self._differs(setting)):
                self._greeter = (message.from_, message.request)
                self._switch(epoch, setting.cell, setting.plan)
            elif epoch == self.epoch and self.peer is not None:
                self._reply(message.from_, message.request)
        elif isinstance(message, Mark):
            self.mark()
            self._reply(message.from_, message.request)
        elif isinstance(message, Ask):
            self.ports.tasks.spawn(self._answer(message), f"member {self.id} report")
        else:
            self._requests.hear(message)

    def _differs(self, setting: Setting) -> bool:
        """Whether a resumed epoch is to go on with another pipeline, or with verification."""
        return (setting.cell.pipeline, setting.plan.verify) != (self.cell.pipeline, self.plan.verify)

    def _reply(self, to: int, request: int, report: PeerReport | None = None) -> None:
        self._send_control(to, Answer(self.id, request, report))

    async def _tell_opening(self) -> None:
        """A task, while a storage is opened, which on a slow disk takes its time: whoever waits for the answer hears that one will come."""
        while True:
            await self.ports.clock.sleep_ns(RESEND_NS)
            if self._greeter is not None:
                self._send_control(self._greeter[0], Opening(self.id, self._greeter[1]))

    def _send_control(self, to: int, message: Control) -> None:
        packet = encode(self.epoch, (), encode_control(message), by_reference=self._by_reference)
        self.ports.links.stream(to).send(packet)

    async def _answer(self, ask: Ask) -> None:
        self._reply(ask.from_, ask.request, await self.report(digests=ask.digests, samples=ask.samples))

    # --- what is recorded ---

    def mark(self) -> None:
        """The measured window begins."""
        self.ports.cpu.clear()
        self.metrics.clear()
        self._usage0 = self.ports.cpu.usage()
        self._counters0 = self._counters()
        self._buffered_pairs0, self._filled_buffers0 = self.ports.kv.buffered()

    def _counters(self) -> dict[str, int]:
        storage = self.storage.counters() if self.storage is not None else {}
        return {**storage, **self.ports.links.counters(), **self.ports.files.counters(), **self.ports.kv.counters()}

    async def report(self, *, digests: bool, samples: bool) -> PeerReport:
        loop_ns, total_ns = self.ports.cpu.usage()
        peer, storage = self.peer, self.storage
        counters = self._counters()
        stages = {
            name: StageTotals(
                record.count, record.entries, record.nbytes, record.total_cpu_ns(), record.samples.tolist() if samples else []
            )
            for name, record in sorted(self.ports.cpu.records.items())
            if record.count
        }
        metrics = self.metrics.to_json()
        log_digest = str(peer.digest) if peer is not None and peer.digest is not None else ""
        engine_digest = await storage.digest() if digests and storage is not None else ""
        return PeerReport(
            id=self.id,
            commit=peer.node.commit if peer is not None else 0,
            applied=peer.applied if peer is not None else 0,
            log_digest=log_digest,
            engine_digest=engine_digest,
            loop_ns=loop_ns - self._usage0[0],
            total_ns=total_ns - self._usage0[1],
            stages=stages,
            counters={name: value - self._counters0.get(name, 0) for name, value in counters.items()},
            metrics=metrics,
            buffered_pairs=self._buffered_pairs0,
            filled_buffers=self._filled_buffers0,
        )

    # --- a leader's calls to the others ---

    async def lead(self, epoch: Epoch, cell: Cell, plan: Plan, stop: Callable[[], bool] = lambda: False) -> Peer:
        """Begins an epoch here and at every other member (or resumes it, where it is this member's), and becomes its leader with
        every member caught up.

        Raises RunError naming who was not heard of for `plan.connect_seconds`, if there is no leader within as many more, once `stop()` is
        true, or when another begins a newer epoch; what ended this member, if that happened first."""
        begun = self.ports.tasks.future()
        self._begun = [((epoch, cell, plan), begun)]
        self._switch(epoch, cell, plan)
        peer: Peer | None = await begun
        if peer is None:
            raise self._why_not_elected()

        def given_up() -> bool:
            return self._stopped or self.peer is not peer or stop()

        patience_ns = int(plan.connect_seconds * 1e9)
        setting = Setting((epoch.process_nanos, epoch.bench_iter), cell, plan)
        _, overdue = await self._requests.ask_all(
            lambda request: Hello(self.id, request, setting), patience_ns, given_up=given_up, patient=True
        )
        if given_up():
            raise self._why_not_elected(peer)
        if overdue:
            raise RunError(f"no answer from peer {', '.join(map(str, overdue))} within {plan.connect_seconds:g} s")
        await self._win(peer, self.ports.clock.now_ns() + patience_ns, given_up)
        return peer

    def _why_not_elected(self, peer: Peer | None = None) -> BaseException:
        if self.peer is not peer and self.failure is None and not self._stopped:
            return RunError(f"peer {self.id}: another leader began a newer run")
        return self.failure or RunError(f"peer {self.id} was stopped before it was elected")

    async def _win(self, peer: Peer, deadline_ns: int, given_up: Callable[[], bool]) -> None:
        """Campaigns until this member leads and everyone's log matches its own."""
        clock = self.ports.clock
        while True:
            now_ns = clock.now_ns()
            if given_up():
                raise self._why_not_elected(peer)
            if now_ns > deadline_ns:
                raise RunError(f"peer {self.id} was not elected in time: is another leader at work, or a quorum missing?")
            if peer.is_leader:
                last = peer.storage.log.last_index()
                if peer.applied >= len(self.ids) and all(progress.match == last for _, progress in peer.node.progresses()):
                    return
            elif peer.applied >= len(self.ids):  # the bootstrap entries
                self.seek_leadership(peer)
            await clock.sleep_ns(1_000_000)

    def seek_leadership(self, peer: Peer) -> None:
        """Campaigns if it is time to: soon at first, then ever more seldom, since a new round takes the votes of the last one away from
        members whose disks are slow."""
        now_ns = self.ports.clock.now_ns()
        if peer.is_leader:
            self._campaign_wait_ns = _CAMPAIGN_NS[0]
        elif now_ns >= self._campaign_at_ns:
            peer.campaign()
            self._campaign_at_ns = now_ns + self._campaign_wait_ns
            self._campaign_wait_ns = min(2 * self._campaign_wait_ns, _CAMPAIGN_NS[1])

    def mark_all(self) -> None:
        """Opens the measured window everywhere, without waiting for the others' answers."""
        self.mark()
        for id in self.ids:
            if id != self.id:
                self._send_control(id, Mark(self.id, 0))

    async def report_all(self, *, digests: bool, samples: bool, seconds: float = 2.0) -> dict[int, PeerReport]:
        """The reports, by id, of this member and of those that are connected and answer within `seconds`."""
        reports = {self.id: await self.report(digests=digests, samples=samples)}
        answers, _ = await self._requests.ask_all(
            lambda request: Ask(self.id, request, digests, samples), int(seconds * 1e9), given_up=lambda: self._stopped
        )
        for answer in answers:
            if answer.report is not None:
                reports[answer.from_] = answer.report
        return reports
