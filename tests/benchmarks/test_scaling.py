"""Along the axes: what is measured, what a row says, and the smallest run."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import scaling
from rafttoy.analysis.sweep import read_results
from rafttoy.cell import Cell
from tests.support import make_result

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"}


def test_the_axes_span_what_they_should() -> None:
    assert (scaling.AXES["bytes"][0], scaling.AXES["bytes"][-1]) == (16, 65536)
    assert scaling.AXES["nodes"] == (1, 3, 5, 7)
    assert (scaling.AXES["conc"][0], scaling.AXES["conc"][-1]) == (1, 16384)
    assert set(scaling.SMALL) == set(scaling.AXES)


def test_along_an_axis_nothing_else_changes() -> None:
    base = Cell(pipeline="basic", conc=7)
    for axis, values in scaling.AXES.items():
        cells = scaling.cells_of(base, axis, values)
        assert [getattr(cell, axis) for cell in cells] == list(values)
        assert {name for cell in cells for name in Cell.__struct_fields__ if getattr(cell, name) != getattr(base, name)} == {axis}


def test_a_row_is_of_the_median_run_with_the_spread_of_all() -> None:
    runs = [
        make_result(
            ops_per_s=rate,
            mb_per_s=rate * 256e-6,
            utilisation={"disk": rate / 40_000},
            cpu_us_per_op={"leader": 3.0, "total": 9.04},
            harness_ops_per_s=200_000.0,
        )
        for rate in (30_000.0, 10_000.0, 20_000.0)
    ]
    row = scaling.row("conc", runs)
    assert row == ["128", "20,000", "10,000…30,000", "5.1", "9.00 ms", "20.0 ms", "40.0", "9.0", "disk 50%", "10%"]
    assert scaling.row("conc", [make_result(binding="latency")])[-3:] == ["", "latency", ""]
    lines = scaling.table("conc", runs[0].cell(), [*runs, make_result(conc=1)]).splitlines()
    assert lines[0] == "conc: basic, file+leveldb, grpc, 256 B, 3 nodes"
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["conc", "---:", "128", "1"]
    assert {line.count("|") for line in lines[2:]} == {2 + len(scaling.HEADINGS)}


@pytest.mark.slow
@pytest.mark.real
def test_the_smallest_run_prints_a_table_an_axis_and_goes_on_where_it_ended(tmp_path: Path) -> None:
    into = tmp_path / "s.jsonl"
    command = [
        sys.executable,
        "benchmarks/scaling.py",
        "--small",
        "--into",
        into,
        "--count",
        "1",
        "--duration",
        "200ms",
        "--warmup",
        "100ms",
    ]
    command += ["--connect-timeout", "60s"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.findall(r"^(\w+): parallel-append, mem\+mem, tcp, ", done.stdout, re.MULTILINE) == list(scaling.AXES)
    rows = re.findall(r"^\| (\d+) \| [\d,.]+ \|", done.stdout, re.MULTILINE)
    assert rows == [str(value) for values in scaling.SMALL.values() for value in values]
    results = read_results(into)
    assert len(results) == 6
    for result in results:  # one node too: its window is opened while it is under load
        assert result.batch["mean"] >= 1
        assert result.cpu_us_per_op["leader"] > 0
    again = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert again.stdout == done.stdout
    assert len(read_results(into)) == 6


def test_an_open_loop_has_no_concurrency_to_vary() -> None:
    command = [sys.executable, "benchmarks/scaling.py", "--rate", "100"]
    done = subprocess.run(command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "an open loop has no concurrency to vary" in done.stderr
