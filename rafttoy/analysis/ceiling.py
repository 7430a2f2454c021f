"""The closed-form ceiling of a cell: what its costs alone allow, without a simulation. Storage is part of it.

Three bounds, of which the lowest holds (asymptotic bounds: Denning & Buzen, "The operational analysis of queueing network models",
1978; Lazowska et al., Quantitative System Performance, 1984, §5):

    clients     X <= N / L(B)          N proposals in flight, each as slow as one round of a batch of B without any queue
    resources   X <= B / D_r(B)        a round of B takes D of resource r: a loop, the cores (all, or one that loops keep to), a log on
                                       disk, the wire
    window      X <= W / RTT           appends on the way to a follower

Costs are per batch, so every bound rises with B, and L does too; a group forms the batches that it can (group commit). The ceiling is
that of the best batch, at most N in a closed loop. It is a bound, not a forecast: nothing waits for a core, tails do not add up, and the
mean of a maximum counts as the maximum of means. The simulation stays below it, but for one case: where a proposal is acknowledged
before it is applied, a short run can leave work undone that the ceiling counts.

An open loop is served at its rate if that is below all bounds, in the smallest batches that keep up with it. Its latency adds the wait
for the busiest resource (an M/D/1 queue), which lasts at most half a round on average where rounds take all that waits.
"""

from __future__ import annotations

import math
from collections import Counter
from typing import NamedTuple

import msgspec

from rafttoy.analysis.queueing import (
    NS,
    disk_ceiling,
    network_ceiling,
    order_statistic,
    paxos_ceiling,
    quorum_latency_ns,
    serial_ceiling,
    wait_ns,
    window_ceiling,
)
from rafttoy.cell import Cell
from rafttoy.errors import ConfigError
from rafttoy.peer import AckOn, ApplyOn, RaftOptions
from rafttoy.ports import KV_INLINE_BYTES, SAVE_HERE_BRIEF_BYTES, SAVE_HERE_BYTES, core_of
from rafttoy.proposal import KEY_BYTES, OVERHEAD_BYTES
from rafttoy.raft.entries import entry_sizes
from rafttoy.sim.model import Disk, Linear, Model
from rafttoy.storage import ENGINES, STORAGES, parse_wal, wal_delay_ns

__all__ = ["SHAPES", "Ceiling", "Shape", "WithoutStorage", "ceiling", "without_storage"]

_TYPICAL_INDEX = 100_000  # a log's index takes three bytes for most of a run
_HEADER_BYTES = 64  # of a packet, beside entries
_LARGEST_BATCH = 1 << 16
_SPLITS = (1, 2, 3, 4, 6, 8, 12, 16)  # into how many batches a closed loop's clients may fall apart


class Shape(NamedTuple):
    """What of a pipeline matters to a bound. `parallel`: appends leave before the leader saves; `waits`: its loop waits for its disk;
    `task`: entries are applied beside the loop."""

    parallel: bool
    waits: bool
    task: bool
    ack: AckOn = AckOn.APPLY
    apply: ApplyOn = ApplyOn.ALL


SHAPES = {
    "basic": Shape(parallel=False, waits=True, task=False),
    "parallel-append": Shape(parallel=True, waits=True, task=False),
    "parallel-append-early-ack": Shape(parallel=True, waits=True, task=False, ack=AckOn.COMMIT),
    "async-apply": Shape(parallel=True, waits=True, task=True),
    "async-apply-early-ack": Shape(parallel=True, waits=True, task=True, ack=AckOn.COMMIT),
    "async-apply-early-ack-lazy-follower": Shape(parallel=True, waits=True, task=True, ack=AckOn.COMMIT, apply=ApplyOn.LEADER),
    "async-storage": Shape(parallel=True, waits=False, task=True),
}
"""By pipeline."""


class Ceiling(msgspec.Struct, frozen=True):
    """`latency_us` is the mean; None for an open loop that is offered more than can be served. `batch` is proposals a round.

    binding       the resource whose bound is the ceiling; `latency` where only the clients' number is, `rate` where an open loop's rate is
    utilisation   share of each resource at the ceiling
    bounds        ops/s that each would allow at that batch
    """

    ops_per_s: float
    latency_us: float | None
    batch: float
    binding: str
    utilisation: dict[str, float]
    bounds: dict[str, float]


class WithoutStorage(NamedTuple):
    """What the published model of Paxos says: rounds a second, and the latency of one that meets no other."""

    rounds_per_s: float
    latency_us: float


def without_storage(model: Model, cell: Cell) -> WithoutStorage:
    """Charapko's formulas with this model's costs of a message and one proposal a round: what they leave out (the log, batches, the
    work of followers on the same host) is the distance to `ceiling`."""
    at = _Round(model, cell, 1.0)
    return at.without_storage()


