"""Entries travel in batches: a contiguous run of one term and one type, encoded once.

The bytes of a batch are `raftpb.Entry` messages, each framed as field 7 of `raftpb.Message` (`3a <length> <entry>`). The leader
encodes them when it assigns indexes; the same bytes go to its WAL, into every follower's message and into every follower's WAL.

    frame    3a  len  | 08 type | 10 term | 18 index | 22 len data          (gogoproto's field order; no data: no field 4)

Terms never decrease along a log, so one term a batch loses nothing: a run of several terms is several batches. Work per entry is
done by numpy, struct or join, or not at all. Frames of a batch are *uniform* (`stride`) unless payload lengths differ or the index
crosses a varint width (128, 16384, …); then `ends` holds where each frame ends.

Payload can be `Sized` (a model run moves no bytes): sizes are then exactly those of the encoded form.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from itertools import accumulate, chain, pairwise

import numpy as np

from rafttoy.errors import MalformedMessage
from rafttoy.ports import Buffer, Sized
from rafttoy.raft.protobuf import append_varint, read_varint, varint, varint_size

__all__ = [
    "CHUNK",
    "EntryBatch",
    "EntryType",
    "Payloads",
    "chunks",
    "entry_bytes",
    "entry_sizes",
]


class EntryType(IntEnum):
    """raftpb.EntryType."""

    NORMAL = 0
    CONF_CHANGE = 1
    CONF_CHANGE_V2 = 2


Heads = np.ndarray[tuple[int, int], np.dtype[np.uint8]]

_TYPES = tuple(EntryType)
_NORMAL = EntryType.NORMAL
_VECTOR_FROM = 20  # below this many entries a Python loop encodes faster than numpy, whose calls run on cold caches between batches
_COMPARE_FROM = 192  # and compares heads faster
_BLOCK = 16384  # entries whose heads are made together
_FEW = 1024  # the same for those that are handled as a list
CHUNK = 64
"""Entries that are taken apart at once."""
_VECTOR_TO = 1 << 56  # indexes whose varint fits into 8 bytes
_SHIFTS = [np.uint64(i) for i in range(8)]
_SEPTETS = [np.uint64(0x7F << 8 * i) for i in range(8)]
_CONTINUED = [sum(0x80 << 8 * i for i in range(width - 1)) for width in range(9)]


class Payloads:
    """Proposed data, not yet entries: `count` payloads one after another in `data`, each `stride` long, or `lengths` long."""

    __slots__ = ("count", "data", "lengths", "stride")

    def __init__(self, count: int, data: Buffer, stride: int = -1, lengths: Sequence[int] | None = None) -> None:
        assert count > 0
        assert (stride * count if lengths is None else sum(lengths)) == len(data)
        self.count, self.data, self.stride, self.lengths = count, data, stride, lengths

    @staticmethod
    def of(payloads: Sequence[bytes]) -> Payloads:
        lengths = [len(p) for p in payloads]
        if min(lengths) == max(lengths):
            return Payloads(len(payloads), b"".join(payloads), lengths[0])
        return Payloads(len(payloads), b"".join(payloads), lengths=lengths)

    @staticmethod
    def sized(count: int, stride: int) -> Payloads:
        return Payloads(count, Sized(count * stride), stride)

    @property
    def nbytes(self) -> int:
        return len(self.data)


def entry_sizes(term: int, index: int, length: int) -> tuple[int, int]:
    """(bytes of the raftpb.Entry, bytes of its frame) for one payload of `length` bytes."""
    entry = 4 + varint_size(term) + varint_size(index)
    if length:
        entry += 1 + varint_size(length) + length
    return entry, 1 + varint_size(entry) + entry


class EntryBatch:
    """`count` entries from index `first`, all of `term` and `type`. Immutable, but for `frames`, which a cache may evict.

    frames         the encoded entries; Sized in a model run; None while evicted (its owner knows where to read them)
    size           len(frames), known even while evicted
    stride         bytes of each frame, or 0 where they differ
    ends           where each frame ends within `frames`, or None where uniform
    payload_bytes  the sum of the entries' data lengths: what etcd/raft's size limits count
    """

    __slots__ = ("count", "ends", "first", "frames", "last", "payload_bytes", "size", "stride", "term", "type")

    def __init__(
        self,
        first: int,
        term: int,
        type: EntryType,
        count: int,
        frames: Buffer | None,
        size: int,
        payload_bytes: int,
        ends: Sequence[int] | None = None,
    ) -> None:
        self.first = first
        self.term = term
        self.type = type
        self.count = count
        self.last = first + count - 1
        self.frames = frames
        self.size = size
        self.payload_bytes = payload_bytes
        self.ends = ends
        self.stride = size // count if ends is None else 0

    # --- making ---

    @staticmethod
    def encode(first: int, term: int, type: EntryType, payloads: Payloads) -> EntryBatch:
        """Assigns indexes first, first + 1, … and encodes."""
        count, stride = payloads.count, payloads.stride
        if payloads.lengths is None and varint_size(first) == varint_size(first + count - 1):
            if isinstance(payloads.data, Sized):
                size = entry_sizes(term, first, stride)[1] * count
                return EntryBatch(first, term, type, count, Sized(size), size, payloads.nbytes)
            few = count < _VECTOR_FROM or first >= _VECTOR_TO
            frames = _encode_few(first, term, type, payloads) if few else _encode_uniform(first, term, type, payloads)
            return EntryBatch(first, term, type, count, frames, len(frames), payloads.nbytes)
        if payloads.lengths is None and count >= _VECTOR_FROM:
            return _encode_across(first, term, type, payloads)
        lengths = payloads.lengths if payloads.lengths is not None else [stride] * count
        if isinstance(payloads.data, Sized):
            sizes = [entry_sizes(term, first + i, n)[1] for i, n in enumerate(lengths)]
            return EntryBatch(first, term, type, count, Sized(sum(sizes)), sum(sizes), payloads.nbytes, _ends(sizes, first))
        parts: list[Buffer] = []
        sizes = []
        at = 0
        for index, length in enumerate(lengths, first):
            head = _frame_head(type, term, index, length)
            parts += (head, payloads.data[at : at + length])
            sizes.append(len(head) + length)
            at += length
        joined = b"".join(parts)  # type: ignore[arg-type]
        return EntryBatch(first, term, type, count, joined, len(joined), payloads.nbytes, _ends(sizes, first))

    @staticmethod
    def empty(first: int, term: int) -> EntryBatch:
        """The entry without data that a new leader appends (thesis §6.4)."""
        frames = _frame_head(EntryType.NORMAL, term, first, 0)
        return EntryBatch(first, term, EntryType.NORMAL, 1, frames, len(frames), 0)

    # --- cutting ---

    def slice(self, low: int, high: int) -> EntryBatch:
        """The entries low <= index < high, sharing the bytes."""
        if low <= self.first and high > self.last:
            return self
        a, b = max(low, self.first) - self.first, min(high, self.last + 1) - self.first
        assert a < b, (low, high, self)
        start, stop = self.offset(a), self.offset(b)
        ends = None if self.ends is None else _normal([end - start for end in self.ends[a:b]], self.first + a)
        frames = self.frames
        if frames is not None:
            frames = (memoryview(frames) if isinstance(frames, bytes) else frames)[start:stop]
        payload_bytes = (
            self.payload_bytes // self.count * (b - a) if self.ends is None else sum(self._lengths()[a:b]) if self.payload_bytes else 0
        )
        return EntryBatch(self.first + a, self.term, self.type, b - a, frames, stop - start, payload_bytes, ends)

    def with_frames(self, frames: Buffer | None) -> EntryBatch:
        """The same entries, with other bytes at hand (an evicted batch that was read back) or none (one that is evicted)."""
        return EntryBatch(self.first, self.term, self.type, self.count, frames, self.size, self.payload_bytes, self.ends)

    def offset(self, i: int) -> int:
        """Where the frame of the i-th entry begins; for i == count, where the last one ends."""
        if self.ends is None:
            return i * self.stride
        return self.ends[i - 1] if i else 0

    def fit(self, max_bytes: int) -> int:
        """How many leading entries have at most `max_bytes` of encoded bytes together."""
        if self.size <= max_bytes:
            return self.count
        if self.ends is None:
            return max_bytes // self.stride
        return sum(1 for end in self.ends if end <= max_bytes)

    def _lengths(self) -> list[int]:
        """Data length of each entry, from frame sizes."""
        return [_data_length(self.offset(i + 1) - self.offset(i), self.term, varint_size(self.first + i)) for i in range(self.count)]

    # --- reading ---

    def to_payloads(self) -> Payloads:
        """The data without their places in the log: what a leader encodes anew for a proposal that another node handed on."""
        if isinstance(self.frames, Sized):
            lengths = None if self.ends is None else self._lengths()
            return Payloads(self.count, Sized(self.payload_bytes), self.payload_bytes // self.count, lengths)
        if self.ends is not None:
            return Payloads.of(list(self.payloads()))
        assert self.frames is not None, "payload is not here"
        length = self.data_length
        columns = np.frombuffer(self.frames, dtype=np.uint8).reshape(self.count, self.stride)[:, self.stride - length :]
        return Payloads(self.count, columns.tobytes(), length)

    def uniform_runs(self) -> Iterator[EntryBatch]:
        """This batch in pieces of uniform frames, in order: what vector code takes."""
        if self.ends is None:
            yield self
            return
        sizes = [end - start for start, end in pairwise((0, *self.ends))]
        start = 0
        for i in range(1, self.count + 1):
            if i == self.count or sizes[i] != sizes[start] or varint_size(self.first + i) != varint_size(self.first + start):
                yield self.slice(self.first + start, self.first + i)
                start = i

    @property
    def has_data(self) -> bool:
        return self.payload_bytes > 0

    @property
    def data_length(self) -> int:
        """Data length of each entry of a uniform batch."""
        assert self.ends is None
        return self.payload_bytes // self.count

    def payloads(self) -> Iterator[bytes]:
        """Each entry's data, in order (one by one: for configuration changes, tests and tools, not for hot paths)."""
        assert self.frames is not None and not isinstance(self.frames, Sized), "payload is not here"
        for i, length in enumerate(self._lengths()):
            end = self.offset(i + 1)
            yield bytes(self.frames[end - length : end])

    def __repr__(self) -> str:
        return f"EntryBatch({self.first}..{self.last} term {self.term} {self.type.name.lower()} {self.size} B)"

    # --- decoding ---

    @staticmethod
    def decode(data: Buffer, at: int, end: int) -> tuple[list[EntryBatch], int]:
        """Batches from the frames that stand at data[at:end], up to the first byte that begins no frame; and that offset.

        Checks every frame's bounds, type, term and index. Raises MalformedMessage on a bad frame or on indexes with a gap."""
        batches: list[EntryBatch] = []
        view = data if isinstance(data, memoryview) else memoryview(data)  # type: ignore[arg-type]
        while at < end and view[at] == 0x3A:
            batch, at = _decode_run(view, at, end, placed=not batches or batches[-1].term > 0)
            if batches:
                if batch.first != batches[-1].last + 1:
                    raise MalformedMessage(f"entry {batch.first} follows entry {batches[-1].last}")
                if batch.term < batches[-1].term:
                    raise MalformedMessage(f"entry {batch.first} has term {batch.term} after term {batches[-1].term}")
            batches.append(batch)
        return batches, at

    @staticmethod
    def decode_expected(data: bytes, at: int, end: int, first: int, term: int) -> EntryBatch | None:
        """The batch that data[at:end] is, if it is one as `encode` makes them, of `term` and from index `first`: what an append mostly
        carries. None for anything else, which `decode` looks at field by field."""
        length, body = read_varint(data, at + 1, end)
        size = body + length - at
        shape = _shape(term, varint_size(first), size)
        if shape is None:
            return None
        before, behind, nbytes = shape
        head = before + varint(first) + behind
        count, rest = divmod(end - at, size)
        if rest or data[at : at + len(head)] != head:
            return None
        frames = memoryview(data)[at:end]
        if count > 1 and _count_uniform(frames, head, term, first, _NORMAL, nbytes) != count:
            return None
        return EntryBatch(first, term, _NORMAL, count, frames, end - at, count * nbytes)

    @staticmethod
    def decode_run(data: memoryview, at: int, end: int) -> tuple[EntryBatch, int]:
        """The longest batch that begins at data[at], which must begin a frame, and where it ends. Raises MalformedMessage."""
        return _decode_run(data, at, end)


