"""`--wal etcd`: etcd's log, its segments, its cut and its repair, so that etcd itself is on the scale.

As in etcd: segments of 64,000,000 bytes are reserved ahead in a pipeline file (0.tmp, 1.tmp) and not prewritten, so every sync of a
write to new space changes metadata; after a save that finds the end passed, the tail is cut to its length and the next segment gets
its head (checksum so far, metadata, hard state) before it gets its name. `etcdformat` has the bytes, `etcdread` the rules for reading.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Awaitable, Sequence

from rafttoy.errors import CorruptionError, MalformedMessage
from rafttoy.ports import Buffer, File, Future, Ports, Sized, Task
from rafttoy.raft.entries import EntryBatch
from rafttoy.raft.types import EMPTY_HARD_STATE, HardState, SnapshotMetadata
from rafttoy.storage.api import Save, WalState, may_wait
from rafttoy.storage.etcdformat import BUFFER_BYTES, CRC, METADATA, SNAPSHOT, STATE, encode_entries, encode_mark, encode_record, handed_over
from rafttoy.storage.etcdread import DIRECTORY, EtcdSegment, Findings, decode_records, missing, read_log
from rafttoy.storage.fileread import pread_all
from rafttoy.storage.replay import Gap, Replay

__all__ = ["EtcdWal"]

SEGMENT_BYTES = 64_000_000

_Position = tuple[int, EtcdSegment, int, int, int]
"""(first index of a batch, its segment, offset of its first record, bytes of its records, checksum before them)"""


async def _done() -> None:
    """A write that has ended already."""


def _first(position: _Position) -> int:
    return position[0]


class _Sink:
    """Collects what is read when the log is opened."""

    def __init__(self, replay: Replay) -> None:
        self.replay = replay
        self.positions: list[_Position] = []
        self.mark_sequence = 0

    def entries(self, segment: EtcdSegment, batch: EntryBatch, offset: int, size: int, crc: int) -> None:
        self.replay.add([batch])
        _place(self.positions, (batch.first, segment, offset, size, crc))

    def state(self, state: HardState) -> None:
        self.replay.hard_state = state

    def mark(self, segment: EtcdSegment, mark: SnapshotMetadata) -> None:
        if mark.index or mark.conf_state.voters:  # every log begins with an empty one
            self.replay.add_mark(mark)
            self.mark_sequence = segment.sequence


def _place(positions: list[_Position], position: _Position) -> None:
    """What a batch overwrites is nowhere any more."""
    first = position[0]
    if positions and positions[-1][0] >= first:
        del positions[bisect_left(positions, first, key=_first) :]
    positions.append(position)


class EtcdWal:
    durable = True
    instant = False

    def __init__(self, ports: Ports, *, cache_bytes: int, sync: str, segment_bytes: int = SEGMENT_BYTES) -> None:
        self._files = ports.files
        self._tasks = ports.tasks
        self._stage = ports.cpu.stage("wal.encode.etcd")
        self._cache_bytes = cache_bytes
        self._sync = sync != "none"
        self._segment_bytes = segment_bytes
        self._segments: list[EtcdSegment] = []  # in order; the last one is written to
        self._metadata: bytes | None = None
        self.crc = 0
        self._last_index = 0  # of the entry written last
        self.hard_state = EMPTY_HARD_STATE
        self._mark_sequence = 0
        self._positions: list[_Position] = []
        self._unsynced = False
        self._virtual = False
        self._prepared: tuple[File, str] | None = None
        self._preparing: Task | None = None
        self._waiter: Future[None] | None = None
        self._pipeline = 0  # files made by it
        self._writes = self._syncs = self._bytes = 0

    # --- opening ---

    async def open(self) -> WalState:
        files = self._files
        await files.mkdir(DIRECTORY)
        sink = _Sink(Replay(self._cache_bytes))
        found = await read_log(files, sink)
        notes: list[str] = []
        try:
            state = sink.replay.finish(notes)
        except Gap as gap:
            missing(files, found.segments[0], gap)
        if found.segments and found.segments[0].sequence and state.mark is None:
            missing(files, found.segments[0], "the log begins in the middle")
        await self._adopt(found, sink, notes)
        return state

    async def _adopt(self, found: Findings, sink: _Sink, notes: list[str]) -> None:
        """Takes over what was found; only here is anything on disk changed."""
        files = self._files
        self._segments, self._metadata, self.crc = found.segments, found.metadata, found.crc
        self._last_index, self.hard_state = found.last_index, sink.replay.hard_state
        self._positions, self._mark_sequence = sink.positions, sink.mark_sequence
        for name in await files.listdir(DIRECTORY):
            if name.endswith(".tmp"):
                await files.unlink(f"{DIRECTORY}/{name}")
        await files.sync_directory()  # names may have been given by a dead process and not be durable yet
        await files.sync_directory(DIRECTORY)
        if found.segments:
            tail = found.segments[-1]
            if found.torn:
                await self._repair(tail, notes)
            elif found.dirty:
                await self._zero_to_end(tail)
            await tail.file.sync()
        else:
            await self._create(0, 0)
        for segment in found.leftover:
            await segment.file.close()
            await files.unlink(segment.name)
        self._prepare_ahead()

    async def _repair(self, tail: EtcdSegment, notes: list[str]) -> None:
        """As etcd's Repair: a copy is kept, the tail ends with its last whole record."""
        files = self._files
        size = tail.file.size()
        name = f"{tail.name}.broken"
        copy = await files.open(name, create=True)
        await copy.truncate(0)
        await copy.pwritev(0, [await pread_all(files, tail.file, 0, size)], sync=True)
        await copy.close()
        await files.sync_directory(DIRECTORY)
        await tail.file.truncate(tail.end)
        notes.append(
            f"{files.root}/{tail.name}: {size - tail.end} bytes from offset {tail.end} on were a torn write; cut off, kept in {name}"
        )

    async def _zero_to_end(self, tail: EtcdSegment) -> None:
        """A torn write may lie behind a zero length: later records must not meet what is left of it."""
        size = tail.file.size()
        await tail.file.truncate(tail.end)
        await tail.file.sync()
        await tail.file.close()
        tail.file = await self._files.open(tail.name, preallocate=size)

    # --- segments ---

    async def _create(self, sequence: int, first_index: int) -> None:
        """The next segment: its head is durable before it has a name."""
        files = self._files
        while self._prepared is None:
            if self._preparing is None or self._preparing.done():
                await self._prepare()
            else:
                self._waiter = self._tasks.future()
                await self._waiter
        file, name = self._prepared
        self._prepared = None
        crc = self.crc
        records: list[tuple[int, bytes | None]] = [(CRC, None), (METADATA, self._metadata)]
        if self.hard_state != EMPTY_HARD_STATE:
            records.append((STATE, self.hard_state.encode()))
        if sequence == 0:
            records.append((SNAPSHOT, encode_mark(SnapshotMetadata())))
        parts = []
        for type_, data in records:
            record, crc = encode_record(type_, data, crc)
            parts.append(record)
        await file.pwritev(0, parts, sync=self._sync)
        segment = EtcdSegment(sequence, first_index, file, sum(map(len, parts)))
        await files.rename(name, segment.name)
        await files.sync_directory(DIRECTORY)
        self._segments.append(segment)
        self.crc = crc

    def _prepare_ahead(self) -> None:
        if self._prepared is None:
            self._preparing = self._tasks.spawn(self._prepare_and_tell(), "wal pipeline")

    async def _prepare_and_tell(self) -> None:
        try:
            await self._prepare()
        finally:
            self._preparing = None
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    async def _prepare(self) -> None:
        """A file of the pipeline: two names in turn, for the last one may not have got its own yet."""
        name = f"{DIRECTORY}/{self._pipeline % 2}.tmp"
        self._pipeline += 1
        file = await self._files.open(name, create=True, preallocate=self._segment_bytes)
        self._prepared = (file, name)

    async def _cut(self) -> None:
        tail = self._segments[-1]
        await tail.file.truncate(tail.end)
        if self._sync:
            await tail.file.sync()
        self._unsynced = False
        await self._create(tail.sequence + 1, self._last_index + 1)
        self._prepare_ahead()

    # --- writing ---

    async def begin(self, saves: Sequence[Save], *, sync: bool) -> Awaitable[None]:
        stage = self._stage
        mark = stage.start()
        records = _Records(self, saves)
        await stage.done(mark, records.entries, records.entry_bytes)
        tail = self._segments[-1]
        sync = sync and self._sync
        if sync and self._unsynced:
            await tail.file.sync()  # not every way to sync a write covers the writes before
        offset = tail.end
        cuts = self._cuts(offset, records)
        ended = tail.file.pwritev(offset, records.buffers, sync=sync and not cuts, here=may_wait(saves))
        for batch, at, size, crc in records.placed:
            _place(self._positions, (batch.first, tail, offset + at, size, crc))
            tail.last_index = max(tail.last_index, batch.last)
            self._last_index = batch.last
            if isinstance(batch.frames, Sized):
                self._virtual = True
        self.crc, self.hard_state = records.crc, records.hard_state
        if records.marked:
            self._mark_sequence = tail.sequence
        tail.end = offset + records.size
        self._writes += 1
        self._bytes += records.size
        self._syncs += sync
        self._unsynced = not sync
        if cuts:
            await ended
            await self._cut()
            return _done()
        return ended

    async def write(self, saves: Sequence[Save], *, sync: bool) -> None:
        await (await self.begin(saves, sync=sync))

    def _cuts(self, offset: int, records: _Records) -> bool:
        """Whether etcd would cut now: it looks at what its page writer has handed over, not at what it holds."""
        limit, end = self._segment_bytes, offset + records.size
        if offset >= limit or end < limit:
            return offset >= limit
        return records.size > BUFFER_BYTES and handed_over(offset, records.buffers) >= limit

    async def release(self, index: int) -> None:
        """Segments that end before the mark's entry go; one that begins at or before it stays, for etcd opens at a mark."""
        segments = self._segments
        released = []
        while (
            len(segments) > 1
            and segments[0].last_index <= index
            and segments[1].first_index <= index
            and segments[0].sequence < self._mark_sequence
        ):
            released.append(segments.pop(0))
        if released:
            last = released[-1].sequence
            while self._positions and self._positions[0][1].sequence <= last:
                del self._positions[0]
            await self._remove(released)

    async def _remove(self, segments: Sequence[EtcdSegment]) -> None:
        for segment in segments:
            await segment.file.close()
            await self._files.unlink(segment.name)
        await self._files.sync_directory(DIRECTORY)

    async def reset(self) -> None:
        """The storage tells on disk that it is being emptied before it calls this."""
        if len(self._segments) == 1 and not self._positions and self.hard_state == EMPTY_HARD_STATE and not self._mark_sequence:
            return
        removed, self._segments = self._segments, []
        await self._remove(removed)
        self._positions.clear()
        self.crc = self._last_index = self._mark_sequence = 0
        self.hard_state = EMPTY_HARD_STATE
        self._unsynced = self._virtual = False
        await self._create(0, 0)
        self._prepare_ahead()

    # --- reading ---

    async def read(self, batch: EntryBatch) -> EntryBatch:
        positions = self._positions
        pieces: list[Buffer] = []
        first = batch.first
        while first <= batch.last:
            at = bisect_right(positions, first, key=_first) - 1
            last = min(batch.last, positions[at + 1][0] - 1) if at + 1 < len(positions) else batch.last
            _, segment, offset, size, crc = positions[at]
            data = await pread_all(self._files, segment.file, offset, size)
            if self._virtual:
                return batch.with_frames(Sized(batch.size))
            where = f"{self._files.root}/{segment.name}"
            try:
                for piece in decode_records(data, where, offset, crc):
                    if piece.last >= first and piece.first <= last:
                        frames = piece.slice(first, last + 1).frames
                        assert frames is not None
                        pieces.append(frames)
            except MalformedMessage as error:
                raise CorruptionError(str(error), file=where, offset=offset) from None
            first = last + 1
        return batch.with_frames(pieces[0] if len(pieces) == 1 else b"".join(pieces))  # type: ignore[arg-type]

    def counters(self) -> dict[str, int]:
        return {"wal_syncs": self._syncs, "wal_writes": self._writes, "wal_bytes": self._bytes}

    async def close(self) -> None:
        if self._preparing is not None:
            self._preparing.cancel()
        if self._prepared is not None:
            file, name = self._prepared
            self._prepared = None
            await file.close()
            await self._files.unlink(name)
        for segment in self._segments:
            await segment.file.close()
        self._segments.clear()


