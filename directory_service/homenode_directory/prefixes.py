"""Setting the policy of all artifacts whose names begin with a prefix, those to come included.

The new policy stands from one commit on: whatever comes to be after it inherits it (`policies`). What exists already
is gone through, artifact by artifact, and takes it over as it would a policy of its own: between lazy and strict by a
round that waits for copies. So every judgement rests on the artifact's own record alone. The same commit notes the
prefix as due, and a sweeper, here or elsewhere, goes through it again until nothing is left to do.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from homenode_directory.directory import SESSION_OVER, Directory
from homenode_directory.errors import DirectoryError
from homenode_directory.jobs import EventJob
from homenode_directory.place import Place
from homenode_directory.policies import Table
from homenode_directory.protocol.effects import Answer, Denial, Done, Reason, Stored
from homenode_directory.protocol.events import Inherit
from homenode_directory.protocol.model import NO_VERSION, Level, Policy
from homenode_directory.protocol.transitions import SETTLED
from homenode_directory.slice import Heard, Reply, Slice
from homenode_directory.store import fields
from homenode_directory.store.base import Commit, Drop, Equals, Outcome, Put, Rank, Unrank, Write
from homenode_directory.together import EffectJob, Joint, Request

PREFIXES_MAX = 64  # of a workspace
AT_ONCE = 256
HEAD_START_MS = 2_000  # who set a policy goes through the artifacts first; afterwards sweepers look as often as this
AGAIN_S = (0.02, 0.5)
DONE = Done(NO_VERSION)


@dataclass(slots=True)
class SetPrefix(EffectJob):
    """Set or clear (None) a prefix's policy. `name` is the prefix as an artifact's name."""

    name: str = ""
    policy: Policy | None = None
    answer: Stored = DONE

    @property
    def shown(self) -> tuple[str, ...]:
        """See `CutJob`."""
        return (fields.policies_key(self.name),)

    def judge(self, slice_: Slice) -> Commit:
        """The policies with this one; or a comparison that confirms a refusal."""
        key = fields.policies_key(self.name)
        table = slice_.policies.table(key)
        guards = (*self.effect_guards(slice_), Equals(key, "rev", table.rev))
        refusal = SETTLED if self.settled(slice_) else self._refusal(slice_, table)
        self.answer = refusal or DONE
        if refusal is not None:
            return Commit(guards)
        field = fields.PREFIX + fields.key_of(self.name)
        change: Write = Put(key, field, fields.encode_policy(self.policy)) if self.policy else Drop(key, field)
        due_ms = slice_.time.latest_ms + HEAD_START_MS
        rank = Rank(fields.DUE_POLICIES, self.name, due_ms)
        return Commit(guards, (self.request.store(DONE), Put(key, "rev", str(table.number + 1)), change, rank))

    def _refusal(self, slice_: Slice, table: Table) -> Denial | None:
        policy = self.policy
        if policy is None:
            return None
        if (policy.level or slice_.default.level) is Level.STRICT and slice_.weakness:
            return Denial(Reason.UNSUPPORTED, f"strict cannot be kept: {slice_.weakness}")
        if len(table.by_prefix) >= PREFIXES_MAX and fields.key_of(self.name) not in table.by_prefix:
            return Denial(Reason.QUOTA_EXCEEDED, f"a workspace has policies of at most {PREFIXES_MAX} prefixes")
        return None

    def applied(self, slice_: Slice) -> Stored:
        """See `EffectJob`. What is known is out of date now; the next look brings it."""
        return self.answer


class InheritJob(EventJob):
    """Have an artifact take over what it inherits. `heard` gets whether it has."""

    def __init__(self, artifact: str, heard: Heard) -> None:
        super().__init__(artifact, Inherit(None), heard)

    def build(self, slice_: Slice, index: int) -> Commit:
        """See `EventJob`."""
        self.event = Inherit(slice_.policies.nearest(self.artifact))
        return super().build(slice_, index)

    def _answer(self, slice_: Slice, answer: Answer | None, head: int) -> None:
        entry, event = self.decision.entry, self.event
        assert isinstance(event, Inherit)
        if not self.heard.done():
            if entry is None or entry.content is None:
                self.heard.set_result(True)
            else:
                under_way = entry.pending is not None and entry.pending.inherits
                self.heard.set_result(entry.inherited == event.policy and not under_way)


class Prefixes:
    """See the module."""

    def __init__(self, directory: Directory, joint: Joint) -> None:
        self._directory = directory
        self._joint = joint

    async def set(self, place: Place, request: Request, prefix: str, policy: Policy | None) -> Reply:
        """Set or clear (None) the policy of a prefix; "" is the whole workspace. Raises DirectoryError."""
        job = SetPrefix(request.session, (), request=request, name=fields.artifact_of(place, prefix), policy=policy)
        reply = await self._joint.effect(place, job)
        assert reply is not None, "nothing but the policies is compared"
        return reply

    async def of(self, place: Place, session: str) -> Table | Denial:
        """A workspace's policies. Raises DirectoryError."""
        over = await self._directory.confirm_session(place, session)
        if isinstance(over, Denial):
            return SESSION_OVER
        return await self._look(self._directory.slice_of(place), fields.artifact_of(place, ""))

    async def settle(self, place: Place, prefix: str, within_s: float) -> int:
        """Go through the prefix's artifacts until all have taken the policy over, or the time is up: how many have not.

        Those are being written, or wait for copies of readers that are cut off. Raises DirectoryError.
        """
        slice_, name = self._directory.slice_of(place), fields.artifact_of(place, prefix)
        loop = asyncio.get_running_loop()
        give_up_at, pause_s = loop.time() + within_s, AGAIN_S[0]
        while True:
            left = await self._go_through(slice_, name)
            if not left or loop.time() + pause_s > give_up_at:
                return left
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, AGAIN_S[1])

    async def sweep(self, slice_: Slice, now_ms: int, due_max: int) -> None:
        """Go through prefixes that are due. Raises DirectoryError, StoreError."""
        due, _ = await self._directory.store.by_score(slice_.number, fields.DUE_POLICIES, due_max)
        for name, at_ms in due:
            if at_ms <= now_ms:
                await self._go_through(slice_, name)

    async def _look(self, slice_: Slice, name: str) -> Table:
        key = fields.policies_key(name)
        (record,) = await self._directory.store_call(self._directory.store.load(slice_.number, [key]))
        return slice_.policies.learn(key, record)

    async def _go_through(self, slice_: Slice, name: str) -> int:
        """Once: how many artifacts have not taken the policy over. If none, and it is the same still, it is due no
        more; else again later."""
        store, number = self._directory.store, slice_.number
        table = await self._look(slice_, name)
        place, prefix = fields.split_artifact(name)
        left, after = 0, ""
        while True:
            listed = store.by_prefix(number, fields.index_key(place), prefix, after, AT_ONCE)
            keys = await self._directory.store_call(listed)
            left += await self._inherit(slice_, [fields.artifact_of(place, key) for key in keys])
            if len(keys) < AT_ONCE:
                break
            after = keys[-1]
        rev = Equals(fields.policies_key(name), "rev", table.rev)

        def note(slice_: Slice) -> Commit:
            again_ms = slice_.time.latest_ms + HEAD_START_MS
            write: Write = Rank(fields.DUE_POLICIES, name, again_ms) if left else Unrank(fields.DUE_POLICIES, name)
            return Commit((rev,), (write,))

        outcome: Outcome = await self._directory.plain(slice_, note)
        return left if outcome.ok else max(left, 1)

    async def _inherit(self, slice_: Slice, artifacts: list[str]) -> int:
        loop = asyncio.get_running_loop()
        waiting: list[asyncio.Future[bool]] = [loop.create_future() for _ in artifacts]
        for artifact, future in zip(artifacts, waiting, strict=True):
            slice_.submit(InheritJob(artifact, future))
        done = await asyncio.gather(*waiting, return_exceptions=True)
        for failure in done:
            if isinstance(failure, BaseException) and not isinstance(failure, DirectoryError):
                raise failure
        return sum(one is not True for one in done)
