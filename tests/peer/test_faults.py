"""Disks that fail, networks that part, peers that die, on simulated hosts: who stops, who goes on, and what is never acknowledged."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from rafttoy.cell import Cell, Plan
from rafttoy.errors import RafttoyError, RunError, StorageError
from rafttoy.member import Member
from rafttoy.peer import RaftOptions
from rafttoy.pipeline import PIPELINES
from rafttoy.ports import Packet
from rafttoy.proposal import AcknowledgedRun
from rafttoy.raft import Payloads, RawNode
from rafttoy.run import run_cell
from rafttoy.sim.files import DiskFaults
from rafttoy.sim.world import SimWorld
from rafttoy.wire import Epoch
from tests.pipeline.group import KINDS, MODEL, cell_of, complete

MS = 1_000_000
PLAN = Plan(seconds=0.06, warmup_seconds=0.0, connect_seconds=0.6)
DURABLE = [kind for kind in KINDS if kind[1] != "mem"]
FILE = ("split", "file", "mem")
CASES = [(pipeline, FILE) for pipeline in PIPELINES]
CASES += [(pipeline, kind) for pipeline in ("basic", "async-apply", "async-storage") for kind in DURABLE if kind != FILE]
every_case = pytest.mark.parametrize(("pipeline", "kind"), CASES, ids=[f"{pipeline}-{'+'.join(kind)}" for pipeline, kind in CASES])


class Group:
    """A group under load. `acknowledged` and `sent` hold the (simulated) time of each event."""

    def __init__(self, cell: Cell, plan: Plan = PLAN, seed: int = 1, options: RaftOptions | None = None) -> None:
        self.cell, self.plan = cell, plan
        self.world = SimWorld(MODEL, "tcp", seed)
        for id in range(1, cell.nodes + 1):
            self.world.add_member(id, cell.nodes, cell, plan, options=options)
        self.members = self.world.start(cell, plan)
        self.acknowledged: list[int] = []
        self.sent: dict[int, list[int]] = {member.id: [] for member in self.members}
        self.failed_at: dict[int, int] = {}
        self.members[0].on_acknowledged = self._note
        for member in self.members:
            self._watch_sends(member)
            self._watch_failure(member)

    def now_ns(self) -> int:
        return int(self.world.env.now)

    def _note(self, run: AcknowledgedRun) -> None:
        self.acknowledged.append(self.now_ns())

    def _watch_sends(self, member: Member) -> None:
        for other in self.members:
            if other is not member:
                stream = member.ports.links.stream(other.id)

                def send(packet: Packet, send: Callable[[Packet], None] = stream.send) -> None:
                    self.sent[member.id].append(self.now_ns())
                    send(packet)

                stream.send = send  # type: ignore[method-assign]

    def _watch_failure(self, member: Member) -> None:
        member.on_failure(lambda error: self.failed_at.setdefault(member.id, self.now_ns()))

    def when_loaded(self, what: Any, after_ns: int = 10 * MS) -> None:
        """Does `what` so long after the load began."""
        clock = self.members[0].ports.clock

        async def wait() -> None:
            while self.members[0].peer is None or self.members[0].peer.client is None:
                await clock.sleep_ns(MS)
            await clock.sleep_ns(after_ns)
            what()

        self.members[0].ports.tasks.spawn(wait(), "fault")

    def run(self) -> Any:
        return complete(self.world, run_cell(self.members[0], self.cell, self.plan, Epoch(1, 1), content=True))


def inject(member: Member, **faults: Any) -> None:
    injected = DiskFaults()
    for name, value in faults.items():
        setattr(injected, name, value)
    member.ports.files.faults = injected  # type: ignore[attr-defined]
    member.ports.kv.faults = injected  # type: ignore[attr-defined]


@pytest.mark.parametrize("fault", ["fail_sync", "fail_write"])
@every_case
def test_a_leader_whose_disk_fails_stops_and_acknowledges_nothing_more(pipeline: str, kind: tuple[str, str, str], fault: str) -> None:
    group = Group(cell_of(kind, pipeline=pipeline))
    group.when_loaded(lambda: inject(group.members[0], **{fault: 2}))
    with pytest.raises(StorageError, match="Input/output error"):
        group.run()
    end_ns = group.failed_at[1]
    group.world.env.run(until=end_ns + 3000 * MS)
    assert group.acknowledged
    assert max(group.acknowledged) <= end_ns
    assert max(group.sent[1]) <= end_ns
    assert list(group.failed_at) == [1]  # the others live on


@pytest.mark.parametrize("fault", ["fail_sync", "fail_write"])
@every_case
def test_a_follower_whose_disk_fails_stops_and_the_run_goes_on(pipeline: str, kind: tuple[str, str, str], fault: str) -> None:
    group = Group(cell_of(kind, pipeline=pipeline))
    group.when_loaded(lambda: inject(group.members[2], **{fault: 2}))
    m = group.run()
    assert not m.partial
    assert "no report from peer 3" in m.warnings
    assert "lost the connection to peer 3 1 time(s)" in m.warnings
    assert m.failed == 0
    end_ns = group.failed_at[3]
    assert isinstance(group.members[2].failure, StorageError)
    assert max(group.sent[3]) <= end_ns  # it answers nobody any more
    assert max(group.acknowledged) > end_ns + 20 * MS


def test_what_the_others_hold_can_be_verified_without_the_one_that_failed() -> None:
    group = Group(cell_of(("split", "file", "mem")), plan=msgspec.structs.replace(PLAN, verify=True))
    group.when_loaded(lambda: inject(group.members[2], fail_sync=2))
    assert group.run().verified


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_two_of_three_disks_that_fail_end_the_run(pipeline: str) -> None:
    group = Group(cell_of(("split", "file", "mem"), pipeline=pipeline))
    for id in (2, 3):
        group.when_loaded(lambda id=id: inject(group.members[id - 1], fail_sync=0), after_ns=id * 10 * MS)
    with pytest.raises(RunError, match=r"nothing was acknowledged for 0\.6 s: no quorum \(connections lost: 2, 3\)"):
        group.run()
    assert max(group.acknowledged) <= group.failed_at[3]
    assert group.members[0].failure is None


def test_a_full_disk_is_named() -> None:
    group = Group(cell_of(("split", "file", "mem"), bytes=100_000, conc=32), plan=msgspec.structs.replace(PLAN, seconds=5.0))
    used = []

    def fill() -> None:
        used.append(group.members[0].ports.files.store.used_bytes())  # type: ignore[attr-defined]
        inject(group.members[0], full_bytes=used[0])

    group.when_loaded(fill)
    with pytest.raises(StorageError, match="No space left on device"):
        group.run()


def test_a_single_peer_never_acknowledges_what_its_disk_lost() -> None:
    for nth in range(4):
        group = Group(cell_of(("split", "file", "mem"), nodes=1, conc=4))
        group.when_loaded(lambda nth=nth, group=group: inject(group.members[0], fail_sync=nth))
        with pytest.raises(StorageError):
            group.run()
        group.world.env.run(until=group.now_ns() + 1000 * MS)
        assert max(group.acknowledged) <= group.failed_at[1]


@pytest.mark.parametrize("pipeline", ["basic", "async-apply-early-ack", "async-storage"])
def test_a_slow_disk_slows_down_and_changes_nothing_else(pipeline: str) -> None:
    group = Group(cell_of(("split", "file", "mem"), pipeline=pipeline))
    group.when_loaded(lambda: inject(group.members[0], stall_ns=20 * MS))
    m = group.run()
    assert m.ops > 0
    assert m.warnings == []
    assert group.failed_at == {}


def test_whoever_runs_a_member_finds_its_failure_as_soon_as_it_has_ended() -> None:
    """And not just a peer that is gone, as if another run had taken its place."""
    cell = cell_of(FILE, nodes=1, conc=1)
    world = SimWorld(MODEL, "tcp", seed=1)
    member = world.add_member(1, 1, cell, PLAN)
    seen: list[tuple[BaseException, BaseException | None]] = []

    async def serve() -> None:  # as a task of the world's own, not of the member's
        try:
            await member.serve()
        except StorageError as error:
            seen.append((error, member.failure))

    async def main() -> None:
        world.env.process(serve())  # type: ignore[arg-type]
        await member.lead(Epoch(1, 1), cell, PLAN)
        inject(member, fail_sync=0)
        assert member.peer is not None
        member.peer.propose(Clerk(), None, Payloads.sized(1, 10))
        while not seen:
            await member.ports.clock.sleep_ns(MS)

    complete(world, main())
    ((error, failure),) = seen
    assert failure is error


class Clerk:
    """Proposes once, and wants nothing more."""

    def acknowledged(self, token: Any, skip: int, count: int) -> None:
        raise AssertionError

    def failed(self, token: Any, skip: int, count: int) -> None:
        pass

    def turn(self) -> None:
        raise AssertionError


# --- the network ---


def part(group: Group, *ids: int) -> None:
    """Cuts these peers off from all others."""
    for member in group.members:
        for id in ids:
            if member.id not in ids:
                group.world.network.cut |= {(id, member.id), (member.id, id)}


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_follower_that_is_cut_off_catches_up(pipeline: str) -> None:
    plan = msgspec.structs.replace(PLAN, seconds=1.0, connect_seconds=3.0, verify=True)
    group = Group(cell_of(("split", "file", "mem"), pipeline=pipeline, conc=0, rate=500.0), plan=plan)
    group.when_loaded(lambda: part(group, 3), after_ns=100 * MS)
    group.when_loaded(group.world.network.cut.clear, after_ns=500 * MS)
    m = group.run()
    assert m.verified
    assert sorted(m.reports) == [1, 2, 3]
    assert m.failed == 0  # a quorum was there all the time


def test_a_leader_that_is_cut_off_acknowledges_nothing_and_tells_what_it_lost() -> None:
    group = Group(cell_of(("split", "file", "mem")))
    cut_at = []

    def cut() -> None:
        part(group, 1)
        cut_at.append(group.now_ns())

    group.when_loaded(cut)
    m = group.run()
    assert m.failed > 0
    assert any("proposals failed: the leadership was lost" in warning for warning in m.warnings)
    assert max(group.acknowledged) <= cut_at[0] + MS  # what had come by then


def test_a_leader_that_is_cut_off_for_long_comes_back_and_goes_on() -> None:
    """The others elect one of themselves; the lost proposals are told as lost, and the run takes the leadership back."""
    plan = msgspec.structs.replace(PLAN, seconds=8.0, connect_seconds=10.0, verify=True)
    group = Group(cell_of(("split", "file", "mem"), conc=0, rate=100.0), plan=plan)
    group.when_loaded(lambda: part(group, 1), after_ns=300 * MS)
    group.when_loaded(group.world.network.cut.clear, after_ns=4300 * MS)
    m = group.run()
    assert m.verified
    assert not m.partial
    assert m.failed > 0
    assert any("proposals failed: the leadership was lost" in warning for warning in m.warnings)
    assert max(group.acknowledged) > 6000 * MS
    assert [member.failure for member in group.members] == [None] * 3


def test_every_error_of_a_run_is_one_of_ours() -> None:
    assert issubclass(StorageError, RafttoyError)
    assert issubclass(RunError, RafttoyError)


def hold_up(member: Member, step: str, duration_ns: int) -> None:
    """Has the next `step` of this member's storage (`apply`, `save`) wait for so long, as a store does that has to merge tables first."""
    storage, usual = member.storage, getattr(member.storage, step)

    async def held_up(*args: Any, **kwargs: Any) -> None:
        setattr(storage, step, usual)
        await member.ports.clock.sleep_ns(duration_ns)
        await usual(*args, **kwargs)

    setattr(storage, step, held_up)


