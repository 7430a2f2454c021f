"""Arrivals at their times, whatever the system does; latency from when each was meant to begin."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rafttoy.cell import Cell, Plan
from rafttoy.randomness import SeededRandomness
from rafttoy.real.runtime import RealClock, RealTasks
from rafttoy.workload import LATE_NS, OpenLoop, make_load
from tests.workload.server import MS, US, Server, World
from tests.workload.test_closed_loop import run

TICK_NS = int(Plan().tick_seconds * 1e9)


def make_open(world: World, server: Server, plan: Plan, rate: float, arrival: str = "poisson") -> OpenLoop:
    load = make_load(world.ports, Cell(conc=0, rate=rate, arrival=arrival), plan, server.propose, content=False)
    assert isinstance(load, OpenLoop)
    return load


def arrivals(server: Server) -> np.ndarray:
    """The intended times of all that was proposed."""
    for _, count, token in server.calls:
        assert count == len(token)
    return np.concatenate([token for _, _, token in server.calls])


def test_poisson_arrivals() -> None:
    world = World()
    server = Server(world, lambda round: 10 * US)
    run(world, make_open(world, server, Plan(seconds=20.0, warmup_seconds=0.0), 2000))
    times = arrivals(server)
    gaps = np.diff(times)
    expected = 40_000
    assert abs(len(times) - expected) < 5 * expected**0.5
    assert gaps.min() >= 0
    assert gaps.mean() == pytest.approx(500 * US, rel=0.03)
    assert gaps.std() / gaps.mean() == pytest.approx(1.0, abs=0.03)  # of an exponential distribution
    assert np.median(gaps) / gaps.mean() == pytest.approx(np.log(2), abs=0.02)
    assert abs(np.corrcoef(gaps[:-1], gaps[1:])[0, 1]) < 0.02  # each is drawn anew, from one chunk to the next


def test_constant_arrivals() -> None:
    world = World()
    server = Server(world, lambda round: 10 * US)
    run(world, make_open(world, server, Plan(seconds=10.0, warmup_seconds=0.0), 1500, "constant"))
    times = arrivals(server)
    assert abs(len(times) - 15_000) <= 1
    assert np.abs(times - np.arange(1, len(times) + 1) * (1e9 / 1500)).max() <= 5  # rounding does not add up


@pytest.mark.parametrize("arrival", ["poisson", "constant"])
def test_an_arrival_is_released_within_a_tick_of_its_time_and_not_before(arrival: str) -> None:
    world = World()
    server = Server(world, lambda round: 10 * US)
    run(world, make_open(world, server, Plan(seconds=2.0, warmup_seconds=0.0), 3000, arrival))
    for when_ns, _, token in server.calls:
        assert token.max() <= when_ns
        assert token.min() > when_ns - TICK_NS


def test_arrivals_that_are_due_are_released_when_the_client_has_its_turn() -> None:
    """Not only at the next tick: a round that ends takes all along that came while it lasted."""
    world = World()
    server = Server(world, lambda round: 1300 * US)
    run(world, make_open(world, server, Plan(seconds=1.0, warmup_seconds=0.0), 20_000, "constant"))
    newest = [when_ns - token.max() for when_ns, _, token in server.calls]
    assert np.quantile(newest, 0.98) < 50 * US  # but where one draw of arrivals ends within it, which leaves the rest to the next tick
    assert len({when_ns % TICK_NS for when_ns, _, _ in server.calls}) > 5


def test_what_came_since_the_turn_goes_along_when_the_proposals_are_taken() -> None:
    """A peer that acknowledges early in a round has a turn for its client then, and takes what is proposed at the end."""
    world = World()
    taken: list[list[int]] = []
    proposed: list[Any] = []
    load = make_load(
        world.ports,
        Cell(conc=0, rate=10_000, arrival="constant"),
        Plan(seconds=1.0, warmup_seconds=0.0),
        lambda client, token, payloads: proposed.append(token),
        content=False,
    )

    async def main() -> None:
        load.start()
        for _ in range(3):
            await world.clock.sleep_ns(MS)
            load.turn()
            await world.clock.sleep_ns(MS // 2)
            load.top_up()
            taken.append(sorted(round(when / 1e5) for token in proposed for when in token))
            proposed.clear()

    world.spawn(main())
    world.run(until_ns=10 * MS)
    assert taken == [list(range(1, 16)), list(range(16, 31)), list(range(31, 46))]
    assert load.outstanding == 45


def test_the_generator_leaves_the_loop_alone_between_ticks() -> None:
    """A loop that never sleeps keeps its disk thread waiting for the interpreter's lock."""
    world = World()
    server = Server(world, lambda round: 5 * MS)
    load = make_open(world, server, Plan(seconds=1.0, warmup_seconds=0.0), 100_000)
    run(world, load)
    assert load.ops == pytest.approx(100_000, rel=0.02)
    assert len(server.calls) <= 1000 * MS / TICK_NS + 1000 / 5 + 1


