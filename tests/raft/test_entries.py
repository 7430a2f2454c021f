"""The entry codec, against protobuf's own with raftpb's schema, and against entries handled one by one."""

from __future__ import annotations

from itertools import accumulate
from typing import Any

import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory  # type: ignore[import-untyped]
from hypothesis import example, given
from hypothesis import strategies as st

from rafttoy.errors import MalformedMessage
from rafttoy.ports import Sized
from rafttoy.raft import (
    ConfChange,
    ConfChangeSingle,
    ConfChangeTransition,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    EntryBatch,
    EntryType,
    HardState,
    Payloads,
    Snapshot,
    SnapshotMetadata,
)
from rafttoy.raft.entries import entry_sizes
from rafttoy.raft.protobuf import append_varint, read_varint, varint_size
from rafttoy.raft.types import NO_LIMIT

F = descriptor_pb2.FieldDescriptorProto

SCHEMA: dict[str, list[tuple[str, int, int, str]]] = {
    # name, number, type, "" or "repeated" or the message's name
    "Entry": [
        ("type", 1, F.TYPE_UINT64, ""),
        ("term", 2, F.TYPE_UINT64, ""),
        ("index", 3, F.TYPE_UINT64, ""),
        ("data", 4, F.TYPE_BYTES, ""),
    ],
    "Message": [("entries", 7, F.TYPE_MESSAGE, "Entry")],
    "HardState": [("term", 1, F.TYPE_UINT64, ""), ("vote", 2, F.TYPE_UINT64, ""), ("commit", 3, F.TYPE_UINT64, "")],
    "ConfState": [
        *((name, n, F.TYPE_UINT64, "repeated") for n, name in enumerate(("voters", "learners", "voters_outgoing", "learners_next"), 1)),
        ("auto_leave", 5, F.TYPE_BOOL, ""),
    ],
    "SnapshotMetadata": [
        ("conf_state", 1, F.TYPE_MESSAGE, "one ConfState"),
        ("index", 2, F.TYPE_UINT64, ""),
        ("term", 3, F.TYPE_UINT64, ""),
    ],
    "Snapshot": [("data", 1, F.TYPE_BYTES, ""), ("metadata", 2, F.TYPE_MESSAGE, "one SnapshotMetadata")],
    "ConfChange": [
        ("id", 1, F.TYPE_UINT64, ""),
        ("type", 2, F.TYPE_UINT64, ""),
        ("node_id", 3, F.TYPE_UINT64, ""),
        ("context", 4, F.TYPE_BYTES, ""),
    ],
    "ConfChangeSingle": [("type", 1, F.TYPE_UINT64, ""), ("node_id", 2, F.TYPE_UINT64, "")],
    "ConfChangeV2": [
        ("transition", 1, F.TYPE_UINT64, ""),
        ("changes", 2, F.TYPE_MESSAGE, "ConfChangeSingle"),
        ("context", 3, F.TYPE_BYTES, ""),
    ],
}
"""raftpb, with enums as the varints they are on the wire."""


def _classes() -> dict[str, Any]:
    file = descriptor_pb2.FileDescriptorProto(name="raftpb_of_the_tests.proto", package="raftpb_of_the_tests", syntax="proto2")
    for name, fields in SCHEMA.items():
        message = file.message_type.add(name=name)
        for field, number, kind, detail in fields:
            plain = detail == "" or detail.startswith("one ")
            added = message.field.add(name=field, number=number, type=kind, label=F.LABEL_OPTIONAL if plain else F.LABEL_REPEATED)
            if kind == F.TYPE_MESSAGE:
                added.type_name = f".raftpb_of_the_tests.{detail.removeprefix('one ')}"
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"raftpb_of_the_tests.{name}")) for name in SCHEMA}


PB = _classes()

lengths = st.one_of(st.integers(0, 3), st.integers(120, 135), st.just(300))
payload_lists = st.one_of(
    st.lists(lengths, min_size=1, max_size=40), st.builds(lambda count, length: [length] * count, st.integers(1, 200), lengths)
)
positions = st.one_of(
    st.integers(1, 20), st.integers(100, 130), st.integers(16300, 16400), st.integers(2097100, 2097160), st.integers(1 << 34, 1 << 35)
)
terms = st.one_of(st.integers(1, 3), st.integers(126, 130), st.integers(1, 1 << 40))
types = st.sampled_from(list(EntryType))


def data_of(lengths: list[int]) -> list[bytes]:
    return [bytes([i % 251]) * n for i, n in enumerate(lengths)]


