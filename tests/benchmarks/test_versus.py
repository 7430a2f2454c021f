"""Side by side with another system: what is refused, what is read, and what the ratios claim."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from time import perf_counter

import msgspec
import pytest

from benchmarks import versus
from rafttoy.cell import Cell, Plan
from rafttoy.errors import ConfigError, PeerError, RunError

ROOT = Path(__file__).resolve().parents[2]
CELL = Cell(pipeline="basic", wal="mem", engine="mem", transport="tcp")

# --- cells ---


def test_a_cell_is_a_grid_of_what_bench_takes() -> None:
    cells = versus.parse_cells("pipeline=basic,async-apply wal=mem engine=mem conc=1,128 nodes=5")
    assert [(cell.pipeline, cell.conc) for cell in cells] == [("basic", 1), ("basic", 128), ("async-apply", 1), ("async-apply", 128)]
    assert {(cell.wal, cell.nodes, cell.bytes, cell.transport) for cell in cells} == {("mem", 5, Cell().bytes, Cell().transport)}


def test_a_rate_makes_an_open_loop() -> None:
    (cell,) = versus.parse_cells("rate=5000")
    assert (cell.rate, cell.conc) == (5000.0, 0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("pipline=basic", r"'pipline' \(did you mean pipeline\?\)"),
        ("pipeline=basics", r"'basics' \(did you mean basic\?\)"),
        ("conc=many", "conc: "),
        ("conc=0", "--conc"),
        ("conc", "conc: "),
        ("conc=1 rate=5", "exclude each other"),
    ],
)
def test_a_wrong_cell_is_named(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        versus.parse_cells(text)


@pytest.mark.parametrize("text", ["transport=grpc wal=file", "storage=leveldb transport=mem conc=7", "rate=2500.5 arrival=constant"])
def test_our_command_line_says_the_whole_cell(text: str) -> None:
    """What `rafttoy bench` makes of it is that cell and that plan."""
    import click

    from rafttoy.cli import options
    from rafttoy.cli.bench import command

    (cell,) = versus.parse_cells(text)
    plan = Plan(seconds=0.25, warmup_seconds=0.5, seed=9, sync="none")
    words = versus.our_words(cell, plan, ["--data-dir", "somewhere"])
    assert words[1:4] == ["-m", "rafttoy", "bench"]
    ctx = command.make_context("bench", words[4:], parent=click.Context(click.Group()))
    with ctx:
        request = options.make_request(ctx, dict(ctx.params))
    assert (request.cells, request.plan, request.output, request.data_dir) == ([cell], plan, "json", Path("somewhere"))


# --- refusals ---


@pytest.mark.parametrize(
    ("cell", "sync", "expected"),
    [
        (Cell(wal="file"), "fdatasync", True),
        (Cell(wal="leveldb"), "dsync", True),
        (Cell(wal="file"), "none", False),
        (Cell(wal="mem", engine="leveldb"), "fdatasync", False),
        (Cell(wal="mem:5ms"), "fdatasync", False),
        (Cell(storage="leveldb", wal="leveldb", engine="leveldb"), "fdatasync", True),
        (Cell(storage="leveldb", wal="leveldb", engine="leveldb"), "none", False),
    ],
)
def test_what_counts_as_durable(cell: Cell, sync: str, expected: bool) -> None:
    assert versus.durable(cell, sync) is expected


def an_other(**changes: object) -> versus.Other:
    other = versus.Other(name="x", command="x", durable=False, bytes=256, nodes=3, processes=None)
    return msgspec.structs.replace(other, **changes)


def test_equals_pass() -> None:
    versus.refuse(CELL, "fdatasync", an_other())
    versus.refuse(msgspec.structs.replace(CELL, wal="file"), "fdatasync", an_other(durable=True))
    versus.refuse(msgspec.structs.replace(CELL, bytes=64, nodes=5), "fdatasync", an_other(bytes=None, nodes=None))
    versus.refuse(msgspec.structs.replace(CELL, transport="mem"), "fdatasync", an_other(processes=1))


@pytest.mark.parametrize(
    ("changes", "other", "named"),
    [
        ({}, {"durable": True}, "durability: ours in memory, theirs synced"),
        ({"wal": "file"}, {}, "durability: ours synced before the acknowledgement, theirs in memory"),
        ({"bytes": 1024}, {}, "payload: ours 1024 B, theirs 256 B"),
        ({"nodes": 5}, {}, "nodes: ours 5, theirs 3"),
        ({"transport": "mem"}, {}, "processes: ours 1, theirs 3"),
    ],
)
def test_a_difference_is_refused_by_name(changes: dict[str, object], other: dict[str, object], named: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(named)):
        versus.refuse(msgspec.structs.replace(CELL, **changes), "fdatasync", an_other(**other))


def test_all_differences_are_named_at_once() -> None:
    with pytest.raises(ConfigError, match=r"durability: .*; payload: .*; nodes: "):
        versus.refuse(msgspec.structs.replace(CELL, bytes=1, nodes=1), "fdatasync", an_other(durable=True))


# --- the other's command and what it prints ---


def test_placeholders_are_fields_of_the_cell() -> None:
    other = an_other(command="run 'a b' {pipeline} --bytes={bytes} {conc}x{seconds}")
    assert other.words(CELL, 2.0) == ["run", "a b", "basic", "--bytes=256", "128x2"]
    with pytest.raises(ConfigError, match=r"'conk' \(did you mean conc\?\)"):
        an_other(command="run {conk}").words(CELL, 2.0)


def test_a_line_of_the_original_is_read() -> None:
    """ns/op is mean latency there: 1.6 ms times 77,070 a second is about the 128 in flight."""
    sample = versus.read_sample("noise\nBenchmarkRaftClosed/conc=128/bytes=256-2 \t 192838\t 1659654 ns/op\t 19.73 MB/s\nPASS\n", CELL)
    assert sample == {"ops_per_s": pytest.approx(19.73e6 / 256), "mean_us": pytest.approx(1659.654)}


def test_inverse_throughput_is_no_latency() -> None:
    sample = versus.read_sample("BenchmarkRaft/conc=128/bytes=256-16 300000 9607 ns/op 26.64 MB/s", CELL)
    assert sample == {"ops_per_s": pytest.approx(26.64e6 / 256)}


def test_our_own_lines_can_stand_on_the_other_side() -> None:
    from rafttoy.analysis.formats import gobench_line
    from tests.support import make_result

    result = make_result(conc=128, ops_per_s=13_323.0, mb_per_s=13_323 * 256e-6)
    sample = versus.read_sample(gobench_line(result, (), 2), CELL)
    assert sample["p50_us"] == result.latency_us["p50"]
    assert sample["p99_us"] == result.latency_us["p99"]
    assert sample["mean_us"] == pytest.approx(result.latency_us["mean"])
    assert sample["ops_per_s"] == pytest.approx(result.ops_per_s, rel=0.01)


def test_the_line_of_this_cell_is_picked() -> None:
    lines = "BenchmarkX/conc=1/bytes=256 10 5 ns/op 1.00 MB/s\nBenchmarkX/conc=128/bytes=256 10 5 ns/op 2.56 MB/s\n"
    assert versus.read_sample(lines, CELL)["ops_per_s"] == pytest.approx(10_000)


@pytest.mark.parametrize("written", ["2500000", "2.5e+06", "2500000.0"])
def test_a_rate_is_filled_in_plainly_and_read_however_it_is_written(written: str) -> None:
    cell = msgspec.structs.replace(CELL, conc=0, rate=2.5e6)
    assert an_other(command="run {rate}").words(cell, 2.0) == ["run", "2500000"]
    assert an_other(command="run {rate}").words(msgspec.structs.replace(cell, rate=0.5), 2.0) == ["run", "0.5"]
    line = f"BenchmarkX/rate={written}/bytes=256-2 10 2400000 ops/s 5000 p99-ns"
    assert versus.read_sample(line, cell) == {"ops_per_s": 2_400_000.0, "p99_us": 5.0}
    with pytest.raises(ConfigError, match="rate: ours 2500000, theirs 25"):
        versus.read_sample("BenchmarkX/rate=25/bytes=256-2 10 24 ops/s", cell)


def test_ops_per_second_stand_for_themselves() -> None:
    assert versus.read_sample("BenchmarkEtcd 1000 5812.5 ops/s 17000000 p50-ns", CELL) == {"ops_per_s": 5812.5, "p50_us": 17_000.0}


@pytest.mark.parametrize(
    ("output", "error", "message"),
    [
        ("BenchmarkX/conc=128/bytes=1024-2 10 5 ns/op 1 MB/s", ConfigError, "payload in bytes: ours 256, theirs 1024"),
        ("BenchmarkX/conc=64/bytes=256-2 10 5 ns/op 1 MB/s", ConfigError, "concurrency: ours 128, theirs 64"),
        ("BenchmarkX/nodes=5-2 10 5 ns/op 1 MB/s", ConfigError, "nodes: ours 3, theirs 5"),
        ("BenchmarkX 10 1 MB/s\nBenchmarkX 10 2 MB/s", ConfigError, "printed 2 lines"),
        ("BenchmarkX 10 5 ns/op", PeerError, "neither MB/s nor ops/s"),
        ("BenchmarkX 10 0 MB/s", RunError, "throughput of 0"),
        ("Benchmarks are fun, said the fox\nBenchmark 1 one two", PeerError, "no Go benchmark line"),
        ("", PeerError, "no Go benchmark line"),
    ],
)
def test_what_is_not_of_this_cell_is_refused(output: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        versus.read_sample(output, CELL)


def test_a_command_that_fails_tells_why() -> None:
    with pytest.raises(RunError, match="status 7\n  no quorum"):
        versus.run_command(["sh", "-c", "echo no quorum >&2; exit 7"], 10)
    with pytest.raises(ConfigError, match="/nowhere: No such file"):
        versus.run_command(["/nowhere"], 10)


def test_a_command_that_hangs_is_ended_with_all_it_started(tmp_path: Path) -> None:
    """It is interrupted first, and can remove what it made. Its child holds a pipe, which no writer has once that child is gone."""
    made, held = tmp_path / "made", tmp_path / "held"
    os.mkfifo(held)
    script = f"""
