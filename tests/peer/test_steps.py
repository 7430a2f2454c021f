"""What a peer makes of messages before and after its core sees them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafttoy.cell import Plan
from rafttoy.peer import LogDigest, _in_packets, _without_stale, split_appends
from rafttoy.pipeline import PIPELINES
from rafttoy.ports import Packet
from rafttoy.raft import EntryBatch, EntryType, Message, MessageType, Payloads
from rafttoy.run import run_cell
from rafttoy.sim.world import SimWorld
from rafttoy.wire import MESSAGE_LIMIT_BYTES, Epoch
from tests.pipeline.group import MODEL, cell_of, complete

_M = MessageType


def app(index: int, *, entries: int = 0, commit: int = 0, term: int = 1) -> Message:
    batches = [EntryBatch.encode(index + 1, term, EntryType.NORMAL, Payloads.of([b"x"] * entries))] if entries else []
    return Message(_M.APP, 2, 1, term, 1, index, batches, commit)


def resp(index: int, *, reject: bool = False, term: int = 1) -> Message:
    return Message(_M.APP_RESP, 2, 1, term, 0, index, reject=reject)


def test_appends_are_split_off_in_order() -> None:
    messages = [app(1), resp(1), app(2), Message(_M.HEARTBEAT, 2, 1), app(3)]
    appends, others = split_appends(messages)
    assert appends == [messages[0], messages[2], messages[4]]
    assert others == [messages[1], messages[3]]


@pytest.mark.parametrize(
    ("messages", "kept"),
    [
        ([resp(1), resp(2), resp(5)], [2]),  # the last one says it all
        ([resp(5), resp(2)], [0, 1]),  # out of order: both, the later one may be a correction of nothing
        ([resp(1), resp(4, reject=True), resp(2)], [1, 2]),  # a rejection is never dropped
        ([resp(1, term=1), resp(2, term=2)], [0, 1]),  # of different terms
        ([app(3, commit=1), app(3, commit=2)], [0, 1]),  # appends are never dropped
        ([app(3, entries=2), app(5, commit=4)], [0, 1]),
        ([Message(_M.HEARTBEAT, 2, 1), Message(_M.HEARTBEAT, 2, 1)], [0, 1]),
        ([resp(1), app(1), resp(2), app(2)], [1, 2, 3]),
    ],
)
def test_of_messages_that_travel_together_the_stale_ones_stay_behind(messages: list[Message], kept: list[int]) -> None:
    assert _without_stale(messages) == [messages[i] for i in kept]


_messages = st.one_of(
    st.builds(app, st.integers(1, 5), entries=st.integers(0, 2), commit=st.integers(0, 5), term=st.integers(1, 2)),
    st.builds(resp, st.integers(1, 5), reject=st.booleans(), term=st.integers(1, 2)),
    st.builds(Message, st.sampled_from((_M.HEARTBEAT, _M.VOTE, _M.SNAP, _M.TIMEOUT_NOW)), st.just(2), st.just(1)),
)


@given(st.lists(_messages, max_size=12))
def test_whatever_stays_behind_is_said_by_what_goes(messages: list[Message]) -> None:
    kept = _without_stale(messages)
    positions = [next(i for i, m in enumerate(messages) if m is k) for k in kept]
    assert positions == sorted(positions)
    for i, message in enumerate(messages):
        if i in positions:
            continue
        later = [messages[j] for j in positions if j > i and messages[j].type is message.type and messages[j].term == message.term]
        assert message.type is _M.APP_RESP
        assert not message.reject
        assert any(not m.reject and m.index >= message.index for m in later)


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(1, 3)), max_size=12))
def test_packets_are_cut_between_messages(sizes: list[tuple[int, int]]) -> None:
    """Of at most 16 MiB of entries, or one message; no more packets than that takes."""
    mib = 1 << 20
    messages = []
    for size, count in sizes:
        entries = [EntryBatch.encode(1, 1, EntryType.NORMAL, Payloads.sized(1, size * mib // count)) for _ in range(count)] if size else []
        messages.append(Message(_M.APP, 2, 1, 1, entries=entries))
    groups = _in_packets(messages)
    assert [m for group in groups for m in group] == messages
    weights = [sum(batch.size for m in group for batch in m.entries) for group in groups]
    for group, weight in zip(groups, weights, strict=True):
        assert len(group) == 1 or weight <= 16 * mib
    assert all(a + b > 16 * mib for a, b in itertools.pairwise(weights))


def test_no_packet_of_a_run_is_longer_than_a_receiver_takes() -> None:
    """A round of proposals of half a gigabyte: more than one message, more than one packet."""
    world = SimWorld(MODEL, "tcp", seed=1)
    cell = cell_of(("split", "mem", "mem"), conc=512, bytes=1 << 20)
    plan = Plan(proposals=600, warmup_seconds=0.0)
    members = world.start(cell, plan)
    sizes: list[int] = []
    for to in (2, 3):
        stream = members[0].ports.links.stream(to)

        def send(packet: Packet, send: Callable[[Packet], None] = stream.send) -> None:
            sizes.append(packet.size)
            send(packet)

        stream.send = send  # type: ignore[method-assign]
    m = complete(world, run_cell(members[0], cell, plan, Epoch(1, 1), content=False))
    assert m.ops >= 600
    assert sum(sizes) > 2 * 512 << 20
    assert max(sizes) <= MESSAGE_LIMIT_BYTES


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_proposal_takes_one_packet_to_each_follower_and_one_sync(pipeline: str) -> None:
    """A commit index rides on the next append, however the last proposals are applied; and what attests to nothing new is not synced."""
    world = SimWorld(MODEL, "tcp", seed=1)
    cell = cell_of(("split", "etcd", "mem"), pipeline=pipeline, conc=1)
    plan = Plan(proposals=300, warmup_seconds=0.0)
    members = world.start(cell, plan)
    packets: list[int] = []
    for to in (2, 3):
        stream = members[0].ports.links.stream(to)

        def send(packet: Packet, to: int = to, send: Callable[[Packet], None] = stream.send) -> None:
            packets.append(to)
            send(packet)

        stream.send = send  # type: ignore[method-assign]
    m = complete(world, run_cell(members[0], cell, plan, Epoch(1, 1), content=False))
    ticks = 10 * (m.seconds + 1)
    assert 2 * m.ops <= len(packets) <= 2 * (m.ops + ticks)
    for report in m.reports.values():
        assert report.counters["wal_syncs"] <= m.ops + ticks


def batches(sizes: Sequence[int]) -> list[EntryBatch]:
    out, first = [], 1
    for size in sizes:
        out.append(EntryBatch.encode(first, 3, EntryType.NORMAL, Payloads.of([b"%d" % i for i in range(first, first + size)])))
        first += size
    return out


@given(st.lists(st.integers(1, 30), min_size=1, max_size=6), st.data())
def test_a_digest_does_not_depend_on_how_the_log_was_cut(sizes: list[int], data: st.DataObject) -> None:
    whole, cut = LogDigest(), LogDigest()
    whole.add(batches([sum(sizes)]))
    cuts = sorted({0, sum(sizes), *data.draw(st.lists(st.integers(0, sum(sizes)), max_size=5))})
    (one,) = batches([sum(sizes)])
    for low, high in itertools.pairwise(cuts):
        cut.add([one.slice(low + 1, high + 1)])
    assert str(cut) == str(whole)
    assert str(whole).startswith(f"{sum(sizes)}/3/")


def test_a_digest_tells_logs_apart() -> None:
    def digest(data: list[bytes], term: int = 1) -> str:
        out = LogDigest()
        out.add([EntryBatch.encode(1, term, EntryType.NORMAL, Payloads.of(data))])
        return str(out)

    told = {digest([b"a", b"b"]), digest([b"b", b"a"]), digest([b"a"]), digest([b"a", b"b"], term=2), digest([b"ab"])}
    assert len(told) == 5


def test_a_digest_refuses_a_gap() -> None:
    digest = LogDigest()
    with pytest.raises(AssertionError, match="in order"):
        digest.add([EntryBatch.encode(2, 1, EntryType.NORMAL, Payloads.of([b"x"]))])
