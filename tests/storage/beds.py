"""A peer's directory to test storage in, in either world, that outlives its incarnations."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import simpy

from rafttoy.ports import Ports
from rafttoy.raft.entries import EntryBatch, EntryType, Payloads
from rafttoy.randomness import SeededRandomness
from rafttoy.real.files import RealFiles
from rafttoy.real.kv import RealKvStores
from rafttoy.real.runtime import RealClock, RealCpu, RealTasks
from rafttoy.sim.disk import SimDisk
from rafttoy.sim.files import DiskFaults, SimFiles
from rafttoy.sim.kv import SimKvStores
from rafttoy.sim.model import Disk, Hardware, Kv, Linear, Meta, Model, Software
from rafttoy.sim.runtime import Loop, SimClock, SimCpu, SimHost, SimTasks
from rafttoy.sim.store import SimStore

__all__ = ["Bed", "RealBed", "SimBed", "batch", "proposal", "proposals"]

T = TypeVar("T")
Scenario = Callable[[Any], Awaitable[T]]

_KV = Kv(write=Linear(fixed_us=2.0, entry_us=0.5))
MODEL = Model(
    Meta("test"),
    Hardware(2, Disk(sync_us=[100.0, 200.0], byte_ns=1.0, write_us=5.0, handoff_us=20.0, cpu_us=10.0), {}),
    Software({"wal.encode": Linear(fixed_us=2.0)}, {"leveldb": _KV, "rocksdb": _KV, "dict": _KV}),
)


class Bed(Protocol):
    """`run` gives a scenario the ports of a new incarnation, closes them after it, and returns what it returned."""

    simulated: bool

    def run(self, scenario: Scenario[T]) -> T: ...


class _Ports:
    clock: Any
    tasks: Any
    cpu: Any
    files: Any
    kv: Any
    links: Any = None
    random: Any = SeededRandomness(1, 1)


class RealBed:
    simulated = False

    def __init__(self, root: Path, sync: str = "fdatasync") -> None:
        self.root = root
        self._sync = sync

    def ports(self) -> Ports:
        """Within a running loop."""
        ports = _Ports()
        ports.clock = RealClock()
        ports.tasks = RealTasks(asyncio.get_running_loop())
        ports.cpu = RealCpu()
        ports.files = RealFiles(self.root, ports.tasks, self._sync)
        ports.kv = RealKvStores(self.root, ports.tasks, ports.cpu)
        return ports

    def run(self, scenario: Scenario[T]) -> T:
        async def main() -> T:
            ports = self.ports()
            try:
                return await scenario(ports)
            finally:
                ports.tasks.cancel_all()
                await ports.files.close()

        return asyncio.run(main())


class Even:
    """A generator for who looks at content, not at time: drawing a thousand numbers takes longer than opening a log."""

    def random(self, count: int) -> Any:
        return np.full(1, 0.5)


class SimBed:
    """`store` is what the disk holds. `faults` are those of the incarnations to come. With seed 0 every sync takes the same time."""

    simulated = True

    def __init__(
        self,
        store: SimStore | None = None,
        *,
        sync: str = "fdatasync",
        seed: int = 1,
        costs: Disk | None = None,
        kv: dict[str, Kv] | None = None,
        lock_us: float = 0.0,
    ) -> None:
        self.store = store if store is not None else SimStore()
        self.faults = DiskFaults()
        self._sync = sync
        self._lock_ns = int(lock_us * 1000)
        self._kv = kv or MODEL.software.kv
        self.env = simpy.Environment(initial_time=0)
        self.host = SimHost(self.env, 2)
        self.disk = SimDisk(self.env, self.host, costs or MODEL.hardware.disk, np.random.default_rng(seed) if seed else Even())

    def ports(self) -> Ports:
        loop = Loop(self.host, self._lock_ns)
        ports = _Ports()
        ports.clock = SimClock(loop)
        ports.tasks = SimTasks(loop)
        ports.cpu = SimCpu(loop, MODEL)
        ports.files = SimFiles(loop, self.disk, self.store, self._sync)
        ports.files.faults = self.faults
        ports.kv = SimKvStores(loop, self.disk, self._kv, ports.cpu, self.store, self.faults, self._sync)
        return ports

    def run(self, scenario: Scenario[T]) -> T:
        outcome: list[Any] = []

        async def main() -> None:
            ports = self.ports()
            try:
                outcome.append((await scenario(ports), None))
            except Exception as error:  # noqa: BLE001  # SimPy would rebuild it
                outcome.append((None, error))
            finally:
                ports.tasks.cancel_all()
                await ports.files.close()

        self.env.run(until=self.env.process(main()))  # type: ignore[arg-type]
        result, error = outcome[0]
        if error is not None:
            raise error
        return result


# --- entries ----------------------------------------------------------------------------------------------------------------------


def batch(first: int, count: int = 1, term: int = 1, *, size: int = 20, fill: int = 0) -> EntryBatch:
    """Entries with `size` bytes of data each, told apart by `fill`."""
    return EntryBatch.encode(first, term, EntryType.NORMAL, Payloads(count, bytes((fill % 256,)) * (size * count), size))


def proposal(key: bytes, value: bytes, id: int = 1) -> bytes:
    """As clients encode it: int64 id, int64 key length, key, int64 value length, value."""
    return b"".join(
        (
            id.to_bytes(8, "little"),
            len(key).to_bytes(8, "little"),
            key,
            len(value).to_bytes(8, "little"),
            value,
        )
    )


def proposals(first: int, pairs: Sequence[tuple[bytes, bytes]], term: int = 1) -> EntryBatch:
    return EntryBatch.encode(first, term, EntryType.NORMAL, Payloads.of([proposal(key, value) for key, value in pairs]))
