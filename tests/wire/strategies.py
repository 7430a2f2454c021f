"""Messages of every type, as hypothesis makes them; and how to compare what was decoded."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from rafttoy.ports import Sized
from rafttoy.raft import ConfState, EntryBatch, EntryType, Message, MessageType, Payloads, Snapshot, SnapshotMetadata
from rafttoy.raft.messages import is_local
from rafttoy.raft.protobuf import append_varint
from rafttoy.wire import Epoch, RaftMsg

__all__ = ["TRAVELLING", "entry_batches", "epochs", "messages", "raft_msgs", "shape", "shape_of", "varint"]

TRAVELLING = [type for type in MessageType if not is_local(type)]
"""The types that one node may send to another."""

_WIDE = st.one_of(st.integers(0, 3), st.integers(0, 1 << 14), st.integers(0, (1 << 64) - 1))
_IDS = st.one_of(st.integers(0, 9), st.integers(0, (1 << 64) - 3))  # the last two are storage threads

epochs = st.builds(Epoch, st.one_of(st.just(0), st.integers(0, (1 << 63) - 1)), st.integers(0, (1 << 31) - 1))


@st.composite
def entry_batches(draw: st.DrawFn) -> list[EntryBatch]:
    """Contiguous batches of non-decreasing terms, uniform and not; from indexes whose varints change their width on the way, too."""
    index = draw(st.one_of(st.integers(1, 300), st.sampled_from((120, 16_370, 2_097_140, (1 << 28) - 7)), st.integers(1, 1 << 40)))
    term = draw(st.one_of(st.integers(1, 3), st.integers(1, 1 << 40)))
    batches = []
    for _ in range(draw(st.integers(1, 4))):
        term += draw(st.integers(0, 2))
        type = draw(st.sampled_from(EntryType))
        if draw(st.booleans()):
            count, length = draw(st.integers(1, 40)), draw(st.sampled_from((0, 1, 2, 31, 90, 127, 128, 300)))
            payloads = Payloads(count, draw(st.binary(min_size=count * length, max_size=count * length)), length)
        else:
            payloads = Payloads.of(draw(st.lists(st.binary(max_size=200), min_size=1, max_size=12)))
        batches.append(EntryBatch.encode(index, term, type, payloads))
        index = batches[-1].last + 1
    return batches


_ids = st.lists(st.integers(1, 99), max_size=4)
_snapshots = st.builds(
    Snapshot,
    st.binary(max_size=50),
    st.builds(SnapshotMetadata, st.builds(ConfState, _ids, _ids, _ids, _ids, st.booleans()), st.integers(1, 1 << 40), st.integers(1, 99)),
)


def messages(types: list[MessageType] = TRAVELLING) -> st.SearchStrategy[Message]:
    """Any fields with any type: the codec does not know which belongs to which."""
    return st.builds(
        Message,
        st.sampled_from(types),
        _IDS,
        _IDS,
        _WIDE,
        _WIDE,
        _WIDE,
        st.one_of(st.just([]), entry_batches()),
        _WIDE,
        _WIDE,
        st.one_of(st.none(), _snapshots),
        st.booleans(),
        _WIDE,
        st.binary(max_size=40),
    )


raft_msgs = st.builds(RaftMsg, epochs, st.lists(messages(), max_size=5), st.binary(max_size=60))


def shape(message: Message) -> dict[str, Any]:
    """Everything a message says, whatever its batches are."""
    m = message
    return {
        "type": m.type,
        "to": m.to,
        "from": m.from_,
        "term": m.term,
        "log_term": m.log_term,
        "index": m.index,
        "entries": [entry for batch in m.entries for entry in _entries(batch)],
        "commit": m.commit,
        "vote": m.vote,
        "snapshot": m.snapshot,
        "reject": m.reject,
        "reject_hint": m.reject_hint,
        "context": m.context,
    }


def _entries(batch: EntryBatch) -> list[tuple[int, int, int, bytes]]:
    assert not isinstance(batch.frames, Sized)
    return [(index, batch.term, int(batch.type), data) for index, data in enumerate(batch.payloads(), batch.first)]


def shape_of(msg: RaftMsg) -> tuple[Epoch, list[dict[str, Any]], bytes]:
    return msg.epoch, [shape(message) for message in msg.messages], msg.control


def varint(value: int) -> bytes:
    out = bytearray()
    append_varint(out, value)
    return bytes(out)
