"""The log in memory: metadata of every entry, and the frames of the newest ones, bounded in bytes.

This is the entry cache. What is evicted is replaced by a twin without frames, so that whoever still holds the batch (a message under
way, an apply that waits) keeps its bytes, and nobody else pays for them.
"""

from __future__ import annotations

from collections.abc import Sequence

from rafttoy.raft.entries import EntryBatch
from rafttoy.raft.errors import SnapshotTemporarilyUnavailable
from rafttoy.raft.runs import position
from rafttoy.raft.storage import MemoryStorage
from rafttoy.raft.types import EMPTY_HARD_STATE, ConfState, HardState, Snapshot, SnapshotMetadata

__all__ = ["Log", "evicted"]


def evicted(batch: EntryBatch) -> EntryBatch:
    """`batch` without its frames."""
    return batch.with_frames(None)


class Log(MemoryStorage):
    """At most `cache_bytes` of frames (or the newest batch alone, if it is larger); 0: no bound."""

    def __init__(self, cache_bytes: int) -> None:
        super().__init__()
        self._cache_bytes = cache_bytes
        self._resident_bytes = 0
        self._total_bytes = 0
        self._evicted = 0  # batches before this position have no frames
        self._conf_state = ConfState()
        self._has_content = False
        self.snapshot_wanted = False
        self.evictions = 0

    @property
    def total_bytes(self) -> int:
        """Of all entries, encoded, resident or not."""
        return self._total_bytes

    @property
    def resident_bytes(self) -> int:
        return self._resident_bytes

    def append(self, batches: Sequence[EntryBatch]) -> None:
        log = self._batches
        if log and len(batches) == 1 and batches[0].first == log[-1].last + 1:  # by far the most
            size = batches[0].size
            log.append(batches[0])
            self._resident_bytes += size
            self._total_bytes += size
            if self._cache_bytes and self._resident_bytes > self._cache_bytes:
                self._evict()
            return
        before = len(log)
        overwrites = bool(log and batches and batches[0].first <= log[-1].last) or bool(batches and batches[0].first <= self._before[0])
        super().append(batches)
        if overwrites:
            self._recount()
        else:
            added = 0
            for batch in log[before:]:
                added += batch.size
            self._resident_bytes += added
            self._total_bytes += added
        if self._cache_bytes and self._resident_bytes > self._cache_bytes:
            self._evict()

    def _evict(self) -> None:
        log, at = self._batches, self._evicted
        while self._resident_bytes > self._cache_bytes and at < len(log) - 1:
            batch = log[at]
            if batch.frames is not None:
                log[at] = evicted(batch)
                self._resident_bytes -= batch.size
                self.evictions += 1
            at += 1
        self._evicted = at

    def _recount(self) -> None:
        """After entries were removed (rare): from the batches themselves."""
        log = self._batches
        self._total_bytes = sum(batch.size for batch in log)
        self._resident_bytes = sum(batch.size for batch in log if batch.frames is not None)
        self._evicted = next((i for i, batch in enumerate(log) if batch.frames is not None), len(log))

    def compact(self, index: int) -> None:
        super().compact(index)
        self._recount()
        if self._has_content and self._snapshot.index < index:  # the log no longer reaches on from there
            self._snapshot = Snapshot(b"", self._snapshot.metadata)
            self._has_content = False

    # --- members and snapshots ---

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._hard_state, self._conf_state

    def set_conf_state(self, conf_state: ConfState) -> None:
        """What `initial_state` tells of the members."""
        self._conf_state = conf_state

    def snapshot(self) -> Snapshot:
        """The newest one with its content. While there is none, or only what it stood for is known (after a restart), it has to be
        made: `snapshot_wanted` tells that somebody asked."""
        if not self._has_content:
            self.snapshot_wanted = True
            raise SnapshotTemporarilyUnavailable("a snapshot has to be made first")
        return self._snapshot

    def set_snapshot(self, snapshot: Snapshot) -> None:
        """The newest snapshot, of a state that the log has reached; the log stays."""
        self._snapshot = snapshot
        self._has_content = True
        self.snapshot_wanted = False

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        super().apply_snapshot(snapshot)
        self.set_snapshot(snapshot)
        self._conf_state = snapshot.metadata.conf_state
        self._recount()

    # --- the whole ---

    def restore(self, hard_state: HardState, mark: SnapshotMetadata | None, batches: Sequence[EntryBatch]) -> None:
        """What was found when the log was opened."""
        self.clear()
        self._hard_state = hard_state
        if mark is not None:
            self._snapshot = Snapshot(b"", mark)
            self._before = (mark.index, mark.term)
        self._batches = list(batches)
        self._recount()

    def clear(self) -> None:
        """Empty, as new."""
        self._hard_state = EMPTY_HARD_STATE
        self._conf_state = ConfState()
        self._snapshot = Snapshot()
        self._has_content = False
        self.snapshot_wanted = False
        self._batches = []
        self._before = (0, 0)
        self._recount()

    def index_at_bytes(self, nbytes: int) -> int:
        """The last index of the oldest batches that hold `nbytes` together, or 0."""
        index = 0
        for batch in self._batches:
            nbytes -= batch.size
            if nbytes < 0:
                break
            index = batch.last
        return index

    def holds(self, index: int, term: int) -> bool:
        """Whether the log has that very entry (or began right behind it)."""
        if self._before == (index, term):
            return True
        log = self._batches
        return bool(log) and log[0].first <= index <= log[-1].last and log[position(log, index)].term == term