def ceiling(model: Model, cell: Cell) -> Ceiling:
    """Raises ConfigError for a transport or store that the model has no costs of."""
    model = model.on(cell.group_name())
    return _open(model, cell) if cell.rate else _closed(model, cell)


def _closed(model: Model, cell: Cell) -> Ceiling:
    best: tuple[float, _Round] | None = None
    for batch in sorted({cell.conc / split for split in _SPLITS if cell.conc >= split}):
        at = _Round(model, cell, batch)
        rate = min(serial_ceiling(at.latency_ns) * cell.conc, *at.bounds.values())
        if best is None or rate > best[0]:
            best = (rate, at)
    assert best is not None
    rate, at = best
    bounds = at.bounds | {"latency": serial_ceiling(at.latency_ns) * cell.conc}
    return _result(rate, cell.conc / rate * NS, at.batch, bounds)  # Little: N = X · R


def _open(model: Model, cell: Cell) -> Ceiling:
    most = _Round(model, cell, _LARGEST_BATCH)
    rate = min(cell.rate, *most.bounds.values())
    if rate < cell.rate:
        return _result(rate, None, most.batch, most.bounds)
    low, high = 1.0, float(_LARGEST_BATCH)
    single = at = _Round(model, cell, low)
    if cell.rate > min(single.bounds.values()):  # proposals come faster than one by one: the smallest batch that keeps up
        while high - low > 1e-3 * low:
            middle = math.sqrt(low * high)
            at = _Round(model, cell, middle)
            low, high = (low, middle) if cell.rate <= min(at.bounds.values()) else (middle, high)
    queued_ns = wait_ns(cell.rate, NS / min(single.bounds.values()))
    residual_ns = at.batch / min(at.bounds.values()) * NS / 2  # who comes during a round is in the next
    return _result(rate, at.latency_ns + min(queued_ns, residual_ns), at.batch, at.bounds, "rate")


def _result(rate: float, latency_ns: float | None, batch: float, bounds: dict[str, float], binding: str = "") -> Ceiling:
    finite = {name: bound for name, bound in bounds.items() if bound < math.inf}
    return Ceiling(
        ops_per_s=round(rate, 1),
        latency_us=None if latency_ns is None else round(latency_ns / 1e3, 1),
        batch=round(batch, 2),
        binding=binding or min(finite, key=lambda name: finite[name]),
        utilisation={name: round(rate / bound, 4) for name, bound in finite.items() if name != "latency"},
        bounds={name: round(bound, 1) for name, bound in finite.items()},
    )


