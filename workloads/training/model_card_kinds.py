"""What the model card of each kind that trains says of its result; a new kind is one more function here."""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Any

from alpaca_operator.api.pretrain import PretrainSpec
from alpaca_operator.api.sft import SFTSpec
from alpaca_operator.api.sources import Source
from alpaca_operator.api.training import LoRA


@dataclass(frozen=True)
class About:
    """What only the kind of job knows of its result."""

    what: str
    """A noun phrase, before "of `<base>`"."""
    tags: tuple[str, ...]
    start: Source
    """What training started from."""
    how: str
    """A paragraph on the prompt format, before the code that loads the result."""
    unread: frozenset[str] = frozenset()
    """Parts of the spec that this method does not read."""
    resized: bool = False
    """The vocabulary is another one than the base's."""


@singledispatch
def about(spec: Any) -> About:
    """What the card of a job with this spec says."""
    raise TypeError(f"{type(spec).__name__} is no spec of a kind that trains")


@about.register
def _(spec: SFTSpec) -> About:
    unread = {"Full": {"lora", "load"}, "LoRA": {"load"}, "QLoRA": set()}[spec.method]
    merged = "A merged fine-tune (the adapter alone is in `adapter/`)"
    return About(
        what="A full fine-tune" if spec.method == "Full" else merged if spec.merge else _adapter(spec.lora),
        tags=("sft", spec.method.lower()),
        start=spec.model,
        how=f"The prompt format is `{spec.template}`; the tokenizer here carries it as its chat template.\n",
        unread=frozenset(unread),
    )


@about.register
def _(spec: PretrainSpec) -> About:
    whats = {
        "Embeddings": "A first stage of continued pretraining (embeddings only)",
        "LoRA": _adapter(spec.lora),
        "Full": "A continued pretraining" if spec.model else "A model from scratch in the shape",
    }
    start = spec.model or (spec.init.config if spec.init else None)
    assert start is not None, "a rule of the spec"
    return About(
        what=whats[spec.trainable],
        tags=("pretraining", spec.trainable.lower()),
        start=start,
        how="It continues text: pretraining teaches no conversation.\n",
        unread=frozenset() if spec.trainable == "LoRA" else frozenset({"lora", "load"}),
        resized=spec.tokenizer is not None,
    )


def _adapter(lora: LoRA) -> str:
    return "A DoRA adapter" if lora.use_dora else "An rsLoRA adapter" if lora.use_rslora else "A LoRA adapter"
