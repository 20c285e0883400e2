"""Names of KV: which model computed it, and for which version of which artifact (kv-tier: "tenancy", "coherent").

KV computed by one model is noise to another that differs in a weight, a rope parameter or the tokenizer; so every key
begins with the model's fingerprint. The key under which a segment is stored is the one under which it is looked up: a
store that keyed what it kept by anything else (the context it was computed in) would never find it again.

Digests are BLAKE2b-256, keyed with the tenant's salt: a tenant cannot find, nor make, the key of another tenant's
segment, and files named after digests tell nothing of artifacts. Parts are length-prefixed, so that no two lists of
parts are alike."""

from __future__ import annotations

import hashlib
import json
from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

#: Parts of a configuration that say nothing about what the model computes.
VOLATILE = frozenset(
    {
        "_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version", "use_cache",
        "output_attentions", "output_hidden_states", "return_dict", "chunk_size_feed_forward", "id2label", "label2id",
    }
)  # fmt: skip
SALT_MAX = 64


def digest(parts: Iterable[bytes], *, salt: bytes = b"", person: bytes = b"") -> str:
    """BLAKE2b-256 of a list of parts, as 64 hexadecimal digits.

    Args:
        salt: secret of a tenant, at most 64 bytes.
        person: what kind of thing is named, at most 16 bytes; keeps kinds apart.
    """
    state = hashlib.blake2b(digest_size=32, key=salt, person=person)
    for part in parts:
        state.update(len(part).to_bytes(8, "little"))
        state.update(part)
    return state.hexdigest()


def token_hash(tokens: Sequence[int]) -> str:
    """Digest of token ids, without the context before them (TokenDance: hashed without chaining)."""
    return digest([array("q", tokens).tobytes()], person=b"tokens")


def weights_hash(tensors: Iterable[tuple[str, str, Sequence[int], bytes | memoryview]]) -> str:
    """Digest of a model's weights.

    Args:
        tensors: (name, dtype, shape, bytes) of each, in any order.
    """
    each = sorted(
        (name, dtype, tuple(shape), hashlib.blake2b(data, digest_size=32).digest())
        for name, dtype, shape, data in tensors
    )
    parts = (part for name, dtype, shape, data in each for part in (f"{name}|{dtype}|{shape}".encode(), data))
    return digest(parts, person=b"weights")


def _settled(value: Any) -> Any:
    """`value` without what is volatile; numbers that are equal are written alike."""
    if isinstance(value, Mapping):
        return {str(name): _settled(inner) for name, inner in value.items() if name not in VOLATILE}
    if isinstance(value, list | tuple):
        return [_settled(inner) for inner in value]
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def fingerprint(config: Mapping[str, Any], weights: str, dtype: str, rope: Mapping[str, Any], tokenizer: str) -> str:
    """Name of a model as far as its KV goes, 64 hexadecimal digits.

    Args:
        config: the model's configuration, as its `to_dict` gives it.
        weights: `weights_hash` of its weights.
        dtype: in which KV is computed and kept, such as "bfloat16".
        rope: parameters of the rotary embedding as they came out: kind, frequencies, scaling.
        tokenizer: digest of the tokenizer; "" where prompts come as token ids.
    """
    texts = [json.dumps(_settled(part), sort_keys=True, default=str) for part in (config, rope)]
    return digest([part.encode() for part in (*texts, weights, dtype, tokenizer)], person=b"model")


@dataclass(frozen=True, order=True, slots=True)
class Version:
    """A committed version of an artifact: which memory of the store, and the count in it. Ordered, never reused."""

    incarnation: int
    n: int


@dataclass(frozen=True)
class SegmentKey:
    """What the KV of a segment is kept and found by.

    Attributes:
        fingerprint: of the model.
        salt: the tenant's secret; never shown, never written.
        artifact: its name in the workspace; "" for text that is no artifact (a system prompt, a question).
        version: the committed version whose text this is; None for text that is no artifact.
        tokens: `token_hash` of the segment's own tokens.
    """

    fingerprint: str
    salt: bytes = field(repr=False)
    artifact: str
    version: Version | None
    tokens: str

    def __post_init__(self) -> None:
        if not 0 < len(self.salt) <= SALT_MAX:
            raise ValueError(f"a tenant's salt has 1 to {SALT_MAX} bytes")

    @classmethod
    def of(
        cls, fingerprint: str, salt: bytes, tokens: Sequence[int], artifact: str = "", version: Version | None = None
    ) -> SegmentKey:
        """The key of a segment with these token ids."""
        return cls(fingerprint, salt, artifact, version, token_hash(tokens))

    @cached_property
    def artifact_digest(self) -> str:
        """Names the artifact, whatever its version, within the tenant."""
        return digest([self.fingerprint.encode(), self.artifact.encode()], salt=self.salt, person=b"artifact")

    @cached_property
    def version_digest(self) -> str:
        """Names this version of the artifact within the tenant."""
        version = b"" if self.version is None else f"{self.version.incarnation}.{self.version.n}".encode()
        return digest([self.artifact_digest.encode(), version], salt=self.salt, person=b"version")

    @cached_property
    def digest(self) -> str:
        """The content key: names this segment in every tier."""
        return digest([self.version_digest.encode(), self.tokens.encode()], salt=self.salt, person=b"segment")