def in_protobuf(first: int, term: int, type: EntryType, data: list[bytes]) -> bytes:
    message = PB["Message"]()
    for index, payload in enumerate(data, first):
        entry = message.entries.add(type=type, term=term, index=index)
        if payload:
            entry.data = payload
    return bytes(message.SerializeToString())


def whole(batches: list[EntryBatch]) -> list[tuple[int, int, int, bytes]]:
    return [(int(b.type), b.term, b.first + i, data) for b in batches for i, data in enumerate(b.payloads())]


# --- numbers ---


@given(st.integers(0, NO_LIMIT))
@example(127)
@example(128)
@example(NO_LIMIT)
def test_varints(value: int) -> None:
    out = bytearray()
    append_varint(out, value)
    assert len(out) == varint_size(value)
    assert read_varint(bytes(out) + b"x", 0, len(out)) == (value, len(out))
    with pytest.raises(MalformedMessage):
        read_varint(bytes(out[:-1]), 0, len(out) - 1)


def test_varints_past_64_bits() -> None:
    for data in (b"\xff" * 9 + b"\x02", b"\x80" * 10 + b"\x01", b"\x80" * 30):
        with pytest.raises(MalformedMessage):
            read_varint(data, 0, len(data))


# --- encoding and decoding ---


@given(positions, terms, types, payload_lists)
def test_encodes_as_protobuf_does(first: int, term: int, type: EntryType, sizes: list[int]) -> None:
    data = data_of(sizes)
    batch = EntryBatch.encode(first, term, type, Payloads.of(data))
    assert bytes(batch.frames) == in_protobuf(first, term, type, data)  # type: ignore[arg-type]
    assert (batch.size, batch.payload_bytes, batch.count) == (len(batch.frames), sum(sizes), len(sizes))  # type: ignore[arg-type]
    assert (batch.last, batch.has_data) == (first + len(sizes) - 1, sum(sizes) > 0)
    assert list(batch.payloads()) == data
    ends = list(accumulate(entry_sizes(term, first + i, n)[1] for i, n in enumerate(sizes)))
    assert [batch.offset(i) for i in range(len(sizes) + 1)] == [0, *ends]
    for piece in batch.uniform_runs():
        assert piece.ends is None
        assert list(piece.payloads()) == data[piece.first - first : piece.last - first + 1]
        assert {len(payload) for payload in piece.payloads()} == {piece.data_length}


@given(positions, terms, types, payload_lists)
def test_sizes_without_bytes_are_those_of_the_bytes(first: int, term: int, type: EntryType, sizes: list[int]) -> None:
    """A model run carries lengths only."""
    data = data_of(sizes)
    real = EntryBatch.encode(first, term, type, Payloads.of(data))
    total = sum(sizes)
    uniform = len(set(sizes)) == 1
    payloads = Payloads.sized(len(sizes), sizes[0]) if uniform else Payloads(len(sizes), Sized(total), lengths=sizes)
    model = EntryBatch.encode(first, term, type, payloads)
    assert (model.size, model.payload_bytes, model.ends, model.stride) == (real.size, real.payload_bytes, real.ends, real.stride)
    again = EntryBatch.encode(first, term, type, model.to_payloads())
    assert (again.size, again.payload_bytes, again.ends) == (real.size, real.payload_bytes, real.ends)


@given(st.lists(st.tuples(st.integers(0, 2), types, payload_lists), min_size=1, max_size=5), positions, terms, st.binary(max_size=5))
def test_decodes_what_protobuf_encodes(runs: list[tuple[int, EntryType, list[int]]], first: int, term: int, behind: bytes) -> None:
    """Several runs of terms and types one after another, and then something else."""
    parts, expected, index = [], [], first
    for step, type, sizes in runs:
        term += step
        data = data_of(sizes)
        parts.append(in_protobuf(index, term, type, data))
        expected += [(int(type), term, index + i, payload) for i, payload in enumerate(data)]
        index += len(sizes)
    frames = b"".join(parts)
    tail = b"" if behind[:1] == b"\x3a" else behind
    batches, end = EntryBatch.decode(b"##" + frames + tail, 2, 2 + len(frames) + len(tail))
    assert end == 2 + len(frames)
    assert whole(batches) == expected
    assert sum(batch.size for batch in batches) == len(frames)
    for batch in batches:
        assert batch.ends is None
        assert batch.payload_bytes == sum(map(len, batch.payloads()))


