"""Whose directory it is: one small file says which node and which kind of storage wrote it, in which format.

Every mismatch is refused before anything on disk is changed; only what we wrote ourselves is ever removed.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from rafttoy.errors import ConfigError, StorageError
from rafttoy.ports import Files, Ports

__all__ = ["FORMAT", "Identity", "begin_erasing", "end_erasing", "erase", "finish_erasing"]

FORMAT = 1
"""Of everything below a data directory. Raised with every change that an older reader would misread."""

_NAME = "IDENTITY"
_TEMPORARY = "IDENTITY.tmp"
_LOCK = "LOCK"
_ERASING = "ERASING"
_STORES = [(kind, f"{name}.{kind}") for kind in ("leveldb", "rocksdb") for name in ("wal", "engine", "store")]
_TREES = ("wal", "snap")
_SUFFIXES = (".wal", ".snap", ".tmp", ".broken", ".spare")


class _Record(msgspec.Struct, frozen=True):
    format: int
    node: int
    storage: str


@dataclass(frozen=True, slots=True)
class Identity:
    """`node` from 1; `storage` names log and engine (`file+leveldb`) or the combined store (`leveldb`). `fresh` forgets what is there."""

    node: int
    storage: str
    fresh: bool = False

    async def claim(self, ports: Ports) -> None:
        """Locks the directory for this peer and makes it ours if it is empty.

        Raises ConfigError for a directory that is not ours, another node's, or of another storage; StorageError for one that is in
        use, unreadable, or of another format."""
        files = ports.files
        names = await files.listdir()
        if _NAME not in names and (foreign := [name for name in names if name not in (_LOCK, _TEMPORARY, _ERASING)]):
            raise ConfigError(f"{files.root} was not made by rafttoy: it holds {foreign[0]} and no {_NAME}")
        await files.lock()
        if _NAME in names:
            self._compare(files, await self._read(files))
            if self.fresh:
                await begin_erasing(files)
        await self._write(files)

    async def _read(self, files: Files) -> _Record:
        file = await files.open(_NAME)
        data = await file.pread(0, 4096)
        await file.close()
        try:
            return msgspec.json.decode(data, type=_Record)
        except msgspec.MsgspecError as error:
            raise StorageError(f"{files.root}/{_NAME}: {error}") from None

    def _compare(self, files: Files, record: _Record) -> None:
        if record.format != FORMAT:
            raise StorageError(f"{files.root} has format {record.format}; this version reads format {FORMAT}")
        if record.node != self.node:
            raise ConfigError(f"{files.root} belongs to node {record.node}, not to node {self.node}")
        if record.storage != self.storage and not self.fresh:
            raise ConfigError(
                f"{files.root} holds a storage {record.storage}, not {self.storage}: give those, another directory, or --fresh"
            )

    async def _write(self, files: Files) -> None:
        data = msgspec.json.encode(_Record(FORMAT, self.node, self.storage))
        file = await files.open(_TEMPORARY, create=True)
        await file.truncate(0)
        await file.pwritev(0, [data], sync=True)
        await file.close()
        await files.rename(_TEMPORARY, _NAME)
        await files.sync_directory()


# Log, engine and snapshots cannot be emptied in one step: a file says that it has begun.


async def begin_erasing(files: Files) -> None:
    """From here on, whatever is left after a crash is erased by the next `finish_erasing`."""
    await (await files.open(_ERASING, create=True)).close()
    await files.sync_directory()


async def end_erasing(files: Files) -> None:
    await files.unlink(_ERASING)
    await files.sync_directory()


async def finish_erasing(ports: Ports) -> None:
    if _ERASING in await ports.files.listdir():
        await erase(ports)
        await end_erasing(ports.files)


async def erase(ports: Ports) -> None:
    """Removes every log, engine and snapshot of ours, whatever its kind and state, and nothing else."""
    for kind, name in _STORES:
        await ports.kv.destroy(kind, name)
    files = ports.files
    for tree in _TREES:
        ours = [name for name in await files.listdir(tree) if name.endswith(_SUFFIXES)]
        for name in ours:
            await files.unlink(f"{tree}/{name}")
        if ours:
            await files.sync_directory(tree)
