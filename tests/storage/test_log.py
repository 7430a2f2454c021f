"""The log in memory and its cache; from entries to keys and values."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from rafttoy.errors import MalformedMessage
from rafttoy.ports import Sized
from rafttoy.raft.entries import EntryBatch, EntryType, Payloads
from rafttoy.raft.errors import SnapshotTemporarilyUnavailable
from rafttoy.raft.types import ConfState, HardState, Snapshot, SnapshotMetadata
from rafttoy.storage.log import Log
from rafttoy.storage.pairs import pairs
from tests.storage.beds import batch, proposal, proposals

# --- cache ---


def test_old_frames_go_and_their_holders_keep_them() -> None:
    log = Log(cache_bytes=5000)
    first = batch(1, 10, size=100)
    log.append([first])
    held = log.entries(1, 11, 1 << 40)[0]
    for i in range(1, 10):
        log.append([batch(1 + 10 * i, 10, size=100)])
    assert log.entries(1, 11, 1 << 40)[0].frames is None
    assert held.frames is first.frames is not None  # a message that is under way still has its bytes
    assert log.resident_bytes <= 5000
    assert log.total_bytes == sum(each.size for each in log.batches)
    assert log.evictions == sum(each.frames is None for each in log.batches) > 0


def test_the_newest_batch_stays_however_large() -> None:
    log = Log(cache_bytes=100)
    log.append([batch(1, 10, size=100)])
    log.append([batch(11, 10, size=1000)])
    assert [each.frames is None for each in log.batches] == [True, False]


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(1, 8), st.integers(0, 60)), max_size=40))
def test_bytes_are_counted_through_overwrites_and_compactions(steps: list[tuple[int, int, int]]) -> None:
    log = Log(cache_bytes=400)
    for back, count, size in steps:
        if size > 50 and log.batches:
            log.compact(min(log.last_index(), log.first_index() + count))
        else:
            first = max(log.first_index(), log.last_index() + 1 - (back if back < 10 else 0))
            log.append([batch(first, count, size=size)])
        assert log.total_bytes == sum(each.size for each in log.batches)
        assert log.resident_bytes == sum(each.size for each in log.batches if each.frames is not None)
        assert log.resident_bytes <= max(400, log.batches[-1].size if log.batches else 0)


def test_where_the_oldest_bytes_end() -> None:
    log = Log(cache_bytes=0)
    for i in range(5):
        log.append([batch(1 + 10 * i, 10, size=100)])
    size = log.batches[0].size
    assert [log.index_at_bytes(n) for n in (0, size - 1, size, size + 1, 3 * size, 10 * size)] == [0, 0, 10, 10, 30, 50]


def test_a_snapshot_is_asked_for_before_it_is_there() -> None:
    log = Log(cache_bytes=0)
    mark = SnapshotMetadata(ConfState((1, 2)), 7, 3)
    log.restore(HardState(3, 1, 7), mark, [batch(8, 2, term=3)])
    assert (log.first_index(), log.term(7)) == (8, 3)
    with pytest.raises(SnapshotTemporarilyUnavailable):
        log.snapshot()
    assert log.snapshot_wanted
    snapshot = Snapshot(b"content", SnapshotMetadata(ConfState((1, 2)), 9, 3))
    log.set_snapshot(snapshot)
    assert log.snapshot() == snapshot
    assert not log.snapshot_wanted


def test_which_entries_it_holds() -> None:
    log = Log(cache_bytes=0)
    log.restore(HardState(), SnapshotMetadata(index=4, term=2), [batch(5, 3, term=2), batch(8, 1, term=3)])
    assert [log.holds(*at) for at in ((4, 2), (4, 1), (3, 2), (7, 2), (8, 3), (8, 2), (9, 3))] == [
        True,
        False,
        False,
        True,
        True,
        False,
        False,
    ]


# --- pairs ---


def content(entries: EntryBatch) -> list[tuple[bytes, bytes]]:
    out: list[tuple[bytes, bytes]] = []
    for found, count, nbytes in pairs(entries):
        assert found is not None
        listed = list(found)
        assert (len(listed), sum(len(key) + len(value) for key, value in listed)) == (count, nbytes)
        out += listed
    return out


_KEYS = st.binary(min_size=0, max_size=12).map(lambda rest: b"\x01" + rest)


@given(
    st.sampled_from([1, 100, 120, 127, 16380]),
    st.one_of(
        st.lists(st.tuples(_KEYS, st.binary(max_size=40)), min_size=1, max_size=40),
        st.tuples(st.integers(1, 60), st.binary(max_size=20)).map(lambda n: [(b"\x01%08d" % i, n[1]) for i in range(n[0])]),
    ),
)
def test_keys_and_values_are_those_proposed(first: int, proposed: list[tuple[bytes, bytes]]) -> None:
    assert content(proposals(first, proposed)) == proposed


def test_key_lengths_may_differ_where_entries_are_alike() -> None:
    proposed = [(b"\x01" + b"k" * (i % 5), b"v" * (9 - i % 5)) for i in range(30)]
    assert content(proposals(1, proposed)) == proposed


def test_a_wider_index_and_shorter_data_do_not_look_alike() -> None:
    """Entries 127 and 128: frames of one size, data of two."""
    data = [proposal(b"\x01key", b"value!"), proposal(b"\x01key", b"value")]
    entries = EntryBatch.encode(127, 1, EntryType.NORMAL, Payloads.of(data))
    assert content(entries) == [(b"\x01key", b"value!"), (b"\x01key", b"value")]
    assert list(entries.payloads()) == data


def test_sized_entries_are_counted() -> None:
    entries = EntryBatch.encode(1, 1, EntryType.NORMAL, Payloads.sized(100, 24 + 9 + 256))
    assert isinstance(entries.frames, Sized)
    assert list(pairs(entries)) == [(None, 100, 100 * 265)]


@pytest.mark.parametrize(
    "data",
    [
        b"short",
        proposal(b"", b"value"),
        proposal(b"\x00key", b"value"),  # the store's own keys
        proposal(b"\x02key", b"value"),
        proposal(b"\x01key", b"value")[:-1],
        proposal(b"\x01key", b"value") + b"more",
        proposal(b"\x01key", b"value")[:8] + b"\xff" * 8 + b"\x01key",
    ],
)
@pytest.mark.parametrize("count", [1, 20])
def test_data_that_is_no_proposal_is_refused(data: bytes, count: int) -> None:
    good = proposal(b"\x01key", b"v" * (len(data) - 28)) if len(data) > 28 else data
    entries = EntryBatch.encode(1, 1, EntryType.NORMAL, Payloads.of([good] * (count - 1) + [data]))
    with pytest.raises(MalformedMessage):
        content(entries)