class _Records:
    """What one write appends: for each save its entries, its hard state, its mark. Whichever of these records a crash leaves, the commit
    index is in the log: where a mark is ahead of it, the term and the vote come before the mark, and the commit index behind it."""

    __slots__ = ("buffers", "crc", "entries", "entry_bytes", "hard_state", "marked", "placed", "size")

    def __init__(self, wal: EtcdWal, saves: Sequence[Save]) -> None:
        self.buffers: list[Buffer] = []
        self.placed: list[tuple[EntryBatch, int, int, int]] = []
        self.crc, self.hard_state = wal.crc, wal.hard_state
        self.marked = False
        self.size = self.entries = self.entry_bytes = 0
        for save in saves:
            for batch in save.entries:
                before = self.crc
                buffers, size, self.crc = encode_entries(batch, before)
                self.buffers += buffers
                self.placed.append((batch, self.size, size, before))
                self.size += size
                self.entries += batch.count
                self.entry_bytes += batch.size
            state = save.hard_state
            if state is not None and state != EMPTY_HARD_STATE:
                if save.mark is not None and state.commit > self.hard_state.commit:
                    self._state(HardState(state.term, state.vote, self.hard_state.commit))
                else:
                    self._state(state)
            if save.mark is not None:
                self._record(SNAPSHOT, encode_mark(save.mark))
                self.marked = True
                if state is not None and state != self.hard_state:
                    self._state(state)

    def _state(self, state: HardState) -> None:
        self._record(STATE, state.encode())
        self.hard_state = state

    def _record(self, type: int, data: bytes) -> None:
        record, self.crc = encode_record(type, data, self.crc)
        self.buffers.append(record)
        self.size += len(record)
