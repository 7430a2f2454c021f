"""Output formats: each is read back by what it is meant for."""

from __future__ import annotations

import csv
import io
import os
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from rich.console import Console
from rich.table import Table

from rafttoy.analysis import formats
from rafttoy.analysis.compare import compare
from rafttoy.analysis.manifest import host
from rafttoy.cell import Cell
from rafttoy.experiment import Result
from tests.support import make_result


def text(table: Table) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=1000, highlight=False).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines()]


# --- JSON, CSV ---


def test_json_lines_hold_everything_and_are_read_back() -> None:
    result = make_result(error_pct=-3.5, world="sim")
    line = formats.json_line(result)
    assert "\n" not in line
    assert msgspec.json.decode(line, type=Result) == result


def test_json_has_an_error_only_where_there_is_one() -> None:
    document = msgspec.json.decode(formats.json_line(make_result()))
    assert "error_pct" not in document
    assert {"world", "pipeline", "conc", "ops_per_s", "latency_us", "utilisation", "binding", "stages", "manifest"} <= set(document)


def test_csv_is_read_back_with_its_header() -> None:
    result = make_result(pipeline="a,b", verified=True, rate=0.0)
    (row,) = csv.DictReader(io.StringIO(f"{formats.csv_header()}\n{formats.csv_row(result)}\n"))
    assert None not in row
    assert None not in row.values()
    assert (row["pipeline"], row["conc"], row["ops_per_s"]) == ("a,b", "128", "10000.0")
    assert (row["latency_p99_us"], row["verified"], row["partial"], row["error_pct"]) == ("20000.0", "true", "false", "")


# --- Go ---


def test_gobench_line_is_the_original_s() -> None:
    line = formats.gobench_line(make_result(), (), cores=2)
    name, ops, *pairs = line.split("\t")
    assert (name, int(ops)) == ("BenchmarkRaftClosed/conc=128/bytes=256-2", 20_000)
    assert [pair.split() for pair in pairs] == [["9607400", "ns/op"], ["2.56", "MB/s"], ["9000000", "p50-ns"], ["20000000", "p99-ns"]]


def test_gobench_open_loop() -> None:
    assert formats.gobench_line(make_result(rate=5000.0, conc=0), (), 4).startswith("BenchmarkRaftOpen/rate=5000/bytes=256-4\t")


def test_gobench_names_tell_cells_apart() -> None:
    cells = [
        Cell(pipeline=p, storage=s, transport=t, nodes=n) for p in ("basic", "x") for s in ("split", "z") for t in "gt" for n in (3, 5)
    ]
    parts = formats.name_parts(["real", "sim"], cells)
    assert parts == ("world", "pipeline", "storage", "transport", "nodes")
    names = {formats.gobench_line(make_result(world=w, **msgspec.structs.asdict(c)), parts, 2).split("\t")[0] for c in cells for w in "rs"}
    assert len(names) == 2 * len(cells)
    assert formats.name_parts(["real"], [Cell(conc=1), Cell(conc=2, bytes=1)]) == ()


@pytest.fixture(scope="session")
def benchstat(tmp_path_factory: pytest.TempPathFactory) -> Path:
    go = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if go is None:
        pytest.skip("Go is not installed")
    bin_dir = tmp_path_factory.mktemp("go")
    tool = "golang.org/x/perf/cmd/benchstat@v0.0.0-20260908200009-22c9c6c9d4da"
    try:
        done = subprocess.run(
            [go, "install", tool], env=os.environ | {"GOBIN": str(bin_dir)}, capture_output=True, timeout=240, check=False
        )
    except subprocess.TimeoutExpired:
        pytest.skip("Go's module proxy is out of reach")
    if done.returncode:
        pytest.skip(f"benchstat cannot be built here: {done.stderr.decode()[-200:]}")
    return bin_dir / "benchstat"


