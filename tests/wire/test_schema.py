"""Bytes that the Go original can read and write: checked against protobuf's own implementation, with the original's schema."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafttoy.errors import MalformedMessage
from rafttoy.ports import Packet
from rafttoy.raft import ConfState, EntryBatch, EntryType, Message, MessageType, Payloads
from rafttoy.wire import Epoch, RaftMsg, decode, encode
from tests.wire import schema
from tests.wire.strategies import messages, raft_msgs, shape, shape_of, varint


def decoded(data: bytes) -> list[RaftMsg]:
    return list(decode(Packet((data,), len(data))))


def told(theirs: Any) -> dict[str, Any]:
    """What `shape` says of ours, of a protobuf message (a vote travels in a field that raftpb 3.5 does not have)."""
    t = theirs
    metadata = t.snapshot.metadata
    state = metadata.conf_state
    conf_state = ConfState(
        tuple(state.voters), tuple(state.learners), tuple(state.voters_outgoing), tuple(state.learners_next), state.auto_leave
    )
    return {
        "type": t.type,
        "to": t.to,
        "from": getattr(t, "from"),
        "term": t.term,
        "log_term": t.logTerm,
        "index": t.index,
        "entries": [(e.Index, e.Term, e.Type, e.Data) for e in t.entries],
        "commit": t.commit,
        "snapshot": (t.snapshot.data, conf_state, metadata.index, metadata.term) if metadata.index else None,
        "reject": t.reject,
        "reject_hint": t.rejectHint,
        "context": t.context,
    }


def comparable(message: Message) -> dict[str, Any]:
    out = shape(message)
    del out["vote"]
    s = message.snapshot
    out["snapshot"] = (s.data, s.metadata.conf_state, s.metadata.index, s.metadata.term) if s is not None else None
    return out


def as_go(message: Message) -> Any:
    """The same message as gogoproto builds it: every scalar is set, zero or not, and so is the snapshot with all in it."""
    t = schema.RaftMessage()
    t.type, t.to, t.term, t.logTerm, t.index = message.type, message.to, message.term, message.log_term, message.index
    setattr(t, "from", message.from_)
    t.commit, t.reject, t.rejectHint = message.commit, message.reject, message.reject_hint
    for index, term, type, data in shape(message)["entries"]:
        entry = t.entries.add(Type=type, Term=term, Index=index)
        if data:
            entry.Data = data
    if message.context:
        t.context = message.context
    metadata = t.snapshot.metadata
    metadata.index = metadata.term = 0
    metadata.conf_state.auto_leave = False
    if message.snapshot is not None:
        s = message.snapshot
        if s.data:
            t.snapshot.data = s.data
        metadata.index, metadata.term = s.metadata.index, s.metadata.term
        c = s.metadata.conf_state
        metadata.conf_state.voters.extend(c.voters)
        metadata.conf_state.learners.extend(c.learners)
        metadata.conf_state.voters_outgoing.extend(c.voters_outgoing)
        metadata.conf_state.learners_next.extend(c.learners_next)
        metadata.conf_state.auto_leave = c.auto_leave
    return t


def envelope(epoch: Epoch, theirs: list[Any]) -> bytes:
    msg = schema.RaftMsg(msgs=theirs)
    msg.epoch.process_nanos, msg.epoch.bench_iter = epoch
    data: bytes = msg.SerializeToString()
    return data


@given(raft_msgs)
def test_the_original_reads_ours(msg: RaftMsg) -> None:
    theirs = schema.RaftMsg.FromString(encode(msg.epoch, msg.messages, msg.control).join())
    assert (theirs.epoch.process_nanos, theirs.epoch.bench_iter) == msg.epoch
    assert [told(t) for t in theirs.msgs] == [comparable(m) for m in msg.messages]


@given(raft_msgs)
def test_we_read_the_originals(msg: RaftMsg) -> None:
    """With its zero fields and its empty snapshots."""
    data = envelope(msg.epoch, [as_go(m) for m in msg.messages])
    (ours,) = decoded(data)
    assert ours.epoch == msg.epoch
    assert ours.control == b""
    assert [comparable(m) for m in ours.messages] == [comparable(m) for m in msg.messages]


def test_zero_fields_are_really_there() -> None:
    """Or the test above would test nothing."""
    numbers = "0808 1000 1800 2000 2800 3000 4000", "5000 5800"
    snapshot = "4a0a 1208 0a02 2800 1000 1800"
    expected = bytes.fromhex(f"{numbers[0]} {snapshot} {numbers[1]}")
    assert as_go(Message(MessageType.HEARTBEAT)).SerializeToString() == expected


@given(messages(), st.randoms(use_true_random=False))
def test_fields_may_come_in_any_order(message: Message, rng: random.Random) -> None:
    """As protobuf has it; of the entries, their own order holds."""
    fields = []
    entries = []
    whole = as_go(message)
    for descriptor, value in whole.ListFields():
        part = schema.RaftMessage()
        if descriptor.name == "entries":
            for entry in value:
                shuffled = b"".join(rng.sample(pieces := _pieces(entry), len(pieces)))
                entries.append(b"\x3a" + varint(len(shuffled)) + shuffled)
        else:
            getattr(part, descriptor.name).CopyFrom(value) if descriptor.message_type else setattr(part, descriptor.name, value)
            fields.append(part.SerializeToString())
    slots = fields + [None] * len(entries)
    rng.shuffle(slots)
    remaining = iter(entries)
    body = b"".join(next(remaining) if slot is None else slot for slot in slots)
    (ours,) = decoded(b"\x0a\x00\x12" + varint(len(body)) + body)
    assert [comparable(m) for m in ours.messages] == [comparable(message)]


def _pieces(entry: Any) -> list[bytes]:
    out = []
    for descriptor, value in entry.ListFields():
        part = type(entry)()
        setattr(part, descriptor.name, value)
        out.append(part.SerializeToString())
    return out


@given(messages())
def test_fields_that_we_do_not_know_are_skipped(message: Message) -> None:
    """raftpb 3.6's `responses`, and whatever comes after it: of every wire type, in the envelope and in the message."""
    unknown = b"\x72\x03abc" + b"\xa0\x06\x96\x01" + b"\xa5\x06abcd" + b"\xa1\x06abcdefgh" + b"\xa2\x06\x02xy"
    body = as_go(message).SerializeToString() + unknown
    (ours,) = decoded(b"\x1a\x01x" + b"\x0a\x04\x08\x05\x30\x07" + unknown + b"\x12" + varint(len(body)) + body + unknown)
    assert ours.epoch == Epoch(5, 0)
    assert [comparable(m) for m in ours.messages] == [comparable(message)]


