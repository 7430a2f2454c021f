"""From committed entries to keys and values, without touching an entry in Python where they are alike.

The data of an entry is a proposal: `int64 id, int64 key length, key, int64 value length, value`, little endian. Batches are uniform in
data length; those that are so in key length too (all that a workload makes) are taken apart by one compiled `struct`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from functools import lru_cache

import numpy as np

from rafttoy.errors import MalformedMessage
from rafttoy.ports import Sized
from rafttoy.raft.entries import EntryBatch

__all__ = ["DATA_PREFIX", "OVERHEAD_BYTES", "Pair", "pairs"]

Pair = tuple[bytes, bytes]

OVERHEAD_BYTES = 24
"""What the encoding adds to key and value."""

DATA_PREFIX = 0x01
"""Every key begins with it: what a store keeps for itself lies outside."""

_LENGTHS = struct.Struct("<8xq")
_LENGTH = struct.Struct("<q")
_VECTOR_FROM = 8


@lru_cache(maxsize=64)
def _frame(head: int, key: int, value: int) -> struct.Struct:
    """A frame of `head` bytes, then the proposal."""
    return struct.Struct(f"<{head + 16}x{key}s8x{value}s")


def pairs(batch: EntryBatch) -> Iterator[tuple[Iterable[Pair] | None, int, int]]:
    """(key-value pairs, how many, bytes of keys and values) of a resident batch with data, in order; no pairs where it is Sized.

    Raises MalformedMessage for data that is no proposal: who proposed it is no client of ours."""
    if isinstance(batch.frames, Sized):
        yield None, batch.count, batch.payload_bytes - OVERHEAD_BYTES * batch.count
        return
    for run in batch.uniform_runs():
        if run.has_data:
            yield _uniform(run)


def _uniform(run: EntryBatch) -> tuple[Iterable[Pair], int, int]:
    frames, count, stride, data = run.frames, run.count, run.stride, run.payload_bytes // run.count
    assert frames is not None
    assert not isinstance(frames, Sized)
    head = stride - data
    total = data - OVERHEAD_BYTES
    if total < 0:
        raise MalformedMessage(f"entry {run.first}: {data} bytes are no proposal")
    (key,) = _LENGTHS.unpack_from(frames, head)
    if not 0 < key <= total:
        raise MalformedMessage(f"entry {run.first}: a key of {key} bytes in {data}")
    if count < _VECTOR_FROM:
        alike = all(_is_proposal(frames, head + i * stride, key, total - key) for i in range(count))
    else:
        alike = (
            _column(frames, head + 8, count, stride, key)
            and _column(frames, head + 16 + key, count, stride, total - key)
            and bytes(memoryview(frames)[head + 16 :: stride]) == bytes((DATA_PREFIX,)) * count
        )
    if alike:
        return _frame(head, key, total - key).iter_unpack(frames), count, total * count
    return [_one(run.first + i, bytes(frames[i * stride + head : (i + 1) * stride])) for i in range(count)], count, total * count


def _is_proposal(frames: bytes | bytearray | memoryview, at: int, key: int, value: int) -> bool:
    return (
        _LENGTHS.unpack_from(frames, at)[0] == key
        and _LENGTH.unpack_from(frames, at + 16 + key)[0] == value
        and frames[at + 16] == DATA_PREFIX
    )


def _column(frames: bytes | bytearray | memoryview, at: int, count: int, stride: int, expected: int) -> bool:
    """Whether the int64 at `at` of every frame is `expected`."""
    return bool((np.ndarray((count,), dtype="<i8", buffer=frames, offset=at, strides=(stride,)) == expected).all())


def _one(index: int, data: bytes) -> Pair:
    (key,) = _LENGTHS.unpack_from(data)
    value = len(data) - OVERHEAD_BYTES - key
    if not 0 < key <= len(data) - OVERHEAD_BYTES or _LENGTH.unpack_from(data, 16 + key)[0] != value or data[16] != DATA_PREFIX:
        raise MalformedMessage(f"entry {index}: {len(data)} bytes that are no proposal")
    return data[16 : 16 + key], data[24 + key :]
