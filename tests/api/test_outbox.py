"""The outgoing queue of a stream: order, bounds, one RESYNC."""

from __future__ import annotations

import asyncio

import pytest

from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.api import frames
from homenode_directory.api.outbox import Outbox, QueueBounds
from homenode_directory.observer import SILENT
from homenode_directory.place import Position
from homenode_directory.protocol.model import Version
from homenode_directory.sinks import Bookmark, Invalidation

BOUNDS = QueueBounds(session_events=10, session_bytes=100_000, stream_events=25, stream_bytes=200_000)


def _invalidation(sequence: int, key: str = "k") -> Invalidation:
    return Invalidation(key, Version(5, sequence), 1, sequence, "other", False)


def _answer(request_id: int, size: int = 1, session: int = 1) -> bytes:
    return frames.answer(session, request_id, "stat", pb.StatResponse(key="x" * size))


def _push(outbox: Outbox, number: int, sequences: range, key: str = "k") -> None:
    for sequence in sequences:
        outbox.event(number, _invalidation(sequence, key), Position(5, sequence))


async def _drain(outbox: Outbox) -> list[pb.Item]:
    outbox.close()
    items: list[pb.Item] = []
    while (frame := await outbox.next_frame()) is not None:
        items.extend(pb.SessionResponse.FromString(frame).items)
    return items


def _told(items: list[pb.Item]) -> list[tuple[int, str | None, int]]:
    told = []
    for item in items:
        kind = item.WhichOneof("what")
        mark = {
            "answer": item.answer.request_id,
            "invalidation": item.invalidation.sequence,
            "resync": item.resync.position.sequence,
            "bookmark": item.bookmark.echo,
        }[kind or ""]
        told.append((item.session, kind, mark))
    return told


async def test_answers_and_events_leave_in_order() -> None:
    outbox = Outbox(BOUNDS, SILENT)
    outbox.answer(1, _answer(1))
    _push(outbox, 1, range(1, 3))
    outbox.answer(1, _answer(2))
    outbox.event(1, Bookmark("s", Position(5, 2), 99), Position(5, 2))
    assert _told(await _drain(outbox)) == [
        (1, "answer", 1),
        (1, "invalidation", 1),
        (1, "invalidation", 2),
        (1, "answer", 2),
        (1, "bookmark", 99),
    ]


async def test_a_stream_is_behind_for_as_long_as_events_wait() -> None:
    outbox = Outbox(BOUNDS, SILENT)
    outbox.answer(1, _answer(1))
    assert outbox.behind_s == 0, "answers are no events"
    _push(outbox, 1, range(1, 3))
    await asyncio.sleep(0.02)
    _push(outbox, 1, range(3, 4))
    assert 0.01 < outbox.behind_s < 60
    await _drain(outbox)
    assert outbox.behind_s == 0


async def test_a_session_that_goes_over_gets_one_resync_and_others_are_untouched() -> None:
    outbox = Outbox(BOUNDS, SILENT)
    _push(outbox, 2, range(1, 6))
    _push(outbox, 1, range(1, 5))
    outbox.answer(1, _answer(7))
    _push(outbox, 1, range(5, 35))
    told = _told(await _drain(outbox))
    assert [one for one in told if one[0] == 2] == [(2, "invalidation", n) for n in range(1, 6)]
    first = [one for one in told if one[0] == 1]
    assert first[0] == (1, "answer", 7), "answers are never discarded"
    assert [kind for _, kind, _ in first].count("resync") == 1
    position = first[1][2]
    assert first[2:] == [(1, "invalidation", n) for n in range(position + 1, 35)], "nothing is missing behind it"


async def test_bytes_count_too() -> None:
    outbox = Outbox(BOUNDS, SILENT)
    for sequence in range(1, 4):
        _push(outbox, 1, range(sequence, sequence + 1), key="k" * 60_000)
    assert _told(await _drain(outbox)) == [(1, "resync", 2), (1, "invalidation", 3)]


async def test_a_stream_that_goes_over_resyncs_all_its_sessions() -> None:
    outbox = Outbox(BOUNDS, SILENT)
    for number in range(1, 4):
        _push(outbox, number, range(1, 10))
    assert {kind for _, kind, _ in _told(await _drain(outbox))} == {"resync", "invalidation"}
    assert len(outbox) == 0


@pytest.mark.parametrize(("count", "size", "frames_"), [(1_300, 1, 3), (30, 100_000, 3)])
async def test_frames_are_bounded(count: int, size: int, frames_: int) -> None:
    outbox = Outbox(BOUNDS, SILENT)
    for number in range(count):
        outbox.answer(1, _answer(number, size))
    outbox.close()
    sizes = []
    while (frame := await outbox.next_frame()) is not None:
        message = pb.SessionResponse.FromString(frame)
        sizes.append(len(message.items))
        assert len(frame) <= 1024 * 1024 + 16 and message.number == len(sizes)
    assert len(sizes) == frames_ and sum(sizes) == count and max(sizes) <= 512


async def test_a_forgotten_session_sends_no_more_events() -> None:
    outbox = Outbox(BOUNDS, SILENT)
    _push(outbox, 1, range(1, 4))
    outbox.answer(1, _answer(1))
    outbox.forget(1)
    assert _told(await _drain(outbox)) == [(1, "answer", 1)]


async def test_room_waits_for_the_client_to_take_answers() -> None:
    outbox = Outbox(BOUNDS, SILENT)
    for number in range(10):
        outbox.answer(1, _answer(number))
    waiting = asyncio.ensure_future(outbox.room(5))
    await asyncio.sleep(0)
    assert not waiting.done()
    await outbox.next_frame()
    await waiting


def test_pieces_are_what_protobuf_would_write() -> None:
    made = frames.join([frames.answer(70_000, 2**53 - 1, "commit", pb.CommitResponse()), frames.draining(5)], 300)
    expected = pb.SessionResponse(
        items=[
            pb.Item(session=70_000, answer=pb.Answer(request_id=2**53 - 1, commit=pb.CommitResponse())),
            pb.Item(session=0, draining=pb.Draining(within_ms=5)),
        ],
        number=300,
    )
    assert pb.SessionResponse.FromString(made) == expected
