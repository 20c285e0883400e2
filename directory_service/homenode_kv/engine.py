"""What the KV tier asks of a model: a prefill, a prefill over given KV, a refresh of chosen positions, a decode.

Any causal language model of transformers whose attention is rotary and full; models are used as they are, nothing of
theirs is patched. On loading a probe turns a short text's keys and compares them with those computed at the new
positions, so that a model whose keys do not move like that (another pairing of dimensions, a second embedding of
positions) is refused instead of answering wrongly. Sliding windows limit the prompt: within the window attention is
full.

Exactness. A prefill of everything is the model's own forward pass, bit for bit. Passes over given KV use an explicit
mask, so another order of additions: in fp32 about 1e-6 of the dense result."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from homenode_kv.batch import Batch
from homenode_kv.errors import InvalidTokens, PromptTooLong, UnsupportedModel, WrongShape
from homenode_kv.ident import fingerprint, weights_hash
from homenode_kv.layout import KEYS, Geometry, as_bytes
from homenode_kv.rope import Rotation
from homenode_kv.slots import Enough, Slots

#: Largest relative deviation that the probe forgives; other dtypes are refused.
PROBE_TOLERANCE = {torch.float32: 1e-3, torch.float16: 1e-2, torch.bfloat16: 5e-2}
_PROBE_TOKENS, _PROBE_SHIFT = 8, 37


@dataclass(frozen=True, slots=True)
class Forward:
    """Outcome of a pass.

    Attributes:
        kv: [L, 2, T, Hkv, d] of the whole prompt.
        logits: [n, vocabulary] of the last n tokens that were computed.
    """

    kv: Tensor
    logits: Tensor


@dataclass(frozen=True, slots=True)
class GroupForward:
    """Outcome of a pass of several prompts.

    Attributes:
        kv: [L, 2, N, T, Hkv, d]; what is beyond a shorter prompt means nothing.
        logits: [N, vocabulary] of each prompt's last token.
    """

    kv: Tensor
    logits: Tensor

    def member(self, at: int, tokens: int) -> Forward:
        """One prompt's, of `tokens` tokens; views, not copies."""
        return Forward(self.kv[:, :, at, :tokens], self.logits[at : at + 1])


@dataclass(frozen=True, slots=True)
class Decoded:
    """Outcome of a decode.

    Attributes:
        tokens: what was written; the end token is not part of it.
        kv: of the prompt and of what was written.
        start: at which position what was written begins.
    """

    tokens: tuple[int, ...]
    kv: Tensor
    start: int


def greedy(logits: Tensor) -> int:
    """The likeliest token of [vocabulary]."""
    return int(logits.argmax())


def _rising(positions: Sequence[int], total: int) -> list[int]:
    chosen = list(positions)
    rises = all(a < b for a, b in zip(chosen, chosen[1:], strict=False))
    if not chosen or not rises or chosen[0] < 0 or chosen[-1] >= total:
        raise WrongShape("positions to refresh rise, and lie within the prompt")
    return chosen


