"""No log at all but the one in memory, which may take its time over a write as a disk would."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from rafttoy.ports import Ports
from rafttoy.raft.entries import EntryBatch
from rafttoy.storage.api import Save, WalState

__all__ = ["MemWal"]


class MemWal:
    """`delay_ns` a write."""

    durable = False

    def __init__(self, ports: Ports, delay_ns: int = 0) -> None:
        self._clock = ports.clock
        self.delay_ns = delay_ns
        self.instant = not delay_ns
        self._writes = 0

    async def open(self) -> WalState:
        return WalState()

    async def begin(self, saves: Sequence[Save], *, sync: bool) -> Awaitable[None]:
        self._writes += 1
        return self._clock.sleep_ns(self.delay_ns)

    async def read(self, batch: EntryBatch) -> EntryBatch:
        raise AssertionError("a log in memory evicts nothing")

    async def release(self, index: int) -> None:
        pass

    async def reset(self) -> None:
        pass

    def counters(self) -> dict[str, int]:
        return {"wal_syncs": 0, "wal_writes": self._writes, "wal_bytes": 0}

    async def close(self) -> None:
        pass
