"""The format of proposals, and who is told what becomes of them."""

from __future__ import annotations

import struct
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rafttoy.ports import Sized
from rafttoy.proposal import (
    KEY_BYTES,
    OVERHEAD_BYTES,
    AcknowledgedRun,
    PayloadMaker,
    ProposalBuffer,
    Tracker,
    join_payloads,
    payload_ids,
)
from rafttoy.raft import EntryBatch, EntryType, Payloads


class Proposal(NamedTuple):
    id: int
    key: bytes
    value: bytes


def parse(data: bytes) -> Proposal:
    """As the Go original does it: int64 id, int64 key length, key, int64 value length, value, little endian."""
    id, key_length = struct.unpack_from("<qq", data)
    key, rest = data[16 : 16 + key_length], data[16 + key_length :]
    (value_length,) = struct.unpack_from("<q", rest)
    assert len(rest) == 8 + value_length
    return Proposal(id, key, rest[8:])


def split(payloads: Payloads) -> list[bytes]:
    assert payloads.lengths is None
    data = bytes(payloads.data)  # type: ignore[arg-type]
    return [data[at : at + payloads.stride] for at in range(0, len(data), payloads.stride)]


@given(st.integers(1, 500), st.lists(st.integers(1, 60), min_size=1, max_size=8), st.integers(0, 5))
@example(500, [3, 300, 200, 1, 240, 240, 240, 2, 5000, 4], 0)  # of a quarter of a megabyte that is made ahead, or each by itself
def test_payloads_are_the_originals(value_bytes: int, counts: list[int], seed: int) -> None:
    """However many are made at once; ids count up, keys are nine bytes and random, the value is one of the run."""
    maker = PayloadMaker(np.random.default_rng(seed), value_bytes, content=True)
    proposals = [parse(data) for count in counts for data in split(maker.make(count))]
    assert [p.id for p in proposals] == list(range(1, sum(counts) + 1))
    assert maker.stride == OVERHEAD_BYTES + value_bytes
    assert {len(p.key) for p in proposals} == {KEY_BYTES}
    assert {p.key[:1] for p in proposals} == {b"\x01"}
    assert len({p.key for p in proposals}) == len(proposals)
    assert len({p.value for p in proposals}) == 1
    assert len(proposals[0].value) == value_bytes


def test_the_same_seed_makes_the_same_payloads() -> None:
    def made(seed: int) -> bytes:
        maker = PayloadMaker(np.random.default_rng(seed), 20, content=True)
        return b"".join(bytes(maker.make(count).data) for count in (1, 7, 8, 4000, 4000, 4000))  # type: ignore[arg-type]

    assert made(3) == made(3) != made(4)


def test_keys_are_spread_over_their_whole_range() -> None:
    maker = PayloadMaker(np.random.default_rng(1), 1, content=True)
    keys = [parse(data).key[1:] for data in split(maker.make(20_000))]
    assert len(set(keys)) == len(keys)
    counts = np.bincount(np.frombuffer(b"".join(keys), dtype=np.uint8), minlength=256)
    assert counts.min() > 0.8 * counts.mean()


def test_without_content_only_sizes_are_made() -> None:
    maker = PayloadMaker(np.random.default_rng(1), 256, content=False)
    payloads = maker.make(10)
    assert payloads.data == Sized(10 * (256 + OVERHEAD_BYTES))
    assert (payloads.count, payloads.stride, maker.next_id) == (10, 256 + OVERHEAD_BYTES, 11)


def test_ids_are_read_back_from_the_log() -> None:
    maker = PayloadMaker(np.random.default_rng(1), 5, content=True)
    maker.make(3)
    batch = EntryBatch.encode(50, 2, EntryType.NORMAL, maker.make(4))
    assert payload_ids(batch) == [4, 5, 6, 7]


@given(st.lists(st.lists(st.binary(max_size=20), min_size=1, max_size=5), min_size=1, max_size=6))
def test_joined_payloads_are_the_payloads_in_order(groups: list[list[bytes]]) -> None:
    joined = join_payloads([Payloads.of(group) for group in groups])
    flat = [data for group in groups for data in group]
    assert joined.count == len(flat)
    assert list(EntryBatch.encode(1, 1, EntryType.NORMAL, joined).payloads()) == flat
    lengths = [len(data) for data in flat]
    sized = join_payloads([Payloads(len(g), Sized(sum(map(len, g))), lengths=[len(d) for d in g]) for g in groups])
    assert isinstance(sized.data, Sized)
    assert (sized.count, len(sized.data)) == (len(flat), sum(lengths))


def test_the_buffer_hands_over_all_in_order_once() -> None:
    buffer = ProposalBuffer()
    client: Any = object()
    for token in range(3):
        buffer.add(Payloads.of([b"x"]), client, token)
    assert [token for _, _, token in buffer.drain()] == [0, 1, 2]
    assert buffer.drain() == []


# --- the tracker ---


