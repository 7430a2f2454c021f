"""The contract of key-value stores, for each kind in each world; and what their writes cost and leave."""

from __future__ import annotations

import importlib.util
import itertools
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from rafttoy.errors import StorageError
from rafttoy.observe import StageRecord
from rafttoy.ports import KvStore, Ports, Sized, WriteBatch
from rafttoy.sim.model import Kv, Linear
from rafttoy.sim.store import RandomChoice
from tests.conformance.kv import check_kv, check_kv_survives
from tests.storage.beds import RealBed, SimBed

needs_rocksdb = pytest.mark.skipif(importlib.util.find_spec("rocksdict") is None, reason="rocksdict is not installed (an extra)")
KINDS = ["dict", "leveldb", pytest.param("rocksdb", marks=needs_rocksdb)]
DURABLE = KINDS[1:]


@pytest.mark.real
@pytest.mark.parametrize("kind", KINDS)
def test_real_stores(tmp_path: Path, kind: str) -> None:
    made = iter(range(1000))
    check_kv(lambda: RealBed(tmp_path / str(next(made))).run, kind)


@pytest.mark.parametrize("kind", ["dict", "leveldb", "rocksdb"])
def test_simulated_stores(kind: str) -> None:
    check_kv(lambda: SimBed().run, kind)


@pytest.mark.real
@pytest.mark.parametrize("kind", DURABLE)
def test_a_real_store_survives(tmp_path: Path, kind: str) -> None:
    check_kv_survives(RealBed(tmp_path).run, kind)


def test_a_simulated_store_survives() -> None:
    check_kv_survives(SimBed().run, "leveldb")


# --- real ones ---


@pytest.mark.real
@pytest.mark.parametrize("kind", DURABLE)
def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path, kind: str) -> None:
    (tmp_path / "store").write_text("a file, not a directory")
    with pytest.raises(StorageError, match=str(tmp_path / "store")):
        RealBed(tmp_path).run(lambda ports: ports.kv.open(kind, "store"))


@pytest.mark.real
@pytest.mark.parametrize("kind", KINDS)
def test_what_writes_cost_is_recorded_where_they_run(tmp_path: Path, kind: str) -> None:
    async def scenario(ports: Ports) -> None:
        store = await ports.kv.open(kind, "store")
        for nbytes, sync in ((100, False), (100_000, False), (100, True)):
            batch = store.batch()
            batch.put(b"key", bytes(nbytes))
            await store.write(batch, sync=sync)
        inline, threaded = ports.cpu.records[f"kv.{kind}"], ports.cpu.records.get(f"kv.{kind}.thread", StageRecord("none"))
        assert (inline.count + threaded.count, inline.entries + threaded.entries) == (3, 3)
        assert inline.nbytes + threaded.nbytes == 100_209
        assert inline.measured + threaded.measured == 3
        assert inline.cpu_ns + threaded.cpu_ns > 0
        assert threaded.count == (0 if kind == "dict" else 2)  # a large write, and a synced one
        await store.close()

    RealBed(tmp_path).run(scenario)


@pytest.mark.real
@pytest.mark.parametrize("nbytes", [64, 256, 4096])
def test_a_buffer_counts_as_full_when_leveldb_begins_another(tmp_path: Path, nbytes: int) -> None:
    """LevelDB begins a log file with each, so the store's directory tells."""
    per_batch = 100_000 // nbytes

    async def scenario(ports: Ports) -> dict[str, int]:
        store = await ports.kv.open("leveldb", "store")
        begun_with = _logs(tmp_path)
        filled: dict[str, int] = {}
        for written in itertools.count(1):
            batch = store.batch()
            for i in range(per_batch):
                batch.put(b"%016d" % (per_batch * written + i), bytes(nbytes))
            await store.write(batch, sync=False)
            if ports.kv.counters()["kv_buffers"]:
                filled.setdefault("counted", written)
            if _logs(tmp_path) != begun_with:
                filled.setdefault("LevelDB", written)
            if len(filled) == 2:
                pairs, full = ports.kv.buffered()
                assert pairs < per_batch * 40
                assert full == 1
                await store.close()
                assert ports.kv.buffered() == (0, 0)
                assert ports.kv.counters() == {"kv_buffers": 1}
                return filled
        raise AssertionError

    filled = RealBed(tmp_path).run(scenario)
    assert filled["counted"] == pytest.approx(filled["LevelDB"], rel=0.05)


def _logs(directory: Path) -> set[str]:
    return {path.name for path in directory.rglob("*.log")}


# --- simulated ones ---


def test_a_write_is_charged_to_the_loop_and_a_sync_to_the_disk() -> None:
    async def scenario(ports: Ports) -> tuple[int, int]:
        store = await ports.kv.open("leveldb", "store")
        out = []
        for sync in (False, True):
            batch = store.batch()
            batch.put_many(None, 100, 25_600)
            begun_ns = ports.clock.now_ns()
            await store.write(batch, sync=sync)
            out.append(ports.clock.now_ns() - begun_ns)
        return out[0], out[1]

    unsynced, synced = SimBed().run(scenario)
    assert unsynced == 52_000  # 2 µs and 100 entries of 0.5 µs
    assert 52_000 + 120_000 <= synced <= 52_000 + 250_000  # on the store's thread, and then the disk


