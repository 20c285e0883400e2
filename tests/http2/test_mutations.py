"""Valid conversations, damaged frame by frame, against either end.

Nothing but `Broken` is raised, what an end counts is what it holds, and at the end nothing is left.
`python -m tests.http2.test_mutations SEED SECONDS` goes on for longer.
"""

from __future__ import annotations

import random
import sys
import time
from collections.abc import Callable

import pytest

from homenode_api.http2 import frames as f
from homenode_api.http2 import grpc as g
from homenode_api.http2.client import ClientEnd
from homenode_api.http2.connection import Bounds
from homenode_api.http2.frames import Broken, Code
from homenode_api.http2.grpc import Status, StatusCode
from homenode_api.http2.headers import encode
from homenode_api.http2.server import Request, ServerEnd
from homenode_api.http2.stream import Stream
from tests.http2.ends import POST, REQUEST, Noted, Pair, answer, frames_in, take

WINDOW, MESSAGE, STREAMS = 512, 4_096, 8
SMALL = Bounds(
    streams=STREAMS,
    stream_window=WINDOW,
    window=70_000,
    message_bytes=MESSAGE,
    unfinished_bytes=8_192,
    waiting_bytes=16_384,
    out_bytes=2_048,
    header_bytes=8_192,
    calm=2_000,
)
SEEDS, BLOCK = 600, 60
NUMBERS = (0, 1, 2, 3, 5, 8, 127, 255, 65_535, 65_536, f.WINDOW_MAX, 0xFFFF_FFFF, 1 << 24)
BLOCKS = (
    REQUEST,
    g.RESPONSE,
    g.OK_TRAILERS,
    b"",
    b"\x88",
    b"\x3f\x01" + REQUEST,
    b"\x40\x01a\x01b" + REQUEST,
    encode([*POST, ("grpc-timeout", "1S")]),
    encode([(":status", "100")]),
)


class Ending(Noted):
    """As owners must, it ends a stream that cannot be gone on with."""

    def over(self, status: Status) -> None:
        self.status = status
        if self.stream is not None and not self.stream.gone:
            if isinstance(self.stream._link, ServerEnd):
                self.stream.finish(g.trailers(status))
            else:
                self.stream.reset(Code.CANCEL)


def _recorded(rng: random.Random) -> tuple[list[bytes], list[bytes]]:
    """The frames of a conversation, each way."""
    pair, said = Pair(SMALL, SMALL), (bytearray(), bytearray())
    calls: list[Noted] = []

    def run() -> None:
        while pair.client.out or pair.server.out:
            for data, one, other in ((said[0], pair.client, pair.server), (said[1], pair.server, pair.client)):
                sent = take(one)
                data += sent
                other.receive(sent)
                one.pump()

    run()
    for _ in range(rng.randrange(1, 12)):
        what = rng.random()
        if what < 0.4 and not pair.client.full:
            calls.append(pair.call(end=rng.random() < 0.2))
        elif what < 0.7 and calls:
            _stream(rng.choice(calls)).send(bytes(rng.randrange(1_500)), end=rng.random() < 0.3)
        elif what < 0.9 and pair.served.calls:
            answer(rng.choice(pair.served.calls), *[bytes(rng.randrange(1_200)) for _ in range(rng.randrange(3))])
        elif calls:
            _stream(rng.choice(calls)).reset(Code.CANCEL)
        if rng.random() < 0.7:
            run()
    run()
    client, server = (
        [f.frame(*one[:3], one[3]) for one in frames_in(bytes(data))] for data in (said[0][len(f.PREFACE) :], said[1])
    )
    return [f.PREFACE, *client], server


def _stream(call: Noted) -> Stream:
    assert call.stream is not None
    return call.stream


def _frame(rng: random.Random) -> bytes:
    kind = rng.choice((*range(10), f.DATA, f.HEADERS, f.SETTINGS, f.RST_STREAM, f.WINDOW_UPDATE, 250))
    if kind == f.SETTINGS:
        payload = b"".join(f.SETTING.pack(rng.randrange(9), rng.choice(NUMBERS)) for _ in range(rng.randrange(4)))
    elif kind in (f.WINDOW_UPDATE, f.RST_STREAM):
        payload = f.NUMBER.pack(rng.choice(NUMBERS))
    elif kind == f.GOAWAY:
        payload = f.PAIR.pack(rng.choice(NUMBERS), rng.choice(NUMBERS))
    elif kind == f.DATA:
        head = f.PREFIX.pack(rng.choice((0, 0, 0, 1, 2)), rng.choice((0, 1, 5, 100, MESSAGE, MESSAGE + 1, 1 << 30)))
        payload = head + bytes(rng.randrange(200))
    elif kind == f.HEADERS:
        payload = rng.choice(BLOCKS)
    else:
        payload = rng.randbytes(rng.choice((0, 4, 5, 6, 8, 20)))
    flags = rng.choice((0, 1, 4, 5, 8, 0x20, 0x2D, 255, rng.randrange(256)))
    return f.frame(kind, flags, rng.choice((0, 0, 1, 1, 3, 5, 7, 2, 99, f.WINDOW_MAX)), payload)


