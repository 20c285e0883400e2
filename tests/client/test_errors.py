"""Every reason on the wire becomes one exception, with its fields."""

from __future__ import annotations

import pytest

from homenode import errors
from homenode.versions import Version
from homenode_api.http2.grpc import Metadata, Status, StatusCode
from homenode_api.v1 import types_pb2 as t
from homenode_directory.api.errors import status_of

REASONS = [value for name, value in t.ErrorReason.items() if value]


@pytest.mark.parametrize("reason", REASONS, ids=t.ErrorReason.Name)
def test_every_reason_has_an_exception_of_its_own(reason: int) -> None:
    made = errors.from_wire(t.Error(reason=reason, message="why"))  # type: ignore[arg-type]
    assert isinstance(made, errors.HomenodeError)
    assert made.message == "why"
    assert reason == t.ERROR_REASON_INTERNAL or not isinstance(made, errors.InternalError)


def test_an_unknown_reason_is_an_internal_error() -> None:
    assert isinstance(errors.from_wire(t.Error(reason=999, message="new")), errors.InternalError)  # type: ignore[arg-type]


def test_fields_come_over() -> None:
    conflict = errors.from_wire(t.Error(reason=t.ERROR_REASON_VERSION_CONFLICT, current=t.Version(incarnation=3, n=4)))
    assert isinstance(conflict, errors.VersionConflict)
    assert conflict.current == Version(3, 4)
    held = errors.from_wire(t.Error(reason=t.ERROR_REASON_HELD, holder="main~x", retry_after_ms=1_500))
    assert isinstance(held, errors.LeaseDenied)
    assert (held.reason, held.holder, held.retry_after) == ("held", "main~x", 1.5)
    fence = errors.from_wire(t.Error(reason=t.ERROR_REASON_STALE_FENCE, cause=t.LEASE_END_EXPIRED))
    assert isinstance(fence, errors.StaleFence)
    assert isinstance(fence, errors.LeaseLost)
    assert fence.cause == "expired"
    busy = errors.from_wire(t.Error(reason=t.ERROR_REASON_OVERLOADED, retry_after_ms=50))
    assert isinstance(busy, errors.Overloaded)
    assert busy.retry_after == 0.05


@pytest.mark.parametrize("reason", REASONS, ids=t.ErrorReason.Name)
def test_a_failed_call_carries_the_same_error_as_a_stream(reason: int) -> None:
    error = t.Error(
        reason=reason,  # type: ignore[arg-type]
        message="why",
        holder="main~x",
        retry_after_ms=20,
        current=t.Version(incarnation=1, n=2),
        cause=t.LEASE_END_REVOKED,
    )
    code, message, trailing = status_of(error)
    made, expected = errors.from_status(Status(code.value[0], message, trailing)), errors.from_wire(error)
    assert type(made) is type(expected)
    assert vars(made) == vars(expected)


@pytest.mark.parametrize("metadata", [(), (("grpc-status-details-bin", b"\x1a\xff\xff"),)])
def test_a_failure_without_our_detail_goes_by_its_code(metadata: Metadata) -> None:
    made = errors.from_status(Status(StatusCode.UNAVAILABLE, "no route", metadata))
    assert type(made) is errors.Unavailable
    assert made.message == "no route"
    assert isinstance(errors.from_status(Status(StatusCode.DATA_LOSS, "", metadata)), errors.HomenodeError)
