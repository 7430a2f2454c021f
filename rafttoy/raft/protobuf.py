"""The little of protobuf's wire format that is needed: varints, and fields of raftpb's small messages (entries and messages between peers
have codecs of their own: `entries.py`, `rafttoy/wire.py`).

Rules: scalars are always written, zero or not, as gogoproto writes raftpb's non-nullable fields; unknown fields are skipped;
a malformed field raises `MalformedMessage`.
"""

from __future__ import annotations

from collections.abc import Iterator

from rafttoy.errors import MalformedMessage
from rafttoy.ports import Buffer

__all__ = ["append_varint", "expect_bytes", "expect_int", "fields", "put_bytes", "put_uint", "read_varint", "varint", "varint_size"]


def varint_size(value: int) -> int:
    """Bytes of `value` as a protobuf varint."""
    return (value.bit_length() + 6) // 7 or 1


def append_varint(out: bytearray, value: int) -> None:
    if value < 0x80:
        out.append(value)
    elif value < 0x4000:
        out += bytes((value & 0x7F | 0x80, value >> 7))
    elif value < 0x200000:
        out += bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    else:
        while value > 0x7F:
            out.append(value & 0x7F | 0x80)
            value >>= 7
        out.append(value)


def varint(value: int) -> bytes:
    """`value` as a protobuf varint."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    if value < 0x200000:
        return bytes((value & 0x7F | 0x80, value >> 7 & 0x7F | 0x80, value >> 14))
    out = bytearray()
    append_varint(out, value)
    return bytes(out)


def read_varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """(value, offset behind it); MalformedMessage if it passes `end` or 64 bits."""
    if at + 1 < end:  # most are short
        value: int = data[at]  # type: ignore[assignment, index]
        if value < 0x80:
            return value, at + 1
        second: int = data[at + 1]  # type: ignore[assignment, index]
        if second < 0x80:
            return value & 0x7F | second << 7, at + 2
        if at + 2 < end:
            third: int = data[at + 2]  # type: ignore[assignment, index]
            if third < 0x80:
                return value & 0x7F | (second & 0x7F) << 7 | third << 14, at + 3
    value = shift = 0
    while at < end:
        byte: int = data[at]  # type: ignore[assignment, index]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if value >= 1 << 64:
                break
            return value, at
        shift += 7
        if shift > 63:
            break
    raise MalformedMessage(f"bad varint at byte {at}")


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
