"""The message format between peers: the Go original's, so that either can read the other's bytes.

    RaftMsg     epoch = 1 (TestEpoch), msgs = 2 (repeated raftpb.Message), control = 15 (bytes; ours alone, skipped by others)
    TestEpoch   process_nanos = 1, bench_iter = 2

A `raftpb.Message` is a short header and then the frames of its entries as they stand in the log (field 7). Zero fields are left
out: proto2 reads them as zero. Concatenated RaftMsgs are read one by one: an epoch opens each.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from rafttoy.errors import MalformedMessage
from rafttoy.ports import Buffer, Packet, Sized
from rafttoy.raft import LOCAL_APPLY_THREAD, Message, MessageType, Snapshot
from rafttoy.raft.entries import EntryBatch
from rafttoy.raft.protobuf import append_varint, read_varint, varint

__all__ = ["MESSAGE_LIMIT_BYTES", "SERVICE", "Epoch", "RaftMsg", "decode", "encode"]

SERVICE = "/transportpb.RaftService/RaftMessage"
"""gRPC method on which RaftMsgs stream."""

MESSAGE_LIMIT_BYTES = 64 << 20
"""Longest RaftMsg that a peer takes."""

_TYPES = tuple(MessageType)


class Epoch(NamedTuple):
    """A run of the group. A newer one makes a peer drop its state; messages of older ones are ignored."""

    process_nanos: int = 0
    bench_iter: int = 0

    def __str__(self) -> str:
        return f"{self.process_nanos}/{self.bench_iter}"


class RaftMsg(msgspec.Struct, frozen=True, gc=False):
    epoch: Epoch
    messages: Sequence[Message]
    control: bytes = b""


def encode(epoch: Epoch, messages: Sequence[Message], control: bytes = b"", *, by_reference: bool = False) -> Packet:
    """One packet for one peer. With `by_reference`, or where an entry's payload is Sized, it carries the messages themselves
    beside their exact size. Every batch's frames must be resident."""
    head = _epoch_field(epoch)
    parts: list[Buffer] = [head]
    size = len(head)
    virtual = by_reference
    for message in messages:
        opening = _opening(message.type, message.to, message.from_, message.term)
        marks = _marks(message.log_term, message.index, message.commit)
        if message.reject or message.reject_hint or message.context or message.vote or message.snapshot is not None:
            marks += _seldom(message)
        nbytes = len(opening) + len(marks)
        place = len(parts)
        parts += (b"", opening, marks)
        for batch in message.entries:
            frames = batch.frames
            assert frames is not None, "evicted entries are loaded before they are sent"
            if type(frames) is Sized:
                virtual = True
            nbytes += batch.size
            parts.append(frames)
        length = parts[place] = _length(nbytes)
        size += len(length) + nbytes
    if control:
        tail = b"".join((b"\x7a", varint(len(control)), control))
        parts.append(tail)
        size += len(tail)
    return Packet(parts, size, RaftMsg(epoch, messages, control) if virtual else None)


@functools.lru_cache(maxsize=1024)
def _length(size: int) -> bytes:
    """What opens field 2 of a RaftMsg, a message of `size` bytes."""
    return b"\x12" + varint(size)


@functools.lru_cache(maxsize=8)
def _marks(log_term: int, index: int, commit: int) -> bytes:
    """Fields of a raftpb.Message that are the same for all followers who are sent the same."""
    out = b"\x28" + varint(log_term) if log_term else b""
    if index:
        out += b"\x30" + varint(index)
    if commit:
        out += b"\x40" + varint(commit)
    return out


@functools.lru_cache(maxsize=64)
def _epoch_field(epoch: Epoch) -> bytes:
    """Field 1 of a RaftMsg."""
    out = bytearray(b"\x0a\x00")
    if epoch.process_nanos:
        out.append(0x08)
        append_varint(out, epoch.process_nanos)
    if epoch.bench_iter:
        out.append(0x10)
        append_varint(out, epoch.bench_iter)
    out[1] = len(out) - 2
    return bytes(out)


@functools.lru_cache(maxsize=256)
def _opening(type: int, to: int, from_: int, term: int) -> bytes:
    """The first fields of a raftpb.Message."""
    out = bytearray((0x08, type, 0x10))
    append_varint(out, to)
    out.append(0x18)
    append_varint(out, from_)
    if term:
        out.append(0x20)
        append_varint(out, term)
    return bytes(out)


def _seldom(message: Message) -> bytes:
    """What most messages have not."""
    out = bytearray()
    if message.reject:
        out += b"\x50\x01"
    if message.reject_hint:
        out.append(0x58)
        append_varint(out, message.reject_hint)
    if message.snapshot is not None:
        data = message.snapshot.encode()
        out.append(0x4A)
        append_varint(out, len(data))
        out += data
    if message.context:
        out.append(0x62)
        append_varint(out, len(message.context))
        out += message.context
    if message.vote:
        out.append(0x68)
        append_varint(out, message.vote)
    return bytes(out)


def decode(packet: Packet) -> Sequence[RaftMsg]:
    """The RaftMsgs of a packet, in order. Raises MalformedMessage on anything a correct peer does not send."""
    if packet.virtual is not None:
        return (packet.virtual,)
    data = packet.join()
    end = len(data)
    at = data[1] + 3 if end > 3 else 0
    epoch = _before_message(data[:at])
    if epoch is not None:  # and one message, as most are
        length, begin = read_varint(data, at, end)
        if begin + length == end:
            return (RaftMsg(epoch, (_message(data, begin, end),)),)
    return list(_decode_any(data))


