"""Histories of a log, crashed at every point of every call to the disk; what a reopened one may hold, and what it must.

A history is drawn from a seed: appends, overwrites, hard states, saves at the same time, compactions, snapshots, resets, reopenings.
Whenever the log calls the disk, images are taken of what a crash at that moment could leave: each unsynced sector kept or lost, names
too. Every image is opened. It must hold all that was acknowledged, and of what was under way a prefix of its records: nothing else,
nothing twice, no hole. Some are written to again, crashed again and opened again: recovery is a history like any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from rafttoy.ports import Ports
from rafttoy.raft.entries import EntryBatch
from rafttoy.raft.types import EMPTY_HARD_STATE, ConfState, HardState, Snapshot, SnapshotMetadata
from rafttoy.sim.store import RandomChoice, SimStore
from rafttoy.storage import Storage
from rafttoy.storage.engine import KvEngine
from rafttoy.storage.engine import Store as EngineStore
from rafttoy.storage.etcdwal import EtcdWal
from rafttoy.storage.filewal import FileWal
from rafttoy.storage.kvwal import KvWal
from rafttoy.storage.split import LogStorage
from tests.storage.beds import SimBed, proposals

__all__ = ["KINDS", "Histories", "State", "Tally"]

MakeStorage = Callable[[Ports], Storage]

SEGMENT_BYTES = 32 << 10  # a few groups: histories cross segments all the time


def _file(engine: str) -> MakeStorage:
    def make(ports: Ports) -> Storage:
        wal = FileWal(ports, cache_bytes=0, sync="fdatasync", segment_bytes=SEGMENT_BYTES)
        return LogStorage(ports, wal, KvEngine(ports, EngineStore(ports, engine, f"engine.{engine}")), cache_bytes=0, identity=None)

    return make


def _etcd(ports: Ports) -> Storage:
    wal = EtcdWal(ports, cache_bytes=0, sync="fdatasync", segment_bytes=16_000)
    return LogStorage(ports, wal, KvEngine(ports, EngineStore(ports, "dict", "engine.dict")), cache_bytes=0, identity=None)


def _kv(ports: Ports) -> Storage:
    wal = KvWal(ports, EngineStore(ports, "leveldb", "wal.leveldb"), cache_bytes=0, sync="fdatasync")
    return LogStorage(ports, wal, KvEngine(ports, EngineStore(ports, "dict", "engine.dict")), cache_bytes=0, identity=None)


def _combined(ports: Ports) -> Storage:
    store = EngineStore(ports, "leveldb", "store.leveldb", shared=True)
    wal = KvWal(ports, store, cache_bytes=0, sync="fdatasync")
    return LogStorage(ports, wal, KvEngine(ports, store), cache_bytes=0, identity=None, shared=store)


KINDS: dict[str, tuple[MakeStorage, bool]] = {
    "file+mem": (_file("dict"), True),
    "file+leveldb": (_file("leveldb"), True),
    "etcd+mem": (_etcd, False),
    "leveldb+mem": (_kv, True),
    "leveldb": (_combined, True),
}
"""Kind -> (maker, whether a group is there as a whole or not at all). A store's own log is the simulated one's: RocksDB's is the same."""


@dataclass(frozen=True, slots=True)
class State:
    """A log as a list of (term, encoded entry) behind `before` = (index, term), and its hard state."""

    before: tuple[int, int] = (0, 0)
    entries: tuple[tuple[int, bytes], ...] = ()
    hard_state: HardState = EMPTY_HARD_STATE

    @property
    def last(self) -> int:
        return self.before[0] + len(self.entries)

    def term(self, index: int) -> int:
        return self.before[1] if index == self.before[0] else self.entries[index - self.before[0] - 1][0]

    def appended(self, first: int, added: Sequence[tuple[int, bytes]]) -> State:
        return State(self.before, (*self.entries[: first - self.before[0] - 1], *added), self.hard_state) if added else self

    def with_hard_state(self, hard_state: HardState | None) -> State:
        return self if hard_state is None else State(self.before, self.entries, hard_state)

    def compacted(self, index: int) -> State:
        return State((index, self.term(index)), self.entries[index - self.before[0] :], self.hard_state)


