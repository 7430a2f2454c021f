"""Messages that can be read and mean nonsense: a peer may refuse them, or lose its leadership over them, but it does not die."""

from __future__ import annotations

import random

import pytest

from rafttoy.cell import Plan
from rafttoy.errors import RafttoyError
from rafttoy.ports import Packet
from rafttoy.raft import (
    ConfChange,
    ConfChangeType,
    ConfChangeV2,
    ConfState,
    EntryBatch,
    EntryType,
    Message,
    MessageType,
    Payloads,
    Snapshot,
    SnapshotMetadata,
)
from rafttoy.raft.messages import is_local
from rafttoy.sim.world import SimWorld
from rafttoy.wire import Epoch, encode
from tests.pipeline.group import MODEL, cell_of, complete

EPOCH = Epoch(1, 1)
TYPES = list(MessageType)


def nonsense(rng: random.Random, last: int, term: int) -> Message:
    """Any type with any fields, near enough to a log that ends with `last` in `term` to be taken seriously."""

    def index() -> int:
        return rng.choice([0, 1, 2, max(0, last - 1), last, last + 1, last + 5, rng.randrange(last + 10), (1 << 64) - 1])

    def some_term() -> int:
        return rng.choice([0, 1, term, term, term, term + 1, term + 2])

    entries: list[EntryBatch] = []
    if rng.random() < 0.5:
        first, entry_term = min(max(1, index()), 1 << 40), max(1, some_term())
        for _ in range(rng.randint(1, 3)):
            type = rng.choice([EntryType.NORMAL] * 4 + [EntryType.CONF_CHANGE, EntryType.CONF_CHANGE_V2])
            change = rng.choice([ConfChangeV2(), ConfChange(rng.choice(list(ConfChangeType)), rng.randrange(5))])
            data = b"" if type is EntryType.NORMAL else change.encode()
            entries.append(EntryBatch.encode(first, entry_term, type, Payloads.of([data] * rng.randint(1, 3))))
            first, entry_term = entries[-1].last + 1, entry_term + rng.choice((0, 0, 1))
    snapshot = None
    if rng.random() < 0.3:
        voters, learners, outgoing = rng.choice([(1, 2, 3), (1,), (), (2, 3)]), rng.choice([(), (1,), (4,)]), rng.choice([(), (1, 2)])
        snapshot = Snapshot(b"", SnapshotMetadata(ConfState(voters, learners, outgoing), index(), some_term()))
    return Message(
        rng.choice(TYPES),
        rng.choice([1, 1, 2, 7]),
        rng.choice([0, 1, 2, 2, 2, 3, 9]),
        some_term(),
        some_term(),
        index(),
        entries,
        index(),
        rng.randrange(4),
        snapshot,
        rng.random() < 0.3,
        index(),
        rng.choice([b"", b"CampaignTransfer", b"x"]),
    )


@pytest.mark.parametrize("pipeline", ["basic", "async-apply", "async-storage"])
@pytest.mark.parametrize("seed", range(12))
def test_nonsense_does_not_end_a_peer(pipeline: str, seed: int) -> None:
    rng = random.Random(seed)
    world = SimWorld(MODEL, "tcp", seed)
    cell, plan = cell_of(("split", "mem", "mem"), pipeline=pipeline), Plan()
    members = world.start(cell, plan)
    target = members[0]
    rejected: list[str] = []

    async def main() -> int:
        await members[seed % 2].lead(EPOCH, cell, plan)  # the target leads, or follows
        steps = 0
        while target.peer is not None and steps < 60:
            node = target.peer.node
            packet = encode(EPOCH, [nonsense(rng, node.last_index, node.term) for _ in range(rng.randint(1, 3))])
            data = packet.join()
            target._on_packet(Packet((data,), len(data), reject=rejected.append))
            await target.ports.clock.sleep_ns(rng.choice((0, 1000, 1_000_000, 150_000_000)))
            steps += 1
        return steps

    try:
        steps = complete(world, main())
    except RafttoyError as error:
        pytest.fail(f"{error!r}")
    assert [member.failure for member in members] == [None] * 3
    assert steps == 60
    assert rejected


def test_the_nonsense_reaches_every_handler() -> None:
    """Of the types that travel, each is drawn; and local ones, which must not."""
    rng = random.Random(0)
    drawn = {nonsense(rng, 10, 3).type for _ in range(2000)}
    assert drawn == set(TYPES)
    assert any(is_local(type) for type in drawn)


@pytest.mark.parametrize(
    "message",
    [
        Message(MessageType.HEARTBEAT, 1, 1, 99),
        Message(MessageType.APP, 1, 1, 99),
        Message(MessageType.HUP, 1, 2, 99),
        Message(MessageType.STORAGE_APPEND_RESP, 1, 2, 2, 2, 5),
        Message(MessageType.APP, 1, 2, 99, 1, 3, [EntryBatch.encode(7, 1, EntryType.NORMAL, Payloads.of([b"x"]))]),  # a gap
    ],
    ids=repr,
)
def test_what_no_peer_may_say_drops_its_connection(message: Message) -> None:
    world = SimWorld(MODEL, "tcp", 1)
    cell, plan = cell_of(("split", "mem", "mem")), Plan()
    members = world.start(cell, plan)
    rejected: list[str] = []

    async def main() -> tuple[int, int]:
        peer = await members[0].lead(EPOCH, cell, plan)
        before = (peer.node.term, peer.node.last_index)
        data = encode(EPOCH, [message]).join()
        members[0]._on_packet(Packet((data,), len(data), reject=rejected.append))
        await members[0].ports.clock.sleep_ns(1_000_000)
        assert (peer.node.term, peer.node.last_index) == before
        return before

    complete(world, main())
    assert len(rejected) == 1
    assert members[0].failure is None