def _damaged(rng: random.Random, frames: list[bytes]) -> bytes:
    for _ in range(rng.choice((0, 1, 1, 1, 2, 3, 6))):
        what, at = rng.randrange(7), rng.randrange(len(frames))
        if what == 0:
            frame = bytearray(frames[at])
            for _ in range(rng.randint(1, 3) if frame else 0):
                frame[rng.randrange(min(len(frame), rng.choice((14, 10_000))))] = rng.randrange(256)
            frames[at] = bytes(frame)
        elif what == 1 and len(frames) > 1:
            del frames[at]
        elif what == 2:
            frames.insert(at, frames[at])
        elif what == 3:
            other = rng.randrange(len(frames))
            frames[at], frames[other] = frames[other], frames[at]
        elif what == 4:
            frames[at] = frames[at][: rng.randrange(len(frames[at]) + 1)]
        else:
            frames[at + 1 : at + 1] = [_frame(rng) for _ in range(1 if what == 5 else rng.randrange(20))]
    return b"".join(frames)


def _check(end: ServerEnd | ClientEnd) -> None:
    """What it counts is what it holds, and that has its bounds."""
    streams = end.streams.values()
    assert end.unfinished == sum(len(part) for one in streams for part in one._body)
    assert end.waiting == sum(len(part) for one in streams for part in one._pending)
    assert all(end.streams.get(number) is one and one._pending for number, one in end.blocked.items())
    assert len(streams) <= STREAMS and not any(one.gone for one in streams)
    assert all(sum(map(len, one.messages)) <= WINDOW + MESSAGE for one in streams)
    assert len(end._rest) <= f.HEAD_BYTES + end.bounds.frame_bytes


def _converse(rng: random.Random, end: ServerEnd | ClientEnd, data: bytes, act: Callable[[], None]) -> None:
    at = 0
    try:
        while at < len(data):
            size = rng.choice((1, 3, 9, 50, 500, 5_000, len(data)))
            end.receive(data[at : at + size])
            at += size
            end.paused = rng.random() < 0.1
            end.pump()
            act()
            while end.out:
                take(end)
                end.pump()
            _check(end)
    except Broken as broken:
        end.goodbye(broken.code)
    end.lost(Status(StatusCode.UNAVAILABLE))
    assert not (end.streams or end.blocked or end.unfinished or end.waiting)


def server(seed: int) -> None:
    """One damaged conversation with a server."""
    rng = random.Random(seed)
    keen, calls = rng.random() < 0.7, list[Noted]()

    def accept(stream: Stream, request: Request) -> Noted:
        stream.inflate = g.gunzip if rng.random() < 0.3 else None
        calls.append(Ending(keen, stream, request))
        return calls[-1]

    def act() -> None:
        for call in calls[-STREAMS:]:
            what, stream = rng.random(), _stream(call)
            if what < 0.1:
                answer(call, *[bytes(rng.randrange(1_200)) for _ in range(rng.randrange(3))])
            elif what < 0.15:
                stream.send(bytes(rng.randrange(900)))
            elif what < 0.2:
                stream.take()
            elif what < 0.22:
                stream.reset(Code.CANCEL)
        if rng.random() < 0.01:
            end.leave()

    end = ServerEnd(SMALL, accept, lambda: None)
    _converse(rng, end, _damaged(rng, _recorded(rng)[0]), act)


def client(seed: int) -> None:
    """One damaged conversation with a client."""
    rng = random.Random(seed)
    keen, calls = rng.random() < 0.7, list[Noted]()

    def act() -> None:
        if rng.random() < 0.5 and not end.full and not end.leaving and len(end.streams) < STREAMS:
            calls.append(Ending(keen))
            calls[-1].stream = end.open(calls[-1], REQUEST, end=rng.random() < 0.2)
        for call in calls[-STREAMS:]:
            what, stream = rng.random(), _stream(call)
            if what < 0.1:
                stream.send(bytes(rng.randrange(1_500)), end=rng.random() < 0.3)
            elif what < 0.12:
                stream.reset(Code.CANCEL)
            elif what < 0.14:
                stream.end()
            elif what < 0.3:
                stream.take()

    end = ClientEnd(SMALL, lambda: None, lambda: None, lambda: None)
    for _ in range(rng.randrange(6)):
        act()
    _converse(rng, end, _damaged(rng, _recorded(rng)[1]), act)


@pytest.mark.parametrize("first", range(0, SEEDS, BLOCK))
@pytest.mark.parametrize("end", [server, client])
def test_damaged_frames(end: Callable[[int], None], first: int) -> None:
    for seed in range(first, first + BLOCK):
        try:
            end(seed)
        except Exception as failure:
            raise AssertionError(f"seed {seed}") from failure


if __name__ == "__main__":
    seed, until = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
    while time.monotonic() < until:
        for one in (server, client):
            try:
                one(seed)
            except Exception as failure:
                raise SystemExit(f"{one.__name__}({seed}): {failure!r}") from failure
        seed += 1
    print(f"no findings up to seed {seed}")