def test_the_generator_sleeps_even_where_arrivals_are_as_close_as_a_release_is_long() -> None:
    """At 100,000 a second the next one is always due by then: the generator turned all the time, with batches of a few."""
    slept: list[int] = []

    class Slow:
        """Whoever looks at it has needed 20 us since."""

        def __init__(self) -> None:
            self.time_ns = 0

        def now_ns(self) -> int:
            self.time_ns += 20 * US
            return self.time_ns

        async def sleep_ns(self, duration_ns: int) -> None:
            slept.append(duration_ns)
            self.time_ns += duration_ns
            if len(slept) == 100:
                load.stop()

    proposed: list[int] = []
    ports: Any = SimpleNamespace(clock=Slow(), tasks=None, random=SeededRandomness(1, 1))
    plan = Plan(seconds=10.0, warmup_seconds=0.0)
    load = make_load(ports, Cell(conc=0, rate=100_000), plan, lambda client, token, batch: proposed.append(batch.count), content=False)
    load.start()
    with pytest.raises(StopIteration):
        load.run().send(None)
    assert min(slept) >= TICK_NS
    assert np.mean(proposed) == pytest.approx(100_000 * (TICK_NS + 40 * US) / 1e9, rel=0.1)


def test_the_system_does_not_slow_the_arrivals_down() -> None:
    """Twice what it can do: they queue up."""
    world = World()
    server = Server(world, lambda round: MS, most=1)
    load = make_open(world, server, Plan(seconds=1.0, warmup_seconds=0.0), 2000, "constant")
    run(world, load)
    assert load.ops == pytest.approx(1000, abs=2)
    assert server.most_in_flight >= 999
    assert load.latency.summary().max == pytest.approx(500 * MS, rel=0.01)  # grows by half a millisecond a millisecond
    assert load.latency.summary().p50 == pytest.approx(250 * MS, rel=0.02)
    assert load.late == 0


def test_a_stall_of_the_system_shows_in_every_latency_that_it_touched() -> None:
    """300 ms of 2 s at 1000/s: 300 proposals wait, from 300 ms down to nothing. A tester that waited with the system would see one."""
    world = World()
    stalled = []

    def service(round: int) -> int:
        if world.clock.now_ns() >= 1000 * MS and not stalled:
            stalled.append(round)
            return 300 * MS
        return 100 * US

    server = Server(world, service)
    load = make_open(world, server, Plan(seconds=2.0, warmup_seconds=0.0), 1000, "constant")
    run(world, load)
    slow = sum(weight for value, weight in load.latency.buckets() if value > 150 * MS)
    assert abs(slow - 150) <= 2
    assert load.latency.summary().max == pytest.approx(300 * MS, rel=0.01)
    assert load.latency.quantiles([0.5])[0] < MS
    assert load.late == 0  # the arrivals themselves were punctual


def test_a_stall_of_the_loop_that_releases_them_is_latency_and_is_counted_as_late() -> None:
    world = World()
    server = Server(world, lambda round: 100 * US)
    load = make_open(world, server, Plan(seconds=1.0, warmup_seconds=0.0), 1000, "constant")

    async def stall() -> None:
        await world.clock.sleep_ns(500 * MS + 500 * US)
        world.loop.charge(200 * MS)

    world.spawn(stall())
    run(world, load)
    assert load.late == 200 - LATE_NS // MS
    slow = sum(weight for value, weight in load.latency.buckets() if value > 100 * MS)
    assert abs(slow - 100) <= 1
    released = [len(token) for _, _, token in server.calls]
    assert max(released) == 200  # all at once
    assert load.latency.summary().max == pytest.approx(200 * MS, rel=0.01)


