"""The contract of files, in each world; what only a real directory does; and what a simulated device does to its user."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rafttoy.errors import ConfigError, StorageError
from rafttoy.ports import Ports, Sized
from rafttoy.real.files import RealFiles, device_bytes
from rafttoy.real.runtime import RealTasks
from rafttoy.sim.model import Disk
from rafttoy.sim.store import Inode, RandomChoice, SimStore
from tests.conformance.files import check_files
from tests.storage.beds import RealBed, SimBed


@pytest.mark.real
@pytest.mark.parametrize("sync", ["fdatasync", "dsync", "none"])
def test_real_files(tmp_path: Path, sync: str) -> None:
    made = iter(range(1000))
    check_files(lambda: RealBed(tmp_path / f"{next(made)}/deep", sync).run)


def test_simulated_files() -> None:
    check_files(lambda: SimBed().run)


# --- real ones ---


@pytest.mark.real
def test_a_directory_in_use_by_a_live_process_is_refused(tmp_path: Path) -> None:
    script = "import fcntl, os, sys, time; f = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT); fcntl.flock(f, fcntl.LOCK_EX)\n"
    script += "os.write(f, b'%d' % os.getpid()); print('locked', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "LOCK")], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        with pytest.raises(StorageError, match=rf"LOCK: the directory is in use by process {holder.pid}$"):
            RealBed(tmp_path).run(lambda ports: ports.files.lock())
        holder.kill()
        holder.wait()
        RealBed(tmp_path).run(lambda ports: ports.files.lock())  # it died with its process


@pytest.mark.real
def test_a_path_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    with pytest.raises(StorageError, match=r"file/data: Not a directory|file: Not a directory"):
        RealBed(tmp_path / "file" / "data").run(lambda ports: ports.files.open("log", create=True))


@pytest.mark.real
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_an_error_with_a_name(tmp_path: Path) -> None:
    (tmp_path / "log").symlink_to("/dev/full")

    async def scenario(ports: Ports) -> None:
        file = await ports.files.open("log")
        other = await ports.files.open("other", create=True)
        with pytest.raises(StorageError, match=r"log: No space left on device"):
            await file.pwritev(0, [b"x" * 100, b"y" * 100], sync=True)
        for call in (file.sync(), other.pwritev(0, [b"x"], sync=True)):  # nothing is written after a failure
            with pytest.raises(StorageError, match="No space left on device"):
                await call
        assert other.size() == 1
        assert await other.pread(0, 1) == b""

    RealBed(tmp_path).run(scenario)


@pytest.mark.real
def test_an_unknown_sync_mode_is_refused(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match="--sync fsync"):
            RealFiles(tmp_path, RealTasks(asyncio.get_running_loop()), "fsync")

    asyncio.run(main())


@pytest.mark.real
def test_a_cancelled_write_leaves_the_thread_working(tmp_path: Path) -> None:
    async def scenario(ports: Ports) -> None:
        file = await ports.files.open("log", create=True)
        task = asyncio.ensure_future(file.pwritev(0, [bytes(1 << 20)], sync=True))
        await asyncio.sleep(0)
        task.cancel()
        await file.pwritev(0, [b"later"], sync=True)
        assert (await file.pread(0, 5)) == b"later"

    RealBed(tmp_path).run(scenario)


@pytest.mark.real
def test_a_failed_write_of_the_real_loop_s_own_fails_all_that_follow(tmp_path: Path) -> None:
    async def scenario(ports: Ports) -> None:
        file = await ports.files.open("log", create=True)
        await file.pwritev(0, [b"one"], sync=True, here=True)
        os.close(file._fd)
        for here in (True, False, True):
            with pytest.raises(StorageError, match="log: Bad file descriptor"):
                await file.pwritev(3, [b"two"], sync=True, here=here)
        file._fd = -1

    RealBed(tmp_path).run(scenario)
    assert (tmp_path / "log").read_bytes() == b"one"


@pytest.mark.real
def test_the_system_counts_what_is_written(tmp_path: Path) -> None:
    before = device_bytes(tmp_path)
    if not before:
        pytest.skip("the kernel does not tell")
    fd = os.open(tmp_path / "log", os.O_RDWR | os.O_CREAT)
    os.pwrite(fd, os.urandom(1 << 20), 0)
    os.fsync(fd)
    os.close(fd)
    assert device_bytes(tmp_path) - before >= 1 << 20


# --- simulated ones: time ---


def test_a_synced_write_costs_what_the_model_says() -> None:
    bed = SimBed()

    async def scenario(ports: Ports) -> list[int]:
        file = await ports.files.open("log", create=True, preallocate=1 << 20)
        out = []
        for nbytes in (100, 4096, 4096 + 100_000):
            begun_ns = ports.clock.now_ns()
            await file.pwritev(0, [Sized(nbytes)], sync=True)
            out.append(ports.clock.now_ns() - begun_ns)
        begun_ns = ports.clock.now_ns()
        await file.pwritev(0, [Sized(100)], sync=False)
        out.append(ports.clock.now_ns() - begun_ns)
        return out

    small, block, large, unsynced = bed.run(scenario)
    assert 120_000 <= small <= 220_000  # 20 µs hand-off, a sync of 100…200 µs
    assert 120_000 <= block <= 220_000
    assert 220_000 <= large <= 320_000  # and 100,000 bytes at 1 ns
    assert unsynced == 25_000


def test_the_first_write_to_a_place_changes_metadata() -> None:
    """Beyond a file's end or within space that was only reserved: `grow_us` more, once."""
    costs = Disk(sync_us=[100.0, 100.0], grow_us=70.0, byte_ns=0.0, write_us=1.0, handoff_us=20.0)
    bed = SimBed(costs=costs)

    async def scenario(ports: Ports) -> list[int]:
        out = []
        for name, reserve, prewrite in (("grown", 0, False), ("reserved", 1 << 20, False), ("written", 1 << 20, True)):
            file = await ports.files.open(name, create=True, preallocate=reserve, prewrite=prewrite)
            for offset in (0, 4096, 0):
                begun_ns = ports.clock.now_ns()
                await file.pwritev(offset, [Sized(4096)], sync=True)
                out.append(ports.clock.now_ns() - begun_ns)
        return out

    took = bed.run(scenario)
    assert [ns - min(took) for ns in took] == [70_000, 70_000, 0] * 2 + [0, 0, 0]


