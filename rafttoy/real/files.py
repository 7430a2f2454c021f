"""Files on a real disk: a thread carries out the blocking calls, in the order they were made, and hands results to the loop.

One hand-off carries a write *and* its sync: it costs a third of a fast device's sync (about 40 µs), and the loop as much again. So a small
write of a caller that has nothing else to do is carried out on the loop. Prewriting has a thread of its own, so that a segment prepared
ahead does not stand in the way of a save.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rafttoy.errors import ConfigError, StorageError
from rafttoy.ports import SAVE_HERE_BYTES, SYNC_MODES, Buffer
from rafttoy.real.runtime import BusyPoll, RealTasks

__all__ = ["DiskThread", "RealFile", "RealFiles", "device_bytes"]

T = TypeVar("T")

_LOCK = "LOCK"
_IOV_MAX = 1024
_CHUNK = 1 << 20
_CLOCK_EVERY = 16
_ZEROS = bytes(_CHUNK)
_fdatasync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)
_DSYNC: int = getattr(os, "RWF_DSYNC", 0)


def device_bytes(path: Path) -> int:
    """Bytes written so far to the device that holds `path`, by anyone (Linux's /proc/diskstats; 0 where that does not tell).

    The counter of one process (/proc/self/io) says how much page cache was made dirty: with large folios a write of 4 KiB counts as
    megabytes there."""
    try:
        device = path.stat().st_dev
        for line in Path("/proc/diskstats").read_text().splitlines():
            fields = line.split()
            if (int(fields[0]), int(fields[1])) == (os.major(device), os.minor(device)):
                return int(fields[9]) * 512
    except (OSError, ValueError, IndexError):
        pass
    return 0


class DiskThread:
    """Carries out blocking calls one after another, on any of `cpus` if they are given. Starts with the first, ends with `stop` or the
    process. `poll`, which keeps the loop awake, lets it sleep meanwhile."""

    def __init__(self, loop: asyncio.AbstractEventLoop, name: str, poll: BusyPoll | None = None, cpus: Collection[int] = ()) -> None:
        self._loop = loop
        self._poll = poll
        self._cpus = cpus
        self._jobs: queue.SimpleQueue[tuple[asyncio.Future[Any], Callable[..., Any], tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        self._started = False
        self.pending = 0
        """Calls that are under way, as far as the loop knows."""
        self.cpu_ns = 0
        """CPU time of the thread, as of a few calls ago: reading its clock costs as much as handing over a result."""
        self.busy_ns = 0
        """How long calls were under way."""

    def submit(self, call: Callable[..., T], *args: Any) -> asyncio.Future[T]:
        """What `call` returns or raises, on the loop."""
        if not self._started:
            self._started = True
            self._thread.start()
        future: asyncio.Future[T] = self._loop.create_future()
        self.pending += 1
        if self._poll is not None:
            self._poll.suspend()
        self._jobs.put((future, call, args))
        return future

    def _work(self) -> None:
        if self._cpus:  # else they are those of the loop, which started this thread
            os.sched_setaffinity(0, self._cpus)
        take, deliver, clock = self._jobs.get, self._loop.call_soon_threadsafe, time.perf_counter_ns
        calls = 0
        while (job := take()) is not None:
            future, call, args = job
            begun_ns = clock()
            result, failure = None, None
            try:
                result = call(*args)
            except Exception as error:  # noqa: BLE001  # carried to whoever awaits the future
                failure = error
            self.busy_ns += clock() - begun_ns
            try:
                deliver(self._deliver, future, result, failure)
            except RuntimeError:  # the loop is closed: nobody waits any more
                return
            if calls % _CLOCK_EVERY == 0:
                self.cpu_ns = time.thread_time_ns()
            calls += 1

    def _deliver(self, future: asyncio.Future[Any], result: Any, failure: Exception | None) -> None:
        self.pending -= 1
        if self._poll is not None:
            self._poll.resume()
        if future.done():  # cancelled: whoever waited is gone
            return
        if failure is None:
            future.set_result(result)
        else:
            future.set_exception(failure)

    async def stop(self) -> None:
        """Returns once every call submitted before has ended."""
        if self._started:
            await self.submit(_nothing)
            self._jobs.put(None)


def _nothing() -> None:
    pass


async def _await(future: asyncio.Future[T], what: str) -> T:
    try:
        return await future
    except OSError as error:
        raise StorageError(f"{what}: {error.strerror or error}") from error


async def _ended(failure: OSError | None, what: str) -> None:
    if failure is not None:
        raise StorageError(f"{what}: {failure.strerror or failure}") from failure


class _Device:
    """What the files of a directory share: the thread, and whether a write or sync has failed on it."""

    def __init__(self, thread: DiskThread) -> None:
        self.thread = thread
        self.failure: OSError | None = None
        self.opened: dict[RealFile, None] = {}
        self.here = self.here_ns = self.here_busy_ns = 0
        """What the loop did itself: calls, their CPU time, and how long they took."""

    def carry_out(self, call: Callable[..., None], *args: Any) -> None:
        """After one failure nothing is written any more, whatever was in line: a device that lost a write may have
        lost any of them."""
        if self.failure is not None:
            raise self.failure
        try:
            call(*args)
        except OSError as error:
            self.failure = error
            raise

    def carry_out_here(self, call: Callable[..., None], *args: Any) -> OSError | None:
        """The same on the loop, which does nothing else meanwhile; what it failed with."""
        begun_ns, cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
        try:
            self.carry_out(call, *args)
        except OSError as error:
            return error
        finally:
            self.here += 1
            self.here_ns += time.thread_time_ns() - cpu_ns
            self.here_busy_ns += time.perf_counter_ns() - begun_ns
        return None


class RealFile:
    def __init__(self, name: str, path: str, fd: int, size: int, device: _Device, sync: str) -> None:
        self.name = name
        self._device = device
        device.opened[self] = None
        self._path = path
        self._fd = fd
        self._size = size
        self._thread = device.thread
        self._flags = _DSYNC if sync == "dsync" else 0
        self._sync_after = sync == "fdatasync" or (sync == "dsync" and not _DSYNC)
        self._durable = sync != "none"

    def size(self) -> int:
        return self._size

    def pwritev(self, offset: int, buffers: Sequence[Buffer], *, sync: bool, here: bool = False) -> Awaitable[None]:
        total = sum(map(len, buffers))
        self._size = max(self._size, offset + total)
        if here and sync and total <= SAVE_HERE_BYTES and not self._thread.pending:
            return _ended(self._device.carry_out_here(self._write, offset, buffers, total, sync), self._path)
        return _await(self._thread.submit(self._device.carry_out, self._write, offset, buffers, total, sync), self._path)

    def _write(self, offset: int, buffers: Sequence[Buffer], total: int, sync: bool) -> None:
        flags = self._flags if sync else 0
        if len(buffers) > _IOV_MAX:
            buffers = [b"".join(buffers)]  # type: ignore[arg-type]
        written = os.pwritev(self._fd, buffers, offset, flags)  # type: ignore[arg-type]
        if written != total:
            self._write_rest(offset + written, memoryview(b"".join(buffers))[written:], flags)  # type: ignore[arg-type]
        if sync and self._sync_after:
            _fdatasync(self._fd)

    def _write_rest(self, offset: int, rest: memoryview, flags: int) -> None:
        """After a short write: the next one tells why (a full disk), or goes on (a signal)."""
        while rest:
            written = os.pwritev(self._fd, [rest], offset, flags)
            offset += written
            rest = rest[written:]

    async def pread(self, offset: int, length: int) -> bytes:
        return await _await(self._thread.submit(self._read, offset, length), self._path)

    def _read(self, offset: int, length: int) -> bytes:
        data = os.pread(self._fd, length, offset)
        if len(data) == length or not data:
            return data
        parts = [data]
        got = len(data)
        while got < length and (data := os.pread(self._fd, length - got, offset + got)):
            parts.append(data)
            got += len(data)
        return b"".join(parts)

    async def sync(self) -> None:
        if self._durable:
            await _await(self._thread.submit(self._device.carry_out, _fdatasync, self._fd), self._path)

    async def truncate(self, size: int) -> None:
        self._size = size
        await _await(self._thread.submit(self._device.carry_out, os.ftruncate, self._fd, size), self._path)

    async def close(self) -> None:
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            self._device.opened.pop(self, None)
            await _await(self._thread.submit(os.close, fd), self._path)


class RealFiles:
    """The directory `root`, made with its parents when it is first used. `sync` is one of SYNC_MODES."""

    def __init__(self, root: Path, tasks: RealTasks, sync: str = "fdatasync") -> None:
        if sync not in SYNC_MODES:
            raise ConfigError(f"--sync {sync}: one of {', '.join(SYNC_MODES)}")
        self._root = root
        self._sync = sync
        self._disk = DiskThread(tasks.loop, "rafttoy-disk", tasks.poll, tasks.cpus)
        self._device = _Device(self._disk)
        self._helper = DiskThread(tasks.loop, "rafttoy-prewrite", cpus=tasks.cpus)
        self._lock_fd = -1
        self._made = False

    @property
    def root(self) -> str:
        return str(self._root)

    def counters(self) -> dict[str, int]:
        return {
            "disk_busy_ns": self._disk.busy_ns + self._device.here_busy_ns,
            "disk_cpu_ns": self._disk.cpu_ns + self._helper.cpu_ns,
            "disk_here": self._device.here,
            "disk_here_ns": self._device.here_ns,
            "device_bytes": device_bytes(self._root),
        }

    def _path(self, name: str) -> str:
        assert ".." not in name.split("/") and not name.startswith("/"), name
        return os.path.join(self._root, name)  # noqa: PTH118  # a hot path for paths

    async def _run(self, name: str, call: Callable[..., T], *args: Any) -> T:
        if not self._made:
            await _await(self._disk.submit(_make_root, self._root), self.root)
            self._made = True
        return await _await(self._disk.submit(call, *args), self._path(name))

    async def open(self, name: str, *, create: bool = False, preallocate: int = 0, prewrite: bool = False) -> RealFile:
        path = self._path(name)
        fd, size = await self._run(name, _open, path, create, 0 if prewrite else preallocate)
        if prewrite and preallocate:
            try:
                size = await _await(self._helper.submit(_prewrite, fd, preallocate, self._sync != "none"), path)
            except BaseException:  # also when cancelled, and then the thread may still be writing
                self._helper.submit(os.close, fd)
                raise
        return RealFile(name, path, fd, size, self._device, self._sync)

    async def rename(self, old: str, new: str) -> None:
        await self._run(old, os.replace, self._path(old), self._path(new))

    async def unlink(self, name: str) -> None:
        await self._run(name, os.unlink, self._path(name))

    async def listdir(self, directory: str = "") -> list[str]:
        return await self._run(directory, _listdir, self._path(directory))

    async def mkdir(self, directory: str) -> None:
        await self._run(directory, os.makedirs, self._path(directory), 0o777, True)

    async def sync_directory(self, directory: str = "") -> None:
        if self._sync != "none":
            await self._run(directory, _sync_directory, self._path(directory))

    async def lock(self) -> None:
        if self._lock_fd < 0:
            self._lock_fd = await self._run(_LOCK, _lock, self._path(_LOCK))

    async def close(self) -> None:
        for file in list(self._device.opened):
            await file.close()
        await self._disk.stop()
        await self._helper.stop()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1


# --- what runs on the thread ----------------------------------------------------------------------------------------------------


def _make_root(root: Path) -> None:
    """Makes the directory, and what is missing above it, and has their names durable."""
    made = [path for path in (root, *root.parents) if not path.exists()]
    root.mkdir(parents=True, exist_ok=True)
    for path in made:
        _sync_directory(str(path.parent))


def _open(path: str, create: bool, preallocate: int) -> tuple[int, int]:
    fd = os.open(path, os.O_RDWR | os.O_CLOEXEC | (os.O_CREAT if create else 0), 0o666)
    try:
        size = os.fstat(fd).st_size
        if size < preallocate:
            _reserve(fd, size, preallocate)
            size = preallocate
    except BaseException:
        os.close(fd)
        raise
    return fd, size


def _reserve(fd: int, size: int, preallocate: int) -> None:
    try:
        os.posix_fallocate(fd, size, preallocate - size)
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):
            raise
        os.ftruncate(fd, preallocate)  # a file system without preallocation: at least the size


def _prewrite(fd: int, size: int, sync: bool) -> int:
    """Zeros from the current end to `size`, durable (if `sync`) with the file's metadata; returns the file's size."""
    at = os.fstat(fd).st_size
    if at < size:
        _reserve(fd, at, size)  # first, so that the blocks lie together
    while at < size:
        at += os.pwrite(fd, memoryview(_ZEROS)[: min(_CHUNK, size - at)], at)
        if sync:
            os.fsync(fd)  # little by little: the saves that go on meanwhile would stand behind one flush of it all
    if sync:
        os.fsync(fd)
    return at


def _listdir(path: str) -> list[str]:
    try:
        return sorted(os.listdir(path))  # noqa: PTH208  # names, not paths
    except FileNotFoundError:
        return []


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _lock(path: str) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    except BlockingIOError:
        holder = os.pread(fd, 32, 0).decode(errors="replace").strip() or "unknown"
        os.close(fd)
        raise StorageError(f"{path}: the directory is in use by process {holder}") from None
    except BaseException:
        os.close(fd)
        raise
    return fd
