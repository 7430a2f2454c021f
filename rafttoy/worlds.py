"""The only place that knows both worlds: where a cell is run, and what the names of transports stand for."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from rafttoy.cell import Cell, Plan
from rafttoy.real.bench import RealBench
from rafttoy.real.cluster import drive_cluster, run_local
from rafttoy.real.device import SyncReport, check_sync
from rafttoy.real.idle import idle_cores, idle_mode, why_asleep
from rafttoy.real.node import Event, Job, Listening, Log, run_node, start_loop
from rafttoy.real.profile import check_profile
from rafttoy.sim.bench import SimBench
from rafttoy.sim.model import Model
from rafttoy.sim.world import run_sim

__all__ = [
    "TRANSPORTS",
    "WORLDS",
    "RealBench",
    "SimBench",
    "SyncReport",
    "check_profile",
    "check_sync",
    "cores",
    "drive_cluster",
    "idle_cores",
    "idle_mode",
    "run_local",
    "run_sim",
    "serve_peer",
    "why_asleep",
]

WORLDS = ("real", "sim")

TRANSPORTS: dict[str, str] = {
    "grpc": "one gRPC stream from each peer to every other, as the Go original",
    "tcp": "plain TCP, length-prefixed frames, one connection from each peer to every other",
    "mem": "all peers in one process, messages by reference",
}


def cores(model: Model | None) -> int:
    """Cores of the host that peers share: the model's, or those of this one that the process may use."""
    if model is not None:
        return model.hardware.cores
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def serve_peer(
    *,
    id: int,
    peers: Sequence[str],
    cell: Cell,
    plan: Plan,
    data_dir: Path | None,
    say: Callable[[str], None],
    verbose: bool = False,
    fresh: bool = False,
) -> dict[str, dict[str, float]]:
    """Member `id` of a cluster at `peers`, in this process, until SIGINT or SIGTERM. `cell` holds until a leader says otherwise.

    Without `data_dir` it keeps its data in a directory of its own that it removes; with one it resumes what it finds there, unless
    `fresh` forgets it. Returns the metrics of its last run. Raises RunError (address taken), StorageError (its directory or disk)."""

    def emit(event: Event) -> None:
        if isinstance(event, Log) and verbose:
            say(event.line)
        elif isinstance(event, Listening):
            say(f"peer {id} listens on {peers[id - 1]}")

    recorded: dict[str, dict[str, float]] = {}

    async def run(root: Path) -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, stop.set)
        recorded.update(await run_node(Job(id, tuple(peers), str(root), cell, plan, fresh=fresh), emit, stop))

    with contextlib.ExitStack() as stack:
        stack.enter_context(idle_cores(plan.idle))
        start_loop(run(data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="rafttoy-")))))
    return recorded