def test_to_hear_of_a_synced_write_costs_the_loop() -> None:
    costs = Disk(sync_us=[100.0, 100.0], byte_ns=0.0, write_us=1.0, handoff_us=20.0, loop_us=30.0)

    async def scenario(ports: Ports) -> tuple[int, int]:
        file = await ports.files.open("log", create=True, preallocate=1 << 20, prewrite=True)
        begun_ns, busy_ns = ports.clock.now_ns(), ports.cpu.usage()[0]
        await file.pwritev(0, [Sized(100)], sync=True)
        return ports.clock.now_ns() - begun_ns, ports.cpu.usage()[0] - busy_ns

    assert SimBed(costs=costs).run(scenario) == (150_000, 30_000)


@pytest.mark.parametrize(("busy_us", "begins_us"), [(0, 10), (5, 10), (300, 300), (8000, 5010)])
def test_the_disk_thread_needs_the_interpreter_s_lock_to_begin(busy_us: int, begins_us: int) -> None:
    """It gets it when the loop sleeps, or after `lock_us`."""
    costs = Disk(sync_us=[100.0, 100.0], byte_ns=0.0, write_us=1.0, handoff_us=20.0)

    async def scenario(ports: Ports) -> int:
        file = await ports.files.open("log", create=True)
        begun_ns = ports.clock.now_ns()
        write = file.pwritev(0, [b"x"], sync=True)
        ports.tasks.loop.charge(busy_us * 1000)  # type: ignore[attr-defined]
        ports.files.on_call = lambda: calls.append(ports.clock.now_ns() - begun_ns)  # type: ignore[attr-defined]
        await write
        return begun_ns

    calls: list[int] = []
    SimBed(costs=costs, lock_us=5000).run(scenario)
    assert calls[0] == begins_us * 1000