@dataclass(slots=True)
class Tally:
    images: int = 0
    histories: int = 0
    crashed_again: int = 0
    advanced: int = 0  # images that held more than what was acknowledged
    notes: int = 0  # images whose recovery had something to repair
    kinds: dict[str, int] = field(default_factory=dict)  # calls that were crashed in


Steps = list[State]
"""What a call may leave: the states it goes through, the last of which it acknowledges."""


def flatten(batches: Sequence[EntryBatch]) -> list[tuple[int, bytes]]:
    return [(batch.term, bytes(batch.frames[batch.offset(i) : batch.offset(i + 1)])) for batch in batches for i in range(batch.count)]  # type: ignore[index]


class Histories:
    """`images` at each call to the disk; a share of `again` of them is written to and crashed once more."""

    def __init__(self, kind: str, *, images: int = 2, again: float = 0.05) -> None:
        self._make, self._atomic = KINDS[kind]
        self._images = images
        self._again = again
        self.tally = Tally()

    def run(self, seed: int, calls: int = 25) -> None:
        """One history, and every image of it. AssertionError names the seed."""
        self.tally.histories += 1
        try:
            _History(self, seed, calls).run()
        except BaseException as error:
            error.add_note(f"history: seed {seed}, {calls} calls")
            raise

    # --- judging an image ---

    def judge(self, image: SimStore, acknowledged: State, under_way: Sequence[Steps], rng: np.random.Generator, depth: int = 0) -> None:
        self.tally.images += 1
        bed = SimBed(image, seed=0)

        async def look(ports: Ports) -> tuple[State, int]:
            storage = self._make(ports)
            recovered = await storage.open()
            self.tally.notes += bool(recovered.notes)
            state = await read_state(storage, recovered.hard_state)
            assert recovered.applied >= state.before[0], "the log begins behind what is applied"
            if depth == 0 and rng.random() < self._again:
                await self._go_on(storage, ports, bed, state, recovered.applied, rng)
            return state, recovered.applied

        found, applied = bed.run(look)
        allowed = _allowed(acknowledged, under_way, self._atomic)
        assert any(_matches(found, state, applied) for state in allowed), explain(found, allowed)
        if not _matches(found, acknowledged, applied):
            self.tally.advanced += 1

    async def _go_on(self, storage: Storage, ports: Ports, bed: SimBed, state: State, applied: int, rng: np.random.Generator) -> None:
        """Writes to a recovered log, with images of that."""
        self.tally.crashed_again += 1
        for _ in range(int(rng.integers(1, 4))):
            term = max(state.hard_state.term, state.term(state.last)) + 1
            first = int(rng.integers(max(state.before[0], applied, state.last - 3), state.last + 1)) + 1
            batch = draw_batch(rng, first, term)
            hard_state = HardState(term, 1, state.hard_state.commit)
            steps = saved(state, [batch], hard_state)
            pending: list[SimStore] = []
            watch(ports, lambda pending=pending: pending.append(bed.store.crash(RandomChoice(rng), _sector(rng))))
            await storage.save([batch], hard_state, sync=True)
            watch(ports, None)
            for image in pending:
                self.judge(image, state, [steps], rng, depth=1)
            state = steps[-1]
            self.judge(bed.store.crash(RandomChoice(rng), _sector(rng)), state, [], rng, depth=1)


def watch(ports: Any, on_call: Callable[[], None] | None) -> None:
    ports.files.on_call = ports.kv.on_call = on_call


async def read_state(storage: Storage, hard_state: HardState) -> State:
    log = storage.log
    first, last = log.first_index(), log.last_index()
    entries = flatten(await storage.read_log(first, last + 1))
    assert len(entries) == last - first + 1
    return State((first - 1, log.term(first - 1)), tuple(entries), hard_state)


def _matches(found: State, state: State, applied: int) -> bool:
    commit = max(state.hard_state.commit, applied)  # what is applied was committed
    hard_state = HardState(state.hard_state.term, state.hard_state.vote, commit)
    return (found.before, found.entries, found.hard_state) == (state.before, state.entries, hard_state)


