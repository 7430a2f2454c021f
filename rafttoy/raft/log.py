"""One log out of two: the storage's durable part and the unstable end.

    first_index .. offset - 1        in the storage
    offset .. last_index             unstable
    applied <= applying <= committed <= last_index

`applying` is what was handed to the application, `applied` what it said it has done. At most `max_applying_bytes` lie between.
`last_index` and `last_term` are kept here: the storage's end only ever follows ours.
"""

from __future__ import annotations

from collections.abc import Sequence

from rafttoy.raft.entries import EntryBatch, EntryType
from rafttoy.raft.errors import Compacted, Unavailable
from rafttoy.raft.runs import cut, limit, total_size
from rafttoy.raft.storage import Storage
from rafttoy.raft.types import NO_LIMIT, Snapshot
from rafttoy.raft.unstable import Unstable

__all__ = ["RaftLog"]


class RaftLog:
    __slots__ = (
        "applied",
        "applying",
        "applying_bytes",
        "applying_paused",
        "committed",
        "last_index",
        "last_term",
        "max_applying_bytes",
        "storage",
        "unstable",
    )

    def __init__(self, storage: Storage, max_applying_bytes: int = NO_LIMIT) -> None:
        self.storage = storage
        self.last_index = storage.last_index()
        self.last_term = storage.term(self.last_index)
        self.unstable = Unstable(self.last_index + 1)
        # All that was compacted had been committed and applied.
        self.committed = self.applying = self.applied = storage.first_index() - 1
        self.max_applying_bytes = max_applying_bytes
        self.applying_bytes = 0
        self.applying_paused = False

    # --- reading ---

    def first_index(self) -> int:
        snapshot = self.unstable.snapshot
        return snapshot.index + 1 if snapshot is not None else self.storage.first_index()

    def term(self, index: int) -> int:
        """Raises Compacted or Unavailable for an index that is not first_index - 1 <= index <= last_index."""
        if index >= self.last_index:
            if index == self.last_index:
                return self.last_term
            raise Unavailable(f"entry {index} is not in the log, which ends at {self.last_index}")
        term = self.unstable.term(index)
        if term is not None:
            return term
        if self.unstable.snapshot is not None and index < self.unstable.snapshot.index:
            raise Compacted(f"entry {index} is behind the snapshot at {self.unstable.snapshot.index}")
        return self.storage.term(index)

    def term_or_zero(self, index: int) -> int:
        """0 for what was compacted or is not there yet."""
        try:
            return self.term(index)
        except (Compacted, Unavailable):
            return 0

    def matches(self, index: int, term: int) -> bool:
        """Whether the entry at `index` has that term: then the logs agree up to it (log matching, thesis §3.5)."""
        if index == self.last_index:
            return term == self.last_term
        try:
            return self.term(index) == term
        except (Compacted, Unavailable):
            return False

    def is_up_to_date(self, index: int, term: int) -> bool:
        """Whether a log that ends so is at least as up to date as this one (thesis §3.6.1)."""
        return term > self.last_term or (term == self.last_term and index >= self.last_index)

    def entries(self, low: int, max_bytes: int) -> list[EntryBatch]:
        """From `low` to the end, within `max_bytes` but at least one entry; [] past the end. Raises Compacted."""
        return self.slice(low, self.last_index + 1, max_bytes) if low <= self.last_index else []

    def slice(self, low: int, high: int, max_bytes: int) -> list[EntryBatch]:
        """low <= index < high, cut as `entries` does; a list of the caller's own. Raises Compacted."""
        assert low <= high <= self.last_index + 1, (low, high, self.last_index)
        if low == high:
            return []
        unstable = self.unstable
        if low >= unstable.offset:
            return limit(cut(unstable.batches, low, high), max_bytes)
        if unstable.snapshot is not None:
            raise Compacted(f"entry {low} is behind the snapshot at {unstable.snapshot.index}")
        if high <= unstable.offset:
            return self.storage.entries(low, high, max_bytes)
        out = self.storage.entries(low, unstable.offset, max_bytes)
        if not out or out[-1].last + 1 < unstable.offset:
            return out
        room = max_bytes - total_size(out)
        if room <= 0:
            return out
        rest = limit(cut(unstable.batches, unstable.offset, high), room)
        return out if rest[0].size > room else out + rest  # a first entry that does not fit was let in by `limit`

    def find_conflict_by_term(self, index: int, term: int) -> tuple[int, int]:
        """The largest guess <= index whose term here is <= term or not known, and that term (0: not known). (0, 0) if none.

        By log matching it is where a log that has `term` at `index` can at best agree with this one, so a probe skips whole
        terms instead of single entries (thesis §3.5, end; its condition is on the follower, ours works in both directions).
        Terms never decrease along a log, so it is a bisection."""
        if index > self.last_index:
            return index, 0
        low = self.first_index() - 1
        if index < low:
            return index, 0
        if self.term(index) <= term:
            return index, self.term(index)
        if self.term_or_zero(low) > term:
            return (low - 1, 0) if low > 0 else (0, 0)
        high = index  # term(low) <= term < term(high)
        while high - low > 1:
            middle = (low + high) // 2
            if self.term(middle) <= term:
                low = middle
            else:
                high = middle
        return low, self.term_or_zero(low)

    def has_unapplied_conf_change(self) -> bool:
        """Whether a committed configuration change waits to be applied. Reads batches, not entries, in pages."""
        low, high = self.applied + 1, self.committed + 1
        while low < high:
            for batch in (page := self.slice(low, high, self.max_applying_bytes)):
                if batch.type is not EntryType.NORMAL:
                    return True
            low = page[-1].last + 1
        return False

    # --- writing ---

    def append(self, batches: Sequence[EntryBatch]) -> int:
        """Contiguous batches that continue the log or replace its uncommitted end. Returns the last index."""
        if batches:
            assert batches[0].first > self.committed, (batches[0], self.committed)
            self.unstable.append(batches)
            self.last_index, self.last_term = batches[-1].last, batches[-1].term
        return self.last_index

    def maybe_append(self, index: int, term: int, batches: Sequence[EntryBatch], commit: int) -> int | None:
        """A leader's entries behind (index, term), and its commit index: the last index that now matches the leader's log, or
        None if the log does not match there (thesis §3.5). Not to be called for an index before the commit index."""
        if not self.matches(index, term):
            return None
        last_new = batches[-1].last if batches else index
        if index == self.last_index:
            if batches:
                self.append(batches)
        elif batches:
            conflict = self.find_conflict(batches)
            if conflict:
                self.append(cut(batches, conflict, last_new + 1))
        self.committed = max(self.committed, min(commit, last_new))
        return last_new

    def find_conflict(self, batches: Sequence[EntryBatch]) -> int:
        """The first index whose entry here is another one or missing; 0 if all are here. Per batch: terms never decrease, so if
        the first entry of a batch has its term here, those that do are a prefix."""
        for batch in batches:
            if not self.matches(batch.first, batch.term):
                return batch.first
            top = min(batch.last, self.last_index)
            if self.term(top) != batch.term:
                low = batch.first  # the last known to match
                while top - low > 1:
                    middle = (low + top) // 2
                    if self.term(middle) == batch.term:
                        low = middle
                    else:
                        top = middle
                return top
            if top < batch.last:
                return top + 1
        return 0

    def snapshot(self) -> Snapshot:
        """The newest. Raises SnapshotTemporarilyUnavailable."""
        return self.unstable.snapshot or self.storage.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """The log is this snapshot and nothing else."""
        self.committed = snapshot.index
        self.unstable.restore(snapshot)
        self.last_index, self.last_term = snapshot.index, snapshot.term

    # --- marks ---

    def commit_to(self, index: int) -> None:
        """Never backwards."""
        if index > self.committed:
            assert index <= self.last_index, (index, self.last_index)
            self.committed = index

    def maybe_commit(self, index: int, term: int) -> bool:
        """Commits up to `index` if its entry is of `term`, the leader's own: older terms are committed only along with it, never
        by counting (thesis §3.6.2)."""
        if index > self.committed and term and self.matches(index, term):
            self.commit_to(index)
            return True
        return False

    def applied_to(self, index: int, nbytes: int) -> None:
        """The application has applied up to `index`, of which `nbytes` were outstanding."""
        assert self.applied <= index <= self.committed, (self.applied, index, self.committed)
        self.applied = index
        self.applying = max(self.applying, index)
        self.applying_bytes = max(0, self.applying_bytes - nbytes)
        self.applying_paused = self.applying_bytes >= self.max_applying_bytes

    def appliable_to(self, allow_unstable: bool) -> int:
        """Entries may be applied once committed; with asynchronous writes also only once durable here."""
        return self.committed if allow_unstable else min(self.committed, self.unstable.offset - 1)

    def has_next_committed(self, allow_unstable: bool) -> bool:
        """A snapshot is applied first, alone."""
        return self.applying < self.appliable_to(allow_unstable) and not self.applying_paused and self.unstable.snapshot is None

    def take_committed(self, allow_unstable: bool) -> list[EntryBatch]:
        """What `has_next_committed` tells of; it counts as handed to the application. Paused once the limit is reached, or if it cut
        this short already."""
        upto = self.committed if allow_unstable else self.appliable_to(allow_unstable)
        if self.applying >= upto or self.applying_paused or self.unstable.snapshot is not None:
            return []
        outstanding, most = self.applying_bytes, self.max_applying_bytes
        batches = self.slice(self.applying + 1, upto + 1, most - outstanding)
        last = self.applying = batches[-1].last
        outstanding = self.applying_bytes = outstanding + total_size(batches)
        self.applying_paused = last < upto or outstanding >= most
        return batches

    def __str__(self) -> str:
        last = f"last={self.last_term}/{self.last_index}"
        return f"committed={self.committed} applying={self.applying} applied={self.applied} unstable={self.unstable} {last}"
