"""What may be asked of the instrument itself: where its processes run, and what its leader does."""

from __future__ import annotations

import json
import os
import pstats
import re
import shutil
import sys
from pathlib import Path

import msgspec
import pytest

from rafttoy import experiment
from rafttoy.cell import Plan
from rafttoy.cli.main import run
from rafttoy.experiment import run_grid
from rafttoy.ports import core_of
from tests.real.processes import Run, Started, cell_of

pytestmark = pytest.mark.real

QUICK = Plan(seconds=0.4, warmup_seconds=0.1, connect_seconds=200.0)
BENCH = ("bench", "--transport", "tcp", "--wal", "mem", "--engine", "mem", "--conc", "8", "--duration", "400ms", "--warmup", "100ms")
PATIENT = ("--connect-timeout", "200s", "-o", "json")
PY_SPY = shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")


def threads(pid: int) -> dict[str, set[int]]:
    """{thread: processors that it may use}."""
    return {task.name: os.sched_getaffinity(int(task.name)) for task in Path(f"/proc/{pid}/task").iterdir()}


def test_a_result_that_is_too_near_the_instruments_own_is_told_of(
    scratch: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(experiment, "_INSTRUMENT_WITHIN", 1e9)  # whatever this host reaches is near enough
    assert run([*BENCH, *PATIENT]) == 0
    out, err = capfd.readouterr()
    row = json.loads(out)
    assert row["harness_ops_per_s"] > row["ops_per_s"]
    told = re.search(r"instrument-bound: with nothing behind it the client reaches ([0-9,]+) ops/s", err)
    assert told is not None
    assert int(told[1].replace(",", "")) == pytest.approx(row["harness_ops_per_s"], abs=1)


@pytest.mark.parametrize("transport", ["tcp", "grpc"])
def test_peers_are_pinned_with_all_their_threads_round_and_round(group: Run, started: Started, transport: str) -> None:
    first, *_, last = sorted(os.sched_getaffinity(0)) * 2
    seen: dict[int, set[frozenset[int]]] = {}

    def look() -> None:
        for peer, pid in started.peers().items():
            seen[peer] = {frozenset(cpus) for cpus in threads(pid).values()}

    group.when(0.3, look)
    (measured,) = group.run(cell_of(transport=transport, wal="file"), QUICK, cpus=[[first], [last]])
    assert measured.ops > 0
    assert seen == {1: {frozenset({first})}, 2: {frozenset({last})}, 3: {frozenset({first})}}


def test_left_alone_each_loop_has_its_core_and_disk_threads_have_any(group: Run, started: Started) -> None:
    allowed = sorted(os.sched_getaffinity(0))
    loops: dict[int, set[int]] = {}
    others: list[set[int]] = []

    def look() -> None:
        for peer, pid in started.peers().items():
            cpus = threads(pid)
            loops[peer] = cpus.pop(str(pid))
            others.extend(cpus.values())

    group.when(0.3, look)
    (measured,) = group.run(cell_of(wal="file"), QUICK)
    assert measured.ops > 0
    assert loops == {peer: {allowed[core_of(peer, len(allowed))]} for peer in (1, 2, 3)}
    assert others.count(set(allowed)) >= 3 * 2  # beside that of the disk one that waits for the parent's end


def test_pinned_to_any_they_are_not_pinned(group: Run, started: Started) -> None:
    seen: list[set[int]] = []
    group.when(0.3, lambda: seen.extend(cpus for pid in started.peers().values() for cpus in threads(pid).values()))
    group.run(cell_of(wal="file"), QUICK, cpus=())
    assert seen
    assert all(cpus == os.sched_getaffinity(0) for cpus in seen)


def test_cores_are_those_that_peers_are_pinned_to(scratch: Path) -> None:
    """All three on one: it cannot be busier than 1, and three processes that compete for it are busy."""
    cpu = min(os.sched_getaffinity(0))
    (row,) = run_grid("real", [cell_of(conc=64)], QUICK, data_dir=scratch, cpus=[[cpu]], flags={"cpus": str(cpu)})
    assert row.manifest["flags"] == {"cpus": str(cpu)}
    total_us = row.cpu_us_per_op["total"] * row.ops
    assert row.utilisation["cores"] == pytest.approx(min(1.0, total_us / 1e6 / row.seconds), abs=0.01)


def test_a_peer_that_polls_is_always_awake_and_its_empty_turns_are_no_work(group: Run, started: Started) -> None:
    looks: list[dict[int, float]] = []

    def look() -> None:
        looks.append({peer: cpu_seconds(pid) for peer, pid in started.peers().items()})

    group.when(0.2, look)
    group.when(0.8, look)
    plan = msgspec.structs.replace(QUICK, seconds=1.5, verify=True, busy_poll="all")
    (measured,) = group.run(cell_of(wal="file", conc=0, rate=50.0), plan)
    assert measured.verified
    for id, report in measured.reports.items():
        awake = looks[1][id] - looks[0][id]
        assert awake > 0.2, "of 0.9 s, on a core that may be shared"
        assert report.total_ns / 1e9 < awake, "50 proposals a second are hardly any work"


def cpu_seconds(pid: int) -> float:
    user, system = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11:13]
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")


def test_a_profile_is_of_the_leaders_loop_in_the_measured_time(scratch: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "leader.prof"
    assert run([*BENCH, *PATIENT, "--count", "2", "--profile", str(path)]) == 0
    rows = [json.loads(line) for line in capfd.readouterr().out.splitlines()]
    assert len(rows) == 2
    assert all(f"profiled into {path}: the leader was slower than it is without" in row["warnings"] for row in rows)
    assert all(row["manifest"]["flags"]["profile"] == str(path) for row in rows)
    calls = {(Path(file).name, function): total for (file, _, function), (_, total, *_) in pstats.Stats(str(path)).stats.items()}  # type: ignore[attr-defined]
    turns = calls["workload.py", "turn"]
    batches = sum(row["stages"]["client"]["count"] for row in rows)
    assert turns == pytest.approx(batches, rel=0.2)  # of both runs; the stage is counted until the reports are made
    assert ("harness.py", "_accept") not in calls  # what goes before the measured time is not in it
    assert ("member.py", "lead") not in calls


@pytest.mark.skipif(PY_SPY is not None, reason="py-spy is installed")
def test_a_flame_graph_needs_py_spy(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert run([*BENCH, "--profile", str(tmp_path / "leader.svg")]) == 2
    assert "a flame graph needs py-spy" in capfd.readouterr().err


@pytest.mark.skipif(PY_SPY is not None, reason="py-spy is installed")
def test_a_sampler_that_fails_is_told_of(
    scratch: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    sampler = tmp_path / "py-spy"
    sampler.write_text("#!/bin/sh\necho 'Error: Permission denied (os error 13)' >&2\nexit 1\n")
    sampler.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    path = tmp_path / "leader.svg"
    assert run([*BENCH, *PATIENT, "--count", "2", "--profile", str(path)]) == 2
    assert "a flame graph is of one run, not of --count 2" in capfd.readouterr().err
    assert run([*BENCH, *PATIENT, "--profile", str(path)]) == 3
    assert f"--profile {path}: py-spy: Error: Permission denied (os error 13)" in capfd.readouterr().err


@pytest.mark.skipif(PY_SPY is None, reason="py-spy is not installed")
def test_a_flame_graph_is_drawn(scratch: Path, tmp_path: Path) -> None:
    path = tmp_path / "leader.svg"
    status = run([*BENCH, *PATIENT, "--profile", str(path)])
    assert status == 0
    text = path.read_text()
    assert text.startswith("<?xml")
    assert "workload.py" in text