def test_a_leader_whose_store_holds_it_up_for_seconds_goes_on() -> None:
    """The others elect one of themselves meanwhile, and the run takes the leadership back."""
    plan = msgspec.structs.replace(PLAN, seconds=8.0, verify=True)
    group = Group(cell_of(("split", "file", "mem"), conc=0, rate=100.0), plan=plan)
    group.when_loaded(lambda: hold_up(group.members[0], "apply", 5000 * MS), after_ns=300 * MS)
    m = group.run()
    assert m.verified
    assert max(group.acknowledged) > 7000 * MS


def test_ticks_that_come_while_a_store_holds_the_peer_up_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks: Counter[int] = Counter()
    tick = RawNode.tick

    def counted(node: RawNode) -> None:
        ticks[node.raft.id] += 1
        tick(node)

    monkeypatch.setattr(RawNode, "tick", counted)
    group = Group(cell_of(("split", "file", "mem"), conc=0, rate=100.0), plan=msgspec.structs.replace(PLAN, seconds=3.0))
    group.when_loaded(lambda: hold_up(group.members[2], "apply", 2000 * MS), after_ns=300 * MS)
    group.run()
    assert ticks[2] - ticks[3] == pytest.approx(2000 / 100, abs=2)


def test_a_store_that_never_goes_on_ends_the_run() -> None:
    group = Group(cell_of(("split", "file", "mem")))
    group.when_loaded(lambda: hold_up(group.members[0], "apply", 3600_000 * MS), after_ns=10 * MS)
    with pytest.raises(RunError, match="nothing was acknowledged for 60 s, and no connection was lost: a disk or a store hangs"):
        group.run()


