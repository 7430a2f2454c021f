"""Kills peers with SIGKILL while they acknowledge proposals, again and again, and looks for every acknowledged proposal afterwards.

    python benchmarks/kill_cycles.py [--cycles 100] [--storage file+leveldb ...] [--seed 1]

Three peer processes on loopback keep their data in one directory per storage. A cycle starts them there (they resume their epoch, elect,
catch up), compares the logs and engines of all three, looks in the log, as read back from disk, for each proposal that any earlier cycle
acknowledged (the leader writes each run of acknowledgements to a file before its client is told), and then loads the group until one to
three of the peers, drawn at random, the leader among them or not, are killed. Any difference or loss ends the script with status 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import sys
import tempfile
import threading
import time
from pathlib import Path

from rafttoy.cell import Cell, Plan
from rafttoy.errors import CheckFailed, RafttoyError
from rafttoy.real.cluster import run_local
from rafttoy.run import Measurement

STORAGES = (
    "file+mem",
    "file+leveldb",
    "file+rocksdb",
    "etcd+mem",
    "etcd+leveldb",
    "leveldb+leveldb",
    "rocksdb+rocksdb",
    "leveldb",
    "rocksdb",
)
PIPELINES = ("basic", "parallel-append", "parallel-append-early-ack", "async-apply", "async-apply-early-ack", "async-storage")
_PLAN = Plan(seconds=1.0, warmup_seconds=0.0, verify=True, connect_seconds=20.0)


def cell_of(storage: str, pipeline: str) -> Cell:
    wal, plus, engine = storage.partition("+")
    if plus:
        return Cell(pipeline, wal, engine, "split", "tcp", conc=8)
    return Cell(pipeline, wal, wal, wal, "tcp", conc=8)


def peers() -> list[int]:
    """Process ids of this process's peers."""
    found = []
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError, IndexError):
            parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            if parent == os.getpid() and b"rafttoy.real.node" in (entry / "cmdline").read_bytes():
                found.append(int(entry.name))
    return sorted(found)


def kill_some(rng: random.Random, acknowledgements: Path, done: threading.Event) -> list[int]:
    """Waits until proposals are being acknowledged, then a little, then kills; returns who was killed."""
    before = acknowledgements.stat().st_size if acknowledgements.exists() else 0
    while not acknowledgements.exists() or acknowledgements.stat().st_size == before:
        if done.wait(0.005):
            return []
    time.sleep(rng.uniform(0.0, 0.4))
    running = peers()
    victims = rng.sample(running, min(len(running), rng.choice((1, 1, 2, 3))))
    for victim in victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(victim, signal.SIGKILL)
    return victims


def run_cycles(storage: str, cycles: int, seed: int, say: bool = False) -> dict[str, int]:
    """`cycles` kills and a last, peaceful run. Raises CheckFailed when something acknowledged is gone, or replicas differ.

    Returns counts: cycles, peers killed, runs that ended in spite of a kill, entries acknowledged over all cycles."""
    rng = random.Random(f"{storage}/{seed}")
    counts = {"cycles": 0, "killed": 0, "survived": 0, "acknowledged": 0}
    with tempfile.TemporaryDirectory(prefix="rafttoy-kill-") as directory:
        data, acknowledgements = Path(directory) / "data", Path(directory) / "acknowledged"
        for i in range(cycles + 1):
            last = i == cycles
            cell = cell_of(storage, rng.choice(PIPELINES))
            done = threading.Event()
            killed: list[int] = []
            killer = threading.Thread(target=lambda done=done, killed=killed: killed.extend(kill_some(rng, acknowledgements, done)))
            if not last:
                killer.start()
            measured: list[Measurement] = []
            try:
                run_local(
                    [(cell, _PLAN)],
                    data_dir=data,
                    keep=True,
                    ack_log=acknowledgements,
                    on_measured=lambda position, measurement, measured=measured: measured.append(measurement),
                    progress=lambda position, share: None,
                    say=lambda line: print(f"    {line}", file=sys.stderr) if say else None,
                )
                counts["survived"] += bool(not last and killed)
            except CheckFailed:
                raise
            except RafttoyError as error:
                if last or not killed:
                    raise CheckFailed(f"{storage}, cycle {i}: {error}") from error
            finally:
                done.set()
                if not last:
                    killer.join()
            counts["cycles"] += not last
            counts["killed"] += len(killed)
        counts["acknowledged"] = sum(
            int(last) - int(first) + 1 for first, last, *_ in (line.split() for line in acknowledgements.read_text().splitlines())
        )
    return counts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cycles", type=int, default=100)
    parser.add_argument("--storage", nargs="*", default=STORAGES)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verbose", action="store_true")
    flags = parser.parse_args()
    for storage in flags.storage:
        began = time.monotonic()
        try:
            counts = run_cycles(storage, flags.cycles, flags.seed, flags.verbose)
        except CheckFailed as error:
            print(f"{storage}: FAILED: {error}", flush=True)
            raise SystemExit(1) from None
        told = ", ".join(f"{value} {name}" for name, value in counts.items())
        print(f"{storage}: {told}, nothing lost, {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
