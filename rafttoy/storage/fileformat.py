"""The bytes of `--wal file`: segments of blocks, groups of batches.

A segment `wal/<sequence>.wal` (%016x) is written in blocks of 4 KiB and has its full size from the start. A *group* is what one write
and one sync made durable. It begins at a block, so that no write ever touches a block that holds durable data (a torn one can damage
nothing that was acknowledged), and no page has to be read before it is written.

    block 0                block 1                         block n
    +-------------------+  +--------+--------+-----------+  +--------+----
    | segment header    |  | header | table  | frames …  |  | next group …
    +-------------------+  +--------+--------+-----------+  +--------+----

    segment header, 32 bytes:      0 "rafttoyW"   8 u32 format   12 u32 crc32c of what follows   16 u64 sequence   24 u64 bytes
    group header, 88 bytes:        0 u32 "RFTG"   4 u32 crc32c of the rest of the header         8 u32 crc32c of table, mark and frames
                                  12 u32 flags   16 u64 sequence of the segment                 24 u64 number of the group
                                  32 u64 durable 40 u32 batches   44 u32 bytes of the mark       48 u64 bytes of frames
                                  56 u64 term    64 u64 vote      72 u64 commit                  80 u64 0
    table, 40 bytes a batch:       0 u64 first index   8 u64 term   16 u32 type, and the top bit if all frames have one length
                                  20 u32 count  24 u64 bytes of the frames     32 u64 payload bytes

All little endian. Why it can be trusted after a crash:

- Segments are recycled, so what follows the last group may be an older use of the file: its groups carry another sequence.
- Every group has the hard state as of then, so the last group is enough.
- `durable` is the number of the newest group known durable when this one was written. A damaged group n is *torn* (never
  acknowledged) unless a later intact group has durable >= n: then it was acknowledged once, and the log is *corrupt*.
- A writer goes on behind the last group only if no group of this segment lies beyond it; otherwise it takes a new segment, so that
  what a crash left there can never be mistaken for its own.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from rafttoy.errors import MalformedMessage
from rafttoy.ports import Buffer, Sized
from rafttoy.raft.entries import EntryBatch, EntryType
from rafttoy.raft.types import HardState, SnapshotMetadata
from rafttoy.storage.checksum import crc32c

__all__ = [
    "BLOCK",
    "GROUP_BYTES",
    "MAGIC",
    "START",
    "VERSION",
    "DamagedHeader",
    "Group",
    "body_checksum",
    "decode_body",
    "encode_group",
    "encode_segment",
    "join_ends",
    "padded",
    "read_group_header",
    "read_segment",
]

BLOCK = 4096
VERSION = 1
START = 1
"""Flag: the log begins with this group; what was written before does not count."""

_SEGMENT_MAGIC = b"rafttoyW"
_SEGMENT = struct.Struct("<8sII")
_SEGMENT_BODY = struct.Struct("<QQ")
MAGIC = 0x47544652  # "RFTG"
_PREFIX = struct.Struct("<II")
_GROUP = struct.Struct("<IIQQQIIQQQQQ")
_BATCH = struct.Struct("<QQIIQQ")
GROUP_BYTES = _PREFIX.size + _GROUP.size
_UNIFORM = 1 << 31
_PADDING = bytes(BLOCK)


@dataclass(frozen=True, slots=True)
class Group:
    """A decoded group header."""

    crc: int
    flags: int
    sequence: int
    number: int
    durable: int
    batches: int
    mark_bytes: int
    frames_bytes: int
    hard_state: HardState

    @property
    def frames_at(self) -> int:
        """Where frames begin, from the group's begin."""
        return GROUP_BYTES + self.batches * _BATCH.size + self.mark_bytes

    @property
    def size(self) -> int:
        """Without padding."""
        return self.frames_at + self.frames_bytes


