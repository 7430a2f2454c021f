"""The log, its two parts and its helpers, against a log that is a list of entries and walks over them one by one."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rafttoy.raft import (
    NO_LIMIT,
    Compacted,
    EntryBatch,
    EntryType,
    HardState,
    MemoryStorage,
    Payloads,
    Snapshot,
    SnapshotMetadata,
    SnapshotOutOfDate,
    Unavailable,
)
from rafttoy.raft.entries import entry_sizes
from rafttoy.raft.log import RaftLog
from rafttoy.raft.runs import cut, limit, total_count, total_payload, total_size


def data_of(term: int, index: int) -> bytes:
    """Every entry has a content of its own, of 0 to 6 bytes."""
    return (b"%d/%d" % (term, index))[: (term * 5 + index * 3) % 7]


def size_of(term: int, index: int) -> int:
    return entry_sizes(term, index, len(data_of(term, index)))[1]


def batches_of(first: int, terms: list[int], cuts: set[int] = frozenset()) -> list[EntryBatch]:  # type: ignore[assignment]
    """Entries of those terms from `first` on; a new batch with every new term, and where `cuts` wants one."""
    out: list[EntryBatch] = []
    start = 0
    for i in range(1, len(terms) + 1):
        if i == len(terms) or terms[i] != terms[start] or i in cuts:
            data = [data_of(terms[start], first + k) for k in range(start, i)]
            out.append(EntryBatch.encode(first + start, terms[start], EntryType.NORMAL, Payloads.of(data)))
            start = i
    return out


def flat(batches: list[EntryBatch]) -> list[tuple[int, int, bytes]]:
    return [(batch.term, batch.first + i, data) for batch in batches for i, data in enumerate(batch.payloads())]


def entries(first: int, terms: list[int]) -> list[tuple[int, int, bytes]]:
    return [(term, index, data_of(term, index)) for index, term in enumerate(terms, first)]


growing = st.lists(st.integers(0, 2), min_size=1, max_size=12)
"""Steps between the terms of successive entries."""
some_cuts = st.sets(st.integers(1, 11))


def terms_from(start: int, steps: list[int]) -> list[int]:
    out, term = [], start
    for step in steps:
        term += step
        out.append(term)
    return out


# --- helpers ---


@given(growing, some_cuts, st.data())
def test_cut_and_limit(steps: list[int], cuts: set[int], draw: st.DataObject) -> None:
    terms = terms_from(1, steps)
    batches = batches_of(5, terms, cuts)
    whole = entries(5, terms)
    low = draw.draw(st.integers(5, 5 + len(terms)))
    high = draw.draw(st.integers(low, 5 + len(terms)))
    piece = cut(batches, low, high)
    assert flat(piece) == [entry for entry in whole if low <= entry[1] < high]
    assert (total_count(piece), total_payload(piece)) == (high - low, sum(len(data) for _, _, data in flat(piece)))
    assert total_size(piece) == sum(size_of(term, index) for term, index, _ in flat(piece))

    max_bytes = draw.draw(st.integers(0, 150))
    limited = flat(limit(list(batches), max_bytes))
    fitting, size = 0, 0
    for term, index, _ in whole:
        size += size_of(term, index)
        if size > max_bytes:
            break
        fitting += 1
    assert limited == whole[: max(1, fitting)]


# --- storage ---


class StorageModel:
    """Entries one by one behind `before`."""

    def __init__(self) -> None:
        self.before = (0, 0)
        self.terms: list[int] = []

    @property
    def last(self) -> int:
        return self.before[0] + len(self.terms)

    def append(self, first: int, terms: list[int]) -> None:
        for index, term in enumerate(terms, first):
            if index > self.before[0]:
                self.terms[index - self.before[0] - 1 :] = [term]


@given(st.lists(st.tuples(st.sampled_from(("append", "compact", "evict")), st.integers(0, 20), growing, some_cuts), max_size=14))
def test_memory_storage(script: list[tuple[str, int, list[int], set[int]]]) -> None:
    storage, model, term, evicted = MemoryStorage(), StorageModel(), 1, 0
    for name, number, steps, cuts in script:
        if name == "append":
            first = max(1, model.last + 1 - number % 8)
            start = max(term, model.terms[-1] if model.terms else 1) + 1
            terms = terms_from(start, steps)
            storage.append(batches_of(first, terms, cuts))
            model.append(first, terms)
            term = terms[-1]
        elif name == "evict":
            for batch in storage.batches[: number % 3]:
                batch.frames = None
            evicted = max([evicted, *(batch.last for batch in storage.batches if batch.frames is None)])
        else:
            index = model.before[0] + number
            if number == 0:
                with pytest.raises(Compacted):
                    storage.compact(index)
            elif index > model.last:
                with pytest.raises(Unavailable):
                    storage.compact(index)
            else:
                storage.compact(index)
                model.before = (index, model.terms[number - 1])
                del model.terms[:number]
        before, last = model.before, model.last
        assert (storage.first_index(), storage.last_index()) == (before[0] + 1, last)
        assert storage.term(before[0]) == before[1]
        assert [storage.term(index) for index in range(before[0] + 1, last + 1)] == model.terms
        for index in (before[0] - 1, last + 1):
            with pytest.raises((Compacted, Unavailable)):
                storage.term(index)
        if model.terms and evicted < before[0] + 1:
            assert flat(storage.entries(before[0] + 1, last + 1, NO_LIMIT)) == entries(before[0] + 1, model.terms)
        if model.terms:
            assert storage.entries(last, last + 1, 0)[0].first == last
    with pytest.raises(Compacted):
        storage.entries(model.before[0], model.last + 1, NO_LIMIT)
    with pytest.raises(Unavailable):
        storage.entries(model.before[0] + 1, model.last + 2, NO_LIMIT)


def test_an_append_must_not_leave_a_gap() -> None:
    storage = MemoryStorage()
    storage.append(batches_of(1, [1, 1]))
    with pytest.raises(Unavailable):
        storage.append(batches_of(4, [1]))
    assert storage.last_index() == 2


def test_snapshots() -> None:
    storage = MemoryStorage()
    storage.append(batches_of(1, [1, 1, 2]))
    made = storage.create_snapshot(2, None, b"state")
    assert (made.index, made.term, storage.snapshot()) == (2, 1, made)
    with pytest.raises(SnapshotOutOfDate):
        storage.create_snapshot(2, None, b"")
    with pytest.raises(SnapshotOutOfDate):
        storage.apply_snapshot(made)
    received = Snapshot(b"theirs", SnapshotMetadata(made.metadata.conf_state, 9, 4))
    storage.apply_snapshot(received)
    storage.set_hard_state(HardState(4, 1, 9))
    assert (storage.first_index(), storage.last_index(), storage.term(9)) == (10, 9, 4)
    assert storage.initial_state() == (HardState(4, 1, 9), made.metadata.conf_state)
    storage.append(batches_of(8, [4, 4]))  # all of it is older than the snapshot
    assert storage.last_index() == 9


# --- the log ---


@dataclass
class Model:
    """A log as it is drawn on paper. `durable` is what the storage was given; `written` lists what it is still to be given."""

    terms: list[int] = field(default_factory=list)
    committed: int = 0
    durable: int = 0

    def term(self, index: int) -> int:
        return self.terms[index - 1] if index else 0

    def matches(self, index: int, term: int) -> bool:
        return index <= len(self.terms) and self.term(index) == term

    def find_conflict_by_term(self, index: int, term: int, first: int) -> tuple[int, int]:
        while index > 0:
            if index > len(self.terms) or index < first - 1:
                return index, 0
            if self.term(index) <= term:
                return index, self.term(index)
            index -= 1
        return 0, 0

    def maybe_append(self, index: int, terms: list[int], commit: int) -> int:
        for at, term in enumerate(terms, index + 1):
            if not self.matches(at, term):
                self.terms[at - 1 :] = terms[at - index - 1 :]
                self.durable = min(self.durable, at - 1)
                break
        last = index + len(terms)
        self.committed = max(self.committed, min(commit, last))
        return last


def check_same(log: RaftLog, model: Model, first: int) -> None:
    assert log.last_index == len(model.terms)
    assert log.last_term == model.term(len(model.terms))
    assert log.committed == model.committed
    assert [log.term(index) for index in range(first - 1, len(model.terms) + 1)] == [
        model.term(i) for i in range(first - 1, len(model.terms) + 1)
    ]
    assert flat(log.entries(first, NO_LIMIT)) == entries(first, model.terms[first - 1 :])
    assert log.unstable.offset == model.durable + 1


operation = st.tuples(
    st.sampled_from(("append", "leader", "ready", "saved", "apply", "compact")), st.integers(0, 30), growing, some_cuts, st.integers(0, 40)
)


@settings(max_examples=200)
@given(st.lists(operation, max_size=25))
def test_log(script: list[tuple[str, int, list[int], set[int], int]]) -> None:
    """Own appends, leaders' appends with conflicts inside batches, writes handed out and attested, commits, applies, compaction."""
    storage = MemoryStorage()
    log, model, first = RaftLog(storage), Model(), 1
    handed_out: list[tuple[list[EntryBatch], int, int]] = []
    epoch = 0  # raised with every replacement: writes of before do not attest any more, as with a new term
    for name, number, steps, cuts, commit in script:
        last = len(model.terms)
        if name == "append":
            terms = terms_from(max(1, model.term(last)), steps)
            assert log.append(batches_of(last + 1, terms, cuts)) == last + len(terms)
            model.terms += terms
        elif name == "leader":
            index = max(model.committed, last - number % 6)
            previous = model.term(index) + (number == 13)
            terms = terms_from(max(1, model.term(index)), steps)
            if not model.matches(index, previous):
                assert log.maybe_append(index, previous, batches_of(index + 1, terms, cuts), commit) is None
                continue
            durable = model.durable
            agreed = model.terms[: index + len(terms)][index:] == terms[: max(0, last - index)]
            expected = model.maybe_append(index, terms, commit)
            assert log.maybe_append(index, previous, batches_of(index + 1, terms, cuts), commit) == expected
            epoch += not agreed or model.durable < durable
        elif name == "ready":
            out = log.unstable.take()
            assert not log.unstable.take()
            if out:
                handed_out.append((out, log.last_index, epoch))
        elif name == "saved" and handed_out:
            out, upto, when = handed_out.pop(0)
            storage.append(out)
            if when == epoch:
                assert log.unstable.stable_to(upto, model.term(upto)) == (upto > model.durable)
                model.durable = max(model.durable, upto)
        elif name == "apply":
            batches = log.take_committed(allow_unstable=False)
            upto = min(model.committed, model.durable)
            assert flat(batches) == entries(log.applied + 1, model.terms[log.applied : upto])
            if batches:
                log.applied_to(batches[-1].last, total_size(batches))
        elif name == "compact" and first <= (to := min(log.applied, storage.last_index(), first + number)):
            storage.compact(to)
            first = to + 1
        check_same(log, model, first)
        probe = commit % (len(model.terms) + 3)
        assert log.find_conflict_by_term(probe, number % 9) == model.find_conflict_by_term(probe, number % 9, first)
        assert log.is_up_to_date(probe, number % 9) == ((number % 9, probe) >= (log.last_term, log.last_index))