class Clerk:
    """A client that writes down what it is told, as (token, position) of each proposal."""

    def __init__(self) -> None:
        self.done: list[tuple[str, int]] = []
        self.lost: list[tuple[str, int]] = []

    def acknowledged(self, token: str, skip: int, count: int) -> None:
        self.done += [(token, skip + i) for i in range(count)]

    def failed(self, token: str, skip: int, count: int) -> None:
        self.lost += [(token, skip + i) for i in range(count)]

    def turn(self) -> None:
        raise AssertionError("the peer's business")


def batch(first: int, last: int, term: int, type: EntryType = EntryType.NORMAL) -> EntryBatch:
    return EntryBatch.encode(first, term, type, Payloads.of([b"%d" % index for index in range(first, last + 1)]))


def registered(tracker: Tracker, clerk: Clerk, first: int, term: int, *counts: int) -> None:
    """Proposals `a`, `b`, … of so many payloads each, proposed together from index `first`."""
    waiting = [(Payloads(count, bytes(count * 8), 8), clerk, chr(ord("a") + i)) for i, count in enumerate(counts)]
    tracker.register(batch(first, first + sum(counts) - 1, term), waiting)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.lists(st.integers(1, 12), min_size=1, max_size=40))
def test_however_commits_cut_the_log_each_proposal_is_told_once_and_in_order(counts: list[int], cuts: list[int]) -> None:
    tracker, clerk = Tracker(), Clerk()
    registered(tracker, clerk, 10, 3, *counts)
    everything = [(chr(ord("a") + i), j) for i, count in enumerate(counts) for j in range(count)]
    total, at = sum(counts), 10
    assert len(tracker) == total
    for cut in cuts:
        last = min(at + cut - 1, 9 + total)
        if last < at:
            break
        assert tracker.finish(batch(at, last, 3)) == last - at + 1
        at = last + 1
        assert clerk.done == everything[: at - 10]
        assert len(tracker) == total - (at - 10)
    tracker.fail_all()
    assert clerk.lost == everything[at - 10 :]
    assert len(tracker) == 0


def test_what_is_not_the_clients_is_passed_over() -> None:
    """Entries of an earlier leader, an empty one, and a configuration change stand between the proposals."""
    tracker, clerk = Tracker(), Clerk()
    registered(tracker, clerk, 5, 2, 2)
    registered(tracker, clerk, 9, 2, 1)
    assert tracker.finish(batch(1, 4, 1)) == 0
    assert tracker.finish(batch(5, 6, 2)) == 2
    assert tracker.finish(batch(7, 8, 2, EntryType.CONF_CHANGE_V2)) == 0
    assert tracker.finish(batch(9, 12, 2)) == 1
    assert tracker.finish(batch(13, 20, 2)) == 0
    assert (clerk.done, clerk.lost) == ([("a", 0), ("a", 1), ("a", 0)], [])


def test_another_term_at_its_index_means_lost() -> None:
    tracker, clerk = Tracker(), Clerk()
    registered(tracker, clerk, 5, 2, 3)
    assert tracker.finish(batch(5, 5, 2)) == 1
    assert tracker.finish(batch(6, 9, 3)) == 0
    assert (clerk.done, clerk.lost) == ([("a", 0)], [("a", 1), ("a", 2)])
    assert len(tracker) == 0


def test_acknowledged_runs_name_every_acknowledged_proposal() -> None:
    maker = PayloadMaker(np.random.default_rng(1), 5, content=True)
    tracker, clerk = Tracker(keep_runs=True), Clerk()
    for first, term, count in ((5, 2, 3), (8, 2, 2), (11, 2, 2), (13, 4, 1)):
        payloads = maker.make(count)
        tracker.register(EntryBatch.encode(first, term, EntryType.NORMAL, payloads), [(payloads, clerk, "a")])
    for first, last, term in ((5, 6, 2), (7, 9, 2), (10, 10, 2), (11, 12, 3), (13, 13, 4)):
        tracker.finish(batch(first, last, term))
    # ids 1…5 are at 5…9 in one run; 6 and 7 were lost to term 3; 8 is at 13
    assert tracker.acknowledged_runs == [AcknowledgedRun(5, 9, 2, 1), AcknowledgedRun(13, 13, 4, 8)]


def test_runs_of_sizes_have_no_ids() -> None:
    tracker, clerk = Tracker(keep_runs=True), Clerk()
    for first in (1, 3):
        sized = Payloads.sized(2, 40)
        tracker.register(EntryBatch.encode(first, 1, EntryType.NORMAL, sized), [(sized, clerk, "a")])
        tracker.finish(EntryBatch.encode(first, 1, EntryType.NORMAL, sized))
    assert tracker.acknowledged_runs == [AcknowledgedRun(1, 4, 1, 0)]


def test_nothing_is_kept_unless_asked_for() -> None:
    tracker, clerk = Tracker(), Clerk()
    registered(tracker, clerk, 1, 1, 2)
    tracker.finish(batch(1, 2, 1))
    assert tracker.acknowledged_runs == []


@pytest.mark.parametrize("count", [1, 7, 8, 100])
def test_a_payload_is_as_long_as_it_says(count: int) -> None:
    maker = PayloadMaker(np.random.default_rng(1), 77, content=True)
    payloads = maker.make(count)
    assert payloads.nbytes == count * maker.stride == count * (77 + OVERHEAD_BYTES)
