"""A log in a key-value store: one pair a batch, entries and hard state in one atomic write.

    02 'e' index   a batch: its header, then its frames; the key ends with the first index, big endian
    02 'h'         hard state, as raftpb.HardState
    02 'm'         mark: raftpb.SnapshotMetadata of what was compacted

A batch counts up to the next key: overwriting a suffix removes the keys from there on and puts the new batch; the batch that the cut
goes through stays as it is. The store keeps checksums of its own.
"""

from __future__ import annotations

import struct
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Sequence

from rafttoy.errors import CorruptionError, MalformedMessage, StorageError
from rafttoy.ports import Buffer, Ports, Sized, WriteBatch
from rafttoy.raft.entries import EntryBatch, EntryType
from rafttoy.raft.types import HardState, SnapshotMetadata
from rafttoy.storage.api import Save, WalState, may_wait
from rafttoy.storage.engine import Store
from rafttoy.storage.fileformat import join_ends
from rafttoy.storage.replay import Gap, Replay

__all__ = ["KvWal"]

_ENTRIES, _ENTRIES_END = b"\x02e", b"\x02f"
_HARD_STATE = b"\x02h"
_MARK = b"\x02m"
_INDEX = struct.Struct(">Q")
_HEADER = struct.Struct("<QQIIQQ")  # first, term, type, count, size, payload bytes
_SLICE = 1024  # keys read at a time when the log is opened


class KvWal:
    def __init__(self, ports: Ports, store: Store, *, cache_bytes: int, sync: str) -> None:
        self._store = store
        self._stage = ports.cpu.stage(f"wal.encode.{store.kind}")
        self._cache_bytes = cache_bytes
        self._sync = sync != "none"
        self._firsts: list[int] = []  # the keys, in order
        self._terms: list[int] = []
        self._last = 0
        self._virtual = False
        self._writes = self._syncs = self._bytes = 0

    instant = False

    @property
    def durable(self) -> bool:
        return self._store.durable

    async def open(self) -> WalState:
        await self._store.open()
        kv = self._store.kv
        replay = Replay(self._cache_bytes)
        hard_state, mark = await kv.get(_HARD_STATE), await kv.get(_MARK)
        try:
            if hard_state is not None:
                replay.hard_state = HardState.decode(hard_state)
            for key, value in await kv.scan(_ENTRIES, _ENTRIES_END):
                batches = self._decode(key, value)
                replay.add(batches)
                self._firsts.append(batches[0].first)
                self._terms.append(batches[0].term)
                self._last = batches[-1].last
            if mark is not None:
                replay.add_mark(SnapshotMetadata.decode(mark))
            return replay.finish([])
        except (Gap, MalformedMessage) as error:
            raise StorageError(f"{self._store.name}: {error}") from None

    def _decode(self, key: bytes, value: bytes) -> list[EntryBatch]:
        first, term, type_, count, size, payload = _HEADER.unpack_from(value)
        frames = memoryview(value)[_HEADER.size :]
        if _INDEX.unpack_from(key, len(_ENTRIES))[0] != first or len(frames) != size:
            raise CorruptionError(f"a batch that is not what its key {key.hex()} says", file=self._store.name, offset=0)
        batches, end = EntryBatch.decode(frames, 0, size)
        if end != size or not batches or batches[0].first != first or batches[-1].last != first + count - 1:
            raise CorruptionError(f"entries under key {key.hex()} that cannot be decoded", file=self._store.name, offset=0)
        whole = EntryBatch(first, term, EntryType(type_), count, frames, size, payload, join_ends(batches))
        return [whole]

    async def begin(self, saves: Sequence[Save], *, sync: bool) -> Awaitable[None]:
        kv, stage = self._store.kv, self._stage
        mark = stage.start()
        write = kv.batch()
        entries = size = 0
        hard_state = None
        for save in saves:
            if save.hard_state is not None:
                hard_state = save.hard_state
            for batch in save.entries:
                self._put(write, batch)
                entries += batch.count
                size += batch.size
            if save.mark is not None:
                self._put_mark(write, save.mark)
        if hard_state is not None:
            write.put(_HARD_STATE, hard_state.encode())
        await stage.done(mark, entries, size)
        return self._commit(write, size, sync=sync, here=may_wait(saves))

    def _put(self, write: WriteBatch, batch: EntryBatch) -> None:
        first, firsts = batch.first, self._firsts
        if first <= self._last:
            self._delete(write, bisect_left(firsts, first), len(firsts))
        frames = batch.frames
        assert frames is not None, "an evicted batch was written before"
        header = _HEADER.pack(first, batch.term, batch.type, batch.count, batch.size, batch.payload_bytes)
        value: Buffer
        if isinstance(frames, Sized):
            self._virtual = True
            value = Sized(len(header) + len(frames))
        else:
            value = b"".join((header, frames))
        write.put(_ENTRIES + _INDEX.pack(first), value)
        firsts.append(first)
        self._terms.append(batch.term)
        self._last = batch.last

    def _put_mark(self, write: WriteBatch, mark: SnapshotMetadata) -> None:
        """Entries that the mark does not stand for go in the same write: among keys, unlike in a file, nothing tells which are older."""
        write.put(_MARK, mark.encode())
        at = bisect_right(self._firsts, mark.index) - 1
        if mark.index and (mark.index > self._last or (at >= 0 and self._terms[at] != mark.term)):
            self._delete(write, 0, len(self._firsts))
            self._last = mark.index

    def _delete(self, write: WriteBatch, begin: int, end: int) -> None:
        for first in self._firsts[begin:end]:
            write.delete(_ENTRIES + _INDEX.pack(first))
        del self._firsts[begin:end]
        del self._terms[begin:end]

    def _commit(self, write: WriteBatch, nbytes: int, *, sync: bool, here: bool = False) -> Awaitable[None]:
        sync = sync and self._sync
        self._writes += 1
        self._syncs += sync
        self._bytes += nbytes
        return self._store.kv.write(write, sync=sync, here=here)

    async def read(self, batch: EntryBatch) -> EntryBatch:
        firsts = self._firsts
        parts: list[Buffer] = []
        first = batch.first
        while first <= batch.last:
            at = bisect_right(firsts, first) - 1
            last = min(batch.last, firsts[at + 1] - 1) if at + 1 < len(firsts) else batch.last
            key = _ENTRIES + _INDEX.pack(firsts[at])
            value = await self._store.kv.get(key)
            if not self._virtual:
                if value is None:
                    raise CorruptionError(f"entry {first} is gone", file=self._store.name, offset=0)
                frames = self._decode(key, value)[0].slice(first, last + 1).frames
                assert frames is not None
                parts.append(frames)
            first = last + 1
        if self._virtual:
            return batch.with_frames(Sized(batch.size))
        return batch.with_frames(parts[0] if len(parts) == 1 else b"".join(parts))  # type: ignore[arg-type]

    async def release(self, index: int) -> None:
        firsts = self._firsts
        keep = bisect_right(firsts, index + 1) - 1 if self._last > index else len(firsts)
        if keep <= 0:
            return
        write = self._store.kv.batch()
        self._delete(write, 0, keep)
        await self._commit(write, 0, sync=False)

    async def reset(self) -> None:
        if not self._store.shared:
            await self._store.clear()
        self._firsts.clear()
        self._terms.clear()
        self._last = 0
        self._virtual = False

    def counters(self) -> dict[str, int]:
        return {"wal_syncs": self._syncs, "wal_writes": self._writes, "wal_bytes": self._bytes}

    async def close(self) -> None:
        await self._store.close()
