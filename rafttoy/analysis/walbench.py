"""The write-ahead log by itself: batch x bytes, on real disks or on the model's, with the raw device beside it.

`depth` saves are under way at a time, each of one batch: with 1, a caller who waits for every save; with 2 (the default), one that
prepares the next while the disk works, as pipelines that do not wait for the disk do. The raw device writes and syncs blocks of the
size that a batch has, from one thread, over prewritten space, with none of our code: the ceiling. Both are measured in turns, so that
a device that changes its mind does so to both.
"""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

import msgspec
import numpy as np
from rich import box
from rich.table import Table

from rafttoy.analysis.formats import human_count, human_us
from rafttoy.ports import Ports
from rafttoy.proposal import PayloadMaker
from rafttoy.raft.entries import EntryBatch, EntryType
from rafttoy.storage import Storage, make_storage, parse_wal
from rafttoy.worlds import RealBench

__all__ = ["BATCHES", "BYTES", "Bench", "WalCell", "WalResult", "gobench_line", "run_wal_bench", "save_batches", "table"]

BATCHES = (1, 4, 16, 64, 256, 1024)
BYTES = (1, 16, 256, 4096, 32768)

T = TypeVar("T")

_ROUNDS = 16
_BLOCK = 4096
_OVERHEAD_BYTES = 128  # of a group of one batch
_PAUSE_NS = 20_000_000
_AHEAD_BYTES = 64 << 20  # made before each slice
_FEWEST = 8


class WalCell(msgspec.Struct, frozen=True):
    wal: str
    batch: int
    bytes: int

    def __str__(self) -> str:
        return f"{self.wal} batch={self.batch} bytes={self.bytes}"


class WalResult(msgspec.Struct, frozen=True):
    """Of one cell. Times in µs; `of_raw` is the log's rate over the raw device's (1.0: as fast as synced writes of that size can be), the
    median of the turns; None of a log that writes nothing.

    save_us   of one save, from call to durable: p50 and p99
    batch_us  elapsed time over batches saved
    device_bytes_per_byte  what the device wrote for each byte of payload (real disks that count; else what the log handed over)"""

    world: str
    wal: str
    batch: int
    bytes: int
    depth: int
    sync: str
    batches: int
    seconds: float
    batch_us: float
    save_us: dict[str, float]
    ops_per_s: float
    mb_per_s: float
    raw_us: float
    of_raw: float | None
    syncs: int
    device_bytes_per_byte: float


class Bench(Protocol):
    """A world to measure in. `run` runs a coroutine function with the ports of a new, empty directory, which goes afterwards."""

    name: str
    content: bool
    sync: str

    def wals(self) -> tuple[str, ...]:
        """Every log of this world that writes."""

    def run(self, main: Callable[[Ports], Awaitable[T]]) -> T: ...

    def raw(self, size: int, seconds: float) -> list[int]:
        """Durations of synced writes, in ns."""

    def device_bytes(self) -> int:
        """Written to the device so far; 0 where it does not count."""


# --- measuring -------------------------------------------------------------------------------------------------------------------


class _Saver:
    """Keeps `depth` saves under way, in log order."""

    def __init__(self, ports: Ports, storage: Storage, cell: WalCell, depth: int, *, content: bool) -> None:
        self._ports = ports
        self._storage = storage
        self._depth = depth
        self._cell, self._content = cell, content
        self._batches = _batches(cell, content=content)
        self._ahead: deque[EntryBatch] = deque()
        self._until_ns = self._running = 0
        self.durations: list[int] = []
        self.payload_bytes = 0

    async def restart(self) -> None:
        """Empties the log, so that it is in the state it lives in: its segments are recycled, none has to be made beside the saves."""
        await self._storage.reset()
        self._ahead.clear()
        self._batches = _batches(self._cell, content=self._content)
        await self._ports.clock.sleep_ns(_PAUSE_NS)

    async def slice(self, seconds: float, most: int) -> int:
        """Saves for `seconds`, or `most` batches; the time that took, in ns. Encoding proposals is not the log's work: the batches are
        made before."""
        clock, tasks = self._ports.clock, self._ports.tasks
        while len(self._ahead) < most:
            self._ahead.append(next(self._batches))
        begin_ns = clock.now_ns()
        self._until_ns = begin_ns + int(seconds * 1e9)
        ended = tasks.future()
        self._running = self._depth

        async def worker() -> None:
            try:
                await self._work()
            finally:
                self._running -= 1
                if not self._running and not ended.done():
                    ended.set_result(None)

        for i in range(self._depth - 1):
            tasks.spawn(worker(), f"saver {i}")
        await worker()
        await ended
        return clock.now_ns() - begin_ns

    async def _work(self) -> None:
        clock, save = self._ports.clock, self._storage.save
        fewest = _FEWEST
        ahead = self._ahead
        while ahead and (clock.now_ns() < self._until_ns or fewest > 0):
            fewest -= 1
            entries = ahead.popleft()
            self.payload_bytes += entries.payload_bytes
            begin_ns = clock.now_ns()
            await save([entries], None, sync=True)
            self.durations.append(clock.now_ns() - begin_ns)


def _batches(cell: WalCell, *, content: bool) -> Iterator[EntryBatch]:
    """The log of a run."""
    maker = PayloadMaker(np.random.default_rng(1), cell.bytes, content=content)
    payloads = maker.make(cell.batch)
    first = 1
    while True:
        yield EntryBatch.encode(first, 1, EntryType.NORMAL, payloads)
        first += cell.batch