class _Round:
    """One batch of `batch` proposals through a group, from one proposal of a client to its next. Times in ns.

    bounds       ops/s by resource
    latency_ns   of the round, if it meets no other
    loop_ns      how long the leader's Ready loop is at it: its CPU time and what it waits for in line
    """

    def __init__(self, model: Model, cell: Cell, batch: float) -> None:
        self.batch = batch
        self._model = model
        self._cell = cell
        self._shape = SHAPES[cell.pipeline]
        if cell.transport not in model.hardware.links:
            raise ConfigError(f"model {model.meta.name}: no section hardware.links.{cell.transport}")
        self._link = model.hardware.links[cell.transport]
        data = OVERHEAD_BYTES + cell.bytes
        self._data = batch * data
        self._frames = batch * entry_sizes(1, _TYPICAL_INDEX, data)[1]
        self._pairs = batch * (KEY_BYTES + cell.bytes)
        self._combined = STORAGES[cell.storage]
        self._wal, argument = ("kv", "") if self._combined else parse_wal(cell.wal)
        self._wal_delay = float(wal_delay_ns(argument)) if argument else 0.0
        self._followers = cell.nodes - 1
        self._quorum = cell.nodes // 2 + 1
        self._apply()
        self._log()
        self._loops()
        self.latency_ns = self._latency()
        self.bounds = self._bounds()

    def without_storage(self) -> WithoutStorage:
        link = self._link
        receive = self._stage("receive", 1, _HEADER_BYTES) + self._packets(1, _HEADER_BYTES, link.receive) + link.wake_us * 1e3
        send, transmit = self._send / max(1, self._followers), self._frames * link.byte_ns
        latency = quorum_latency_ns(send, 2 * link.delay_us * 1e3, 0.0, receive, transmit)
        return WithoutStorage(paxos_ceiling(self._cell.nodes, receive, send, transmit), latency / 1e3)

    # --- parts ---

    def _stage(self, name: str, entries: float = 0, nbytes: float = 0) -> float:
        return _cost(self._model.software.stage(name) or Linear(), entries, nbytes)

    def _kv(self, kind: str, entries: float, nbytes: float) -> float:
        if kind not in self._model.software.kv:
            raise ConfigError(f"model {self._model.meta.name}: no section software.kv.{kind}")
        store = self._model.software.kv[kind]
        return _cost(store.write, entries, nbytes) * store.mean_times(nbytes / max(1.0, entries))

    def _apply(self) -> None:
        """Applying a batch: on the loop, and on the store's own thread."""
        kind = self._combined or ENGINES[self._cell.engine]
        work = self._kv(kind, self.batch + 1, self._pairs)
        threaded = kind != "dict" and self._pairs > KV_INLINE_BYTES
        self._apply_loop = self._stage(f"engine.apply.{kind}", self.batch, self._pairs) + (0.0 if threaded else work)
        self._apply_thread = work if threaded else 0.0
        self._apply_beside = _cost(self._model.software.kv[kind].background, self.batch + 1, self._pairs)
        self._apply_ns = self._apply_loop + self._apply_thread
        if threaded:
            stalled = self._model.software.kv[kind].stall_byte_ns * self._pairs
            self._apply_ns += stalled + self._model.hardware.disk.handoff_us * 1e3

    def _log(self) -> None:
        """Saving a batch: on the loop, beside it, and the wait for it; alone, and with others at the same disk."""
        disk = self._model.hardware.disk
        self._encode = self._save_cpu = self._excess = self._device = 0.0
        self._sync = self._follower_sync = self._quorum_sync = self._all_sync = self._wal_delay
        if self._wal == "mem":
            return
        may_wait = self._cell.transport != "mem" and self._cell.nodes > 1
        most = SAVE_HERE_BYTES if self._cell.transport == "tcp" and not self._shape.task else SAVE_HERE_BRIEF_BYTES
        here = may_wait and self._shape.waits and self._frames <= most
        handoff, loop = (0.0, 0.0) if here else (disk.handoff_us * 1e3, disk.loop_us * 1e3)
        self._encode = self._stage(f"wal.encode.{self._combined or self._wal}", self.batch, self._frames) + loop
        store = beside = 0.0
        synced = self._frames + (self._pairs if self._combined else 0)  # of a combined store, what was applied as well
        factor = 1.0
        if self._wal not in ("file", "etcd"):
            kind = self._combined or self._cell.wal
            store = self._kv(kind, 2, self._frames)
            beside = _cost(self._model.software.kv[kind].background, 2, self._frames)
            factor = self._model.software.kv[kind].sync_factor
        self._save_cpu = store + beside + disk.cpu_us * 1e3 + disk.cpu_byte_ns * synced
        self._excess = max(0.0, synced - 4096)
        self._device = self._excess * disk.byte_ns
        grows = disk.grow_us * 1e3 if self._wal == "etcd" else 0.0
        fixed = handoff + store + self._device + grows
        shared = self._model.hardware.hosts == "one" and self._cell.transport != "mem"
        together = self._followers + (1 if self._shape.parallel else 0)
        crowd = factor * (_crowding(disk, together) if shared else 1.0)
        self._sync = fixed + factor * _sync(disk, synced, 1, 1)
        if self._followers:
            self._follower_sync = fixed + crowd * _sync(disk, synced, 1, 1)
            needed = max(1, self._quorum - 1)
            self._quorum_sync = fixed + crowd * _sync(disk, synced, needed, self._followers)
            self._all_sync = fixed + crowd * _sync(disk, synced, min(self._quorum, self._followers), self._followers)

    def _packets(self, count: float, nbytes: float, work: Linear) -> float:
        return count * work.fixed_us * 1e3 + count * work.entry_us * 1e3 + work.byte_ns * nbytes

    def _loops(self) -> None:
        """CPU time of the loops, and core time beside them, in a round."""
        link, followers, shape = self._link, self._followers, self._shape
        sent = followers * (self._frames + _HEADER_BYTES)
        turns = 2  # a Ready with the entries, one with their commit
        advance = turns * self._stage("advance") if shape.waits else 0.0
        self._propose = self._stage("propose", self.batch, self._data)
        self._ack = self._stage("ack", self.batch) + self._stage("client", self.batch)
        self._ready = turns * self._stage("ready")
        self._send = (
            (self._stage("send", followers * (1 + self.batch), sent) + self._packets(followers, sent, link.send)) if followers else 0.0
        )
        wake = link.wake_us * 1e3
        answers = self._stage("receive", followers, followers * _HEADER_BYTES) + self._packets(followers, 0, link.receive) + wake
        self._answers = answers if followers else 0.0
        needed = self._quorum - 1
        self._first_answers = self._stage("receive", needed, needed * _HEADER_BYTES) + self._packets(needed, 0, link.receive) + wake
        self._leader = self._propose + self._ready + advance + self._encode + self._send + self._answers + self._apply_loop + self._ack
        self._advance = advance
        self._take = (
            self._stage("receive", 1 + self.batch, sent / followers) + self._packets(1, sent / followers, link.receive) + wake
            if followers
            else 0.0
        )
        self._answer = self._stage("send", 1, _HEADER_BYTES) + self._packets(1, _HEADER_BYTES, link.send)
        follows = self._apply_loop if shape.apply is ApplyOn.ALL else 0.0
        turn = self._ready / turns + advance / turns  # the commit of one batch comes with the next
        self._follower = self._take + turn + self._encode + self._answer + follows if followers else 0.0
        beside = self._packets(2, sent / followers + _HEADER_BYTES, link.background) if followers else 0.0
        self._beside = (
            2 * followers * beside
            + (1 + followers) * self._save_cpu
            + (1 + (followers if shape.apply is ApplyOn.ALL else 0)) * (self._apply_thread + self._apply_beside)
        )
        in_line = self._sync if shape.waits else 0.0
        if not shape.task:
            in_line += self._apply_ns - self._apply_loop
        self.loop_ns = self._leader + in_line

    def _flight(self, nbytes: float) -> float:
        return self._link.delay_us * 1e3 + nbytes * self._link.byte_ns

    def _latency(self) -> float:
        shape = self._shape
        begin = self._propose + self._ready / 2
        save = self._encode + self._sync
        end = self._ready / 2 + self._ack + self._advance / 2
        if shape.ack is AckOn.APPLY or not shape.task:
            end += self._apply_ns  # a loop that applies in line takes no proposals meanwhile, acknowledged early or not
        if not self._followers:
            return begin + save + end
        packet = self._frames + _HEADER_BYTES
        needed = self._quorum - 1  # packets leave one after another; only those that make the quorum are waited for
        leave = self._packets(needed, needed * packet, self._link.send)
        before = leave + self._flight(packet) + self._take + self._ready / 2 + self._encode
        after = self._packets(1, _HEADER_BYTES, self._link.send) + self._flight(_HEADER_BYTES) + self._first_answers
        remote = before + self._quorum_sync + after
        if not shape.parallel:
            return begin + save + remote + end
        if shape.waits:
            return begin + max(self._send + save, remote) + end
        without_leader = before + self._all_sync + after if self._quorum <= self._followers else math.inf
        return begin + min(max(self._send + save, remote), without_leader) + end

    def _busiest_core_ns(self, *, alone: bool) -> float:
        """Of loops that keep to cores, what the followers of one core do there; 0 where each goes anywhere, or has a core of its own."""
        if alone or not self._model.software.placed or self._cell.transport == "mem":
            return 0.0
        sharing = Counter(core_of(id, self._model.hardware.cores) for id in range(2, self._cell.nodes + 1))
        return max(sharing.values(), default=0) * self._follower

    def _bounds(self) -> dict[str, float]:
        batch, hardware = self.batch, self._model.hardware
        one_process = self._cell.transport == "mem"
        loops = self._leader + self._followers * self._follower
        own_beside = self._beside / (1 + self._followers)
        alone = hardware.hosts == "each" and not one_process
        core_ns = self._leader + own_beside if alone else loops + self._beside
        sharing = 1 if alone else 1 + self._followers
        bounds = {
            "leader": batch * serial_ceiling(loops if one_process else self._leader),
            "follower": batch * serial_ceiling(0.0 if one_process else self._follower),
            "cores": batch * serial_ceiling(max(core_ns / hardware.cores, self._busiest_core_ns(alone=alone))),
            "disk": min(
                disk_ceiling(batch, max(self._sync, self._follower_sync) - self._device, self._excess / batch, hardware.disk.byte_ns),
                disk_ceiling(batch, 0.0, sharing * self._excess / batch, hardware.disk.byte_ns),
            ),
            "network": network_ceiling(NS / self._link.byte_ns, self._cell.nodes, self._frames / batch) if self._link.byte_ns else math.inf,
        }
        if self._shape.waits:
            bounds["loop"] = batch * serial_ceiling(self.loop_ns)
        if self._shape.task:
            bounds["apply"] = batch * serial_ceiling(self._apply_ns)
        if self._followers:
            round_trip = self._flight(self._frames) + self._take + self._follower_sync + self._answer + self._flight(_HEADER_BYTES)
            bounds["window"] = window_ceiling(RaftOptions().max_inflight_messages * batch, round_trip)
        return bounds


def _cost(cost: Linear, entries: float, nbytes: float) -> float:
    return cost.exact_ns(entries, nbytes)


def _sync(disk: Disk, nbytes: float, k: int, n: int) -> float:
    """Mean of the k-th fastest of n syncs of so many bytes."""
    widened = disk.widened()
    return order_statistic([percent / 100 for percent in disk.percents()], [1e3 * widened(us, nbytes) for us in disk.sync_us], k, n)


def _crowding(disk: Disk, together: int) -> float:
    """Factor on a sync with so many at once."""
    return disk.concurrency[min(max(together, 1), len(disk.concurrency)) - 1]
