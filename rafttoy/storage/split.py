"""A storage of a log and an engine: group commit, the entry cache, compaction and recovery, once for all kinds."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence

from rafttoy.errors import StorageError
from rafttoy.ports import DONE, Ports
from rafttoy.raft.entries import EntryBatch
from rafttoy.raft.types import EMPTY_HARD_STATE, ConfState, HardState, Snapshot, SnapshotMetadata
from rafttoy.storage.api import SNAPSHOT_LIMIT_BYTES, Engine, Recovered, Save, Wal
from rafttoy.storage.engine import Store
from rafttoy.storage.group import GroupCommit
from rafttoy.storage.identity import Identity, begin_erasing, end_erasing, finish_erasing
from rafttoy.storage.log import Log
from rafttoy.storage.snapfile import SnapshotFiles

__all__ = ["LogStorage"]


class LogStorage:
    """`shared` is the one store of a combined storage, emptied once for both its users. Without `identity` the directory is taken as
    it is (a test, a scratch directory made for one run)."""

    def __init__(
        self, ports: Ports, wal: Wal, engine: Engine, *, cache_bytes: int, identity: Identity | None, shared: Store | None = None
    ) -> None:
        self._ports = ports
        self._wal = wal
        self._engine = engine
        self._shared = shared
        self._identity = identity
        self._snapshots = SnapshotFiles(ports.files)
        self.durable = wal.durable
        # A log in memory gives its pages back to be used again. One on disk costs syncs to cut, and, where the engine forgets
        # everything, a snapshot of all its content.
        self.retain = 1 if not wal.durable else 4 if engine.durable else 64
        self.log = Log(cache_bytes if wal.durable else 0)
        self._groups = GroupCommit(ports.tasks, self._begin, self._written)
        self._instant = wal.instant
        self._conf_state: ConfState | None = None
        self._applied = 0
        self._held: HardState | None = None  # not to be synced, so not worth a write of its own
        self._loads = 0
        self._opened: Recovered | None = None

    # --- opening ---

    async def open(self) -> Recovered:
        """Once opened (and perhaps reset since), it tells again what it holds."""
        if self._opened is None:
            self._opened = await self._open()
        return self._opened

    async def _open(self) -> Recovered:
        files = self._ports.files
        if self._identity is not None:
            await self._identity.claim(self._ports)
        elif self.durable or self._engine.durable:
            await files.lock()
        if self.durable:
            await finish_erasing(self._ports)
        if not self.durable:
            await self._engine.open()
            await self._engine.reset()
            return Recovered(EMPTY_HARD_STATE, None, None, 0, True)
        state = await self._wal.open()
        applied, conf_state = await self._engine.open()
        mark = state.mark
        self.log.restore(state.hard_state, mark, state.batches)
        begin = mark.index if mark is not None else 0
        if not self._engine.durable or applied < begin:
            snapshot = await self._snapshots.newest(self.log.holds)
            if snapshot is not None and snapshot.index > applied:
                applied, conf_state = snapshot.index, snapshot.metadata.conf_state
                await self._engine.restore(snapshot.data, applied, conf_state)
            if applied < begin:
                raise StorageError(f"{files.root}: the log begins behind entry {begin}, and there is no snapshot of what came before")
        if conf_state is None and mark is not None:
            conf_state = mark.conf_state
        if applied > self.log.last_index():
            raise StorageError(
                f"{files.root}: the engine has applied entry {applied}, the log ends with entry {self.log.last_index()}: entries were lost"
            )
        hard_state = state.hard_state
        if hard_state.commit < applied:  # it may be lost in a crash; what is applied was committed
            hard_state = HardState(hard_state.term, hard_state.vote, applied)
            self.log.set_hard_state(hard_state)
        if conf_state is not None:
            self.log.set_conf_state(conf_state)
        self._applied, self._conf_state = applied, conf_state
        fresh = hard_state == EMPTY_HARD_STATE and self.log.last_index() == 0 and conf_state is None
        before = Snapshot(b"", mark) if mark is not None and mark.index else None
        return Recovered(hard_state, conf_state, before, applied, fresh, tuple(state.notes))

    # --- the log ---

    def save(self, entries: Sequence[EntryBatch], hard_state: HardState | None, *, sync: bool, here: bool = False) -> Awaitable[None]:
        if self._instant:
            if entries:
                self.log.append(entries)
            if hard_state is not None:
                self.log.set_hard_state(hard_state)
            return DONE
        if not entries and not sync:
            if hard_state is not None:
                self._held = hard_state
                self.log.set_hard_state(hard_state)
            return DONE
        if hard_state is None:
            hard_state = self._held
        self._held = None
        return self._groups.save(Save(entries, hard_state, here=here), sync=sync)

    async def _begin(self, saves: Sequence[Save], sync: bool) -> Awaitable[None]:
        return await self._wal.begin(saves, sync=sync)

    def _written(self, saves: Sequence[Save]) -> None:
        log = self.log
        for save in saves:
            log.append(save.entries)
            if save.hard_state is not None and self._held is None:
                log.set_hard_state(save.hard_state)

    async def load(self, batches: Sequence[EntryBatch]) -> Sequence[EntryBatch]:
        for batch in batches:
            if batch.frames is None:
                break
        else:
            return batches
        out = []
        for batch in batches:
            if batch.frames is None:
                self._loads += 1
                batch = await self._wal.read(batch)  # noqa: PLW2901
            out.append(batch)
        return out

    async def read_log(self, low: int, high: int) -> Sequence[EntryBatch]:
        return await self.load(self.log.entries(low, high, 1 << 62)) if low < high else []

    # --- the engine ---

    async def apply(self, batches: Sequence[EntryBatch]) -> None:
        if batches:
            await self._engine.apply(batches)
            self._applied = batches[-1].last

    def skip(self, batches: Sequence[EntryBatch]) -> None:
        if batches and not self.durable:
            self._applied = batches[-1].last

    async def set_conf_state(self, conf_state: ConfState, index: int) -> None:
        self._conf_state = conf_state
        self.log.set_conf_state(conf_state)
        if index == 0 and self.durable:
            await self._mark(SnapshotMetadata(conf_state, 0, 0), None)
        await self._engine.set_conf_state(conf_state, index)
        self._applied = max(self._applied, index)

    async def digest(self) -> str:
        return await self._engine.digest()

    # --- snapshots and compaction ---

    async def _mark(self, mark: SnapshotMetadata, hard_state: HardState | None) -> None:
        self._held = None
        await self._groups.save(Save((), hard_state or self.log.hard_state, mark), sync=True)

    def _metadata(self, index: int) -> SnapshotMetadata:
        return SnapshotMetadata(self._conf_state or ConfState(), index, self.log.term(index))

    async def create_snapshot(self) -> Snapshot | None:
        snapshot = await self._snapshot(SNAPSHOT_LIMIT_BYTES)
        if snapshot is not None:
            self.log.set_snapshot(snapshot)
        return snapshot

    async def _snapshot(self, limit_bytes: int | None) -> Snapshot | None:
        metadata = self._metadata(self._applied)
        data = await self._engine.dump(limit_bytes)
        return None if data is None else Snapshot(data, metadata)

    async def install_snapshot(self, snapshot: Snapshot, hard_state: HardState | None) -> None:
        if self.durable:
            await self._snapshots.save(snapshot)
            await self._mark(snapshot.metadata, hard_state)
        await self._engine.restore(snapshot.data, snapshot.index, snapshot.metadata.conf_state)
        self.log.apply_snapshot(snapshot)
        if hard_state is not None:
            self.log.set_hard_state(hard_state)
        self._applied, self._conf_state = snapshot.index, snapshot.metadata.conf_state
        await self._wal.release(snapshot.index)
        if self.durable:
            await self._snapshots.keep(None if self._engine.durable else snapshot)

    async def compact(self, index: int) -> None:
        assert index <= self._applied, (index, self._applied)
        if index < self.log.first_index():
            return
        metadata = self._metadata(index)
        snapshot = None
        if self.durable:
            if self._engine.durable:
                await self._engine.sync()
            else:  # what is dropped from the log lives on in a snapshot
                snapshot = await self._snapshot(None)
                assert snapshot is not None, "without a limit there is one"
                await self._snapshots.save(snapshot)
                if len(snapshot.data) <= SNAPSHOT_LIMIT_BYTES:
                    self.log.set_snapshot(snapshot)
            await self._mark(metadata, None)
        await self._wal.release(index)
        self.log.compact(index)
        if self.durable:
            await self._snapshots.keep(snapshot)

    def compactable(self, retain_bytes: int) -> int:
        surplus = self.log.total_bytes - retain_bytes
        return min(self._applied, self.log.index_at_bytes(surplus)) if surplus > 0 else 0

    # --- the whole ---

    async def reset(self) -> None:
        self._groups.restart()
        if self.durable:
            await begin_erasing(self._ports.files)
        if self._shared is not None:
            await self._shared.clear()
        await self._wal.reset()
        await self._engine.reset()
        if self.durable:
            await self._snapshots.keep(None)
            await end_erasing(self._ports.files)
        self.log.clear()
        self._applied, self._conf_state, self._held = 0, None, None
        self._opened = Recovered(EMPTY_HARD_STATE, None, None, 0, True)

    def counters(self) -> dict[str, int]:
        return {
            **self._wal.counters(),
            "wal_groups": self._groups.groups,
            "wal_saves": self._groups.saves,
            "cache_evictions": self.log.evictions,
            "cache_loads": self._loads,
            "log_bytes": self.log.total_bytes,
        }

    async def close(self) -> None:
        """What was held back is written first; a storage that failed is closed as it is."""
        if self._held is not None and self._groups.healthy:
            await self.save((), None, sync=True)
        await self._wal.close()
        await self._engine.close()