def test_followers_whose_stores_hold_them_up_for_longer_than_connections_may_take_do_not_end_the_run() -> None:
    """They answer nobody, so the leader steps down; all are connected, so it is waited for them."""
    plan = msgspec.structs.replace(PLAN, seconds=14.0, verify=True)
    group = Group(cell_of(("split", "file", "mem"), conc=0, rate=100.0), plan=plan)
    for id in (2, 3):
        group.when_loaded(lambda id=id: hold_up(group.members[id - 1], "apply", 12_000 * MS), after_ns=300 * MS)
    m = group.run()
    assert m.verified
    assert max(group.acknowledged) > 12_300 * MS


# --- followers that lag ---

SMALL = RaftOptions(keep_log_bytes=20_000, quota_bytes=400_000)
"""Logs on disk keep 64 times 20 kB for an engine in memory, and eight times that for one who lags."""


def lag_bytes(group: Group, id: int) -> int:
    """What this peer's log lacks of the leader's, by payload."""
    return group.cell.bytes * (group.members[0].storage.log.last_index() - group.members[id - 1].storage.log.last_index())


def watch_lag(group: Group, id: int) -> list[int]:
    """Its lag each millisecond, from the load's begin on."""
    seen: list[int] = []

    async def look() -> None:
        while True:
            seen.append(lag_bytes(group, id))
            await group.members[0].ports.clock.sleep_ns(MS)

    group.when_loaded(lambda: group.members[0].ports.tasks.spawn(look(), "look"))
    return seen