def _normal(ends: list[int], first: int) -> list[int] | None:
    """None if these ends are those of a uniform batch from index `first`: frames of one size whose indexes have one width, and so
    data of one length (a wider index and shorter data can make up for each other)."""
    count = len(ends)
    uniform = varint_size(first) == varint_size(first + count - 1) and ends == [ends[0] * i for i in range(1, count + 1)]
    return None if uniform else ends


def _ends(sizes: Iterable[int], first: int) -> list[int] | None:
    return _normal(list(accumulate(sizes)), first)


def _frame_head(type: int, term: int, index: int, length: int) -> bytes:
    place = varint(index)
    before, behind = _around_index(type, term, len(place), length)
    return before + place + behind


@functools.lru_cache(maxsize=256)
def _shape(term: int, width: int, size: int) -> tuple[bytes, bytes, int] | None:
    """Of a frame of `size` bytes with data, of `term` and with an index of `width` bytes: what stands before the index and behind it, and
    how many bytes the data are. None if there is no such frame, and for a term that is none."""
    length = _data_length(size, term, width) if term else 0
    if length <= 0:
        return None
    before, behind = _around_index(int(_NORMAL), term, width, length)
    return (before, behind, length) if len(before) + width + len(behind) + length == size else None


def entry_bytes(size: int) -> int:
    """Bytes of the raftpb.Entry in a frame of `size` bytes."""
    entry = size - 2
    while 1 + varint_size(entry) + entry > size:
        entry -= 1
    return entry


