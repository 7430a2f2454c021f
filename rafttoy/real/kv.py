"""Key-value stores of the real world: LevelDB (plyvel) and dict; RocksDB (rocksdict) is an extra.

A synced write waits for the disk on the store's own thread, where both libraries let other threads run, unless it is small and the loop
has nothing else to do; an unsynced one is work of microseconds and is done where it is asked for, unless it is large.
"""

from __future__ import annotations

import asyncio
import importlib.util
import shutil
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from itertools import starmap
from pathlib import Path
from typing import Any, Protocol, TypeVar

from rafttoy.errors import ConfigError, StorageError
from rafttoy.observe import BESIDE_LOOP
from rafttoy.ports import KV_BUFFER_BYTES, KV_INLINE_BYTES, SAVE_HERE_BYTES, Buffer, KvBuffer, KvStore, WriteBatch
from rafttoy.real.files import DiskThread
from rafttoy.real.runtime import RealCpu, RealStage, RealTasks

__all__ = ["KINDS", "RealKvStores"]

T = TypeVar("T")

_CACHE_BYTES = 8 << 20
_OPEN_FILES = 128  # their indexes stay in memory: of 1,000, the default, 60 MB within ten minutes


class Native(Protocol):
    """A blocking store behind `_Threaded`."""

    def write(self, batch: _Batch, sync: bool) -> None: ...

    def get(self, key: bytes) -> bytes | None: ...

    def scan(self, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]: ...

    def close(self) -> None: ...


Pairs = Iterable[tuple[bytes, bytes]]


class _Batch:
    """Operations and their totals. They reach the native batch when it is written: LevelDB must know when a batch is *made* whether
    it will be synced, and what the operations cost counts as the store's, wherever it is spent."""

    __slots__ = ("_many", "_single", "count", "nbytes")

    def __init__(self) -> None:
        self._single: list[tuple[bytes, Any]] = []
        self._many: list[tuple[int, Pairs]] = []  # (how many single operations go before, pairs)
        self.count = self.nbytes = 0

    def put(self, key: bytes, value: Buffer) -> None:
        self._single.append((key, value))
        self.count += 1
        self.nbytes += len(key) + len(value)

    def put_many(self, pairs: Pairs | None, count: int, nbytes: int) -> None:
        assert pairs is not None, "the real world moves bytes"
        self._many.append((len(self._single), pairs))
        self.count += count
        self.nbytes += nbytes

    def delete(self, key: bytes) -> None:
        self._single.append((key, None))
        self.count += 1
        self.nbytes += len(key)

    def drain(self, put: Callable[[bytes, Any], Any], delete: Callable[[bytes], Any]) -> None:
        """Hands every operation over, in order."""
        at = 0
        for before, pairs in self._many:
            _each(self._single[at:before], put, delete)
            at = before
            deque(starmap(put, pairs), maxlen=0)  # the loop runs in C
        _each(self._single[at:], put, delete)

    def update(self, layers: list[dict[bytes, bytes]]) -> None:
        """The same to dicts of which a later one hides what is in those before it."""
        if len(self._many) == 1 and not self._single:
            layers[-1].update(self._many[0][1])
        else:
            self.drain(layers[-1].__setitem__, lambda key: [layer.pop(key, None) for layer in layers])


def _each(operations: list[tuple[bytes, Any]], put: Callable[[bytes, Any], Any], delete: Callable[[bytes], Any]) -> None:
    for key, value in operations:
        if value is None:
            delete(key)
        else:
            put(key, value)


