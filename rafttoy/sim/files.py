"""Files on the simulated disk: what `rafttoy.sim.disk` charges, what `rafttoy.sim.store` holds, and the faults a device can have."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from functools import partial

import simpy

from rafttoy.errors import StorageError
from rafttoy.ports import SAVE_HERE_BYTES, Buffer, Sized
from rafttoy.sim.disk import SimDisk
from rafttoy.sim.runtime import Loop, Timer, Until
from rafttoy.sim.store import Inode, SimStore

__all__ = ["DiskFaults", "SimFile", "SimFiles"]

_PREWRITE_BYTES = 1 << 20
"""A new segment is filled piece by piece, each with its sync."""


class DiskFaults:
    """What a device will do to its user. Counters count down with each call of their kind: 0 fails the next one, None never.

    fail_sync / fail_write / fail_read   calls to go until one fails with EIO
    short_read                           reads to go until one returns half
    full_bytes                           the directory's capacity: a call that would pass it fails
    stall_ns                             added to every write and sync
    lying_sync                           syncs are acknowledged and persist nothing
    lying_directory                      the same for directories
    """

    __slots__ = ("fail_read", "fail_sync", "fail_write", "full_bytes", "lying_directory", "lying_sync", "short_read", "stall_ns")

    def __init__(self) -> None:
        self.fail_sync: int | None = None
        self.fail_write: int | None = None
        self.fail_read: int | None = None
        self.short_read: int | None = None
        self.full_bytes: int | None = None
        self.stall_ns = 0
        self.lying_sync = False
        self.lying_directory = False

    def due(self, counter: str) -> bool:
        left: int | None = getattr(self, counter)
        if left is None:
            return False
        setattr(self, counter, left - 1 if left else None)
        return left == 0


def _nothing() -> None:
    pass


class _Call:
    """A write or sync on the disk thread, or `here` on the loop: `carry_out` happens when its turn comes, what `sync` promises when it
    ends. Neither asks whether the task that called is still there."""

    __slots__ = ("carry_out", "changes", "failure", "here", "inode", "sync")

    def __init__(self, carry_out: Callable[[], None], inode: Inode, failure: str | None, sync: bool, here: bool = False) -> None:
        self.carry_out, self.inode, self.failure, self.sync, self.here = carry_out, inode, failure, sync, here
        self.changes = 0


class SimFile:
    def __init__(self, name: str, inode: Inode, files: SimFiles) -> None:
        self.name = name
        self._inode = inode
        self._files = files
        self._size = inode.size  # as of the calls made; the inode's, as of those carried out
        self.written_to = inode.size
        """Beyond it nothing was ever written: the first write there changes metadata, be the space reserved or not."""
        self._unreadable = inode.virtual  # by another incarnation; what this one writes, it knows

    def size(self) -> int:
        return self._size

    def pwritev(self, offset: int, buffers: Sequence[Buffer], *, sync: bool, here: bool = False) -> Awaitable[None]:
        files = self._files
        total = sum(map(len, buffers))
        end = offset + total
        grows = end > self.written_to
        self.written_to = max(self.written_to, end)
        failure = files.write_failure(self.name, end - self._size)
        self._size = max(self._size, end)
        self._unreadable = False
        put = partial(self._put, offset, buffers, end) if failure is None else _nothing
        if sync and failure is None:
            failure = files.sync_failure(self.name)
        here = here and sync and total <= SAVE_HERE_BYTES and files.idle()
        end_ns = files.begin_write(total, sync=sync, grows=grows, here=here)
        return files.stand_in_line(_Call(put, self._inode, failure, sync, here), end_ns)

    def _put(self, offset: int, buffers: Sequence[Buffer], end: int) -> None:
        inode = self._inode
        if inode.virtual or any(isinstance(buffer, Sized) for buffer in buffers):
            inode.virtual = True
            inode.size = max(inode.size, end)
        else:
            inode.write(offset, b"".join(buffers))  # type: ignore[arg-type]

    async def pread(self, offset: int, length: int) -> bytes:
        files, inode = self._files, self._inode
        assert not self._unreadable, f"{self.name} was written with payload that is Sized: nothing can be recovered from it"
        await files.has_read(length)
        faults = files.faults
        if faults is not None and faults.due("fail_read"):
            raise StorageError(f"{files.root}/{self.name}: Input/output error")
        data = inode.read(offset, length)
        if faults is not None and faults.due("short_read"):
            data = data[: len(data) // 2]
        return data

    async def sync(self) -> None:
        files = self._files
        failure = files.sync_failure(self.name)
        await files.stand_in_line(_Call(_nothing, self._inode, failure, True), files.begin_write(0, sync=True, grows=False))

    async def truncate(self, size: int) -> None:
        files = self._files
        failure = files.write_failure(self.name, 0)
        self._size = size
        resize = partial(self._inode.resize, size) if failure is None else _nothing
        await files.stand_in_line(_Call(resize, self._inode, failure, False), files.begin_write(0, sync=False, grows=False))

    async def close(self) -> None:
        pass


class SimFiles:
    """A peer's directory on the disk of its host. `store` carries content from one incarnation to the next."""

    def __init__(self, loop: Loop, disk: SimDisk, store: SimStore | None = None, sync: str = "fdatasync", root: str = "sim") -> None:
        self._loop = loop
        self._env = loop.env
        self._disk = disk
        self._thread_free_ns = self._busy_ns = self._cpu_ns = self._here = self._here_ns = 0
        self._line: deque[_Call] = deque()
        self.store = store if store is not None else SimStore()
        self.faults: DiskFaults | None = None
        self._failure: str | None = None
        self.on_call: Callable[[], None] | None = None
        """Called whenever something was changed or became durable: the moments a crash can tell apart."""
        self.durable = sync != "none"
        self.root = root

    # --- for the files ---

    def begin_write(self, nbytes: int, *, sync: bool, grows: bool, here: bool = False) -> int:
        """When a write of `nbytes` that is handed over now will be told of; calls of a directory stand in line for its disk thread. One
        that is done `here` is the loop's own, which does nothing else until it ends."""
        disk, loop = self._disk, self._loop
        half_ns = 0 if here else disk.handoff_ns >> 1
        begin_ns = max(self._now(), loop.free_at_ns) if here else max(self._now() + half_ns, self._thread_free_ns)
        if sync and self.durable:
            cpu_ns = disk.cpu_ns(nbytes)
            if here:
                loop.busy_ns += cpu_ns
                self._here_ns += cpu_ns
            else:
                loop.background_ns += cpu_ns
                self._cpu_ns += cpu_ns
            end_ns = disk.synced_write(begin_ns, nbytes, grows=grows)
        else:
            end_ns = disk.write(begin_ns, nbytes)
        if self.faults is not None:
            end_ns += self.faults.stall_ns
        if here:
            self._here += 1
            loop.hold(end_ns)
        self._thread_free_ns = end_ns
        self._busy_ns += end_ns - begin_ns
        return end_ns + half_ns

    def idle(self) -> bool:
        """No call is under way."""
        return not self._line and self._thread_free_ns <= self._now()

    def stand_in_line(self, call: _Call, end_ns: int) -> Awaitable[None]:
        """Calls are carried out one after another, as on the one thread of a real directory: nothing of a write is on the disk before
        the one ahead of it, and its sync, have ended."""
        line = self._line
        line.append(call)
        if len(line) == 1:
            self._start(call)
        event = self._env.timeout(end_ns - self._now())
        assert event.callbacks is not None
        event.callbacks.append(self._ended)
        return self._outcome(event, call)

    def _start(self, call: _Call) -> None:
        call.carry_out()
        call.changes = call.inode.changes()
        self.called()

    def _ended(self, _: simpy.Event) -> None:
        call = self._line.popleft()
        if call.sync and call.failure is None and self.durable and not (self.faults is not None and self.faults.lying_sync):
            call.inode.settle(call.changes)
            self.called()
        if self._line:
            self._start(self._line[0])

    async def _outcome(self, event: simpy.Event, call: _Call) -> None:
        await Until(self._loop, event)
        if call.sync and self._disk.loop_ns and not call.here:
            self._loop.charge(self._disk.loop_ns)
            await Timer(self._loop, 0)
        if call.failure is not None:
            raise StorageError(call.failure)

    async def written(self, nbytes: int, *, sync: bool, grows: bool) -> None:
        """Waits as a write would that has nothing to do with the content of files."""
        await Timer(self._loop, self.begin_write(nbytes, sync=sync, grows=grows) - self._now())

    async def _prewritten(self, nbytes: int) -> None:
        """A piece, on a thread of its own: the saves that go on meanwhile do not wait behind it, but for the device."""
        disk, now = self._disk, self._now()
        if self.durable:
            self._loop.background_ns += disk.cpu_ns(nbytes)
            end_ns = disk.synced_write(now, nbytes, grows=True)
        else:
            end_ns = disk.write(now, nbytes)
        await Timer(self._loop, end_ns - now)

    async def has_read(self, nbytes: int) -> None:
        disk = self._disk
        now, half_ns = self._now(), disk.handoff_ns >> 1
        self._thread_free_ns = end_ns = disk.read(max(now + half_ns, self._thread_free_ns), nbytes)
        await Timer(self._loop, end_ns + half_ns - now)

    def called(self) -> None:
        if self.on_call is not None:
            self.on_call()

    def _now(self) -> int:
        return self._env.now  # type: ignore[return-value]  # SimPy types time as float; ours are integers throughout

    def write_failure(self, name: str, grows_bytes: int) -> str | None:
        """Why a write fails, if it does; from then on all do."""
        faults = self.faults
        if self._failure is None and faults is not None:
            if faults.due("fail_write"):
                self._failure = f"{self.root}/{name}: Input/output error"
            elif faults.full_bytes is not None and self.store.used_bytes() + max(0, grows_bytes) > faults.full_bytes:
                self._failure = f"{self.root}/{name}: No space left on device"
        return self._failure

    def sync_failure(self, name: str) -> str | None:
        if self._failure is None and self.faults is not None and self.faults.due("fail_sync"):
            self._failure = f"{self.root}/{name}: Input/output error"
        return self._failure

    # --- Files ---

    async def open(self, name: str, *, create: bool = False, preallocate: int = 0, prewrite: bool = False) -> SimFile:
        store = self.store
        inode = store.files.get(name)
        if inode is None:
            if not create:
                raise StorageError(f"{self.root}/{name}: No such file or directory")
            inode = Inode()
            store.link(name, inode)
        reserved = inode.size if inode.size < preallocate and not prewrite else None
        if inode.size < preallocate:
            if failure := self.write_failure(name, preallocate - inode.size):
                raise StorageError(failure)
            missing = preallocate - inode.size
            inode.resize(preallocate)
            if prewrite:
                changes = inode.changes()
                for at in range(0, missing, _PREWRITE_BYTES):
                    await self._prewritten(min(_PREWRITE_BYTES, missing - at))
                if failure := self.sync_failure(name):
                    raise StorageError(failure)
                inode.settle(changes)
                self.called()
        file = SimFile(name, inode, self)
        if reserved is not None:
            file.written_to = reserved
        return file

    async def rename(self, old: str, new: str) -> None:
        if old not in self.store.files:
            raise StorageError(f"{self.root}/{old}: No such file or directory")
        self.store.rename(old, new)
        self.called()

    async def unlink(self, name: str) -> None:
        if name not in self.store.files:
            raise StorageError(f"{self.root}/{name}: No such file or directory")
        self.store.unlink(name)
        self.called()

    async def listdir(self, directory: str = "") -> list[str]:
        prefix = f"{directory}/" if directory else ""
        names = {name[len(prefix) :].partition("/")[0] for name in (*self.store.files, *self.store.directories) if name.startswith(prefix)}
        return sorted(names - {""})

    async def mkdir(self, directory: str) -> None:
        self.store.make_directory(directory)

    async def sync_directory(self, directory: str = "") -> None:
        changes = self.store.changes()
        await self.written(0, sync=True, grows=False)
        if failure := self.sync_failure(directory or "."):
            raise StorageError(failure)
        if self.durable and not (self.faults is not None and self.faults.lying_directory):
            self.store.settle_names(directory, changes)
            self.called()

    def counters(self) -> dict[str, int]:
        return {
            "disk_busy_ns": self._busy_ns,
            "disk_cpu_ns": self._cpu_ns,
            "disk_here": self._here,
            "disk_here_ns": self._here_ns,
        }

    async def lock(self) -> None:
        store = self.store
        if store.locked_by not in (None, self):
            raise StorageError(f"{self.root}: the directory is in use by another peer")
        store.locked_by = self

    async def close(self) -> None:
        if self.store.locked_by is self:
            self.store.locked_by = None
