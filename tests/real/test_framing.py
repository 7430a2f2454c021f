"""Frames come whole and in order, however the bytes are cut on their way."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rafttoy.real.framing import FrameReader
from rafttoy.wire import MESSAGE_LIMIT_BYTES


class Receiver:
    def __init__(self) -> None:
        self.frames: list[bytes] = []
        self.garbage: list[str] = []
        self.closed = False
        self.reader = FrameReader(lambda frame, _: self.frames.append(frame), self.garbage.append)
        self.reader.connection_made(self)

    def close(self) -> None:
        self.closed = True

    def is_closing(self) -> bool:
        return self.closed

    def feed(self, data: bytes, pieces: list[int]) -> None:
        """`data` in reads of these sizes (the last one again and again), as a loop makes them: into the buffer it is given."""
        at = 0
        sizes = iter(pieces)
        size = 1 << 20
        while at < len(data) and not self.closed:
            size = next(sizes, size)
            buffer = self.reader.get_buffer(-1)
            assert len(buffer) > 0, "no room for a read"
            count = min(size, len(buffer), len(data) - at)
            buffer[:count] = data[at : at + count]
            self.reader.buffer_updated(count)
            at += count


def framed(frames: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(frame)) + frame for frame in frames)


@given(
    st.lists(st.one_of(st.binary(max_size=40), st.integers(0, 300_000).map(bytes)), max_size=12),
    st.lists(st.integers(1, 100_000), min_size=1, max_size=30),
)
def test_frames_come_whole(frames: list[bytes], pieces: list[int]) -> None:
    receiver = Receiver()
    receiver.feed(framed(frames), pieces)
    assert receiver.frames == frames
    assert receiver.garbage == []


@pytest.mark.parametrize("sizes", [[0], [1, 0, 1], [(256 << 10) - 4], [256 << 10], [3 << 20, 5, 4 << 20], [65_536] * 40])
@pytest.mark.parametrize("piece", [1 << 16, (1 << 16) - 1, 3_000_000])
def test_sizes_around_the_buffers(sizes: list[int], piece: int) -> None:
    receiver = Receiver()
    frames = [bytes([i % 256]) * size for i, size in enumerate(sizes)]
    receiver.feed(framed(frames), [piece])
    assert receiver.frames == frames


def test_a_byte_at_a_time() -> None:
    receiver = Receiver()
    receiver.feed(framed([b"abc", b"", b"defgh"]), [1])
    assert receiver.frames == [b"abc", b"", b"defgh"]


def test_a_frame_is_its_own_bytes() -> None:
    """What comes later does not change what was handed over."""
    receiver = Receiver()
    receiver.feed(framed([b"first" * 1000]), [100])
    receiver.feed(framed([b"other" * 100_000]), [100_000])
    assert receiver.frames[0] == b"first" * 1000


@pytest.mark.parametrize("length", [MESSAGE_LIMIT_BYTES + 1, 0xFFFFFFFF])
def test_a_length_beyond_the_limit_ends_the_connection(length: int) -> None:
    receiver = Receiver()
    receiver.feed(framed([b"fine"]) + struct.pack("<I", length) + bytes(100), [7])
    assert receiver.frames == [b"fine"]
    assert receiver.closed
    assert len(receiver.garbage) == 1
    assert f"a frame of {length} bytes" in receiver.garbage[0]


def test_a_connection_is_dropped_once_whatever_else_came_by_it() -> None:
    """A peer reads its mailbox later, and finds garbage in more than one frame."""
    receiver = Receiver()
    receiver.feed(framed([b"garbage", b"more garbage"]), [1 << 20])
    receiver.reader.drop("garbage")
    receiver.reader.drop("more garbage")
    assert receiver.garbage == ["garbage"]
    assert receiver.closed