def _decode_any(data: bytes) -> Iterator[RaftMsg]:
    at, end = 0, len(data)
    epoch = Epoch()
    messages: list[Message] = []
    control = b""
    begun = False
    while at < end:
        tag, at = read_varint(data, at, end)
        at, stop = _extent(data, at, end, tag)
        if tag == 0x12:
            messages.append(_message(data, at, stop))
        elif tag == 0x0A:
            if begun:
                yield RaftMsg(epoch, messages, control)
                messages, control = [], b""
            epoch, begun = _epoch(data[at:stop]), True
        elif tag == 0x7A:
            control = data[at:stop]
        at = stop
    if begun or messages:
        yield RaftMsg(epoch, messages, control)


def _extent(data: bytes, at: int, end: int, tag: int) -> tuple[int, int]:
    """(begin, end) of the value of a field whose tag stands before `at`."""
    wire = tag & 7
    if wire == 2:
        length, at = read_varint(data, at, end)
        stop = at + length
    elif wire == 0:
        stop = read_varint(data, at, end)[1]
    elif wire in (1, 5):
        stop = at + (8 if wire == 1 else 4)
    else:
        raise MalformedMessage(f"wire type {wire} at byte {at}")
    if stop > end or tag < 8:
        raise MalformedMessage(f"field {tag >> 3} at byte {at} passes the end of its message")
    return at, stop


@functools.lru_cache(maxsize=64)
def _before_message(data: bytes) -> Epoch | None:
    """The epoch, where these bytes are field 1 and the tag of field 2; else None."""
    if data[:1] != b"\x0a" or data[-1] != 0x12 or not data[1] == len(data) - 3 < 0x80:
        return None
    return _epoch(data[2:-1])


@functools.lru_cache(maxsize=64)
def _epoch(data: bytes) -> Epoch:
    at, end = 0, len(data)
    nanos = iteration = 0
    while at < end:
        tag, at = read_varint(data, at, end)
        begin, stop = _extent(data, at, end, tag)
        if tag == 0x08:
            nanos = read_varint(data, begin, stop)[0]
        elif tag == 0x10:
            iteration = read_varint(data, begin, stop)[0]
        at = stop
    return Epoch(nanos, iteration)


@functools.lru_cache(maxsize=256)
def _read_opening(data: bytes) -> tuple[MessageType, int, int, int] | None:
    """(type, to, from, term) where the eight bytes are these fields of a raftpb.Message; else None."""
    if data[::2] == b"\x08\x10\x18\x20" and max(data[1::2]) < 0x80 and data[1] < len(_TYPES):
        return _TYPES[data[1]], data[3], data[5], data[7]
    return None


def _message(data: bytes, begin: int, end: int) -> Message:
    """The fields that most messages have, in the order in which they are written; anything else is read field by field."""
    at = begin + 8
    if at < end and (opening := _read_opening(data[begin:at])) is not None:
        log_term = index = commit = 0
        type, to, from_, term = opening
        entries: Sequence[EntryBatch] = ()
        if data[at] == 0x28:
            log_term, at = read_varint(data, at + 1, end)
        if at < end and data[at] == 0x30:
            index, at = read_varint(data, at + 1, end)
        if at < end and data[at] == 0x40:
            commit, at = read_varint(data, at + 1, end)
        if at < end and data[at] == 0x3A:
            batch = EntryBatch.decode_expected(data, at, end, index + 1, term)
            entries, at = EntryBatch.decode(data, at, end) if batch is None else ((batch,), end)
        if at == end:
            return Message(type, to, from_, term, log_term, index, entries, commit)
    return _any_message(data, begin, end)


def _any_message(data: bytes, at: int, end: int) -> Message:
    if end - at == 0:
        raise MalformedMessage("an empty message")
    type_ = to = from_ = term = log_term = index = commit = vote = reject_hint = 0
    reject = False
    snapshot: Snapshot | None = None
    context = b""
    entries: list[EntryBatch] = []
    while at < end:
        tag = data[at]
        if tag == 0x3A:
            found, at = EntryBatch.decode(data, at, end)
            if entries:
                entries += found
            else:
                entries = found
            continue
        at += 1
        if tag > 0x7F:
            tag, at = read_varint(data, at - 1, end)
        if tag & 7 == 0:
            value, at = read_varint(data, at, end)
            if tag == 0x30:
                index = value
            elif tag == 0x28:
                log_term = value
            elif tag == 0x40:
                commit = value
            elif tag == 0x20:
                term = value
            elif tag == 0x08:
                type_ = value
            elif tag == 0x10:
                to = value
            elif tag == 0x18:
                from_ = value
            elif tag == 0x50:
                reject = bool(value)
            elif tag == 0x58:
                reject_hint = value
            elif tag == 0x68:
                vote = value
            continue
        begin, at = _extent(data, at, end, tag)
        if tag == 0x4A:
            snapshot = Snapshot.decode(data[begin:at])
            if not snapshot.metadata.index:  # gogoproto writes the empty snapshot of every message
                snapshot = None
        elif tag == 0x62:
            context = data[begin:at]
    if type_ >= len(_TYPES):
        raise MalformedMessage(f"unknown message type {type_}")
    if from_ >= LOCAL_APPLY_THREAD:
        raise MalformedMessage(f"a message that claims to be from {from_:#x}, a storage thread of this node")
    return Message(_TYPES[type_], to, from_, term, log_term, index, entries, commit, vote, snapshot, reject, reject_hint, context)
