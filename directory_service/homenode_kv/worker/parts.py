"""From the parts of a request to pieces of tokens: texts are tokenised, versions without text are read."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

from homenode_api.v1 import kv_tier_pb2 as pb
from homenode_kv.errors import PromptTooLong
from homenode_kv.ident import Version
from homenode_kv.worker.coherence import GATE_MAX
from homenode_kv.worker.prompts import PARTS_MAX, Piece, Prompt
from homenode_kv.worker.refusals import invalid

if TYPE_CHECKING:
    from homenode_kv.worker.worker import Worker

#: Texts longer than this are tokenised in a thread of their own.
INLINE_CHARACTERS = 20_000
KEY_BYTES_MAX = 512


class Parts:
    """See the module."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def prompt(self, parts: Sequence[pb.PromptPart]) -> Prompt:
        """The prompt that a request is made of. Raises Refused, HomenodeError."""
        if len(parts) > PARTS_MAX:
            raise invalid(f"a prompt has at most {PARTS_MAX} parts")
        _few({part.artifact.key for part in parts if part.HasField("artifact")})
        pieces: list[Piece] = []
        for part in parts:
            what = part.WhichOneof("what")
            if what == "text":
                pieces.append(Piece(await self._encode(part.text)))
            elif what == "tokens":
                pieces.append(Piece(tuple(part.tokens.ids)))
            elif what == "artifact":
                pieces.append(await self.artifact(part.artifact))
            else:
                raise invalid("a part of the prompt is empty")
        return Prompt(self._worker.tokenizer.begin, tuple(pieces))

    async def artifacts(self, parts: Sequence[pb.ArtifactPart]) -> list[Piece]:
        """Artifacts apart, each of which the model takes. Raises as `artifact`; PromptTooLong, InvalidTokens."""
        _few([part.key for part in parts])
        pieces = [await self.artifact(part) for part in parts]
        for piece in pieces:
            Prompt((), (piece,)).check(self._worker.engine.tokens_max, self._worker.engine.vocabulary)
        return pieces

    async def artifact(self, part: pb.ArtifactPart) -> Piece:
        """An artifact at a version. Raises Refused; NotFound where it has vanished."""
        if not 0 < len(part.key.encode()) <= KEY_BYTES_MAX or not part.version.n:
            raise invalid("an artifact has a key and a version")
        version = Version(part.version.incarnation, part.version.n)
        text = part.text if part.HasField("text") else await self._worker.coherence.text(part.key, version)
        return Piece(await self._encode(text), part.key, version)

    async def _encode(self, text: str) -> tuple[int, ...]:
        """Raises PromptTooLong of a text that is so in any case, without the work and memory of a try."""
        encode, longest = self._worker.tokenizer.encode, self._worker.tokenizer.longest
        tokens_max = self._worker.engine.tokens_max
        if longest and len(text) > longest * tokens_max:
            raise PromptTooLong(len(text) // longest, tokens_max)
        if len(text) <= INLINE_CHARACTERS:
            return tuple(encode(text))
        return tuple(await asyncio.to_thread(encode, text))


def _few(keys: Collection[str]) -> None:
    """Raises Refused where one question to the directory does not do for all of them."""
    if len(keys) > GATE_MAX:
        raise invalid(f"a call names at most {GATE_MAX} artifacts")
