"""Messages between two ends: however the bytes are cut, in whatever order streams take turns, in any size."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from homenode_api.http2 import frames as f
from homenode_api.http2 import grpc as g
from homenode_api.http2.connection import Bounds
from homenode_api.http2.grpc import Status, StatusCode
from homenode_api.http2.headers import encode
from tests.http2.ends import POST, REQUEST, SETTINGS, Noted, Pair, Served, answer, take


def _bytewise(data: bytes) -> Iterable[bytes]:
    return (data[at : at + 1] for at in range(len(data)))


@pytest.mark.parametrize("cut", [_bytewise, lambda data: [data]], ids=["byte by byte", "at once"])
def test_all_four_kinds_of_call(cut: object) -> None:
    pair = Pair(cut=cut)  # type: ignore[arg-type]
    first, second = pair.call(), pair.call()
    assert first.stream is not None and second.stream is not None
    first.stream.send(b"one", end=True)
    for message in (b"", b"two", b"x" * 3_000):
        second.stream.send(message)
    second.stream.end()
    pair.run()
    one, two = pair.served.calls
    assert one.messages == [b"one"] and one.ended
    assert two.messages == [b"", b"two", b"x" * 3_000] and two.ended
    answer(two, b"a", b"b" * 40_000, b"")
    answer(one, status=Status(StatusCode.ABORTED, "nein – 100 %\n", (("x-bin", b"\0\xff"), ("y", "z"))))
    pair.run()
    assert second.messages == [b"a", b"b" * 40_000, b""] and second.status == Status(0)
    assert first.status is not None and first.status.code == StatusCode.ABORTED
    assert first.status.message == "nein – 100 %\n"
    assert dict(first.status.trailing) == {"x-bin": b"\0\xff", "y": "z"}
    assert not pair.client.streams and not pair.server.streams


def test_cut_at_every_place() -> None:
    client = Pair()
    call = client.call()
    assert call.stream is not None
    call.stream.send(b"hello")
    call.stream.send(b"y" * 300)
    call.stream.end()
    data = take(client.client)
    for at in range(1, len(data)):
        served = Served()
        served.end.receive(data[:at])
        served.end.receive(data[at:])
        assert served.calls[0].messages == [b"hello", b"y" * 300] and served.calls[0].ended, at


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(0, 70_000), max_size=5), min_size=1, max_size=4),
    st.integers(0, 2**32),
    st.sampled_from([f.WINDOW_DEFAULT, 100_000]),
)
def test_whatever_is_sent_comes_out(sizes: list[list[int]], seed: int, window: int) -> None:
    rng = random.Random(seed)

    def cut(data: bytes) -> Iterable[bytes]:
        places = sorted({0, len(data), *(rng.randrange(len(data) + 1) for _ in range(3))})
        return (data[a:b] for a, b in pairwise(places))

    bounds = Bounds(stream_window=window, window=200_000)
    pair = Pair(bounds, bounds, cut=cut)
    wanted = [[rng.randbytes(size) for size in some] for some in sizes]
    calls = [pair.call() for _ in wanted]
    turns = [(call, message) for call, some in zip(calls, wanted, strict=True) for message in some]
    rng.shuffle(order := list(range(len(turns))))
    told: dict[int, list[bytes]] = {id(call): [] for call in calls}
    for place in order:
        call, message = turns[place]
        assert call.stream is not None
        call.stream.send(message)
        told[id(call)].append(message)
    for call in calls:
        assert call.stream is not None
        call.stream.end()
    pair.run()
    for call, got in zip(calls, pair.served.calls, strict=True):
        assert got.messages == told[id(call)] and got.ended
        answer(got, *got.messages)
    pair.run()
    for call in calls:
        assert call.messages == told[id(call)] and call.status == Status(0)
    assert not pair.server.waiting and not pair.server.unfinished and not pair.client.waiting


def test_a_slow_reader_holds_up_itself_alone() -> None:
    bounds = Bounds(stream_window=f.WINDOW_DEFAULT)
    pair = Pair(bounds, bounds, keen=False)
    slow, quick = pair.call(), pair.call()
    assert slow.stream is not None and quick.stream is not None
    for _ in range(50):
        slow.stream.send(b"s" * 5_000)
    quick.stream.send(b"q", end=True)
    pair.run()
    stalled, served = pair.served.calls
    assert stalled.stream is not None and served.stream is not None
    assert sum(map(len, stalled.stream.messages)) <= f.WINDOW_DEFAULT, "no more than its window waits"
    assert not slow.written and served.stream.take() == b"q"
    answer(served, b"done")
    pair.run()
    assert quick.messages == [b"done"] and quick.status == Status(0)
    stalled.keen = True
    stalled.take()
    pair.run()
    assert len(stalled.messages) == 50 and slow.written == 1


def test_a_message_larger_than_the_window_comes_when_it_is_waited_for() -> None:
    bounds = Bounds(stream_window=f.WINDOW_DEFAULT)
    pair = Pair(bounds, bounds, keen=False)
    call = pair.call()
    assert call.stream is not None
    for _ in range(3):
        call.stream.send(b"m" * 1_000_000)
    pair.run()
    served = pair.served.calls[0]
    assert served.stream is not None and len(served.stream.messages) == 1, "the next one waits until this is taken"
    for left in (2, 1, 0):
        assert served.stream.take() == b"m" * 1_000_000
        pair.run()
        assert len(served.stream.messages) == (1 if left else 0)
    assert pair.server.unfinished == 0


def test_a_transport_that_has_enough_is_left_alone() -> None:
    pair = Pair()
    call = pair.call()
    pair.run()
    pair.server.paused = True
    answer(pair.served.calls[0], b"a", b"b")
    waiting = pair.server.waiting
    pair.run()
    assert not call.messages and waiting == 12
    pair.server.paused = False
    pair.server.pump()
    pair.run()
    assert call.messages == [b"a", b"b"] and call.status == Status(0)


def test_padding_priority_and_continuation() -> None:
    served = Served().begin()
    parts = [REQUEST[:10], REQUEST[10:11], REQUEST[11:]]
    body = f.PREFIX.pack(0, 3) + b"abc"
    served.end.receive(
        f.frame(f.HEADERS, f.PADDED | f.WITH_PRIORITY, 1, b"\2" + b"\0\0\0\0\7" + parts[0] + b"\0\0")
        + f.frame(f.CONTINUATION, 0, 1, parts[1])
        + f.frame(f.CONTINUATION, f.END_HEADERS, 1, parts[2])
        + f.frame(f.PRIORITY, 0, 3, bytes(5))
        + f.frame(99, 0, 0, b"unknown kinds are ignored")
        + f.frame(f.DATA, f.PADDED, 1, b"\5" + body[:4] + bytes(5))
        + f.frame(f.DATA, f.PADDED | f.END_STREAM, 1, b"\0" + body[4:])
    )
    call = served.calls[0]
    assert call.messages == [b"abc"] and call.ended and call.request is not None and call.request.path == "/s/M"


def test_compressed_messages() -> None:
    import gzip

    served = Served().begin()
    served.end.receive(f.frame(f.HEADERS, f.END_HEADERS, 1, REQUEST))
    call = served.calls[0]
    assert call.stream is not None
    call.stream.inflate = g.gunzip
    packed = gzip.compress(b"plain" * 1_000)
    served.end.receive(f.frame(f.DATA, 0, 1, f.PREFIX.pack(1, len(packed)) + packed))
    assert call.messages == [b"plain" * 1_000]
    bomb = gzip.compress(bytes(5 << 20))
    served.end.receive(f.frame(f.DATA, 0, 1, f.PREFIX.pack(1, len(bomb)) + bomb))
    assert call.status is not None and call.status.code == StatusCode.INTERNAL


def test_headers_are_read_the_same_whether_known_or_not() -> None:
    from hpack import Encoder

    served = Served().begin()
    encoder, number = Encoder(), 1
    wanted = []
    for turn in range(40):
        headers = (*POST, ("grpc-timeout", f"{turn % 3 + 1}S"), ("x-turn", str(turn // 10)))
        block = encode(headers) if turn % 7 == 3 else encoder.encode(headers)
        served.end.receive(f.frame(f.HEADERS, f.END_HEADERS, number, block))
        wanted.append(headers)
        number += 2
    assert [call.request.headers for call in served.calls if call.request] == wanted
    assert [call.request.timeout_s for call in served.calls[:3] if call.request] == [1.0, 2.0, 3.0]


def test_the_same_bytes_mean_something_else_when_the_table_has_changed() -> None:
    served = Served().begin()
    newest = REQUEST + b"\xbe"  # the entry that was added last
    blocks = []
    for value in (b"1", b"2", b"3"):
        blocks += [REQUEST + b"\x40\x03x-a\x01" + value, newest, newest]
    blocks += [b"\x20\x3f\xe1\x1f" + REQUEST + b"\x40\x03x-a\x01" + b"4", newest]  # the table was emptied
    for turn, block in enumerate(blocks):
        served.end.receive(f.frame(f.HEADERS, f.END_HEADERS, 1 + 2 * turn, block))
    told = [dict(call.request.headers)["x-a"] for call in served.calls if call.request]
    assert told == list("111222333") + ["4", "4"]


def test_streams_share_the_window_of_their_connection() -> None:
    served = Served().begin()
    served.end.receive(f.settings({f.INITIAL_WINDOW_SIZE: 1 << 20}))
    for number in (1, 3, 5):
        served.end.receive(f.frame(f.HEADERS, f.END_HEADERS, number, REQUEST))
    served.sent()
    for call in served.calls:
        assert call.stream is not None
        call.stream.send(b"x" * 40_000)
    sent: Counter[int] = Counter()
    for kind, _, number, payload in served.sent():
        sent[number] += len(payload) if kind == f.DATA else 0
    assert sum(sent.values()) == f.WINDOW_DEFAULT
    served.end.receive(f.window_update(0, 1 << 20))
    for kind, _, number, payload in served.sent():
        sent[number] += len(payload) if kind == f.DATA else 0
    assert sent == {1: 40_005, 3: 40_005, 5: 40_005}


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("1S", 1), ("250m", 0.25), ("2M", 120), ("1H", 3_600), ("5u", 5e-6), ("9n", 9e-9), ("99999999S", 99_999_999)],
)
def test_timeouts(text: str, seconds: float) -> None:
    assert g.timeout_s(text) == pytest.approx(seconds)
    if seconds > 1e-3:
        assert g.timeout_s(g.timeout_text(seconds)) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "S", "1", "-1S", "1.5S", "123456789S", "1x", "²S", "1 S"])
def test_what_is_no_timeout(text: str) -> None:
    assert g.timeout_s(text) is None


def test_settings_change_the_windows_of_open_streams() -> None:
    served = Served().begin()
    served.end.receive(f.settings({f.INITIAL_WINDOW_SIZE: 10}) + f.frame(f.HEADERS, f.END_HEADERS, 1, REQUEST))
    served.sent()
    call = served.calls[0]
    assert call.stream is not None and not call.stream.send(b"x" * 20)
    assert served.sent() == [(f.DATA, 0, 1, f.PREFIX.pack(0, 20) + b"x" * 5)]
    served.end.receive(f.settings({f.INITIAL_WINDOW_SIZE: 5}))
    assert [kind for kind, *_ in served.sent()] == [f.SETTINGS], "a window may be less than nothing"
    served.end.receive(f.window_update(1, 10))
    assert served.sent() == [(f.DATA, 0, 1, b"x" * 5)]
    served.end.receive(f.settings({f.INITIAL_WINDOW_SIZE: 100}))
    assert served.sent()[-1] == (f.DATA, 0, 1, b"x" * 10) and call.written == 1


def test_a_goodbye_sends_new_calls_elsewhere_and_lets_others_end() -> None:
    pair = Pair()
    early = pair.call()
    pair.run()
    pair.server.leave()
    late = pair.call()
    pair.run()
    assert pair.client.leaving
    assert late.status is not None and late.status.code == StatusCode.UNAVAILABLE
    answer(pair.served.calls[0], b"still")
    pair.run()
    assert early.messages == [b"still"] and early.status == Status(0) and len(pair.served.calls) == 1


def test_a_lost_connection_ends_every_call() -> None:
    pair = Pair()
    calls = [pair.call() for _ in range(3)]
    pair.run()
    pair.client.lost(Status(StatusCode.UNAVAILABLE, "gone"))
    assert [call.status for call in calls] == [Status(StatusCode.UNAVAILABLE, "gone")] * 3
    assert not pair.client.streams


def test_the_greeting_of_a_server_that_was_not_greeted() -> None:
    served = Served()
    served.end.receive(f.PREFACE[:5])
    served.end.receive(f.PREFACE[5:] + SETTINGS)
    assert not served.calls and served.end.settled
    assert isinstance(Noted(), Noted)