@given(raft_msgs, raft_msgs)
def test_an_original_epoch_opens_each_joined_message(first: RaftMsg, second: RaftMsg) -> None:
    data = b"".join(envelope(msg.epoch, [as_go(m) for m in msg.messages]) for msg in (first, second))
    assert [msg.epoch for msg in decoded(data)] == [first.epoch, second.epoch]


def test_the_control_field_is_none_of_the_originals() -> None:
    theirs = schema.RaftMsg.FromString(encode(Epoch(1, 2), [Message(MessageType.BEAT)], b"control").join())
    assert len(theirs.msgs) == 1
    assert [name.name for name, _ in theirs.ListFields()] == ["epoch", "msgs"]


def test_an_entry_with_empty_data_is_one_without() -> None:
    """Go writes a slice that is empty but not nil as a field of no bytes."""
    body = bytes.fromhex("0803") + bytes.fromhex("3a08 0800 1007 1805 2200".replace(" ", ""))
    (ours,) = decoded(b"\x0a\x00\x12" + varint(len(body)) + body)
    assert shape(ours.messages[0])["entries"] == [(5, 7, 0, b"")]
    assert shape_of(ours) == shape_of(decoded(encode(Epoch(), ours.messages).join())[0])


def test_an_entry_that_leaves_out_its_type_is_normal() -> None:
    body = bytes.fromhex("0803") + bytes.fromhex("3a07 1007 1805 220178".replace(" ", ""))
    (ours,) = decoded(b"\x0a\x00\x12" + varint(len(body)) + body)
    assert shape(ours.messages[0])["entries"] == [(5, 7, int(EntryType.NORMAL), b"x")]


@pytest.mark.parametrize(("first", "second"), [(1, 3), (2, 1), (2, 2)])
def test_entries_that_do_not_follow_one_another_are_refused(first: int, second: int) -> None:
    frames = [EntryBatch.encode(index, 1, EntryType.NORMAL, Payloads.of([b"x"])).frames for index in (first, second)]
    body = b"\x08\x03" + b"".join(bytes(frame) for frame in frames)  # type: ignore[arg-type]
    with pytest.raises(MalformedMessage, match=f"entry {second} follows entry {first}"):
        decoded(b"\x0a\x00\x12" + varint(len(body)) + body)
