"""Reading etcd's WAL by etcd's rules. Changes nothing on disk.

Rule 1: a length of 0, or the end of the file, ends a segment; the next one continues it.
Rule 2: in the last segment, a record that passes the end of the file was torn.
Rule 3: in the last segment, a record with a wrong checksum, or that cannot be decoded, was torn if one of the sectors it lies in is
        all zero there, as it was before the write. Everything else is corruption.
Rule 4: later entries overwrite; the newest mark counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NoReturn, Protocol

import numpy as np

from rafttoy.errors import CorruptionError, MalformedMessage, StorageError
from rafttoy.ports import File, Files
from rafttoy.raft.entries import EntryBatch
from rafttoy.raft.protobuf import append_varint, expect_bytes, expect_int, fields, read_varint
from rafttoy.raft.types import ConfState, HardState, SnapshotMetadata
from rafttoy.storage.checksum import crc32c
from rafttoy.storage.etcdformat import CRC, ENTRY, LENGTH, METADATA, SECTOR, SNAPSHOT, STATE, frame_size
from rafttoy.storage.fileread import Window

__all__ = ["DIRECTORY", "EtcdSegment", "Findings", "Sink", "decode_records", "missing", "read_log", "segment_name"]

DIRECTORY = "wal"
_NAME = re.compile(r"([0-9a-f]{16})-([0-9a-f]{16})\.wal")
_CHUNK = 1 << 20
_RUN = 1024  # entries that are made into batches at a time


def segment_name(sequence: int, first_index: int) -> str:
    return f"{DIRECTORY}/{sequence:016x}-{first_index:016x}.wal"


@dataclass(slots=True, eq=False)
class EtcdSegment:
    """`first_index` as its name tells; `last_index` is the highest in it; `end` where its records end."""

    sequence: int
    first_index: int
    file: File
    end: int = 0
    last_index: int = 0

    @property
    def name(self) -> str:
        return segment_name(self.sequence, self.first_index)


class Sink(Protocol):
    """Told what the records say, in order."""

    def entries(self, segment: EtcdSegment, batch: EntryBatch, offset: int, size: int, crc: int) -> None:
        """Records of `size` bytes from `offset` on, where the checksum was `crc`."""

    def state(self, state: HardState) -> None: ...

    def mark(self, segment: EtcdSegment, mark: SnapshotMetadata) -> None: ...


@dataclass(slots=True)
class Findings:
    """`torn`: the last segment ends in a write that never finished. `dirty`: bytes that are not zero lie behind its end."""

    segments: list[EtcdSegment] = field(default_factory=list)
    leftover: list[EtcdSegment] = field(default_factory=list)
    metadata: bytes | None = None
    crc: int = 0
    last_index: int = 0  # of the entry written last
    torn: bool = False
    dirty: bool = False


async def read_log(files: Files, sink: Sink) -> Findings:
    """Raises CorruptionError, or StorageError for a missing segment."""
    found = [match for name in await files.listdir(DIRECTORY) if (match := _NAME.fullmatch(name))]
    out = Findings()
    for match in sorted(found, key=lambda match: match[1]):
        sequence = int(match[1], 16)
        if out.segments and sequence != out.segments[-1].sequence + 1:
            out.leftover += out.segments
            out.segments = []
        out.segments.append(EtcdSegment(sequence, int(match[2], 16), await files.open(f"{DIRECTORY}/{match[0]}")))
    reader = _Reader(files, sink, out)
    for segment in out.segments:
        await reader.segment(segment, last=segment is out.segments[-1])
    return out


class _Reader:
    def __init__(self, files: Files, sink: Sink, out: Findings) -> None:
        self._files = files
        self._sink = sink
        self._out = out
        self._run: list[bytes] = []  # entries not yet made into batches
        self._offsets: list[int] = []  # of their records, and the end of the last one
        self._crcs: list[int] = []  # before each of them

    async def segment(self, segment: EtcdSegment, *, last: bool) -> None:
        where = f"{self._files.root}/{segment.name}"
        window, end = Window(self._files, segment.file), segment.file.size()
        at, out = 0, self._out
        while at < end:
            field = await window.at(at, LENGTH.size)
            if len(field) < LENGTH.size:
                self._torn(last, CorruptionError("a length that passes the end of the segment", file=where, offset=at))
                break
            size, padding = frame_size(LENGTH.unpack(field)[0])
            if size == 0 and padding == 0:
                break
            begin = at + LENGTH.size
            if begin + size + padding > end:
                self._torn(last, CorruptionError(f"a record of {size} bytes passes the end of the segment", file=where, offset=at))
                break
            data = await window.at(begin, size + padding)
            try:
                type_, expected, content = _decode(data[:size])
            except MalformedMessage as error:
                what = f"a record that cannot be decoded ({error})"
                self._torn(last and _is_torn(data, begin), CorruptionError(what, file=where, offset=at))
                break
            found = expected if type_ == CRC else crc32c(content, out.crc) if content is not None else out.crc
            if type_ == CRC and out.crc not in (0, expected):
                what = "a segment that does not continue the one before"
                raise CorruptionError(what, file=where, offset=at, expected=expected, found=out.crc)
            if found != expected:
                damage = CorruptionError("a damaged record", file=where, offset=at, expected=expected, found=found)
                self._torn(last and _is_torn(data, begin), damage)
                break
            if type_ != CRC:
                self._take(segment, where, type_, content, at, begin + size + padding)
            out.crc = found
            at = begin + size + padding
        self._flush(segment, at)
        segment.end = at
        if last and not out.torn:
            out.dirty = await self._is_dirty(window, at, end)

    def _torn(self, torn: bool, damage: CorruptionError) -> None:
        if not torn:
            raise damage
        self._out.torn = True

    async def _is_dirty(self, window: Window, at: int, end: int) -> bool:
        while at < end:
            data = await window.at(at, _CHUNK)
            if np.frombuffer(data, dtype=np.uint8).any():
                return True
            at += len(data)
        return False

    def _take(self, segment: EtcdSegment, where: str, type_: int, content: bytes | None, at: int, end: int) -> None:
        """One record whose checksum was right: what it cannot say is corruption."""
        out, data = self._out, content or b""
        if type_ == ENTRY:
            self._run.append(data)
            self._offsets.append(at)
            self._crcs.append(out.crc)
            if len(self._run) == _RUN:
                self._flush(segment, end)
            return
        self._flush(segment, at)
        try:
            if type_ == STATE:
                self._sink.state(HardState.decode(data))
            elif type_ == SNAPSHOT:
                self._sink.mark(segment, decode_mark(data))
            elif type_ == METADATA:
                if out.metadata is not None and out.metadata != data:
                    raise CorruptionError("metadata of another log", file=where, offset=at)
                out.metadata = content
            else:
                raise CorruptionError(f"a record of unknown type {type_}", file=where, offset=at)
        except MalformedMessage as error:
            raise CorruptionError(str(error), file=where, offset=at) from None

    def _flush(self, segment: EtcdSegment, end: int) -> None:
        """Entries read so far, as batches. `end` is where the last of their records ends."""
        entries, offsets = self._run, self._offsets
        if not entries:
            return
        first = 0
        try:
            for batch in decode_entries(entries):
                stop = offsets[first + batch.count] if first + batch.count < len(offsets) else end
                self._sink.entries(segment, batch, offsets[first], stop - offsets[first], self._crcs[first])
                segment.last_index = max(segment.last_index, batch.last)
                self._out.last_index = batch.last
                first += batch.count
        except MalformedMessage as error:
            where = f"{self._files.root}/{segment.name}"
            raise CorruptionError(str(error), file=where, offset=offsets[first]) from None
        self._run, self._offsets, self._crcs = [], [], []


def _decode(record: memoryview) -> tuple[int, int, bytes | None]:
    """(type, crc, data) of a walpb.Record; etcd writes its fields in this order. Raises MalformedMessage."""
    end = len(record)
    if end < 4 or record[0] != 0x08 or record[2] != 0x10:
        return _decode_any(record)
    type_ = record[1]
    crc, at = read_varint(record, 3, end)
    if at == end:
        return type_, crc, None
    if record[at] != 0x1A:
        return _decode_any(record)
    length, at = read_varint(record, at + 1, end)
    if at + length != end:
        raise MalformedMessage("data that do not end with their record")
    return type_, crc, bytes(record[at:])


def _decode_any(record: memoryview) -> tuple[int, int, bytes | None]:
    values: dict[int, int | bytes] = dict(fields(record))
    data = values.get(3)
    return expect_int(values.get(1, 0)), expect_int(values.get(2, 0)), None if data is None else expect_bytes(data)


def decode_mark(data: bytes) -> SnapshotMetadata:
    """walpb.Snapshot. Raises MalformedMessage."""
    index = term = 0
    members = ConfState()
    for number, value in fields(data):
        if number == 1:
            index = expect_int(value)
        elif number == 2:
            term = expect_int(value)
        elif number == 3:
            members = ConfState.decode(expect_bytes(value))
    return SnapshotMetadata(members, index, term)


def decode_entries(entries: Sequence[bytes]) -> Iterator[EntryBatch]:
    """Batches of raftpb.Entry messages; a new one wherever the log was overwritten. Raises MalformedMessage."""
    parts: list[bytes | bytearray] = []
    for entry in entries:
        head = bytearray((0x3A,))
        append_varint(head, len(entry))
        parts += (head, entry)
    data = memoryview(b"".join(parts))
    at, end = 0, len(data)
    while at < end:
        batch, at = EntryBatch.decode_run(data, at, end)
        yield batch


def decode_records(data: bytes, where: str, offset: int, crc: int) -> list[EntryBatch]:
    """The entries of records that were read before, at `offset` of the file `where`; `crc` is the checksum before them. Raises
    CorruptionError, MalformedMessage."""
    entries, at, view = [], 0, memoryview(data)
    while at < len(data):
        size, padding = frame_size(LENGTH.unpack_from(data, at)[0])
        begin = at + LENGTH.size
        type_, expected, content = _decode(view[begin : begin + size])
        if type_ != ENTRY or content is None:
            raise MalformedMessage("a record that is no entry any more")
        crc = crc32c(content, crc)
        if crc != expected:
            raise CorruptionError("a damaged record", file=where, offset=offset + at, expected=expected, found=crc)
        entries.append(content)
        at = begin + size + padding
    return list(decode_entries(entries))


def _is_torn(data: memoryview, offset: int) -> bool:
    """Whether one of the sectors that `data`, at `offset` of its file, lies in is all zero there."""
    at = 0
    while at < len(data):
        stop = min(len(data), at + SECTOR - (offset + at) % SECTOR)
        if not any(data[at:stop]):
            return True
        at = stop
    return False


def missing(files: Files, segment: EtcdSegment, why: object) -> NoReturn:
    raise StorageError(f"{files.root}/{DIRECTORY}: a segment before {segment.sequence:016x} is missing: {why}")
