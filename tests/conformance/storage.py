"""What a storage promises. `check_storage` is run against every kind in every world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np
import pytest

from rafttoy.errors import StorageError
from rafttoy.ports import Ports
from rafttoy.proposal import PayloadMaker
from rafttoy.raft.entries import EntryBatch, EntryType, Payloads
from rafttoy.raft.errors import SnapshotTemporarilyUnavailable
from rafttoy.raft.types import ConfState, HardState, Snapshot, SnapshotMetadata
from rafttoy.storage import Storage
from tests.conformance.files import Incarnations
from tests.storage.beds import batch, proposals

__all__ = ["check_storage", "log_bytes"]

Make = Callable[..., Storage]
"""A storage of the kind under test on these ports, with these options (`cache_bytes`)."""


class Subject:
    """One directory and the storages that live there, one after another."""

    def __init__(self, run: Incarnations, make: Make) -> None:
        self._run, self._make = run, make

    def live(self, scenario: Callable[[Storage, Ports], Awaitable[Any]], **options: Any) -> Any:
        """Opens a storage, runs the scenario, closes it in peace."""

        async def incarnation(ports: Ports) -> Any:
            storage = self._make(ports, **options)
            try:
                await storage.open()
                return await scenario(storage, ports)
            finally:
                await storage.close()

        return self._run(incarnation)

    @property
    def durable(self) -> bool:
        async def tell(ports: Ports) -> bool:
            return self._make(ports).durable

        return bool(self._run(tell))


_CLAUSES: list[Callable[[Subject], None]] = []


def check_storage(directory: Callable[[], Incarnations], make: Make) -> None:
    """`directory` gives each clause one of its own."""
    for clause in _CLAUSES:
        try:
            clause(Subject(directory(), make))
        except BaseException as error:
            error.add_note(f"clause: {clause.__name__}")
            raise


def _clause(check: Callable[[Subject], None]) -> None:
    _CLAUSES.append(check)


async def log_bytes(storage: Storage) -> bytes:
    """The whole log, encoded."""
    log = storage.log
    batches = await storage.read_log(log.first_index(), log.last_index() + 1)
    return b"".join(bytes(batch.frames) for batch in batches)  # type: ignore[arg-type]


def encoded(batches: Sequence[EntryBatch]) -> bytes:
    return b"".join(bytes(batch.frames) for batch in batches)  # type: ignore[arg-type]


async def _reopened(storage: Storage, ports: Ports) -> tuple[bytes, HardState, int]:
    return await log_bytes(storage), storage.log.initial_state()[0], storage.log.last_index()


@_clause
def _a_new_one_is_empty_and_fresh(subject: Subject) -> None:
    async def scenario(storage: Storage, ports: Ports) -> None:
        recovered = await storage.open()
        assert recovered.fresh
        assert (recovered.hard_state, recovered.applied, recovered.snapshot, recovered.conf_state) == (HardState(), 0, None, None)
        assert (storage.log.first_index(), storage.log.last_index()) == (1, 0)
        assert await storage.read_log(1, 1) == []

    subject.live(scenario)


@_clause
def _what_was_saved_is_in_the_log_and_stays_there(subject: Subject) -> None:
    first = [batch(1, 3, fill=1), batch(4, 20, fill=2)]
    second = [batch(24, 1, term=2, size=0), batch(25, 200, term=2, size=300, fill=3)]

    async def scenario(storage: Storage, ports: Ports) -> None:
        await storage.save(first, HardState(1, 1, 0), sync=True)
        assert storage.log.last_index() == 23
        await storage.save([], HardState(2, 3, 10), sync=True)
        await storage.save(second, None, sync=True)
        assert await log_bytes(storage) == encoded(first + second)
        assert storage.log.term(23) == 1
        assert storage.log.term(24) == 2
        assert [b.first for b in storage.log.entries(20, 30, 1 << 40)] == [20, 24, 25]

    subject.live(scenario)
    if subject.durable:
        for _ in range(2):
            assert subject.live(_reopened) == (encoded(first + second), HardState(2, 3, 10), 224)


@_clause
def _batches_of_any_shape_come_back(subject: Subject) -> None:
    maker = PayloadMaker(np.random.default_rng(1), 50, content=True)
    shapes = [
        EntryBatch.empty(1, 1),
        EntryBatch.encode(2, 1, EntryType.CONF_CHANGE_V2, Payloads.of([b"\x0a\x02\x10\x01"])),
        EntryBatch.encode(3, 1, EntryType.NORMAL, Payloads.of([b"a", b"bb" * 100, b"", b"dddd"])),
        EntryBatch.encode(7, 1, EntryType.NORMAL, maker.make(300)),  # crosses the width of an index
        EntryBatch.encode(307, 3, EntryType.NORMAL, Payloads(1, bytes(70_000), 70_000)),
        EntryBatch.encode(308, 3, EntryType.NORMAL, Payloads(40, bytes(40), 1)),
    ]
    sliced = EntryBatch.encode(348, 3, EntryType.NORMAL, maker.make(100)).slice(348, 400)

    async def scenario(storage: Storage, ports: Ports) -> None:
        for shape in shapes:
            await storage.save([shape], None, sync=True)
        await storage.save([sliced], None, sync=True)
        assert await log_bytes(storage) == encoded([*shapes, sliced])

    subject.live(scenario)
    if subject.durable:
        data, _, last = subject.live(_reopened)
        assert (data, last) == (encoded([*shapes, sliced]), 399)

        async def types(storage: Storage, ports: Ports) -> list[tuple[int, EntryType, int]]:
            return [(b.first, b.type, b.payload_bytes) for b in await storage.read_log(1, 7)]

        found = subject.live(types)
        assert found[:2] == [(1, EntryType.NORMAL, 0), (2, EntryType.CONF_CHANGE_V2, 4)]
        assert sum(payload for first, _, payload in found if first >= 3) == 205


@_clause
def _a_conflicting_suffix_is_overwritten(subject: Subject) -> None:
    old = [batch(1, 10, fill=1), batch(11, 10, fill=2), batch(21, 10, fill=3)]
    new = [batch(15, 3, term=2, fill=9)]
    later = [batch(18, 5, term=3, fill=10)]
    expected = encoded([old[0], old[1].slice(11, 15), *new, *later])

    async def scenario(storage: Storage, ports: Ports) -> None:
        await storage.save(old, HardState(1, 0, 0), sync=True)
        await storage.save(new, HardState(2, 0, 0), sync=True)
        assert storage.log.last_index() == 17
        await storage.save(later, None, sync=True)
        assert await log_bytes(storage) == expected
        assert storage.log.term(14) == 1
        assert storage.log.term(15) == 2

    subject.live(scenario)
    if subject.durable:
        assert subject.live(_reopened) == (expected, HardState(2, 0, 0), 22)


@_clause
def _saves_at_the_same_time_are_all_saved_in_order(subject: Subject) -> None:
    async def scenario(storage: Storage, ports: Ports) -> None:
        ended: list[int] = []
        done = ports.tasks.future()

        async def save(i: int) -> None:
            await storage.save([batch(1 + 3 * i, 3, fill=i)], HardState(1, 1, i), sync=True)
            assert storage.log.last_index() >= 3 * i + 3
            ended.append(i)
            if len(ended) == 40:
                done.set_result(None)

        for i in range(40):
            ports.tasks.spawn(save(i), f"save {i}")
        await done
        assert ended == list(range(40))
        assert await log_bytes(storage) == encoded([batch(1 + 3 * i, 3, fill=i) for i in range(40)])
        if storage.durable:
            counters = storage.counters()
            assert counters["wal_saves"] == 40
            assert counters["wal_groups"] < 40
            assert counters["wal_syncs"] == counters["wal_groups"] == counters["wal_writes"]

    subject.live(scenario)
    if subject.durable:
        data, state, last = subject.live(_reopened)
        assert (data, state, last) == (encoded([batch(1 + 3 * i, 3, fill=i) for i in range(40)]), HardState(1, 1, 39), 120)


@_clause
def _evicted_entries_are_read_back(subject: Subject) -> None:
    batches = [batch(1 + 10 * i, 10, size=1000, fill=i) for i in range(20)]
    mixed = EntryBatch.encode(201, 1, EntryType.NORMAL, Payloads.of([bytes((i,)) * (100 * i) for i in range(1, 10)]))
    newest = [batch(210, 10, size=1000, fill=77)]
    everything = [*batches[:14], batches[14].slice(141, 146), batch(146, 55, term=2, size=500), mixed, *newest]

    async def scenario(storage: Storage, ports: Ports) -> None:
        for saved in batches:
            await storage.save([saved], None, sync=True)
        await storage.save([batch(146, 55, term=2, size=500)], None, sync=True)
        await storage.save([mixed], None, sync=True)
        await storage.save(newest, None, sync=True)
        log = storage.log
        if storage.durable:
            assert log.resident_bytes <= 20_000
            assert log.total_bytes == sum(b.size for b in everything)
            assert log.entries(1, 11, 1 << 40)[0].frames is None
        assert await log_bytes(storage) == encoded(everything)
        for low, high in ((1, 2), (5, 15), (139, 150), (146, 147), (199, 206), (203, 204)):
            expected = b"".join(encoded([b.slice(low, high)]) for b in everything if b.first < high and b.last >= low)
            assert encoded(await storage.read_log(low, high)) == expected
        resident = log.entries(219, 220, 1 << 40)
        assert await storage.load(resident) is resident

    subject.live(scenario, cache_bytes=20_000)
    if subject.durable:
        for cache_bytes in (0, 20_000):
            assert subject.live(_reopened, cache_bytes=cache_bytes)[0] == encoded(everything)


@_clause
def _applied_entries_are_content(subject: Subject) -> None:
    content = [[(b"\x01%04d" % (i % 50), b"value %d" % i) for i in range(start, start + 30)] for start in range(0, 300, 30)]
    maker = PayloadMaker(np.random.default_rng(5), 256, content=True)
    batches = [proposals(1 + 30 * i, pairs) for i, pairs in enumerate(content)]
    batches += [EntryBatch.empty(301, 2), EntryBatch.encode(302, 2, EntryType.NORMAL, maker.make(64))]
    batches += [proposals(366, [(b"\x01short", b""), (b"\x01a longer key", b"x" * 1000), (b"\x01short", b"again")], 2)]

    async def scenario(storage: Storage, ports: Ports) -> str:
        empty = await storage.digest()
        await storage.save(batches, HardState(2, 1, 368), sync=True)
        await storage.apply(batches[:5])
        half = await storage.digest()
        await storage.apply(batches[5:])
        assert len({empty, half, await storage.digest()}) == 3
        return await storage.digest()

    digest = subject.live(scenario)
    _DIGESTS.add(digest)
    assert len(_DIGESTS) == 1, "engines that hold the same content tell different digests"
    if subject.durable:

        async def again(storage: Storage, ports: Ports) -> str:
            recovered = await storage.open()
            assert recovered.applied in (0, 368)
            assert recovered.hard_state.commit == 368
            log = storage.log
            if recovered.applied < log.last_index():
                await storage.apply(log.entries(recovered.applied + 1, log.last_index() + 1, 1 << 40))
            return await storage.digest()

        assert subject.live(again) == digest


_DIGESTS: set[str] = set()


@_clause
def _members_survive(subject: Subject) -> None:
    founded, changed = ConfState((1, 2, 3)), ConfState((1, 2), (4,), (1, 2, 3), (3,), True)

    async def found(storage: Storage, ports: Ports) -> None:
        await storage.set_conf_state(founded, 0)
        assert storage.log.initial_state()[1] == founded

    async def change(storage: Storage, ports: Ports) -> None:
        recovered = await storage.open()
        assert not recovered.fresh
        assert recovered.conf_state == founded == storage.log.initial_state()[1]
        await storage.save([batch(1, 2)], HardState(1, 1, 2), sync=True)
        await storage.set_conf_state(changed, 2)
        assert storage.log.initial_state()[1] == changed

    async def look(storage: Storage, ports: Ports) -> None:
        recovered = await storage.open()
        assert (recovered.applied, recovered.conf_state) in ((2, changed), (0, founded))  # an engine in memory applies it again

    subject.live(found)
    if subject.durable:
        subject.live(change)
        subject.live(look)


@_clause
def _what_is_compacted_is_gone_and_the_rest_stays(subject: Subject) -> None:
    batches = [proposals(1 + 10 * i, [(b"\x01%d" % (10 * i + j), b"v" * 100) for j in range(10)]) for i in range(10)]
    tail = proposals(101, [(b"\x01tail", b"w")])

    async def scenario(storage: Storage, ports: Ports) -> str:
        for saved in batches:
            await storage.save([saved], HardState(1, 1, saved.last), sync=True)
        await storage.apply(batches[:8])
        total = storage.log.total_bytes
        assert storage.compactable(total) == 0
        assert storage.compactable(total // 2) in (40, 50)
        assert storage.compactable(0) == 80  # not beyond what is applied
        await storage.compact(45)
        log = storage.log
        assert (log.first_index(), log.last_index(), log.term(45)) == (46, 100, 1)
        assert await log_bytes(storage) == encoded([batches[4].slice(46, 51), *batches[5:]])
        await storage.compact(30)  # done already
        await storage.save([tail], None, sync=True)
        await storage.apply([*batches[8:], tail])
        return await storage.digest()

    async def again(storage: Storage, ports: Ports) -> str:
        recovered = await storage.open()
        log = storage.log
        assert recovered.snapshot is not None
        assert recovered.snapshot.index == 45
        assert recovered.applied >= 45
        assert (log.first_index(), log.last_index(), log.term(45)) == (46, 101, 1)
        assert await log_bytes(storage) == encoded([batches[4].slice(46, 51), *batches[5:], tail])
        if recovered.applied < 101:
            await storage.apply(log.entries(recovered.applied + 1, 102, 1 << 40))
        return await storage.digest()

    async def all_of_it(storage: Storage, ports: Ports) -> str:
        if (await storage.open()).applied < 101:
            await storage.apply(storage.log.entries((await storage.open()).applied + 1, 102, 1 << 40))
        await storage.compact(101)
        assert (storage.log.first_index(), storage.log.last_index()) == (102, 101)
        await storage.save([batch(102, term=2)], HardState(2, 1, 101), sync=True)
        return await storage.digest()

    async def at_the_end(storage: Storage, ports: Ports) -> str:
        recovered = await storage.open()
        assert recovered.applied == 101
        assert (storage.log.first_index(), storage.log.last_index(), storage.log.term(101)) == (102, 102, 1)
        return await storage.digest()

    digest = subject.live(scenario)
    if subject.durable:
        assert subject.live(again) == digest
        assert subject.live(again) == digest
        assert subject.live(all_of_it) == digest
        assert subject.live(at_the_end) == digest


@_clause
def _a_snapshot_takes_the_place_of_log_and_content(subject: Subject) -> None:
    members = ConfState((1, 2, 3), (4,))

    async def source(storage: Storage, ports: Ports) -> tuple[Snapshot, str]:
        batches = [proposals(1, [(b"\x01%d" % i, b"v%d" % i) for i in range(100)])]
        await storage.save(batches, HardState(3, 2, 100), sync=True)
        await storage.set_conf_state(members, 0)
        with pytest.raises(SnapshotTemporarilyUnavailable):
            storage.log.snapshot()
        await storage.apply(batches)
        snapshot = await storage.create_snapshot()
        assert storage.log.snapshot() == snapshot
        assert snapshot.metadata == SnapshotMetadata(members, 100, 1)
        digest = await storage.digest()
        await storage.reset()
        return snapshot, digest

    async def target(storage: Storage, ports: Ports) -> None:
        stale = [proposals(1, [(b"\x01stale", b"old"), (b"\x013", b"old")]), batch(3, 40)]
        await storage.save(stale, HardState(1, 1, 2), sync=True)
        await storage.apply(stale[:1])
        await storage.install_snapshot(snapshot, HardState(3, 1, 100))
        await look(storage, ports)
        await storage.save([batch(101, 5, term=3)], HardState(3, 1, 100), sync=True)

    async def look(storage: Storage, ports: Ports) -> None:
        log = storage.log
        assert (log.first_index(), log.term(100)) == (101, 1)
        assert log.initial_state() == (HardState(3, 1, 100), members)
        assert await storage.digest() == digest

    async def again(storage: Storage, ports: Ports) -> None:
        recovered = await storage.open()
        assert (recovered.applied, recovered.conf_state) == (100, members)
        await look(storage, ports)
        assert storage.log.last_index() == 105

    snapshot, digest = subject.live(source)
    subject.live(target)
    if subject.durable:
        subject.live(again)


@_clause
def _a_reset_one_is_as_new(subject: Subject) -> None:
    batches = [proposals(1 + 10 * i, [(b"\x01%d" % (10 * i + j), b"v" * 100) for j in range(10)]) for i in range(10)]

    async def scenario(storage: Storage, ports: Ports) -> None:
        empty = await storage.digest()
        for _ in range(3):
            await storage.set_conf_state(ConfState((1,)), 0)
            await storage.save(batches, HardState(4, 2, 50), sync=True)
            await storage.apply(batches)
            await storage.reset()
            recovered = await storage.open()
            assert recovered.fresh
            assert recovered.hard_state == HardState()
            assert storage.log.initial_state() == (HardState(), ConfState())
            assert (storage.log.first_index(), storage.log.last_index()) == (1, 0)
            assert await storage.digest() == empty
        await storage.save([batch(1, 2, term=7)], HardState(7, 1, 0), sync=True)

    subject.live(scenario)
    if subject.durable:
        assert subject.live(_reopened) == (encoded([batch(1, 2, term=7)]), HardState(7, 1, 0), 2)


@_clause
def _a_hard_state_that_need_not_be_synced_survives_a_close(subject: Subject) -> None:
    async def scenario(storage: Storage, ports: Ports) -> None:
        await storage.save([batch(1, 5)], HardState(1, 1, 0), sync=True)
        writes = storage.counters()["wal_writes"]
        for commit in range(1, 6):
            await storage.save([], HardState(1, 1, commit), sync=False)
            assert storage.log.hard_state.commit == commit
        assert storage.counters()["wal_writes"] == writes  # it waits for company

    subject.live(scenario)
    if subject.durable:
        assert subject.live(_reopened)[1] == HardState(1, 1, 5)


@_clause
def _a_cancelled_save_stops_the_log_until_a_reset(subject: Subject) -> None:
    async def scenario(storage: Storage, ports: Ports) -> None:
        await storage.save([batch(1, 5)], HardState(1, 1, 0), sync=True)

        async def save() -> None:
            await storage.save([batch(6, 5)], None, sync=True)

        task = ports.tasks.spawn(save(), "save")
        await ports.clock.sleep_ns(1000)
        if task.done():
            return
        task.cancel()
        await ports.clock.sleep_ns(1000)
        with pytest.raises(StorageError, match="cancelled"):
            await storage.save([batch(6, 5)], None, sync=True)
        await storage.reset()
        await storage.save([batch(1, 1, term=2)], HardState(2, 0, 0), sync=True)
        assert await log_bytes(storage) == encoded([batch(1, 1, term=2)])

    subject.live(scenario)
