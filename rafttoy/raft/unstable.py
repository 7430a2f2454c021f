"""The end of the log that is not known to be durable: new entries and, perhaps, a snapshot.

    offset                   index of the first entry here
    offset <= in_progress    entries before it were handed out in a Ready and are being written
    snapshot                 received, not yet applied by the application

Entries stay here until their write is attested, so that the core sees one log whatever the storage has done so far. `offset` may
lie below the storage's last index: the next write then overwrites the storage's end.
"""

from __future__ import annotations

from collections.abc import Sequence

from rafttoy.raft.entries import EntryBatch
from rafttoy.raft.runs import cut, position
from rafttoy.raft.types import Snapshot

__all__ = ["Unstable"]


class Unstable:
    __slots__ = ("batches", "in_progress", "offset", "snapshot", "snapshot_in_progress")

    def __init__(self, offset: int) -> None:
        self.offset = offset
        self.in_progress = offset
        self.batches: list[EntryBatch] = []
        self.snapshot: Snapshot | None = None
        self.snapshot_in_progress = False

    @property
    def end(self) -> int:
        """One past the last entry here."""
        return self.batches[-1].last + 1 if self.batches else self.offset

    def term(self, index: int) -> int | None:
        """None if it is not known here."""
        if index >= self.offset:
            batches = self.batches
            if batches and index <= batches[-1].last:
                return batches[position(batches, index)].term
        elif self.snapshot is not None and self.snapshot.index == index:
            return self.snapshot.term
        return None

    # --- handing out ---

    def take(self) -> list[EntryBatch]:
        """The entries not yet being written. Now they are."""
        batches = self.batches
        if not batches:
            return []
        begin, end = self.in_progress, batches[-1].last + 1
        self.in_progress = end
        return batches.copy() if begin == self.offset else cut(batches, begin, end)

    def take_snapshot(self) -> Snapshot | None:
        """The snapshot, unless it is being written. Now it is."""
        if self.snapshot_in_progress:
            return None
        self.snapshot_in_progress = self.snapshot is not None
        return self.snapshot

    # --- attested ---

    def stable_to(self, index: int, term: int) -> bool:
        """The storage holds the log up to `index`, written when its entry there had `term`. False, without effect, if the entry
        here has another term by now, or is gone: the write attests to something since overwritten."""
        batches = self.batches
        if batches and index == batches[-1].last and term == batches[-1].term:  # the end, as mostly
            self.batches = []
        elif not batches or not self.offset <= index <= batches[-1].last or self.term(index) != term:
            return False
        else:
            self.batches = cut(batches, index + 1, batches[-1].last + 1)
        self.offset = index + 1
        self.in_progress = max(self.in_progress, self.offset)
        return True

    def snapshot_stable_to(self, index: int) -> None:
        if self.snapshot is not None and self.snapshot.index == index:
            self.snapshot = None
            self.snapshot_in_progress = False

    # --- receiving ---

    def restore(self, snapshot: Snapshot) -> None:
        """The log is this snapshot and nothing else."""
        self.offset = self.in_progress = snapshot.index + 1
        self.batches = []
        self.snapshot = snapshot
        self.snapshot_in_progress = False

    def append(self, batches: Sequence[EntryBatch]) -> None:
        """Contiguous batches that continue this log or replace its end. What is replaced counts as not being written, even if
        it is: its replacement must be."""
        first, held = batches[0].first, self.batches
        if first == (held[-1].last + 1 if held else self.offset):
            held.extend(batches)
        elif first <= self.offset:
            self.batches = list(batches)
            self.offset = self.in_progress = first
        else:
            self.batches = [*cut(self.batches, self.offset, first), *batches]
            self.in_progress = min(self.in_progress, first)

    def __str__(self) -> str:
        return f"{self.offset}..{self.end - 1}" if self.batches else "none"
