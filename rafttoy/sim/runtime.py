"""Virtual time, tasks and processors: native coroutines on SimPy.

A peer's event loop is serial (the GIL) and needs one of its host's cores while it runs. Work is reserved first come, first served:
a charge begins when the loop and a core are free and blocks both until it ends. A task that was woken resumes when its loop is
free, so that what piles up meanwhile is found as one batch, as on a real loop.

A loop that wakes up while no core is idle waits for the core that it ran on last, even if another one is free sooner: the kernel does not
move a thread for gaps shorter than half a millisecond (`sched_migration_cost`). With 24 and 200 proposals in flight in memory the model
was 11 % too fast without, 5 and 4 with, and its cores as busy as the real ones (77 %). One that keeps to a core waits for that one always.

Long work is done in slices, as the kernel's scheduler has it: three peers that apply 9 ms each on two cores share them, and all take
14 ms; served one after another, two would take 9. With 2,500 proposals in flight in memory the model was 38 % too fast without, 10 with.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Coroutine, Generator, Iterator, Mapping, Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import simpy
from simpy.events import Interruption

from rafttoy.observe import StageRecord
from rafttoy.sim.model import Interruptions, Linear, Model

__all__ = ["SLICE_NS", "Cancelled", "Charge", "Loop", "Pace", "SimClock", "SimCpu", "SimFuture", "SimHost", "SimTasks", "Spread", "Stops"]


SLICE_NS = 1_500_000
"""What the kernel lets a thread run while others wait (Linux 6: 0.75 ms, times one more than the logarithm of the cores)."""


_FACTORS = 10_000

_PACE_NS, _PACES = 5_000_000, 16
"""For how long a host keeps its pace, and how many it has."""


class Stops:
    """When each core does nothing for anybody: the hypervisor took it, or an interrupt. Drawn as they are met, from a numpy Generator."""

    def __init__(self, costs: Interruptions, cores: int, rng: Any) -> None:
        self._mean_ns = 1e9 / costs.per_s
        self._percents = costs.percents()
        self._table_ns = [us * 1000.0 for us in costs.us]
        self._rng = rng
        self._next = [self._draw(0) for _ in range(cores)]

    def _draw(self, after_ns: int) -> tuple[int, int]:
        """(begin, duration) of the first stop from `after_ns` on."""
        begin_ns = after_ns + int(self._rng.exponential(self._mean_ns))
        return begin_ns, int(np.interp(100.0 * self._rng.random(), self._percents, self._table_ns))

    def end_ns(self, core: int, begin_ns: int, duration_ns: int) -> int:
        """When work on `core` ends. Nothing may ask for an earlier time of that core later."""
        end_ns = begin_ns + duration_ns
        stop_ns, lasts_ns = self._next[core]
        while stop_ns < end_ns:
            end_ns += max(0, stop_ns + lasts_ns - max(stop_ns, begin_ns))
            stop_ns, lasts_ns = self._next[core] = self._draw(stop_ns + lasts_ns)
        return end_ns


class Pace:
    """How long work takes at a time beside how long it takes in the mean: one factor for each 5 ms, lognormal with `deviation` of the
    logarithm and mean 1. Each of sixteen quantiles comes once in 80 ms, so that short runs have the mean, too; the order is drawn from
    a numpy Generator."""

    def __init__(self, deviation: float, rng: Any) -> None:
        normal = NormalDist(0.0, deviation)
        quantiles = np.exp([normal.inv_cdf((i + 0.5) / _PACES) for i in range(_PACES)])
        self._quantiles = quantiles / quantiles.mean()
        self.least = float(self._quantiles[0])
        self._rng = rng
        self._factors: list[float] = []

    def at(self, at_ns: int) -> float:
        block = at_ns // _PACE_NS
        while block >= len(self._factors):
            self._factors += self._rng.permutation(self._quantiles).tolist()
        return self._factors[block]


class SimHost:
    """Cores shared by the loops and background threads of one machine."""

    def __init__(self, env: simpy.Environment, cores: int, stops: Stops | None = None, pace: Pace | None = None) -> None:
        self.env = env
        self._stops = stops
        self._pace = pace
        self._least = pace.least if pace is not None else 1.0
        self.free_at_ns = [0] * cores
        self.busy_ns = 0
        self.last_core = 0

    def at_least_ns(self, duration_ns: int) -> int:
        """What such work takes at the fastest pace, undisturbed."""
        return int(duration_ns * self._least)

    def reserve(self, earliest_ns: int, duration_ns: int, core: int = -1, *, sticky: bool = False, pinned: bool = False) -> int:
        """Takes `core` if it is free at `earliest_ns` exactly (work that goes on there), else the one that is free first, from
        `earliest_ns` on. With `sticky`, where none is idle, `core` all the same; with `pinned` always. Returns when the work ends;
        `last_core` is where it was done."""
        free = self.free_at_ns
        if core < 0 or (not pinned and free[core] != earliest_ns and (min(free) <= earliest_ns or not sticky)):
            core = free.index(min(free))
        begin = max(free[core], earliest_ns)
        if self._pace is not None:
            duration_ns = int(duration_ns * self._pace.at(begin))
        end = begin + duration_ns if self._stops is None else self._stops.end_ns(core, begin, duration_ns)
        free[core] = end
        self.busy_ns += duration_ns
        self.last_core = core
        return end


class Loop:
    """The event loop of one peer, which keeps to `core` if it is given; `background_ns` is core time of its other threads, which wait for
    the loop's lock for up to `lock_ns`."""

    __slots__ = ("background_ns", "busy_ns", "core", "env", "free_at_ns", "host", "lock_ns", "pinned", "rest_ns")

    def __init__(self, host: SimHost, lock_ns: int = 0, core: int = -1) -> None:
        self.env = host.env
        self.host = host
        self.lock_ns = lock_ns
        self.free_at_ns = 0
        self.busy_ns = 0
        self.background_ns = 0
        self.core = core
        self.pinned = core >= 0
        self.rest_ns = 0
        """What is charged and has no core yet: slices of work under way, and what came behind it meanwhile."""

    def charge_background(self, duration_ns: int) -> int:
        """Core time of a transport's threads beside the loop, on its core if it keeps to one; returns when it ends."""
        now: int = self.env.now  # type: ignore[assignment]
        self.background_ns += duration_ns
        return self.host.reserve(now, duration_ns, self.core if self.pinned else -1, pinned=self.pinned)

    def charge(self, duration_ns: int) -> None:
        """Reserves the loop and a core for `duration_ns`, behind what is reserved already."""
        now: int = self.env.now  # type: ignore[assignment]  # SimPy types time as float; ours are integers throughout
        self.busy_ns += duration_ns
        if self.rest_ns:
            self.free_at_ns -= self.host.at_least_ns(self.rest_ns)
            self.rest_ns += duration_ns
            self.free_at_ns += self.host.at_least_ns(self.rest_ns)
            return
        first_ns = min(duration_ns, SLICE_NS)
        if self.free_at_ns > now:
            self.free_at_ns = self.host.reserve(self.free_at_ns, first_ns, self.core, pinned=self.pinned)
        else:
            self.free_at_ns = self.host.reserve(now, first_ns, self.core, sticky=True, pinned=self.pinned)
        self.core = self.host.last_core
        if first_ns < duration_ns:
            self.rest_ns = duration_ns - first_ns
            self.env.process(self._go_on(self.free_at_ns))
            self.free_at_ns += self.host.at_least_ns(self.rest_ns)  # who waits must not sleep longer: others would come first

    def hold(self, until_ns: int) -> None:
        """The loop waits, behind what is reserved already, and does nothing else until then; its core may."""
        self.free_at_ns = max(self.free_at_ns, until_ns)

    def _go_on(self, at_ns: int) -> Generator[simpy.Event, Any, None]:
        """The rest, slice by slice; the first one ends at `at_ns`."""
        env, host = self.env, self.host
        while self.rest_ns:
            yield env.timeout(at_ns - env.now)
            piece_ns = min(self.rest_ns, SLICE_NS)
            promised_ns = at_ns + host.at_least_ns(self.rest_ns)
            self.rest_ns -= piece_ns
            at_ns = host.reserve(at_ns, piece_ns, self.core, pinned=self.pinned)
            self.core = host.last_core
            self.free_at_ns += at_ns + host.at_least_ns(self.rest_ns) - promised_ns

    def free(self) -> Generator[simpy.Event, Any, None]:
        """Waits until the loop is free."""
        env = self.env
        while (wait := self.free_at_ns - env.now) > 0:
            yield env.timeout(wait)

    def lock(self) -> Generator[simpy.Event, Any, None]:
        """Waits until another thread gets the interpreter's lock: when the loop sleeps, or has kept it from others for `lock_ns`."""
        env = self.env
        until_ns = env.now + self.lock_ns
        while (now := env.now) < until_ns:
            if self.free_at_ns > now:
                yield env.timeout(min(self.free_at_ns, until_ns) - now)
            else:
                yield env.timeout(0)  # what the loop's tasks do at this moment comes first
                if self.free_at_ns <= now:
                    return


