"""Key-value stores of the model: what a batch costs, and which batches a crash leaves.

The stores' own logs are sequential, so a crash keeps every synced batch and, of the later ones, those up to some moment.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator, Iterable
from typing import Any

import simpy

from rafttoy.errors import ConfigError, StorageError
from rafttoy.observe import BESIDE_LOOP
from rafttoy.ports import KV_INLINE_BYTES, KV_PAIR_BYTES, SAVE_HERE_BYTES, Buffer, KvBuffer, KvStore, Sized, WriteBatch
from rafttoy.sim.disk import SimDisk
from rafttoy.sim.files import DiskFaults
from rafttoy.sim.model import Kv, Linear
from rafttoy.sim.runtime import SLICE_NS, Charge, Loop, SimCpu, Timer, Until
from rafttoy.sim.store import Choice, SimStore

__all__ = ["SimKvStores"]

_PENDING_MAX = 4096  # batches that a crash may lose; older ones, the system has written in its own time

_YIELDING_NS = 350_000
"""What a thread that never sleeps gets at a time where others wake up: half of what the kernel lets a thread run on (EEVDF's base slice).
While the three stores of a group flush, 0.25 s on two cores, 64 and 128 clients get a fifth of what they get before and after, measured and
with this; with 700 µs it was an eighth, with 150 µs four tenths."""

Pairs = Iterable[tuple[bytes, bytes]]
Operations = list[tuple[bytes, bytes | None]]


class _Content:
    """What one store holds, and what of it is durable."""

    __slots__ = ("durable", "pending", "seen", "settled", "virtual")

    def __init__(self) -> None:
        self.seen: dict[bytes, bytes] = {}
        self.durable: dict[bytes, bytes] = {}
        self.pending: list[Operations] = []
        self.settled = 0
        self.virtual = False

    def write(self, operations: Operations) -> None:
        _apply(self.seen, operations)
        self.pending.append(operations)
        if len(self.pending) > _PENDING_MAX:
            self.settle(self.settled + _PENDING_MAX // 2)

    def batches(self) -> int:
        """How many were written so far."""
        return self.settled + len(self.pending)

    def settle(self, upto: int) -> None:
        """The first `upto` batches are durable now."""
        count = upto - self.settled
        if count > 0:
            for operations in self.pending[:count]:
                _apply(self.durable, operations)
            del self.pending[:count]
            self.settled = upto

    def crashed(self, choice: Choice) -> _Content:
        out = _Content()
        out.virtual = self.virtual
        out.durable = dict(self.durable)
        for operations in self.pending[: choice.prefix(len(self.pending))]:
            _apply(out.durable, operations)
        out.seen = dict(out.durable)
        return out


def _apply(content: dict[bytes, bytes], operations: Operations) -> None:
    for key, value in operations:
        if value is None:
            content.pop(key, None)
        else:
            content[key] = value


class _Batch:
    __slots__ = ("count", "nbytes", "operations", "virtual")

    def __init__(self) -> None:
        self.operations: Operations = []
        self.count = self.nbytes = 0
        self.virtual = False

    def put(self, key: bytes, value: Buffer) -> None:
        if isinstance(value, Sized):
            self.virtual = True
        else:
            self.operations.append((key, bytes(value)))
        self.count += 1
        self.nbytes += len(key) + len(value)

    def put_many(self, pairs: Pairs | None, count: int, nbytes: int) -> None:
        if pairs is None:
            self.virtual = True
        else:
            self.operations += pairs
        self.count += count
        self.nbytes += nbytes

    def delete(self, key: bytes) -> None:
        self.operations.append((key, None))
        self.count += 1
        self.nbytes += len(key)


class _Store:
    def __init__(self, stores: SimKvStores, kind: str, name: str, content: _Content, costs: Kv) -> None:
        self._stores = stores
        self._what = f"{stores.root}/{name}"
        self._content = content
        self._costs = costs
        self._volatile = kind == "dict"
        self._in_line = 0  # writes on the thread or before it
        self._unsynced_bytes = 0  # in the store's log since its last sync
        self._last: simpy.Process | None = None  # the newest write of the thread
        self._taken = KvBuffer()  # what the real store's would hold
        if not self._volatile:
            stores.buffers.append(self._taken)
        self._filled = 0  # bytes of this one's own
        self._pairs = self._bytes = 0  # put since the last flush began
        self._flush: simpy.Process | None = None  # the newest one
        self._full: simpy.Process | None = None  # the flush that writes wait for
        self._failure: str | None = None
        self._factors = stores.cpu.spread.of(f"kv.{kind}")
        self._inline = stores.cpu.stage(f"kv.{kind}").record
        self._threaded = self._inline if self._volatile else stores.cpu.stage(f"kv.{kind}{BESIDE_LOOP}").record

    def batch(self) -> _Batch:
        return _Batch()

    def write(self, batch: WriteBatch, *, sync: bool, here: bool = False) -> Awaitable[None]:
        assert isinstance(batch, _Batch)
        stores, content = self._stores, self._content
        sync = sync and not self._volatile
        most = KV_INLINE_BYTES if not sync else SAVE_HERE_BYTES if here and not self._waits_for_flush() else -1
        threaded = not self._volatile and (batch.nbytes > most or self._in_line > 0)
        cost_ns = int(self._costs.write_ns(batch.count, batch.nbytes, self._taken.pairs) * next(self._factors))
        failure = self._write_failure()
        if failure is None:
            if batch.virtual:
                content.virtual = True
            elif self._volatile:
                _apply(content.seen, batch.operations)
            else:
                content.write(batch.operations)
                stores.called()
            if sync:
                failure = self._sync_failure()
        work = None
        nbytes = batch.nbytes
        self._buffer(batch.count, nbytes)
        if not self._volatile:  # a sync is of all that the store's log holds, whoever wrote it (cockroach#38322)
            self._unsynced_bytes += nbytes
            if sync:
                nbytes, self._unsynced_bytes = self._unsynced_bytes, 0
        if threaded:
            self._in_line += 1
            work = self._last = stores.on_thread((self._last, self._full), cost_ns, nbytes, self._costs, sync=sync)
            self._threaded.add(batch.count, batch.nbytes, cost_ns)
        else:
            stores.loop.charge(cost_ns)
            sync_cpu_ns = stores.sync_here(nbytes, self._costs) if sync else 0
            self._inline.add(batch.count, batch.nbytes, cost_ns + sync_cpu_ns)
        return self._ended(work, failure, content.batches(), sync=sync)

    def _waits_for_flush(self) -> bool:
        return self._full is not None and self._full.is_alive

    def _buffer(self, count: int, nbytes: int) -> None:
        """Has flushes and compactions done that these pairs make necessary."""
        costs, stores = self._costs, self._stores
        self._taken.take(count, nbytes)
        self._pairs += count
        self._bytes += nbytes
        self._filled += nbytes + KV_PAIR_BYTES * count
        if costs.background != Linear() and self._filled >= costs.flush_bytes:
            if costs.flush_bytes:
                self._full = self._flush  # it takes in no more until the last flush has ended
            self._flush = stores.beside(int(costs.background.exact_ns(self._pairs, self._bytes)), self._bytes)
            self._pairs = self._bytes = self._filled = 0

    async def _ended(self, work: simpy.Process | None, failure: str | None, written: int, *, sync: bool) -> None:
        stores, loop = self._stores, self._stores.loop
        try:
            if work is not None:
                await Until(loop, work)
                await Timer(loop, stores.half_ns)
                loop.charge(stores.loop_ns)
            await Charge(loop)
        finally:
            self._in_line -= work is not None
        if failure is not None:
            raise StorageError(failure)
        if sync and (stores.faults is None or not stores.faults.lying_sync):
            self._content.settle(written)
            stores.called()

    def _write_failure(self) -> str | None:
        """Why a write fails, if it does; from then on all do."""
        faults = self._stores.faults
        if self._failure is None and not self._volatile and faults is not None and faults.due("fail_write"):
            self._failure = f"{self._what}: Input/output error"
        return self._failure

    def _sync_failure(self) -> str | None:
        faults = self._stores.faults
        if self._failure is None and faults is not None and faults.due("fail_sync"):
            self._failure = f"{self._what}: Input/output error"
        return self._failure

    async def get(self, key: bytes) -> bytes | None:
        await self._read(1, len(key))
        return self._content.seen.get(key)

    async def scan(self, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        assert self._volatile or not self._content.virtual, f"{self._what} holds payload that is Sized: nothing can be read"
        pairs = sorted(pair for pair in self._content.seen.items() if start <= pair[0] < stop)
        await self._read(len(pairs), sum(len(key) + len(value) for key, value in pairs))
        return pairs

    async def _read(self, count: int, nbytes: int) -> None:
        loop = self._stores.loop
        loop.charge(self._costs.read.cost_ns(count, nbytes))
        await Charge(loop)

    async def close(self) -> None:
        self._taken.close()


class SimKvStores:
    """Stores of one peer. `store` carries their content from one incarnation to the next."""

    def __init__(
        self,
        loop: Loop,
        disk: SimDisk,
        costs: dict[str, Kv],
        cpu: SimCpu,
        store: SimStore | None = None,
        faults: DiskFaults | None = None,
        sync: str = "fdatasync",
        root: str = "sim",
    ) -> None:
        self.loop = loop
        self.cpu = cpu
        self.faults = faults
        self.root = root
        self._disk = disk
        self._costs = costs
        self._store = store if store is not None else SimStore()
        self._durable = sync != "none"
        self.half_ns = disk.handoff_ns >> 1
        self.loop_ns = disk.loop_ns
        self.buffers: list[KvBuffer] = []  # of every durable store that was opened
        self.on_call: Callable[[], None] | None = None
        """As `SimFiles.on_call`."""

    def counters(self) -> dict[str, int]:
        return {"kv_buffers": sum(buffer.filled for buffer in self.buffers)}

    def buffered(self) -> tuple[int, int]:
        return sum(buffer.pairs for buffer in self.buffers), sum(buffer.filled_since_opened for buffer in self.buffers)

    def called(self) -> None:
        if self.on_call is not None:
            self.on_call()

    def on_thread(self, before: tuple[simpy.Process | None, ...], cost_ns: int, nbytes: int, costs: Kv, *, sync: bool) -> simpy.Process:
        """A write on the store's own thread, behind all of `before`; with `sync`, that of the store's log is part of it."""
        self.loop.background_ns += cost_ns
        if sync and self._durable:
            self.loop.background_ns += self._disk.cpu_ns(nbytes)
        stall_ns = 0 if sync else int(costs.stall_byte_ns * nbytes)
        return self.loop.env.process(self._work(before, cost_ns, stall_ns, nbytes, costs.sync_factor if sync else None))

    def sync_here(self, nbytes: int, costs: Kv) -> int:
        """The loop syncs the store's log itself, behind what it is charged with, and does nothing else until that has ended. Returns its
        core time."""
        loop, disk = self.loop, self._disk
        begin_ns = max(int(loop.env.now), loop.free_at_ns)
        cpu_ns = 0
        if self._durable:
            cpu_ns = disk.cpu_ns(nbytes)
            end_ns = disk.synced_write(begin_ns, nbytes, grows=False, factor=costs.sync_factor)
        else:
            end_ns = disk.write(begin_ns, nbytes)
        loop.busy_ns += cpu_ns
        loop.hold(end_ns + (self.faults.stall_ns if self.faults is not None else 0))
        return cpu_ns

    def beside(self, cost_ns: int, nbytes: int) -> simpy.Process:
        """Core time of threads of the store's own, which write so much to the device as they go."""
        return self.loop.env.process(self._tables(cost_ns, nbytes))

    def _tables(self, cost_ns: int, nbytes: int) -> Generator[simpy.Event, Any, None]:
        yield from self._in_slices(cost_ns, _YIELDING_NS, counted=True)
        self._disk.write(int(self.loop.env.now), nbytes)  # a table is synced when it is complete, and until then in memory

    def _in_slices(self, cost_ns: int, longest_ns: int = SLICE_NS, *, counted: bool = False) -> Generator[simpy.Event, Any, None]:
        loop, env = self.loop, self.loop.env
        while cost_ns > 0:
            slice_ns = min(cost_ns, longest_ns)
            cost_ns -= slice_ns
            yield env.timeout(loop.host.reserve(int(env.now), slice_ns) - env.now)
            loop.background_ns += slice_ns if counted else 0

    def _work(
        self, before: tuple[simpy.Process | None, ...], cost_ns: int, stall_ns: int, nbytes: int, sync_factor: float | None
    ) -> Generator[simpy.Event, Any, None]:
        disk, loop, env = self._disk, self.loop, self.loop.env
        yield env.timeout(self.half_ns)
        for other in before:
            if other is not None and other.is_alive:
                yield other
        yield from loop.lock()
        yield from self._in_slices(cost_ns)
        now = int(env.now)
        if sync_factor is None:
            end_ns = now + stall_ns
        elif self._durable:
            end_ns = disk.synced_write(now, nbytes, grows=False, factor=sync_factor)
        else:
            end_ns = disk.write(now, nbytes)
        yield env.timeout(end_ns + (self.faults.stall_ns if self.faults is not None else 0) - now)
        yield from loop.lock()

    async def open(self, kind: str, name: str) -> KvStore:
        costs = self._costs.get(kind)
        if costs is None:
            raise ConfigError(f"no key-value store {kind!r} in the model: one of {', '.join(self._costs)}")
        if kind == "dict":
            return _Store(self, kind, name, _Content(), costs)
        return _Store(self, kind, name, self._store.kv.setdefault(name, _Content()), costs)

    async def destroy(self, kind: str, name: str) -> None:
        self._store.kv.pop(name, None)
