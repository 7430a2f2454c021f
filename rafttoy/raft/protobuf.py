"""The little of protobuf's wire format that raftpb's small messages need (entries have their own codec: `entries.py`).

Rules: scalars are always written, zero or not, as gogoproto writes raftpb's non-nullable fields; unknown fields are skipped;
a malformed field raises `MalformedMessage`.
"""

from __future__ import annotations

from collections.abc import Iterator

from rafttoy.errors import MalformedMessage
from rafttoy.ports import Buffer
from rafttoy.raft.entries import append_varint, read_varint

__all__ = ["expect_bytes", "expect_int", "fields", "put_bytes", "put_uint"]


def put_uint(out: bytearray, field: int, value: int) -> None:
    append_varint(out, field << 3)
    append_varint(out, value)


def put_bytes(out: bytearray, field: int, value: Buffer) -> None:
    append_varint(out, field << 3 | 2)
    append_varint(out, len(value))
    out += value  # type: ignore[arg-type]


def fields(data: Buffer) -> Iterator[tuple[int, int | bytes]]:
    """(field number, value) in order of appearance: an int for a varint or fixed field, bytes for a length-delimited one."""
    at, end = 0, len(data)
    while at < end:
        tag, at = read_varint(data, at, end)
        field, wire = tag >> 3, tag & 7
        if field == 0:
            raise MalformedMessage(f"field number 0 at byte {at}")
        if wire == 0:
            value, at = read_varint(data, at, end)
            yield field, value
            continue
        if wire == 2:
            length, at = read_varint(data, at, end)
        elif wire in (1, 5):
            length = 8 if wire == 1 else 4
        else:
            raise MalformedMessage(f"wire type {wire} at byte {at}")
        if at + length > end:
            raise MalformedMessage(f"field {field} of {length} bytes passes the end of its message")
        piece = bytes(data[at : at + length])  # type: ignore[arg-type]
        at += length
        yield field, piece if wire == 2 else int.from_bytes(piece, "little")


def expect_int(value: int | bytes) -> int:
    if not isinstance(value, int):
        raise MalformedMessage("a number was expected, bytes found")
    return value


def expect_bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise MalformedMessage("bytes were expected, a number found")
    return value
