"""A member lives through one epoch after another: a newer one begins anew, an older one is not heard."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from rafttoy.cell import Cell, Plan
from rafttoy.errors import ConfigError, RunError
from rafttoy.member import Member
from rafttoy.ports import Packet
from rafttoy.raft import EntryBatch, EntryType, Message, MessageType, Payloads
from rafttoy.run import run_cell
from rafttoy.sim.files import DiskFaults
from rafttoy.sim.world import SimWorld
from rafttoy.wire import Epoch, encode
from tests.pipeline.group import MODEL, cell_of, complete

PLAN = Plan(proposals=100, warmup_seconds=0.0, verify=True)
CELL = cell_of(("split", "file", "mem"))
MS = 1_000_000
OPENED = 600 * MS
"""By then a new log's first segments are filled, and the first run is under way."""

FIRST = Epoch(1, 1)


class Group:
    def __init__(self, cell: Cell = CELL, plan: Plan = PLAN) -> None:
        self.world = SimWorld(MODEL, "tcp", seed=1)
        self.members = self.world.start(cell, plan)
        self.rejected: list[str] = []

    def run(self, cell: Cell = CELL, plan: Plan = PLAN, epoch: Epoch = FIRST, leader: int = 1) -> Any:
        return complete(self.world, run_cell(self.members[leader - 1], cell, plan, epoch, content=True))

    def wait(self, duration_ns: int = 300 * MS) -> None:
        self.world.env.run(until=self.world.env.now + duration_ns)

    def deliver(self, member: Member, data: bytes) -> None:
        """As if it had come over the network; what the member makes of it by the time this returns."""
        member._on_packet(Packet((data,), len(data), reject=self.rejected.append))
        self.wait(MS)


def test_a_newer_epoch_begins_with_an_empty_log() -> None:
    group = Group()
    for i in (1, 2, 3):
        m = group.run(epoch=Epoch(1, i), leader=1 + i % 3)  # any member may lead one
        assert m.verified
        commits = [member.peer.node.commit for member in group.members if member.peer is not None]
        assert len(commits) == 3
        assert max(commits) < 2 * 100 + 50  # of this epoch alone


def test_messages_of_an_older_epoch_are_ignored() -> None:
    group = Group()
    group.run(epoch=Epoch(2, 1))
    member = group.members[1]
    peer = member.peer
    assert peer is not None
    before = (peer.node.term, peer.node.commit, peer.node.lead, peer.storage.log.last_index())
    stale = Message(MessageType.APP, 2, 3, 99, 0, 0, [EntryBatch.encode(1, 99, EntryType.NORMAL, Payloads.of([b"x"]))], 1)
    for epoch in (Epoch(2, 0), Epoch(1, 9), Epoch()):
        group.deliver(member, encode(epoch, [stale]).join())
    assert member.peer is peer
    assert (peer.node.term, peer.node.commit, peer.node.lead, peer.storage.log.last_index()) == before
    assert group.rejected == []


def test_a_message_of_a_newer_epoch_begins_it_with_the_settings_of_the_last() -> None:
    """As the original does; the message itself is not lost."""
    group = Group()
    group.run(epoch=Epoch(2, 1))
    member = group.members[1]
    vote = Message(MessageType.PRE_VOTE, 2, 3, 7, 1, 3)
    group.deliver(member, encode(Epoch(2, 2), [vote]).join())
    group.wait(5 * MS)
    assert member.epoch == Epoch(2, 2)
    assert member.cell == CELL
    assert member.peer is not None
    assert member.peer.node.last_index == 3  # the founding members, and nothing else
    assert member.failure is None