@pytest.mark.parametrize("pipeline", ["basic", "async-apply", "async-storage"])
def test_a_leader_waits_for_a_follower_that_is_held_up(pipeline: str) -> None:
    """As long as it lacks more than the quota: two of three would go on without it, until only a snapshot could help."""
    plan = msgspec.structs.replace(PLAN, seconds=2.0, verify=True)
    cell = cell_of(FILE, pipeline=pipeline, conc=2, bytes=4000)
    lags = {}
    for quota in (SMALL.quota_bytes, 1 << 40):
        group = Group(cell, plan, options=msgspec.structs.replace(SMALL, quota_bytes=quota))
        group.when_loaded(lambda group=group: hold_up(group.members[2], "save", 1000 * MS), after_ns=300 * MS)
        lag = watch_lag(group, 3)
        m = group.run()
        assert m.verified
        assert m.warnings == []
        assert max(group.acknowledged) > 1800 * MS
        lags[quota] = max(lag)
    between_ticks = 0.1 * m.ops / m.seconds * cell.bytes
    assert SMALL.quota_bytes / 2 < lags[SMALL.quota_bytes] < SMALL.quota_bytes + 2 * between_ticks
    assert lags[1 << 40] > 3 * lags[SMALL.quota_bytes]


@pytest.mark.parametrize("gone", ["killed", "silent"])
def test_a_follower_that_is_gone_does_not_stop_the_others(gone: str) -> None:
    """One whose connection is lost at once; one that only says nothing (its store hangs) after half a minute."""
    seconds, rate = (3.0, 2000.0) if gone == "killed" else (40.0, 200.0)
    plan = msgspec.structs.replace(PLAN, seconds=seconds, connect_seconds=3.0)
    group = Group(cell_of(FILE, conc=0, rate=rate, bytes=1000), plan, options=SMALL)
    if gone == "killed":
        group.when_loaded(lambda: inject(group.members[2], fail_sync=0), after_ns=300 * MS)
    else:
        group.when_loaded(lambda: hold_up(group.members[2], "save", 3600_000 * MS), after_ns=300 * MS)
    group.run()
    assert lag_bytes(group, 3) > 4 * SMALL.quota_bytes
    pause_ns = max(b - a for a, b in itertools.pairwise(group.acknowledged))
    assert max(group.acknowledged) > (seconds - 0.5) * 1e9
    assert pause_ns < 1000 * MS if gone == "killed" else 20_000 * MS < pause_ns < 31_000 * MS


