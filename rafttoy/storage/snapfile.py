"""Snapshots in files, for what the log no longer holds and the engine does not keep by itself.

snap/<term>-<index>.snap, both %016x:

0      8        12       16         24
+------+--------+--------+----------+----------------------+
| mark | format | crc32c |  length  |   raftpb.Snapshot    |      little endian; the checksum is of the snapshot
+------+--------+--------+----------+----------------------+
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable

from rafttoy.errors import CorruptionError, StorageError
from rafttoy.ports import Files
from rafttoy.raft.types import Snapshot
from rafttoy.storage.checksum import crc32c

__all__ = ["SnapshotFiles"]

_DIRECTORY = "snap"
_MAGIC = b"rafttoyS"
_VERSION = 1
_HEADER = struct.Struct("<8sIIQ")
_SUFFIXES = (".snap", ".tmp")
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.snap")


class SnapshotFiles:
    def __init__(self, files: Files) -> None:
        self._files = files

    async def save(self, snapshot: Snapshot) -> None:
        """Durable once it returns; an unfinished one is never taken for a snapshot."""
        files = self._files
        body = snapshot.encode()
        name = f"{_DIRECTORY}/{_name(snapshot)}"
        await files.mkdir(_DIRECTORY)
        await files.sync_directory()
        file = await files.open(f"{name}.tmp", create=True)
        await file.truncate(0)
        await file.pwritev(0, [_HEADER.pack(_MAGIC, _VERSION, crc32c(body), len(body)), body], sync=True)
        await file.close()
        await files.rename(f"{name}.tmp", name)
        await files.sync_directory(_DIRECTORY)

    async def newest(self, holds: Callable[[int, int], bool]) -> Snapshot | None:
        """The newest one whose (index, term) `holds`: one that a crash kept from being installed does not count. Raises
        CorruptionError."""
        found = [match for name in await self._files.listdir(_DIRECTORY) if (match := _NAME.fullmatch(name))]
        fit = [match for match in found if holds(int(match[2], 16), int(match[1], 16))]
        return await self._read(max(fit, key=lambda match: int(match[2], 16))[0]) if fit else None

    async def _read(self, name: str) -> Snapshot:
        name = f"{_DIRECTORY}/{name}"
        where = f"{self._files.root}/{name}"
        file = await self._files.open(name)
        data = await file.pread(0, file.size())
        await file.close()
        if len(data) < _HEADER.size:
            raise CorruptionError("a snapshot without a header", file=where, offset=0)
        magic, version, expected, length = _HEADER.unpack_from(data)
        if magic != _MAGIC:
            raise CorruptionError("not a snapshot", file=where, offset=0)
        if version != _VERSION:
            raise StorageError(f"{where} has format {version}; this version reads format {_VERSION}")
        body = data[_HEADER.size : _HEADER.size + length]
        found = crc32c(body)
        if len(body) != length or found != expected:
            raise CorruptionError("a damaged snapshot", file=where, offset=_HEADER.size, expected=expected, found=found)
        return Snapshot.decode(body)

    async def keep(self, snapshot: Snapshot | None) -> None:
        """Removes all others."""
        kept = _name(snapshot) if snapshot is not None else ""
        others = [name for name in await self._files.listdir(_DIRECTORY) if name.endswith(_SUFFIXES) and name != kept]
        for name in others:
            await self._files.unlink(f"{_DIRECTORY}/{name}")
        if others:
            await self._files.sync_directory(_DIRECTORY)


def _name(snapshot: Snapshot) -> str:
    return f"{snapshot.term:016x}-{snapshot.index:016x}.snap"
