"""The raw device, and whether to believe it: what a synced write costs without any of our code, and whether that is plausible."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Self

import msgspec

from rafttoy.errors import StorageError

__all__ = ["RawDevice", "SyncReport", "check_sync", "judge_sync"]

_FILE_BYTES = 64 << 20
_CHUNK = 1 << 20
_BLOCK = 4096
_POOL_BYTES = 32 << 20
"""Of content. Processors have forgotten what is so long ago, as they have what a log is given to write."""
_fdatasync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)


class RawDevice:
    """A prewritten file below `directory`, written and synced from this thread, one block behind the other: the ceiling of any log
    that syncs each write. A context manager, whose file goes with it. Raises StorageError."""

    def __init__(self, directory: Path, *, sync: str = "fdatasync", file_bytes: int = _FILE_BYTES) -> None:
        self._directory = directory
        self._sync = sync
        self._file_bytes = file_bytes
        self._fd = -1
        self._path = ""
        self._offset = 0
        self._pool = memoryview(b"")

    def __enter__(self) -> Self:
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
            self._fd, self._path = tempfile.mkstemp(prefix="rafttoy-raw-", dir=self._directory)
            self._pool = memoryview(os.urandom(min(_POOL_BYTES, self._file_bytes)))
            zeros = bytes(_CHUNK)
            for at in range(0, self._file_bytes, _CHUNK):
                os.pwrite(self._fd, zeros, at)
            os.fsync(self._fd)
        except OSError as error:
            self.__exit__()
            raise StorageError(f"{self._directory}: {error.strerror}") from error
        return self

    def __exit__(self, *_: object) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            Path(self._path).unlink(missing_ok=True)
            self._fd = -1

    def measure(self, size: int, seconds: float, *, least: int = 8) -> list[int]:
        """Elapsed time of each of the synced writes of `size` bytes that fit into `seconds`, in ns."""
        pool = self._pool
        if len(pool) < size:
            pool = self._pool = memoryview(os.urandom(2 * size))
        at = 0
        flags = os.RWF_DSYNC if self._sync == "dsync" else 0
        durations: list[int] = []
        begin_ns = time.perf_counter_ns()
        until_ns = begin_ns + int(seconds * 1e9)
        try:
            while begin_ns < until_ns or len(durations) < least:
                if self._offset + size > self._file_bytes:
                    self._offset = 0
                os.pwritev(self._fd, [pool[at : at + size]], self._offset, flags)
                if self._sync == "fdatasync":
                    _fdatasync(self._fd)
                end_ns = time.perf_counter_ns()
                durations.append(end_ns - begin_ns)
                begin_ns = end_ns
                at = at + size if at + 2 * size <= len(pool) else 0
                self._offset = (self._offset + size + _BLOCK - 1) // _BLOCK * _BLOCK
        except OSError as error:
            raise StorageError(f"{self._path}: {error.strerror}") from error
        return durations


# --- honesty -------------------------------------------------------------------------------------------------------------------


class SyncReport(msgspec.Struct, frozen=True):
    """What a directory's device does on fdatasync. Times are medians, of 4 KiB over prewritten space; `fio_us` is fio's own figure,
    where fio is installed; `doubts` says what is not plausible, in words: empty if nothing is."""

    directory: str
    filesystem: str
    device: str
    rotational: bool | None
    write_cache: str
    sync_us: float
    write_us: float
    fio_us: float | None
    doubts: tuple[str, ...]


_MEMORY = {"tmpfs", "ramfs", "devtmpfs", "hugetlbfs"}
_CARELESS = {"nobarrier", "barrier=0"}
_VIRTUAL = ("vd", "xvd", "nvme", "dm-", "loop", "md", "nbd")
"""Devices whose driver does not know whether anything turns."""

_FLOOR_US = 8.0
"""No device that was measured or specified persists 4 KiB faster (Optane over PCIe: about 10 µs with its system call)."""

_ROTATION_FLOOR_US = 1000.0
"""A disk that turns waits for its platter: 7,200 rotations a minute are 8.3 ms each."""


def check_sync(directory: Path | None, *, seconds: float = 0.25, fio: bool = True) -> SyncReport:
    """Measures, compares with what is plausible and with fio, and says what is doubtful, of the device that holds `directory` (default:
    the system's temporary one). Raises StorageError if it cannot write."""
    directory = directory or Path(tempfile.gettempdir())
    with RawDevice(directory, file_bytes=8 << 20) as device:
        synced = statistics.median(device.measure(_BLOCK, seconds, least=32)) / 1e3
    with RawDevice(directory, sync="none", file_bytes=8 << 20) as device:
        written = statistics.median(device.measure(_BLOCK, 0.02, least=32)) / 1e3
    filesystem, source, options = _mount(directory)
    rotational, cache = _block_device(directory)
    fio_us = _fio(directory) if fio and shutil.which("fio") else None
    doubts = judge_sync(sync_us=synced, write_us=written, fio_us=fio_us, filesystem=filesystem, options=options, rotational=rotational)
    return SyncReport(str(directory), filesystem, source, rotational, cache, round(synced, 1), round(written, 1), fio_us, doubts)


def judge_sync(
    *, sync_us: float, write_us: float, fio_us: float | None, filesystem: str, options: tuple[str, ...], rotational: bool | None
) -> tuple[str, ...]:
    """What is not plausible about these figures, a sentence each."""
    doubts = []
    if filesystem in _MEMORY:
        doubts.append(f"{filesystem} is memory: nothing written there outlives the host")
    elif sync_us < _FLOOR_US:
        doubts.append(f"a sync takes {sync_us:.1f} µs, and no device persists 4 KiB in less than {_FLOOR_US:.0f} µs: it only acknowledges")
    elif rotational and sync_us < _ROTATION_FLOOR_US:
        doubts.append(
            f"a sync takes {sync_us:.0f} µs on a disk that turns: it is acknowledged by a cache, which may or may not have a battery"
        )
    if sync_us < 1.5 * write_us:
        doubts.append(
            f"a synced write ({sync_us:.1f} µs) takes hardly longer than one that is not ({write_us:.1f} µs): syncing does nothing"
        )
    careless = sorted(_CARELESS.intersection(options))
    doubts += [f"mounted with {option}: the file system does not ask the device to persist" for option in careless]
    if fio_us is not None and not 0.4 < sync_us / fio_us < 2.5:
        doubts.append(f"fio says {fio_us:.0f} µs, this measurement {sync_us:.0f} µs: one of them did not wait for the device")
    return tuple(doubts)


def _mount(directory: Path) -> tuple[str, str, tuple[str, ...]]:
    """(file system, device, mount options) that hold `directory`; empty where the system does not tell."""
    path = directory.resolve()
    best: tuple[int, str, str, str] = (-1, "", "", "")
    try:
        for line in Path("/proc/self/mounts").read_text().splitlines():
            source, point, filesystem, options = line.split()[:4]
            if path.is_relative_to(point.replace("\\040", " ")) and len(point) >= best[0]:
                best = (len(point), filesystem, source, options)
    except (OSError, ValueError):
        pass
    return best[1], best[2], tuple(best[3].split(","))


def _block_device(directory: Path) -> tuple[bool | None, str]:
    """(whether it turns, its write cache's mode) as sysfs has it."""
    try:
        number = directory.stat().st_dev
        device = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}").resolve(strict=True)
        queue = next(path / "queue" for path in (device, device.parent) if (path / "queue").is_dir())
        turns = None if device.name.startswith(_VIRTUAL) else (queue / "rotational").read_text().strip() == "1"
        return turns, (queue / "write_cache").read_text().strip()
    except (OSError, StopIteration):
        return None, ""


def _fio(directory: Path) -> float | None:
    """fio's median of a 4 KiB write with its fdatasync over a file that is written already, in µs."""
    with tempfile.TemporaryDirectory(prefix="rafttoy-fio-", dir=directory) as root:
        command = [
            *("fio", "--name=sync", f"--directory={root}", "--ioengine=sync", "--rw=write", "--bs=4k", "--size=4m", "--overwrite=1"),
            *("--fdatasync=1", "--time_based", "--runtime=1", "--output-format=json"),
        ]
        try:
            done = subprocess.run(command, capture_output=True, check=True, timeout=30)
            job = json.loads(done.stdout)["jobs"][0]
            sync_ns = float(job["sync"]["lat_ns"]["percentile"]["50.000000"])
            write_ns = float(job["write"]["clat_ns"]["percentile"]["50.000000"])
        except (OSError, subprocess.SubprocessError, ValueError, KeyError, IndexError):
            return None
    return round((sync_ns + write_ns) / 1e3, 1)
