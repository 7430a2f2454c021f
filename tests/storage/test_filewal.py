"""`--wal file`: what it does to its segments, and what it says when it finds them damaged. Nothing is changed on disk by an error."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from rafttoy.errors import CorruptionError, StorageError
from rafttoy.ports import Ports, Sized
from rafttoy.raft.entries import EntryBatch, EntryType, Payloads
from rafttoy.raft.types import EMPTY_HARD_STATE, HardState, SnapshotMetadata
from rafttoy.storage.api import Save
from rafttoy.storage.fileformat import BLOCK
from rafttoy.storage.filewal import FileWal
from tests.storage.beds import SimBed, batch

SEGMENT = 8 * BLOCK


def live(bed: SimBed, scenario: Callable[[FileWal, Ports], Any], *, close: bool = True) -> Any:
    """One incarnation; without `close` it dies where it is."""

    async def incarnation(ports: Ports) -> Any:
        wal = FileWal(ports, cache_bytes=0, sync="fdatasync", segment_bytes=SEGMENT)
        state = await wal.open()
        wal.found = state  # type: ignore[attr-defined]
        result = await scenario(wal, ports)
        if close:
            await wal.close()
        return result

    return bed.run(incarnation)


def write(bed: SimBed, *batches: EntryBatch, hard_state: HardState | None = None, close: bool = True) -> None:
    """Each batch in a group of its own."""

    async def scenario(wal: FileWal, ports: Ports) -> None:
        for each in batches:
            await wal.write([Save([each], hard_state)], sync=True)
        await ports.clock.sleep_ns(1_000_000_000)

    live(bed, scenario, close=close)


def read(bed: SimBed) -> tuple[list[int], list[str]]:
    async def scenario(wal: FileWal, ports: Ports) -> tuple[list[int], list[str]]:
        state = wal.found  # type: ignore[attr-defined]
        return [index for each in state.batches for index in range(each.first, each.last + 1)], state.notes

    return live(bed, scenario)


def contents(bed: SimBed) -> dict[str, tuple[int, bytes]]:
    return {name: (inode.size, bytes(inode.content)) for name, inode in bed.store.files.items()}


def refused(bed: SimBed, error: type[StorageError], match: str) -> StorageError:
    before = contents(bed)
    with pytest.raises(error, match=match) as caught:
        read(bed)
    assert contents(bed) == before
    return caught.value


ONE = "wal/0000000000000001.wal"
TWO = "wal/0000000000000002.wal"


# --- damage ---


def test_a_damaged_group_in_the_middle_is_corrupt() -> None:
    bed = SimBed()
    write(bed, *[batch(i, size=100) for i in range(1, 5)])
    bed.store.flip(ONE, 2 * BLOCK + 200)
    error = refused(bed, CorruptionError, rf"sim/{ONE}: a damaged group \(2\), .* at offset 8192: checksum 0x[0-9a-f]{{8}}, expected 0x")
    assert isinstance(error, CorruptionError)
    assert (error.file, error.offset) == (f"sim/{ONE}", 2 * BLOCK)
    assert error.expected != error.found


def test_a_damaged_group_is_corrupt_where_only_a_later_segment_tells() -> None:
    bed = SimBed()
    write(bed, *[batch(i, size=100) for i in range(1, 10)])  # seven groups a segment
    bed.store.flip(ONE, 7 * BLOCK + 200)
    refused(bed, CorruptionError, rf"sim/{ONE}: a damaged group \(7\)")


def test_a_damaged_group_header_is_corrupt_even_at_the_end() -> None:
    bed = SimBed()
    write(bed, batch(1), batch(2), close=False)
    bed.store.flip(ONE, 2 * BLOCK + 60)  # its term
    refused(bed, CorruptionError, rf"sim/{ONE}: a damaged group header at offset 8192: checksum")


def test_a_lost_group_is_corrupt_when_later_ones_are_there() -> None:
    bed = SimBed()
    write(bed, *[batch(i) for i in range(1, 5)])
    bed.store.files[ONE].content[2 * BLOCK : 3 * BLOCK] = bytes(BLOCK)
    refused(bed, CorruptionError, rf"sim/{ONE}: a missing group \(2\), though later ones are there at offset 8192")


def test_a_damaged_last_group_is_corrupt_after_a_clean_close() -> None:
    bed = SimBed()
    write(bed, batch(1), batch(2))
    bed.store.flip(ONE, 2 * BLOCK + 150)
    refused(bed, CorruptionError, "a damaged group")


def test_a_torn_last_group_is_left_out_and_kept_aside() -> None:
    bed = SimBed()
    write(bed, batch(1), batch(2), batch(3, 30, size=400), close=False)
    inode = bed.store.files[ONE]
    torn = bytes(inode.content[3 * BLOCK : 7 * BLOCK])
    inode.content[5 * BLOCK : 6 * BLOCK] = bytes(BLOCK)  # one of its blocks was never written
    indexes, notes = read(bed)
    assert indexes == [1, 2]
    assert len(notes) == 1
    assert notes[0].startswith(
        f"sim/{ONE}: 16384 bytes from offset 12288 on are a write that never finished; left out, kept in {ONE}.broken"
    )
    broken = bytes(bed.store.files[f"{ONE}.broken"].content)
    assert broken == torn[: 2 * BLOCK] + bytes(BLOCK) + torn[3 * BLOCK :]
    assert read(bed) == ([1, 2], [])  # it is told once
    write(bed, batch(3, term=2))
    assert read(bed) == ([1, 2, 3], [])


def test_what_a_crash_left_behind_the_end_never_counts_again() -> None:
    bed = SimBed()
    write(bed, batch(1), batch(2, fill=7), batch(3, fill=7), close=False)
    # the second group was lost, and the third, never acknowledged, was kept
    inode = bed.store.files[ONE]
    third = inode.content[3 * BLOCK : 4 * BLOCK]
    inode.content[2 * BLOCK : 3 * BLOCK] = bytes(BLOCK)
    from rafttoy.storage.fileformat import encode_group  # a third group that does not know the second one durable

    buffers, size = encode_group(1, 3, 1, 0, [batch(3, fill=7)], HardState(), b"")
    assert size == len(third)
    inode.content[3 * BLOCK : 4 * BLOCK] = b"".join(buffers)  # type: ignore[arg-type]
    indexes, notes = read(bed)
    assert indexes == [1]
    assert len(notes) == 1
    write(bed, batch(2, fill=9), close=False)
    assert read(bed)[0] == [1, 2]


@pytest.mark.parametrize(
    ("damage", "error", "match"),
    [
        (lambda inode: inode.content.__setitem__(8, 9), StorageError, r"has format 9; this version reads format 1"),
        (lambda inode: inode.content.__setitem__(0, 0), CorruptionError, "no segment header at offset 0"),
        (lambda inode: inode.content.__setitem__(20, 1), CorruptionError, "a damaged segment header at offset 0: checksum"),
    ],
    ids=["format", "foreign", "header"],
)
def test_a_segment_that_is_not_one(damage: Callable[[Any], None], error: type[StorageError], match: str) -> None:
    bed = SimBed()
    write(bed, batch(1))
    damage(bed.store.files[ONE])
    refused(bed, error, rf"sim/{ONE}:? {match}")


def test_a_segment_under_another_name() -> None:
    bed = SimBed()
    write(bed, *[batch(i) for i in range(1, 10)])
    bed.store.files[ONE].content[:] = bed.store.files[TWO].content
    refused(bed, CorruptionError, f"sim/{ONE}: the header of segment 0000000000000002")


@pytest.mark.parametrize("gone", [1, 2])
def test_a_missing_segment(gone: int) -> None:
    bed = SimBed()
    write(bed, *[batch(i) for i in range(1, 20)])
    del bed.store.files[f"wal/{gone:016x}.wal"]
    refused(bed, StorageError, rf"wal/{gone:016x}.wal is missing")


def test_all_segments_missing_but_the_one_prepared() -> None:
    bed = SimBed()
    write(bed, *[batch(i) for i in range(1, 3)])
    del bed.store.files[ONE]
    refused(bed, StorageError, rf"{ONE} is missing")


def test_reads_that_fail_or_come_back_short_change_nothing() -> None:
    bed = SimBed()
    write(bed, *[batch(i) for i in range(1, 20)])
    for fault, match in (("fail_read", "Input/output error"), ("short_read", "came back with")):
        for calls in range(6):
            setattr(bed.faults, fault, calls)
            refused(bed, StorageError, match)
    assert len(read(bed)[0]) == 19


def test_an_entry_that_rotted_is_not_handed_out() -> None:
    bed = SimBed()

    async def scenario(wal: FileWal, ports: Ports) -> None:
        first = batch(1, 10, size=100)
        await wal.write([Save([first], None)], sync=True)
        await wal.write([Save([batch(11, 10, size=100)], None)], sync=True)
        assert (await wal.read(first.with_frames(None))).frames == first.frames
        bed.store.flip(ONE, BLOCK + 500)
        await wal.read(batch(11, 10, size=100).with_frames(None))
        with pytest.raises(CorruptionError, match=rf"sim/{ONE}: a damaged group at offset 4096: checksum"):
            await wal.read(first.with_frames(None))

    live(bed, scenario)


# --- segments ---


def test_the_first_segment_and_the_next_are_there_before_they_are_needed() -> None:
    bed = SimBed()
    write(bed, batch(1))
    assert {name: inode.size for name, inode in bed.store.files.items()} == {ONE: SEGMENT, TWO: SEGMENT}


def test_groups_that_do_not_fit_go_to_the_next_segment_and_large_ones_get_room() -> None:
    bed = SimBed()
    large = EntryBatch.encode(2, 1, EntryType.NORMAL, Payloads(1, bytes(3 * SEGMENT), 3 * SEGMENT))
    write(bed, batch(1), large, batch(3), batch(4))
    assert read(bed) == ([1, 2, 3, 4], [])
    assert bed.store.files[TWO].size > 3 * SEGMENT


def test_released_segments_are_recycled() -> None:
    bed = SimBed()

    async def scenario(wal: FileWal, ports: Ports) -> None:
        index = 1
        for _ in range(40):
            for _ in range(5):
                await wal.write([Save([batch(index, 2)], HardState(1, 1, index))], sync=True)
                index += 2
            await ports.clock.sleep_ns(10_000_000)
            await wal.write([Save((), None, SnapshotMetadata(index=index - 3, term=1))], sync=True)
            await wal.release(index - 3)
        names = await ports.files.listdir("wal")
        assert len(names) <= 5
        assert int(names[-1][:16], 16) > 20  # many have been used, few are there

    live(bed, scenario)
    made = {id(inode) for inode in bed.store.files.values()}
    assert len(made) <= 5
    indexes, notes = read(bed)
    assert (indexes, notes) == ([399, 400], [])


def test_a_reset_log_begins_in_another_segment() -> None:
    bed = SimBed()

    async def scenario(wal: FileWal, ports: Ports) -> None:
        for i in range(1, 20):
            await wal.write([Save([batch(i)], HardState(3, 1, i))], sync=True)
        for _ in range(3):
            await wal.reset()
            await wal.reset()  # nothing to do
        await wal.write([Save([batch(1, term=9)], None)], sync=True)

    live(bed, scenario)

    async def look(wal: FileWal, ports: Ports) -> None:
        state = wal.found  # type: ignore[attr-defined]
        assert state.hard_state == EMPTY_HARD_STATE
        assert [(each.first, each.last, each.term) for each in state.batches] == [(1, 1, 9)]

    live(bed, look)


def test_reopening_does_not_use_up_segments() -> None:
    bed = SimBed()
    write(bed, batch(1))
    for _ in range(10):
        read(bed)
    assert sorted(bed.store.files) == [ONE, TWO]


def test_unfinished_preparations_are_removed_and_strange_files_left_alone() -> None:
    bed = SimBed()
    write(bed, batch(1))

    async def litter(ports: Ports) -> None:
        await ports.files.open("wal/0000000000000007-3.tmp", create=True)
        await ports.files.open("wal/notes.txt", create=True)

    bed.run(litter)
    assert read(bed) == ([1], [])
    assert sorted(bed.store.files) == [ONE, TWO, "wal/notes.txt"]


def test_a_full_disk_while_the_next_segment_is_prepared_ends_the_peer() -> None:
    bed = SimBed()
    bed.faults.full_bytes = 2 * SEGMENT

    async def scenario(wal: FileWal, ports: Ports) -> None:
        failures: list[BaseException] = []
        ports.tasks.on_failure(failures.append)
        await ports.clock.sleep_ns(1_000_000_000)
        for i in range(1, 9):  # into the second segment
            await wal.write([Save([batch(i)], None)], sync=True)
        await ports.clock.sleep_ns(1_000_000_000)
        assert [str(failure) for failure in failures] == ["sim/wal/0000000000000003-3.tmp: No space left on device"]

    live(bed, scenario)
    bed.faults.full_bytes = None
    assert read(bed)[0] == list(range(1, 9))


# --- groups ---


def test_a_group_is_one_write_and_one_sync() -> None:
    bed = SimBed()

    async def scenario(wal: FileWal, ports: Ports) -> None:
        before = wal.counters()
        saves = [Save([batch(1 + 3 * i, 3), batch(2 + 3 * i, 2, term=2)], HardState(2, 1, i)) for i in range(20)]
        await wal.write(saves[:1], sync=True)
        after = wal.counters()
        assert after["wal_writes"] - before["wal_writes"] == after["wal_syncs"] - before["wal_syncs"] == 1
        assert after["wal_bytes"] % BLOCK == 0

    live(bed, scenario)


def test_no_write_touches_a_block_that_holds_durable_data() -> None:
    bed = SimBed()
    ranges: list[tuple[str, int, int]] = []

    async def scenario(wal: FileWal, ports: Ports) -> None:
        for i in range(1, 40):
            await wal.write([Save([batch(i, size=50 * i)], None)], sync=True)
            for name, inode in bed.store.files.items():
                assert not inode.pending or not name.endswith(".wal")
            segment = wal._segments[-1]
            ranges.append((segment.name, segment.end, wal.counters()["wal_bytes"]))

    live(bed, scenario)
    assert all(end % BLOCK == 0 for _, end, _ in ranges)


def test_sized_payload_is_charged_and_read_back_as_sizes() -> None:
    bed = SimBed()

    async def scenario(wal: FileWal, ports: Ports) -> None:
        sized = EntryBatch.encode(1, 1, EntryType.NORMAL, Payloads.sized(100, 256))
        begun_ns = ports.clock.now_ns()
        await wal.write([Save([sized], HardState(1, 1, 0))], sync=True)
        assert ports.clock.now_ns() - begun_ns > 100_000
        assert wal.counters()["wal_bytes"] == -(-(sized.size + 128) // BLOCK) * BLOCK
        assert (await wal.read(sized.slice(5, 10).with_frames(None))).frames == Sized(sized.slice(5, 10).size)

    live(bed, scenario, close=False)
