"""`rafttoy sim`, `rafttoy list` and the output formats, end to end."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import subprocess
import sys

import pytest

from rafttoy.analysis.models import shipped_models
from rafttoy.pipeline import PIPELINES
from tests.cli.conftest import Rafttoy

QUICK = ("--duration", "50ms", "--warmup", "10ms", "--conc", "1,16")


def test_json_has_a_row_a_run(rafttoy: Rafttoy) -> None:
    done = rafttoy("sim", *QUICK, "--count", "2", "--seed", "5", "-o", "json")
    assert done.status == 0, done.err
    assert done.err == "rafttoy: seed 5\n"
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [(row["conc"], row["seed"]) for row in rows] == [(1, 5), (1, 6), (16, 5), (16, 6)]
    for row in rows:
        assert (row["world"], row["partial"]) == ("sim", False)
        assert row["ops"] > 0
        assert row["ops_per_s"] == pytest.approx(row["ops"] / row["seconds"], rel=1e-3)
        assert row["mb_per_s"] == pytest.approx(row["ops_per_s"] * 256 / 1e6, abs=1e-3)
        latency = row["latency_us"]
        assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["p999"] <= latency["max"] * 1.002
        assert row["manifest"]["flags"] == {
            "duration": "0.05",
            "warmup": "0.01",
            "conc": "1,16",
            "count": "2",
            "seed": "5",
            "output": "json",
        }
        assert "error_pct" not in row
    # closed loop: Little's law, N = X · R
    for row in rows:
        assert row["ops_per_s"] * row["latency_us"]["mean"] / 1e6 == pytest.approx(row["conc"], rel=0.1)


def test_csv(rafttoy: Rafttoy) -> None:
    rows = list(csv.DictReader(io.StringIO(rafttoy("sim", *QUICK, "-o", "csv").out)))
    assert [row["conc"] for row in rows] == ["1", "16"]
    assert float(rows[1]["ops_per_s"]) > float(rows[0]["ops_per_s"]) > 0


def test_gobench(rafttoy: Rafttoy) -> None:
    lines = rafttoy("sim", *QUICK, "--pipeline", "basic,parallel-append", "-o", "gobench").out.splitlines()
    assert lines[0].startswith("goos: ")
    names = [line.split("\t")[0].rpartition("-")[0] for line in lines if line.startswith("Benchmark")]
    assert names == [
        f"BenchmarkRaftClosed/pipeline={pipeline}/conc={conc}/bytes=256" for pipeline in ("basic", "parallel-append") for conc in (1, 16)
    ]


def test_table_is_not_folded_when_it_is_kept(rafttoy: Rafttoy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    done = rafttoy("sim", *QUICK, "--wal", "mem:5ms", "--engine", "mem", "--metrics")
    lines = done.out.splitlines()
    assert lines[0] == "sim: parallel-append, mem:5ms+mem, grpc, 3 nodes, 256 B"
    assert [line.split()[0] for line in lines[3:5]] == ["1", "16"]
    assert sum(line.startswith("append_batch_sizes") for line in lines) == 2


def test_an_open_loop_takes_what_is_offered(rafttoy: Rafttoy) -> None:
    done = rafttoy("sim", "--rate", "500,1000", "--arrival", "constant", "--duration", "1s", "--warmup", "100ms", "-o", "json")
    rates = [(row["rate"], row["ops_per_s"]) for row in map(json.loads, done.out.splitlines())]
    assert [offered for offered, _ in rates] == [500.0, 1000.0]
    for offered, taken in rates:
        assert taken == pytest.approx(offered, rel=0.03)


def test_proposals_instead_of_a_duration(rafttoy: Rafttoy) -> None:
    (row,) = map(json.loads, rafttoy("sim", "--conc", "8", "--proposals", "1000", "-o", "json").out.splitlines())
    assert 1000 <= row["ops"] < 1000 + 8


def test_verify_holds(rafttoy: Rafttoy) -> None:
    done = rafttoy("sim", *QUICK, "--verify", "-o", "json")
    assert (done.status, [json.loads(line)["verified"] for line in done.out.splitlines()]) == (0, [True, True])


def test_the_same_seed_gives_the_same_bytes_in_any_process() -> None:
    outputs = set()
    for hash_seed in ("0", "1", "4242"):
        command = [sys.executable, "-m", "rafttoy", "sim", *QUICK, "--pipeline", "parallel-append,async-storage", "-o", "json"]
        outputs.add(subprocess.run(command, env={"PYTHONHASHSEED": hash_seed}, capture_output=True, check=True).stdout)
    assert len(outputs) == 1


def test_another_seed_gives_other_figures(rafttoy: Rafttoy) -> None:
    rows = [json.loads(rafttoy("sim", "--conc", "16", "--duration", "100ms", "--seed", seed, "-o", "json").out) for seed in (1, 2)]
    assert rows[0]["latency_us"] != rows[1]["latency_us"]


def test_list(rafttoy: Rafttoy) -> None:
    rows = [json.loads(line) for line in rafttoy("list", "-o", "json").out.splitlines()]
    assert all(row["description"] for row in rows)
    names = {kind: [row["name"] for row in rows if row["kind"] == kind] for kind in ("pipeline", "transport", "model")}
    assert names == {"pipeline": list(PIPELINES), "transport": ["grpc", "tcp", "mem"], "model": list(shipped_models())}
    table = rafttoy("list").out
    for row in rows:
        assert row["name"] in table
        assert row["description"] in table


def test_a_bar_moves_on_a_terminal_and_data_stay_data() -> None:
    terminal, slave = os.openpty()
    command = [sys.executable, "-m", "rafttoy", "sim", *QUICK, "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=slave, env=os.environ | {"TERM": "xterm"}) as process:
        os.close(slave)
        out, _ = process.communicate(timeout=60)
    shown = b""
    with contextlib.suppress(OSError):  # the other end is closed
        while part := os.read(terminal, 1 << 16):
            shown += part
    os.close(terminal)
    assert process.returncode == 0
    assert b"simulating" in shown
    assert [json.loads(line)["conc"] for line in out.splitlines()] == [1, 16]