def test_arrivals_of_the_warm_up_count_neither_as_latency_nor_as_late() -> None:
    world = World()
    server = Server(world, lambda round: 100 * US)
    load = make_open(world, server, Plan(seconds=1.0, warmup_seconds=0.5), 1000, "constant")

    async def stall() -> None:
        await world.clock.sleep_ns(100 * MS)
        world.loop.charge(200 * MS)

    world.spawn(stall())
    run(world, load)
    assert load.late == 0
    assert load.latency.summary().max < MS
    assert load.started_ns >= 500 * MS
    assert load.ops == pytest.approx(1000, abs=2)
    assert load.total == pytest.approx(1500, abs=2)


def test_a_lost_arrival_is_counted_and_not_made_up_for() -> None:
    world = World()
    server = Server(world, lambda round: 10 * US, loses=lambda round: round % 4 == 1)
    load = make_open(world, server, Plan(seconds=1.0, warmup_seconds=0.0), 500, "constant")

    async def retry() -> None:
        while True:
            await world.clock.sleep_ns(20 * MS)
            load.retry()

    world.spawn(retry())
    run(world, load)
    assert server.proposed == pytest.approx(500, abs=2)
    assert load.losses == pytest.approx(125, abs=2)
    assert load.ops + load.losses + load.outstanding == pytest.approx(server.proposed, abs=1)


def test_it_ends_after_a_count() -> None:
    world = World()
    server = Server(world, lambda round: 10 * US)
    load = make_open(world, server, Plan(proposals=321, warmup_seconds=0.0), 5000)
    run(world, load)
    assert load.ops == 321


def test_a_partial_acknowledgement_counts_its_own_arrivals() -> None:
    """Of a batch released together, with different intended times, each has its own latency."""
    world = World()
    server = Server(world, lambda round: 10 * MS, most=3)
    load = make_open(world, server, Plan(proposals=12, warmup_seconds=0.0), 1e6, "constant")
    run(world, load)
    rounds = np.repeat([1, 2, 3, 4], 3)  # the first one begins a tick after the load, and a thousand have arrived
    expected = TICK_NS + rounds * 10 * MS - np.arange(1, 13) * US
    told = [value for value, weight in load.latency.buckets() for _ in range(weight)]
    assert load.ops == 12
    assert told == pytest.approx(sorted(expected), rel=0.002)


# --- both worlds ---


def run_real(rate: float, seconds: float, seed: int = 1) -> tuple[int, list[Any], OpenLoop]:
    """(begin, intended times, the load) on a real clock, with a system that acknowledges at once."""
    tokens: list[Any] = []
    loads: list[OpenLoop] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        ports: Any = SimpleNamespace(clock=RealClock(), tasks=RealTasks(loop), random=SeededRandomness(seed, 1))

        def propose(client: Any, token: Any, payloads: Any) -> None:
            tokens.append(token)
            loop.call_soon(client.acknowledged, token, 0, payloads.count)
            loop.call_soon(client.turn)

        load = make_load(ports, Cell(conc=0, rate=rate), Plan(seconds=seconds, warmup_seconds=0.0), propose, content=True)
        assert isinstance(load, OpenLoop)
        loads.append(load)
        load.start()
        await load.run()

    asyncio.run(main())
    return loads[0].started_ns, tokens, loads[0]


def test_the_same_seed_gives_the_same_arrivals_in_both_worlds() -> None:
    begin_ns, tokens, load = run_real(4000, 0.25, seed=9)
    real = np.concatenate(tokens) - begin_ns
    world = World(seed=9)
    server = Server(world, lambda round: 10 * US)
    run(world, make_open(world, server, Plan(seconds=5.0, warmup_seconds=0.0), 4000))
    simulated = arrivals(server)
    assert len(real) > 500
    assert (real == simulated[: len(real)]).all()
    other = World(seed=10)
    server = Server(other, lambda round: 10 * US)
    run(other, make_open(other, server, Plan(seconds=1.0, warmup_seconds=0.0), 4000))
    assert not (arrivals(server)[:100] == simulated[:100]).any()
    assert load.ops <= len(real)


def test_a_rate_beyond_all_capacity_does_not_shut_out_the_others() -> None:
    """Arrivals come faster than they can even be made. The load still ends at its time, with all that was late counted."""
    _, tokens, load = run_real(1e10, 0.05)
    assert load.ended_ns
    assert load.ops > 0
    assert load.late > 0
    assert len(tokens) > 1