def _data_length(size: int, term: int, width: int) -> int:
    """Bytes of data in a frame of `size` bytes, whose index takes `width`."""
    rest = entry_bytes(size) - 4 - varint_size(term) - width
    if rest <= 0:
        return rest
    data = rest - 2
    while 1 + varint_size(data) + data > rest:
        data -= 1
    return data


@functools.lru_cache(maxsize=64)
def _around_index(type: int, term: int, width: int, length: int) -> tuple[bytes, bytes]:
    """What stands before the index, `width` bytes, in the head of a frame, and what between it and the data."""
    behind = bytearray()
    if length:
        behind.append(0x22)
        append_varint(behind, length)
    entry = bytearray((0x08, type, 0x10))
    append_varint(entry, term)
    entry.append(0x18)
    before = bytearray((0x3A,))
    append_varint(before, len(entry) + width + len(behind) + length)
    return bytes(before + entry), bytes(behind)


def _few_heads(type: int, term: int, first: int, count: int, length: int) -> list[bytes]:
    """What `_heads` holds, one by one; at most `_FEW` and one more."""
    width = varint_size(first)
    number, at = divmod(first, _FEW)
    if first >= _VECTOR_TO:
        before, behind = _around_index(type, term, width, length)
        return [before + varint(i) + behind for i in range(first, first + count)]
    heads = _head_list(type, term, number, width, length)[at : at + count]
    return heads if len(heads) == count else heads + _head_list(type, term, number + 1, width, length)[: count - len(heads)]


