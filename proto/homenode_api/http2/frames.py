"""HTTP/2 frames (RFC 9113) as bytes, and the two ways in which a peer can break the protocol."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from struct import Struct

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
WITH_PRIORITY = 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = (
    range(1, 7)
)

#: Length (its high 16 and low 8 bits), kind, flags, stream.
HEAD = Struct(">HBBBI")
HEAD_BYTES = 9
#: The same, and the prefix of a gRPC message: compressed or not, length.
HEAD_AND_PREFIX = Struct(">HBBBIBI")
PREFIX = Struct(">BI")
PREFIX_BYTES = 5
SETTING = Struct(">HI")
NUMBER = Struct(">I")
PAIR = Struct(">II")

WINDOW_DEFAULT = 65_535
WINDOW_MAX = 0x7FFF_FFFF
FRAME_BYTES_DEFAULT = 16_384


class Code(IntEnum):
    """Why a stream or connection is ended."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11
    INADEQUATE_SECURITY = 12
    HTTP_1_1_REQUIRED = 13


class Broken(Exception):
    """The peer has broken the protocol so that the connection must end: GOAWAY with `code`."""

    def __init__(self, code: Code, text: str) -> None:
        super().__init__(text)
        self.code = code


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """One frame."""
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def header_frames(stream: int, block: bytes, end: bool, frame_max: int) -> bytes:
    """A header block as HEADERS, and CONTINUATION where it is longer than a frame."""
    flags = END_STREAM if end else 0
    if len(block) <= frame_max:
        return frame(HEADERS, flags | END_HEADERS, stream, block)
    parts = [block[at : at + frame_max] for at in range(0, len(block), frame_max)]
    framed = [frame(HEADERS, flags, stream, parts[0])]
    framed += [frame(CONTINUATION, 0, stream, part) for part in parts[1:-1]]
    framed.append(frame(CONTINUATION, END_HEADERS, stream, parts[-1]))
    return b"".join(framed)


def settings(values: Mapping[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(SETTING.pack(*one) for one in values.items()))


def window_update(stream: int, more: int) -> bytes:
    """A WINDOW_UPDATE frame; stream 0 is the connection."""
    return frame(WINDOW_UPDATE, 0, stream, NUMBER.pack(more))


def reset(stream: int, code: Code) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, NUMBER.pack(code))


def goaway(last: int, code: Code) -> bytes:
    """A GOAWAY frame; `last`: the highest stream that was or will be looked at."""
    return frame(GOAWAY, 0, 0, NUMBER.pack(last) + NUMBER.pack(code))