def padded(size: int) -> int:
    return -(-size // BLOCK) * BLOCK


def encode_segment(sequence: int, size: int) -> bytes:
    """The first block of a segment."""
    body = _SEGMENT_BODY.pack(sequence, size)
    head = _SEGMENT.pack(_SEGMENT_MAGIC, VERSION, crc32c(body)) + body
    return head + bytes(BLOCK - len(head))


def read_segment(data: bytes) -> tuple[bool, int, int, int, int]:
    """(ours at all, format, sequence, checksum expected, checksum found) of a segment's first bytes."""
    if len(data) < _SEGMENT.size + _SEGMENT_BODY.size:
        return False, 0, 0, 0, 0
    magic, version, expected = _SEGMENT.unpack_from(data)
    body = data[_SEGMENT.size : _SEGMENT.size + _SEGMENT_BODY.size]
    return magic == _SEGMENT_MAGIC, version, _SEGMENT_BODY.unpack(body)[0], expected, crc32c(body)


def encode_group(
    sequence: int,
    number: int,
    durable: int,
    flags: int,
    entries: Sequence[EntryBatch],
    hard_state: HardState,
    mark: bytes,
) -> tuple[list[Buffer], int]:
    """(buffers of a group, their bytes: a whole number of blocks)."""
    table = b"".join([_BATCH.pack(b.first, b.term, _form(b), b.count, b.size, b.payload_bytes) for b in entries]) + mark
    crc = crc32c(table)
    frames: list[Buffer] = []
    size = 0
    for batch in entries:
        data = batch.frames
        assert data is not None, "an evicted batch was written before"
        frames.append(data)
        size += batch.size
        crc = crc32c(data, crc)
    state = hard_state
    body = _GROUP.pack(crc, flags, sequence, number, durable, len(entries), len(mark), size, state.term, state.vote, state.commit, 0)
    head = b"".join((_PREFIX.pack(MAGIC, crc32c(body)), body, table))
    size += len(head)
    rest = -size % BLOCK
    return [head, *frames, _PADDING[:rest]] if rest else [head, *frames], size + rest


def _form(batch: EntryBatch) -> int:
    return batch.type if batch.ends is not None else batch.type | _UNIFORM


class DamagedHeader(Exception):
    """A header of this segment with a wrong checksum. A header lies within one sector, which is written whole or not at all."""

    def __init__(self, expected: int, found: int) -> None:
        super().__init__(expected, found)
        self.expected, self.found = expected, found


def read_group_header(data: Buffer, at: int, sequence: int) -> Group | None:
    """The header at `at`, if one of segment `sequence` stands there. Raises DamagedHeader."""
    if isinstance(data, Sized) or len(data) - at < GROUP_BYTES:
        return None
    magic, expected = _PREFIX.unpack_from(data, at)
    if magic != MAGIC:
        return None
    body = bytes(data[at + _PREFIX.size : at + GROUP_BYTES])
    crc, flags, found_sequence, number, durable, batches, mark, size, term, vote, commit, _ = _GROUP.unpack(body)
    if found_sequence != sequence:
        return None
    if (found := crc32c(body)) != expected:
        raise DamagedHeader(expected, found)
    return Group(crc, flags, sequence, number, durable, batches, mark, size, HardState(term, vote, commit))


def decode_body(group: Group, data: memoryview) -> tuple[list[EntryBatch], SnapshotMetadata | None]:
    """(batches, mark) of a group whose bytes, header and all, are in `data` and whose checksum was compared. Raises MalformedMessage:
    then who wrote it erred."""
    table_end = GROUP_BYTES + group.batches * _BATCH.size
    mark = SnapshotMetadata.decode(bytes(data[table_end : group.frames_at])) if group.mark_bytes else None
    at = group.frames_at
    batches: list[EntryBatch] = []
    for i in range(group.batches):
        first, term, form, count, size, payload = _BATCH.unpack_from(data, GROUP_BYTES + i * _BATCH.size)
        frames = data[at : at + size]
        ends = None
        if not form & _UNIFORM:
            runs, end = EntryBatch.decode(frames, 0, size)
            if end != size or not runs or runs[0].first != first or runs[-1].last != first + count - 1:
                raise MalformedMessage(f"batch {i} of group {group.number} does not hold entries {first}..{first + count - 1}")
            ends = join_ends(runs)
        batches.append(EntryBatch(first, term, EntryType(form & ~_UNIFORM), count, frames, size, payload, ends))
        at += size
    return batches, mark


def join_ends(runs: Sequence[EntryBatch]) -> list[int] | None:
    """Where frames end within batches that lie one behind the other; None if all are alike."""
    if len(runs) == 1:
        return list(runs[0].ends) if runs[0].ends is not None else None
    ends, base = [], 0
    for run in runs:
        ends += [base + run.offset(i + 1) for i in range(run.count)]
        base += run.size
    return ends


def body_checksum(data: memoryview, group: Group) -> int:
    return crc32c(data[GROUP_BYTES : group.size])
