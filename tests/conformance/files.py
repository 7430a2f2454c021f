"""What a peer's files promise. `check_files` is run against every world."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from rafttoy.errors import StorageError
from rafttoy.ports import SAVE_HERE_BYTES, Files, Ports

__all__ = ["Incarnations", "check_files"]

Incarnations = Callable[[Callable[[Any], Awaitable[Any]]], Any]
"""Runs one scenario after another on one directory, each with the ports of a new incarnation."""

_CLAUSES: list[Callable[[Incarnations], None]] = []


def check_files(make: Callable[[], Incarnations]) -> None:
    """`make` gives each clause a directory of its own, which does not exist yet."""
    for clause in _CLAUSES:
        try:
            clause(make())
        except BaseException as error:
            error.add_note(f"clause: {clause.__name__}")
            raise


def _clause(check: Callable[[Incarnations], None]) -> Callable[[Incarnations], None]:
    _CLAUSES.append(check)
    return check


def _scenario(check: Callable[[Files], Awaitable[None]]) -> None:
    def clause(run: Incarnations) -> None:
        run(lambda ports: check(ports.files))

    clause.__name__ = check.__name__
    _CLAUSES.append(clause)


@_scenario
async def _a_directory_that_is_not_there_is_empty(files: Files) -> None:
    assert await files.listdir() == []
    assert await files.listdir("a/b") == []


@_scenario
async def _what_was_written_is_read(files: Files) -> None:
    file = await files.open("log", create=True)
    assert file.name == "log"
    assert file.size() == 0
    await file.pwritev(0, [b"hello ", bytearray(b"wor"), memoryview(b"ld!")[:2]], sync=False)
    assert file.size() == 11
    assert await file.pread(0, 11) == b"hello world"
    await file.pwritev(6, [b"WORLD"], sync=True)
    assert await file.pread(0, 100) == b"hello WORLD"
    assert await file.pread(6, 2) == b"WO"
    assert await file.pread(11, 5) == b""
    await file.sync()
    await file.close()


@_scenario
async def _a_write_behind_the_end_leaves_zeros_between(files: Files) -> None:
    file = await files.open("log", create=True)
    await file.pwritev(10, [b"x"], sync=False)
    assert file.size() == 11
    assert await file.pread(0, 20) == bytes(10) + b"x"


@_scenario
async def _more_buffers_than_one_call_takes(files: Files) -> None:
    file = await files.open("log", create=True)
    await file.pwritev(0, [bytes((i % 256,)) for i in range(5000)], sync=True)
    assert await file.pread(0, 6000) == bytes(i % 256 for i in range(5000))


@_scenario
async def _preallocated_space_reads_as_zero_and_keeps_what_is_there(files: Files) -> None:
    for prewrite in (False, True):
        name = f"log{prewrite}"
        file = await files.open(name, create=True)
        await file.pwritev(0, [b"head"], sync=False)
        await file.close()
        file = await files.open(name, preallocate=3 << 20, prewrite=prewrite)
        assert file.size() == 3 << 20
        data = await file.pread(0, 3 << 20)
        assert data[:4] == b"head"
        assert not any(data[4:])
        assert len(data) == 3 << 20
        await file.close()
        file = await files.open(name, preallocate=4096, prewrite=prewrite)
        assert file.size() == 3 << 20  # never less


@_scenario
async def _truncating_drops_and_extends(files: Files) -> None:
    file = await files.open("log", create=True)
    await file.pwritev(0, [b"0123456789"], sync=True)
    await file.truncate(4)
    assert file.size() == 4
    assert await file.pread(0, 10) == b"0123"
    await file.truncate(6)
    assert file.size() == 6
    assert await file.pread(0, 10) == b"0123\0\0"


@_scenario
async def _a_missing_file_is_an_error_that_names_it(files: Files) -> None:
    for call in (files.open("nothing"), files.unlink("nothing"), files.rename("nothing", "something")):
        with pytest.raises(StorageError, match=r"nothing: No such file or directory"):
            await call
    assert await files.listdir() == []


@_scenario
async def _names_are_listed_sorted_and_directories_with_them(files: Files) -> None:
    await files.mkdir("b/c")
    await files.mkdir("b/c")
    for name in ("z", "a", "b/x", "b/c/y"):
        await (await files.open(name, create=True)).close()
    assert await files.listdir() == ["a", "b", "z"]
    assert await files.listdir("b") == ["c", "x"]
    assert await files.listdir("b/c") == ["y"]
    await files.sync_directory()
    await files.sync_directory("b/c")


@_scenario
async def _renaming_replaces_and_unlinking_removes(files: Files) -> None:
    old = await files.open("old", create=True)
    await old.pwritev(0, [b"old"], sync=False)
    new = await files.open("new", create=True)
    await new.pwritev(0, [b"something new"], sync=False)
    await files.rename("old", "new")
    assert await files.listdir() == ["new"]
    again = await files.open("new")
    assert await again.pread(0, 20) == b"old"
    await old.pwritev(3, [b"er"], sync=False)  # an open file is what it was, under whatever name
    assert await again.pread(0, 20) == b"older"
    await files.unlink("new")
    assert await files.listdir() == []


@_clause
def _a_later_incarnation_finds_it(run: Incarnations) -> None:
    async def write(ports: Ports) -> None:
        file = await ports.files.open("log", create=True)
        await file.pwritev(0, [b"durable"], sync=True)
        await ports.files.sync_directory()

    async def read(ports: Ports) -> None:
        file = await ports.files.open("log")
        assert file.size() == 7
        assert await file.pread(0, 7) == b"durable"

    run(write)
    run(read)


@_clause
def _a_lock_keeps_others_out_until_it_is_closed(run: Incarnations) -> None:
    async def lock(ports: Ports) -> None:
        await ports.files.lock()
        await ports.files.lock()  # one's own is no obstacle

    run(lock)
    run(lock)


@_scenario
async def _who_has_nothing_else_to_do_writes_little_by_itself(files: Files) -> None:
    """And through the thread what is much, what is not synced, and what comes while the thread works."""
    file = await files.open("log", create=True, preallocate=1 << 20)
    much = bytes(SAVE_HERE_BYTES + 1)
    await file.pwritev(0, [b"one"], sync=True, here=True)
    assert files.counters()["disk_here"] == 1
    await file.pwritev(3, [b"two"], sync=False, here=True)
    await file.pwritev(6, [b"three"], sync=True)
    await file.pwritev(11, [much], sync=True, here=True)
    begun = file.pwritev(11, [b"four"], sync=True)
    behind = file.pwritev(11, [b"FOUR"], sync=True, here=True)
    await begun
    await behind
    assert files.counters()["disk_here"] == 1
    await file.pwritev(15, [b"!"], sync=True, here=True)
    assert files.counters()["disk_here"] == 2
    assert files.counters()["disk_here_ns"] > 0
    assert await file.pread(0, 16) == b"onetwothreeFOUR!"


@_scenario
async def _work_on_the_disk_is_counted(files: Files) -> None:
    before = files.counters()
    file = await files.open("log", create=True)
    await file.pwritev(0, [bytes(4096)], sync=True)
    after = files.counters()
    assert set(after) >= {"disk_busy_ns", "disk_cpu_ns"}
    assert all(after[name] > before[name] for name in ("disk_busy_ns", "disk_cpu_ns"))
