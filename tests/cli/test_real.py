"""`rafttoy bench`, `rafttoy peer` and `rafttoy compare` on real processes, disks and sockets."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from rafttoy.cell import MAX_PAYLOAD_BYTES
from tests.cli.conftest import Rafttoy

pytestmark = pytest.mark.real

RAFTTOY = [sys.executable, "-m", "rafttoy"]
QUICK = ("--duration", "200ms", "--warmup", "100ms")


def rows_of(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def gone(pid: int) -> bool:
    """Ended: reaped, or a zombie that only waits for its parent."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_bench_measures_every_cell_and_leaves_nothing_behind(rafttoy: Rafttoy, tmp_path: Path) -> None:
    done = rafttoy("bench", *QUICK, "--transport", "tcp", "--conc", "1,16", "--verify", "--data-dir", tmp_path, "-o", "json")
    assert done.status == 0, done.err
    rows = rows_of(done.out)
    assert [(row["world"], row["conc"], row["verified"]) for row in rows] == [("real", 1, True), ("real", 16, True)]
    for row in rows:
        assert row["ops_per_s"] * row["latency_us"]["mean"] / 1e6 == pytest.approx(row["conc"], rel=0.2)
    assert list(tmp_path.iterdir()) == []


def test_bench_speaks_grpc(rafttoy: Rafttoy) -> None:
    done = rafttoy("bench", *QUICK, "--wal", "mem", "--engine", "mem", "-o", "gobench")
    assert done.status == 0, done.err
    assert re.search(r"^BenchmarkRaftClosed/conc=128/bytes=256-\d+\t +\d+\t +\d+ ns/op\t +[\d.]+ MB/s", done.out, re.MULTILINE), done.out


@pytest.mark.slow
def test_the_largest_payload_fits_a_message(rafttoy: Rafttoy) -> None:
    largest = ("--bytes", MAX_PAYLOAD_BYTES, "--conc", "2", "--proposals", "2", "--warmup", "0s", "--wal", "mem", "--engine", "mem")
    done = rafttoy("bench", *largest, "--transport", "tcp", "-o", "json")
    assert done.status == 0, done.err
    assert rows_of(done.out)[0]["ops"] >= 2


def test_compare_pairs_rows_and_judges_them(rafttoy: Rafttoy) -> None:
    flags = (*QUICK, "--transport", "tcp", "--conc", "1,16", "--model", "default")
    done = rafttoy("compare", *flags, "-o", "json")
    assert done.status == 0, done.err
    rows = rows_of(done.out)
    assert [(row["conc"], row["world"]) for row in rows] == [(1, "real"), (1, "sim"), (16, "real"), (16, "sim")]
    for real, sim in zip(rows[::2], rows[1::2], strict=True):
        assert "error_pct" not in real
        assert sim["error_pct"] == pytest.approx(100 * (sim["ops_per_s"] / real["ops_per_s"] - 1), abs=0.01)
    done = rafttoy("compare", *flags, "--max-error", "0")
    assert done.status == 1
    assert re.search(r"^rafttoy: error: \d of 2 cells beyond --max-error 0 %; worst: ", done.err, re.MULTILINE), done.err
    assert re.search(r"^throughput of 2 cells: MAPE [\d.]+ %, worst [+-]", done.out, re.MULTILINE), done.out


@pytest.mark.slow
def test_compare_calibrates_by_itself(rafttoy: Rafttoy) -> None:
    done = rafttoy("compare", *QUICK, "--transport", "tcp", "--conc", "4,64")
    assert done.status == 0, done.err
    assert re.search(r"^throughput of 2 cells: MAPE ", done.out, re.MULTILINE), done.out


def test_an_interrupt_prints_what_was_finished() -> None:
    command = [*RAFTTOY, "bench", *QUICK, "--transport", "tcp", "--conc", "4", "--count", "500", "-o", "json"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        first = process.stdout.readline()
        peers = children(process.pid)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert err.endswith("rafttoy: error: interrupted\n")
    rows = rows_of(first + out)
    assert 1 <= len(rows) < 500
    assert not rows[0]["partial"]
    assert len(peers) == 3
    assert all(gone(pid) for pid in peers)


def test_an_interrupt_in_a_cell_prints_its_part() -> None:
    command = [*RAFTTOY, "bench", "--duration", "1m", "--warmup", "0s", "--transport", "tcp", "--conc", "4", "-v"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        assert any("the measured time begins" in line for line in process.stderr)
        time.sleep(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=30)
    assert process.returncode == 130, err
    assert "(partial)" in out


def test_a_run_without_a_quorum_is_3_and_says_who_died() -> None:
    command = [*RAFTTOY, "bench", "--duration", "1m", "--transport", "tcp", "--conc", "4", "--connect-timeout", "2s"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 20
        while len(peers := children(process.pid)) < 3 and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1.5)
        for pid in peers[:2]:  # the followers: peers are started from the last to the leader
            subprocess.run(["kill", "-KILL", str(pid)], check=True)
        _, err = process.communicate(timeout=40)
    assert process.returncode == 3, err
    assert re.search(r"^rafttoy: error: .*peer 2.*SIGKILL", err, re.MULTILINE), err


@pytest.fixture
def followers(tmp_path: Path) -> Iterator[tuple[str, list[subprocess.Popen[str]]]]:
    """Peers 2 and 3 of three, as two terminals would run them; and the --peers of all."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    peers = ",".join(f"127.0.0.1:{each.getsockname()[1]}" for each in sockets)
    for each in sockets:
        each.close()
    processes = []
    for id in (2, 3):
        command = [*RAFTTOY, "peer", "--id", str(id), "--peers", peers, "--data-dir", str(tmp_path / str(id)), "--transport", "tcp"]
        command += ["--metrics"] if id == 3 else []
        processes.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    yield peers, processes
    for process in processes:
        process.kill()
        process.communicate()


def test_peers_serve_run_after_run_without_a_restart(
    followers: tuple[str, list[subprocess.Popen[str]]], rafttoy: Rafttoy, tmp_path: Path
) -> None:
    peers, processes = followers
    lead = ("bench", *QUICK, "--id", "1", "--peers", peers, "--transport", "tcp", "--data-dir", tmp_path / "1", "-o", "json", "--verify")
    for pipeline in ("basic", "async-apply"):
        done = rafttoy(*lead, "--pipeline", pipeline, "--conc", "1,8")
        assert done.status == 0, done.err
        assert [(row["pipeline"], row["conc"], row["nodes"], row["verified"]) for row in rows_of(done.out)] == [
            (pipeline, 1, 3, True),
            (pipeline, 8, 3, True),
        ]
    for process in processes:
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=15)
        assert process.returncode == 0, err
        assert bool(out) == ("--metrics" in process.args)
        assert not out or re.search(r"^append_batch_sizes +[1-9]", out, re.MULTILINE), out
        assert re.search(r"^rafttoy: peer \d listens on 127\.0\.0\.1:\d+$", err, re.MULTILINE), err
