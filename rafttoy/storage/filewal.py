"""`--wal file`: the fastest honest log this host can have.

What makes it so: a segment's blocks are written once when it is made and only overwritten afterwards (a sync then changes no metadata:
half the time of an append); segments are recycled; one write and one sync a group, with one checksum and the hard state in it.
`fileformat` has the layout and why it can be trusted, `fileread` how it is read.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Sequence
from contextlib import suppress

from rafttoy.errors import StorageError
from rafttoy.ports import Buffer, Future, Ports, Sized, Task
from rafttoy.raft.entries import EntryBatch
from rafttoy.raft.types import EMPTY_HARD_STATE, SnapshotMetadata
from rafttoy.storage.api import Save, WalState, may_wait
from rafttoy.storage.fileformat import BLOCK, START, Group, encode_group, encode_segment
from rafttoy.storage.fileread import DIRECTORY, Findings, Segment, read_group, read_log, segment_name
from rafttoy.storage.replay import Gap, Replay

__all__ = ["FileWal"]

SEGMENT_BYTES = 64 << 20
_SPARES_MAX = 4
_SPARE = re.compile(r"[0-9a-f]{16}\.spare")

_Position = tuple[int, Segment, int]
"""(first index of a batch, its segment, where its group begins)"""


class _Sink:
    """Collects what is read when the log is opened."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.positions: list[_Position] = []

    def restart(self) -> None:
        self.replay.restart()
        self.positions.clear()

    def group(self, segment: Segment, offset: int, group: Group, batches: Sequence[EntryBatch], mark: SnapshotMetadata | None) -> None:
        for batch in batches:
            self.replay.add([batch])
            _place(self.positions, batch, segment, offset)
        self.replay.hard_state = group.hard_state
        if mark is not None:
            self.replay.add_mark(mark)


def _place(positions: list[_Position], batch: EntryBatch, segment: Segment, offset: int) -> None:
    """Where a batch is; what it overwrites is nowhere any more."""
    first = batch.first
    if positions and positions[-1][0] >= first:
        del positions[bisect_left(positions, first, key=_first) :]
    positions.append((first, segment, offset))
    segment.last_index = max(segment.last_index, batch.last)


def _first(position: _Position) -> int:
    return position[0]


