"""The engine: committed proposals become keys and values of a store.

Beside the content (keys from 0x01 on) a durable store holds the applied index and the members, written in the same batch as what
they tell of: after a crash the engine may be behind, but it knows by how much.

    00 'a'   applied index, big endian          00 'c'   members, as raftpb.ConfState
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Sequence
from itertools import pairwise

from rafttoy.errors import CorruptionError
from rafttoy.ports import KvStore, Ports
from rafttoy.raft.entries import EntryBatch, EntryType
from rafttoy.raft.types import ConfState
from rafttoy.storage.pairs import DATA_PREFIX, pairs

__all__ = ["KvEngine", "Store"]

_NORMAL = EntryType.NORMAL
_APPLIED = b"\x00a"
_CONF_STATE = b"\x00c"
_U64 = struct.Struct(">Q")
_LENGTHS = struct.Struct("<II")
_SIZED_DUMP = b"\xff\xff\xff\xffsized"
"""Begins a dump of totals only: no key is so long."""

_BOUNDS = [bytes((DATA_PREFIX,)), *(bytes((DATA_PREFIX, i)) for i in range(1, 256)), bytes((DATA_PREFIX + 1,))]
_SLICES = list(pairwise(_BOUNDS))
"""The key space in 256 slices: a large engine is not to be held in memory twice."""


class Store:
    """A key-value store of one component, or of both (`shared`: a combined storage, opened and closed by whoever comes first)."""

    def __init__(self, ports: Ports, kind: str, name: str, *, shared: bool = False) -> None:
        self._ports, self.kind, self._name = ports, kind, name
        self.shared = shared
        self.durable = kind != "dict"
        self._kv: KvStore | None = None

    @property
    def name(self) -> str:
        return f"{self._ports.files.root}/{self._name}"

    @property
    def kv(self) -> KvStore:
        assert self._kv is not None, "not opened"
        return self._kv

    async def open(self) -> None:
        if self._kv is None:
            self._kv = await self._ports.kv.open(self.kind, self._name)

    async def clear(self) -> None:
        """Empties it: a store that is removed and made again gives back its space at once."""
        await self.close()
        await self._ports.kv.destroy(self.kind, self._name)
        await self.open()

    async def close(self) -> None:
        if self._kv is not None:
            kv, self._kv = self._kv, None
            await kv.close()


class KvEngine:
    """Over a key-value store; `dict` keeps nothing."""

    def __init__(self, ports: Ports, store: Store) -> None:
        self._store = store
        self._stage = ports.cpu.stage(f"engine.apply.{store.kind}")
        self._applied = 0
        self._virtual = False  # payload was Sized: only totals are known
        self._entries = 0
        self._slices = _SLICES if store.durable else [(_BOUNDS[0], _BOUNDS[-1])]  # a dict is sorted whole at every scan

    @property
    def durable(self) -> bool:
        return self._store.durable

    async def open(self) -> tuple[int, ConfState | None]:
        await self._store.open()
        kv = self._store.kv
        applied, members = await kv.get(_APPLIED), await kv.get(_CONF_STATE)
        if applied is not None and len(applied) != _U64.size:
            raise CorruptionError("an applied index that is none", file=self._store.name, offset=0)
        self._applied = _U64.unpack(applied)[0] if applied is not None else 0
        return self._applied, ConfState.decode(members) if members is not None else None

    async def apply(self, batches: Sequence[EntryBatch]) -> None:
        if not batches:
            return
        stage, kv = self._stage, self._store.kv
        mark = stage.start()
        write = kv.batch()
        for batch in batches:
            if batch.payload_bytes and batch.type is _NORMAL:
                for content, count, nbytes in pairs(batch):
                    write.put_many(content, count, nbytes)
                    if content is None:
                        self._virtual = True
        entries, size = write.count, write.nbytes
        self._applied = batches[-1].last
        if self._store.durable:
            write.put(_APPLIED, _U64.pack(self._applied))
        elif not entries:
            return
        self._entries += entries
        await stage.done(mark, entries, size)
        await kv.write(write, sync=False)

    async def set_conf_state(self, conf_state: ConfState, index: int) -> None:
        if self.durable:
            kv = self._store.kv
            write = kv.batch()
            write.put(_CONF_STATE, conf_state.encode())
            if index > self._applied:
                write.put(_APPLIED, _U64.pack(index))
            await kv.write(write, sync=False)
        self._applied = max(self._applied, index)

    async def sync(self) -> None:
        if self.durable:
            kv = self._store.kv
            write = kv.batch()
            write.put(_APPLIED, _U64.pack(self._applied))
            await kv.write(write, sync=True)

    # --- content as a whole ---

    async def digest(self) -> str:
        if self._virtual:
            return f"sized:{self._entries}"
        digest = hashlib.blake2b(digest_size=16)
        for start, stop in self._slices:
            digest.update(_pack(await self._store.kv.scan(start, stop)))
        return digest.hexdigest()

    async def dump(self, limit_bytes: int | None) -> bytes | None:
        if self._virtual:  # a model run compacts its log too: what stands for its content is how much of it there is
            return _SIZED_DUMP + _U64.pack(self._entries)
        parts: list[bytes] = []
        size = 0
        for start, stop in self._slices:
            part = _pack(await self._store.kv.scan(start, stop))
            size += len(part)
            if limit_bytes is not None and size > limit_bytes:
                return None
            parts.append(part)
        return b"".join(parts)

    async def restore(self, data: bytes, index: int, conf_state: ConfState) -> None:
        if self._store.shared:
            await self._delete_content()
        else:
            await self._store.clear()
        self._virtual = data.startswith(_SIZED_DUMP)
        self._entries = _U64.unpack_from(data, len(_SIZED_DUMP))[0] if self._virtual else 0
        content = [] if self._virtual else _unpack(data)
        kv = self._store.kv
        write = kv.batch()
        write.put_many(iter(content), len(content), len(data))
        if self.durable:
            write.put(_APPLIED, _U64.pack(index))
            write.put(_CONF_STATE, conf_state.encode())
        await kv.write(write, sync=True)
        self._applied = index

    async def _delete_content(self) -> None:
        kv = self._store.kv
        for start, stop in self._slices:
            if content := await kv.scan(start, stop):
                write = kv.batch()
                for key, _ in content:
                    write.delete(key)
                await kv.write(write, sync=False)

    async def reset(self) -> None:
        if not self._store.shared:  # a shared one was emptied with the log
            await self._store.clear()
        self._applied = self._entries = 0
        self._virtual = False

    async def close(self) -> None:
        await self._store.close()


def _pack(content: list[tuple[bytes, bytes]]) -> bytes:
    """Each pair as `u32 key length, u32 value length, key, value`."""
    parts: list[bytes] = []
    for key, value in content:
        parts += (_LENGTHS.pack(len(key), len(value)), key, value)
    return b"".join(parts)


def _unpack(data: bytes) -> list[tuple[bytes, bytes]]:
    out, at = [], 0
    while at < len(data):
        key, value = _LENGTHS.unpack_from(data, at)
        at += _LENGTHS.size
        out.append((data[at : at + key], data[at + key : at + key + value]))
        at += key + value
    return out
