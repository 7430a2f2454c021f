"""`--wal etcd` without etcd: its bytes as etcd 3.6.5 wrote them, its segments, and what it says when it finds damage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rafttoy.errors import CorruptionError, StorageError
from rafttoy.ports import Ports, Sized
from rafttoy.raft.entries import EntryBatch, EntryType, Payloads
from rafttoy.raft.types import EMPTY_HARD_STATE, ConfState, HardState, SnapshotMetadata
from rafttoy.storage.api import Save, WalState
from rafttoy.storage.checksum import crc32c
from rafttoy.storage.etcdformat import ENTRY, encode_entries, encode_record, handed_over
from rafttoy.storage.etcdwal import EtcdWal
from tests.storage.beds import SimBed, batch

SEGMENT = 16_000
FIRST = "wal/0000000000000000-0000000000000000.wal"

GOLDEN = bytes.fromhex(
    "0400000000000084 0804100000000000 0400000000000084 0801100000000000"
    "0e00000000000082 080510a0b39b8f08 1a04080010000000"
    "1000000000000000 080210b7b1a2ef05 1a06080010011801"
    "1700000000000081 08021092e3daab0d 1a0d080010011802 220568656c6c6f00"
    "1000000000000000 080310b88eafc409 1a06080110021800"
)
"""What etcd writes for a new log, then entries 1 (empty) and 2 (`hello`) of term 1, and the hard state (1, 2, 0)."""


def live(bed: SimBed, scenario: Callable[[EtcdWal, WalState, Ports], Any], *, close: bool = True) -> Any:
    async def incarnation(ports: Ports) -> Any:
        wal = EtcdWal(ports, cache_bytes=0, sync="fdatasync", segment_bytes=SEGMENT)
        result = await scenario(wal, await wal.open(), ports)
        if close:
            await wal.close()
        return result

    return bed.run(incarnation)


def write(bed: SimBed, *saves: Save, close: bool = True) -> None:
    async def scenario(wal: EtcdWal, state: WalState, ports: Ports) -> None:
        for save in saves:
            await wal.write([save], sync=True)
        await ports.clock.sleep_ns(1_000_000_000)

    live(bed, scenario, close=close)


def read(bed: SimBed) -> tuple[list[int], list[str]]:
    async def scenario(wal: EtcdWal, state: WalState, ports: Ports) -> tuple[list[int], list[str]]:
        return [index for each in state.batches for index in range(each.first, each.last + 1)], state.notes

    return live(bed, scenario)


def contents(bed: SimBed) -> dict[str, tuple[int, bytes]]:
    return {name: (inode.size, bytes(inode.content)) for name, inode in bed.store.files.items() if not name.endswith(".tmp")}


def refused(bed: SimBed, error: type[StorageError], match: str) -> None:
    before = contents(bed)
    with pytest.raises(error, match=match):
        read(bed)
    assert contents(bed) == before


# --- bytes ---


def test_the_bytes_are_etcds() -> None:
    bed = SimBed()
    entries = [EntryBatch.empty(1, 1), EntryBatch.encode(2, 1, EntryType.NORMAL, Payloads.of([b"hello"]))]
    write(bed, Save(entries, HardState(1, 2, 0)))
    inode = bed.store.files[FIRST]
    assert bytes(inode.content).rstrip(b"\0").ljust(len(GOLDEN), b"\0") == GOLDEN
    assert inode.size == SEGMENT


@pytest.mark.parametrize("size", [0, 1, *range(100, 108), 255, 256, 9000, 70_000])  # every padding, and entries that are not copied
@pytest.mark.parametrize("count", [1, 15, 16, 64, 65, 100, 200, 700])  # one chunk, several, and a matrix
def test_entries_are_encoded_alike_one_by_one_and_all_at_once(count: int, size: int) -> None:
    rng = np.random.default_rng(count + size)
    entries = EntryBatch.encode(70, 300, EntryType.NORMAL, Payloads(count, rng.bytes(count * size), size))  # crosses a width
    crc = 12345
    buffers, length, after = encode_entries(entries, crc)
    parts = []
    frames = memoryview(entries.frames)  # type: ignore[arg-type]
    for i in range(count):
        frame = frames[entries.offset(i) : entries.offset(i + 1)]
        entry = frame[2:] if frame[1] < 0x80 else frame[3:] if frame[2] < 0x80 else frame[4:]
        record, crc = encode_record(ENTRY, bytes(entry), crc)
        parts.append(record)
    assert b"".join(buffers) == b"".join(parts)  # type: ignore[arg-type]
    assert (length, after) == (len(b"".join(parts)), crc)


def test_short_checksums_make_short_records() -> None:
    """One checksum in sixteen takes fewer than five bytes: all widths that 2,000 entries show must be read back."""
    rng = np.random.default_rng(4)
    entries = EntryBatch.encode(1000, 1, EntryType.NORMAL, Payloads(2000, rng.bytes(2000 * 20), 20))
    buffers, _, _ = encode_entries(entries, 0)
    bed = SimBed()
    write(bed, Save([entries], None))
    assert len({len(record) for record in _records(b"".join(buffers))}) > 1  # type: ignore[arg-type]
    with pytest.raises(StorageError):  # entries 1..999 are missing, and that is told
        read(bed)


def _records(data: bytes) -> list[bytes]:
    out, at = [], 0
    while at < len(data):
        size = int.from_bytes(data[at : at + 7], "little")
        out.append(data[at + 8 : at + 8 + size])
        at += 8 + size + -size % 8
    return out


def test_sized_entries_have_the_size_of_encoded_ones() -> None:
    sized = EntryBatch.encode(100, 7, EntryType.NORMAL, Payloads.sized(100, 256))
    real = EntryBatch.encode(100, 7, EntryType.NORMAL, Payloads(100, bytes(25600), 256))
    buffers, size, _ = encode_entries(sized, 0)
    assert buffers == [Sized(size)]
    assert abs(size - encode_entries(real, 0)[1]) <= 8 * 100 // 8  # checksums of four bytes, here and there


def test_what_a_page_writer_hands_over() -> None:
    records = [encode_record(ENTRY, bytes(n), 0)[0] for n in (100, 200_000, 100)]
    assert handed_over(0, records[:1]) == 0  # it holds up to 128 KiB
    end = handed_over(1000, records)
    assert end % 4096 == 0
    assert 1000 + 200_000 - 4096 <= end <= 1000 + 200_400


# --- segments ---


def test_a_log_is_cut_into_segments_named_after_their_first_entry() -> None:
    bed = SimBed()
    write(bed, *[Save([batch(i, size=3000)], HardState(1, 1, i)) for i in range(1, 20)])
    names = [name for name in sorted(bed.store.files) if name.endswith(".wal")]
    assert names[:3] == [FIRST, "wal/0000000000000001-0000000000000008.wal", "wal/0000000000000002-000000000000000f.wal"]
    for name in names[:-1]:
        assert bed.store.files[name].size == len(bed.store.files[name].content)  # cut to its length
    assert bed.store.files[names[-1]].size == SEGMENT
    assert read(bed) == (list(range(1, 20)), [])


def test_released_segments_go_but_for_the_one_that_holds_the_mark() -> None:
    bed = SimBed()

    async def scenario(wal: EtcdWal, state: WalState, ports: Ports) -> list[str]:
        for i in range(1, 20):
            await wal.write([Save([batch(i, size=3000)], HardState(1, 1, i))], sync=True)
        await wal.write([Save((), None, SnapshotMetadata(ConfState((1,)), 14, 1))], sync=True)
        await wal.release(14)
        return [name for name in await ports.files.listdir("wal") if name.endswith(".wal")]

    assert live(bed, scenario)[0] == "0000000000000001-0000000000000008.wal"
    assert read(bed) == ([15, 16, 17, 18, 19], [])


def test_a_reset_log_is_new() -> None:
    bed = SimBed()

    async def scenario(wal: EtcdWal, state: WalState, ports: Ports) -> None:
        for i in range(1, 20):
            await wal.write([Save([batch(i, size=3000)], HardState(1, 1, i))], sync=True)
        await wal.reset()
        await wal.reset()
        await wal.write(
            [Save([EntryBatch.empty(1, 1), EntryBatch.encode(2, 1, EntryType.NORMAL, Payloads.of([b"hello"]))], HardState(1, 2, 0))],
            sync=True,
        )

    live(bed, scenario)
    assert [name for name in bed.store.files if name.endswith(".wal")] == [FIRST]
    assert bytes(bed.store.files[FIRST].content)[: len(GOLDEN)] == GOLDEN


# --- damage ---


def test_damage_in_the_middle_is_told_with_both_checksums() -> None:
    bed = SimBed()
    write(bed, *[Save([batch(i, size=100, fill=i)], None) for i in range(1, 10)])
    bed.store.flip(FIRST, 300)
    refused(bed, CorruptionError, rf"sim/{FIRST}: a damaged record at offset \d+: checksum 0x[0-9a-f]{{8}}, expected 0x[0-9a-f]{{8}}")


def test_a_torn_tail_is_cut_off_and_kept_aside() -> None:
    bed = SimBed()
    write(bed, *[Save([batch(i, size=2000, fill=i)], None) for i in range(1, 4)], close=False)
    inode = bed.store.files[FIRST]
    whole = bytes(inode.content) + bytes(SEGMENT - len(inode.content))
    inode.content[5120:5632] = bytes(512)
    indexes, notes = read(bed)
    assert indexes == [1, 2]
    assert len(notes) == 1
    assert "were a torn write; cut off, kept in" in notes[0]
    broken = bytes(bed.store.files[f"{FIRST}.broken"].content)
    assert broken == whole[:5120] + bytes(512) + whole[5632:]
    assert read(bed) == ([1, 2], [])
    write(bed, Save([batch(3, term=2)], None))
    assert read(bed) == ([1, 2, 3], [])


def test_what_lies_behind_a_zero_length_is_wiped() -> None:
    bed = SimBed()
    write(bed, Save([batch(1, size=100)], None), close=False)
    end = len(bed.store.files[FIRST].content)
    bed.store.files[FIRST].write(8192, b"left of a torn write")
    assert read(bed) == ([1], [])
    assert not any(bed.store.files[FIRST].content[end:])
    assert bed.store.files[FIRST].size == SEGMENT


def test_torn_and_corrupt_are_told_apart_by_segment() -> None:
    bed = SimBed()
    write(bed, *[Save([batch(i, size=3000, fill=i)], None) for i in range(1, 10)])
    bed.store.files[FIRST].content[5120:5632] = bytes(512)  # it looks torn, but others were written after it
    refused(bed, CorruptionError, rf"sim/{FIRST}: a damaged record")


@pytest.mark.parametrize("gone", [0, 1])
def test_a_missing_segment(gone: int) -> None:
    bed = SimBed()
    write(bed, *[Save([batch(i, size=3000)], None) for i in range(1, 20)])
    del bed.store.files[sorted(name for name in bed.store.files if name.endswith(".wal"))[gone]]
    refused(bed, StorageError, rf"sim/wal: a segment before {gone + 1:016x} is missing")


def test_segments_of_two_logs() -> None:
    bed, other = SimBed(), SimBed()
    write(bed, *[Save([batch(i, size=3000, fill=1)], None) for i in range(1, 10)])
    write(other, *[Save([batch(i, size=3000, fill=2)], None) for i in range(1, 10)])
    name = "wal/0000000000000001-0000000000000008.wal"
    bed.store.files[name] = other.store.files[name]
    refused(bed, CorruptionError, "a segment that does not continue the one before at offset 0")


def test_an_entry_that_rotted_is_not_handed_out() -> None:
    bed = SimBed()

    async def scenario(wal: EtcdWal, state: WalState, ports: Ports) -> None:
        first, second = batch(1, 10, size=100), batch(11, 10, size=100)
        await wal.write([Save([first, second], None)], sync=True)
        sliced = second.slice(13, 15)
        assert bytes((await wal.read(sliced.with_frames(None))).frames) == bytes(sliced.frames)  # type: ignore[arg-type]
        bed.store.flip(FIRST, 500)
        with pytest.raises(CorruptionError, match="a damaged record at offset"):
            await wal.read(first.with_frames(None))

    live(bed, scenario)


def test_an_empty_hard_state_is_not_written() -> None:
    bed = SimBed()
    write(bed, Save([batch(1)], EMPTY_HARD_STATE))
    assert b"\x08\x03" not in bytes(bed.store.files[FIRST].content)[56:]


def test_the_checksum_goes_over_all_records() -> None:
    data = [b"one", b"two", b"three"]
    crc = 0
    for each in data:
        _, crc = encode_record(ENTRY, each, crc)
    assert crc == crc32c(b"".join(data))