@functools.lru_cache(maxsize=16)
def _head_list(type: int, term: int, number: int, width: int, length: int) -> list[bytes]:
    """The heads of a small block of indexes, as `_head_block` has them of a large one."""
    heads = _make_heads(type, term, number * _FEW, _FEW, width, length)
    return [*chain.from_iterable(chunks(heads.tobytes(), _FEW, 0, heads.shape[1]))]


def _encode_few(first: int, term: int, type: EntryType, payloads: Payloads) -> bytes:
    data, stride, count = payloads.data, payloads.stride, payloads.count
    if count == 1:
        return b"".join((_frame_head(type, term, first, stride), data))  # type: ignore[arg-type]
    heads = _few_heads(int(type), term, first, count, stride)
    if not stride:
        return b"".join(heads)
    return b"".join(chain.from_iterable(zip(heads, chain.from_iterable(chunks(data, count, 0, stride)), strict=True)))


def chunks(data: Buffer, count: int, before: int, taken: int, behind: int = 0) -> Iterator[tuple[bytes, ...]]:
    """`data` begins with `count` pieces of before + taken + behind bytes: what is in the middle of each, up to `CHUNK` at a time. No Python
    a piece, and a struct of many is three times as fast as one for each."""
    for at in range(0, count, CHUNK):
        yield _chunk(min(count - at, CHUNK), before, taken, behind).unpack_from(data, at * (before + taken + behind))  # type: ignore[arg-type]