@given(growing, some_cuts, st.integers(0, 12), st.data())
def test_slices_over_both_parts(steps: list[int], cuts: set[int], durable: int, draw: st.DataObject) -> None:
    """The limit holds across the border of storage and unstable end."""
    terms = terms_from(1, steps)
    durable = min(durable, len(terms))
    storage = MemoryStorage()
    storage.append(batches_of(1, terms[:durable], cuts))
    log = RaftLog(storage)
    if terms[durable:]:
        log.append(batches_of(durable + 1, terms[durable:], cuts))
    low = draw.draw(st.integers(1, len(terms)))
    high = draw.draw(st.integers(low, len(terms) + 1))
    max_bytes = draw.draw(st.integers(0, 200))
    fitting, size = 0, 0
    for index in range(low, high):
        size += size_of(terms[index - 1], index)
        if size > max_bytes and fitting:
            break
        fitting += 1
    assert flat(log.slice(low, high, max_bytes)) == entries(low, terms[low - 1 : low - 1 + fitting])


@given(growing, st.integers(1, 60), st.booleans())
def test_committed_entries_are_handed_out_within_the_limit(steps: list[int], limit_bytes: int, allow_unstable: bool) -> None:
    """Together they are everything, in order; each time at most the limit, or one entry."""
    terms = terms_from(1, steps)
    storage = MemoryStorage()
    storage.append(batches_of(1, terms[: len(terms) // 2]))
    log = RaftLog(storage, limit_bytes)
    log.append(batches_of(len(terms) // 2 + 1, terms[len(terms) // 2 :]))
    log.commit_to(len(terms))
    got: list[tuple[int, int, bytes]] = []
    while log.has_next_committed(allow_unstable):
        batches = log.take_committed(allow_unstable)
        assert total_count(batches) == 1 or total_size(batches) <= limit_bytes
        more = log.appliable_to(allow_unstable) > log.applying
        assert log.applying_paused == (more or total_size(batches) >= limit_bytes)
        assert not (log.applying_paused and log.take_committed(allow_unstable))
        got += flat(batches)
        log.applied_to(batches[-1].last, total_size(batches))
    assert got == entries(1, terms[: len(terms) if allow_unstable else len(terms) // 2])


def test_restore_replaces_everything() -> None:
    storage = MemoryStorage()
    storage.append(batches_of(1, [1, 1, 2]))
    log = RaftLog(storage)
    log.append(batches_of(4, [2]))
    snapshot = Snapshot(b"", SnapshotMetadata(index=9, term=4))
    log.restore(snapshot)
    assert (log.first_index(), log.last_index, log.last_term, log.committed, log.term(9)) == (10, 9, 4, 9, 4)
    assert log.snapshot() is snapshot
    with pytest.raises(Compacted):
        log.term(3)
    with pytest.raises(Compacted):
        log.slice(3, 5, NO_LIMIT)
    assert not log.has_next_committed(allow_unstable=True)
    assert log.unstable.take_snapshot() is snapshot
    assert log.unstable.take_snapshot() is None
    log.append(batches_of(10, [5]))
    assert flat(log.entries(10, NO_LIMIT)) == entries(10, [5])
    log.unstable.snapshot_stable_to(8)
    assert log.unstable.snapshot is snapshot
    log.unstable.snapshot_stable_to(9)
    assert log.unstable.snapshot is None


def test_an_entry_of_an_earlier_term_is_not_committed_by_count() -> None:
    """Thesis fig. 3.7."""
    log = RaftLog(MemoryStorage())
    log.append(batches_of(1, [2, 4]))
    assert not log.maybe_commit(1, 4)
    assert log.maybe_commit(2, 4)
    assert not log.maybe_commit(2, 4)
