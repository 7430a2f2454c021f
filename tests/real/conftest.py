"""Every test here leaves neither a process nor a directory behind."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real.processes import MARK, Run, Started, wait_until


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch) -> Iterator[Started]:
    """The processes of this test. They are gone when it is over, or it fails (and they are ended by their ids)."""
    processes = Started()
    monkeypatch.setenv(MARK, processes.mark)
    yield processes
    try:
        wait_until("no process left", lambda: not processes.pids())
    finally:
        for pid in processes.pids():
            os.kill(pid, signal.SIGKILL)


@pytest.fixture
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where this test's data go, and whatever asks for a temporary directory; empty again when it is over."""
    directory = tmp_path / "scratch"
    directory.mkdir()
    monkeypatch.setenv("TMPDIR", str(directory))
    yield directory
    left = [str(path.relative_to(directory)) for path in directory.rglob("*")]
    assert left == []


@pytest.fixture
def group(scratch: Path) -> Run:
    return Run(scratch)