@given(st.permutations(["type", "term", "index", "data"]), st.integers(0, 3), positions, terms)
def test_another_encoders_form_becomes_ours(order: list[str], length: int, index: int, term: int) -> None:
    """Fields in any order, an empty data field, varints longer than they need be."""

    def varint(value: int) -> bytes:
        out = bytearray()
        append_varint(out, value)
        out[-1] |= 0x80
        return bytes(out) + b"\x00"

    fields = {
        "type": b"\x08" + varint(0),
        "term": b"\x10" + varint(term),
        "index": b"\x18" + varint(index),
        "data": b"\x22" + varint(length) + b"d" * length,
    }
    body = b"".join(fields[name] for name in order)
    frame = b"\x3a" + varint(len(body)) + body
    batches, end = EntryBatch.decode(frame, 0, len(frame))
    assert end == len(frame)
    assert bytes(batches[0].frames) == in_protobuf(index, term, EntryType.NORMAL, [b"d" * length])  # type: ignore[arg-type]
    assert whole(batches) == [(0, term, index, b"d" * length)]


@given(st.integers(1, 400), lengths)
def test_proposals_on_their_way_to_the_leader(count: int, length: int) -> None:
    """They have term 0 and count from 0; the leader takes the data out and places them."""
    data = data_of([length] * count)
    proposed = EntryBatch.encode(0, 0, EntryType.NORMAL, Payloads.of(data))
    frames = bytes(proposed.frames)  # type: ignore[arg-type]
    received, _ = EntryBatch.decode(frames, 0, len(frames))
    assert [data for batch in received for data in batch.payloads()] == data
    first, placed = 120, []
    for batch in received:
        placed.append(EntryBatch.encode(first, 7, EntryType.NORMAL, batch.to_payloads()))
        first += batch.count
    assert b"".join(bytes(batch.frames) for batch in placed) == in_protobuf(120, 7, EntryType.NORMAL, data)  # type: ignore[arg-type]


GOOD = in_protobuf(5, 2, EntryType.NORMAL, [b"abc"] * 3)


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (GOOD[:-1], "passes the end"),
        (b"\x3a", "bad varint"),
        (b"\x3a\x09\x08\x00\x10\x02", "passes the end"),
        (b"\x3a\x06\x08\x07\x10\x02\x18\x05", "unknown entry type"),
        (b"\x3a\x06\x08\x00\x10\x00\x18\x05", "entry with term 0"),
        (b"\x3a\x06\x08\x00\x10\x02\x18\x00", "index 0"),
        (b"\x3a\x08\x08\x00\x10\x02\x18\x05\x28\x01", "unknown field"),
        (b"\x3a\x08\x08\x00\x10\x02\x18\x05\x22\x09", "data pass the end"),
        (GOOD + in_protobuf(9, 2, EntryType.NORMAL, [b""]), "entry 9 follows entry 7"),
        (GOOD + in_protobuf(8, 1, EntryType.NORMAL, [b""]), "after term 2"),
        (GOOD + in_protobuf(7, 2, EntryType.NORMAL, [b""]), "entry 7 follows entry 7"),
    ],
)
def test_malformed_entries(data: bytes, what: str) -> None:
    with pytest.raises(MalformedMessage, match=what):
        EntryBatch.decode(data, 0, len(data))


@given(payload_lists, st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 255)), max_size=4), st.integers(0, 5000))
def test_damaged_bytes_decode_to_something_whole_or_not_at_all(sizes: list[int], damage: list[tuple[int, int]], length: int) -> None:
    """Whatever comes in: a typed error, or contiguous batches that read without one."""
    data = bytearray(in_protobuf(120, 3, EntryType.NORMAL, data_of(sizes)))
    for at, value in damage:
        data[at % len(data)] = value
    try:
        batches, end = EntryBatch.decode(bytes(data[:length]), 0, min(length, len(data)))
    except MalformedMessage:
        return
    assert end <= len(data)
    entries = whole(batches)
    assert [index for _, _, index, _ in entries] == [batches[0].first + i for i in range(len(entries))] if batches else True
    for batch in batches:
        assert batch.payload_bytes == sum(map(len, batch.payloads()))


# --- cutting ---


