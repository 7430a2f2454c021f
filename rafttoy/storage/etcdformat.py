"""The bytes of etcd's WAL (etcd v3, server/storage/wal), so that etcd's own tools read ours and ours read theirs.

    frame    int64 length, little endian | record | padding to 8 bytes
             low 56 bits: the record's bytes; top byte: 0x80 | padding, where there is any

    record   walpb.Record     08 type | 10 crc | 1a len data        (no data: no field 3)
    types    1 metadata   2 raftpb.Entry   3 raftpb.HardState   4 crc   5 walpb.Snapshot

The checksum is CRC-32C over the data of all records so far, across segments: each opens with a crc record that hands it on. Lengths
are aligned, so a length is never torn.

An `EntryBatch` frames its entries as a message does (`3a len entry`); here each entry is a record, with a checksum of its own that
depends on the one before. That is a loop by nature: it runs in C (`accumulate` over `unpack`); the headers of few are joined, and of many
written by numpy.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate, chain

import google_crc32c
import numpy as np

from rafttoy.ports import Buffer, Sized
from rafttoy.raft.entries import CHUNK, EntryBatch, chunks, entry_bytes
from rafttoy.raft.protobuf import append_varint, put_bytes, put_uint, varint_size
from rafttoy.raft.types import SnapshotMetadata
from rafttoy.storage.checksum import crc32c

__all__ = [
    "BUFFER_BYTES",
    "CRC",
    "ENTRY",
    "LENGTH",
    "METADATA",
    "SECTOR",
    "SNAPSHOT",
    "STATE",
    "encode_entries",
    "encode_mark",
    "encode_record",
    "frame_size",
    "handed_over",
]

METADATA, ENTRY, STATE, CRC, SNAPSHOT = range(1, 6)
SECTOR = 512
BUFFER_BYTES = 128 << 10
"""What etcd's page writer holds back of a save until it is synced."""
_PAGE = 4096
LENGTH = struct.Struct("<q")
_UNSIGNED = struct.Struct("<Q")
_PADS = [bytes(n) for n in range(8)]
_extend = google_crc32c.extend

_VECTOR_FROM = 512  # below this many entries, on cold caches, numpy is no faster
_LARGE = 8 << 10  # from here on, copying an entry costs more than handling it by itself


def frame_size(field: int) -> tuple[int, int]:
    """(bytes of the record, bytes of padding) that a length field tells; the field as it was read, signed."""
    unsigned = field & (1 << 64) - 1
    return unsigned & (1 << 56) - 1, unsigned >> 56 & 7 if field < 0 else 0


def _length(size: int) -> bytes:
    padding = -size % 8
    return _UNSIGNED.pack(size | (0x80 | padding) << 56 if padding else size)


def encode_record(type: int, data: Buffer | None, crc: int) -> tuple[bytes, int]:
    """(frame, checksum after it) of one record; `crc` is the checksum before it. None differs from no bytes, as in etcd."""
    if data is not None:
        crc = crc32c(data, crc)
    head = bytearray((0x08, type))
    put_uint(head, 2, crc)
    if data is not None:
        put_bytes(head, 3, data)
    return b"".join((_length(len(head)), head, _PADS[-len(head) % 8])), crc


def encode_mark(mark: SnapshotMetadata) -> bytes:
    """walpb.Snapshot: index, term, and the members where there are any."""
    out = bytearray()
    put_uint(out, 1, mark.index)
    put_uint(out, 2, mark.term)
    members = mark.conf_state.encode()
    if members != b"\x28\x00":  # not those of an empty ConfState
        put_bytes(out, 3, members)
    return bytes(out)


def encode_entries(batch: EntryBatch, crc: int) -> tuple[list[Buffer], int, int]:
    """(buffers, their bytes, checksum after them): one record an entry."""
    if isinstance(batch.frames, Sized):
        size = sum(_sized(run) for run in batch.uniform_runs())
        return [Sized(size)], size, crc
    buffers: list[Buffer] = []
    size = 0
    for run in batch.uniform_runs():
        parts, length, crc = (_large if run.stride >= _LARGE else _joined if run.count < _VECTOR_FROM else _vector)(run, crc)
        buffers += parts
        size += length
    return buffers, size, crc


def _sized(run: EntryBatch) -> int:
    entry = entry_bytes(run.stride)
    record = 3 + 5 + 1 + varint_size(entry) + entry
    return run.count * (LENGTH.size + record + -record % 8)


def _head(entry: int, crc: int) -> tuple[bytes, int]:
    """(what precedes an entry of `entry` bytes, bytes of padding behind it)."""
    head = bytearray((0x08, ENTRY, 0x10))
    append_varint(head, crc)
    head.append(0x1A)
    append_varint(head, entry)
    size = len(head) + entry
    return _length(size) + head, -size % 8


@lru_cache(maxsize=64)
def _usual(entry: int) -> tuple[bytes, bytes, bytes]:
    """(what precedes a checksum of five bytes, what stands between it and an entry of `entry` bytes, padding)."""
    head, padding = _head(entry, _FIVE_FROM)
    return head[:_CRC_AT], head[_CRC_AT + 5 :], _PADS[padding]


def _large(run: EntryBatch, crc: int) -> tuple[list[Buffer], int, int]:
    """Entries that are not copied."""
    entry, stride = entry_bytes(run.stride), run.stride
    view = memoryview(run.frames)  # type: ignore[arg-type]
    parts: list[Buffer] = []
    size = 0
    for end in range(stride, stride * run.count + 1, stride):
        data = view[end - entry : end]
        crc = crc32c(data, crc)
        head, padding = _head(entry, crc)
        parts += (head, data, _PADS[padding])
        size += len(head) + entry + padding
    return parts, size, crc


