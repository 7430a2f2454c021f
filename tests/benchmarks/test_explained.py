"""The benchmark that changes what binds: what it changes, and its smallest run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from benchmarks.explained import CHANGES, SMALL, Finding
from rafttoy.analysis.calibrate import training_cells

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_changed() -> None:
    assert {change.resource for change in CHANGES} == {"disk", "cores", "network"}
    for change in (*CHANGES, *SMALL):
        assert (change.before != change.after) != bool(change.settings), "one change, of the cell or of the processors"
        assert bool(change.settings) == bool(change.cpus), "the model is changed as the host is"


def test_no_cell_that_is_fitted_on_is_predicted() -> None:
    cells = [cell for change in CHANGES for cell in (change.before, change.after)]
    training = [cell for group in training_cells(cells) for cell in group]
    assert not set(training) & set(cells)


@pytest.mark.slow
@pytest.mark.real
def test_half_the_delay_of_a_log_moves_the_ceiling_as_predicted(tmp_path: Path) -> None:
    into = tmp_path / "e.jsonl"
    command = [sys.executable, "benchmarks/explained.py", "--small", "--into", into, "--rounds", "1", "--max-error", "30"]
    command += ["--duration", "1500ms", "--warmup", "200ms"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (found,) = [msgspec.json.decode(line, type=Finding) for line in into.read_bytes().splitlines()]
    assert found.moved == pytest.approx(2, rel=0.3)  # the delay is all there is to wait for
    assert found.predicted == pytest.approx(2, rel=0.3)
    assert "half the delay" in done.stdout
