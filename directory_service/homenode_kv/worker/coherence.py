"""Which versions may be used: the directory is asked before each use, and heard when something changes.

A caller names the versions that its coherent read returned. It may have waited since, so when its turn has come the
gate asks the directory for all of them at once: what was superseded meanwhile is refused, and so is everything while
the directory cannot be asked. So under strict and under lazy alike no version is used that was dead when its use began.

The worker keeps no copies and is no sharer: no writer ever waits for it. A watch on the workspace tells what to let go
of; it lags, and nothing but memory depends on it. What was superseded here while it was in use is computed anew for the
next version, when nobody waits."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Iterable
from functools import partial

from homenode import Homenode
from homenode import Version as DirectoryVersion
from homenode.errors import GateClosed, HomenodeError, NotFound
from homenode_kv.errors import KvError
from homenode_kv.ident import Version
from homenode_kv.worker.keeper import Base, Keeper
from homenode_kv.worker.prompts import Piece
from homenode_kv.worker.refusals import Refused, invalid
from homenode_kv.worker.text import Tokenizer
from homenode_kv.worker.turns import Turns

LOG = logging.getLogger("homenode.kv")

GATE_MS = 2_000
GATE_MAX = 100  # artifacts a question
AHEAD_MAX = 256
AGAIN_S = 1.0
#: Longest that work nobody waits for stands back for calls.
STAND_BACK_S = 2.0


def theirs(version: Version) -> DirectoryVersion:
    """A version as the SDK has it."""
    return DirectoryVersion(version.incarnation, version.n)


class Coherence:
    """See the module."""

    def __init__(self, hn: Homenode, keeper: Keeper, turns: Turns, tokenizer: Tokenizer) -> None:
        self._hn = hn
        self._keeper = keeper
        self._turns = turns
        self._tokenizer = tokenizer
        self._ahead: OrderedDict[str, Piece] = OrderedDict()  # without tokens: to be read
        self._wake = asyncio.Event()

    # --- before a use -------------------------------------------------------------------------------------------------

    async def gate(self, pieces: Iterable[Piece]) -> None:
        """Raises GateClosed unless all artifacts are at these versions now; HomenodeError where nobody can be asked."""
        wanted: dict[str, Version] = {}
        for piece in pieces:
            if piece.artifact and piece.version is not None:
                if wanted.setdefault(piece.artifact, piece.version) != piece.version:
                    raise invalid(f"the prompt names two versions of {piece.artifact!r}")
        reads = [(key, theirs(version)) for key, version in wanted.items()]
        if len(reads) > GATE_MAX:
            raise invalid(f"a prompt is made of at most {GATE_MAX} artifacts")
        if reads:
            await self._hn.gate(reads, timeout_ms=GATE_MS)

    async def text(self, key: str, version: Version) -> str:
        """The content of a version. Raises NotFound where it is not retained, HomenodeError."""
        artifact = await self._hn.read(key, version=theirs(version))
        try:
            return artifact.text
        except UnicodeDecodeError:
            raise invalid(f"{key!r} is no text") from None

    # --- after a change -----------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Hears of changes for as long as it is not cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._build_ahead())
            while True:
                try:
                    await self._watch()
                except HomenodeError as failure:
                    LOG.warning("the watch on the workspace broke off: %s", failure)
                except Exception:  # memory or a disk: nothing but what is kept depends on it
                    LOG.exception("what was superseded could not be let go of")
                await asyncio.sleep(AGAIN_S)

    async def _watch(self) -> None:
        async with self._hn.watch() as events:
            await self._compare()
            async for event in events:
                if event.kind == "resync":
                    await self._compare()
                elif event.kind in ("change", "delete") and event.version is not None:
                    version = Version(event.version.incarnation, event.version.n)
                    await self._supersede(event.key, version, deleted=event.kind == "delete")

    async def _supersede(self, key: str, current: Version, *, deleted: bool) -> None:
        gone = await self._turns.run(lambda: self._keeper.supersede(key, current, deleted=deleted))
        if gone and not deleted:
            self.want([Piece((), key, current)])

    def want(self, pieces: Iterable[Piece]) -> None:
        """Bases that would have served: they are made when nobody waits, the latest first, so many at most."""
        for piece in pieces:
            self._ahead[piece.artifact] = piece
            self._ahead.move_to_end(piece.artifact)
            self._wake.set()
        while len(self._ahead) > AHEAD_MAX:
            self._ahead.popitem(last=False)

    async def _compare(self) -> None:
        """Changes may have been missed: ask for everything that is kept."""
        kept = await self._turns.run(self._keeper.artifacts.versions)
        newest = [(key, theirs(max(versions))) for key, versions in kept.items()]
        for at in range(0, len(newest), GATE_MAX):
            try:
                await self._hn.gate(newest[at : at + GATE_MAX], timeout_ms=GATE_MS)
            except GateClosed as closed:
                for key, reason in closed.reasons.items():
                    current = reason.current or theirs(max(kept[key]))
                    version = Version(current.incarnation, current.n)
                    await self._supersede(key, version, deleted=reason.kind == "deleted")

    async def _build_ahead(self) -> None:
        """The next version of what was in use here, as nobody waits for it."""
        while True:
            await self._wake.wait()
            if not self._ahead:
                self._wake.clear()
                continue
            _, piece = self._ahead.popitem()
            try:
                if not piece.tokens and piece.version is not None:
                    text = await self.text(piece.artifact, piece.version)
                    tokens = await asyncio.to_thread(self._tokenizer.encode, text)
                    piece = Piece(tuple(tokens), piece.artifact, piece.version)
                await self._stand_back()
                await self.build([piece])
            except (Refused, KvError, GateClosed, NotFound):
                continue  # another version is there by now, or it is nothing that this worker can hold
            except HomenodeError:
                await asyncio.sleep(AGAIN_S)
            except Exception:  # such as no memory: nobody waits for it
                LOG.exception("a base could not be built ahead")
                await asyncio.sleep(AGAIN_S)

    async def _stand_back(self) -> None:
        deadline = asyncio.get_running_loop().time() + STAND_BACK_S
        while self._turns.waiting and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.01)

    async def build(self, pieces: list[Piece]) -> list[Base]:
        """Makes the bases of artifacts, in a turn, at versions that hold. Raises as `gate` and the engine do."""
        for piece in pieces:
            if not piece.tokens:
                raise invalid(f"{piece.artifact!r} is empty")
        async with self._turns.turn(sum(len(piece.tokens) for piece in pieces)):
            await self.gate(pieces)
            return [await self._turns.run(partial(self._keeper.base, piece)) for piece in pieces]