@pytest.mark.parametrize("fits", [True, False])
def test_who_lacks_what_the_log_no_longer_holds_gets_a_snapshot_once_it_is_back(fits: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not before: to make one takes the leader as long as its content is large. One that no message could carry is not made."""
    if not fits:
        monkeypatch.setattr("rafttoy.storage.split.SNAPSHOT_LIMIT_BYTES", 1000)
    plan = msgspec.structs.replace(PLAN, seconds=4.0, connect_seconds=3.0)
    group = Group(cell_of(("leveldb", "leveldb", "leveldb"), conc=0, rate=2000.0, bytes=1000), plan, options=SMALL)
    leader, away = group.members[0], group.members[2]
    asked: list[int] = []
    installed: list[int] = []

    def cut() -> None:
        create, install = leader.storage.create_snapshot, away.storage.install_snapshot

        async def noted_create() -> Any:
            asked.append(group.now_ns())
            return await create()

        async def noted_install(snapshot: Any, hard_state: Any) -> None:
            installed.append(snapshot.index)
            await install(snapshot, hard_state)

        leader.storage.create_snapshot, away.storage.install_snapshot = noted_create, noted_install
        part(group, 3)
        assert leader.peer is not None
        leader.peer.unreachable(3)

    group.when_loaded(cut, after_ns=300 * MS)
    group.when_loaded(group.world.network.cut.clear, after_ns=3000 * MS)
    m = group.run()
    assert asked
    assert min(asked) > 3000 * MS
    if fits:
        assert installed
        assert lag_bytes(group, 3) < SMALL.quota_bytes
        assert m.warnings == []
    else:
        assert len(asked) == 1  # nor tried again
        assert away.storage.log.last_index() < leader.storage.log.first_index()
        assert any("larger than a snapshot may be" in warning for warning in m.warnings)


def test_a_follower_that_is_behind_is_sent_a_window_at_a_time() -> None:
    """Not all that it lacks at once, which the leader would have to hold."""
    window = 300_000
    options = msgspec.structs.replace(SMALL, quota_bytes=1 << 40, max_message_bytes=100_000, max_inflight_bytes=window)
    plan = msgspec.structs.replace(PLAN, seconds=3.0, connect_seconds=3.0, verify=True)
    group = Group(cell_of(FILE, conc=0, rate=2000.0, bytes=1000), plan, options=options)
    stream = group.members[0].ports.links.stream(3)
    send = stream.send
    unanswered: list[int] = []

    def counted(packet: Packet) -> None:
        send(packet)
        if group.members[0].peer is not None and (progress := group.members[0].peer.node.progress(3)) is not None:
            unanswered.append(group.cell.bytes * (progress.next - 1 - progress.match) if progress.match else 0)

    stream.send = counted  # type: ignore[method-assign]
    group.when_loaded(lambda: hold_up(group.members[2], "save", 1500 * MS), after_ns=300 * MS)
    lag = watch_lag(group, 3)
    assert group.run().verified
    assert max(lag) > 5 * window
    assert window / 2 < max(unanswered) < window + 2 * options.max_message_bytes
