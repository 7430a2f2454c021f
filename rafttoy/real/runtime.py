"""Real time, tasks and processors: asyncio (on uvloop where it is installed) and thread CPU clocks."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator
from itertools import chain, islice, repeat
from typing import Any

from rafttoy.observe import StageRecord
from rafttoy.ports import DONE

__all__ = ["BusyPoll", "RealClock", "RealCpu", "RealStage", "RealTasks"]

_ALWAYS = 64  # executions of a stage that are all clocked: a thread clock is a system call, of 0.7 µs and more
_OFTEN, _EVERY = 4096, 7  # up to there, one of so many; odd, for executions alternate: one Ready appends, the next one applies
_SELDOM = 61  # later
_EMPTY_NS = 10_000  # a turn of the loop that finds nothing takes 3 µs, one that has work 20 and more


class RealClock:
    now_ns = staticmethod(time.perf_counter_ns)

    async def sleep_ns(self, duration_ns: int) -> None:
        await asyncio.sleep(duration_ns / 1e9)


class RealTasks:
    """`poll` is what keeps the loop awake, if anything does; `cpus` are the processors of disk threads, if others than the loop's."""

    def __init__(self, loop: asyncio.AbstractEventLoop, poll: BusyPoll | None = None, cpus: Collection[int] = ()) -> None:
        self.loop = loop
        self.poll = poll
        self.cpus = cpus
        self._failed: Callable[[BaseException], None] | None = None
        self._live: dict[asyncio.Task[None], None] = {}

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = self.loop.create_task(coroutine, name=name)
        self._live[task] = None
        task.add_done_callback(self._ended)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._live.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            if self._failed is None:
                self.loop.call_exception_handler({"message": f"task {task.get_name()} failed", "exception": error, "task": task})
            else:
                self._failed(error)

    def future(self) -> asyncio.Future[Any]:
        return self.loop.create_future()

    def on_failure(self, callback: Callable[[BaseException], None]) -> None:
        self._failed = callback

    def cancel_all(self) -> None:
        current = asyncio.current_task(self.loop)
        for task in list(self._live):
            if task is not current:
                task.cancel()


class RealStage:
    """Runs as it is; its thread CPU time is recorded for the first executions, then for one in seven, and of many for one in 61."""

    __slots__ = ("_pending", "record", "start")

    def __init__(self, record: StageRecord) -> None:
        self.record = record
        self._pending = record.pending
        self.restart()

    def restart(self) -> None:
        """The record was cleared."""
        self.start: Callable[[], int] = chain.from_iterable(_marks(self.record)).__next__  # as a rule no Python at all

    def done(self, mark: int, entries: int = 0, nbytes: int = 0) -> Awaitable[None]:
        self._pending.append((entries, nbytes))
        if mark:
            self.record.clock(entries, nbytes, time.thread_time_ns() - mark)
        return DONE


def _marks(record: StageRecord) -> Iterator[Iterable[int]]:
    """For execution after execution: what the thread's clock says, or 0 if it is not clocked."""
    clock = iter(time.thread_time_ns, -1)
    while True:
        count = record.count
        yield repeat(0, -count % (1 if count < _ALWAYS else _EVERY if count < _OFTEN else _SELDOM))
        yield islice(clock, 1)


class BusyPoll:
    """Keeps a loop from sleeping: nobody has to wake its thread, which on a virtual machine takes as long as a round's work. The thread
    takes all of a core; `idle_ns` is what it spent on turns that found nothing.

    While another thread works for the loop it may sleep: a disk thread needs the interpreter's lock between a write and its sync, and
    waited for it (etcd's log, 16 clients: 0.95 of what a leader that sleeps reached, and 1.02 since then). With `yields` it leaves its core
    to whoever wants it, after each empty turn: where there are logs on disk, the disk threads of other peers (all polling, etcd's log, 16
    clients: 0.88 of what peers that sleep reach without, 1.04 with; in memory it is better that one follower answers at once and the
    other late, as a quorum needs but one: 1.54 without, 1.28 with)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, *, yields: bool = False) -> None:
        self.idle_ns = 0
        self._yield = os.sched_yield if yields else _stay
        self._loop = loop
        self._working = 0  # calls that other threads have under way
        self._turning = True
        self._last_ns = time.thread_time_ns()
        loop.call_soon(self._turn)

    def suspend(self) -> None:
        """A thread has work; on the loop."""
        self._working += 1

    def resume(self) -> None:
        """It has done it."""
        self._working -= 1
        if not self._working and not self._turning:
            self._turning = True
            self._last_ns = time.thread_time_ns()
            self._loop.call_soon(self._turn)

    def _turn(self) -> None:
        if self._working:
            self._turning = False
            return
        now_ns = time.thread_time_ns()
        spent_ns = now_ns - self._last_ns
        if spent_ns < _EMPTY_NS:
            self.idle_ns += spent_ns
            self._yield()
        self._last_ns = now_ns
        self._loop.call_soon(self._turn)


def _stay() -> None:
    pass


class RealCpu:
    """`poll` is what keeps the loop awake, if anything does: its empty turns are no work."""

    def __init__(self, poll: BusyPoll | None = None) -> None:
        self._poll = poll
        self.records: dict[str, StageRecord] = {}
        self._stages: dict[str, RealStage] = {}

    def stage(self, name: str) -> RealStage:
        if name not in self._stages:
            self.records[name] = StageRecord(name)
            self._stages[name] = RealStage(self.records[name])
        return self._stages[name]

    def clear(self) -> None:
        for stage in self._stages.values():
            stage.record.clear()
            stage.restart()

    def usage(self) -> tuple[int, int]:
        """The loop's thread must be the caller's."""
        idle_ns = self._poll.idle_ns if self._poll is not None else 0
        return time.thread_time_ns() - idle_ns, time.process_time_ns() - idle_ns
