"""The model of one device: what a write, a sync and a read cost, and how they get in each other's way.

A synced write costs: a sync drawn from the model's quantiles, times the factor for how many are at the device at once; what its bytes
beyond the first 4 KiB add, one after another on the device; and what growing a file adds. Its core time is the host's, not the loop's.
Everything is computed when a call begins. The disk threads, with their hand-offs, are in `rafttoy.sim.files`.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

import numpy as np
import simpy

from rafttoy.sim.model import Disk
from rafttoy.sim.runtime import SimHost

__all__ = ["SimDisk"]

_FREE_BYTES = 4096  # a sync's quantiles are those of a 4 KiB write
_DRAWS = 1024  # random numbers drawn at a time: one by one, numpy's overhead is more than the sync's


class SimDisk:
    """One device, shared by the peers of a host. `rng` is a numpy Generator."""

    def __init__(self, env: simpy.Environment, host: SimHost, costs: Disk, rng: Any) -> None:
        self.env = env
        self._host = host
        self._rng = rng
        self._shares = [percent / 100.0 for percent in costs.percents()]
        self._table_us = costs.sync_us
        self._widened = costs.widened()
        self._draws: list[float] = []
        self._byte_ns = costs.byte_ns
        self._write_ns = int(costs.write_us * 1000)
        self._read_ns = int(costs.read_us * 1000)
        self._grow_ns = int(costs.grow_us * 1000)
        self._factors = costs.concurrency
        self._cpu_ns = int(costs.cpu_us * 1000)
        self._cpu_byte_ns = costs.cpu_byte_ns
        self.handoff_ns = int(costs.handoff_us * 1000)
        self.loop_ns = int(costs.loop_us * 1000)
        self._transfer_free_ns = 0
        self._ends_ns: list[int] = []  # a heap: when the syncs at the device end
        self._busy_until_ns = 0
        self.busy_ns = 0
        """How long at least one call was at the device."""

    def _sync_ns(self, nbytes: int) -> float:
        """A quantile of the sync, interpolated."""
        draws = self._draws
        if not draws:
            draws = self._draws = np.interp(self._rng.random(_DRAWS), self._shares, self._table_us).tolist()
        return 1000.0 * self._widened(draws.pop(), nbytes)

    def _occupy(self, begin_ns: int, end_ns: int) -> None:
        if end_ns > self._busy_until_ns:
            self.busy_ns += end_ns - max(begin_ns, self._busy_until_ns)
            self._busy_until_ns = end_ns

    def _transfer(self, begin_ns: int, nbytes: int) -> int:
        """When bytes that are handed over from `begin_ns` on are at the device."""
        if nbytes <= _FREE_BYTES:
            return begin_ns
        start_ns = max(begin_ns, self._transfer_free_ns)
        self._transfer_free_ns = start_ns + int(self._byte_ns * (nbytes - _FREE_BYTES))
        return self._transfer_free_ns

    def cpu_ns(self, nbytes: int) -> int:
        """Core time of a synced write."""
        return self._cpu_ns + int(self._cpu_byte_ns * nbytes)

    def synced_write(self, begin_ns: int, nbytes: int, *, grows: bool, factor: float = 1.0) -> int:
        """When a write of `nbytes` with its sync ends that begins at `begin_ns` at the earliest. `factor` scales the sync."""
        cpu_ns = self.cpu_ns(nbytes)
        if cpu_ns:
            now: int = self.env.now  # type: ignore[assignment]
            begin_ns += max(0, self._host.reserve(now, cpu_ns) - cpu_ns - now)  # the sync includes it: what it adds is waiting for a core
        ends = self._ends_ns
        while ends and ends[0] <= begin_ns:
            heappop(ends)
        factors = self._factors
        factor *= factors[len(ends)] if len(ends) < len(factors) else factors[-1]
        end_ns = self._transfer(begin_ns, nbytes) + int(self._sync_ns(nbytes) * factor) + (self._grow_ns if grows else 0)
        heappush(ends, end_ns)
        self._occupy(begin_ns, end_ns)
        return end_ns

    def write(self, begin_ns: int, nbytes: int) -> int:
        """When a write that is not synced ends: it goes to memory, and to the device in its own time."""
        self._transfer(begin_ns, nbytes)
        return begin_ns + self._write_ns

    def read(self, begin_ns: int, nbytes: int) -> int:
        end_ns = self._transfer(begin_ns, nbytes) + self._read_ns
        self._occupy(begin_ns, end_ns)
        return end_ns
