"""Short measurements of this host's disk and hand-offs: what the model's `disk` section is made of.

Everything is measured as the peers do it: one thread that writes and syncs for an event loop that waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from rafttoy.errors import StorageError
from rafttoy.real.files import DiskThread
from rafttoy.real.node import start_loop
from rafttoy.sim.model import Disk, Interruptions

__all__ = ["look_at_clock", "probe_disk", "probe_interruptions"]

_BLOCK = 4096
_FILE_BYTES = 8 << 20
_LARGE_BYTES = (64 << 10, 512 << 10)
_PERCENT = [*range(0, 100, 5), 97.5, 99, 99.5, 99.9, 100]
_STOP_US = 100
_STOP_PERCENT = [*range(0, 100, 10), 95, 97.5, 99, 100]
_FEWEST_STOPS = 5
_sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


def probe_disk(directory: Path | None, seconds: float = 3.0) -> Disk:
    """Measures the device below `directory` (default: the system's temporary one) in about `seconds`.

    Raises StorageError if it cannot be written."""
    share = seconds / 8
    try:
        with tempfile.TemporaryDirectory(prefix="rafttoy-probe-", dir=directory) as root:
            with _prewritten(root, 1) as (fd,):
                alone, cpu_ns = _synced_writes(fd, _BLOCK, share * 2)
                large = [statistics.median(_synced_writes(fd, size, share / 2)[0]) for size in _LARGE_BYTES]
                unsynced = _median_ns(lambda i: os.pwrite(fd, bytes(_BLOCK), i % 64 * _BLOCK), 300)
                _sync(fd)
                read = _median_ns(lambda i: os.pread(fd, _BLOCK, i % 64 * _BLOCK), 300)
            growing = _growing_writes(os.path.join(root, "growing"), share)  # noqa: PTH118
            together = [_concurrent_writes(root, count, share) for count in (2, 3)]
    except OSError as error:
        raise StorageError(f"data directory {directory or tempfile.gettempdir()}: {error.strerror}") from None
    base_ns = statistics.median(alone)
    slopes = [max(0.0, (ns - base_ns) / (size - _BLOCK)) for ns, size in zip(large, _LARGE_BYTES, strict=True)]
    factors = [1.0, *(max(1.0, ns / base_ns) for ns in together)]
    return Disk(
        sync_us=[round(ns / 1e3, 1) for ns in np.percentile(alone, _PERCENT).tolist()],
        sync_percent=[float(percent) for percent in _PERCENT],
        grow_us=round(max(0.0, statistics.median(growing) - base_ns) / 1e3, 1),
        byte_ns=round(slopes[-1], 4),
        write_us=round(unsynced / 1e3, 1),
        read_us=round(read / 1e3, 1),
        handoff_us=round(_handoff_ns() / 1e3, 1),
        concurrency=[round(factor, 3) for factor in factors],
        cpu_us=round(cpu_ns / 1e3, 1),
    )


def probe_interruptions(count: int, seconds: float = 1.2) -> Interruptions | None:
    """Of `count` cores that are all busy for so long, by processes that do nothing but look at the clock: what stops each of them for
    `_STOP_US` or more (short ones are part of what work costs). None if there was nothing."""
    code = f"from rafttoy.analysis.probe import look_at_clock; look_at_clock({seconds})"
    children = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(count)]
    stops = sorted(float(us) for child in children for us in child.communicate()[0].split())
    if len(stops) < _FEWEST_STOPS:
        return None
    return Interruptions(
        per_s=round(len(stops) / seconds / count, 2),
        us=[round(us, 1) for us in np.percentile(stops, _STOP_PERCENT).tolist()],
        percent=[float(percent) for percent in _STOP_PERCENT],
    )


def look_at_clock(seconds: float) -> None:
    """Prints every gap of `_STOP_US` or more, in µs."""
    now_ns = time.perf_counter_ns
    stops = []
    last = now_ns()
    until = last + int(seconds * 1e9)
    while last < until:
        now = now_ns()
        if now - last >= 1000 * _STOP_US:
            stops.append((now - last) / 1e3)
        last = now
    sys.stdout.write(" ".join(map(str, stops)))


@contextlib.contextmanager
def _prewritten(root: str, count: int) -> Iterator[list[int]]:
    fds = []
    try:
        for i in range(count):
            fd = os.open(os.path.join(root, f"probe-{count}-{i}"), os.O_RDWR | os.O_CREAT, 0o600)  # noqa: PTH118
            fds.append(fd)
            for at in range(0, _FILE_BYTES, 1 << 20):
                os.pwrite(fd, bytes(1 << 20), at)
            os.fsync(fd)
        yield fds
    finally:
        for fd in fds:
            os.close(fd)


def _synced_writes(fd: int, size: int, seconds: float) -> tuple[list[int], float]:
    """(duration of each in ns, mean CPU time in ns), at least 16 of them."""
    data = os.urandom(size)
    durations: list[int] = []
    offset = 0
    cpu_ns = -time.thread_time_ns()
    until_ns = time.perf_counter_ns() + int(seconds * 1e9)
    begin_ns = time.perf_counter_ns()
    while begin_ns < until_ns or len(durations) < 16:
        os.pwrite(fd, data, offset)
        _sync(fd)
        end_ns = time.perf_counter_ns()
        durations.append(end_ns - begin_ns)
        begin_ns = end_ns
        offset = (offset + size) % (_FILE_BYTES - size + 1) // _BLOCK * _BLOCK
    cpu_ns += time.thread_time_ns()
    return durations, cpu_ns / len(durations)


def _growing_writes(path: str, seconds: float) -> list[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    data = os.urandom(_BLOCK)
    durations: list[int] = []
    until_ns = time.perf_counter_ns() + int(seconds * 1e9)
    try:
        while (begin_ns := time.perf_counter_ns()) < until_ns or len(durations) < 16:
            os.pwrite(fd, data, len(durations) * _BLOCK)
            _sync(fd)
            durations.append(time.perf_counter_ns() - begin_ns)
    finally:
        os.close(fd)
    return durations


def _concurrent_writes(root: str, count: int, seconds: float) -> float:
    """Median duration in ns of a synced write while `count` threads make them, each to a file of its own."""
    with _prewritten(root, count) as fds:
        durations: list[list[int]] = [[] for _ in fds]

        def work(i: int) -> None:
            durations[i] = _synced_writes(fds[i], _BLOCK, seconds)[0]

        threads = [threading.Thread(target=work, args=(i,)) for i in range(count)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    return statistics.median([ns for each in durations for ns in each])


def _median_ns(call: Callable[[int], object], count: int) -> float:
    durations = []
    for i in range(count):
        begin_ns = time.perf_counter_ns()
        call(i)
        durations.append(time.perf_counter_ns() - begin_ns)
    return statistics.median(durations)


def _handoff_ns(count: int = 400) -> float:
    """Median time from a loop to a disk thread and back."""
    durations: list[int] = []

    async def main() -> None:
        thread = DiskThread(asyncio.get_running_loop(), "probe")
        for _ in range(count):
            begin_ns = time.perf_counter_ns()
            await thread.submit(int)
            durations.append(time.perf_counter_ns() - begin_ns)
        await thread.stop()

    start_loop(main())
    return statistics.median(durations)