async def _measure(bench: Bench, cell: WalCell, depth: int, seconds: float, ports: Ports) -> WalResult:
    """Slices of the log and of the raw device, in turns."""
    parse_wal(cell.wal)
    storage = make_storage(ports, storage="split", wal=cell.wal, engine="mem", sync=bench.sync, cache_bytes=64 << 20)
    await storage.open()
    saver = _Saver(ports, storage, cell, depth, content=bench.content)
    encoded = next(_batches(cell, content=False)).size
    size = math.ceil((encoded + _OVERHEAD_BYTES) / _BLOCK) * _BLOCK
    await saver.slice(0, _FEWEST * depth)  # warm: the first writes touch pages for the first time
    saver.durations.clear()
    saver.payload_bytes = 0
    raw: list[int] = []
    shares: list[float] = []
    elapsed_ns = written = handed = syncs = 0
    share = seconds / _ROUNDS
    for _ in range(_ROUNDS):
        alone = bench.raw(size, share / 2)
        fit = int(2 * share * 1e9 / (sum(alone) / len(alone)))
        await saver.restart()
        before, count, counters = bench.device_bytes(), len(saver.durations), storage.counters()
        slice_ns = 1 + await saver.slice(share, max(_FEWEST * depth, min(fit, _AHEAD_BYTES // size)))
        elapsed_ns += slice_ns
        written += bench.device_bytes() - before
        handed += storage.counters()["wal_bytes"] - counters["wal_bytes"]
        syncs += storage.counters()["wal_syncs"] - counters["wal_syncs"]
        shares.append(sum(alone) / len(alone) / slice_ns * (len(saver.durations) - count))
        raw += alone
    await storage.close()
    count = len(saver.durations)
    batch_ns, raw_ns = elapsed_ns / count, sum(raw) / len(raw)
    p50, p99 = np.percentile(saver.durations, (50, 99)) / 1e3
    return WalResult(
        world=bench.name,
        wal=cell.wal,
        batch=cell.batch,
        bytes=cell.bytes,
        depth=depth,
        sync=bench.sync,
        batches=count,
        seconds=round(elapsed_ns / 1e9, 3),
        batch_us=round(batch_ns / 1e3, 2),
        save_us={"p50": round(float(p50), 2), "p99": round(float(p99), 2)},
        ops_per_s=round(cell.batch / batch_ns * 1e9, 1),
        mb_per_s=round(cell.batch * cell.bytes / batch_ns * 1e3, 3),
        raw_us=round(raw_ns / 1e3, 2),
        of_raw=round(statistics.median(shares), 3) if handed else None,
        syncs=syncs,
        device_bytes_per_byte=round((written or handed) / saver.payload_bytes, 3),
    )


def save_batches(bench: RealBench, cell: WalCell, depth: int, count: int) -> float:
    """Elapsed time over `count` batches, in µs: of a new log, from its first save on."""

    async def measure(ports: Ports) -> float:
        storage = make_storage(ports, storage="split", wal=cell.wal, engine="mem", sync=bench.sync)
        await storage.open()
        elapsed_ns = await _Saver(ports, storage, cell, depth, content=True).slice(1e9, count)
        await storage.close()
        return elapsed_ns / count / 1e3

    return bench.run(measure)


def run_wal_bench(
    bench: Bench,
    wals: Sequence[str],
    batches: Sequence[int] = BATCHES,
    sizes: Sequence[int] = BYTES,
    *,
    depth: int = 2,
    seconds: float = 1.0,
    on_result: Callable[[WalResult], None] = lambda result: None,
) -> list[WalResult]:
    """Every log x batch x bytes, `seconds` each. Raises ConfigError for an unknown log, StorageError."""
    for wal in wals:
        parse_wal(wal)
    out = []
    for wal in wals:
        for batch in batches:
            for size in sizes:
                cell = WalCell(wal, batch, size)
                result = bench.run(partial(_measure, bench, cell, depth, seconds))
                on_result(result)
                out.append(result)
    return out


def gobench_line(result: WalResult, cores: int) -> str:
    """As the original's wal_bench_test names its runs: `ns/op` is the time of one batch."""
    name = f"BenchmarkWal/wal={result.wal}/batch={result.batch}/bytes={result.bytes}-{cores}"
    rate = result.batch * result.bytes / result.batch_us
    return "\t".join([name, f"{result.batches:8d}", f"{result.batch_us * 1e3:10.0f} ns/op", f"{rate:8.2f} MB/s"])


def table(results: Sequence[WalResult]) -> Table:
    """A row a cell. `of raw` is the log's rate over that of the device."""
    out = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    out.add_column("wal", no_wrap=True)
    for heading in (
        "batch",
        "bytes",
        "entries/s",
        "MB/s",
        "a batch",
        "save p50",
        "save p99",
        "raw device",
        "of raw",
        "batches/sync",
        "write amp",
    ):
        out.add_column(heading, justify="right", no_wrap=True)
    for result in results:
        out.add_row(
            result.wal,
            str(result.batch),
            str(result.bytes),
            human_count(result.ops_per_s),
            f"{result.mb_per_s:.2f}",
            human_us(result.batch_us),
            human_us(result.save_us["p50"]),
            human_us(result.save_us["p99"]),
            human_us(result.raw_us),
            f"{100 * result.of_raw:.0f} %" if result.of_raw is not None else "",
            f"{result.batches / result.syncs:.2f}" if result.syncs else "",
            f"{result.device_bytes_per_byte:.2f}",
        )
    return out
