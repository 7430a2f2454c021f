"""Reading a log back: later entries overwrite, hard states and marks replace, and memory stays bounded."""

from __future__ import annotations

from collections.abc import Sequence

from rafttoy.raft.entries import EntryBatch
from rafttoy.raft.types import EMPTY_HARD_STATE, SnapshotMetadata
from rafttoy.storage.api import WalState
from rafttoy.storage.log import Log

__all__ = ["Gap", "Replay"]


class Gap(Exception):
    """Entries are missing: the reader knows which file to blame."""


class Replay:
    """Takes what a log holds, in the order it was written. Frames beyond `cache_bytes` are dropped again (0: none are)."""

    def __init__(self, cache_bytes: int) -> None:
        self._log = Log(cache_bytes)
        self.hard_state = EMPTY_HARD_STATE
        self.mark: SnapshotMetadata | None = None

    @property
    def next(self) -> int:
        """The index that would continue the log."""
        return self._log.last_index() + 1

    @property
    def empty(self) -> bool:
        return not self._log.batches

    def restart(self) -> None:
        """The log was emptied here."""
        self._log.clear()
        self.hard_state = EMPTY_HARD_STATE
        self.mark = None

    def add(self, batches: Sequence[EntryBatch]) -> None:
        """Entries that do not follow begin the log anew: what lies between was released, and a later mark stands for it; or it did
        not exist any more when the log was cut short. `finish` finds out."""
        if not batches:
            return
        log, first = self._log, batches[0].first
        if first > log.last_index() + 1:
            log.restore(EMPTY_HARD_STATE, SnapshotMetadata(index=first - 1), ())
        log.append(batches)

    def add_mark(self, mark: SnapshotMetadata) -> None:
        """The log begins behind `mark`; where it does not hold the mark's entry, nothing of it counts. That entry may be in a segment
        that was released since: then the next one tells, for terms never decrease along a log."""
        self.mark = mark
        log, index = self._log, mark.index
        if index > log.last_index():
            lacks = True
        elif index >= log.first_index():
            lacks = not log.holds(index, mark.term)
        else:
            lacks = log.first_index() <= index + 1 <= log.last_index() and log.term(index + 1) < mark.term
        if lacks:
            log.restore(EMPTY_HARD_STATE, mark, ())

    def finish(self, notes: list[str]) -> WalState:
        """Raises Gap if the log does not reach back to its mark (or to index 1)."""
        log, mark = self._log, self.mark
        begin = mark.index if mark is not None else 0
        if log.first_index() > begin + 1:
            raise Gap(f"entries {begin + 1}..{log.first_index() - 1} are missing")
        if begin >= log.first_index():
            log.compact(begin)
        return WalState(self.hard_state, mark, list(log.batches), notes)
