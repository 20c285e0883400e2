"""Savings as they are told on the wire."""

from __future__ import annotations

from homenode_api.v1 import directory_pb2 as pb
from homenode_directory.savings import Line, Sums, Told


def response(told: Told) -> pb.SavingsResponse:
    """What is known of a workspace."""
    return pb.SavingsResponse(
        hour=[_saving(line, sums) for line, sums in told.hour],
        day=[_saving(line, sums) for line, sums in told.day],
        counted_ms=told.since_ms,
    )


def _saving(line: Line, sums: Sums) -> pb.Saving:
    hit, delta, same, size = sums
    return pb.Saving(
        agent=line.agent,
        key=line.key,
        strategy=line.strategy,
        tokens_hit=hit,
        tokens_delta=delta,
        tokens_unchanged=same,
        bytes_hit=size,
    )