@given(positions, payload_lists, st.data())
def test_slices(first: int, sizes: list[int], draw: st.DataObject) -> None:
    data = data_of(sizes)
    batch = EntryBatch.encode(first, 3, EntryType.NORMAL, Payloads.of(data))
    low = draw.draw(st.integers(0, len(sizes) - 1))
    high = draw.draw(st.integers(low + 1, len(sizes)))
    piece = batch.slice(first + low, first + high)
    assert (piece.first, piece.count, piece.term) == (first + low, high - low, 3)
    assert list(piece.payloads()) == data[low:high]
    assert bytes(piece.frames) == in_protobuf(first + low, 3, EntryType.NORMAL, data[low:high])  # type: ignore[arg-type]
    assert piece.payload_bytes == sum(sizes[low:high])
    assert piece.ends == EntryBatch.encode(first + low, 3, EntryType.NORMAL, Payloads.of(data[low:high])).ends

    evicted = batch.with_frames(None).slice(first + low, first + high)
    assert (evicted.frames, evicted.size, evicted.payload_bytes, evicted.ends) == (None, piece.size, piece.payload_bytes, piece.ends)

    max_bytes = draw.draw(st.integers(0, batch.size + 1))
    fitting = sum(1 for i in range(1, len(sizes) + 1) if batch.offset(i) <= max_bytes)
    assert batch.fit(max_bytes) == fitting


def test_describes_itself() -> None:
    assert repr(EntryBatch.empty(5, 2)) == "EntryBatch(5..5 term 2 normal 8 B)"


# --- the small messages ---

members = st.builds(
    ConfState,
    *[st.lists(st.integers(1, 300), max_size=4).map(tuple)] * 4,
    st.booleans(),
)
numbers = st.integers(0, NO_LIMIT)


@given(numbers, numbers, numbers)
def test_hard_state(term: int, vote: int, commit: int) -> None:
    state = HardState(term, vote, commit)
    parsed = PB["HardState"].FromString(state.encode())
    assert (parsed.term, parsed.vote, parsed.commit) == (term, vote, commit)
    assert HardState.decode(parsed.SerializeToString()) == state


@given(members, numbers, numbers, st.binary(max_size=20))
def test_snapshot(state: ConfState, index: int, term: int, data: bytes) -> None:
    snapshot = Snapshot(data, SnapshotMetadata(state, index, term))
    parsed = PB["Snapshot"].FromString(snapshot.encode())
    assert (parsed.data, parsed.metadata.index, parsed.metadata.term) == (data, index, term)
    lists = parsed.metadata.conf_state
    assert (tuple(lists.voters), tuple(lists.learners)) == (state.voters, state.learners)
    assert (tuple(lists.voters_outgoing), tuple(lists.learners_next)) == (state.voters_outgoing, state.learners_next)
    assert lists.auto_leave == state.auto_leave
    assert Snapshot.decode(parsed.SerializeToString()) == snapshot


single_changes = st.builds(ConfChangeSingle, st.sampled_from(list(ConfChangeType)), numbers)


@given(single_changes, numbers, st.binary(max_size=8))
def test_conf_change(single: ConfChangeSingle, id: int, context: bytes) -> None:
    change = ConfChange(single.type, single.node_id, context, id)
    parsed = PB["ConfChange"].FromString(change.encode())
    assert (parsed.type, parsed.node_id, parsed.context, parsed.id) == (single.type, single.node_id, context, id)
    assert ConfChange.decode(parsed.SerializeToString()) == change
    assert change.as_v2() == ConfChangeV2(changes=(single,), context=context)


@given(st.sampled_from(list(ConfChangeTransition)), st.lists(single_changes, max_size=4), st.binary(max_size=8))
def test_conf_change_v2(transition: ConfChangeTransition, singles: list[ConfChangeSingle], context: bytes) -> None:
    change = ConfChangeV2(transition, tuple(singles), context)
    parsed = PB["ConfChangeV2"].FromString(change.encode())
    assert (parsed.transition, parsed.context) == (transition, context)
    assert [(one.type, one.node_id) for one in parsed.changes] == [(one.type, one.node_id) for one in singles]
    assert ConfChangeV2.decode(parsed.SerializeToString()) == change


def test_no_data_is_the_change_that_leaves_a_joint_configuration() -> None:
    assert ConfChangeV2.decode(b"") == ConfChangeV2()
    assert ConfChangeV2().leaves_joint


@pytest.mark.parametrize("data", [b"\x10\x09", b"\x12\x01", b"\x0a\x01x", b"\x00\x01", b"\x0b", b"\x80"])
def test_malformed_conf_changes(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        ConfChange.decode(data)


@pytest.mark.parametrize("data", [b"\x08\x09", b"\x12\x02\x08\x07", b"\x10\x01"])
def test_malformed_conf_changes_v2(data: bytes) -> None:
    with pytest.raises(MalformedMessage):
        ConfChangeV2.decode(data)


@given(st.binary(max_size=40))
def test_any_bytes_are_a_value_or_malformed(data: bytes) -> None:
    for decode in (HardState.decode, ConfState.decode, Snapshot.decode, ConfChange.decode, ConfChangeV2.decode):
        try:
            decode(data)
        except MalformedMessage:
            continue
