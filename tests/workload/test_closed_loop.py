"""N workers with one proposal each, at a cost per batch: the same figures as N tasks would give."""

from __future__ import annotations

from typing import Any

import pytest

from rafttoy.cell import Cell, Plan
from rafttoy.observe import Histogram
from rafttoy.raft import Payloads
from rafttoy.workload import ClosedLoop, OpenLoop, make_load
from tests.workload.server import MS, US, Server, World, lognormal_service


def make_closed(world: World, server: Server, plan: Plan, conc: int) -> ClosedLoop:
    load = make_load(world.ports, Cell(conc=conc), plan, server.propose, content=False)
    assert isinstance(load, ClosedLoop)
    return load


def run(world: World, load: Any, until_ns: int = 3600 * 1000 * MS) -> None:
    """From now to the load's end, and a while beyond it."""
    load.start()
    world.spawn(load.run())

    async def watch() -> None:
        await load.done.wait()
        await world.clock.sleep_ns(1000 * MS)
        ended.append(True)

    ended: list[bool] = []
    world.spawn(watch())
    while not ended and world.clock.now_ns() < until_ns:
        world.run(world.clock.now_ns() + 100 * MS)
    assert ended, "the load did not end"


@pytest.mark.parametrize("conc", [1, 7, 64])
@pytest.mark.parametrize("most", [5, 1 << 30])
def test_never_more_than_its_workers_are_outstanding(conc: int, most: int) -> None:
    world = World()
    server = Server(world, lognormal_service(1), most)
    load = make_closed(world, server, Plan(proposals=2000, warmup_seconds=0.1), conc)
    run(world, load)
    assert server.most_in_flight == conc
    assert server.calls[0] == (0, conc, 0)  # all of them begin at once
    assert load.outstanding == 0
    assert load.drained()


class Worker:
    """One task of a naive closed loop: propose, wait, note how long it took, propose again."""

    def __init__(self, world: World, server: Server, seen: list[tuple[int, int]]) -> None:
        self._world, self._server, self._seen = world, server, seen
        self._told: Any = None
        world.spawn(self._run())

    async def _run(self) -> None:
        clock = self._world.clock
        while True:
            begin_ns = clock.now_ns()
            self._told = self._world.tasks.future()
            self._server.propose(self, begin_ns, Payloads.sized(1, 10))
            await self._told
            self._seen.append((clock.now_ns(), clock.now_ns() - begin_ns))

    def acknowledged(self, token: int, skip: int, count: int) -> None:
        assert (skip, count) == (0, 1)

    def failed(self, token: int, skip: int, count: int) -> None:
        raise AssertionError

    def turn(self) -> None:
        self._told.set_result(None)


@pytest.mark.parametrize("conc", [1, 16, 100])
@pytest.mark.parametrize("most", [1, 9, 1 << 30], ids=["one by one", "nine at a time", "all at once"])
def test_latencies_are_those_of_one_task_a_worker(conc: int, most: int) -> None:
    """Proposal for proposal, for a system that acknowledges in pieces of any size."""
    world = World()
    server = Server(world, lognormal_service(2), most)
    load = make_closed(world, server, Plan(proposals=3000, warmup_seconds=0.001), conc)
    run(world, load)

    naive_world = World()
    naive_server = Server(naive_world, lognormal_service(2), most)
    seen: list[tuple[int, int]] = []
    for _ in range(conc):
        Worker(naive_world, naive_server, seen)
    naive_world.run(load.ended_ns + 1)

    naive = Histogram()
    in_window = [latency_ns for when_ns, latency_ns in seen if load.started_ns < when_ns <= load.ended_ns]
    naive.extend(in_window)
    assert load.latency.summary() == naive.summary()
    assert load.latency.buckets() == naive.buckets()
    assert load.ops == len(in_window)


def test_what_is_acknowledged_in_the_warm_up_does_not_count() -> None:
    """The system takes 50 ms at first, 1 ms after a second."""
    world = World()
    server = Server(world, lambda round: 50 * MS if world.clock.now_ns() < 1000 * MS else MS)
    measured: list[int] = []
    load = make_closed(world, server, Plan(seconds=2.0, warmup_seconds=1.2), 4)
    load.on_measure = lambda: measured.append(world.clock.now_ns())
    run(world, load)
    assert measured == [load.started_ns]
    assert 1200 * MS <= load.started_ns < 1202 * MS
    assert load.latency.summary().max == pytest.approx(MS, rel=0.01)
    assert load.ops == load.latency.summary().count < load.total
    assert load.ops / ((load.ended_ns - load.started_ns) / 1e9) == pytest.approx(4000, rel=0.01)