def _joined(run: EntryBatch, crc: int) -> tuple[list[Buffer], int, int]:
    """Few at a time, so that the next ones find the memory of the last ones in the caches. The usual checksum takes five bytes as a
    varint; one in sixteen is shorter and its record made by itself."""
    entry = entry_bytes(run.stride)
    before, between, padding = _usual(entry)
    usual = len(before) + 5 + len(between) + entry + len(padding)
    buffers: list[Buffer] = []
    size = run.count * usual
    assert run.frames is not None
    for entries in chunks(run.frames, run.count, run.stride - entry, entry):
        count = len(entries)
        sums = list(accumulate(entries, _extend, initial=crc))
        crc = sums[-1]
        varints = _varints(sums[1:])
        parts = [before, b"", between, b"", padding] * count
        parts[1::5] = next(chunks(varints, count, 0, 5, 3))
        parts[3::5] = entries
        last_bytes = varints[4::8]
        at = last_bytes.find(0)
        while at >= 0:
            head, pad = _head(entry, sums[at + 1])
            parts[5 * at : 5 * at + 3] = head, b"", b""
            parts[5 * at + 4] = _PADS[pad]
            size += len(head) + entry + pad - usual
            at = last_bytes.find(0, at + 1)
        buffers.append(b"".join(parts))
    return buffers, size, crc


def _varints(sums: Sequence[int]) -> bytes:
    """Checksums as varints of five bytes, each in eight bytes: all in one long integer, whose septets move at once. The fifth byte of one
    that takes fewer is 0."""
    masks, continued, packed = _lanes(len(sums))
    many = int.from_bytes(packed.pack(*sums), "little")
    moved = 0
    for shift, mask in enumerate(masks):
        moved |= (many & mask) << shift
    return (moved | continued).to_bytes(packed.size, "little")


@lru_cache(maxsize=CHUNK)
def _lanes(count: int) -> tuple[list[int], int, struct.Struct]:
    """(masks of the septets, bits that tell of another byte, what packs) for `count` numbers of eight bytes."""
    one = int.from_bytes(_UNSIGNED.pack(1) * count, "little")
    return [(0x7F << 7 * i & 0xFFFFFFFF) * one for i in range(5)], 0x80808080 * one, struct.Struct(f"<{count}Q")


def _vector(run: EntryBatch, crc: int) -> tuple[list[Buffer], int, int]:
    """As `_joined`. Records whose checksum takes five bytes are rows of one matrix. One in sixteen is a byte shorter: a row too, if
    padding makes up for it. Any other one is made by itself and stands between the rows."""
    entry, count = entry_bytes(run.stride), run.count
    head = run.stride - entry
    assert run.frames is not None
    sums = list(accumulate(chain.from_iterable(chunks(run.frames, count, head, entry)), _extend, initial=crc))
    crcs = np.fromiter(sums, dtype=np.uint32, count=count + 1)[1:]
    template, padding = _head(entry, 0xFFFFFFFF)
    begin, row = len(template), len(template) + entry + padding
    rows = np.empty((count, row), dtype=np.uint8)
    entries = np.frombuffer(run.frames, dtype=np.uint8).reshape(count, run.stride)[:, head:]  # type: ignore[arg-type]
    rows[:, begin : begin + entry] = entries
    rows[:, begin + entry :] = 0
    rows[:, :begin] = np.frombuffer(template, dtype=np.uint8)
    septets = (crcs[:, None] >> _SEPTETS).astype(np.uint8)
    septets[:, :4] |= np.uint8(0x80)
    rows[:, 11:16] = septets
    limit = 1 << 28
    if padding < 7:  # eight bytes of it are none
        shorter = np.flatnonzero(crcs < limit)
        rows[shorter, : begin - 1] = np.frombuffer(_head(entry, limit - 1)[0], dtype=np.uint8)
        septets[shorter, 3] &= np.uint8(0x7F)
        rows[shorter, 11:15] = septets[shorter, :4]
        rows[shorter, begin - 1 : begin - 1 + entry] = entries[shorter]
        rows[shorter, begin - 1 + entry :] = 0
        limit = 1 << 21
    flat = rows.reshape(-1).data
    buffers: list[Buffer] = []
    size = done = 0
    for i in np.flatnonzero(crcs < limit).tolist():
        if i > done:
            buffers.append(flat[done * row : i * row])
        short, padding = _head(entry, sums[i + 1])
        buffers += (short, entries[i].data, _PADS[padding])
        size += len(short) + entry + padding - row
        done = i + 1
    if done < count:
        buffers.append(flat[done * row :])
    return buffers, size + count * row, sums[-1]


_FIVE_FROM = 1 << 28
"""From here on a checksum takes five bytes."""
_CRC_AT = 11
_SEPTETS = np.arange(0, 35, 7, dtype=np.uint32)


def handed_over(offset: int, buffers: Sequence[Buffer]) -> int:
    """Where the file would end that etcd's page writer has written to, before a sync, when it was given these records from `offset`
    on: it takes a record's length, then the rest, fills up to 128 KiB, and writes whole pages."""
    if any(isinstance(buffer, Sized) for buffer in buffers):
        return offset
    data = b"".join(buffers)  # type: ignore[arg-type]
    written, held, at = offset, 0, 0
    while at < len(data):
        size, padding = frame_size(LENGTH.unpack_from(data, at)[0])
        for piece in (LENGTH.size, size + padding):
            left = piece
            while left + held > BUFFER_BYTES:
                slack = -(written + held) % _PAGE
                if slack > left:
                    break
                written += held + slack
                left -= slack
                held = 0
                if left > _PAGE:
                    written += left // _PAGE * _PAGE
                    left %= _PAGE
            held += left
        at += LENGTH.size + size + padding
    return written