class SimFuture:
    __slots__ = ("_event", "_loop")

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._event = loop.env.event()

    def set_result(self, value: Any, /) -> None:
        self._event.succeed(value)

    def done(self) -> bool:
        return self._event.triggered

    def __await__(self) -> Generator[simpy.Event, Any, Any]:
        value = yield self._event
        loop = self._loop
        while (wait := loop.free_at_ns - loop.env.now) > 0:
            yield loop.env.timeout(wait)
        return value


class Until:
    """Resumes once `event` has happened and the loop is free."""

    __slots__ = ("_event", "_loop")

    def __init__(self, loop: Loop, event: simpy.Event) -> None:
        self._loop, self._event = loop, event

    def __await__(self) -> Generator[simpy.Event, Any, None]:
        yield self._event
        yield from self._loop.free()


class Timer:
    """Resumes after `duration_ns`, once the loop is free."""

    __slots__ = ("_duration_ns", "_loop")

    def __init__(self, loop: Loop, duration_ns: int) -> None:
        self._loop, self._duration_ns = loop, duration_ns

    def __await__(self) -> Generator[simpy.Event, Any, None]:
        yield self._loop.env.timeout(self._duration_ns)
        yield from self._loop.free()


class SimClock:
    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._env = loop.env

    def now_ns(self) -> int:
        return self._env.now  # type: ignore[return-value]

    async def sleep_ns(self, duration_ns: int) -> None:
        await Timer(self._loop, max(0, duration_ns))


