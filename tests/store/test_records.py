"""Records that earlier releases wrote are still read."""

from __future__ import annotations

import dataclasses
import json

from homenode_directory.protocol.model import ABSENT_ENTRY, Cause, Entry, Over, why_ended
from homenode_directory.store import fields
from homenode_directory.store.codec import packer


def test_a_lease_that_ended_before_sessions_were_noted_is_anybodys() -> None:
    apart = frozenset({"rev", "sharers"})
    names = [field.name for field in dataclasses.fields(Entry) if field.name not in apart]
    body = packer(Entry, apart)(ABSENT_ENTRY)
    body[names.index("ended")] = [["L1", "expired"], ["L2", "released", "A"]]
    read = fields.decode_entry({"rev": "3", "body": json.dumps(body)})
    assert read.ended == (Over("L1", Cause.EXPIRED), Over("L2", Cause.RELEASED, "A"))
    assert why_ended(read.ended, "B", "L1") is Cause.EXPIRED
    assert (why_ended(read.ended, "A", "L2"), why_ended(read.ended, "B", "L2")) == (Cause.RELEASED, None)


def test_who_comes_back_with_another_session_is_told_that_the_former_one_was_lost() -> None:
    ended = (Over("L1", Cause.SESSION_LOST, "A"), Over("L2", Cause.RELEASED, "A"))
    assert (why_ended(ended, "B", "L1"), why_ended(ended, "B", "L2")) == (Cause.SESSION_LOST, None)
    assert why_ended((*ended, Over("L1", Cause.EXPIRED, "B")), "B", "L1") is Cause.EXPIRED
