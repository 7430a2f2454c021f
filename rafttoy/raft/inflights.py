"""The window of append messages sent to a follower and not yet answered (thesis §10.2.1: pipelining)."""

from __future__ import annotations

from collections import deque

__all__ = ["Inflights"]


class Inflights:
    """At most `max_messages` messages, and no further one once `max_bytes` bytes are out. The byte limit is soft: the message
    that reaches it is still let out, so a limit below one message's size cannot stop replication."""

    __slots__ = ("_window", "bytes", "max_bytes", "max_messages")

    def __init__(self, max_messages: int, max_bytes: int) -> None:
        self.max_messages, self.max_bytes = max_messages, max_bytes
        self.bytes = 0
        self._window: deque[tuple[int, int]] = deque()

    def __len__(self) -> int:
        return len(self._window)

    def add(self, last_index: int, nbytes: int) -> None:
        """A message whose last entry is `last_index` leaves. Ascending, and not while `full`."""
        self._window.append((last_index, nbytes))
        self.bytes += nbytes

    def free_to(self, index: int) -> None:
        """The follower has everything up to `index`."""
        window = self._window
        while window and window[0][0] <= index:
            self.bytes -= window.popleft()[1]

    @property
    def full(self) -> bool:
        return len(self._window) >= self.max_messages or self.bytes >= self.max_bytes

    def clear(self) -> None:
        self._window.clear()
        self.bytes = 0

    def copy(self) -> Inflights:
        other = Inflights(self.max_messages, self.max_bytes)
        other._window = self._window.copy()
        other.bytes = self.bytes
        return other
