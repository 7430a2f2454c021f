"""Length-prefixed frames over a byte stream: uint32 little endian, then that many bytes."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any

from rafttoy.wire import MESSAGE_LIMIT_BYTES

__all__ = ["LENGTH", "FrameReader"]

LENGTH = struct.Struct("<I")
_FIRST_BYTES = 256 << 10
_unpack_length = LENGTH.unpack_from


class FrameReader(asyncio.BufferedProtocol):
    """Receives into one buffer and hands over whole frames, each as its own bytes. A length beyond the message limit is garbage:
    the connection is dropped and `on_garbage(reason)` told."""

    def __init__(
        self,
        on_frame: Callable[[bytes, FrameReader], None],
        on_garbage: Callable[[str], None],
        on_close: Callable[[FrameReader], None] = lambda reader: None,
    ) -> None:
        self._on_frame, self._on_garbage, self._on_close = on_frame, on_garbage, on_close
        self._buffer = bytearray(_FIRST_BYTES)
        self._view = memoryview(self._buffer)
        self._begin = self._end = 0
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        self._on_close(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._view[self._end :] if self._end else self._view

    def buffer_updated(self, nbytes: int) -> None:
        view = self._view
        if not self._end and nbytes > 4 and _unpack_length(view)[0] == nbytes - 4 <= MESSAGE_LIMIT_BYTES:  # one frame and no more
            self._on_frame(bytes(view[4:nbytes]), self)
            return
        begin, end = self._begin, self._end + nbytes
        self._end = end
        needed = 4
        while end - begin >= 4:
            (length,) = _unpack_length(view, begin)
            if length > MESSAGE_LIMIT_BYTES:
                self.drop(f"a frame of {length} bytes is announced, the limit is {MESSAGE_LIMIT_BYTES}")
                return
            stop = begin + 4 + length
            if stop > end:
                needed = 4 + length
                break
            frame = bytes(view[begin + 4 : stop])
            begin = stop
            self._on_frame(frame, self)
        if begin == end:
            self._begin = self._end = 0
        else:
            self._begin = begin
            self._make_room(needed)

    def drop(self, reason: str) -> None:
        """Ends the connection. Frames that came by it before may be garbage too: that is not told again."""
        if self.transport.is_closing():
            return
        self._on_garbage(reason)
        self._begin = self._end = 0
        self.transport.close()

    def _make_room(self, needed: int) -> None:
        """Room for the rest of a frame of `needed` bytes that has begun to come, and for at least one more read."""
        begin, end, size = self._begin, self._end, len(self._buffer)
        if begin and (size - end < 65536 or begin + needed > size):
            held = bytes(self._view[begin:end])
            self._view[: len(held)] = held
            self._begin, self._end = 0, len(held)
        if self._begin + needed > size or size == self._end:
            larger = bytearray(max(2 * size, needed))
            larger[: self._end] = self._view[: self._end]
            self._buffer, self._view = larger, memoryview(larger)
