"""Bytes that no correct peer sends give MalformedMessage, or something that can be read: never another error, never a hang."""

from __future__ import annotations

import random

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from rafttoy.errors import MalformedMessage
from rafttoy.ports import Packet
from rafttoy.raft import LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD, EntryBatch, EntryType, Message, MessageType, Payloads
from rafttoy.wire import Epoch, RaftMsg, decode, encode
from tests.wire.strategies import raft_msgs, shape, varint


def read(data: bytes) -> list[RaftMsg] | None:
    """What stands there, read to its last entry; None for what is malformed."""
    try:
        msgs = list(decode(Packet((data,), len(data))))
    except MalformedMessage:
        return None
    for msg in msgs:
        for message in msg.messages:
            said = shape(message)
            assert all(0 <= said[name] < 1 << 64 for name in ("to", "from", "term", "log_term", "index", "commit", "vote", "reject_hint"))
            assert isinstance(said["type"], MessageType)
            assert sum(batch.size for batch in message.entries) <= len(data) + 4 * sum(batch.count for batch in message.entries)
    return msgs


@settings(max_examples=300)
@given(st.binary(max_size=300))
def test_random_bytes(data: bytes) -> None:
    read(data)


@settings(max_examples=300)
@given(st.binary(max_size=200))
def test_random_bytes_where_a_message_or_its_entries_should_be(data: bytes) -> None:
    """Random bytes alone seldom get so far."""
    for wrapped in (
        data,
        b"\x3a" + varint(len(data)) + data,
        b"\x08\x03\x3a" + varint(len(data)) + data,
        b"\x4a" + varint(len(data)) + data,
    ):
        read(b"\x0a\x02\x08\x01\x12" + varint(len(wrapped)) + wrapped)


@settings(max_examples=120)
@given(raft_msgs, st.randoms(use_true_random=False))
def test_mutated_bytes(msg: RaftMsg, rng: random.Random) -> None:
    whole = encode(msg.epoch, msg.messages, msg.control).join()
    for _ in range(10):
        data = bytearray(whole)
        for _ in range(rng.randint(1, 3)):
            _mutate(data, rng)
        read(bytes(data))


def _mutate(data: bytearray, rng: random.Random) -> None:
    at = rng.randrange(len(data) + 1)
    match rng.randrange(5):
        case 0:
            del data[at:]
        case 1:
            del data[at : at + rng.randint(1, 8)]
        case 2:
            data[at:at] = rng.randbytes(rng.randint(1, 8))
        case 3:
            data[at : at + 1] = bytes([rng.choice((0, 0x7F, 0x80, 0xFF, rng.randrange(256)))])
        case 4:
            data[at:at] = data[: rng.randint(0, 40)]


@given(raft_msgs)
def test_every_truncation(msg: RaftMsg) -> None:
    """A prefix is malformed or has fewer messages; it is never taken for the whole."""
    whole = encode(msg.epoch, msg.messages, msg.control).join()
    for end in range(0, len(whole), max(1, len(whole) // 60)):
        found = read(whole[:end])
        assert found is None or sum(len(m.messages) + bool(m.control) for m in found) <= len(msg.messages)


@pytest.mark.parametrize(
    "data",
    [
        b"\x12\x00",  # an empty message
        b"\x12\x02\x08\x63",  # a type that is none
        b"\x12\x05\x08\x03",  # longer than what is there
        b"\x12\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # 2**64 - 1 bytes
        b"\xff" * 11,  # a varint that does not end
        b"\x0a",  # a tag and nothing
        b"\x0b\x0c",  # groups are no more
        b"\x07\x00",  # wire type 7
        b"\x02\x01x",  # field number 0
        b"\x0a\x0b\x08" + b"\x80" * 9 + b"\x02",  # 65 bits
        b"\x12\x06\x08\x03\x3a\x02\x10",  # an entry that passes its message
        b"\x12\x08\x08\x03\x3a\x04\x08\x03\x10\x01",  # an entry of type 3
        b"\x12\x08\x08\x03\x3a\x04\x10\x01\x18\x00",  # a term without an index
        b"\x12\x06\x08\x07\x4a\x02\x12\x05",  # a snapshot whose metadata pass its end
        b"\x12\x08\x08\x07\x4a\x04\x12\x02\x10\xff",
    ],
    ids=bytes.hex,
)
def test_malformed(data: bytes) -> None:
    assert read(data) is None


@given(st.integers(2, 200), st.integers(0, 4))
@example(128, 0)
def test_a_flipped_byte_within_a_long_batch_is_no_longer_that_batch(count: int, byte: int) -> None:
    """The vector decoder looks at every frame's head, not at the first one's."""
    batch = EntryBatch.encode(100, 7, EntryType.NORMAL, Payloads(count, bytes(count * 5), 5))
    data = bytearray(encode(Epoch(1, 1), [Message(MessageType.APP, 2, 1, 7, entries=[batch])]).join())
    begin = len(data) - batch.size
    data[begin + batch.offset(count - 1) + byte] ^= 0x01
    found = read(bytes(data))
    if found is not None:
        assert shape(found[0].messages[0])["entries"] != [(100 + i, 7, 0, bytes(5)) for i in range(count)]


def test_a_message_of_very_many_fields() -> None:
    many = b"\x08\x03" + b"\x30\x01" * 100_000
    assert read(b"\x12" + varint(len(many)) + many) is not None
    frames = [bytes(EntryBatch.encode(i, i, EntryType.NORMAL, Payloads.of([b"x"])).frames) for i in range(1, 10_000)]  # type: ignore[arg-type]
    body = b"\x08\x03" + b"\x30\x01".join(frames)
    found = read(b"\x12" + varint(len(body)) + body)
    assert found is not None
    assert len(found[0].messages[0].entries) == len(frames)


@pytest.mark.parametrize("thread", [LOCAL_APPEND_THREAD, LOCAL_APPLY_THREAD])
def test_nobody_speaks_for_our_storage_threads(thread: int) -> None:
    """What comes from them is taken without a check: an append that is told to be durable would be counted."""
    assert read(encode(Epoch(1, 1), [Message(MessageType.STORAGE_APPEND_RESP, 1, thread, 7, 7, 100)]).join()) is None
    assert read(encode(Epoch(1, 1), [Message(MessageType.STORAGE_APPEND_RESP, 1, thread - 5, 7, 7, 100)]).join()) is not None