@pytest.mark.slow
def test_benchstat_reads_it(benchstat: Path, tmp_path: Path) -> None:
    results = [make_result(conc=conc, ops=100 * seed, mb_per_s=2.5 + seed / 10) for conc in (1, 128) for seed in range(1, 8)]
    lines = [formats.gobench_line(result, ("pipeline",), 2) for result in results]
    (tmp_path / "runs.txt").write_text("\n".join([formats.gobench_header(host()), *lines]) + "\n")
    done = subprocess.run([benchstat, "runs.txt"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stderr == ""  # where benchstat tells of lines that it cannot parse
    assert re.search(r"^RaftClosed/pipeline=basic/conc=128/bytes=256-2\s+9\.607m ± 0%", done.stdout, re.MULTILINE), done.stdout
    for unit in ("sec/op", "B/s", "p50-sec", "p99-sec"):
        assert unit in done.stdout
    assert f"goos: {host()['system'].lower()}" in done.stdout


# --- humans ---


@pytest.mark.parametrize(
    ("us", "shown"),
    [
        (0, "0.00 µs"),
        (1.234, "1.23 µs"),
        (118.2, "118 µs"),
        (999.7, "1.00 ms"),
        (1240, "1.24 ms"),
        (99_960, "100 ms"),
        (2_050_000, "2.05 s"),
    ],
)
def test_latencies_have_three_digits(us: float, shown: str) -> None:
    assert formats.human_us(us) == shown


def test_counts() -> None:
    assert [formats.human_count(value) for value in (0.04, 9.96, 123.4, 1_234_567)] == ["0.0", "10.0", "123", "1,234,567"]


def test_table_has_columns_for_what_differs_and_says_the_rest_once() -> None:
    title, header, _, first, second = text(formats.results_table([make_result(conc=1), make_result(conc=128, pipeline="parallel-append")]))
    assert title == "real: file+leveldb, grpc, 3 nodes, 256 B"
    assert header.split() == ["pipeline", "conc", "ops/s", "MB/s", "mean", "p50", "p99", "max", "binding"]
    assert first.split()[:3] == ["basic", "1", "10,000"]
    assert second.split()[:3] == ["parallel-append", "128", "10,000"]


def test_table_of_combined_stores_says_nothing_of_a_wal() -> None:
    split = [make_result(wal=wal) for wal in ("file", "etcd")]
    whole = make_result(storage="rocksdb", wal="rocksdb", engine="rocksdb")
    _, header, _, *rows = text(formats.results_table([*split, whole]))
    assert header.split()[:3] == ["wal", "storage", "conc"]
    assert [row.split()[0] for row in rows] == ["file", "etcd", "rocksdb"]


def test_table_of_one_varying_part_keeps_the_other() -> None:
    title, *_ = text(formats.results_table([make_result(wal=wal) for wal in ("file", "etcd")]))
    assert "engine leveldb" in title


def test_open_loops_have_a_rate() -> None:
    _, header, _, row = text(formats.results_table([make_result(rate=2500.0, conc=0)]))
    assert header.split()[0] == "rate"
    assert row.split()[0] == "2500"


def test_partial_runs_are_marked() -> None:
    assert text(formats.results_table([make_result(partial=True)]))[-1].endswith("disk (partial)")


def test_comparison_table() -> None:
    sim = make_result(world="sim", ops_per_s=9000.0, binding="loop@1")
    lines = text(formats.comparison_table(compare([make_result()], [sim])))
    assert lines[0] == "basic, file+leveldb, grpc, 3 nodes, 256 B"
    assert lines[-1].split() == ["128", "10,000", "9,000", "-10.0", "%", *["9.00", "ms"] * 2, *["20.0", "ms"] * 2, "disk", "/", "loop@1"]


def test_comparison_of_repeats_shows_their_spread() -> None:
    real = [make_result(ops_per_s=rate) for rate in (9000.0, 10_000.0, 11_000.0)]
    lines = text(formats.comparison_table(compare(real, [make_result(world="sim")])))
    assert lines[-1].split()[1:5] == ["10,000", "±10", "%", "10,000"]


def test_metrics_table() -> None:
    lines = text(formats.metrics_table("a run", make_result().metrics))
    assert lines[-1].split() == ["append_batch_sizes", "500", "40.0", "2.0", "40.0", "42.0", "50.0", "60.0", "61.0"]