def _allowed(acknowledged: State, under_way: Sequence[Steps], atomic: bool) -> list[State]:
    out = [acknowledged]
    for steps in under_way:
        out += steps[-1:] if atomic else steps
    return out


def explain(found: State, allowed: Sequence[State]) -> str:
    def tell(state: State) -> str:
        terms = [term for term, _ in state.entries]
        return f"{state.before} + {len(terms)} entries (terms {terms[:3]}…{terms[-3:]}), {state.hard_state}"

    return f"found {tell(found)}; allowed: " + "; or ".join(map(tell, allowed))


def saved(state: State, batches: Sequence[EntryBatch], hard_state: HardState | None) -> Steps:
    """The states that a save goes through, record by record."""
    entries = flatten(batches)
    steps = [state.appended(batches[0].first, entries[:n]) for n in range(1, len(entries) + 1)] if batches else []
    last = steps[-1] if steps else state
    return [*steps, last.with_hard_state(hard_state)]


def draw_batch(rng: np.random.Generator, first: int, term: int) -> EntryBatch:
    count = int(rng.choice([1, 1, 2, 3, 8, 20]))
    sizes = rng.integers(0, 400, count).tolist() if rng.random() < 0.1 else [int(rng.choice([0, 20, 100, 500, 3000]))] * count
    return proposals(first, [(b"\x01%06d" % (first + i), rng.bytes(size)) for i, size in enumerate(sizes)], term)


def _sector(rng: np.random.Generator) -> int:
    return 512 if rng.random() < 0.7 else 4096


