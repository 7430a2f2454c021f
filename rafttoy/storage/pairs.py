"""From committed entries to keys and values, without touching an entry in Python where they are alike.

The data of an entry is a proposal: `int64 id, int64 key length, key, int64 value length, value`, little endian. Batches are uniform in
data length; those that are so in key length too (all that a workload makes) are taken apart by one compiled `struct`.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache

import numpy as np

from rafttoy.errors import MalformedMessage
from rafttoy.ports import Sized
from rafttoy.raft.entries import EntryBatch

__all__ = ["DATA_PREFIX", "OVERHEAD_BYTES", "Pair", "pairs"]

Pair = tuple[bytes, bytes]
_Taken = tuple[Iterable[Pair] | None, int, int]

OVERHEAD_BYTES = 24
"""What the encoding adds to key and value."""

DATA_PREFIX = 0x01
"""Every key begins with it: what a store keeps for itself lies outside."""

_LENGTHS = struct.Struct("<8xq")
_LENGTH = struct.Struct("<q")
_VECTOR_FROM = 256  # below that many, on cold caches, numpy is no faster


@lru_cache(maxsize=64)
def _taken_apart(head: int, key: int, value: int) -> tuple[struct.Struct, struct.Struct]:
    """A frame of `head` bytes, then the proposal: (its key and value; length of the key, first byte of the key, length of the value)."""
    return struct.Struct(f"<{head + 16}x{key}s8x{value}s"), struct.Struct(f"<{head + 8}xqB{key - 1}xq{value}x")


def pairs(batch: EntryBatch) -> Sequence[_Taken]:
    """(key-value pairs, how many, bytes of keys and values) of a resident batch with data, in order; no pairs where it is Sized.

    Raises MalformedMessage for data that is no proposal: who proposed it is no client of ours."""
    if isinstance(batch.frames, Sized):
        return ((None, batch.count, batch.payload_bytes - OVERHEAD_BYTES * batch.count),)
    if batch.ends is None:
        return (_uniform(batch),) if batch.payload_bytes else ()
    return [_uniform(run) for run in batch.uniform_runs() if run.has_data]


def _uniform(run: EntryBatch) -> _Taken:
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
    value = total - key
    content, rest = _taken_apart(head, key, value)
    if count < _VECTOR_FROM:
        alike = list(rest.iter_unpack(frames)) == [(key, DATA_PREFIX, value)] * count
    else:
        alike = (
            _column(frames, head + 8, count, stride, key)
            and _column(frames, head + 16 + key, count, stride, value)
            and bytes(memoryview(frames)[head + 16 :: stride]) == bytes((DATA_PREFIX,)) * count
        )
    if alike:
        return content.iter_unpack(frames), count, total * count
    return [_one(run.first + i, bytes(frames[i * stride + head : (i + 1) * stride])) for i in range(count)], count, total * count


def _column(frames: bytes | bytearray | memoryview, at: int, count: int, stride: int, expected: int) -> bool:
    """Whether the int64 at `at` of every frame is `expected`."""
    return bool((np.ndarray((count,), dtype="<i8", buffer=frames, offset=at, strides=(stride,)) == expected).all())


def _one(index: int, data: bytes) -> Pair:
    (key,) = _LENGTHS.unpack_from(data)
    value = len(data) - OVERHEAD_BYTES - key
    if not 0 < key <= len(data) - OVERHEAD_BYTES or _LENGTH.unpack_from(data, 16 + key)[0] != value or data[16] != DATA_PREFIX:
        raise MalformedMessage(f"entry {index}: {len(data)} bytes that are no proposal")
    return data[16 : 16 + key], data[24 + key :]
