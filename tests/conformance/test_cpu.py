"""The contract of a peer's processor, in each world; what the simulated one charges, and what the real one samples."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Coroutine
from typing import Any

import numpy as np
import pytest
import simpy

from rafttoy.ports import core_of
from rafttoy.real.runtime import RealCpu
from rafttoy.sim.model import Disk, Hardware, Interruptions, Linear, Meta, Model, Software
from rafttoy.sim.runtime import SLICE_NS, Loop, Pace, SimClock, SimCpu, SimHost, SimTasks, Spread, Stops
from tests.conformance.cpu import Run, Scenario, burn, check_cpu
from tests.conformance.test_clock_tasks import drive

US = 1000


def make_model(cores: int = 2, **stages: Linear) -> Model:
    disk = Disk(sync_us=[100.0, 200.0], byte_ns=1.0, write_us=1.0, handoff_us=1.0)
    return Model(Meta("test"), Hardware(cores, disk, {}), Software(stages, {}))


def run_real(scenario: Scenario) -> None:
    async def main() -> None:
        await scenario(RealCpu())

    asyncio.run(main())


def run_in_sim(scenario: Scenario) -> None:
    loop = Loop(SimHost(simpy.Environment(initial_time=0), cores=2))
    drive(loop, scenario(SimCpu(loop, make_model(work=Linear(fixed_us=10.0)))))  # type: ignore[arg-type]


@pytest.mark.parametrize("run", [run_real, run_in_sim], ids=["real", "sim"])
def test_cpu(run: Run) -> None:
    check_cpu(run)


# --- the simulated one ---


class Host:
    """Peers on one simulated host; `run` gives each its coroutine and says when all have ended."""

    def __init__(self, cores: int, **stages: Linear) -> None:
        self.env = simpy.Environment(initial_time=0)
        self.host = SimHost(self.env, cores)
        self.model = make_model(cores, **stages)

    def peer(self, core: int = -1) -> tuple[Loop, SimCpu, SimTasks]:
        loop = Loop(self.host, core=core)
        return loop, SimCpu(loop, self.model), SimTasks(loop)

    def run(self, *mains: Coroutine[Any, Any, None]) -> int:
        ended = simpy.AllOf(self.env, [self.env.process(main) for main in mains])  # type: ignore[arg-type]
        self.env.run(until=ended)
        return int(self.env.now)


def test_a_stage_costs_what_the_model_says() -> None:
    host = Host(1, work=Linear(fixed_us=2.5, entry_us=0.5, byte_ns=3.0))
    loop, cpu, _ = host.peer()

    async def main() -> None:
        stage = cpu.stage("work")
        await stage.done(stage.start(), 10, 100)

    assert host.run(main()) == 2500 + 5000 + 300
    assert loop.busy_ns == host.host.busy_ns == cpu.records["work"].total_cpu_ns() == 7800
    assert cpu.usage() == (7800, 7800)


def test_what_a_loop_does_beside_a_stage_is_none_of_its_record() -> None:
    """To turn to packets, before they are received."""
    host = Host(1, work=Linear(fixed_us=2.0))
    loop = Loop(host.host)
    cpu = SimCpu(loop, host.model, beside_ns={"work": 30 * US})

    async def main() -> None:
        for name in ("work", "other", "work"):
            stage = cpu.stage(name)
            await stage.done(stage.start())

    assert host.run(main()) == 64 * US
    assert cpu.usage() == (64 * US, 64 * US)
    assert cpu.records["work"].total_cpu_ns() == 4 * US


def test_a_stage_that_the_model_does_not_know_costs_nothing_and_is_told() -> None:
    host = Host(1, work=Linear(fixed_us=1.0))
    _, cpu, _ = host.peer()

    async def main() -> None:
        for name in ("work", "unheard of"):
            stage = cpu.stage(name)
            await stage.done(stage.start(), 10, 100)

    assert host.run(main()) == 1000
    assert cpu.unknown() == ["unheard of"]


def test_a_loop_that_wakes_up_while_no_core_is_idle_waits_for_its_own() -> None:
    """Two long ones are on both cores; the third one ran on core 0 last, and is not moved to core 1, which is free sooner."""
    host = Host(2)
    first, second, third = (host.peer()[0] for _ in range(3))

    async def main() -> None:
        third.charge(1 * US)
        await SimClock(third).sleep_ns(10 * US)
        assert third.core == 0
        first.charge(50 * US)
        second.charge(100 * US)
        assert (first.core, second.core) == (1, 0)
        third.charge(10 * US)
        assert third.free_at_ns == host.env.now + 110 * US
        host.host.free_at_ns[0] = 0
        fourth = host.peer()[0]
        fourth.charge(10 * US)  # one is idle: no need to wait
        assert fourth.free_at_ns == host.env.now + 10 * US

    host.run(main())


def stops(per_s: float, us: list[float], seed: int = 1) -> Stops:
    return Stops(Interruptions(per_s=per_s, us=us), 2, np.random.default_rng(seed))


def test_interruptions_stretch_work_as_often_as_they_come() -> None:
    """A thousand a second of 100 µs each, of a core that always has work: 10 s of it take 11."""
    host = SimHost(simpy.Environment(initial_time=0), 2, stops(1000, [100.0, 100.0]))
    for _ in range(100_000):
        end_ns = host.reserve(host.free_at_ns[0], 100 * US, 0)
    assert end_ns == pytest.approx(11e9, rel=0.02)
    assert host.busy_ns == 10_000_000_000  # what is interrupted is not busy with anything
    idle = SimHost(simpy.Environment(initial_time=0), 1, stops(1000, [100.0, 100.0]))
    late = [idle.reserve(at, 1 * US) - at - 1 * US for at in range(0, 10_000_000_000, 1_000_000)]
    assert 700 < sum(wait > 0 for wait in late) < 1100  # what falls into a gap is nobody's; a tenth of the time is one
    assert max(late) <= 200 * US


def test_few_interruptions_are_long() -> None:
    """One in ten lasts 1 to 2 ms, the others 1 to 100 µs: between the quantiles that are given it is a straight line."""
    tailed = Stops(
        Interruptions(per_s=100.0, us=[1.0, 100.0, 1000.0, 2000.0], percent=[0.0, 90.0, 90.1, 100.0]), 1, np.random.default_rng(1)
    )
    lost_ns = tailed.end_ns(0, 0, 100_000_000_000) - 100_000_000_000
    assert lost_ns == pytest.approx(100 * 100 * (0.9 * 50.5 + 0.1 * 1500) * US, rel=0.05)


def test_interruptions_are_drawn_by_seed() -> None:
    ends = [[stops(1000, [1.0, 500.0], seed).end_ns(0, at, 10_000_000) for at in (0, 20_000_000)] for seed in (1, 1, 2)]
    assert ends[0] == ends[1] != ends[2]


def test_two_charges_on_one_loop_add_up() -> None:
    """The loop is serial: a second core is of no use to it."""
    host = Host(2, work=Linear(fixed_us=10.0))
    loop, cpu, _ = host.peer()
    ends = []

    async def main() -> None:
        stage = cpu.stage("work")
        await stage.done(stage.start())
        ends.append(host.env.now)

    assert host.run(main(), main()) == 20 * US
    assert ends == [20 * US, 20 * US]  # a task goes on once its loop is free
    assert loop.busy_ns == 20 * US


@pytest.mark.parametrize(("peers", "cores", "took_us"), [(2, 2, 10), (2, 1, 20), (3, 2, 20), (5, 2, 30), (3, 8, 10)])
def test_loops_share_the_cores_of_their_host(peers: int, cores: int, took_us: int) -> None:
    host = Host(cores, work=Linear(fixed_us=10.0))
    mains = []
    for _ in range(peers):
        _, cpu, _ = host.peer()

        async def main(cpu: SimCpu = cpu) -> None:
            stage = cpu.stage("work")
            await stage.done(stage.start())

        mains.append(main())
    assert host.run(*mains) == took_us * US
    assert host.host.busy_ns == peers * 10 * US


def test_no_work_is_lost_or_done_twice_whatever_the_order() -> None:
    """Cores are never busier than the time allows, and all that was charged is done."""
    rng = np.random.default_rng(5)
    host = Host(3, work=Linear(entry_us=1.0))
    mains, loops = [], []
    for _ in range(7):
        loop, cpu, _ = host.peer()
        loops.append(loop)

        async def main(loop: Loop = loop, cpu: SimCpu = cpu, costs: list[int] = rng.integers(1, 50, 40).tolist()) -> None:  # noqa: B008
            stage, clock = cpu.stage("work"), SimClock(loop)
            for cost in costs:
                await stage.done(stage.start(), cost)
                await clock.sleep_ns(cost * 300)

        mains.append(main())
    end_ns = host.run(*mains)
    assert host.host.busy_ns == sum(loop.busy_ns for loop in loops)
    assert max(loop.busy_ns for loop in loops) <= end_ns
    assert host.host.busy_ns <= 3 * end_ns
    assert max(host.host.free_at_ns) <= end_ns


def test_a_woken_task_waits_for_its_loop() -> None:
    """What is woken while the loop works finds everything that came meanwhile, as one batch."""
    host = Host(2, work=Linear(fixed_us=50.0))
    loop, cpu, tasks = host.peer()
    future = tasks.future()
    woken: list[int] = []

    async def waiter() -> None:
        await future
        woken.append(int(host.env.now))

    async def sleeper() -> None:
        await SimClock(loop).sleep_ns(10 * US)
        woken.append(int(host.env.now))

    async def main() -> None:
        stage = cpu.stage("work")
        future.set_result(None)
        await stage.done(stage.start())

    host.run(waiter(), sleeper(), main())
    assert woken == [50 * US, 50 * US]


@pytest.mark.parametrize(("second", "ends"), [(-1, 30 * US), (1, 30 * US), (0, 60 * US)])
def test_a_loop_that_keeps_to_a_core_waits_for_it(second: int, ends: int) -> None:
    host = Host(2, work=Linear(fixed_us=10.0))
    peers = [host.peer(0), host.peer(second)]

    async def main(cpu: SimCpu) -> None:
        stage = cpu.stage("work")
        for _ in range(3):
            await stage.done(stage.start())

    assert host.run(*(main(cpu) for _, cpu, _ in peers)) == ends
    assert host.host.busy_ns == 60 * US


@pytest.mark.parametrize("core", [-1, 0])
def test_what_comes_during_long_work_stands_behind_it_and_leaves_no_gap(core: int) -> None:
    """As packets do: 100 of 10 µs during 10 ms."""
    host = Host(1, work=Linear(fixed_us=10_000.0))
    loop, cpu, _ = host.peer(core)

    async def main() -> None:
        stage = cpu.stage("work")
        await stage.done(stage.start())

    async def packets() -> None:
        clock = SimClock(Loop(SimHost(host.env, 1)))  # of another host
        for _ in range(100):
            await clock.sleep_ns(50 * US)
            loop.charge(10 * US)

    host.run(main(), packets())
    assert loop.free_at_ns == host.host.busy_ns == 11_000 * US


def test_what_a_transport_does_beside_a_loop_that_keeps_to_a_core_takes_that_core() -> None:
    host = Host(2, work=Linear(fixed_us=10.0))
    loop, cpu, _ = host.peer(1)

    async def main() -> None:
        assert loop.charge_background(30 * US) == 30 * US
        stage = cpu.stage("work")
        await stage.done(stage.start())

    assert host.run(main()) == 40 * US
    assert host.host.free_at_ns == [0, 40 * US]


@pytest.mark.parametrize(("cores", "expected"), [(1, [0, 0, 0, 0, 0]), (2, [0, 1, 1, 1, 1]), (3, [0, 1, 2, 1, 2]), (8, [0, 1, 2, 3, 4])])
def test_the_leader_has_a_core_of_its_own_where_there_are_two(cores: int, expected: list[int]) -> None:
    assert [core_of(id, cores) for id in range(1, 6)] == expected


def test_background_work_takes_a_core_but_not_the_loop() -> None:
    host = Host(1, work=Linear(fixed_us=10.0))
    loop, cpu, _ = host.peer()

    async def main() -> None:
        assert loop.charge_background(30 * US) == 30 * US
        stage = cpu.stage("work")
        await stage.done(stage.start())

    assert host.run(main()) == 40 * US  # one core: the loop's work stands behind it
    assert cpu.usage() == (10 * US, 40 * US)


# --- the real one ---


def test_all_first_executions_are_clocked_then_one_in_seven_then_one_in_61() -> None:
    cpu = RealCpu()

    async def main() -> None:
        stage = cpu.stage("work")
        for i in range(10_000):
            mark = stage.start()
            await stage.done(mark, i, 1)

    asyncio.run(main())
    record = cpu.records["work"]
    clocked = [i for i in range(10_000) if i < 64 or not i % (7 if i < 4096 else 61)]
    assert (record.count, record.measured) == (10_000, len(clocked))
    rows = np.frombuffer(record.samples, dtype=np.int64).reshape(-1, 3)
    assert rows[:, 0].tolist() == clocked
    assert rows[:, 2].sum() == record.cpu_ns


def test_what_is_not_clocked_is_reckoned_from_what_is() -> None:
    cpu = RealCpu()

    async def main() -> None:
        stage = cpu.stage("work")
        for _ in range(64 + 8):
            mark = stage.start()
            burn()
            await stage.done(mark)

    asyncio.run(main())
    record = cpu.records["work"]
    assert record.measured == 65
    assert record.total_cpu_ns() == record.cpu_ns * 72 // 65


def test_long_work_shares_the_cores_in_slices() -> None:
    """Three peers with 9 ms of work each on two cores: all are done after 13.5 ms, not two of them after 9 and the last after 18."""
    host = Host(2, work=Linear(fixed_us=9000.0))
    ends: list[int] = []
    mains = []
    for _ in range(3):
        loop, cpu, _ = host.peer()

        async def main(loop: Loop = loop, cpu: SimCpu = cpu) -> None:
            stage = cpu.stage("work")
            await stage.done(stage.start())
            ends.append(int(loop.env.now))

        mains.append(main())
    assert host.run(*mains) == pytest.approx(13_500 * US, rel=0.12)
    assert min(ends) >= 12_000 * US
    assert host.host.busy_ns == 27_000 * US


def test_alone_long_work_takes_its_time() -> None:
    host = Host(2, work=Linear(fixed_us=9000.0))
    loop, cpu, _ = host.peer()

    async def main() -> None:
        stage = cpu.stage("work")
        await stage.done(stage.start())
        await stage.done(stage.start())

    assert host.run(main()) == 18_000 * US
    assert loop.busy_ns == 18_000 * US


# --- how executions of a stage differ ---

QUANTILES, PERCENT = [0.5, 0.8, 1.0, 4.0], [0.0, 50.0, 90.0, 100.0]


def spread(seed: int) -> Spread:
    return Spread(QUANTILES, PERCENT, np.random.default_rng(seed))


def test_factors_are_distributed_as_the_model_says_around_a_mean_of_one() -> None:
    factors = np.array(list(itertools.islice(spread(1).of("work"), 10_000)))
    assert factors.mean() == pytest.approx(1.0)
    at = np.percentile(factors, PERCENT)
    assert at / at[0] == pytest.approx(np.array(QUANTILES) / QUANTILES[0], rel=0.01)


def test_an_execution_has_its_factor_whatever_else_happened() -> None:
    alone = list(itertools.islice(spread(1).of("work"), 20_000))
    among_others = spread(1)
    other, work = among_others.of("other"), among_others.of("work")
    taken = [(next(other), next(work))[1] for _ in range(20_000)]
    assert taken == alone
    assert alone[:10_000] == alone[10_000:]
    assert list(itertools.islice(spread(1).of("other"), 100)) != alone[:100]
    assert list(itertools.islice(spread(2).of("work"), 100)) != alone[:100]


def test_a_pace_lasts_and_is_one_in_the_mean() -> None:
    pace = Pace(0.2, np.random.default_rng(1))
    at = np.array([[pace.at(cycle * 80_000_000 + block * 5_000_000) for block in range(16)] for cycle in range(20)])
    assert at.mean(axis=1) == pytest.approx(1.0)
    assert np.log(at).std() == pytest.approx(0.2, rel=0.05)
    assert len({tuple(cycle) for cycle in at}) == 20  # in another order each time
    assert pace.at(4_999_999) == pace.at(0) != pace.at(5_000_000)


def test_work_takes_as_long_as_the_host_s_pace_says() -> None:
    env = simpy.Environment(initial_time=0)
    pace = Pace(0.2, np.random.default_rng(1))
    host = SimHost(env, 1, pace=pace)
    assert host.reserve(0, 1_000_000) == int(1_000_000 * pace.at(0)) == host.busy_ns


def test_who_waits_for_long_work_on_a_fast_host_does_not_sleep_beyond_its_end() -> None:
    """Ten slices at a pace that comes out faster or slower than the mean: the loop is free when the last one ends."""
    for seed in range(20):
        env = simpy.Environment(initial_time=0)
        loop = Loop(SimHost(env, 1, pace=Pace(0.4, np.random.default_rng(seed))), core=0)
        loop.charge(10 * SLICE_NS)
        loop.charge(1000)
        env.process(loop.free())
        env.run()
        assert loop.free_at_ns == loop.host.free_at_ns[0] == env.now


def test_without_a_spread_or_a_source_of_chance_every_execution_takes_the_mean() -> None:
    for same in (Spread(), Spread(QUANTILES, PERCENT), Spread([], [], np.random.default_rng(1))):
        assert list(itertools.islice(same.of("work"), 3)) == [1.0, 1.0, 1.0]