class Cancelled(BaseException):
    """Ends a task. No `Exception`, as asyncio's is none: a task cannot take it for an error."""


class _Cancellation(Interruption):
    def __init__(self, process: simpy.Process) -> None:
        super().__init__(process, None)
        self._value = Cancelled()


class SimTask:
    __slots__ = ("_cancelled", "_process")

    def __init__(self, process: simpy.Process) -> None:
        self._process = process
        self._cancelled = False

    def cancel(self) -> None:
        if not self._cancelled and self._process.is_alive and self._process is not self._process.env.active_process:
            self._cancelled = True
            _Cancellation(self._process)

    def done(self) -> bool:
        return not self._process.is_alive


class SimTasks:
    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self._env = loop.env
        self._failed: Callable[[BaseException], None] | None = None
        self._live: dict[SimTask, None] = {}  # a dict keeps spawning order

    def spawn(self, coroutine: Coroutine[Any, Any, None], name: str) -> SimTask:
        task = SimTask(self._env.process(self._run(coroutine)))  # type: ignore[arg-type]  # SimPy drives any object with send and throw
        self._live[task] = None
        task._process.callbacks.append(lambda _: self._live.pop(task, None))
        return task

    async def _run(self, coroutine: Coroutine[Any, Any, None]) -> None:
        try:
            await coroutine
        except Cancelled:
            pass
        except Exception as error:
            if self._failed is None:
                raise
            self._failed(error)

    def future(self) -> SimFuture:
        return SimFuture(self.loop)

    def on_failure(self, callback: Callable[[BaseException], None]) -> None:
        self._failed = callback

    def cancel_all(self) -> None:
        for task in list(self._live):
            task.cancel()


