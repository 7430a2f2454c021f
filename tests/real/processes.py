"""Real groups to break: which processes a test started, which peer each of them is, and that none of them is left."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rafttoy.cell import Cell, Plan
from rafttoy.real.cluster import run_local
from rafttoy.run import Measurement

__all__ = ["MARK", "Run", "Started", "cell_of", "wait_until"]

MARK = "TEST_THAT_STARTED_THIS"
"""A variable that every process of a test inherits, so that they are found again, whoever their parent is by then."""

DEADLINE_SECONDS = 200.0  # a busy machine may stall; nothing here takes long


def wait_until(what: str, holds: Callable[[], Any]) -> Any:
    """What `holds()` gives once it is true."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not (value := holds()):
        assert time.monotonic() < deadline, f"not within {DEADLINE_SECONDS:g} s: {what}"
        time.sleep(0.02)
    return value


class Started:
    """The processes below a test, found by the mark in their environment."""

    def __init__(self) -> None:
        self.mark = uuid.uuid4().hex

    def pids(self) -> list[int]:
        """Of those that run (a zombie does not)."""
        sought = f"{MARK}={self.mark}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit() and int(entry.name) != os.getpid():
                try:
                    if sought in (entry / "environ").read_bytes().split(b"\0") and not _is_zombie(entry):
                        found.append(int(entry.name))
                except OSError:
                    continue  # it ended, or is another user's
        return found

    def peers(self) -> dict[int, int]:
        """{peer: pid} of the processes that a benchmark started: each writes its last words to a file of its name."""
        out = {}
        for pid in self.pids():
            try:
                name = Path(f"/proc/{pid}/fd/2").readlink().name
            except OSError:
                continue
            if name.startswith("peer-") and name.endswith(".err"):
                out[int(name.removeprefix("peer-").removesuffix(".err"))] = pid
        return out


def _is_zombie(entry: Path) -> bool:
    return (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"


def cell_of(**changes: Any) -> Cell:
    return Cell(**{"wal": "mem", "engine": "mem", "transport": "tcp", "conc": 8, "bytes": 64, **changes})


class Run:
    """One local group. `when(share, what)`: once so much of the run is done, `what()` happens, while it goes on."""

    def __init__(self, data_dir: Path) -> None:
        self.said: list[str] = []
        self.measured: list[Measurement] = []
        self._data_dir = data_dir
        self._events: list[tuple[float, Callable[[], None]]] = []

    def when(self, share: float, what: Callable[[], None]) -> None:
        self._events.append((share, what))

    def _progress(self, i: int, share: float) -> None:
        while self._events and share >= self._events[0][0]:
            self._events.pop(0)[1]()

    def run(self, cell: Cell, plan: Plan, runs: int = 1, **options: Any) -> Sequence[Measurement]:
        run_local(
            [(cell, plan)] * runs,
            data_dir=self._data_dir,
            on_measured=lambda i, measurement: self.measured.append(measurement),
            progress=self._progress,
            say=self.said.append,
            verbose=True,
            **options,
        )
        assert not self._events, "the run ended before all that was to happen in it"
        return self.measured
