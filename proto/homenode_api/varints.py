"""Protobuf's variable-length integers, for messages that are written and read by hand."""

from __future__ import annotations

_BYTES_MAX = 10


def varint(value: int) -> bytes:
    """A number of 0 or more."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def varint_at(message: bytes, at: int) -> tuple[int, int]:
    """(number, position after it); a position behind the message where there is none."""
    value = 0
    for shift in range(0, 7 * _BYTES_MAX, 7):
        if at >= len(message):
            break
        byte = message[at]
        value, at = value | (byte & 0x7F) << shift, at + 1
        if byte < 0x80:
            return value, at
    return 0, len(message) + 1
