"""Operations on a list of contiguous batches: what the unstable log and `MemoryStorage` have in common.

A batch has one term, so a list of batches is a list of term runs: questions about terms cost a bisection, not a walk over entries.
None of these looks at a batch's `frames`.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from operator import attrgetter

from rafttoy.raft.entries import EntryBatch

__all__ = ["cut", "limit", "position", "total_count", "total_payload", "total_size"]

_FIRST = attrgetter("first")


def position(batches: Sequence[EntryBatch], index: int) -> int:
    """Which batch holds `index`, given batches[0].first <= index <= batches[-1].last."""
    if index >= batches[-1].first:  # by far the most asked for
        return len(batches) - 1
    return bisect_right(batches, index, key=_FIRST) - 1


def cut(batches: Sequence[EntryBatch], low: int, high: int) -> list[EntryBatch]:
    """The entries low <= index < high, all of which the batches hold; a new list."""
    if low >= high:
        return []
    newest = batches[-1]
    if low == newest.first and high == newest.last + 1:
        return [newest]
    start = position(batches, low)
    stop = position(batches, high - 1) + 1
    out = list(batches[start:stop])
    if out[0].first < low:
        out[0] = out[0].slice(low, out[0].last + 1)
    if out[-1].last >= high:
        out[-1] = out[-1].slice(out[-1].first, high)
    return out


def limit(batches: list[EntryBatch], max_bytes: int) -> list[EntryBatch]:
    """The longest prefix of at most `max_bytes`, but at least one entry."""
    room = max_bytes
    for i, batch in enumerate(batches):
        room -= batch.size
        if room < 0:
            count = batch.fit(room + batch.size)
            if i == 0 and count == 0:
                count = 1
            out = batches[:i]
            if count:
                out.append(batch.slice(batch.first, batch.first + count))
            return out
    return batches


def total_count(batches: Sequence[EntryBatch]) -> int:
    """How many entries contiguous batches hold."""
    return batches[-1].last + 1 - batches[0].first if batches else 0


def total_size(batches: Sequence[EntryBatch]) -> int:
    """Encoded bytes."""
    if len(batches) == 1:
        return batches[0].size
    size = 0
    for batch in batches:
        size += batch.size
    return size


def total_payload(batches: Sequence[EntryBatch]) -> int:
    """Data bytes: what the limit on uncommitted entries counts."""
    if len(batches) == 1:
        return batches[0].payload_bytes
    size = 0
    for batch in batches:
        size += batch.payload_bytes
    return size