def test_the_disk_thread_needs_the_lock_to_say_that_it_has_ended() -> None:
    """Its sync ends after 110 us, while the loop works until 400: the loop hears of it then."""
    costs = Disk(sync_us=[100.0, 100.0], byte_ns=0.0, write_us=1.0, handoff_us=20.0)

    async def scenario(ports: Ports) -> int:
        file = await ports.files.open("log", create=True, preallocate=1 << 20, prewrite=True)
        begun_ns = ports.clock.now_ns()
        write = file.pwritev(0, [b"x"], sync=True)

        async def work() -> None:
            await ports.clock.sleep_ns(100_000)
            ports.tasks.loop.charge(300_000)  # type: ignore[attr-defined]

        ports.tasks.spawn(work(), "work")
        await write
        return ports.clock.now_ns() - begun_ns

    assert SimBed(costs=costs, lock_us=5000).run(scenario) == 410_000


def test_a_write_that_the_loop_does_itself_keeps_it_from_everything_else() -> None:
    """No hand-off, and nothing to hear of; its core time is the loop's."""
    costs = Disk(sync_us=[100.0, 100.0], byte_ns=0.0, write_us=1.0, handoff_us=20.0, loop_us=30.0, cpu_us=15.0)

    async def scenario(ports: Ports) -> tuple[int, int, list[int]]:
        file = await ports.files.open("log", create=True, preallocate=1 << 20, prewrite=True)
        ticks: list[int] = []

        async def tick() -> None:
            while True:
                await ports.clock.sleep_ns(10_000)
                ticks.append(ports.clock.now_ns() - begun_ns)

        begun_ns, busy_ns = ports.clock.now_ns(), ports.cpu.usage()[0]
        ticking = ports.tasks.spawn(tick(), "tick")
        await file.pwritev(0, [Sized(100)], sync=True, here=True)
        ticking.cancel()
        return ports.clock.now_ns() - begun_ns, ports.cpu.usage()[0] - busy_ns, ticks

    assert SimBed(costs=costs).run(scenario) == (100_000, 15_000, [])


def test_calls_of_one_directory_stand_in_line() -> None:
    bed = SimBed()

    async def scenario(ports: Ports) -> int:
        one = await ports.files.open("one", create=True, preallocate=1 << 20)
        two = await ports.files.open("two", create=True, preallocate=1 << 20)
        begun_ns = ports.clock.now_ns()
        ended = ports.tasks.future()

        async def other() -> None:
            await two.pwritev(0, [b"x"], sync=True)
            ended.set_result(None)

        ports.tasks.spawn(other(), "other")
        await one.pwritev(0, [b"x"], sync=True)
        await ended
        return ports.clock.now_ns() - begun_ns

    assert bed.run(scenario) >= 220_000


def test_the_same_seed_gives_the_same_times() -> None:
    async def scenario(ports: Ports) -> list[int]:
        file = await ports.files.open("log", create=True)
        out = []
        for _ in range(50):
            await file.pwritev(0, [b"x"], sync=True)
            out.append(ports.clock.now_ns())
        return out

    assert SimBed(seed=5).run(scenario) == SimBed(seed=5).run(scenario)
    assert SimBed(seed=5).run(scenario) != SimBed(seed=6).run(scenario)


# --- simulated ones: crashes ---


class Fixed:
    """Decides every question alike."""

    def __init__(self, kept: bool) -> None:
        self.kept = kept

    def keep(self) -> bool:
        return self.kept

    def prefix(self, count: int) -> int:
        return count if self.kept else 0


async def _synced_and_unsynced(ports: Ports) -> None:
    file = await ports.files.open("log", create=True)
    await file.pwritev(0, [b"a" * 2000], sync=True)
    await ports.files.sync_directory()
    await file.pwritev(500, [b"b" * 2000], sync=False)