def test_a_newer_run_elsewhere_ends_this_one() -> None:
    group = Group()
    plan = msgspec.structs.replace(PLAN, proposals=0, seconds=5.0)

    async def later() -> None:
        await group.members[1].ports.clock.sleep_ns(OPENED + 300 * MS)
        assert (await run_cell(group.members[1], CELL, PLAN, Epoch(1, 2), content=True)).verified

    group.members[1].ports.tasks.spawn(later(), "another run")
    with pytest.raises(RunError, match="peer 1: another leader began a newer run"):
        group.run(plan=plan)
    group.wait(1000 * MS)
    assert [member.failure for member in group.members] == [None] * 3
    assert [member.epoch for member in group.members] == [Epoch(1, 2)] * 3


def test_who_does_not_answer_is_named() -> None:
    world = SimWorld(MODEL, "tcp", seed=1)
    members = world.start(CELL, PLAN)
    world.network.cut.update({(1, 3), (3, 1)})
    plan = msgspec.structs.replace(PLAN, connect_seconds=0.7)
    with pytest.raises(RunError, match=r"no answer from peer 3 within 0\.7 s"):
        complete(world, run_cell(members[0], CELL, plan, Epoch(1, 1), content=True))


def with_slow_disk() -> tuple[SimWorld, list[Member], DiskFaults]:
    """A group of which peer 2 takes seconds to open its storage."""
    world = SimWorld(MODEL, "tcp", seed=1)
    members = world.start(CELL, PLAN)
    faults = DiskFaults()
    faults.stall_ns = 2000 * MS
    members[1].ports.files.faults = faults  # type: ignore[attr-defined]
    return world, members, faults


def test_who_opens_its_storage_slowly_is_waited_for() -> None:
    world, members, faults = with_slow_disk()

    async def later() -> None:
        await members[0].ports.clock.sleep_ns(4000 * MS)
        assert members[1].peer is None
        faults.stall_ns = 0

    members[0].ports.tasks.spawn(later(), "a disk that recovers")
    plan = msgspec.structs.replace(PLAN, connect_seconds=0.7)
    assert complete(world, run_cell(members[0], CELL, plan, Epoch(1, 1), content=True)).verified
    assert world.env.now > 4000 * MS


def test_who_goes_away_while_it_opens_its_storage_is_named() -> None:
    world, members, _ = with_slow_disk()

    async def later() -> None:
        await members[0].ports.clock.sleep_ns(3000 * MS)
        world.network.cut.update({(1, 2), (2, 1)})

    members[0].ports.tasks.spawn(later(), "a cut")
    plan = msgspec.structs.replace(PLAN, connect_seconds=0.7)
    with pytest.raises(RunError, match=r"no answer from peer 2 within 0\.7 s"):
        complete(world, run_cell(members[0], CELL, plan, Epoch(1, 1), content=True))
    assert 3400 * MS < world.env.now < 3800 * MS


def test_a_leader_that_cannot_even_begin_says_why() -> None:
    """A model without such a store: nobody waits for an epoch that does not come."""
    model = msgspec.structs.replace(MODEL, software=msgspec.structs.replace(MODEL.software, kv={}))
    with pytest.raises(ConfigError, match="no key-value store 'leveldb' in the model"):
        SimWorld(model, "tcp", seed=1).run(cell_of(("split", "file", "leveldb")), PLAN, Epoch(1, 1))


def test_a_run_that_another_one_overtakes_while_it_waits_says_so() -> None:
    world = SimWorld(MODEL, "tcp", seed=1)
    members = world.start(CELL, PLAN)
    world.network.cut.update({(1, 3), (3, 1)})  # so it waits

    async def later() -> None:
        await members[1].ports.clock.sleep_ns(OPENED + 300 * MS)
        world.network.cut.clear()
        assert (await run_cell(members[1], CELL, PLAN, Epoch(1, 2), content=True)).verified

    members[1].ports.tasks.spawn(later(), "another run")
    with pytest.raises(RunError, match="peer 1: another leader began a newer run"):
        complete(world, run_cell(members[0], CELL, PLAN, Epoch(1, 1), content=True))
    world.env.run(until=world.env.now + 1000 * MS)
    assert [member.epoch for member in members] == [Epoch(1, 2)] * 3


