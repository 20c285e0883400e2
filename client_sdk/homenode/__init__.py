"""Homenode: a coherence directory for what a fleet of LLM agents share.

    import homenode

    async with homenode.connect("homenode://localhost:7400/main", agent="planner") as hn:
        plan = await hn.read("plan.md", default="# Plan")
        async with hn.write("plan.md", create=True) as draft:
            draft.text += "\\n- ship it"

`connect_sync` gives the same calls blocking; `embedded://path` as the address runs the directory in this process.
"""

from __future__ import annotations

from homenode.artifact import Artifact
from homenode.change import Change, ChangeKind, apply_change, estimate_tokens
from homenode.client import Homenode, connect
from homenode.draft import Draft
from homenode.errors import (
    AlreadyExists,
    Contended,
    ContentMissing,
    DeadlineExceeded,
    GateClosed,
    HomenodeError,
    InternalError,
    InvalidArgument,
    LeaseDenied,
    LeaseLost,
    ModelMismatch,
    NotFound,
    NoWorker,
    Overloaded,
    PermissionDenied,
    QuotaExceeded,
    SessionLost,
    Stale,
    StaleFence,
    SuccessorLost,
    TooLarge,
    Unauthenticated,
    Unavailable,
    Unknown,
    Unsupported,
    VersionConflict,
)
from homenode.generation import Generation
from homenode.generation_prompt import Key
from homenode.generation_report import GenerationReport
from homenode.joint import DELETE, Gate, GateReason
from homenode.lease_handle import Lease, ReadLease, WriteLease
from homenode.snapshot import Snapshot
from homenode.streams import ContentStream
from homenode.sync import SyncHomenode, connect_sync
from homenode.values import STRATEGIES, Policy, Saving, Savings, Stat, VersionInfo
from homenode.versions import ABSENT, ANY, Version
from homenode.view import Counters
from homenode.watch import Event, Watch

__all__ = [
    "ABSENT",
    "ANY",
    "DELETE",
    "STRATEGIES",
    "AlreadyExists",
    "Artifact",
    "Change",
    "ChangeKind",
    "Contended",
    "ContentMissing",
    "ContentStream",
    "Counters",
    "DeadlineExceeded",
    "Draft",
    "Event",
    "Gate",
    "GateClosed",
    "GateReason",
    "Generation",
    "GenerationReport",
    "Homenode",
    "HomenodeError",
    "InternalError",
    "InvalidArgument",
    "Key",
    "Lease",
    "LeaseDenied",
    "LeaseLost",
    "ModelMismatch",
    "NoWorker",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "Policy",
    "QuotaExceeded",
    "ReadLease",
    "Saving",
    "Savings",
    "SessionLost",
    "Snapshot",
    "Stale",
    "StaleFence",
    "Stat",
    "SuccessorLost",
    "SyncHomenode",
    "TooLarge",
    "Unauthenticated",
    "Unavailable",
    "Unknown",
    "Unsupported",
    "Version",
    "VersionConflict",
    "VersionInfo",
    "Watch",
    "WriteLease",
    "apply_change",
    "connect",
    "connect_sync",
    "estimate_tokens",
]
