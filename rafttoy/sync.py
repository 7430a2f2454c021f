"""What tasks of one peer wait on, built from the futures of its world."""

from __future__ import annotations

from collections import deque
from typing import Generic, TypeVar

from rafttoy.ports import Future, Tasks

__all__ = ["Mailbox", "Signal"]

T = TypeVar("T")


class Signal:
    """A level that one task waits for: `set` before `wait` is not lost, and many sets are one."""

    __slots__ = ("_set", "_tasks", "_waiter")

    def __init__(self, tasks: Tasks) -> None:
        self._tasks = tasks
        self._set = False
        self._waiter: Future[None] | None = None

    def set(self) -> None:
        waiter = self._waiter
        if waiter is None:
            self._set = True
        else:
            self._waiter = None
            if not waiter.done():  # its task may have been cancelled
                waiter.set_result(None)

    def clear(self) -> None:
        """Forgets what was set: for who is about to look at everything that it tells of."""
        self._set = False

    async def wait(self) -> None:
        """Returns once set, and clears."""
        if self._set:
            self._set = False
            return
        assert self._waiter is None or self._waiter.done(), "one task waits on a signal"
        waiter = self._waiter = self._tasks.future()
        try:
            await waiter
        finally:
            if self._waiter is waiter:  # cancelled: what is set now is for the next one
                self._waiter = None


class Mailbox(Generic[T]):
    """An unbounded queue with one reader, who takes all that waits."""

    __slots__ = ("_items", "_signal")

    def __init__(self, tasks: Tasks) -> None:
        self._items: deque[T] = deque()
        self._signal = Signal(tasks)

    def __len__(self) -> int:
        return len(self._items)

    def put(self, item: T) -> None:
        self._items.append(item)
        self._signal.set()

    async def take_all(self) -> list[T]:
        """At least one item, in order of arrival."""
        while not self._items:
            await self._signal.wait()
        items = list(self._items)
        self._items.clear()
        return items