import pathlib, subprocess
made = pathlib.Path({str(made)!r})
try:
    made.touch()
    subprocess.run(["sh", "-c", "trap '' INT; exec sleep 600 > {held}"])
finally:
    made.unlink(missing_ok=True)
"""
    reader = os.open(held, os.O_RDONLY | os.O_NONBLOCK)
    try:
        with pytest.raises(RunError, match=r"not done after 1\.5 s"):
            versus.run_command([sys.executable, "-c", script], 1.5)
        assert not made.exists()
        os.set_blocking(reader, True)
        assert os.read(reader, 1) == b""
    finally:
        os.close(reader)


# --- who else was there ---

BURN = "import time\nwhile time.process_time() < {}: pass"


def test_what_a_run_uses_itself_is_not_others() -> None:
    before_s, began_s = versus.busy_s(), perf_counter()
    _, share = versus.watched(lambda: versus.run_command([sys.executable, "-c", BURN.format(0.5)], 60))
    cores_s = (perf_counter() - began_s) * (os.cpu_count() or 1)
    assert versus.busy_s() - before_s - share * cores_s > 0.4


def test_what_runs_beside_it_is() -> None:
    beside = subprocess.Popen([sys.executable, "-c", BURN.format(600)])
    try:
        _, share = versus.watched(lambda: time.sleep(0.5))
    finally:
        beside.kill()
        beside.wait()
    assert share > 0.7 / (os.cpu_count() or 1)  # all of one core, whether it got that or yet others did


# --- rounds ---


def test_turns_alternate_and_so_does_who_begins() -> None:
    assert versus.turns(3) == [True, False, False, True, True, False]
    assert Counter(versus.turns(7)) == {True: 7, False: 7}


# --- the whole, with a real command on the other side ---


@pytest.fixture
def other(tmp_path: Path) -> Path:
    """A system that does CONC proposals in a millisecond, and notes each of its runs."""
    script = tmp_path / "other"
    script.write_text(
        f"""#!{sys.executable}
