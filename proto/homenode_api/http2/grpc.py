"""gRPC's own words in HTTP/2 headers: status, timeouts, messages for people, binary values, compressed messages."""

from __future__ import annotations

import base64
import binascii
import zlib
from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple
from urllib.parse import quote, unquote

from homenode_api.http2 import headers as h
from homenode_api.http2.frames import Code


class StatusCode(IntEnum):
    """How a call ended."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


Metadata = tuple[tuple[str, str | bytes], ...]


class Status(NamedTuple):
    """How a call ended, with the metadata behind it."""

    code: int
    message: str = ""
    trailing: Metadata = ()


RESET_STATUS = {
    Code.REFUSED_STREAM: StatusCode.UNAVAILABLE,
    Code.CANCEL: StatusCode.CANCELLED,
    Code.ENHANCE_YOUR_CALM: StatusCode.RESOURCE_EXHAUSTED,
    Code.INADEQUATE_SECURITY: StatusCode.PERMISSION_DENIED,
}
HTTP_STATUS = {
    "400": StatusCode.INTERNAL,
    "401": StatusCode.UNAUTHENTICATED,
    "403": StatusCode.PERMISSION_DENIED,
    "404": StatusCode.UNIMPLEMENTED,
    "429": StatusCode.UNAVAILABLE,
    "502": StatusCode.UNAVAILABLE,
    "503": StatusCode.UNAVAILABLE,
    "504": StatusCode.UNAVAILABLE,
}
_CODES = frozenset(StatusCode)

_UNITS_S = {"H": 3_600.0, "M": 60.0, "S": 1.0, "m": 1e-3, "u": 1e-6, "n": 1e-9}
_PLAIN = "".join(chr(one) for one in range(0x20, 0x7F) if one != 0x25)

CONTENT_TYPE = ("content-type", "application/grpc")
#: Block of a response's initial headers.
RESPONSE = h.encode([(":status", "200"), CONTENT_TYPE])
#: Block of the trailers of a call that went well.
OK_TRAILERS = h.encode([("grpc-status", "0")])


def trailers(status: Status) -> bytes:
    """Block of a call's trailers."""
    return OK_TRAILERS if status == (0, "", ()) else h.encode(_trailing(status))


def only_trailers(status: Status) -> bytes:
    """Block of a response that has nothing but its status."""
    return h.encode([(":status", "200"), CONTENT_TYPE, *_trailing(status)])


def _trailing(status: Status) -> list[tuple[str, str | bytes]]:
    block: list[tuple[str, str | bytes]] = [("grpc-status", str(int(status.code)))]
    if status.message:
        block.append(("grpc-message", quote(status.message, safe=_PLAIN)))
    return block + list(encoded_metadata(status.trailing))


def encoded_metadata(metadata: Metadata) -> Iterable[tuple[str, str | bytes]]:
    """Metadata as headers: values of `-bin` names in base64."""
    for name, value in metadata:
        if name.endswith("-bin"):
            raw = value if isinstance(value, bytes) else value.encode()
            yield name, base64.b64encode(raw).rstrip(b"=")
        else:
            yield name, value


def metadata_of(headers: h.Headers) -> Metadata:
    """The caller's own metadata among headers."""
    found: list[tuple[str, str | bytes]] = []
    for name, value in headers:
        if name[:1] == ":" or name in _OURS:
            continue
        if name.endswith("-bin"):
            for part in value.split(","):
                with_padding = part + "=" * (-len(part) % 4)
                try:
                    found.append((name, base64.b64decode(with_padding, validate=True)))
                except (binascii.Error, ValueError):
                    continue
        else:
            found.append((name, value))
    return tuple(found)


_OURS = frozenset(
    ("te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-accept-encoding", "grpc-status", "grpc-message")
)


def status_of(headers: h.Headers) -> Status | None:
    """The status that headers bring; None where they bring none."""
    values = dict(headers)
    raw = values.get("grpc-status")
    if raw is None:
        return None
    code = int(raw) if raw.isdecimal() and len(raw) <= 2 else StatusCode.UNKNOWN
    message = unquote(values.get("grpc-message", ""), errors="replace")
    return Status(code if code in _CODES else StatusCode.UNKNOWN, message, metadata_of(headers))


def timeout_s(text: str) -> float | None:
    """The seconds of a grpc-timeout; None where it is none."""
    digits, unit = text[:-1], _UNITS_S.get(text[-1:])
    if unit is None or not digits.isdecimal() or not digits.isascii() or len(digits) > 8:
        return None
    return int(digits) * unit


def timeout_text(seconds: float) -> str:
    """A grpc-timeout, rounded up."""
    ms = max(1, -int(-seconds * 1_000 // 1))
    return f"{ms}m" if ms < 100_000_000 else f"{min(ms // 1_000, 99_999_999)}S"


def gunzip(data: bytes, size_max: int) -> bytes | None:
    """The bytes of a compressed message; None where it is malformed or larger than `size_max`."""
    inflate = zlib.decompressobj(31)
    try:
        plain = inflate.decompress(data, size_max + 1)
    except zlib.error:
        return None
    return plain if inflate.eof and not inflate.unused_data and len(plain) <= size_max else None
