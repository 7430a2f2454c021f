"""What a clock and the tasks of one peer promise. `check_clock_and_tasks` is run against every world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from rafttoy.errors import CorruptionError
from rafttoy.ports import DONE, Clock, Tasks

__all__ = ["Run", "check_clock_and_tasks"]

Scenario = Callable[[Clock, Tasks], Awaitable[None]]
Run = Callable[[Scenario], None]
"""Runs a scenario to its end on a new loop of its own, and raises what leaves it."""

_MS = 1_000_000


def check_clock_and_tasks(run: Run) -> None:
    for clause in _CLAUSES:
        try:
            run(clause)
        except BaseException as error:
            error.add_note(f"clause: {clause.__name__}")
            raise


async def _time_is_whole_and_never_goes_back(clock: Clock, tasks: Tasks) -> None:
    seen = []
    for duration_ns in (0, -5, 1, 100_000, 3 * _MS, 0):
        before_ns = clock.now_ns()
        await clock.sleep_ns(duration_ns)
        after_ns = clock.now_ns()
        assert type(after_ns) is int
        assert after_ns - before_ns >= duration_ns - _MS  # a timer may be early by less than one
        seen += [before_ns, after_ns]
    assert seen == sorted(seen)


async def _what_is_done_is_not_waited_for(clock: Clock, tasks: Tasks) -> None:
    """However often; nobody else gets a turn meanwhile."""
    begun: list[str] = []

    async def other() -> None:
        begun.append("other")

    tasks.spawn(other(), "other")
    for _ in range(3):
        await DONE
    assert begun == []
    await clock.sleep_ns(0)
    assert begun == ["other"]


async def _sleepers_wake_in_the_order_of_their_times(clock: Clock, tasks: Tasks) -> None:
    woken: list[int] = []

    async def sleeper(duration_ns: int) -> None:
        await clock.sleep_ns(duration_ns)
        woken.append(duration_ns)

    for duration_ns in (40 * _MS, 5 * _MS, 20 * _MS):
        tasks.spawn(sleeper(duration_ns), "sleeper")
    while len(woken) < 3:
        await clock.sleep_ns(_MS)
    assert woken == [5 * _MS, 20 * _MS, 40 * _MS]


async def _tasks_begin_in_the_order_of_spawning_and_not_before_the_spawner_waits(clock: Clock, tasks: Tasks) -> None:
    begun: list[int] = []

    async def note(i: int) -> None:
        begun.append(i)

    spawned = [tasks.spawn(note(i), f"note {i}") for i in range(20)]
    assert begun == []
    assert not any(task.done() for task in spawned)
    await clock.sleep_ns(_MS)
    assert begun == list(range(20))
    assert all(task.done() for task in spawned)


async def _a_future_hands_over_its_value_before_and_after(clock: Clock, tasks: Tasks) -> None:
    early, late, nothing = tasks.future(), tasks.future(), tasks.future()
    value = object()
    early.set_result(value)
    assert early.done()
    assert not late.done()
    got: list[Any] = [await early]

    async def wait() -> None:
        got.append(await late)
        got.append(await nothing)

    tasks.spawn(wait(), "waiter")
    await clock.sleep_ns(_MS)
    late.set_result(got)
    nothing.set_result(None)
    assert late.done()
    await clock.sleep_ns(_MS)
    assert got[0] is value
    assert got[1] is got
    assert got[2:] == [None]


async def _a_failure_travels_as_a_value(clock: Clock, tasks: Tasks) -> None:
    """Nothing rebuilds it: this one could not be made again from its `args`."""
    future = tasks.future()
    failure = CorruptionError("a torn record", file="0.wal", offset=7)
    future.set_result(failure)
    assert await future is failure


async def _waiters_wake_in_the_order_of_the_results(clock: Clock, tasks: Tasks) -> None:
    futures = [tasks.future() for _ in range(8)]
    woken: list[int] = []

    async def wait(i: int) -> None:
        woken.append(await futures[i])

    for i in range(8):
        tasks.spawn(wait(i), f"waiter {i}")
    await clock.sleep_ns(_MS)
    order = [5, 2, 7, 0, 1, 6, 4, 3]
    for i in order:
        futures[i].set_result(i)
    assert woken == []  # nobody runs inside set_result
    await clock.sleep_ns(_MS)
    assert woken == order


async def _cancel_ends_a_task_at_its_await_and_runs_finally(clock: Clock, tasks: Tasks) -> None:
    trail: list[str] = []
    future = tasks.future()

    async def wait() -> None:
        trail.append("begun")
        try:
            await future
            trail.append("not reached")
        finally:
            trail.append("finally")
            await clock.sleep_ns(_MS)  # cleaning up may wait, too
            trail.append("cleaned up")

    failures: list[BaseException] = []
    tasks.on_failure(failures.append)
    task = tasks.spawn(wait(), "waiter")
    await clock.sleep_ns(_MS)
    task.cancel()
    task.cancel()  # idempotent: it does not cut the cleaning up short
    assert trail == ["begun"]
    await clock.sleep_ns(20 * _MS)
    assert trail == ["begun", "finally", "cleaned up"]
    assert task.done()
    task.cancel()
    await clock.sleep_ns(_MS)
    assert failures == []  # to be cancelled is no failure
    if not future.done():
        future.set_result(None)  # finds nobody, and that is fine
    await clock.sleep_ns(_MS)
    assert trail[-1] == "cleaned up"


async def _cancel_reaches_through_nested_calls_and_sleeps(clock: Clock, tasks: Tasks) -> None:
    trail: list[str] = []

    async def inner() -> None:
        try:
            await clock.sleep_ns(60_000 * _MS)
        finally:
            trail.append("inner")

    async def outer() -> None:
        try:
            await inner()
        finally:
            trail.append("outer")

    task = tasks.spawn(outer(), "outer")
    await clock.sleep_ns(_MS)
    begin_ns = clock.now_ns()
    task.cancel()
    while not task.done():
        await clock.sleep_ns(_MS)
    assert trail == ["inner", "outer"]
    assert clock.now_ns() - begin_ns < 30_000 * _MS


async def _cancel_is_not_an_error_that_a_task_may_handle(clock: Clock, tasks: Tasks) -> None:
    trail: list[str] = []

    async def stubborn() -> None:
        try:
            await clock.sleep_ns(60_000 * _MS)
        except Exception:  # noqa: BLE001
            trail.append("taken for an error")
        trail.append("went on")

    task = tasks.spawn(stubborn(), "stubborn")
    await clock.sleep_ns(_MS)
    task.cancel()
    await clock.sleep_ns(_MS)
    assert task.done()
    assert trail == []


async def _an_error_that_leaves_a_task_is_told_once_and_as_it_is(clock: Clock, tasks: Tasks) -> None:
    failures: list[BaseException] = []
    tasks.on_failure(failures.append)
    error = CorruptionError("a torn record", file="0.wal", offset=7)
    ticks: list[int] = []

    async def fail() -> None:
        await clock.sleep_ns(_MS)
        raise error

    async def tick() -> None:
        for i in range(5):
            await clock.sleep_ns(2 * _MS)
            ticks.append(i)

    failing, ticking = tasks.spawn(fail(), "failing"), tasks.spawn(tick(), "ticking")
    while not ticking.done():
        await clock.sleep_ns(_MS)
    assert failing.done()
    assert len(failures) == 1
    assert failures[0] is error
    assert ticks == [0, 1, 2, 3, 4]  # the others go on: who ends them is the callback's business


async def _an_error_while_cleaning_up_is_told(clock: Clock, tasks: Tasks) -> None:
    failures: list[BaseException] = []
    tasks.on_failure(failures.append)

    async def untidy() -> None:
        try:
            await clock.sleep_ns(60_000 * _MS)
        finally:
            raise RuntimeError("untidy")

    task = tasks.spawn(untidy(), "untidy")
    await clock.sleep_ns(_MS)
    task.cancel()
    await clock.sleep_ns(_MS)
    assert [str(error) for error in failures] == ["untidy"]
    assert task.done()


async def _cancel_all_spares_the_calling_task_and_those_that_ended(clock: Clock, tasks: Tasks) -> None:
    trail: list[str] = []

    async def wait(name: str) -> None:
        try:
            await tasks.future()
        finally:
            trail.append(name)

    async def short() -> None:
        pass

    async def end_the_others() -> None:
        tasks.cancel_all()
        await clock.sleep_ns(5 * _MS)
        trail.append("the caller went on")

    waiting = [tasks.spawn(wait(name), name) for name in "abc"]
    tasks.spawn(short(), "short")
    await clock.sleep_ns(_MS)
    caller = tasks.spawn(end_the_others(), "caller")
    while not caller.done():
        await clock.sleep_ns(_MS)
    assert trail == ["a", "b", "c", "the caller went on"]
    assert all(task.done() for task in waiting)


_CLAUSES: tuple[Scenario, ...] = (
    _time_is_whole_and_never_goes_back,
    _what_is_done_is_not_waited_for,
    _sleepers_wake_in_the_order_of_their_times,
    _tasks_begin_in_the_order_of_spawning_and_not_before_the_spawner_waits,
    _a_future_hands_over_its_value_before_and_after,
    _a_failure_travels_as_a_value,
    _waiters_wake_in_the_order_of_the_results,
    _cancel_ends_a_task_at_its_await_and_runs_finally,
    _cancel_reaches_through_nested_calls_and_sleeps,
    _cancel_is_not_an_error_that_a_task_may_handle,
    _an_error_that_leaves_a_task_is_told_once_and_as_it_is,
    _an_error_while_cleaning_up_is_told,
    _cancel_all_spares_the_calling_task_and_those_that_ended,
)