def test_a_crash_keeps_what_was_synced() -> None:
    bed = SimBed()
    bed.run(_synced_and_unsynced)
    assert bytes(bed.store.crash(Fixed(False)).files["log"].content) == b"a" * 2000
    assert bytes(bed.store.crash(Fixed(True)).files["log"].content) == b"a" * 500 + b"b" * 2000


def test_an_unsynced_write_is_torn_at_sectors() -> None:
    bed = SimBed()
    bed.run(_synced_and_unsynced)
    rng = np.random.default_rng(7)
    seen = set()
    for sector in (512, 4096):
        for _ in range(300):
            inode = bed.store.crash(RandomChoice(rng), sector).files["log"]
            content = inode.content + bytes(inode.size - len(inode.content))
            assert inode.size in (2000, 2500)
            old = b"a" * 2000 + bytes(500)
            new = b"a" * 500 + b"b" * 2000
            for at in range(0, inode.size, sector):
                piece = content[at : min(at + sector, inode.size)]
                assert piece in (old[at : at + len(piece)], new[at : at + len(piece)])
            seen.add(bytes(content))
    assert len(seen) > 30  # five sectors and a size in any combination, and whole blocks


def test_a_name_is_lost_without_a_sync_of_its_directory() -> None:
    async def scenario(ports: Ports) -> None:
        await ports.files.mkdir("wal")
        file = await ports.files.open("wal/1.tmp", create=True)
        await file.pwritev(0, [b"content"], sync=True)
        await ports.files.rename("wal/1.tmp", "wal/1")

    bed = SimBed()
    bed.run(scenario)
    assert list(bed.store.crash(Fixed(False)).files) == []
    kept = bed.store.crash(Fixed(True))
    assert bytes(kept.files["wal/1"].content) == b"content"
    bed.run(lambda ports: ports.files.sync_directory("wal"))
    assert list(bed.store.crash(Fixed(False)).files) == []  # the directory itself has no durable name
    bed.run(lambda ports: ports.files.sync_directory())
    assert list(bed.store.crash(Fixed(False)).files) == ["wal/1"]


def test_changes_of_other_names_may_be_lost_each_by_itself() -> None:
    async def scenario(ports: Ports) -> None:
        for name in ("a", "b", "c"):
            await ports.files.open(name, create=True)

    bed = SimBed()
    bed.run(scenario)
    rng = np.random.default_rng(3)
    seen = {tuple(sorted(bed.store.crash(RandomChoice(rng)).files)) for _ in range(300)}
    assert len(seen) == 8


# --- simulated ones: faults ---


def test_a_failed_sync_persists_nothing_and_raises() -> None:
    bed = SimBed()

    async def scenario(ports: Ports) -> None:
        file = await ports.files.open("log", create=True)
        await ports.files.sync_directory()
        bed.faults.fail_sync = 1
        await file.pwritev(0, [b"one"], sync=True)
        with pytest.raises(StorageError, match="sim/log: Input/output error"):
            await file.pwritev(3, [b"two"], sync=True)

    bed.run(scenario)
    assert bytes(bed.store.crash(Fixed(False)).files["log"].content) == b"one"


def test_a_failed_write_of_the_loop_s_own_fails_all_that_follow() -> None:
    bed = SimBed()

    async def scenario(ports: Ports) -> None:
        file = await ports.files.open("log", create=True)
        bed.faults.fail_sync = 0
        for here in (True, False, True):
            with pytest.raises(StorageError, match="sim/log: Input/output error"):
                await file.pwritev(0, [b"one"], sync=True, here=here)

    bed.run(scenario)
    assert bytes(bed.store.crash(Fixed(False)).files.get("log", Inode()).content) == b""


