"""Files on the simulated disk: what `rafttoy.sim.disk` charges, what `rafttoy.sim.store` holds, and the faults a device can have."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Generator, Sequence
from functools import partial
from typing import Any

import simpy

from rafttoy.errors import StorageError
from rafttoy.ports import SAVE_HERE_BYTES, Buffer, Sized
from rafttoy.sim.disk import SimDisk
from rafttoy.sim.runtime import Charge, Loop, Timer, Until
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


def _succeed(event: simpy.Event, _: simpy.Event) -> None:
    event.succeed()


class _Call:
    """A write, sync or read on the disk thread, or `here` on the loop: `carry_out` happens when its turn comes, what `sync` promises when
    it ends. `takes` says when one ends that begins at a time. Neither asks whether the task that called is still there."""

    __slots__ = ("carry_out", "changes", "done", "failure", "here", "inode", "made_ns", "sync", "takes")

    def __init__(
        self,
        done: simpy.Event,
        takes: Callable[[int], int],
        *,
        carry_out: Callable[[], None] = _nothing,
        inode: Inode | None = None,
        failure: str | None = None,
        sync: bool = False,
        here: bool = False,
    ) -> None:
        self.done, self.takes, self.carry_out, self.inode = done, takes, carry_out, inode
        self.failure, self.sync, self.here = failure, sync, here
        self.made_ns: int = done.env.now  # type: ignore[assignment]  # SimPy types time as float; ours are integers throughout
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
        return files.write(total, sync=sync, grows=grows, here=here, carry_out=put, inode=self._inode, failure=failure)

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
        await files.write(0, sync=True, inode=self._inode, failure=failure)

    async def truncate(self, size: int) -> None:
        files = self._files
        failure = files.write_failure(self.name, 0)
        self._size = size
        resize = partial(self._inode.resize, size) if failure is None else _nothing
        await files.write(0, carry_out=resize, inode=self._inode, failure=failure)

    async def close(self) -> None:
        pass


class SimFiles:
    """A peer's directory on the disk of its host. `store` carries content from one incarnation to the next."""

    def __init__(self, loop: Loop, disk: SimDisk, store: SimStore | None = None, sync: str = "fdatasync", root: str = "sim") -> None:
        self._loop = loop
        self._env = loop.env
        self._disk = disk
        self._busy_ns = self._cpu_ns = self._here = self._here_ns = 0
        self._line: deque[_Call] = deque()
        self._working = False
        self.store = store if store is not None else SimStore()
        self.faults: DiskFaults | None = None
        self._failure: str | None = None
        self.on_call: Callable[[], None] | None = None
        """Called whenever something was changed or became durable: the moments a crash can tell apart."""
        self.durable = sync != "none"
        self.root = root

    # --- for the files ---

    def write(
        self,
        nbytes: int,
        *,
        sync: bool = False,
        grows: bool = False,
        here: bool = False,
        carry_out: Callable[[], None] = _nothing,
        inode: Inode | None = None,
        failure: str | None = None,
    ) -> Awaitable[None]:
        """A write of `nbytes`, and its sync. One that is done `here` is the loop's own, which does nothing else until it ends. Raises
        StorageError with `failure`, if that is one."""

        def takes(begin_ns: int) -> int:
            disk, loop = self._disk, self._loop
            if not sync or not self.durable:
                return disk.write(begin_ns, nbytes)
            cpu_ns = disk.cpu_ns(nbytes)
            if here:
                loop.busy_ns += cpu_ns
                self._here_ns += cpu_ns
            else:
                loop.background_ns += cpu_ns
                self._cpu_ns += cpu_ns
            return disk.synced_write(begin_ns, nbytes, grows=grows)

        done = self._env.event()
        return self._stand_in_line(_Call(done, takes, carry_out=carry_out, inode=inode, failure=failure, sync=sync, here=here))

    def idle(self) -> bool:
        """No call is under way."""
        return not self._working

    def _stand_in_line(self, call: _Call) -> Awaitable[None]:
        """Calls are carried out one after another, as on the one thread of a real directory: nothing of a write is on the disk before
        the one ahead of it, and its sync, have ended."""
        line = self._line
        line.append(call)
        if call.here:
            self._here += 1
            begin_ns = max(self._now(), self._loop.free_at_ns)
            end_ns = self._begin(call, begin_ns)
            self._loop.hold(end_ns)
            self._working = True
            call.done = self._env.timeout(end_ns - self._now())
            assert call.done.callbacks is not None
            call.done.callbacks.append(self._ended_here)
        elif not self._working:
            self._working = True
            self._env.process(self._thread())
        return self._outcome(call)

    def _ended_here(self, _: simpy.Event) -> None:
        self._ended(self._line[0])
        self._working = bool(self._line)
        if self._working:
            self._env.process(self._thread())

    def _thread(self) -> Generator[simpy.Event, Any, None]:
        """The disk thread, as long as calls stand in line. It needs the interpreter's lock to begin with one, and to say that it has
        ended."""
        env, half_ns = self._env, self._disk.handoff_ns >> 1
        while self._line:
            call = self._line[0]
            if (wait_ns := call.made_ns + half_ns - self._now()) > 0:
                yield env.timeout(wait_ns)
            yield from self._loop.lock()
            end_ns = self._begin(call, self._now())
            yield env.timeout(end_ns - self._now())
            self._ended(call)
            yield from self._loop.lock()
            told = env.timeout(half_ns)
            assert told.callbacks is not None
            told.callbacks.append(partial(_succeed, call.done))
        self._working = False

    def _begin(self, call: _Call, begin_ns: int) -> int:
        """Carries the call out; returns when it will have ended."""
        call.carry_out()
        if call.inode is not None:
            call.changes = call.inode.changes()
            self.called()
        end_ns = call.takes(begin_ns) + (self.faults.stall_ns if self.faults is not None else 0)
        self._busy_ns += end_ns - begin_ns
        return end_ns

    def _ended(self, call: _Call) -> None:
        self._line.popleft()
        lies = self.faults is not None and self.faults.lying_sync
        if call.sync and call.inode is not None and call.failure is None and self.durable and not lies:
            call.inode.settle(call.changes)
            self.called()

    async def _outcome(self, call: _Call) -> None:
        await Until(self._loop, call.done)
        if call.sync and not call.here:
            self._loop.charge(self._disk.loop_ns)
            await Charge(self._loop)
        if call.failure is not None:
            raise StorageError(call.failure)

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
        await self._stand_in_line(_Call(self._env.event(), lambda begin_ns: self._disk.read(begin_ns, nbytes)))

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
        await self.write(0, sync=True)
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