class _Threaded:
    """A native store whose blocking calls run on its own thread. Writes are recorded where they run: `kv.<kind>` on the loop,
    `kv.<kind>.thread` beside it."""

    def __init__(
        self,
        native: Native,
        thread: DiskThread,
        cpu: RealCpu,
        kind: str,
        path: str,
        failures: tuple[type[Exception], ...],
        buffer: KvBuffer,
    ) -> None:
        self._native = native
        self._buffer = buffer
        self._thread = thread
        self._inline = cpu.stage(f"kv.{kind}")
        self._threaded = cpu.stage(f"kv.{kind}{BESIDE_LOOP}").record
        self._path = path
        self._failures = failures
        self._closed = False
        self._in_line = 0  # writes on the thread or before it
        self._failure: Exception | None = None

    def batch(self) -> _Batch:
        return _Batch()

    def write(self, batch: WriteBatch, *, sync: bool, here: bool = False) -> Awaitable[None]:
        assert isinstance(batch, _Batch)
        self._buffer.take(batch.count, batch.nbytes)
        most = KV_INLINE_BYTES if not sync else SAVE_HERE_BYTES if here else -1
        if batch.nbytes > most or self._in_line:
            self._in_line += 1
            return self._beside(batch, self._thread.submit(self._carry_out, batch, sync))
        return self._on_loop(batch, sync)

    def _on_loop(self, batch: _Batch, sync: bool) -> Awaitable[None]:
        mark = self._inline.start()
        failure = None
        try:
            self._attempt(batch, sync)
        except self._failures as error:
            failure = error
        return self._ended(self._inline.done(mark, batch.count, batch.nbytes), failure)

    async def _ended(self, done: Awaitable[None], failure: Exception | None) -> None:
        await done
        if failure is not None:
            raise StorageError(f"{self._path}: {failure}") from failure

    async def _beside(self, batch: _Batch, spent: asyncio.Future[int]) -> None:
        try:
            spent_ns = await spent
        except self._failures as error:
            raise StorageError(f"{self._path}: {error}") from error
        finally:
            self._in_line -= 1
        self._threaded.add(batch.count, batch.nbytes, spent_ns)
        self._threaded.sample(batch.count, batch.nbytes, spent_ns)

    def _carry_out(self, batch: _Batch, sync: bool) -> int:
        """The CPU time of the write on this thread, in ns."""
        begun_ns = time.thread_time_ns()
        self._attempt(batch, sync)
        return time.thread_time_ns() - begun_ns

    def _attempt(self, batch: _Batch, sync: bool) -> None:
        """After one failure nothing is written any more."""
        if self._failure is not None:
            raise self._failure
        try:
            self._native.write(batch, sync)
        except self._failures as error:
            self._failure = error
            raise

    async def get(self, key: bytes) -> bytes | None:
        return await self._call(self._native.get, key)

    async def scan(self, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        return await self._call(self._native.scan, start, stop)

    async def _call(self, call: Callable[..., T], *args: Any) -> T:
        try:
            return await self._thread.submit(call, *args)
        except self._failures as error:
            raise StorageError(f"{self._path}: {error}") from error

    async def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._buffer.close()
            await self._call(self._native.close)
            await self._thread.stop()


# --- LevelDB --------------------------------------------------------------------------------------------------------------------


class _LevelDb:
    def __init__(self, path: str) -> None:
        import plyvel  # noqa: PLC0415  # loads a shared library: only for those who use it

        self._db = plyvel.DB(
            path,
            create_if_missing=True,
            write_buffer_size=KV_BUFFER_BYTES,
            lru_cache_size=_CACHE_BYTES,
            max_open_files=_OPEN_FILES,
            paranoid_checks=True,
        )

    def write(self, batch: _Batch, sync: bool) -> None:
        native = self._db.write_batch(sync=sync)
        batch.drain(native.put, native.delete)
        native.write()

    def get(self, key: bytes) -> bytes | None:
        value: bytes | None = self._db.get(key, verify_checksums=True)
        return value

    def scan(self, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        with self._db.iterator(start=start, stop=stop, verify_checksums=True, fill_cache=False) as pairs:
            return list(pairs)

    def close(self) -> None:
        self._db.close()


# --- dict -----------------------------------------------------------------------------------------------------------------------


_LAYER = 1 << 16  # keys: a dict of so many grows within 3 ms


class _Dict:
    """Holds everything in memory and nothing on disk: in layers, the newest one last. One dict would grow by copying itself, which at a
    million keys stops the loop for 40 ms."""

    def __init__(self, stage: RealStage) -> None:
        self._layers: list[dict[bytes, bytes]] = [{}]
        self._stage = stage

    def batch(self) -> _Batch:
        return _Batch()

    def write(self, batch: WriteBatch, *, sync: bool, here: bool = False) -> Awaitable[None]:
        assert isinstance(batch, _Batch)
        mark = self._stage.start()
        if len(self._layers[-1]) >= _LAYER:
            self._layers.append({})
        batch.update(self._layers)
        return self._stage.done(mark, batch.count, batch.nbytes)

    async def get(self, key: bytes) -> bytes | None:
        return next((layer[key] for layer in reversed(self._layers) if key in layer), None)

    async def scan(self, start: bytes, stop: bytes) -> list[tuple[bytes, bytes]]:
        content: dict[bytes, bytes] = {}
        for layer in self._layers:
            content.update(pair for pair in layer.items() if start <= pair[0] < stop)
        return sorted(content.items())

    async def close(self) -> None:
        pass


# --- opening --------------------------------------------------------------------------------------------------------------------

KINDS = ("leveldb", "rocksdb", "dict")
_MODULES = {"leveldb": "plyvel", "rocksdb": "rocksdict"}


def installed(kind: str) -> bool:
    """Whether a store of this kind can be opened here."""
    return kind not in _MODULES or importlib.util.find_spec(_MODULES[kind]) is not None


class RealKvStores:
    """Stores below the directory `root`, each in its own directory, made when it is opened."""

    def __init__(self, root: Path, tasks: RealTasks, cpu: RealCpu) -> None:
        self._root = root
        self._loop: asyncio.AbstractEventLoop = tasks.loop
        self._poll, self._cpus = tasks.poll, tasks.cpus
        self._cpu = cpu
        self._buffers: list[KvBuffer] = []  # of every store that was opened

    def counters(self) -> dict[str, int]:
        return {"kv_buffers": sum(buffer.filled for buffer in self._buffers)}

    def buffered(self) -> tuple[int, int]:
        return sum(buffer.pairs for buffer in self._buffers), sum(buffer.filled_since_opened for buffer in self._buffers)

    async def open(self, kind: str, name: str) -> KvStore:
        if kind not in KINDS:
            raise ConfigError(f"no key-value store {kind!r}: one of {', '.join(KINDS)}")
        if kind == "dict":
            return _Dict(self._cpu.stage("kv.dict"))
        if not installed(kind):
            raise ConfigError(f"{kind} needs the package {_MODULES[kind]}: pip install 'rafttoy[{kind}]'")
        path = str(self._root / name)
        thread = DiskThread(self._loop, f"rafttoy-{kind}", self._poll, self._cpus)
        maker, failures = _maker(kind)
        try:
            native = await thread.submit(_make, maker, path)
        except failures as error:
            await thread.stop()
            raise StorageError(f"{path}: {error}") from error
        self._buffers.append(KvBuffer())
        return _Threaded(native, thread, self._cpu, kind, path, failures, self._buffers[-1])

    async def destroy(self, kind: str, name: str) -> None:
        assert kind in KINDS
        path = self._root / name
        if kind == "dict" or not path.exists():
            return
        thread = DiskThread(self._loop, "rafttoy-destroy", cpus=self._cpus)
        try:
            await thread.submit(shutil.rmtree, path)
        except OSError as error:
            raise StorageError(f"{path}: {error.strerror or error}") from error
        finally:
            await thread.stop()


def _make(maker: Callable[[str], Native], path: str) -> Native:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    return maker(path)


def _maker(kind: str) -> tuple[Callable[[str], Native], tuple[type[Exception], ...]]:
    """The store's maker and what it raises."""
    if kind == "leveldb":
        import plyvel  # noqa: PLC0415

        return _LevelDb, (plyvel.Error, OSError)
    from rafttoy.real.rocks import RocksDb  # noqa: PLC0415

    return RocksDb, (Exception,)
