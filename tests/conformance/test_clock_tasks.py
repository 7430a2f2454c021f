"""The contract of clock and tasks, in each world; and what the worlds' own tasks do beyond it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

import pytest
import simpy
import uvloop

from rafttoy.real.runtime import RealClock, RealTasks
from rafttoy.sim.runtime import Loop, SimClock, SimHost, SimTasks
from rafttoy.sync import Mailbox, Signal
from tests.conformance.clock_tasks import Run, Scenario, check_clock_and_tasks


def _on(start: Any) -> Run:
    def run(scenario: Scenario) -> None:
        async def main() -> None:
            async with asyncio.timeout(200):
                await scenario(RealClock(), RealTasks(asyncio.get_running_loop()))

        start(main())

    return run


def run_in_sim(scenario: Scenario) -> None:
    loop = Loop(SimHost(simpy.Environment(initial_time=0), cores=2))
    drive(loop, scenario(SimClock(loop), SimTasks(loop)))  # type: ignore[arg-type]


def drive(loop: Loop, main: Coroutine[Any, Any, None]) -> None:
    """Runs `main` to its end, and raises what it raised as it is (SimPy would rebuild it)."""
    errors: list[BaseException] = []

    async def guarded() -> None:
        try:
            await main
        except Exception as error:  # noqa: BLE001
            errors.append(error)

    loop.env.run(until=loop.env.process(guarded()))  # type: ignore[arg-type]
    if errors:
        raise errors[0]


WORLDS = {"asyncio": _on(asyncio.run), "uvloop": _on(uvloop.run), "sim": run_in_sim}
world = pytest.mark.parametrize("run", WORLDS.values(), ids=WORLDS.keys())


@world
def test_clock_and_tasks(run: Run) -> None:
    check_clock_and_tasks(run)


@world
def test_a_signal_set_early_is_kept_and_many_sets_are_one(run: Run) -> None:
    async def scenario(clock: Any, tasks: Any) -> None:
        signal = Signal(tasks)
        woken: list[str] = []

        async def wait() -> None:
            while True:
                await signal.wait()
                woken.append("woken")

        signal.set()
        signal.set()
        task = tasks.spawn(wait(), "waiter")
        await clock.sleep_ns(1_000_000)
        assert woken == ["woken"]
        signal.set()
        signal.set()
        await clock.sleep_ns(1_000_000)
        assert len(woken) in (2, 3)  # the second set may come before or after the waiter runs: it is never lost
        task.cancel()
        await clock.sleep_ns(1_000_000)
        woken.clear()
        signal.set()  # its waiter was cancelled: the set is for the next one
        tasks.spawn(wait(), "another waiter")
        await clock.sleep_ns(1_000_000)
        assert woken == ["woken"]

    run(scenario)


@world
def test_a_mailbox_hands_over_all_that_waits_in_order(run: Run) -> None:
    async def scenario(clock: Any, tasks: Any) -> None:
        mailbox: Mailbox[int] = Mailbox(tasks)
        taken: list[list[int]] = []

        async def read() -> None:
            while True:
                taken.append(await mailbox.take_all())

        for i in range(3):
            mailbox.put(i)
        assert len(mailbox) == 3
        tasks.spawn(read(), "reader")
        await clock.sleep_ns(1_000_000)
        mailbox.put(3)
        await clock.sleep_ns(1_000_000)
        for i in (4, 5):
            mailbox.put(i)
        await clock.sleep_ns(1_000_000)
        assert taken == [[0, 1, 2], [3], [4, 5]]
        assert len(mailbox) == 0

    run(scenario)


def test_without_a_callback_a_real_failure_reaches_the_loops_handler() -> None:
    told: list[dict[str, Any]] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))

        async def fail() -> None:
            raise RuntimeError("lost")

        RealTasks(asyncio.get_running_loop()).spawn(fail(), "failing")
        await asyncio.sleep(0.01)

    asyncio.run(main())
    assert [str(context["exception"]) for context in told] == ["lost"]
    assert "failing" in told[0]["message"]


def test_without_a_callback_a_simulated_failure_ends_the_run() -> None:
    async def scenario(clock: Any, tasks: Any) -> None:
        async def fail() -> None:
            raise RuntimeError("lost")

        tasks.spawn(fail(), "failing")
        await clock.sleep_ns(1)

    with pytest.raises(RuntimeError, match="lost"):
        run_in_sim(scenario)


def test_simulated_time_is_exact() -> None:
    async def scenario(clock: Any, tasks: Any) -> None:
        await clock.sleep_ns(123_456_789)
        assert clock.now_ns() == 123_456_789

    run_in_sim(scenario)
