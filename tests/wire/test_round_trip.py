"""What is encoded comes back, whatever the messages, however the packets were joined."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafttoy.ports import Packet, Sized
from rafttoy.raft import EntryBatch, EntryType, Message, MessageType, Payloads
from rafttoy.wire import Epoch, RaftMsg, decode, encode
from tests.wire.strategies import TRAVELLING, entry_batches, epochs, messages, raft_msgs, shape, shape_of


def packet_of(msg: RaftMsg) -> Packet:
    return encode(msg.epoch, msg.messages, msg.control)


def received(data: bytes) -> Packet:
    """As a transport hands it over."""
    return Packet((data,), len(data))


@given(raft_msgs)
def test_what_is_encoded_comes_back(msg: RaftMsg) -> None:
    packet = packet_of(msg)
    data = packet.join()
    assert packet.size == len(data)
    (decoded,) = decode(received(data))
    assert shape_of(decoded) == shape_of(msg)


@pytest.mark.parametrize("type", TRAVELLING, ids=lambda type: type.name)
def test_every_type_comes_back(type: MessageType) -> None:
    bare = Message(type, 2, 1)
    (decoded,) = decode(received(encode(Epoch(1, 1), [bare]).join()))
    assert shape_of(decoded) == (Epoch(1, 1), [shape(bare)], b"")


@given(messages())
def test_a_decoded_message_is_encoded_to_the_same_bytes(message: Message) -> None:
    data = encode(Epoch(5, 6), [message]).join()
    (decoded,) = decode(received(data))
    assert encode(Epoch(5, 6), decoded.messages).join() == data


@given(st.lists(raft_msgs, min_size=1, max_size=3))
def test_joined_packets_are_the_packets_one_by_one(msgs: list[RaftMsg]) -> None:
    joined = b"".join(packet_of(msg).join() for msg in msgs)
    assert [shape_of(msg) for msg in decode(received(joined))] == [shape_of(msg) for msg in msgs]


@given(entry_batches())
def test_frames_travel_as_they_stand_in_the_log(batches: list[EntryBatch]) -> None:
    """What the leader encoded once is what every follower gets, byte for byte, and without a copy on the way out."""
    packet = encode(Epoch(1, 1), [Message(MessageType.APP, 2, 1, 9, entries=batches)])
    assert all(any(part is batch.frames for part in packet.parts) for batch in batches)
    frames = b"".join(bytes(batch.frames) for batch in batches)  # type: ignore[arg-type]
    assert packet.join().endswith(frames)
    (decoded,) = decode(received(packet.join()))
    assert b"".join(bytes(batch.frames) for batch in decoded.messages[0].entries) == frames  # type: ignore[arg-type]


@given(epochs)
def test_an_epoch_alone_comes_back(epoch: Epoch) -> None:
    (decoded,) = decode(received(encode(epoch, ()).join()))
    assert decoded == RaftMsg(epoch, [], b"")


@given(st.integers(1, 1 << 40), st.integers(1, 50), st.integers(1, 300), raft_msgs)
def test_a_packet_of_sizes_has_the_size_of_the_real_one(first: int, count: int, length: int, msg: RaftMsg) -> None:
    """What the model charges for a message is what it weighs."""
    sized = EntryBatch.encode(first, 7, EntryType.NORMAL, Payloads.sized(count, length))
    real = EntryBatch.encode(first, 7, EntryType.NORMAL, Payloads(count, bytes(count * length), length))
    assert isinstance(sized.frames, Sized)
    packets = [
        encode(msg.epoch, [*msg.messages, Message(MessageType.APP, 2, 1, 7, entries=[batch])], msg.control) for batch in (sized, real)
    ]
    assert packets[0].size == packets[1].size == len(packets[1].join())
    (decoded,) = decode(packets[0])
    assert decoded.messages[-1].entries == [sized]


@given(raft_msgs)
def test_a_packet_by_reference_has_the_size_of_its_bytes(msg: RaftMsg) -> None:
    packet = encode(msg.epoch, msg.messages, msg.control, by_reference=True)
    assert packet.size == len(packet_of(msg).join())
    assert list(decode(packet)) == [msg]


def test_an_evicted_batch_cannot_be_sent() -> None:
    batch = EntryBatch.encode(1, 1, EntryType.NORMAL, Payloads.of([b"x"]))
    batch.frames = None
    with pytest.raises(AssertionError, match="evicted"):
        encode(Epoch(), [Message(MessageType.APP, entries=[batch])])


def test_epochs_are_ordered_by_process_then_iteration() -> None:
    assert Epoch(1, 9) < Epoch(2, 0) < Epoch(2, 1)