def test_without_warm_up_all_counts_from_the_start() -> None:
    world = World()
    server = Server(world, lambda round: MS)
    load = make_closed(world, server, Plan(proposals=100, warmup_seconds=0.0), 10)
    run(world, load)
    assert load.started_ns == 0
    assert load.ops == load.total == 100


@pytest.mark.parametrize(("conc", "most", "ops"), [(1, 1, 1000), (10, 10, 1000), (16, 16, 1008), (64, 7, 1001)])
def test_a_count_is_reached_and_passed_by_less_than_one_acknowledgement(conc: int, most: int, ops: int) -> None:
    world = World()
    server = Server(world, lambda round: 100 * US, most)
    load = make_closed(world, server, Plan(proposals=1000, warmup_seconds=0.0), conc)
    run(world, load)
    assert load.ops == load.latency.summary().count == ops


def test_a_count_leaves_a_tenth_for_the_warm_up() -> None:
    world = World()
    server = Server(world, lambda round: MS)
    load = make_closed(world, server, Plan(proposals=1000, warmup_seconds=1.0), 10)
    run(world, load)
    assert (load.total, load.ops) == (1100, 1000)


def test_a_time_is_reached_and_passed_by_less_than_one_round() -> None:
    world = World()
    server = Server(world, lambda round: 7 * MS)
    load = make_closed(world, server, Plan(seconds=0.5, warmup_seconds=0.1), 3)
    run(world, load)
    assert 500 * MS <= load.ended_ns - load.started_ns <= 508 * MS
    assert load.started_ns // (7 * MS) == 15  # the first round that ends after the warm-up opens the window: the next is in it
    assert load.ops == 3 * (server.rounds - 15)


def test_after_its_end_nothing_is_proposed_or_counted() -> None:
    world = World()
    server = Server(world, lambda round: MS, most=3)
    load = make_closed(world, server, Plan(seconds=0.2, warmup_seconds=0.0), 9)
    run(world, load)  # goes on for a second
    assert all(when_ns <= load.ended_ns for when_ns, _, _ in server.calls)
    assert load.latency.summary().count == load.ops
    assert load.drained()
    load.retry()
    assert all(when_ns <= load.ended_ns for when_ns, _, _ in server.calls)


def test_stop_ends_the_window_now() -> None:
    world = World()
    server = Server(world, lambda round: MS)
    load = make_closed(world, server, Plan(seconds=60.0, warmup_seconds=0.0), 2)
    load.start()
    world.run(300 * MS + 500 * US)
    load.stop()
    ops = load.ops
    world.run(400 * MS)
    assert load.ended_ns == 300 * MS + 500 * US
    assert load.ops == ops
    assert load.outstanding == 0
    load.stop()
    assert load.ended_ns == 300 * MS + 500 * US


def test_workers_whose_proposals_are_lost_propose_again_when_told_to() -> None:
    world = World()
    server = Server(world, lambda round: MS, most=4, loses=lambda round: round % 10 == 3)
    load = make_closed(world, server, Plan(seconds=1.0, warmup_seconds=0.0), 12)

    async def retry() -> None:
        while True:
            await world.clock.sleep_ns(20 * MS)
            assert load.outstanding == server.in_flight <= 12
            load.retry()
            assert load.outstanding == server.in_flight == (12 if load.measuring else server.in_flight)

    world.spawn(retry())
    run(world, load)
    assert load.losses == 4 * sum(1 for round in range(server.rounds) if round % 10 == 3)
    assert load.ops + load.losses <= server.proposed
    assert load.latency.summary().count == load.ops
    assert load.latency.summary().max < 20 * MS  # the time between a loss and the new proposal is no latency


def test_a_system_that_loses_everything_leaves_everyone_waiting() -> None:
    world = World()
    server = Server(world, lambda round: MS, loses=lambda round: True)
    load = make_closed(world, server, Plan(seconds=1.0, warmup_seconds=0.0), 5)
    load.start()
    world.run(2000 * MS)
    assert (server.proposed, load.losses, load.outstanding, load.ops, load.ended_ns) == (5, 5, 0, 0, 0)


def test_batches_are_the_acknowledgements_of_a_round() -> None:
    world = World()
    server = Server(world, lambda round: MS, most=6)
    load = make_closed(world, server, Plan(proposals=600, warmup_seconds=0.0), 30)
    run(world, load)
    summary = load.batches.summary()
    assert (summary.count, summary.mean, summary.max) == (100, 6.0, 6.0)


def test_a_rate_asks_for_an_open_loop() -> None:
    world = World()
    load = make_load(world.ports, Cell(conc=0, rate=10.0), Plan(), lambda *_: None, content=False)
    assert isinstance(load, OpenLoop)
