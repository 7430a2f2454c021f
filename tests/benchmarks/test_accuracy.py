"""The accuracy benchmark: what it judges, and its smallest run."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.accuracy import CLOSED, ETCD, OPEN, SATURATED, SHARES, SMALL, open_loops
from rafttoy.analysis.calibrate import training_cells
from rafttoy.analysis.ledger import read
from rafttoy.analysis.sweep import read_results
from rafttoy.pipeline import PIPELINES
from tests.support import make_result

ROOT = Path(__file__).resolve().parents[2]


def test_what_is_judged() -> None:
    loops = len(OPEN) * len(SHARES)
    assert len(set(CLOSED)) == len(CLOSED)
    assert len(CLOSED) + loops >= 48
    assert {cell.pipeline for cell in CLOSED} == set(PIPELINES)
    assert {cell.storage_name() for cell in CLOSED} >= {"mem+mem", "file+leveldb", "leveldb", f"{ETCD[1]}+{ETCD[2]}"}
    assert {cell.transport for cell in CLOSED} >= {"grpc", "tcp"}
    assert (min(cell.conc for cell in CLOSED), max(cell.conc for cell in CLOSED)) == (1, 4096)
    assert (min(cell.bytes for cell in CLOSED), max(cell.bytes for cell in CLOSED)) == (64, 4096)
    assert SHARES == (0.3, 0.6, 0.9)


@pytest.mark.parametrize("cells", [CLOSED, SMALL])
def test_no_cell_that_is_fitted_on_judges(cells: list[object]) -> None:
    training = [cell for group in training_cells(cells) for cell in group]  # type: ignore[arg-type]
    assert training
    assert not set(training) & set(cells)  # type: ignore[arg-type]
    assert {cell.bytes for cell in training} >= {min(cell.bytes for cell in cells), max(cell.bytes for cell in cells)}  # type: ignore[attr-defined]


def test_open_loops_are_shares_of_what_was_measured_first() -> None:
    cell = make_result(conc=SATURATED).cell()
    measured = [make_result(conc=SATURATED, ops_per_s=98_765.0, seed=1), make_result(conc=SATURATED, ops_per_s=50_000.0, seed=2)]
    assert [loop.rate for loop in open_loops(measured, [cell])] == [30_000.0, 59_000.0, 89_000.0]
    assert {loop.conc for loop in open_loops(measured, [cell])} == {0}


@pytest.mark.slow
@pytest.mark.real
def test_the_smallest_run_leaves_its_line_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    into, book = tmp_path / "a.jsonl", tmp_path / "ledger.jsonl"
    command = [sys.executable, "benchmarks/accuracy.py", "--small", "--into", into, "--ledger", book, "--repeats", "2"]
    command += ["--duration", "200ms", "--warmup", "100ms"]
    environment = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (entry,) = read(book)
    assert (entry.cells, entry.repeats) == (len(SMALL) + len(SHARES), 2)
    assert f"training cells ({len(training_cells(SMALL)[0])}):" in done.stdout
    assert f"test cells ({entry.cells}):" in done.stdout
    assert f"ledger: {entry}" in done.stdout
    assert len(read_results(into)) == 2 * entry.cells
    content, model = into.read_bytes(), into.with_suffix(".toml").read_bytes()
    subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)  # all is there: nothing is measured again
    assert (into.read_bytes(), into.with_suffix(".toml").read_bytes()) == (content, model)
    first, second = read(book)
    assert first == second


@pytest.mark.slow
def test_the_speed_of_a_small_sweep() -> None:
    command = [sys.executable, "benchmarks/sweep_speed.py", "--small", "--sample", "0"]
    done = subprocess.run(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert '"cells":24' in done.stdout
    late = subprocess.run(
        [*command, "--most", "0.01"], cwd=ROOT, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False
    )
    assert late.returncode == 1
    assert "more than 0.01" in late.stderr
