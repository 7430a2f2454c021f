"""Processes of this host for what does not depend on one another."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

__all__ = ["worker_pool"]


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