class FileWal:
    """`segment_bytes` is the size of each segment; a group that is larger gets one that fits it."""

    durable = True
    instant = False

    def __init__(self, ports: Ports, *, cache_bytes: int, sync: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        assert segment_bytes % BLOCK == 0
        assert segment_bytes >= 2 * BLOCK
        self._files = ports.files
        self._tasks = ports.tasks
        self._stage = ports.cpu.stage("wal.encode.file")
        self._cache_bytes = cache_bytes
        self._sync = sync != "none"
        self._segment_bytes = segment_bytes
        self._segments: list[Segment] = []  # in order; the last one is written to
        self._next: Segment | None = None
        self._preparing: Task | None = None
        self._prepared: Future[None] | None = None  # whoever waits for it
        self._attempts = 0
        self._spares: list[str] = []
        self._sequence = 0  # the highest in use
        self.number = 1  # of the next group
        self.durable_number = 0  # up to this one, all are durable
        self.start = True  # the next group begins the log
        self.hard_state = EMPTY_HARD_STATE
        self._unsynced = False
        self._mark_sequence = 0
        self._positions: list[_Position] = []
        self._virtual = False
        self._read: tuple[Segment, int, list[EntryBatch]] | None = None  # the group read last
        self._writes = self._syncs = self._bytes = 0

    # --- opening ---

    async def open(self) -> WalState:
        files = self._files
        sink = _Sink(Replay(self._cache_bytes))
        found = await read_log(files, sink)
        notes: list[str] = []
        try:
            state = sink.replay.finish(notes)
        except Gap as gap:
            raise StorageError(f"{files.root}/{DIRECTORY}: a segment is missing: {gap}") from None
        await self._adopt(found, sink, notes)
        return state

    async def _adopt(self, found: Findings, sink: _Sink, notes: list[str]) -> None:
        """Takes over what was found; only here is anything on disk changed."""
        files = self._files
        self._segments, self._next, self.number = found.segments, found.next, found.number
        self._positions, self._mark_sequence = sink.positions, found.mark_sequence
        self.hard_state = sink.replay.hard_state
        names = await files.listdir(DIRECTORY)
        self._spares = [f"{DIRECTORY}/{name}" for name in names if _SPARE.fullmatch(name)]
        for name in names:
            if name.endswith(".tmp"):
                await files.unlink(f"{DIRECTORY}/{name}")
        await files.mkdir(DIRECTORY)
        await files.sync_directory()  # names too may have been given by a dead process and not be durable yet
        await files.sync_directory(DIRECTORY)
        self._sequence = max([segment.sequence for segment in (*self._segments, *found.leftover)], default=0)
        if self._next is not None:
            self._sequence = self._next.sequence
        tail = found.tail
        if tail is not None:
            self.start = tail.empty and tail.sequence == 1
            await tail.file.sync()  # it may have been read from memory that a dead process wrote to and never synced
            if found.torn:
                await self._set_aside(tail, found.torn, notes)
        self.durable_number = self.number - 1
        if tail is None or found.torn:
            await self._switch()
        if found.torn:
            await self.write([Save((), None)], sync=True)  # from now on, the log is known to go on there
        await self._recycle(found.leftover)
        if self._next is None:
            await self._prepare()  # here, not beside the first saves

    async def _set_aside(self, tail: Segment, torn: int, notes: list[str]) -> None:
        """Keeps a copy of a torn tail. The tail itself is not touched: the log goes on in another segment."""
        files = self._files
        name = f"{tail.name}.broken"
        data = await tail.file.pread(tail.end, torn)
        copy = await files.open(name, create=True)
        await copy.truncate(0)
        await copy.pwritev(0, [data], sync=True)
        await copy.close()
        await files.sync_directory(DIRECTORY)
        what = f"{len(data)} bytes from offset {tail.end} on are a write that never finished"
        notes.append(f"{files.root}/{tail.name}: {what}; left out, kept in {name}")

    # --- writing ---

    async def begin(self, saves: Sequence[Save], *, sync: bool) -> Awaitable[None]:
        stage = self._stage
        mark = stage.start()
        segment = self._segments[-1]
        groups = _Groups(self, segment, saves)
        await stage.done(mark, groups.entries, groups.entry_bytes)
        if segment.end + groups.size > segment.file.size() and not segment.empty:
            await self._switch()
            self._prepare_ahead()
            segment = self._segments[-1]
            groups = _Groups(self, segment, saves)  # again: every group names its segment
        sync = sync and self._sync
        if sync and self._unsynced:
            await segment.file.sync()  # not every way to sync a write covers the writes before
        ended = segment.file.pwritev(segment.end, groups.buffers, sync=sync, here=may_wait(saves))
        for batch, offset in groups.placed:
            _place(self._positions, batch, segment, offset)
            if isinstance(batch.frames, Sized):
                self._virtual = True
        self.number, self.hard_state, self.start = groups.number, groups.hard_state, False
        if groups.marked:
            self._mark_sequence = segment.sequence
        segment.end += groups.size
        self._writes += 1
        self._bytes += groups.size
        self._unsynced = not sync
        if sync:
            self._syncs += 1
            self.durable_number = self.number - 1  # by the time the next group is written: if this one fails, that one is not
        return ended

    async def write(self, saves: Sequence[Save], *, sync: bool) -> None:
        await (await self.begin(saves, sync=sync))

    # --- segments ---

    async def _switch(self) -> None:
        """To the next segment. What the last one holds is durable before a group is written to the new one."""
        if self._unsynced and self._sync:
            await self._segments[-1].file.sync()
            self._unsynced = False
            self.durable_number = self.number - 1
        while self._next is None:
            if self._preparing is None or self._preparing.done():
                await self._prepare()
            else:
                self._prepared = self._tasks.future()
                await self._prepared
        self._segments.append(self._next)
        self._next = None

    def _prepare_ahead(self) -> None:
        self._preparing = self._tasks.spawn(self._prepare_and_tell(), "wal segment")

    async def _prepare_and_tell(self) -> None:
        try:
            await self._prepare()
        finally:
            self._preparing = None
            if self._prepared is not None and not self._prepared.done():
                self._prepared.set_result(None)

    async def _prepare(self) -> None:
        """Makes the segment that follows, of a spare if there is one. It gets its name once its header is durable."""
        files = self._files
        sequence = self._sequence + 1
        if self._spares:
            name = self._spares.pop()
            file = await files.open(name)
        else:
            self._attempts += 1  # a cancelled attempt may still be writing to its file
            name = f"{DIRECTORY}/{sequence:016x}-{self._attempts}.tmp"
            file = await files.open(name, create=True, preallocate=self._segment_bytes, prewrite=True)
        await file.pwritev(0, [encode_segment(sequence, file.size())], sync=True)
        await files.rename(name, segment_name(sequence))
        await files.sync_directory(DIRECTORY)
        self._sequence = sequence
        self._next = Segment(sequence, file)

    async def release(self, index: int) -> None:
        segments = self._segments
        released = []
        while len(segments) > 1 and segments[0].last_index <= index and segments[0].sequence < self._mark_sequence:
            released.append(segments.pop(0))
        if released:
            last = released[-1].sequence
            at = 0
            while at < len(self._positions) and self._positions[at][1].sequence <= last:
                at += 1
            del self._positions[:at]
            await self._recycle(released)

    async def _recycle(self, segments: Sequence[Segment]) -> None:
        """Turns segments that nobody needs into spares. They are written to only once their old names are gone durably."""
        files = self._files
        spares: list[str] = []
        for segment in segments:
            await segment.file.close()
            if len(self._spares) + len(spares) < _SPARES_MAX:
                spare = f"{DIRECTORY}/{segment.sequence:016x}.spare"
                await files.rename(segment.name, spare)
                spares.append(spare)
            else:
                await files.unlink(segment.name)
        if segments:
            await files.sync_directory(DIRECTORY)
            self._spares += spares

    async def reset(self) -> None:
        if self.start and len(self._segments) == 1 and self._segments[0].empty:
            return
        await self._switch()
        self._prepare_ahead()
        released = self._segments[:-1]
        del self._segments[:-1]
        self._positions.clear()
        self._read = None
        self._virtual = False
        self.start, self.hard_state, self._mark_sequence = True, EMPTY_HARD_STATE, 0
        await self.write([Save((), EMPTY_HARD_STATE)], sync=True)
        await self._recycle(released)

    # --- reading ---

    async def read(self, batch: EntryBatch) -> EntryBatch:
        positions = self._positions
        pieces: list[Buffer] = []
        first = batch.first
        while first <= batch.last:
            at = bisect_right(positions, first, key=_first) - 1
            last = min(batch.last, positions[at + 1][0] - 1) if at + 1 < len(positions) else batch.last
            begin, segment, offset = positions[at]
            if self._virtual:
                await segment.file.pread(offset, batch.size)
                return batch.with_frames(Sized(batch.size))
            frames = (await self._batch(segment, offset, begin)).slice(first, last + 1).frames
            assert frames is not None
            pieces.append(frames)
            first = last + 1
        return batch.with_frames(pieces[0] if len(pieces) == 1 else b"".join(pieces))  # type: ignore[arg-type]

    async def _batch(self, segment: Segment, offset: int, first: int) -> EntryBatch:
        """The batch from index `first` of the group at `offset`, its checksum compared."""
        known = self._read
        if known is None or known[0] is not segment or known[1] != offset:
            known = self._read = (segment, offset, await read_group(self._files, segment, offset))
        return next(batch for batch in known[2] if batch.first == first)

    def counters(self) -> dict[str, int]:
        return {"wal_syncs": self._syncs, "wal_writes": self._writes, "wal_bytes": self._bytes}

    async def close(self) -> None:
        """Ends with a group that tells all others were durable, so that damage to them is never taken for a torn write."""
        if self._preparing is not None:
            self._preparing.cancel()
        if self._segments:
            if self._sync and self._writes:
                with suppress(StorageError):  # told when it happened
                    await self.write([Save((), None)], sync=True)
            for segment in self._segments:
                await segment.file.close()
            self._segments.clear()


class _Groups:
    """What one write hands to a segment. A mark ends its group: entries behind it may begin anywhere."""

    __slots__ = ("buffers", "entries", "entry_bytes", "hard_state", "marked", "number", "placed", "size")

    def __init__(self, wal: FileWal, segment: Segment, saves: Sequence[Save]) -> None:
        self.buffers: list[Buffer] = []
        self.placed: list[tuple[EntryBatch, int]] = []
        self.number = wal.number
        self.hard_state = wal.hard_state
        self.marked = False
        self.size = self.entries = self.entry_bytes = 0
        batches: list[EntryBatch] = []
        flags = START if wal.start else 0
        last = saves[-1]
        for save in saves:
            batches += save.entries
            if save.hard_state is not None:
                self.hard_state = save.hard_state
            if save is last or save.mark is not None:
                offset = segment.end + self.size
                for batch in batches:
                    self.placed.append((batch, offset))
                    self.entries += batch.count
                    self.entry_bytes += batch.size
                mark = b""
                if save.mark is not None:
                    mark = save.mark.encode()
                    self.marked = True
                buffers, size = encode_group(segment.sequence, self.number, wal.durable_number, flags, batches, self.hard_state, mark)
                self.buffers += buffers
                self.size += size
                self.number += 1
                flags = 0
                batches = []
