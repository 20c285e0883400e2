"""Loading a model by what a user calls it: a folder, an id that transformers knows, "demo" or "demo-isolated"."""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HfHubHTTPError
from transformers import AutoModelForCausalLM, AutoTokenizer

from homenode_kv.calibration import FILE, Calibrated, CalibrationError
from homenode_kv.engine import PROBE_TOLERANCE, Engine
from homenode_kv.errors import UnsupportedModel
from homenode_kv.worker.text import Tokenizer

LOG = logging.getLogger("homenode.kv")
DEMOS = ("demo", "demo-isolated")


@dataclass(frozen=True)
class Loaded:
    """A model, ready to compute.

    Attributes:
        name: as it was asked for; of a folder, the folder's name.
        token_flops: of one token in a plain prefill, about: two for each parameter.
        isolated: it was trained with segments that do not see each other, as its configuration says.
        folder: where its files are; None of an id.
    """

    name: str
    engine: Engine
    tokenizer: Tokenizer
    fingerprint: str
    token_flops: int
    isolated: bool
    folder: Path | None = None


def load(name: str, device: str = "cpu", dtype: str = "") -> Loaded:
    """A model and its tokenizer.

    Args:
        name: a folder, an id of a model that transformers can find, "demo" for the one that comes with the package, or
            "demo-isolated" for that which was trained further with segments that do not see each other.
        device: such as "cpu" or "cuda".
        dtype: such as "bfloat16"; "": as the model's files say.

    Raises UnsupportedModel for what is not there, or cannot be served by this tier.
    """
    wanted, place = _dtype(dtype), _device(device)
    tokenizer, model = _demo(name) if name in DEMOS else _files(name, wanted)
    engine = Engine(model.to(device=place, dtype=wanted).eval(), tokenizer=tokenizer.digest)
    if engine.geometry.layers < 2:
        raise UnsupportedModel("a model of one layer has none on which reused KV could be checked")
    parameters = sum(parameter.numel() for parameter in model.parameters())
    isolated = getattr(model.config, "homenode_segments", "") == "isolated"
    folder = _demo_folder(name) if name in DEMOS else Path(name) if Path(name).is_dir() else None
    shown = name if name in DEMOS or folder is None else folder.resolve().name
    return Loaded(shown, engine, tokenizer, engine.fingerprint(), 2 * parameters, isolated, folder)


def calibration_of(model: Loaded, file: Path | None = None) -> Calibrated | None:
    """What calibration found for the model, in `file` or beside its weights; None where it was never calibrated.

    Raises CalibrationError or OSError where `file` is given and is not for this model.
    """
    if file is not None:
        return Calibrated.read(file, model.fingerprint)
    if model.folder is None or not (model.folder / FILE).is_file():
        return None
    try:
        return Calibrated.read(model.folder / FILE, model.fingerprint)
    except CalibrationError as error:  # of weights that were there before, or of another dtype
        LOG.warning("not used: %s", error)
        return None


def _demo_folder(name: str) -> Path:
    from homenode_kv.demo.model import ISOLATED, WEIGHTS

    return WEIGHTS if name == DEMOS[0] else ISOLATED


def _demo(name: str) -> tuple[Tokenizer, Any]:
    from homenode_kv.demo import tokenizer as words
    from homenode_kv.demo.model import load_model

    digest = hashlib.sha256(json.dumps([words.VOCABULARY, words.decode(range(words.VOCABULARY))]).encode()).hexdigest()
    longest = max(len(words.decode([one])) for one in range(words.VOCABULARY))
    tokenizer = Tokenizer(digest, words.encode, words.decode, (), frozenset({words.END_ID}), longest)
    return tokenizer, load_model(_demo_folder(name))


def _dtype(name: str) -> torch.dtype | None:
    found = getattr(torch, name, None) if name else None
    if name and not (isinstance(found, torch.dtype) and found in PROBE_TOLERANCE):
        raise UnsupportedModel(f"a dtype is {', '.join(str(one)[6:] for one in PROBE_TOLERANCE)}, not {name!r}")
    return found


def _device(name: str) -> torch.device:
    try:
        place = torch.device(name)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, ValueError, NotImplementedError):
        raise UnsupportedModel(f"torch has no device {name!r} here") from None
    return place


def _files(name: str, dtype: torch.dtype | None) -> tuple[Tokenizer, Any]:
    local = Path(name).is_dir() or not _hub_answers(name)
    try:
        model = AutoModelForCausalLM.from_pretrained(name, dtype=dtype or "auto", local_files_only=local)
        tokenizer = AutoTokenizer.from_pretrained(name, local_files_only=local)
    except OSError as error:
        raise UnsupportedModel(f"there is no model at {name!r}, nor under that id") from error
    except ValueError as error:
        raise UnsupportedModel(f"transformers knows no causal language model in {name!r}: {error}") from error
    return tokenizer_of(tokenizer, model), model


def _hub_answers(name: str) -> bool:
    """Whether the place that ids are of says anything: else only what was fetched before is looked for, at once."""
    try:
        get_hf_file_metadata(hf_hub_url(name, "config.json"))
    except (HfHubHTTPError, ValueError):  # it has no such model, or there can be none: transformers says it better
        return True
    except Exception as failure:  # what it is depends on the client that the hub's package uses
        LOG.info("the hub does not answer: %s", type(failure).__name__)
        return False
    return True


def tokenizer_of(found: Any, model: Any) -> Tokenizer:
    """A tokenizer of transformers as ours."""
    backend = getattr(found, "backend_tokenizer", None)
    named = backend.to_str() if backend is not None else json.dumps(sorted(found.get_vocab().items()))
    ends = getattr(model.generation_config, "eos_token_id", None)
    ends = found.eos_token_id if ends is None else ends

    def encode(text: str) -> list[int]:
        return list(found.encode(text, add_special_tokens=False))

    def decode(tokens: Sequence[int]) -> str:
        return str(found.decode(list(tokens), skip_special_tokens=False, clean_up_tokenization_spaces=False))

    return Tokenizer(
        digest=hashlib.sha256(named.encode()).hexdigest(),
        encode=encode,
        decode=decode,
        begin=tuple(token for token in found.encode("")[:1] if token == found.bos_token_id),
        ends=frozenset([ends] if isinstance(ends, int) else ends or ()),
        longest=max(map(len, found.get_vocab()), default=0),
    )
