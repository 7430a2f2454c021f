"""Reading what `--wal file` left behind: which groups count, and whether what does not is torn or corrupt. Changes nothing on disk.

`fileformat` says why the rules hold. In short: groups have consecutive numbers; the log ends at the first that is missing or damaged;
and it is an error if anything tells that this one had been durable.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from rafttoy.errors import CorruptionError, MalformedMessage, StorageError
from rafttoy.ports import File, Files
from rafttoy.raft.entries import EntryBatch
from rafttoy.raft.types import SnapshotMetadata
from rafttoy.storage.fileformat import (
    BLOCK,
    GROUP_BYTES,
    MAGIC,
    START,
    VERSION,
    DamagedHeader,
    Group,
    body_checksum,
    decode_body,
    padded,
    read_group_header,
    read_segment,
)

__all__ = ["DIRECTORY", "Findings", "Segment", "Sink", "Window", "pread_all", "read_group", "read_log", "segment_name"]

DIRECTORY = "wal"
_NAME = re.compile(r"([0-9a-f]{16})\.wal")
_CHUNK = 1 << 20


def segment_name(sequence: int) -> str:
    return f"{DIRECTORY}/{sequence:016x}.wal"


@dataclass(slots=True, eq=False)
class Segment:
    """An open segment. `end` is where its next group would begin, `last_index` the highest index in it."""

    sequence: int
    file: File
    end: int = BLOCK
    last_index: int = 0

    @property
    def name(self) -> str:
        return segment_name(self.sequence)

    @property
    def empty(self) -> bool:
        return self.end == BLOCK


@dataclass(slots=True)
class Findings:
    """What was read.

    segments       those that the log lives in, in order, and what a crash left between them
    leftover       older ones, released before the crash
    next           prepared for use, empty
    torn           bytes behind the last group that are writes which never finished, in `tail`
    number         of the next group
    mark_sequence  of the segment with the newest mark
    """

    segments: list[Segment] = field(default_factory=list)
    leftover: list[Segment] = field(default_factory=list)
    next: Segment | None = None
    torn: int = 0
    tail: Segment | None = None
    number: int = 1
    mark_sequence: int = 0


class Sink(Protocol):
    """Told what counts, in order."""

    def restart(self) -> None:
        """What came before does not count."""

    def group(self, segment: Segment, offset: int, group: Group, batches: Sequence[EntryBatch], mark: SnapshotMetadata | None) -> None: ...


async def read_log(files: Files, sink: Sink) -> Findings:
    """Raises CorruptionError for damage that is not a torn tail, StorageError for a missing segment or an unknown format."""
    sequences = [int(match[1], 16) for name in await files.listdir(DIRECTORY) if (match := _NAME.fullmatch(name))]
    segments = [await _open(files, sequence) for sequence in sequences]
    return await _Reader(files, sink).read(segments) if segments else Findings()


async def _open(files: Files, sequence: int) -> Segment:
    file = await files.open(segment_name(sequence))
    where = f"{files.root}/{file.name}"
    ours, version, found_sequence, expected, found = read_segment(await pread_all(files, file, 0, BLOCK))
    if not ours:
        raise CorruptionError("no segment header", file=where, offset=0)
    if version != VERSION:
        raise StorageError(f"{where} has format {version}; this version reads format {VERSION}")
    if expected != found:
        raise CorruptionError("a damaged segment header", file=where, offset=0, expected=expected, found=found)
    if found_sequence != sequence:
        raise CorruptionError(f"the header of segment {found_sequence:016x}", file=where, offset=0)
    return Segment(sequence, file)


async def read_group(files: Files, segment: Segment, offset: int) -> list[EntryBatch]:
    """A group that is known to stand there. Raises CorruptionError."""
    where = f"{files.root}/{segment.name}"
    head = await pread_all(files, segment.file, offset, BLOCK)
    try:
        group = read_group_header(head, 0, segment.sequence)
        if group is None:
            raise CorruptionError("a group is gone", file=where, offset=offset)
        data = memoryview(head if group.size <= BLOCK else await pread_all(files, segment.file, offset, group.size))
        if len(data) < group.size:
            raise CorruptionError(f"a group of {group.size} bytes passes the end of the file", file=where, offset=offset)
        found = body_checksum(data, group)
        if found != group.crc:
            raise CorruptionError("a damaged group", file=where, offset=offset, expected=group.crc, found=found)
        return decode_body(group, data)[0]
    except DamagedHeader as damage:
        raise CorruptionError("a damaged group header", file=where, offset=offset, expected=damage.expected, found=damage.found) from None
    except MalformedMessage as error:
        raise CorruptionError(str(error), file=where, offset=offset) from None


async def pread_all(files: Files, file: File, offset: int, length: int) -> bytes:
    """Fewer bytes only at the end of the file: a read that came back short must not look like a torn write. Raises StorageError."""
    data = await file.pread(offset, length)
    if len(data) < min(length, file.size() - offset):
        raise StorageError(f"{files.root}/{file.name}: a read of {length} bytes at offset {offset} came back with {len(data)}")
    return data


class Window:
    """Reads a file forward, a chunk at a time."""

    def __init__(self, files: Files, file: File) -> None:
        self._files = files
        self._file = file
        self._begin = 0
        self._data = b""

    async def at(self, offset: int, length: int) -> memoryview:
        """`length` bytes from `offset`, fewer at the end of the file."""
        if offset >= self._file.size():
            return memoryview(b"")
        if offset < self._begin or offset + length > self._begin + len(self._data):
            self._begin, self._data = offset, await pread_all(self._files, self._file, offset, max(length, _CHUNK))
        return memoryview(self._data)[offset - self._begin : offset - self._begin + length]


@dataclass(slots=True)
class _Damage:
    """Why no group could be read where one was expected; the checksums if it came to comparing them."""

    what: str = "a missing group"
    expected: int | None = None
    found: int | None = None
    size: int = 0


class _Reader:
    def __init__(self, files: Files, sink: Sink) -> None:
        self._files = files
        self._sink = sink
        self._number = 0  # of the next group; 0: any
        self._founded = False  # a START group or a mark was seen: nothing before it is missing
        self._start_sequence = 0
        self._out = Findings()

    async def read(self, segments: list[Segment]) -> Findings:
        """`segments` are sorted and not empty."""
        out = self._out
        begin = len(segments) - 1
        while begin and segments[begin - 1].sequence == segments[begin].sequence - 1:
            begin -= 1
        run = segments[begin:]
        tail, damage = run[0], _Damage()
        unread: CorruptionError | None = None  # the first group of all cannot be read
        for segment in run:
            window = Window(self._files, segment.file)
            head = await self._group(segment, window, BLOCK)
            if isinstance(head, Group):
                if self._number and head.number != self._number and not head.flags & START:
                    if head.durable >= self._number:
                        raise self._corrupt(tail, damage)
                else:
                    tail, damage = segment, await self._segment(segment, window)
            elif segment is run[0]:
                damage = head
                unread = self._corrupt(segment, head) if head.size else None
        self._number = self._number or 1
        if not self._founded and not (tail.sequence == 1 and tail.empty):
            if unread is not None:
                raise unread
            raise StorageError(f"{self._files.root}/{segment_name(max(1, run[0].sequence - 1))} is missing: the log begins in the middle")
        at = run.index(tail)
        await self._evidence(run[at:], damage)
        out.number, out.tail = self._number, tail
        later = run[at + 1 :]
        if later and later[-1].empty:
            out.next = later.pop()
        kept = run[: at + 1] + later
        out.leftover = segments[:begin] + [segment for segment in kept if segment.sequence < self._start_sequence]
        out.segments = [segment for segment in kept if segment.sequence >= self._start_sequence]
        return out

    async def _group(self, segment: Segment, window: Window, offset: int) -> Group | _Damage:
        """The intact group at `offset`, or what stands in its place. Raises CorruptionError for a damaged header."""
        where = f"{self._files.root}/{segment.name}"
        try:
            group = read_group_header(await window.at(offset, GROUP_BYTES), 0, segment.sequence)
        except DamagedHeader as damage:
            raise CorruptionError(
                "a damaged group header", file=where, offset=offset, expected=damage.expected, found=damage.found
            ) from None
        if group is None:
            return _Damage()
        data = await window.at(offset, group.size)
        if len(data) < group.size:
            return _Damage("a group that passes the end of its segment", size=len(data))
        found = body_checksum(data, group)
        return group if found == group.crc else _Damage("a damaged group", group.crc, found, group.size)

    async def _segment(self, segment: Segment, window: Window) -> _Damage:
        """Hands over the segment's groups; what ends them."""
        sink, files = self._sink, self._files
        while True:
            offset = segment.end
            group = await self._group(segment, window, offset)
            if not isinstance(group, Group):
                return group
            if self._number and group.number != self._number and not group.flags & START:
                return _Damage()
            if group.flags & START:
                sink.restart()
                self._founded = True
                self._start_sequence = segment.sequence
            where = f"{files.root}/{segment.name}"
            try:
                batches, mark = decode_body(group, await window.at(offset, group.size))
                sink.group(segment, offset, group, batches, mark)
            except MalformedMessage as error:
                raise CorruptionError(str(error), file=where, offset=offset) from None
            if mark is not None:
                self._founded = True
                self._out.mark_sequence = segment.sequence
            self._number = group.number + 1
            segment.end = offset + padded(group.size)

    async def _evidence(self, segments: list[Segment], damage: _Damage) -> None:
        """Looks behind the end of the log, in its last segment and the later ones, for groups that tell what it is: nothing (a clean
        end), groups that were never durable (torn), or groups that were written after this one had been (corrupt)."""
        tail = segments[0]
        torn = padded(damage.size) if damage.size else 0
        for segment in segments:
            window = Window(self._files, segment.file)
            offset = segment.end
            while len(block := await window.at(offset, _CHUNK)) >= GROUP_BYTES:
                words = np.frombuffer(block[: len(block) // 4 * 4], dtype="<u4")[:: BLOCK // 4]
                for i in np.flatnonzero(words == MAGIC).tolist():
                    at = i * BLOCK
                    try:
                        group = read_group_header(block, at, segment.sequence)
                    except DamagedHeader:
                        continue
                    if group is None:
                        continue
                    if group.durable >= self._number:
                        raise self._corrupt(tail, damage)
                    if segment is tail:
                        torn = max(torn, min(offset + at + padded(group.size), tail.file.size()) - tail.end)
                    else:
                        torn = max(torn, BLOCK)
                        segment.end = max(segment.end, offset + at + BLOCK)
                offset += _CHUNK
        self._out.torn = torn

    def _corrupt(self, tail: Segment, damage: _Damage) -> CorruptionError:
        where = f"{self._files.root}/{tail.name}"
        what = f"{damage.what} ({self._number}), though later ones are there"
        return CorruptionError(what, file=where, offset=tail.end, expected=damage.expected, found=damage.found)
