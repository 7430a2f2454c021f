"""The model's disk by itself, for predictions of one component."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Self, TypeVar

import simpy

from rafttoy.errors import RafttoyError
from rafttoy.ports import Ports
from rafttoy.randomness import SeededRandomness
from rafttoy.sim.disk import SimDisk
from rafttoy.sim.files import SimFiles
from rafttoy.sim.kv import SimKvStores
from rafttoy.sim.model import Model
from rafttoy.sim.runtime import Loop, SimClock, SimCpu, SimHost, SimTasks
from rafttoy.storage import ENGINES, WALS

__all__ = ["SimBench"]

T = TypeVar("T")

_FEWEST = 8


class SimBench:
    """On the model's disk."""

    name = "sim"
    content = False

    def __init__(self, model: Model, sync: str = "fdatasync", seed: int = 1) -> None:
        self.sync = sync
        self._model = model
        self._seed = seed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def wals(self) -> tuple[str, ...]:
        known = self._model.software.kv
        return tuple(name for name in WALS if name in known or name not in ENGINES)

    def _disk(self, env: simpy.Environment) -> tuple[SimHost, SimDisk]:
        hardware = self._model.hardware
        host = SimHost(env, hardware.cores)
        return host, SimDisk(env, host, hardware.disk, SeededRandomness(self._seed, 0).stream("disk"))

    def run(self, main: Callable[[Ports], Awaitable[T]]) -> T:
        env = simpy.Environment(initial_time=0)
        ports = _SimPorts(*self._disk(env), self._model, self.sync)
        outcome: list[T] = []
        failures: list[RafttoyError] = []

        async def guarded() -> None:
            try:
                outcome.append(await main(ports))
            except RafttoyError as error:  # SimPy would rebuild it
                failures.append(error)

        env.run(until=env.process(guarded()))  # type: ignore[arg-type]  # SimPy drives any object with send and throw
        if failures:
            raise failures[0]
        return outcome[0]

    def raw(self, size: int, seconds: float) -> list[int]:
        env = simpy.Environment(initial_time=0)
        _, disk = self._disk(env)
        durations: list[int] = []
        now_ns = 0
        while now_ns < seconds * 1e9 or len(durations) < _FEWEST:
            end_ns = disk.synced_write(now_ns, size, grows=False) if self.sync != "none" else disk.write(now_ns, size)
            durations.append(end_ns - now_ns)
            env.run(until=end_ns)
            now_ns = end_ns
        return durations

    def device_bytes(self) -> int:
        return 0


class _SimPorts:
    links: Any = None

    def __init__(self, host: SimHost, disk: SimDisk, model: Model, sync: str) -> None:
        loop = Loop(host, int(model.software.lock_us * 1000))
        self.clock = SimClock(loop)
        self.tasks = SimTasks(loop)
        self.cpu = SimCpu(loop, model)
        self.files = SimFiles(loop, disk, None, sync)
        self.kv = SimKvStores(loop, disk, model.software.kv, self.cpu, self.files.store, None, sync)
        self.random = SeededRandomness(1, 1)