class Engine:
    """One model on one device.

    Args:
        model: a causal language model of transformers.
        tokenizer: digest of its tokenizer, for the fingerprint; "" where prompts come as token ids.

    Attributes:
        geometry: of its KV.
        rotation: how its keys move.
        tokens_max: longest prompt.
    """

    def __init__(self, model: nn.Module, *, tokenizer: str = "") -> None:
        self._model = model.eval()
        self._tokenizer = tokenizer
        self.rotation = Rotation.of(model)
        config = model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        parameter = next(model.parameters())
        self.device = parameter.device
        self.geometry = Geometry(config.num_hidden_layers, heads, dim, parameter.dtype)
        if unknown := set(getattr(config, "layer_types", None) or ()) - {"full_attention", "sliding_attention"}:
            raise UnsupportedModel(f"layers of kinds {sorted(unknown)}")
        window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
        self.tokens_max = min(config.max_position_embeddings, window or config.max_position_embeddings)
        self.vocabulary = int(config.vocab_size)
        self._probe()

    def fingerprint(self) -> str:
        """Name of the model; reads all weights, so ask once."""
        weights = weights_hash(
            (name, str(tensor.dtype), tensor.shape, memoryview(as_bytes(tensor.detach().cpu().flatten()).numpy()))
            for name, tensor in self._model.state_dict().items()
        )
        rope = {
            "kind": self.rotation.kind,
            "frequencies": self.rotation.frequencies.tolist(),
            "scaling": self.rotation.attention_scaling,
        }
        return fingerprint(self._model.config.to_dict(), weights, str(self.geometry.dtype), rope, self._tokenizer)

    def prefill(self, tokens: Sequence[int], past: Tensor | None = None, *, last: int = 1) -> Forward:
        """KV of `past` and then `tokens`, and the logits of the last `last` tokens (0: of all of `tokens`)."""
        before = 0 if past is None else self.geometry.check(past)
        ids, total = self._ids(tokens, before), before + len(tokens)
        slots = Slots(self.geometry, total, self.device, past)
        logits = self._pass(
            slots, ids, torch.arange(before, total, device=self.device), total, last=last, plain=not before
        )
        return Forward(slots.kv(total), logits)

    def compute(self, slots: Slots, ids: Tensor, where: Tensor, total: int) -> Tensor:
        """Logits [1, vocabulary] of the last of `ids` [1, n], computed into the last n of `total` slots: `where` [n].

        Everything is on the device already and nothing is asked of it, so the pass can be captured as a CUDA graph.
        """
        return self._pass(slots, ids, where, total, plain=ids.shape[1] == total)

    def refresh(
        self,
        tokens: Sequence[int],
        kv: Tensor,
        positions: Sequence[int],
        *,
        last: int = 1,
        visible: Tensor | None = None,
        moved: Tensor | None = None,
    ) -> Forward:
        """KV of a whole prompt in which `positions` are computed afresh, over what `kv` says of the others.

        Args:
            tokens: all T tokens of the prompt.
            kv: of all T, at their positions; it stays as it is.
            positions: in rising order; with the last position the logits are those of the next token.
            visible: [n, T] of bool: what each position may see besides what is not before it; a mask of isolated
                segments. None: everything.
            moved: [n] of int: how far from its place in the prompt each position counts; so several endings, of which
                `visible` lets each see itself, all come right after the same beginning.
        """
        total = self.geometry.check(kv)
        if total != len(tokens):
            raise WrongShape(f"KV of {total} tokens for a prompt of {len(tokens)}")
        chosen = _rising(positions, total)
        if visible is not None and tuple(visible.shape) != (len(chosen), total):
            raise WrongShape(f"a mask of {tuple(visible.shape)} for {len(chosen)} of {total} positions")
        ids = self._ids(tokens, 0)
        slots = Slots(self.geometry, total, self.device, kv)
        where = torch.tensor(chosen, device=self.device)
        shift = 0 if moved is None else moved.to(self.device)
        logits = self._pass(slots, ids[:, where], where, total, last=last, visible=visible, shift=shift)
        return Forward(slots.kv(total), logits)

    def refresh_group(
        self, prompts: Sequence[Sequence[int]], kv: Tensor, positions: Sequence[Sequence[int]]
    ) -> GroupForward:
        """`refresh` of several prompts in one pass, each with its own positions.

        Args:
            prompts: all tokens of each of N prompts.
            kv: [L, 2, N, T, Hkv, d] with T that of the longest prompt; what is beyond a shorter one does not matter.
            positions: as `refresh` takes them; each prompt's last position among them.
        """
        self._fits(prompts, kv, self.geometry.layers)
        return self.refresh_slots(prompts, Slots(self.geometry, kv.shape[3] + 1, self.device, kv), positions)

    def refresh_slots(
        self, prompts: Sequence[Sequence[int]], slots: Slots, positions: Sequence[Sequence[int]]
    ) -> GroupForward:
        """`refresh_group` over slots that hold the kept KV already, and one slot more than the longest prompt.

        The outcome is a view into them: kept KV at `positions` is overwritten.
        """
        longest = max((len(prompt) for prompt in prompts), default=0)
        batch = self._batch(prompts, positions)
        if any(chosen[-1] != len(prompt) - 1 for prompt, chosen in zip(prompts, positions, strict=True)):
            raise WrongShape("the last position of each prompt is refreshed, for its logits")
        return GroupForward(slots.group(longest), self._forward(slots, batch)[:, -1])

    def deviation(
        self, prompts: Sequence[Sequence[int]], kv: Tensor, positions: Sequence[Sequence[int]], layer: int = 1
    ) -> list[Tensor]:
        """How far kept keys are from fresh ones on a check layer, at `positions` of each prompt: relative, fp32 [n].

        The arguments are those of `refresh_group`, but for the last position, which need not be there, and for layers
        above `layer`, which `kv` may lack. Layer 0 does not depend on the context, so it tells nothing. Only the layers
        below `layer`, and its keys, are computed.
        """
        if not 1 <= layer < self.geometry.layers:
            raise WrongShape(f"check layer {layer} of layers 1 to {self.geometry.layers - 1}")
        self._fits(prompts, kv, layer + 1)
        batch = self._batch(prompts, positions)
        try:
            self._forward(Slots(self.geometry, batch.capacity, self.device, kv, check=layer), batch)
            raise AssertionError("the check layer was not reached")
        except Enough as enough:
            fresh = enough.keys.transpose(1, 2).float()  # [N, n, Hkv, d]
        kept = kv[layer, KEYS].to(self.device)
        kept = kept.gather(1, batch.positions[:, :, None, None].expand(fresh.shape)).float()
        off = (fresh - kept).flatten(2).norm(dim=2) / fresh.flatten(2).norm(dim=2).clamp_min(1e-12)
        return [row[len(row) - len(chosen) :] for row, chosen in zip(off, positions, strict=True)]

    def decode(
        self,
        prompt: Forward,
        tokens_max: int,
        *,
        end: Iterable[int] = (),
        choose: Callable[[Tensor], int] = greedy,
        told: Callable[[int], None] | None = None,
    ) -> Decoded:
        """Writes up to `tokens_max` tokens after `prompt`, until one of `end`; `told` hears of each at once."""
        start, ends = self.geometry.check(prompt.kv), frozenset(end)
        if tokens_max < 0 or start + tokens_max > self.tokens_max:
            raise PromptTooLong(start + tokens_max, self.tokens_max)
        slots = Slots(self.geometry, start + tokens_max, self.device, prompt.kv)
        logits = prompt.logits[-1]
        written: list[int] = []
        while len(written) < tokens_max and (token := choose(logits)) not in ends:
            written.append(token)
            if told is not None:
                told(token)
            at = start + len(written) - 1
            ids = torch.tensor([[token]], device=self.device)
            logits = self._pass(slots, ids, torch.tensor([at], device=self.device), at + 1)[-1]
        return Decoded(tuple(written), slots.kv(start + len(written)), start)

    # --- inside ---

    @torch.no_grad()
    def _pass(
        self,
        slots: Slots,
        ids: Tensor,
        where: Tensor,
        total: int,
        *,
        last: int = 1,
        plain: bool = False,
        visible: Tensor | None = None,
        shift: int | Tensor = 0,
    ) -> Tensor:
        """Computes `ids` [1, n] into the slots `where` [n], at positions `where` + `shift`. Logits of the last `last`.

        `plain`: the prompt is computed whole, so the model's own causal attention does without a mask.
        """
        slots.aim(where, total)
        mask = None
        if not plain:
            seen = torch.arange(total, device=self.device) <= where[:, None]
            if visible is not None:
                seen &= visible.to(self.device)
            mask = torch.zeros(seen.shape, dtype=self.geometry.dtype, device=self.device)
            mask = mask.masked_fill(~seen, torch.finfo(mask.dtype).min)[None, None]
        return self._run(slots, ids, (where + shift)[None], mask, last)[0]

    @torch.no_grad()
    def _forward(self, slots: Slots, batch: Batch) -> Tensor:
        """One pass of a group; logits [N, 1, vocabulary] of each member's last position."""
        slots.aim(batch.slots, batch.capacity - 1)
        return self._run(slots, batch.ids, batch.positions, batch.mask(self.geometry.dtype), 1)

    def _run(self, slots: Slots, ids: Tensor, positions: Tensor, mask: Tensor | None, last: int) -> Tensor:
        outcome = self._model(
            input_ids=ids,
            position_ids=positions,
            attention_mask=mask,
            past_key_values=slots.cache,
            use_cache=True,
            logits_to_keep=last,
        )
        logits: Tensor = outcome.logits
        return logits

    def _fits(self, prompts: Sequence[Sequence[int]], kv: Tensor, layers: int) -> None:
        g, longest = self.geometry, max((len(prompt) for prompt in prompts), default=0)
        shape = 2, len(prompts), longest, g.heads, g.dim
        if tuple(kv.shape[1:]) != shape or not layers <= kv.shape[0] <= g.layers or kv.dtype != g.dtype:
            raise WrongShape(f"{tuple(kv.shape)} of {kv.dtype} for {len(prompts)} prompts of up to {longest} tokens")

    def _batch(self, prompts: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]) -> Batch:
        for prompt in prompts:
            self.check(prompt)
        chosen = [_rising(row, len(prompt)) for row, prompt in zip(positions, prompts, strict=True)]
        return Batch.of(prompts, chosen, self.device)

    def _ids(self, tokens: Sequence[int], before: int) -> Tensor:
        self.check(tokens, before)
        return torch.tensor([list(tokens)], dtype=torch.long, device=self.device)

    def check(self, tokens: Sequence[int], before: int = 0) -> None:
        """Raises InvalidTokens or PromptTooLong unless this model takes `tokens`, after `before` others."""
        if not tokens:
            raise InvalidTokens("no tokens")
        if before + len(tokens) > self.tokens_max:
            raise PromptTooLong(before + len(tokens), self.tokens_max)
        if min(tokens) < 0 or max(tokens) >= self.vocabulary:
            raise InvalidTokens(f"token ids of this model are 0 to {self.vocabulary - 1}")

    def _probe(self) -> None:
        """Raises UnsupportedModel unless keys that are turned are those computed at the new positions."""
        count = min(_PROBE_TOKENS, self.tokens_max)
        ids = torch.arange(count, device=self.device)[None] % self.vocabulary
        where = torch.arange(count, device=self.device)
        made = []
        for shift in (0, min(_PROBE_SHIFT, self.tokens_max - count)):
            slots = Slots(self.geometry, count, self.device)
            try:
                self._pass(slots, ids, where, count, plain=True, shift=shift)
            except (TypeError, ValueError, RuntimeError, IndexError) as error:
                raise UnsupportedModel(f"the model does not take this tier's cache: {type(error).__name__}") from error
            made.append((slots.kv(count), shift))
        (canonical, _), (moved, shift) = made
        turned = self.rotation.shift(canonical, shift)
        for part in (KEYS, 1 - KEYS):
            ours, real = turned[:, part].float(), moved[:, part].float()
            off = float((ours - real).norm() / real.norm().clamp_min(1e-12))
            if not off <= PROBE_TOLERANCE.get(self.geometry.dtype, 0.0):
                raise UnsupportedModel(f"keys of this model do not move by a rotation: they are {off:.1e} off")
