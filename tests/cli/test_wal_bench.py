"""`rafttoy wal-bench`, end to end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import Rafttoy

QUICK = ("--duration", "50ms", "--batch", "1,64", "--bytes", "256")


@pytest.mark.real
def test_rows_beside_the_raw_device(rafttoy: Rafttoy, tmp_path: Path) -> None:
    done = rafttoy("wal-bench", *QUICK, "--wal", "file,etcd", "--data-dir", tmp_path / "new", "-o", "json")
    assert done.status == 0, done.err
    rows = [json.loads(line) for line in done.out.splitlines()]
    assert [(row["wal"], row["batch"], row["bytes"], row["world"]) for row in rows] == [
        (wal, batch, 256, "real") for wal in ("file", "etcd") for batch in (1, 64)
    ]
    for row in rows:
        assert row["of_raw"] == pytest.approx(row["raw_us"] / row["batch_us"], rel=3)  # the median of turns, against means
        assert row["syncs"] > 0
        assert row["sync"] == "fdatasync"
    assert list((tmp_path / "new").iterdir()) == []


def test_the_model_answers_the_same_each_time(rafttoy: Rafttoy) -> None:
    first = rafttoy("wal-bench", *QUICK, "--world", "sim", "-o", "json")
    assert first.status == 0, first.err
    assert {json.loads(line)["wal"] for line in first.out.splitlines()} >= {"file", "etcd", "leveldb"}
    assert rafttoy("wal-bench", *QUICK, "--world", "sim", "-o", "json").out == first.out


def test_a_table_and_lines_for_benchstat(rafttoy: Rafttoy) -> None:
    table = rafttoy("wal-bench", *QUICK, "--world", "sim", "--wal", "file").out.splitlines()
    assert len(table) == 4
    for heading in ("raw device", "of raw", "entries/s"):
        assert heading in table[0]
    lines = rafttoy("wal-bench", *QUICK, "--world", "sim", "--wal", "file", "-o", "gobench").out.splitlines()
    assert lines[0].startswith("goos: ")
    assert [line.split("-")[0] for line in lines if line.startswith("Bench")] == [
        f"BenchmarkWal/wal=file/batch={batch}/bytes=256" for batch in (1, 64)
    ]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--wal", "fiel"), ("--wal", "fiel", "file")),
        (("--batch", "0"), ("--batch", "0")),
        (("--bytes", "0"), ("--bytes",)),
        (("--depth", "0"), ("--depth",)),
        (("--world", "sim", "--model", "nowhere"), ("nowhere",)),
    ],
)
def test_wrong_usage_names_the_flag(rafttoy: Rafttoy, arguments: tuple[str, ...], words: tuple[str, ...]) -> None:
    done = rafttoy("wal-bench", *arguments)
    assert (done.status, done.out) == (2, "")
    for word in words:
        assert word in done.err


@pytest.mark.real
def test_a_directory_that_cannot_be_written_ends_with_3(rafttoy: Rafttoy, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = rafttoy("wal-bench", *QUICK, "--wal", "file", "--data-dir", tmp_path / "file")
    assert (done.status, done.out) == (3, "")
    assert str(tmp_path / "file") in done.err


@pytest.mark.real
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm")
def test_memory_that_stands_in_for_a_disk_is_told_of(rafttoy: Rafttoy) -> None:
    done = rafttoy("wal-bench", *QUICK, "--wal", "file", "--data-dir", "/dev/shm")
    assert done.status == 0
    assert "memory" in done.err
    short = ("--duration", "50ms", "--warmup", "10ms", "-o", "json")
    done = rafttoy("bench", "--wal", "file", "--engine", "mem", "--data-dir", "/dev/shm", *short)
    (row,) = (json.loads(line) for line in done.out.splitlines())
    assert row["manifest"]["disk"]["filesystem"] == "tmpfs"
    assert any("memory" in warning for warning in row["warnings"])
    assert "memory" in done.err