@functools.lru_cache(maxsize=512)
def _chunk(count: int, before: int, taken: int, behind: int) -> struct.Struct:
    return struct.Struct(f"{before}x{taken}s{behind}x" * count)


def _encode_uniform(first: int, term: int, type: EntryType, payloads: Payloads) -> memoryview:
    count, stride = payloads.count, payloads.stride
    heads = _heads(type, term, first, count, stride)
    width = heads.shape[1]
    out = np.empty((count, width + stride), dtype=np.uint8)
    out[:, :width] = heads
    out[:, width:] = np.frombuffer(payloads.data, dtype=np.uint8).reshape(count, stride)  # type: ignore[arg-type]
    return out.reshape(-1).data


def _encode_across(first: int, term: int, type: EntryType, payloads: Payloads) -> EntryBatch:
    """Payloads of one length at indexes that change their width: at 128, at 16384, … Two uniform halves."""
    count, stride = payloads.count, payloads.stride
    split = (1 << 7 * varint_size(first)) - first
    low = EntryBatch.encode(first, term, type, Payloads(split, payloads.data[: split * stride], stride))
    high = EntryBatch.encode(first + split, term, type, Payloads(count - split, payloads.data[split * stride :], stride))
    size = low.size + high.size
    frames: Buffer = Sized(size) if isinstance(payloads.data, Sized) else b"".join((low.frames, high.frames))  # type: ignore[arg-type]
    behind = range(high.stride, high.size + 1, high.stride) if high.ends is None else high.ends
    ends = [*range(low.stride, low.size + 1, low.stride), *[low.size + end for end in behind]]
    return EntryBatch(first, term, type, count, frames, size, payloads.nbytes, ends)


def _heads(type: EntryType, term: int, first: int, count: int, length: int) -> Heads:
    """(count, bytes of a head): what stands before the data of the frames of `count` entries from index `first`, whose varints have one
    width. Shared with other callers: not to be written to."""
    width = varint_size(first)
    number, at = divmod(first, _BLOCK)
    if at + count <= _BLOCK:
        return _head_block(int(type), term, number, width, length)[at : at + count]
    return _make_heads(int(type), term, first, count, width, length)


@functools.lru_cache(maxsize=16)
def _head_block(type: int, term: int, number: int, width: int, length: int) -> Heads:
    """The heads of a whole block of indexes (garbage for those of another width, which nobody asks for): a log is encoded, sent and
    decoded in order, so that one block serves thousands of entries."""
    return _make_heads(type, term, number * _BLOCK, _BLOCK, width, length)


def _make_heads(type: int, term: int, first: int, count: int, width: int, length: int) -> Heads:
    head = _frame_head(type, term, (1 << 7 * (width - 1)) if width > 1 else 1, length)  # any index of that width
    out = np.empty((count, len(head)), dtype=np.uint8)
    out[:] = np.frombuffer(head, dtype=np.uint8)
    at = len(head) - width - (1 + varint_size(length) if length else 0)
    out[:, at : at + width] = _index_varints(first, count, width)
    return out


def _index_varints(first: int, count: int, width: int) -> Heads:
    """(count, width): the varints of first, first + 1, … (all of one width, at most 8)."""
    indexes = np.arange(first, first + count, dtype="<u8")
    varints = indexes & _SEPTETS[0]
    for i in range(1, width):  # the i-th septet moves i bits up, into its own byte
        varints |= (indexes << _SHIFTS[i]) & _SEPTETS[i]
    varints |= np.uint64(_CONTINUED[width])
    return varints.view(np.uint8).reshape(count, 8)[:, :width]


