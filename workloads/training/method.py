"""What the kinds that train have in common, whatever their specs call it: what moves, in how many bits, on how long sequences.

The modules of training read a spec through `of`, so that a new kind that trains is one more function here.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import singledispatch
from typing import Literal

from alpaca_operator.api.pretrain import PretrainSpec
from alpaca_operator.api.sft import SFTSpec
from workloads.models.load import Bits

Spec = SFTSpec | PretrainSpec
"""Of the kinds that train."""


@dataclass(frozen=True)
class Words:
    """How a message names the choice that was made and the way out, in the spec's own fields."""

    whole: str
    """Training every weight."""
    adapter: str
    """What to write for an adapter instead: "set …"."""
    quantized: str
    """Holding the base quantized."""
    unquantized: str
    """How not to."""
    smaller: str
    """How to hold the base in less memory."""
    length: str
    """The field with the length of a sequence."""


@dataclass(frozen=True)
class Method:
    """How a job trains, as its spec says it."""

    trains: Literal["Adapter", "Embeddings", "Everything"]
    bits: Bits | None
    """The base is asked to be held in so many bits."""
    length: int
    """Tokens in the longest sequence."""
    words: Words
    adapter_uri: str | None = None
    """The adapter that training goes on from."""
    neftune_alpha: float | None = None


@singledispatch
def of(spec: Spec) -> Method:
    """How a job with this spec trains."""
    raise TypeError(f"{type(spec).__name__} is no spec of a kind that trains")


@of.register
def _(spec: SFTSpec) -> Method:
    return Method(
        trains="Everything" if spec.method == "Full" else "Adapter",
        bits=None if spec.method != "QLoRA" else spec.load.bits if spec.load else 4,
        length=spec.training.sequence_length,
        words=Words(
            whole="method Full",
            adapter="method to LoRA",
            quantized="method QLoRA",
            unquantized="set method to LoRA",
            smaller="set method to QLoRA",
            length="training.sequenceLength",
        ),
        adapter_uri=spec.adapter.uri if spec.adapter else None,
        neftune_alpha=spec.training.neftune_alpha,
    )


@of.register
def _(spec: PretrainSpec) -> Method:
    return Method(
        trains={"Embeddings": "Embeddings", "LoRA": "Adapter", "Full": "Everything"}[spec.trainable],  # type: ignore[arg-type]
        bits=spec.load.bits if spec.load else None,
        length=spec.training.block_size,
        words=Words(
            whole="trainable Full",
            adapter="trainable to LoRA",
            quantized="load.bits",
            unquantized="remove load",
            smaller="set trainable to LoRA with load.bits 4",
            length="training.blockSize",
        ),
    )
