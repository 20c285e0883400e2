"""What a peer may not do, or not so often: the right error, on the stream where that will do, and nothing grows."""

from __future__ import annotations

import gzip
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homenode_api.http2 import frames as f
from homenode_api.http2.connection import Bounds
from homenode_api.http2.frames import Broken, Code
from homenode_api.http2.grpc import OK_TRAILERS, StatusCode, gunzip
from homenode_api.http2.headers import encode
from tests.http2.ends import POST, REQUEST, SETTINGS, Pair, Served

OPEN = f.frame(f.HEADERS, f.END_HEADERS, 1, REQUEST)
WIDE = OPEN + f.window_update(1, f.WINDOW_MAX - 65_535)
ENDED = f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, REQUEST)


def _headers(*headers: tuple[str, str]) -> bytes:
    return f.header_frames(1, encode(headers), False, f.FRAME_BYTES_DEFAULT)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (f.frame(f.SETTINGS, 0, 1), Code.PROTOCOL_ERROR),
        (f.frame(f.SETTINGS, 0, 0, b"12345"), Code.FRAME_SIZE_ERROR),
        (f.frame(f.SETTINGS, f.ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR),
        (f.settings({f.INITIAL_WINDOW_SIZE: 1 << 31}), Code.FLOW_CONTROL_ERROR),
        (f.settings({f.MAX_FRAME_SIZE: 100}), Code.PROTOCOL_ERROR),
        (f.settings({f.ENABLE_PUSH: 2}), Code.PROTOCOL_ERROR),
        (f.HEAD.pack(64, 1, f.DATA, 0, 1), Code.FRAME_SIZE_ERROR),
        (f.frame(f.DATA, 0, 1, b"x"), Code.PROTOCOL_ERROR),
        (f.frame(f.DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR),
        (OPEN + f.frame(f.DATA, f.PADDED, 1, b"\5abc"), Code.PROTOCOL_ERROR),
        (OPEN + f.frame(f.DATA, f.PADDED, 1), Code.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS, 0, REQUEST), Code.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS, 2, REQUEST), Code.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS | f.PADDED, 1, b"\xff"), Code.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS, 1, b"\xff\xff\xff\xff"), Code.COMPRESSION_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS, 1, b"\x80"), Code.COMPRESSION_ERROR),
        (f.frame(f.HEADERS, f.END_HEADERS, 1, b"\x3f\xff\xff\x07"), Code.COMPRESSION_ERROR),
        (f.frame(f.HEADERS, 0, 1, REQUEST) + f.frame(f.PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, 0, 1, REQUEST) + f.frame(f.DATA, 0, 1), Code.PROTOCOL_ERROR),
        (f.frame(f.HEADERS, 0, 1, REQUEST) + f.frame(f.CONTINUATION, 0, 3), Code.PROTOCOL_ERROR),
        (f.frame(f.CONTINUATION, f.END_HEADERS, 1, REQUEST), Code.PROTOCOL_ERROR),
        (f.frame(f.PRIORITY, 0, 0, bytes(5)), Code.PROTOCOL_ERROR),
        (f.frame(f.PRIORITY, 0, 1, bytes(4)), Code.FRAME_SIZE_ERROR),
        (f.frame(f.RST_STREAM, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
        (f.frame(f.RST_STREAM, 0, 0, bytes(4)), Code.PROTOCOL_ERROR),
        (OPEN + f.frame(f.RST_STREAM, 0, 1, bytes(3)), Code.FRAME_SIZE_ERROR),
        (f.frame(f.PUSH_PROMISE, 0, 1, bytes(4)), Code.PROTOCOL_ERROR),
        (f.frame(f.PING, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
        (f.frame(f.PING, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
        (f.frame(f.GOAWAY, 0, 1, bytes(8)), Code.PROTOCOL_ERROR),
        (f.frame(f.GOAWAY, 0, 0, bytes(7)), Code.FRAME_SIZE_ERROR),
        (f.frame(f.WINDOW_UPDATE, 0, 0, bytes(3)), Code.FRAME_SIZE_ERROR),
        (f.window_update(0, 0), Code.PROTOCOL_ERROR),
        (f.window_update(0, f.WINDOW_MAX), Code.FLOW_CONTROL_ERROR),
        (f.window_update(1, 5), Code.PROTOCOL_ERROR),
        (WIDE + f.settings({f.INITIAL_WINDOW_SIZE: 70_000}), Code.FLOW_CONTROL_ERROR),
    ],
)  # fmt: skip
def test_what_ends_the_connection(data: bytes, code: Code) -> None:
    served = Served().begin()
    with pytest.raises(Broken) as broken:
        served.end.receive(data)
    assert broken.value.code == code


@pytest.mark.parametrize("data", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01\x02\x00", f.PREFACE[:-1] + b"x"])
def test_who_does_not_speak_http2(data: bytes) -> None:
    with pytest.raises(Broken) as broken:
        Served().end.receive(data)
    assert broken.value.code == Code.PROTOCOL_ERROR


@pytest.mark.parametrize("first", [OPEN, f.frame(f.PING, 0, 0, bytes(8)), f.frame(f.SETTINGS, f.ACK, 0)])
def test_settings_come_first(first: bytes) -> None:
    with pytest.raises(Broken) as broken:
        Served().end.receive(f.PREFACE + first)
    assert broken.value.code == Code.PROTOCOL_ERROR


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (ENDED + f.frame(f.DATA, 0, 1, b"x"), Code.STREAM_CLOSED),
        (OPEN + f.window_update(1, 0), Code.PROTOCOL_ERROR),
        (OPEN + f.window_update(1, f.WINDOW_MAX), Code.FLOW_CONTROL_ERROR),
        (OPEN + OPEN, Code.PROTOCOL_ERROR),
        (_headers(*POST, (":path", "/again")), Code.PROTOCOL_ERROR),
        (_headers(*POST[1:]), Code.PROTOCOL_ERROR),
        (_headers(*POST, ("Upper", "case")), Code.PROTOCOL_ERROR),
        (_headers(*POST, ("connection", "close")), Code.PROTOCOL_ERROR),
        (_headers(*POST, (":status", "200")), Code.PROTOCOL_ERROR),
        (_headers(("te", "trailers"), *POST[:4]), Code.PROTOCOL_ERROR),
        (_headers(*POST[:4], ("te", "gzip"), POST[5]), Code.PROTOCOL_ERROR),
    ],
)
def test_what_ends_a_stream_and_no_other(data: bytes, code: Code) -> None:
    served = Served().begin()
    served.end.receive(data)
    resets = [payload for kind, _, number, payload in served.sent() if kind == f.RST_STREAM and number == 1]
    assert resets == [f.NUMBER.pack(code)]
    served.end.receive(f.frame(f.HEADERS, f.END_HEADERS, 3, REQUEST))
    served.end.receive(f.frame(f.DATA, f.END_STREAM, 3, f.PREFIX.pack(0, 2) + b"ok"))
    assert served.calls[-1].messages == [b"ok"]


def test_what_comes_late_for_a_stream_that_is_over_is_ignored() -> None:
    served = Served().begin()
    served.end.receive(OPEN)
    stream = served.calls[0].stream
    assert stream is not None
    stream.finish(b"\x88")
    served.sent()
    for late in (f.frame(f.DATA, f.END_STREAM, 1, b"late"), f.window_update(1, 5), f.reset(1, Code.CANCEL), OPEN):
        served.end.receive(late)
    assert not served.sent()


def test_more_than_a_stream_or_connection_may_send() -> None:
    served = Served(Bounds(stream_window=70_000, window=140_000), keen=False).begin()
    served.end.receive(OPEN)
    body = f.PREFIX.pack(0, 10_000) + bytes(10_000)
    for _ in range(6):
        served.end.receive(f.frame(f.DATA, 0, 1, body))
    served.end.receive(f.frame(f.DATA, 0, 1, body))
    assert [p for kind, *_, p in served.sent() if kind == f.RST_STREAM] == [f.NUMBER.pack(Code.FLOW_CONTROL_ERROR)]
    assert served.calls[0].status is not None
    strict = Served(Bounds(stream_window=200_000, window=65_535)).begin()
    strict.end._left = 5_000  # as if the rest were on its way
    strict.end.receive(OPEN)
    with pytest.raises(Broken) as broken:
        strict.end.receive(f.frame(f.DATA, 0, 1, body))
    assert broken.value.code == Code.FLOW_CONTROL_ERROR


def test_messages_that_are_too_large_or_too_many_at_once() -> None:
    served = Served(Bounds(message_bytes=1_000_000, unfinished_bytes=1_500_000)).begin()
    served.end.receive(OPEN + f.frame(f.DATA, 0, 1, f.PREFIX.pack(0, 1_000_001)))
    status = served.calls[0].status
    assert status is not None and status.code == StatusCode.RESOURCE_EXHAUSTED
    for number in (3, 5):
        served.end.receive(f.frame(f.HEADERS, f.END_HEADERS, number, REQUEST))
        served.end.receive(f.frame(f.DATA, 0, number, f.PREFIX.pack(0, 1_000_000)))
        for _ in range(60):
            served.end.receive(f.frame(f.DATA, 0, number, bytes(16_000)))
    status = served.calls[2].status
    assert status is not None and status.code == StatusCode.RESOURCE_EXHAUSTED, "what is unfinished has a bound"
    assert served.calls[1].status is None
    served.calls[1].stream.close()  # type: ignore[union-attr]
    assert served.end.unfinished == 0


def test_a_message_that_is_cut_off_or_wrongly_marked() -> None:
    served = Served().begin()
    for number, data in ((1, f.PREFIX.pack(0, 9) + b"half"), (3, b"\0\0"), (5, f.PREFIX.pack(1, 1) + b"x")):
        served.end.receive(f.frame(f.HEADERS, f.END_HEADERS, number, REQUEST))
        served.end.receive(f.frame(f.DATA, f.END_STREAM, number, data))
    assert [call.status.code for call in served.calls if call.status] == [StatusCode.INTERNAL] * 3


def test_streams_above_the_limit_are_refused_and_others_served() -> None:
    served = Served(Bounds(streams=2)).begin()
    for number in (1, 3, 5):
        served.end.receive(f.frame(f.HEADERS, f.END_HEADERS, number, REQUEST))
    assert [(n, p) for kind, _, n, p in served.sent() if kind == f.RST_STREAM] == [
        (5, f.NUMBER.pack(Code.REFUSED_STREAM))
    ]
    served.end.receive(f.reset(1, Code.CANCEL) + f.frame(f.HEADERS, f.END_HEADERS, 7, REQUEST))
    assert len(served.calls) == 3 and served.calls[0].status is not None


def test_header_lists_are_bounded() -> None:
    served = Served().begin()
    served.end.receive(_headers(*POST, *((f"x-{n}", "v" * 1_000) for n in range(20))))
    kind, flags, number, block = served.sent()[0]
    assert (kind, number) == (f.HEADERS, 1) and flags & f.END_STREAM and b"grpc-status" in block
    assert not served.calls
    with pytest.raises(Broken) as broken:  # nothing but references to one large entry
        big = encode([("x-large", "v" * 3_000)]).replace(b"\0", b"\x40", 1)
        served.end.receive(f.frame(f.HEADERS, f.END_HEADERS, 3, REQUEST + big + b"\xbe" * 200))
    assert broken.value.code == Code.COMPRESSION_ERROR
    endless = Served().begin()
    with pytest.raises(Broken) as broken:
        endless.end.receive(f.frame(f.HEADERS, 0, 1, b""))
        for _ in range(1_000):
            endless.end.receive(f.frame(f.CONTINUATION, 0, 1, b""))
    assert broken.value.code in (Code.ENHANCE_YOUR_CALM, Code.PROTOCOL_ERROR)


@pytest.mark.parametrize(
    "make",
    [
        lambda number: f.frame(f.PING, 0, 0, bytes(8)),
        lambda number: SETTINGS,
        lambda number: f.frame(f.PRIORITY, 0, 1, bytes(5)),
        lambda number: f.frame(f.DATA, 0, 1),
        lambda number: f.frame(f.DATA, f.PADDED, 1, b"\0"),
        lambda number: f.window_update(0, 1),
        lambda number: f.frame(77, 0, 0),
        lambda number: f.frame(f.HEADERS, f.END_HEADERS, number, REQUEST) + f.reset(number, Code.CANCEL),
        lambda number: f.frame(f.HEADERS, f.END_HEADERS, number, b""),
    ],
    ids=["ping", "settings", "priority", "data", "padding", "window", "unknown", "rapid reset", "malformed"],
)
def test_floods(make: object) -> None:
    served = Served(Bounds(calm=500, streams=10_000)).begin()
    served.end.receive(OPEN)
    with pytest.raises(Broken) as broken:
        for turn in range(1_000):
            served.end.receive(make(3 + 2 * turn))  # type: ignore[operator]
            assert len(b"".join(served.end.out)) < 50_000
    assert broken.value.code == Code.ENHANCE_YOUR_CALM


def test_who_pings_now_and_then_may() -> None:
    served = Served(Bounds(calm=50)).begin()
    for _ in range(100):
        served.end.receive(f.frame(f.PING, 0, 0, b"12345678"))
        assert served.sent() == [(f.PING, f.ACK, 0, b"12345678")]
        served.end.tick()


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=300), st.booleans())
def test_noise(noise: bytes, framed: bool) -> None:
    served = Served().begin()
    served.end.receive(OPEN)
    data = (
        b"".join(f.frame(b % 11, noise[i - 1], b % 4, noise[i : i + b % 40]) for i, b in enumerate(noise))
        if framed
        else noise
    )
    try:
        served.end.receive(data)
    except Broken:
        return
    assert len(served.end._rest) <= len(data)


def test_damaged_conversations() -> None:
    rng = random.Random(5)
    pair = Pair()
    call = pair.call()
    assert call.stream is not None
    call.stream.send(b"hello", end=True)
    data = b"".join(pair.client.out)
    for _ in range(2_000):
        damaged = bytearray(data)
        for _ in range(rng.randint(1, 4)):
            damaged[rng.randrange(24, len(data))] = rng.randrange(256)
        try:
            Served().end.receive(bytes(damaged))
        except Broken:
            pass


def test_what_one_frame_makes_of_many_streams_has_its_price() -> None:
    served = Served(Bounds(calm=500)).begin()
    served.end.receive(OPEN)
    entries = [(f.INITIAL_WINDOW_SIZE, size) for size in (0, f.WINDOW_MAX, 70_000)]
    served.end.receive(f.frame(f.SETTINGS, 0, 0, b"".join(f.SETTING.pack(*one) for one in entries)))
    stream = served.calls[0].stream
    assert stream is not None and stream.send_window == 70_000, "what counts is what a frame says last"
    with pytest.raises(Broken) as broken:
        served.end.receive(f.frame(f.SETTINGS, 0, 0, f.SETTING.pack(f.INITIAL_WINDOW_SIZE, 5) * 600))
    assert broken.value.code == Code.ENHANCE_YOUR_CALM


def test_small_windows_for_many_streams_that_wait_have_their_price() -> None:
    served = Served(Bounds(calm=1_500)).begin()
    served.end.receive(f.settings({f.INITIAL_WINDOW_SIZE: 0}))
    for number in range(1, 1_001, 2):
        served.end.receive(f.frame(f.HEADERS, f.END_HEADERS, number, REQUEST))
        stream = served.calls[-1].stream
        assert stream is not None
        assert not stream.send(b"waits")
    served.sent()
    served.end.receive(f.window_update(7, 10))
    assert [(kind, number) for kind, _, number, _ in served.sent()] == [(f.DATA, 7)]
    with pytest.raises(Broken) as broken:
        served.end.receive(f.window_update(0, 1) * 500)
    assert broken.value.code == Code.ENHANCE_YOUR_CALM


def test_what_is_compressed_stays_so_until_it_is_taken() -> None:
    served = Served(keen=False).begin()
    served.end.receive(OPEN)
    call, bomb = served.calls[0], gzip.compress(bytes(4 << 20))
    assert call.stream is not None
    call.stream.inflate = gunzip
    for _ in range(20):
        served.end.receive(f.frame(f.DATA, 0, 1, f.PREFIX.pack(1, len(bomb)) + bomb))
    assert sum(map(len, call.stream.messages)) == 20 * len(bomb)
    assert call.stream.take() == bytes(4 << 20)
    served.end.receive(f.frame(f.DATA, 0, 1, f.PREFIX.pack(1, 3) + b"bad"))
    call.take()
    assert call.messages == [bytes(4 << 20)] * 19
    assert call.status is not None and call.status.code == StatusCode.INTERNAL


def test_headers_that_grow_when_they_are_read_are_not_remembered() -> None:
    served = Served().begin()
    large = encode([("x-large", "v" * 3_000)]).replace(b"\0", b"\x40", 1)
    served.end.receive(f.frame(f.HEADERS, f.END_HEADERS, 1, REQUEST + large))
    for number in range(3, 403, 2):
        block = REQUEST + encode([("x-n", str(number))]) + b"\xbe" * 5
        served.end.receive(f.frame(f.HEADERS, f.END_HEADERS, number, block))
    assert len(served.calls) == 201
    assert not served.end._reader._known


def test_nothing_is_read_behind_a_message_that_cannot_be() -> None:
    served = Served(Bounds(message_bytes=1_000)).begin()
    served.end.receive(f.settings({f.INITIAL_WINDOW_SIZE: 0}))
    served.end.receive(OPEN)
    call = served.calls[0]
    assert call.stream is not None
    call.stream.send(b"waits for a window")
    served.end.receive(f.frame(f.DATA, 0, 1, f.PREFIX.pack(0, 5_000) + bytes(100)))
    assert call.status is not None
    call.stream.finish(OK_TRAILERS)
    served.end.receive(f.frame(f.DATA, 0, 1, f.PREFIX.pack(0, 2) + b"no"))
    assert not call.messages and not call.stream.messages
    served.sent()
    served.end.receive(f.window_update(1, 1_000))
    assert [kind for kind, *_ in served.sent()] == [f.DATA, f.HEADERS, f.RST_STREAM]