def _decode_frame(view: memoryview, at: int, end: int) -> tuple[int, int, int, int, int, bool]:
    """One frame: (type, term, index, data length, frame end, whether it is as we encode them)."""
    length, body = read_varint(view, at + 1, end)
    stop = body + length
    if stop > end:
        raise MalformedMessage(f"entry of {length} bytes passes the end of its message")
    type_ = term = index = size = 0
    pos = body
    if length > 8 and view[pos] == 0x08 and view[pos + 2] == 0x10 and view[pos + 4] == 0x18 and view[pos + 1] | view[pos + 3] < 0x80:
        type_, term = view[pos + 1], view[pos + 3]
        index, behind = read_varint(view, pos + 5, stop)
        if behind < stop and view[behind] == 0x22:
            size, begin = read_varint(view, behind + 1, stop)
            if begin + size == stop and view[body - 1] and view[behind - 1] and view[begin - 1]:  # no varint longer than it need be
                return type_, term, index, size, stop, True
        type_ = term = index = size = 0
    while pos < stop:
        tag = view[pos]
        if tag == 0x22:
            size, pos = read_varint(view, pos + 1, stop)
            pos += size
            if pos > stop:
                raise MalformedMessage("entry data pass the end of the entry")
        elif tag in (0x08, 0x10, 0x18):
            value, pos = read_varint(view, pos + 1, stop)
            if tag == 0x08:
                type_ = value
            elif tag == 0x10:
                term = value
            else:
                index = value
        else:
            raise MalformedMessage(f"unknown field {tag:#x} in an entry")
    return type_, term, index, size, stop, False


def _decode_run(view: memoryview, at: int, end: int, *, placed: bool = True) -> tuple[EntryBatch, int]:
    """The longest batch that begins at `at`. Entries of a proposal that was handed on to the leader have no place yet: term 0, and
    indexes that count from 0; `placed` tells that this is not the continuation of such a one."""
    type_, term, index, length, stop, ours = _decode_frame(view, at, end)
    if type_ >= len(_TYPES):
        raise MalformedMessage(f"unknown entry type {type_}")
    if (term == 0) != (index == 0) and (term or placed):
        raise MalformedMessage(f"entry with term {term}, index {index}")
    kind = _TYPES[type_]
    size = stop - at
    if ours and stop == end:
        return EntryBatch(index, term, kind, 1, view[at:stop], size, length), stop
    head = _frame_head(kind, term, index, length)
    if len(head) + length != size or view[at : at + len(head)] != head:
        # Another encoder's order, or varints longer than they need be: encode it ourselves, so that a batch has one form.
        return EntryBatch.encode(index, term, kind, Payloads(1, _field4(view, at, end), length)), stop
    behind = at + size
    if end - behind < size or view[behind : behind + len(head)] != _frame_head(kind, term, index + 1, length):  # one by itself
        return EntryBatch(index, term, kind, 1, view[at:behind], size, length), behind
    count = _count_uniform(view[at:end], head, term, index, kind, length)
    total = count * size
    return EntryBatch(index, term, kind, count, view[at : at + total], total, count * length), at + total


def _field4(view: memoryview, at: int, end: int) -> bytes:
    length, pos = read_varint(view, at + 1, end)
    stop, data = pos + length, b""
    while pos < stop:
        tag = view[pos]
        value, pos = read_varint(view, pos + 1, stop)
        if tag == 0x22:
            data = bytes(view[pos : pos + value])
            pos += value
    return data


def _count_uniform(view: memoryview, head: bytes, term: int, index: int, kind: EntryType, length: int) -> int:
    """How many frames of `view`, which begins with `head`, have its size, type, term and data length, and consecutive indexes of one
    width. Looks at four times as many each time, so a run costs by its own length, not by what comes behind it."""
    size = len(head) + length
    most = min(len(view) // size, (1 << 7 * varint_size(index)) - index)
    if most < _COMPARE_FROM or index >= _VECTOR_TO:
        found = [*chain.from_iterable(chunks(view, most, 0, len(head), length))]
        expected = _few_heads(int(kind), term, index, most, length)
        if found == expected:
            return most
        return next(i for i, (theirs, ours) in enumerate(zip(found, expected, strict=True)) if theirs != ours)
    count, some = 1, 256
    while count < most and view[count * size] == 0x3A:
        some = min(some, most - count)
        start = count * size
        heads = np.frombuffer(view[start : start + some * size], dtype=np.uint8).reshape(some, size)[:, : len(head)]
        wrong = heads != _heads(kind, term, index + count, some, length)
        if wrong.any():
            return count + int(wrong.any(axis=1).argmax())
        count += some
        some *= 4
    return count