class _History:
    def __init__(self, histories: Histories, seed: int, calls: int) -> None:
        self._histories = histories
        self._rng = np.random.default_rng(seed)
        self._calls = calls
        self._bed = SimBed(seed=seed)
        self._state = State()  # acknowledged
        self._under_way: list[Steps] = []
        self._held: HardState | None = None
        self._applied = 0
        self._call = "open"

    def run(self) -> None:
        left = self._calls
        while left > 0:
            left = self._bed.run(lambda ports, left=left: self._incarnation(ports, left))

    def _image(self) -> None:
        histories, rng = self._histories, self._rng
        kinds = histories.tally.kinds
        kinds[self._call] = kinds.get(self._call, 0) + 1
        for _ in range(histories._images):
            image = self._bed.store.crash(RandomChoice(rng), _sector(rng))
            histories.judge(image, self._state, self._under_way, rng)

    async def _incarnation(self, ports: Ports, left: int) -> int:
        """Calls until one of them is a reopening; how many are left."""
        rng = self._rng
        watch(ports, self._image)
        storage = self._histories._make(ports)
        recovered = await storage.open()
        self._applied = max(recovered.applied, self._state.hard_state.commit)
        if self._applied > recovered.applied:
            await storage.apply(storage.log.entries(recovered.applied + 1, self._applied + 1, 1 << 40))
        calls = (self._append, self._overwrite, self._vote, self._commit, self._many, self._compact, self._install, self._reset)
        weights = np.array([8, 4, 2, 2, 3, 2, 0.5, 0.3])
        while left > 0:
            left -= 1
            if rng.random() < 0.08:
                self._call = "close"
                if self._held is not None:
                    self._under_way = [[self._state.with_hard_state(self._held)]]
                await storage.close()
                self._acknowledge()
                break
            call = calls[int(rng.choice(len(calls), p=weights / weights.sum()))]
            self._call = call.__name__.strip("_")
            await call(storage, ports)
            self._acknowledge()
            self._image()
        watch(ports, None)
        return left

    def _acknowledge(self) -> None:
        for steps in self._under_way:
            self._state = steps[-1]
        self._under_way = []

    def _next_term(self) -> int:
        return max(self._state.hard_state.term, self._state.term(self._state.last))

    async def _save(self, storage: Storage, batches: list[EntryBatch], hard_state: HardState | None) -> None:
        self._under_way = [saved(self._state, batches, hard_state or self._held)]
        self._held = None
        await storage.save(batches, hard_state, sync=True)

    async def _append(self, storage: Storage, ports: Ports) -> None:
        batches, first, term = [], self._state.last + 1, max(1, self._next_term())
        for _ in range(int(self._rng.integers(1, 4))):
            batches.append(draw_batch(self._rng, first, term))
            first = batches[-1].last + 1
        hard_state = HardState(term, 1, self._applied) if self._rng.random() < 0.5 else None
        await self._save(storage, batches, hard_state)

    async def _overwrite(self, storage: Storage, ports: Ports) -> None:
        state, term = self._state, self._next_term() + 1
        first = int(self._rng.integers(max(self._applied, state.before[0]), state.last + 1)) + 1
        await self._save(storage, [draw_batch(self._rng, first, term)], HardState(term, 2, self._applied))

    async def _vote(self, storage: Storage, ports: Ports) -> None:
        await self._save(storage, [], HardState(self._next_term() + 1, int(self._rng.integers(1, 4)), self._applied))

    async def _commit(self, storage: Storage, ports: Ports) -> None:
        state = self._state
        if state.last > self._applied:
            commit = int(self._rng.integers(self._applied, state.last)) + 1
            before = self._held or state.hard_state
            self._held = HardState(max(1, before.term), before.vote, commit)
            await storage.save([], self._held, sync=False)
            await storage.apply(storage.log.entries(self._applied + 1, commit + 1, 1 << 40))
            self._applied = commit

    async def _many(self, storage: Storage, ports: Ports) -> None:
        """Saves at the same time: groups."""
        state, term = self._state, max(1, self._next_term())
        running: list[Any] = []
        under_way: list[Steps] = []
        held, self._held = self._held, None
        for i in range(int(self._rng.integers(2, 6))):
            batch = draw_batch(self._rng, state.last + 1, term)
            hard_state = HardState(term, 1, self._applied) if i % 2 else None
            steps = saved(state, [batch], hard_state or held)
            held = None
            under_way.append(steps)
            running.append((batch, hard_state))
            state = steps[-1]
        self._under_way = under_way
        ended = ports.tasks.future()
        left = len(running)

        async def save(batch: EntryBatch, hard_state: HardState | None, steps: Steps) -> None:
            nonlocal left
            await storage.save([batch], hard_state, sync=True)
            at = next(i for i, each in enumerate(self._under_way) if each is steps)  # those before it were acknowledged with it
            self._state = steps[-1]
            self._under_way = self._under_way[at + 1 :]
            left -= 1
            if not left:
                ended.set_result(None)

        for (batch, hard_state), steps in zip(running, under_way, strict=True):
            ports.tasks.spawn(save(batch, hard_state, steps), "save")
        await ended

    async def _compact(self, storage: Storage, ports: Ports) -> None:
        state = self._state
        if self._applied > state.before[0]:
            index = int(self._rng.integers(state.before[0], self._applied)) + 1
            hard_state = self._held
            self._held = None
            self._under_way = [[state.compacted(index).with_hard_state(hard_state)]]
            await storage.compact(index)

    async def _install(self, storage: Storage, ports: Ports) -> None:
        """A snapshot that is ahead of the log, or conflicts with it."""
        state, term = self._state, self._next_term() + 1
        index = max(self._applied + 1, int(self._rng.integers(state.before[0], state.last + 10)))
        snapshot = Snapshot(b"", SnapshotMetadata(ConfState((1, 2, 3)), index, term))
        hard_state = HardState(term, 1, index)
        known = (self._held or state.hard_state).commit, state.hard_state.commit
        self._held = None
        voted = [state.with_hard_state(HardState(term, 1, commit)) for commit in known]  # of the snapshot nothing is known yet
        self._under_way = [[*voted, State((index, term), (), hard_state)]]
        await storage.install_snapshot(snapshot, hard_state)
        self._applied = index

    async def _reset(self, storage: Storage, ports: Ports) -> None:
        self._held = None
        self._under_way = [[State()]]
        await storage.reset()
        self._applied = 0
