"""Whether a device is believed, and the log by itself beside it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from rafttoy.analysis.walbench import WalCell, WalResult, gobench_line, run_wal_bench
from rafttoy.errors import ConfigError, StorageError
from rafttoy.real.device import RawDevice, check_sync, judge_sync
from rafttoy.worlds import RealBench, SimBench
from tests.storage.beds import MODEL

HONEST: dict[str, Any] = {"sync_us": 120.0, "write_us": 4.0, "fio_us": 125.0, "filesystem": "ext4", "options": ("rw",), "rotational": False}


@pytest.mark.parametrize(
    ("changes", "doubt"),
    [
        ({}, None),
        ({"fio_us": None, "rotational": None, "filesystem": ""}, None),
        ({"sync_us": 9000.0, "fio_us": None, "rotational": True}, None),
        ({"sync_us": 12.0, "fio_us": None}, None),  # the fastest there are
        ({"filesystem": "tmpfs"}, "tmpfs is memory: nothing written there outlives the host"),
        ({"sync_us": 6.5, "fio_us": None}, "a sync takes 6.5 µs, and no device persists 4 KiB in less than 8 µs: it only acknowledges"),
        ({"rotational": True}, "a sync takes 120 µs on a disk that turns"),
        ({"sync_us": 20.0, "write_us": 18.0, "fio_us": None}, "takes hardly longer than"),
        ({"options": ("rw", "nobarrier")}, "mounted with nobarrier: the file system does not ask the device to persist"),
        ({"fio_us": 2000.0}, "fio says 2000 µs, this measurement 120 µs: one of them did not wait for the device"),
    ],
)
def test_what_is_doubted(changes: dict[str, Any], doubt: str | None) -> None:
    doubts = judge_sync(**{**HONEST, **changes})
    if doubt is None:
        assert doubts == ()
    else:
        assert any(doubt in each for each in doubts), doubts


@pytest.mark.real
def test_a_report_of_this_host(tmp_path: Path) -> None:
    report = check_sync(tmp_path, seconds=0.05)
    assert report.directory == str(tmp_path)
    assert report.sync_us > 0
    assert report.write_us > 0
    assert report.filesystem
    assert (report.fio_us is None) == (shutil.which("fio") is None)
    assert list(tmp_path.iterdir()) == []  # it leaves nothing behind
    if report.filesystem == "tmpfs":
        assert report.doubts


@pytest.mark.real
@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="no /dev/shm")
def test_memory_is_not_taken_for_a_device() -> None:
    report = check_sync(Path("/dev/shm"), seconds=0.02, fio=False)
    assert any("memory" in doubt for doubt in report.doubts)


@pytest.mark.real
def test_a_raw_device_that_cannot_be_written_is_named() -> None:
    with pytest.raises(StorageError, match="/dev/null/data: "), RawDevice(Path("/dev/null/data")):
        pass


# --- the log by itself ---


def check(result: WalResult, cell: WalCell, depth: int) -> None:
    assert (result.wal, result.batch, result.bytes, result.depth) == (cell.wal, cell.batch, cell.bytes, depth)
    assert result.batches >= 8
    assert result.batch_us == pytest.approx(result.seconds * 1e6 / result.batches, rel=0.05)
    assert result.ops_per_s == pytest.approx(cell.batch / result.batch_us * 1e6, rel=0.01)
    assert result.mb_per_s == pytest.approx(result.ops_per_s * cell.bytes / 1e6, rel=0.01)
    assert 0 < result.syncs <= result.batches + 1
    assert result.save_us["p50"] <= result.save_us["p99"]
    assert result.of_raw is not None
    assert result.of_raw > 0


def test_the_models_logs_are_measured_as_real_ones_are() -> None:
    with SimBench(MODEL) as bench:
        for depth in (1, 2):
            results = run_wal_bench(bench, ["file", "etcd", "leveldb"], [1, 256], [256], depth=depth, seconds=0.05)
            assert [result.wal for result in results] == ["file"] * 2 + ["etcd"] * 2 + ["leveldb"] * 2
            for result in results:
                check(result, WalCell(result.wal, result.batch, result.bytes), depth)
        small, large = run_wal_bench(bench, ["file"], [1, 256], [256], depth=1, seconds=0.2)
        # 150 µs of sync in the mean, 20 of hand-off, a little encoding; and 70 KiB at 1 ns a byte
        assert small.raw_us == pytest.approx(150, rel=0.1)
        assert small.of_raw == pytest.approx(150 / 172, abs=0.06)
        assert large.of_raw == pytest.approx(220 / 242, abs=0.06)


def test_large_groups_keep_the_device_busy() -> None:
    """At 64 KiB a batch, the second save stands in line: the log is as fast as the device."""
    with SimBench(MODEL) as bench:
        (result,) = run_wal_bench(bench, ["file"], [256], [256], depth=2, seconds=0.5)
    assert result.of_raw >= 0.97


def test_an_unknown_log_is_the_users_error() -> None:
    with SimBench(MODEL) as bench, pytest.raises(ConfigError, match="--wal"):
        run_wal_bench(bench, ["fiel"])


def test_a_log_that_writes_nothing_is_compared_with_nothing() -> None:
    with SimBench(MODEL) as bench:
        assert "mem" not in bench.wals()
        (result,) = run_wal_bench(bench, ["mem:1ms"], [1], [256], depth=1, seconds=0.5)
        assert (result.of_raw, result.syncs) == (None, 0)
        assert result.batch_us == pytest.approx(1000, rel=0.01)
        run_wal_bench(bench, ["mem"], [1], [256], seconds=0.1)  # takes no time at all


@pytest.mark.real
def test_real_logs_beside_the_raw_device(tmp_path: Path) -> None:
    seen: list[WalResult] = []
    with RealBench(tmp_path) as bench:
        results = run_wal_bench(bench, ["file", "leveldb"], [16], [256], seconds=0.1, on_result=seen.append)
    assert results == seen
    for result in results:
        check(result, WalCell(result.wal, 16, 256), 2)
    assert list(tmp_path.iterdir()) == []
    line = gobench_line(results[0], 2).split()
    assert line[0] == "BenchmarkWal/wal=file/batch=16/bytes=256-2"
    assert line[3:7:2] == ["ns/op", "MB/s"]