import pathlib, sys
conc = int(sys.argv[1])
with pathlib.Path(__file__).with_name("runs").open("a") as runs:
    runs.write(" ".join(sys.argv[1:]) + "\\n")
print("starting up")
print(f"BenchmarkOther/conc={{conc}}/bytes=256-2 1000 1000000 ns/op {{conc * 256e-3:.3f}} MB/s")
"""
    )
    script.chmod(0o755)
    return script


def arguments(other: Path, *more: str) -> list[str]:
    cell = "pipeline=basic wal=mem engine=mem transport=mem conc=8,64"
    declared = ["--other-durable", "no", "--other-bytes", "256", "--other-nodes", "3", "--other-processes", "1"]
    fast = ["--rounds", "2", "--duration", "100ms", "--warmup", "50ms"]
    command = f"{shlex.quote(str(other))} {{conc}} {{seconds}}"
    return ["--cell", cell, "--other", command, "--name", "a fake", *declared, *fast, *more]


@pytest.fixture
def at_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """`python -m rafttoy` finds the package there, installed or not."""
    monkeypatch.chdir(ROOT)


@pytest.mark.real
@pytest.mark.usefixtures("at_root")
def test_json_has_every_round(other: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert versus.main(arguments(other, "-o", "json")) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert [row["cell"]["conc"] for row in rows] == [8, 64]
    for row in rows:
        conc = row["cell"]["conc"]
        assert row["theirs"] == {"ops_per_s": [pytest.approx(conc * 1000)] * 2, "mean_us": [1000.0] * 2}
        assert len(row["ours"]["ops_per_s"]) == 2
        assert min(row["ours"]["ops_per_s"]) > 0
        assert set(row["ratios"]) == {"ops_per_s", "mean_us"}
        assert len(row["others"]) == 4
        assert 0 <= min(row["others"]) <= max(row["others"]) <= 1
        low, high = min(row["ours"]["ops_per_s"]) / conc / 1000, max(row["ours"]["ops_per_s"]) / conc / 1000
        assert low * 0.999 <= row["ratios"]["ops_per_s"]["ratio"] <= high * 1.001
        assert row["manifest"]["flags"]["transport"] == "mem"
    assert other.with_name("runs").read_text().splitlines() == ["8 0.1", "8 0.1", "64 0.1", "64 0.1"]


@pytest.mark.real
@pytest.mark.usefixtures("at_root")
@pytest.mark.parametrize("output", ["table", "markdown"])
def test_a_table_names_both_sides_and_a_threshold_sets_the_status(other: Path, output: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert versus.main(arguments(other, "-o", output, "--min-ratio", "1000000")) == 1
    out, err = capfd.readouterr()
    assert "theirs: a fake" in out
    assert re.search(r"^ours: rafttoy .*: basic, mem\+mem, mem, 3 nodes, 256 B$", out, re.MULTILINE)
    assert "proposals a second" in out
    assert "mean latency" in out
    assert "median latency" not in out  # the other side tells none
    assert re.search(r"^\|? *8 .*8,000", out, re.MULTILINE)
    assert re.search(r"^\|? *64 .*64,000.*\(67%\)", out, re.MULTILINE)
    assert "--min-ratio 1e+06" in err


@pytest.mark.real
@pytest.mark.usefixtures("at_root")
def test_variables_do_not_change_what_is_compared(other: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("RAFTTOY_RATE", "10")
    monkeypatch.setenv("RAFTTOY_PIPELINE", "no such")
    assert versus.main([*arguments(other, "-o", "json", "--rounds", "1")]) == 0
    assert json.loads(capfd.readouterr().out.splitlines()[0])["manifest"]["flags"]["pipeline"] == "basic"


@pytest.mark.real
@pytest.mark.usefixtures("at_root")
def test_tails_at_the_same_rate(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """The other serves 190 of 200 a second, with a p99 of 10 s; then of 1 ns, at half the rate."""
    script = tmp_path / "other"
    script.write_text('#!/bin/sh\necho "BenchmarkOther/rate=$1/bytes=256 100 $2 ops/s $3 p99-ns"\n')
    script.chmod(0o755)

    def run(served: int, p99_ns: int) -> tuple[int, str, str]:
        command = f"{shlex.quote(str(script))} {{rate}} {served} {p99_ns}"
        cell = "pipeline=basic wal=mem engine=mem transport=mem rate=200 arrival=constant"
        fast = ["--rounds", "1", "--duration", "500ms", "--warmup", "50ms", "--max-p99-ratio", "1"]
        declared = ["--other-durable", "no", "--other-bytes", "256", "--other-nodes", "3", "--other-processes", "1"]
        return versus.main(["--cell", cell, "--other", command, "--name", "x", *declared, *fast]), *capfd.readouterr()

    status, out, err = run(190, 10_000_000_000)
    assert status == 0, err
    assert "99th percentile of latency" in out
    assert "theirs served" not in err
    status, _, err = run(100, 1)
    assert status == 1
    assert "theirs served 50% of the rate" in err
    assert re.search(r"--max-p99-ratio 1: [\d.]+ at basic .* rate=200/s .* \(1 of 1 beyond\)", err), err


@pytest.mark.real
@pytest.mark.usefixtures("at_root")
def test_tails_that_are_not_told_fail_their_check(other: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert versus.main(arguments(other, "--rounds", "1", "--max-p99-ratio", "1000")) == 1
    assert "--max-p99-ratio 1000: not every run told of it at " in capfd.readouterr().err


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--other-durable", "yes"], "durability: ours in memory, theirs synced"),
        (["--other-bytes", "512"], "payload: ours 256 B, theirs 512 B"),
        (["--other-nodes", "5"], "nodes: ours 3, theirs 5"),
        (["--other-processes", "3"], "processes: ours 1, theirs 3"),
        (["--cell", "wal=file transport=mem conc=8"], "durability: ours synced"),
        (["--other", "run {conc} {bytes}"], "say --other-bytes, or"),
        (["--cell", "wall=mem"], "did you mean wal?"),
        (["--rounds", "0"], "--rounds"),
    ],
)
def test_nothing_runs_where_cells_do_not_compare(other: Path, more: list[str], message: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert versus.main(arguments(other, *more)) == 2
    out, err = capfd.readouterr()
    assert out == ""
    assert message in err
    assert not other.with_name("runs").exists()


@pytest.mark.real
@pytest.mark.usefixtures("at_root")
def test_a_failure_of_the_other_side_is_told(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "other"
    script.write_text("#!/bin/sh\necho no leader >&2\nexit 4\n")
    script.chmod(0o755)
    assert versus.main(arguments(script)) == 3
    assert "status 4\n  no leader" in capfd.readouterr().err


# --- the documentation ---


def test_flags_in_the_documentation_exist() -> None:
    text = (ROOT / "docs/performance.md").read_text()
    known = {name for parameter in versus.versus.params for name in parameter.opts}
    named = set(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", re.sub(r"`?(rafttoy bench|python benchmarks/(?!versus))[^`\n]*", "", text)))
    named -= {"--rate"}  # of the other's command
    assert {"--cell", "--other", "--other-durable", "--min-ratio", "--max-p99-ratio"} <= named <= known


def test_the_example_of_the_documentation_is_well_formed() -> None:
    text = (ROOT / "docs/performance.md").read_text()
    closed, opened = re.findall(r"^```sh\n(python benchmarks/versus\.py .*?)^```", text, re.MULTILINE | re.DOTALL)
    for block, several, durable in ((closed, True, False), (opened, False, True)):
        words = shlex.split(block.replace("\\\n", " "))
        ctx = versus.versus.make_context("versus.py", words[2:])
        (text,) = ctx.params["cells"]
        cells = versus.parse_cells(text)
        assert (len(cells) > 1) is several
        assert bool(cells[0].rate) is not several
        assert versus.durable(cells[0], ctx.params["sync"]) is durable is (ctx.params["other_durable"] == "yes")


@pytest.mark.real
def test_more_flags_do_not_change_what_is_compared() -> None:
    (cell,) = versus.parse_cells("pipeline=basic wal=mem engine=mem transport=mem conc=4")
    with pytest.raises(ConfigError, match="--flags: bytes is what is compared"):
        versus.run_ours(cell, Plan(seconds=0.1, warmup_seconds=0.0), ["--bytes", "16"], 60.0)
