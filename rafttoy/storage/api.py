"""What a storage, a write-ahead log and an engine promise, and what passes between them."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from rafttoy.raft.entries import EntryBatch
from rafttoy.raft.types import EMPTY_HARD_STATE, ConfState, HardState, Snapshot, SnapshotMetadata
from rafttoy.storage.log import Log
from rafttoy.wire import MESSAGE_LIMIT_BYTES

__all__ = ["SNAPSHOT_LIMIT_BYTES", "Engine", "Recovered", "Save", "Storage", "Wal", "WalState", "may_wait"]

SNAPSHOT_LIMIT_BYTES = MESSAGE_LIMIT_BYTES - (1 << 20)
"""Largest content of a snapshot that one message carries to a follower."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What `Storage.open` found.

    conf_state   the members as of `applied`; None if none were ever saved
    snapshot     stands for the log before its first entry; None if the log reaches back to index 1
    applied      the engine holds the effects of all entries up to here
    fresh        nothing was there: the group is yet to be founded, or joined
    notes        one line for each repair that was made
    """

    hard_state: HardState
    conf_state: ConfState | None
    snapshot: Snapshot | None
    applied: int
    fresh: bool
    notes: tuple[str, ...] = ()


@dataclass(slots=True)
class WalState:
    """What `Wal.open` found: contiguous batches, the first of which follows `mark` (where there is one)."""

    hard_state: HardState = EMPTY_HARD_STATE
    mark: SnapshotMetadata | None = None
    batches: Sequence[EntryBatch] = ()
    notes: list[str] = field(default_factory=list)


class Save:
    """What one caller wants saved together: entries, a hard state, and a mark: that the log begins behind an index, because a
    snapshot stands for what came before. Where the log does not hold the mark's entry, nothing of it is kept. `here` as in
    `Storage.save`."""

    __slots__ = ("entries", "hard_state", "here", "mark", "size")

    def __init__(
        self, entries: Sequence[EntryBatch], hard_state: HardState | None, mark: SnapshotMetadata | None = None, *, here: bool = False
    ) -> None:
        self.here = here
        self.entries = entries
        self.hard_state = hard_state
        self.mark = mark
        size = 0
        for batch in entries:
            size += batch.size
        self.size = size


def may_wait(saves: Sequence[Save]) -> bool:
    """Whether those who save have nothing else to do meanwhile. A group of several is of tasks that go on beside each
    other."""
    return len(saves) == 1 and saves[0].here


class Wal(Protocol):
    """A log on a device. Writes are begun one at a time; after one that raised StorageError, nothing is called but `close`."""

    @property
    def durable(self) -> bool:
        """Whether anything outlives the process."""

    @property
    def instant(self) -> bool:
        """Whether a write costs nothing and cannot fail, so that there is nothing to group."""

    async def open(self) -> WalState:
        """Reads what is there, and repairs a torn tail. Raises CorruptionError, StorageError."""

    async def begin(self, saves: Sequence[Save], *, sync: bool) -> Awaitable[None]:
        """Hands one group to the device and returns; the next one may be begun then. What it returns is to be awaited: the group is
        written, and durable if `sync`. After a crash everything of it is there, in order, or nothing, or a prefix; and of the next
        one nothing unless all of this one is. If this one fails, so does the next."""

    async def read(self, batch: EntryBatch) -> EntryBatch:
        """A batch of what was written, or a slice of one, with its frames. Raises CorruptionError."""

    async def release(self, index: int) -> None:
        """Entries up to and with `index`, which a durable mark stands for, may go: their space is reused."""

    async def reset(self) -> None:
        """Empties the log, durably. (A store that is shared with the engine was emptied already.)"""

    def counters(self) -> dict[str, int]:
        """`wal_syncs`, `wal_writes`, `wal_bytes` (handed to the device, headers and padding included)."""

    async def close(self) -> None: ...


class Engine(Protocol):
    """Where committed entries are applied."""

    @property
    def durable(self) -> bool: ...

    async def open(self) -> tuple[int, ConfState | None]:
        """(applied index, members as of then)."""

    async def apply(self, batches: Sequence[EntryBatch]) -> None:
        """Resident batches, in log order; those without data, or of another type than NORMAL, only move the applied index."""

    async def set_conf_state(self, conf_state: ConfState, index: int) -> None:
        """The members as of the configuration change at `index`, which counts as applied."""

    async def sync(self) -> None:
        """What was applied is durable once it returns."""

    async def dump(self, limit_bytes: int | None) -> bytes | None:
        """The content, for a snapshot; None if that is larger than `limit_bytes`."""

    async def restore(self, data: bytes, index: int, conf_state: ConfState) -> None:
        """Takes the place of the content, durably."""

    async def digest(self) -> str: ...

    async def reset(self) -> None: ...

    async def close(self) -> None: ...


class Storage(Protocol):
    """Log and engine of one peer, as the peer and its pipelines use them.

    Any call may raise StorageError: then the peer stops, and every later `save` raises too."""

    @property
    def log(self) -> Log:
        """What the core reads, without waiting: every entry saved, of which old ones may have lost their frames."""

    @property
    def durable(self) -> bool:
        """False for the `mem` logs, which forget everything."""

    @property
    def retain(self) -> int:
        """How many times longer a log this kind should keep than one in memory, for what a compaction costs it."""

    async def open(self) -> Recovered: ...

    def save(self, entries: Sequence[EntryBatch], hard_state: HardState | None, *, sync: bool, here: bool = False) -> Awaitable[None]:
        """Entries and hard state, durable once it returns if `sync`; `log` holds them then. Entries may overwrite a conflicting
        suffix. Concurrent calls are written as groups, in the order of the calls. With `here` the caller has nothing else to do: a file of
        little may be written by the loop itself."""

    async def load(self, batches: Sequence[EntryBatch]) -> Sequence[EntryBatch]:
        """The same batches, all with frames: the same object where none was evicted."""

    async def apply(self, batches: Sequence[EntryBatch]) -> None:
        """Committed entries, in log order."""

    def skip(self, batches: Sequence[EntryBatch]) -> None:
        """Committed entries, in log order, that nobody applies here: a log that is not found again may forget them as if they were, and one
        that is keeps them."""

    async def set_conf_state(self, conf_state: ConfState, index: int) -> None:
        """The members as of the configuration change at `index`, just applied (for the founding members: index 0)."""

    async def create_snapshot(self) -> Snapshot | None:
        """Of everything applied, with content; `log.snapshot()` gives it from then on. None where it would be larger than
        SNAPSHOT_LIMIT_BYTES."""

    async def install_snapshot(self, snapshot: Snapshot, hard_state: HardState | None) -> None:
        """One that came from the leader: takes the place of log and engine, durably."""

    async def reset(self) -> None:
        """Log, hard state and content are gone: ready for another group."""

    async def digest(self) -> str:
        """Of the engine's content: equal for equal content, whatever the engine."""

    async def read_log(self, low: int, high: int) -> Sequence[EntryBatch]:
        """The entries low <= index < high, with frames, for verification."""

    async def compact(self, index: int) -> None:
        """Forgets entries up to and with `index`, which are applied."""

    def compactable(self, retain_bytes: int) -> int:
        """Up to which index to compact so that the log keeps `retain_bytes`; 0 if there is nothing to do."""

    def counters(self) -> dict[str, int]:
        """Of this storage since it was made."""

    async def close(self) -> None: ...
