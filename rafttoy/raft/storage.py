"""Where the core reads what the application made durable, and an implementation in memory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from rafttoy.raft.entries import EntryBatch
from rafttoy.raft.errors import Compacted, SnapshotOutOfDate, Unavailable
from rafttoy.raft.runs import cut, limit, position
from rafttoy.raft.types import EMPTY_HARD_STATE, ConfState, HardState, Snapshot, SnapshotMetadata

__all__ = ["MemoryStorage", "Storage"]


class Storage(Protocol):
    """What the core asks; answered without waiting. It sees what the application saved of past `Ready`s, in order.

    The log reaches from `first_index` to `last_index`; the term of the entry before the first is known too (that of the snapshot
    or compaction), so that an append right behind it can be matched.
    """

    def initial_state(self) -> tuple[HardState, ConfState]:
        """As of the last restart. The members are those of the last snapshot or applied change the application saved."""

    def entries(self, low: int, high: int, max_bytes: int) -> list[EntryBatch]:
        """low <= index < high, cut after at most `max_bytes` encoded bytes but at least one entry. The caller owns the list.
        A batch's `frames` may be None: whoever evicted them knows how to read them again. Raises Compacted or Unavailable."""

    def term(self, index: int) -> int:
        """For first_index - 1 <= index <= last_index. Raises Compacted or Unavailable otherwise."""

    def last_index(self) -> int: ...

    def first_index(self) -> int: ...

    def snapshot(self) -> Snapshot:
        """The newest one. Raises SnapshotTemporarilyUnavailable while it is being made."""


class MemoryStorage:
    """A `Storage` that keeps batches in a list. Reads no batch's `frames`, so their owner may evict them."""

    def __init__(self) -> None:
        self._hard_state = EMPTY_HARD_STATE
        self._snapshot = Snapshot()
        self._batches: list[EntryBatch] = []
        self._before = (0, 0)  # (index, term) of the entry before the first

    # --- Storage ---

    def initial_state(self) -> tuple[HardState, ConfState]:
        return self._hard_state, self._snapshot.metadata.conf_state

    def entries(self, low: int, high: int, max_bytes: int) -> list[EntryBatch]:
        if self._batches:
            newest = self._batches[-1]
            if low == newest.first and high == newest.last + 1 and newest.size <= max_bytes:  # by far the most asked for
                return [newest]
        if low <= self._before[0]:
            raise Compacted(f"entry {low} was compacted: the log begins at {self.first_index()}")
        if high > self.last_index() + 1 or low >= high:
            raise Unavailable(f"entries {low}..{high - 1} are not in the log, which ends at {self.last_index()}")
        return limit(cut(self._batches, low, high), max_bytes)

    def term(self, index: int) -> int:
        batches = self._batches
        if batches:
            last = batches[-1]
            if last.first <= index <= last.last:
                return last.term
        before, term = self._before
        if index <= before:
            if index < before:
                raise Compacted(f"entry {index} was compacted: the log begins at {before + 1}")
            return term
        if index > self.last_index():
            raise Unavailable(f"entry {index} is not in the log, which ends at {self.last_index()}")
        return batches[position(batches, index)].term

    def last_index(self) -> int:
        return self._batches[-1].last if self._batches else self._before[0]

    def first_index(self) -> int:
        return self._before[0] + 1

    def snapshot(self) -> Snapshot:
        return self._snapshot

    # --- what the application saves ---

    @property
    def batches(self) -> Sequence[EntryBatch]:
        """The log, in order. Not to be changed."""
        return self._batches

    @property
    def hard_state(self) -> HardState:
        return self._hard_state

    def set_hard_state(self, state: HardState) -> None:
        self._hard_state = state

    def append(self, batches: Sequence[EntryBatch]) -> None:
        """Contiguous batches that continue the log or overwrite its end (a conflict with a newer leader's log); what lies before
        the first index is skipped. Unavailable if they would leave a gap."""
        if not batches:
            return
        log, first = self._batches, batches[0].first
        last = log[-1].last if log else self._before[0]
        if first <= last:
            before = self._before[0]
            if batches[-1].last <= before:
                return
            if first <= before:
                first = before + 1
                batches = cut(batches, first, batches[-1].last + 1)
            self._truncate(first)
        elif first > last + 1:
            raise Unavailable(f"an append at {first} would leave a gap: the log ends at {last}")
        log.extend(batches)

    def _truncate(self, first: int) -> None:
        """Drops entries from `first` on."""
        log = self._batches
        if not log or first > log[-1].last:
            return
        at = position(log, first)
        kept = [log[at].slice(log[at].first, first)] if log[at].first < first else []
        log[at:] = kept

    def compact(self, index: int) -> None:
        """Forgets entries up to and with `index`, which the application has applied. Compacted if that is done already,
        Unavailable if the log does not reach so far."""
        if index <= self._before[0]:
            raise Compacted(f"the log already begins at {self.first_index()}")
        term = self.term(index)
        self._batches = cut(self._batches, index + 1, self.last_index() + 1)
        self._before = (index, term)

    def create_snapshot(self, index: int, conf_state: ConfState | None, data: bytes) -> Snapshot:
        """Of the state at `index`, with the members as of then (None: as in the last snapshot). SnapshotOutOfDate if there is one
        as new."""
        if index <= self._snapshot.index:
            raise SnapshotOutOfDate(f"there is a snapshot at {self._snapshot.index}")
        members = conf_state if conf_state is not None else self._snapshot.metadata.conf_state
        self._snapshot = Snapshot(data, SnapshotMetadata(members, index, self.term(index)))
        return self._snapshot

    def apply_snapshot(self, snapshot: Snapshot) -> None:
        """Takes the place of everything held. SnapshotOutOfDate if there is one as new."""
        if self._snapshot.index and snapshot.index <= self._snapshot.index:
            raise SnapshotOutOfDate(f"there is a snapshot at {self._snapshot.index}")
        self._snapshot = snapshot
        self._batches = []
        self._before = (snapshot.index, snapshot.term)
