"""A profile of the leader's process, while the measured window is open.

`.svg` files are flame graphs that py-spy draws, from samples of the whole process; others are what `cProfile` records of the thread
of the event loop, for `python -m pstats` and what reads the same.
"""

from __future__ import annotations

import cProfile
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Protocol

from rafttoy.errors import ConfigError, RunError

__all__ = ["Profiler", "check_profile", "make_profiler"]

_STOP_SECONDS = 30.0


class Profiler(Protocol):
    """`window(True)` when what is to be profiled begins, on its thread, `window(False)` when it ends."""

    def window(self, open: bool) -> None: ...

    def close(self) -> None:
        """The file is written once it returns. Raises RunError if it cannot be."""


def check_profile(path: Path, runs: int) -> None:
    """Raises ConfigError if `runs` runs of a cell cannot be profiled into that file."""
    if not path.parent.is_dir():
        raise ConfigError(f"--profile {path}: no directory {path.parent}")
    if path.suffix == ".svg":
        if _py_spy() is None:
            raise ConfigError(
                f"--profile {path}: a flame graph needs py-spy (pip install py-spy); any other name gets what cProfile records"
            )
        if runs > 1:
            raise ConfigError(f"--profile {path}: a flame graph is of one run, not of --count {runs}")


def make_profiler(path: Path) -> Profiler:
    return _FlameGraph(path) if path.suffix == ".svg" else _Deterministic(path)


class _Deterministic:
    """Windows add up."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._profile = cProfile.Profile()

    def window(self, open: bool) -> None:
        if open:
            self._profile.enable()
        else:
            self._profile.disable()

    def close(self) -> None:
        try:
            self._profile.dump_stats(self._path)
        except OSError as error:
            raise RunError(f"--profile {self._path}: {error.strerror}") from None


def _py_spy() -> str | None:
    """Beside this interpreter, else on the path."""
    return shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")


class _FlameGraph:
    """Drawn when the sampler is interrupted, which does not keep the loop waiting."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._sampler: subprocess.Popen[str] | None = None

    def window(self, open: bool) -> None:
        if open:
            command = [_py_spy() or "py-spy", "record", "--pid", str(os.getpid()), "--output", str(self._path), "--duration", "unlimited"]
            self._sampler = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        elif self._sampler is not None:
            self._sampler.send_signal(signal.SIGINT)

    def close(self) -> None:
        if self._sampler is None:
            return
        try:
            said, _ = self._sampler.communicate(timeout=_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._sampler.kill()
            said, _ = self._sampler.communicate()
        if self._sampler.returncode or not self._path.exists():
            last = (said.strip().splitlines() or ["it said nothing"])[-1]
            raise RunError(f"--profile {self._path}: py-spy: {last}")
