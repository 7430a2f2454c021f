"""Real disks by themselves, for measurements of one component: ports in a directory that goes afterwards, and the raw device."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Self, TypeVar

from rafttoy.ports import Ports
from rafttoy.randomness import SeededRandomness
from rafttoy.real.device import RawDevice
from rafttoy.real.files import RealFiles, device_bytes
from rafttoy.real.kv import RealKvStores, installed
from rafttoy.real.node import start_loop
from rafttoy.real.runtime import RealClock, RealCpu, RealTasks
from rafttoy.storage import WALS

__all__ = ["RealBench"]

T = TypeVar("T")

_FEWEST = 8


class RealBench:
    """Below `directory`, which must exist (default: the system's temporary one). A context manager."""

    name = "real"
    content = True

    def __init__(self, directory: Path | None, sync: str = "fdatasync") -> None:
        self.sync = sync
        self._directory = directory
        self._root: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        self._root = tempfile.TemporaryDirectory(prefix="rafttoy-wal-", dir=self._directory)
        self._device = RawDevice(Path(self._root.name), sync=self.sync).__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        self._device.__exit__()
        assert self._root is not None
        self._root.cleanup()

    def wals(self) -> tuple[str, ...]:
        return tuple(name for name in WALS if name != "mem" and installed(name))

    def run(self, main: Callable[[Ports], Awaitable[T]]) -> T:
        outcome: list[T] = []

        async def measure(root: Path) -> None:
            ports = _RealPorts(root, self.sync)
            try:
                outcome.append(await main(ports))
            finally:
                ports.tasks.cancel_all()
                await ports.files.close()

        assert self._root is not None
        with tempfile.TemporaryDirectory(dir=self._root.name) as root:
            start_loop(measure(Path(root)))
        return outcome[0]

    def raw(self, size: int, seconds: float) -> list[int]:
        return self._device.measure(size, seconds, least=_FEWEST)

    def device_bytes(self) -> int:
        assert self._root is not None
        return device_bytes(Path(self._root.name))


class _RealPorts:
    links: Any = None  # a log alone talks to nobody

    def __init__(self, root: Path, sync: str) -> None:
        self.clock = RealClock()
        self.tasks = RealTasks(asyncio.get_running_loop())
        self.cpu = RealCpu()
        self.files = RealFiles(root, self.tasks, sync)
        self.kv = RealKvStores(root, self.tasks, self.cpu)
        self.random = SeededRandomness(1, 1)
