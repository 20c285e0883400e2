"""What only the client's end has to get right: room for more calls, and answers before the request is all there."""

from __future__ import annotations

from homenode_api.http2 import frames as f
from homenode_api.http2 import grpc as g
from homenode_api.http2.client import ClientEnd
from homenode_api.http2.connection import Bounds
from tests.http2.ends import REQUEST, Noted, frames_in, take


def test_a_server_that_allows_more_calls_later_is_heard() -> None:
    heard: list[bool] = []
    end = ClientEnd(Bounds(), lambda: None, lambda: None, lambda: heard.append(end.full))
    end.receive(f.settings({f.MAX_CONCURRENT_STREAMS: 0}))
    end.receive(f.settings({f.MAX_CONCURRENT_STREAMS: 2}))
    assert heard == [True, False]


def test_an_answer_before_the_request_is_all_there_ends_the_stream_for_both() -> None:
    end = ClientEnd(Bounds(), lambda: None, lambda: None, lambda: None)
    end.receive(f.settings({f.INITIAL_WINDOW_SIZE: 10}))
    call = Noted()
    call.stream = end.open(call, REQUEST)
    assert not call.stream.send(b"more than the window", end=True)
    take(end)
    end.receive(f.frame(f.HEADERS, f.END_HEADERS, 1, g.RESPONSE))
    end.receive(f.frame(f.HEADERS, f.END_HEADERS | f.END_STREAM, 1, g.OK_TRAILERS))
    assert call.status is not None and not call.status.code
    assert [(kind, number) for kind, _, number, _ in frames_in(take(end))] == [(f.RST_STREAM, 1)]
    assert not end.waiting