class Spread:
    """Factors as in `Software.spread`, in an order drawn from a numpy Generator. Each kind of work takes them in turn from a place of its
    own: the same execution of it has the same factor whatever else happened before, so that two models differ by their costs."""

    __slots__ = ("_factors",)

    def __init__(self, quantiles: Sequence[float] = (), percent: Sequence[float] = (), rng: Any = None) -> None:
        self._factors = [1.0]
        if quantiles and rng is not None:
            values = np.interp((np.arange(_FACTORS) + 0.5) * 100 / _FACTORS, percent, quantiles)
            self._factors = (rng.permutation(values) / values.mean()).tolist()

    def of(self, name: str) -> Iterator[float]:
        """The factors of the executions of `name`, without end."""
        begin = zlib.crc32(name.encode()) % len(self._factors)
        return itertools.cycle(self._factors[begin:] + self._factors[:begin])


class SimStage:
    """Charges its cost to the loop, with what the loop does `beside` it each time, and waits until that is done."""

    __slots__ = ("_beside_ns", "_cost", "_factors", "_loop", "record")

    def __init__(self, loop: Loop, cost: Linear, record: StageRecord, factors: Iterator[float], beside_ns: int = 0) -> None:
        self._loop = loop
        self._beside_ns = beside_ns
        self._cost = cost
        self._factors = factors
        self.record = record

    def start(self) -> int:
        return 0

    def done(self, mark: int, entries: int = 0, nbytes: int = 0) -> Charge:
        duration_ns = int(self._cost.exact_ns(entries, nbytes) * next(self._factors))
        self.record.add(entries, nbytes, duration_ns)
        self._loop.charge(duration_ns + self._beside_ns)
        return Charge(self._loop)


class Charge:
    """Resumes when what the loop is charged with has ended, before anyone who was woken meanwhile: who awaits it did not sleep."""

    __slots__ = ("_loop",)

    def __init__(self, loop: Loop) -> None:
        self._loop = loop

    def __await__(self) -> Generator[simpy.Event, Any, None]:
        loop = self._loop
        while (wait := loop.free_at_ns - loop.env.now) > 0:
            yield loop.env.timeout(wait)


class SimCpu:
    """Stages cost what the model says, in the mean; a stage the model does not know costs nothing and is listed by `unknown`. How far
    single executions are from their mean is drawn from `rng`, a numpy Generator; without one, all take the mean. `beside_ns` is what the
    loop does each time besides, by stage."""

    def __init__(self, loop: Loop, model: Model, rng: Any = None, beside_ns: Mapping[str, int] | None = None) -> None:
        self._loop = loop
        self._beside_ns = beside_ns or {}
        self.spread = Spread(model.software.spread, model.software.spread_percent, rng)
        self._software = model.software
        self.records: dict[str, StageRecord] = {}
        self._stages: dict[str, SimStage] = {}

    def stage(self, name: str) -> SimStage:
        if name not in self._stages:
            self.records[name] = StageRecord(name)
            cost, beside_ns = self._software.stage(name) or Linear(), self._beside_ns.get(name, 0)
            self._stages[name] = SimStage(self._loop, cost, self.records[name], self.spread.of(name), beside_ns)
        return self._stages[name]

    def clear(self) -> None:
        for record in self.records.values():
            record.clear()

    def unknown(self) -> list[str]:
        return [name for name in self._stages if self._software.stage(name) is None]

    def usage(self) -> tuple[int, int]:
        return self._loop.busy_ns, self._loop.busy_ns + self._loop.background_ns
