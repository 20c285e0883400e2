"""`hn.generate`: a prompt of texts and artifacts, at the KV worker that has most of it.

The artifacts are read as by `hn.read`, so what the worker is asked for is what this agent may see now, and KV is found
only under its version. The directory names the worker; the prompt and the output never pass it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from homenode.errors import InvalidArgument
from homenode.generation import STALL_MS, Asked, Generation, OnLoss
from homenode.generation_prompt import Part, checked
from homenode.values import duration, name
from homenode.versions import ABSENT
from homenode_api.v1 import kv_tier_pb2 as kv

if TYPE_CHECKING:
    from homenode.client import Homenode
    from homenode.core import Core


def _fit(what: str, kind: type, field: str, value: object) -> None:
    """Raises InvalidArgument for what cannot be sent as that field; the worker judges the rest."""
    try:
        kind(**{field: value})
    except (TypeError, ValueError):
        raise InvalidArgument(f"{what} cannot be {value!r}") from None


class Generates:
    """The part of `homenode.Homenode` that KV workers are for."""

    _core: Core

    async def generate(
        self,
        model: str,
        parts: Sequence[Part],
        *,
        commit_to: str | None = None,
        exact: bool = False,
        judge: bool = False,
        error_max: float | None = None,
        on_loss: OnLoss = "fail",
        max_tokens: int = 0,
        temperature: float = 0.0,
        seed: int = 0,
        round: str = "",
        members: Sequence[str] = (),
        round_wait_ms: int = 1_000,
        stall_ms: int = STALL_MS,
        timeout_ms: int | None = None,
    ) -> Generation:
        """Let a KV worker write on after a prompt: `async for piece in await hn.generate(model, [...])`.

        Args:
            model: its name or its fingerprint; "": whichever the workers have.
            parts: the prompt, in order: text, `homenode.Key("plan.md")` for an artifact that is read now, or an
                `Artifact` for the very version that it is.
            commit_to: commit the output there when it has ended, replacing what this agent saw last, as `put` does; the
                worker's KV of it becomes the base of that version.
            exact: use no approximate KV. judge: the output judges others, so nothing approximate either, unless
                `error_max`, the greatest relative error of keys, is given.
            on_loss: when the worker is lost while it writes: "fail" raises Unavailable; "retry" lets another worker
                with the same model go on behind what is written, and waits for up to 2 s where the directory knows no
                worker at all, as one that has just started.
            max_tokens: most tokens to write; 0: the worker's default.
            temperature, seed: 0 takes the likeliest token each time.
            round: prompts that name the same round share a worker while it has room.
            members: names of the agents whose prompts of the round are computed together: when all have come, or
                after `round_wait_ms`. All say the same. What must be exact is computed apart.
            stall_ms: the longest time without a piece.

        A worker begins only with versions that are committed then. Where one was superseded meanwhile, keys are read
        again; an `Artifact` is not, and VersionConflict says so.

        Returns when a worker has begun. Raises NotFound, Stale and others as `read` does; NoWorker; Overloaded and
        TooLarge from the worker; Contended where new versions came too fast; and while it is iterated Unavailable, and
        what `put` raises.
        """
        prompt = checked(parts)
        if on_loss not in ("fail", "retry"):
            raise InvalidArgument(f"on_loss is 'fail' or 'retry', not {on_loss!r}")
        homenode = cast("Homenode", self)
        _fit("model", kv.GenerateRequest, "model", model)
        _fit("max_tokens", kv.GenerateRequest, "tokens_max", max_tokens)
        _fit("temperature", kv.GenerateRequest, "temperature", temperature)
        _fit("seed", kv.GenerateRequest, "seed", seed)
        _fit("error_max", kv.KvDemand, "error_max", error_max)
        _fit("round", kv.BeginRoundRequest, "round_id", round)
        _fit("members", kv.BeginRoundRequest, "members", None if isinstance(members, str) else members)
        _fit("round_wait_ms", kv.BeginRoundRequest, "deadline_ms", round_wait_ms)
        if duration(stall_ms, "stall_ms") == 0 or (commit_to is not None and not name(commit_to)):
            raise InvalidArgument("stall_ms is above 0, and commit_to the name of an artifact")
        if isinstance(members, str):
            raise InvalidArgument("members are a list of names")
        if members and (not round or homenode.name not in members):
            raise InvalidArgument(f"a round has a name, and {homenode.name!r} among its members")
        demand = kv.KvDemand(exact=exact, judge=judge)
        if error_max is not None:
            demand.error_max = error_max
        asked = Asked(
            model,
            prompt,
            commit_to or "",
            homenode._base(commit_to, None) if commit_to else ABSENT,
            demand,
            on_loss,
            max_tokens,
            temperature,
            seed,
            round,
            tuple(members),
            round_wait_ms,
            stall_ms / 1_000,
            self._core.timeout_s(timeout_ms),
        )
        return await Generation(homenode, asked).start()