def test_a_crash_keeps_synced_batches_and_then_a_prefix() -> None:
    bed = SimBed()

    async def scenario(ports: Ports) -> None:
        store = await ports.kv.open("leveldb", "store")
        for i in range(10):
            batch = store.batch()
            batch.put(b"k%d" % i, b"v")
            batch.put(b"last", b"%d" % i)
            await store.write(batch, sync=i == 4)

    bed.run(scenario)
    rng = np.random.default_rng(1)
    seen = set()
    for _ in range(200):
        content = SimBed(bed.store.crash(RandomChoice(rng))).run(_content)
        count = len(content) - 1
        assert count >= 5
        assert content == {**{b"k%d" % i: b"v" for i in range(count)}, b"last": b"%d" % (count - 1)}
        seen.add(count)
    assert seen == {5, 6, 7, 8, 9, 10}


async def _content(ports: Ports) -> dict[bytes, bytes]:
    return dict(await (await ports.kv.open("leveldb", "store")).scan(b"", b"\xff"))


def test_faults_reach_stores_too() -> None:
    bed = SimBed()

    async def scenario(ports: Ports) -> None:
        store = await ports.kv.open("leveldb", "store")
        batch = store.batch()
        batch.put(b"a", b"1")
        bed.faults.fail_sync = 0
        with pytest.raises(StorageError, match="sim/store: Input/output error"):
            await store.write(batch, sync=True)
        bed.faults.fail_write = 0
        with pytest.raises(StorageError, match="sim/store: Input/output error"):
            await store.write(batch, sync=False)

    bed.run(scenario)


def test_payload_that_is_sized_is_counted_only() -> None:
    async def scenario(ports: Ports) -> None:
        store = await ports.kv.open("leveldb", "store")
        batch = store.batch()
        batch.put(b"a", Sized(1000))
        batch.put_many(None, 10, 5000)
        await store.write(batch, sync=True)
        record = ports.cpu.records["kv.leveldb.thread"]
        assert (record.count, record.entries, record.nbytes) == (1, 11, 6001)
        with pytest.raises(AssertionError, match="Sized"):
            await store.scan(b"", b"\xff")

    SimBed().run(scenario)


def test_a_sync_is_of_all_that_its_store_was_given_before() -> None:
    """cockroach#38322: applied data in the store of the log burden the log's next sync, only that one; in a store of their own, none."""

    async def synced_write_ns(ports: Ports, store: KvStore, nbytes: int) -> int:
        begun_ns = ports.clock.now_ns()
        await store.write(_sized(store, nbytes), sync=True)
        return ports.clock.now_ns() - begun_ns

    async def scenario(ports: Ports, *, shared: bool) -> list[int]:
        log = await ports.kv.open("leveldb", "log")
        data = log if shared else await ports.kv.open("leveldb", "data")
        await data.write(_sized(data, 1_000_000), sync=False)
        return [await synced_write_ns(ports, log, 1000) for _ in range(2)]

    first, second = SimBed().run(partial(scenario, shared=True))
    assert first > second + 800_000  # a nanosecond a byte; a sync is 100…200 µs
    first, second = SimBed().run(partial(scenario, shared=False))
    assert first < 400_000


def _sized(store: KvStore, nbytes: int) -> WriteBatch:
    batch = store.batch()
    batch.put(b"k", Sized(nbytes))
    return batch


def test_a_store_flushes_when_its_buffer_is_full_and_waits_when_the_next_one_is() -> None:
    """A megabyte of 2 ns a byte: 2 ms of core time, which only the buffer after the next one waits for."""
    kv = {"leveldb": Kv(write=Linear(), background=Linear(byte_ns=2.0), flush_bytes=1_000_000)}
    took_ns = []
    busy_ns = []

    async def scenario(ports: Ports) -> None:
        store = await ports.kv.open("leveldb", "store")
        for _ in range(8):
            begun_ns = ports.clock.now_ns()
            await store.write(_sized(store, 249_999), sync=False)
            took_ns.append(ports.clock.now_ns() - begun_ns)
            busy_ns.append(bed.host.busy_ns)

    bed = SimBed(kv=kv)
    bed.run(scenario)
    bed.env.run()
    assert busy_ns[2] == 0
    assert bed.host.busy_ns == 4_000_000
    assert max(took_ns[:7]) < 500_000
    assert took_ns[7] > 1_000_000  # the second buffer is full, and the first one is still being written


def test_a_put_is_dearer_the_more_the_buffer_holds() -> None:
    kv = {"leveldb": Kv(write=Linear(entry_us=1.0), pairs_at=(1000.0, 4000.0), pairs_times=(1.0, 3.0))}

    async def scenario(ports: Ports) -> list[int]:
        store = await ports.kv.open("leveldb", "store")
        took_ns = []
        for _ in range(6):
            begun_ns = ports.clock.now_ns()
            batch = store.batch()
            batch.put_many(None, 1000, 10_000)
            await store.write(batch, sync=False)
            took_ns.append(ports.clock.now_ns() - begun_ns)
        assert ports.kv.buffered() == (6000, 0)
        await store.close()
        assert ports.kv.buffered() == (0, 0)
        return took_ns

    first, second, third, *_, last = SimBed(kv=kv).run(scenario)
    assert first == second == 1_000_000
    assert third == pytest.approx(2_000_000, rel=0.01)  # half-way from 1000 to 4000, in octaves
    assert last == 3_000_000


def test_compactions_take_core_time_that_no_writer_waits_for() -> None:
    kv = {"leveldb": Kv(write=Linear(), background=Linear(byte_ns=10.0))}

    async def scenario(ports: Ports) -> int:
        store = await ports.kv.open("leveldb", "store")
        begun_ns = ports.clock.now_ns()
        await store.write(_sized(store, 999_999), sync=False)
        return ports.clock.now_ns() - begun_ns

    bed = SimBed(kv=kv)
    assert bed.run(scenario) < 1_000_000
    bed.env.run()
    assert bed.host.busy_ns == 10_000_000
