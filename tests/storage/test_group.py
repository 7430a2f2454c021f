"""Group commit by itself, over a device that a test holds in its hand."""

from __future__ import annotations

from collections.abc import Awaitable, Sequence
from typing import Any

from rafttoy.errors import StorageError
from rafttoy.ports import Future, Ports
from rafttoy.raft.entries import EntryBatch
from rafttoy.storage.api import Save
from rafttoy.storage.group import LINE_BYTES, GroupCommit
from tests.storage.beds import SimBed, batch

LARGE = LINE_BYTES + 1000


class Device:
    """Groups it was handed, each with a future that ends it."""

    def __init__(self, ports: Ports) -> None:
        self._ports = ports
        self.handed: list[tuple[list[int], bool]] = []
        self.ends: list[Future[Any]] = []
        self.written: list[list[int]] = []
        self.outcomes: dict[int, str] = {}
        self.groups = GroupCommit(ports.tasks, self._begin, lambda saves: self.written.append(_firsts(saves)))
        self.tasks: dict[int, Any] = {}

    async def _begin(self, saves: Sequence[Save], sync: bool) -> Awaitable[None]:
        self.handed.append((_firsts(saves), sync))
        end = self._ports.tasks.future()
        self.ends.append(end)
        return self._wait(end)

    async def _wait(self, end: Future[Any]) -> None:
        error = await end
        if error is not None:
            raise error

    async def save(self, first: int, *, size: int = 20, sync: bool = True) -> None:
        """Starts a save of one entry."""

        async def run() -> None:
            try:
                await self.groups.save(Save([batch(first, size=size)], None), sync=sync)
            except StorageError as error:
                self.outcomes[first] = str(error)
            else:
                self.outcomes[first] = "saved"

        self.tasks[first] = self._ports.tasks.spawn(run(), f"save {first}")
        await self.pause()

    async def end(self, group: int, error: StorageError | None = None) -> None:
        self.ends[group].set_result(error)
        await self.pause()

    async def pause(self) -> None:
        await self._ports.clock.sleep_ns(1000)


def _firsts(saves: Sequence[Save]) -> list[int]:
    out: list[EntryBatch] = [entries for save in saves for entries in save.entries]
    return [entries.first for entries in out]


def run(scenario: Any) -> None:
    SimBed().run(lambda ports: scenario(Device(ports)))


def test_who_comes_alone_writes_alone() -> None:
    async def scenario(device: Device) -> None:
        for first in (1, 2):
            await device.save(first)
            assert device.handed[-1] == ([first], True)
            await device.end(first - 1)
            assert device.outcomes[first] == "saved"
        assert (device.groups.groups, device.groups.saves) == (2, 2)

    run(scenario)


def test_who_comes_meanwhile_is_written_together() -> None:
    async def scenario(device: Device) -> None:
        for first in range(1, 6):
            await device.save(first, sync=first == 3)
        assert device.handed == [([1], False)]
        await device.end(0)
        assert device.outcomes == {1: "saved"}
        assert device.handed[1:] == [([2, 3, 4, 5], True)]  # synced, for one of them asked for it
        await device.end(1)
        assert list(device.outcomes) == [1, 2, 3, 4, 5]
        assert device.written == [[1], [2, 3, 4, 5]]

    run(scenario)


def test_one_large_group_stands_in_line() -> None:
    async def scenario(device: Device) -> None:
        await device.save(1)
        await device.save(2, size=100)
        assert len(device.handed) == 1  # small: it may become larger
        await device.save(3, size=LARGE)
        assert device.handed[1:] == [([2, 3], True)]
        await device.save(4, size=LARGE)
        await device.save(5, size=LARGE)
        assert len(device.handed) == 2  # one at the device, one behind it
        await device.end(0)
        assert device.outcomes == {1: "saved"}
        assert device.handed[2:] == [([4, 5], True)]
        await device.end(1)
        await device.end(2)
        assert device.written == [[1], [2, 3], [4, 5]]
        assert set(device.outcomes.values()) == {"saved"}

    run(scenario)


def test_a_failure_fails_all_who_wait_and_all_who_come() -> None:
    async def scenario(device: Device) -> None:
        await device.save(1)
        await device.save(2, size=LARGE)
        await device.save(3)
        await device.end(0, StorageError("disk: Input/output error"))
        await device.end(1, StorageError("disk: Input/output error"))
        await device.save(4)
        assert device.outcomes[1] == "disk: Input/output error"
        assert all("after a failure: disk: Input/output error" in device.outcomes[first] for first in (3, 4))
        assert device.outcomes[2] != "saved"
        assert device.written == []
        assert len(device.handed) == 2
        device.groups.restart()  # heals a cancelled write, not a failed one
        await device.save(5)
        assert "after a failure" in device.outcomes[5]

    run(scenario)


def test_a_group_that_was_written_does_not_count_when_the_one_before_failed() -> None:
    async def scenario(device: Device) -> None:
        await device.save(1)
        await device.save(2, size=LARGE)
        await device.end(0, StorageError("disk: Input/output error"))
        await device.end(1)  # a device that carried it out nevertheless
        assert "after a failure" in device.outcomes[2]
        assert device.written == []

    run(scenario)


def test_a_cancelled_writer_stops_the_log_until_it_is_restarted() -> None:
    async def scenario(device: Device) -> None:
        await device.save(1)
        await device.save(2)
        device.tasks[1].cancel()
        await device.pause()
        assert "cancelled" in device.outcomes[2]
        await device.save(3)
        assert "cancelled" in device.outcomes[3]
        device.groups.restart()
        await device.save(4)
        await device.end(1)
        assert device.outcomes[4] == "saved"
        assert device.written == [[4]]

    run(scenario)


def test_a_waiter_who_is_cancelled_takes_nobody_along() -> None:
    async def scenario(device: Device) -> None:
        await device.save(1)
        for first in (2, 3, 4):
            await device.save(first)
        device.tasks[2].cancel()  # it would have led the next group
        await device.pause()
        await device.end(0)
        assert device.handed[1:] == [([3, 4], True)]
        await device.end(1)
        assert device.outcomes == {1: "saved", 3: "saved", 4: "saved"}

    run(scenario)
