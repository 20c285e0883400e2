"""The prompt of a generation: texts, and artifacts as the agent may see them now."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence
from dataclasses import dataclass, field

from homenode.artifact import Artifact
from homenode.errors import InvalidArgument
from homenode.versions import Version
from homenode_api.v1 import kv_tier_pb2 as kv

PARTS_MAX = 1_024


class Key(str):
    """Names an artifact in a prompt, where a plain string is text."""

    __slots__ = ()


Part = str | Key | Artifact
Read = Callable[[str, int | None], Awaitable[Artifact]]
"""An artifact by its name, and how old the copy may be in milliseconds; None: as ever."""


def checked(parts: Sequence[Part]) -> list[Part]:
    """The parts of a prompt. Raises InvalidArgument."""
    if isinstance(parts, str) or not parts or len(parts) > PARTS_MAX:
        raise InvalidArgument(f"a prompt is a list of 1 to {PARTS_MAX} texts, keys and artifacts")
    if wrong := [part for part in parts if not isinstance(part, str | Artifact)]:
        raise InvalidArgument(f"a part of a prompt is text, a homenode.Key or an Artifact, not {wrong[0]!r}")
    try:
        for part in parts:
            str.encode(part) if isinstance(part, str) else None
    except UnicodeEncodeError:
        raise InvalidArgument("a text of the prompt has lone surrogates, which UTF-8 cannot say") from None
    return list(parts)


@dataclass(slots=True)
class Prompt:
    """The parts as they are sent, with the versions that were read; `tokens` are estimates."""

    parts: list[kv.PromptPart] = field(default_factory=list)
    artifacts: list[Artifact | None] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)

    @classmethod
    async def of(cls, parts: Sequence[Part], read: Read, afresh: Collection[int] = ()) -> Prompt:
        """Reads what the parts name; `afresh`: places of what is known to be superseded. Raises as `read` does."""
        prompt = cls()
        for index, part in enumerate(parts):
            artifact = part if isinstance(part, Artifact) else None
            if isinstance(part, Key):
                artifact = await read(str(part), 0 if index in afresh else None)
            prompt._add(str(part), artifact)
        return prompt

    def _add(self, text: str, artifact: Artifact | None) -> None:
        sent = kv.PromptPart()
        if artifact is None or artifact.version is None:
            sent.text = text if artifact is None else _text(artifact)
            size = len(sent.text.encode())
        else:
            sent.artifact.key, sent.artifact.text = artifact.key, _text(artifact)
            sent.artifact.version.incarnation, sent.artifact.version.n = artifact.version
            size = len(artifact.bytes)
        self.parts.append(sent)
        self.artifacts.append(artifact)
        self.tokens.append((size + 3) // 4)

    @property
    def versions(self) -> dict[str, Version]:
        """Of the artifacts, by key."""
        return {a.key: a.version for a in self.artifacts if a is not None and a.version is not None}

    def route(self) -> list[kv.RoutePart]:
        """As the directory is asked."""
        found = []
        for artifact, tokens in zip(self.artifacts, self.tokens, strict=True):
            part = kv.RoutePart(tokens=tokens)
            if artifact is not None and artifact.version is not None:
                part.key = artifact.key
                part.version.incarnation, part.version.n = artifact.version
            found.append(part)
        return found


def _text(artifact: Artifact) -> str:
    try:
        return artifact.text
    except UnicodeDecodeError:
        raise InvalidArgument(f"{artifact.key!r} is no text, so it cannot be in a prompt") from None
