"""The machines of the random cluster: a disk that can lose what was not synced, and a process that can stop at any time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rafttoy.raft import (
    Config,
    ConfState,
    EntryBatch,
    EntryType,
    HardState,
    MemoryStorage,
    Message,
    RawNode,
    Snapshot,
    SnapshotMetadata,
    StateRole,
    decode_conf_change,
)
from tests.raft.invariants import Invariants

__all__ = ["Crash", "Host", "World"]


class Crash(Exception):
    """The machine stops here."""


class World(Protocol):
    """What a host is told by the cluster it stands in."""

    voters: tuple[int, ...]
    invariants: Invariants

    def config(self, host: Host) -> Config: ...

    def note(self, *what: int) -> None: ...


class Disk(MemoryStorage):
    """What a host has saved; it makes a snapshot of the application's present state whenever one is wanted."""

    def __init__(self, host: Host) -> None:
        super().__init__()
        self.host = host

    @property
    def saved_snapshot(self) -> Snapshot:
        return super().snapshot()

    def snapshot(self) -> Snapshot:
        saved, applied = super().snapshot(), self.host.applied
        if applied <= saved.index or applied > self.last_index():
            return saved
        return Snapshot(b"", SnapshotMetadata(self.host.members, applied, self.term(applied)))


class Host:
    """One machine: its disk, and the process on it while it runs.

    A commit index that was saved without a sync is lost in a crash (`synced`).
    """

    def __init__(self, id: int, cluster: World) -> None:
        self.id, self.cluster = id, cluster
        self.disk = Disk(self)
        self.synced = HardState()
        self.node: RawNode | None = None
        self.applied = 0
        self.members = ConfState()
        self.appends: list[Message] = []
        self.applies: list[Message] = []
        # Last seen, for what may not go back and what is new:
        self.commit = 0
        self.role = StateRole.FOLLOWER

    def start(self) -> RawNode:
        snapshot = self.disk.saved_snapshot
        self.applied, self.members = snapshot.index, snapshot.metadata.conf_state
        self.node = RawNode(self.cluster.config(self))
        if self.disk.last_index() == 0 and self.id in self.cluster.voters:
            self.node.bootstrap(self.cluster.voters)
        self.commit, self.role = self.node.commit, self.node.role
        return self.node

    def crash(self) -> None:
        self.node = None
        self.role = StateRole.FOLLOWER
        self.appends, self.applies = [], []
        self.disk.set_hard_state(self.synced)

    # --- disk ---

    def save(self, state: HardState | None, snapshot: Snapshot | None, entries: Sequence[EntryBatch], *, sync: bool) -> None:
        if snapshot is not None:
            self.disk.apply_snapshot(snapshot)
            self.applied, self.members = snapshot.index, snapshot.metadata.conf_state
            self.cluster.invariants.snapshot_saved(snapshot)
        if entries:
            self.cluster.invariants.entries_saved(self, entries)
            self.disk.append(entries)
        if state is not None:
            self.disk.set_hard_state(state)
        if sync or snapshot is not None:  # with it, what was written before
            self.synced = self.disk.hard_state

    def apply(self, batches: Sequence[EntryBatch]) -> None:
        assert self.node is not None
        for batch in batches:
            self.cluster.invariants.entries_applied(self, batch)
            if batch.type is not EntryType.NORMAL:
                for index, data in enumerate(batch.payloads(), batch.first):
                    self.members = self.node.apply_conf_change(decode_conf_change(batch.type, data))
                    self.cluster.note(7, self.id, index)
            self.applied = batch.last

    def compact(self, keep: int) -> None:
        """A snapshot of what is applied, and the log before it forgotten but for `keep` entries. Needs the commit index on the disk."""
        assert self.node is not None
        disk = self.disk
        if self.applied <= disk.saved_snapshot.index or self.appends or self.applied > disk.last_index():
            return
        state = HardState(disk.hard_state.term, disk.hard_state.vote, max(disk.hard_state.commit, self.applied))
        disk.set_hard_state(state)
        self.synced = state
        disk.create_snapshot(self.applied, self.members, b"")
        if self.applied - keep >= disk.first_index():
            disk.compact(self.applied - keep)