def test_after_a_failed_write_no_other_is_carried_out() -> None:
    bed = SimBed()

    async def scenario(ports: Ports) -> None:
        file = await ports.files.open("log", create=True)
        other = await ports.files.open("other", create=True)
        await file.pwritev(0, [b"0123456789"], sync=True)
        bed.faults.fail_write = 1
        writes = [file.pwritev(i, [b"x"], sync=True) for i in range(3)]  # all in line at once
        await writes[0]
        for write in writes[1:]:
            with pytest.raises(StorageError, match="sim/log: Input/output error"):
                await write
        for call in (file.sync(), other.pwritev(0, [b"x"], sync=False), other.sync(), file.truncate(0)):
            with pytest.raises(StorageError, match="sim/log: Input/output error"):
                await call

    bed.run(scenario)
    assert bytes(bed.store.files["log"].content) == b"x123456789"
    assert bed.store.files["other"].size == 0


def test_reads_fail_and_disks_are_full_when_told() -> None:
    bed = SimBed()

    async def scenario(ports: Ports) -> None:
        file = await ports.files.open("log", create=True)
        await file.pwritev(0, [b"0123456789"], sync=True)
        bed.faults.fail_read = 0
        with pytest.raises(StorageError, match="Input/output error"):
            await file.pread(0, 10)
        bed.faults.short_read = 0
        assert await file.pread(0, 10) == b"01234"
        assert await file.pread(0, 10) == b"0123456789"
        bed.faults.full_bytes = 20
        await file.pwritev(10, [b"0123456789"], sync=False)
        with pytest.raises(StorageError, match="No space left on device"):
            await file.pwritev(20, [b"x"], sync=False)
        with pytest.raises(StorageError, match="No space left on device"):
            await ports.files.open("other", create=True, preallocate=1)

    bed.run(scenario)


def test_a_lying_device_acknowledges_and_forgets() -> None:
    bed = SimBed()
    bed.faults.lying_sync = True
    bed.run(_synced_and_unsynced)
    crashed = bed.store.crash(Fixed(False))
    assert crashed.files["log"].size == 0


def test_a_directory_that_lies_loses_names() -> None:
    bed = SimBed()
    bed.faults.lying_directory = True
    bed.run(_synced_and_unsynced)
    assert not bed.store.crash(Fixed(False)).files


def test_a_stall_is_waited_for() -> None:
    bed = SimBed()
    bed.faults.stall_ns = 5_000_000

    async def scenario(ports: Ports) -> int:
        file = await ports.files.open("log", create=True)
        begun_ns = ports.clock.now_ns()
        await file.pwritev(0, [b"x"], sync=True)
        return ports.clock.now_ns() - begun_ns

    assert bed.run(scenario) >= 5_120_000


def test_rot_is_seen_by_who_reads() -> None:
    bed = SimBed()
    bed.run(_synced_and_unsynced)
    bed.store.flip("log", 1)
    assert bed.run(lambda ports: _read(ports, "log", 3)) == b"a`a"
    assert bytes(bed.store.crash(Fixed(False)).files["log"].content[:3]) == b"a`a"


async def _read(ports: Ports, name: str, length: int) -> bytes:
    return await (await ports.files.open(name)).pread(0, length)


def test_payload_that_is_sized_moves_sizes_and_cannot_be_recovered() -> None:
    bed = SimBed()

    async def write(ports: Ports) -> None:
        file = await ports.files.open("log", create=True)
        await file.pwritev(0, [b"header", Sized(1 << 30)], sync=True)
        assert file.size() == (1 << 30) + 6
        await file.pread(0, 100)  # what it wrote itself, it may look at: the time is right, the content is not there

    bed.run(write)
    assert len(bed.store.files["log"].content) == 0
    with pytest.raises(AssertionError, match="nothing can be recovered"):
        bed.run(lambda ports: _read(ports, "log", 6))


def test_a_store_is_locked_by_one_incarnation() -> None:
    store = SimStore()
    first, second = SimBed(store), SimBed(store)

    async def hold(ports: Ports) -> None:
        await ports.files.lock()
        with pytest.raises(StorageError, match="in use by another peer"):
            await second.ports().files.lock()

    first.run(hold)
    second.run(lambda ports: ports.files.lock())