def test_a_run_that_is_stopped_while_it_waits_ends() -> None:
    world = SimWorld(MODEL, "tcp", seed=1)
    members = world.start(CELL, PLAN)
    world.network.cut.update({(1, 3), (3, 1)})
    clock = members[0].ports.clock
    with pytest.raises(RunError, match="peer 1 was stopped before it was elected"):
        complete(world, run_cell(members[0], CELL, PLAN, Epoch(1, 1), content=True, stop=lambda: clock.now_ns() > 400 * MS))
    assert clock.now_ns() < 1000 * MS


def test_a_late_follower_is_waited_for() -> None:
    world = SimWorld(MODEL, "tcp", seed=1)
    members = world.start(CELL, PLAN)
    world.network.cut.update({(1, 3), (3, 1)})

    async def heal() -> None:
        await members[0].ports.clock.sleep_ns(1500 * MS)
        world.network.cut.clear()

    members[0].ports.tasks.spawn(heal(), "heal")
    assert complete(world, run_cell(members[0], CELL, PLAN, Epoch(1, 1), content=True)).verified


def test_a_run_that_is_stopped_hands_over_what_it_has() -> None:
    group = Group()
    clock = group.members[0].ports.clock
    plan = msgspec.structs.replace(PLAN, proposals=0, seconds=60.0)
    m = complete(
        group.world,
        run_cell(group.members[0], CELL, plan, Epoch(1, 1), content=True, stop=lambda: clock.now_ns() > OPENED + 500 * MS),
    )
    assert m.partial
    assert m.ops > 0
    assert 0.1 < m.seconds < 1
    assert m.verified


@pytest.mark.parametrize(
    ("control", "said"),
    [
        (b"{}", "control message"),
        (b"\xff\xfe", "control message"),
        (b'{"type":"nonsense"}', "control message"),
        (b"[" * 5000, "control message"),
    ],
    ids=["empty", "bytes", "kind", "deep"],
)
def test_a_control_message_that_is_none_is_rejected(control: bytes, said: str) -> None:
    group = Group()
    group.wait()
    idle = group.members[1]
    group.deliver(idle, encode(Epoch(), (), control).join())  # before its first epoch
    assert len(group.rejected) == 1
    group.run()
    group.deliver(idle, encode(Epoch(1, 1), (), control).join())  # and in one
    assert len(group.rejected) == 2
    assert all(said in reason for reason in group.rejected)
    assert idle.failure is None


@pytest.mark.parametrize(
    "changes", [{"pipeline": "nope"}, {"wal": "nope"}, {"wal": "mem:soon"}, {"engine": "nope"}, {"storage": "nope"}], ids=str
)
def test_an_epoch_of_components_that_a_member_does_not_have_is_refused(changes: dict[str, str]) -> None:
    """A leader of another version: the member stays as it is, and alive."""
    group = Group(plan=msgspec.structs.replace(PLAN, connect_seconds=0.5))
    group.run()
    hello = {
        "type": "hello",
        "from_": 1,
        "request": 77,
        "setting": {
            "epoch": [1, 2],
            "cell": msgspec.to_builtins(msgspec.structs.replace(CELL, **changes)),
            "plan": msgspec.to_builtins(PLAN),
        },
    }
    group.deliver(group.members[1], encode(Epoch(1, 2), (), msgspec.json.encode(hello)).join())
    group.wait()
    assert len(group.rejected) == 1
    assert next(iter(changes.values())) in group.rejected[0]
    assert group.members[1].failure is None
    assert group.members[1].epoch == Epoch(1, 1)
    assert group.run(epoch=Epoch(1, 3)).verified


def test_an_answer_that_nobody_asked_for_changes_nothing() -> None:
    group = Group()
    group.run()
    answer = msgspec.json.encode({"type": "answer", "from_": 2, "request": 123456, "report": None})
    group.deliver(group.members[0], encode(Epoch(1, 1), (), answer).join())
    assert group.members[0].failure is None
    assert group.run(epoch=Epoch(1, 2)).verified
