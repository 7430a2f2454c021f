"""Processes of this host for what does not depend on one another."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

from rafttoy.cell import Cell, Plan
from rafttoy.run import Measurement
from rafttoy.sim.model import Model
from rafttoy.worlds import run_sim

__all__ = ["Simulate", "one_by_one", "side_by_side", "worker_pool"]

Simulate = Callable[[Sequence[tuple[Cell, Plan, Model]]], list[Measurement]]


@contextlib.contextmanager
def worker_pool(workers: int, begin: Callable[..., None] | None = None, *args: Any) -> Iterator[ProcessPoolExecutor]:
    """Each process calls `begin(*args)` first. They are started anew (gRPC does not survive a fork), and Ctrl-C is the parent's to handle;
    what has not begun by the end of the block never does."""
    pool = ProcessPoolExecutor(workers, get_context("spawn"), _begin, (begin, *args))
    try:
        yield pool
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _begin(begin: Callable[..., None] | None, *args: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if begin is not None:
        begin(*args)


def one_by_one(runs: Sequence[tuple[Cell, Plan, Model]]) -> list[Measurement]:
    return [run_sim(cell, plan, model) for cell, plan, model in runs]


@contextlib.contextmanager
def side_by_side(workers: int) -> Iterator[Simulate]:
    """Simulates on so many processes, with the same results in the same order."""
    if workers < 2:
        yield one_by_one
        return
    with worker_pool(workers) as pool:
        yield lambda runs: list(pool.map(_simulated, runs))


def _simulated(run: tuple[Cell, Plan, Model]) -> Measurement:
    return run_sim(*run)
