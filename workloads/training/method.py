"""What the kinds that train have in common, whatever their specs call it: what moves, in how many bits, on how long sequences.

The modules of training read a spec through `of`, so that a new kind that trains is one more function here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from workloads.models.load import Bits

if TYPE_CHECKING:
    from alpaca_operator.api.pretrain import PretrainSpec
    from alpaca_operator.api.sft import SFTSpec

Spec: TypeAlias = "SFTSpec | PretrainSpec"
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


def of(spec: Spec) -> Method:
    """How a job with this spec trains."""
    return METHODS[type(spec).__name__](spec)


def _sft(spec: SFTSpec) -> Method:
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


def _pretrain(spec: PretrainSpec) -> Method:
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


METHODS: dict[str, Callable[[Any], Method]] = {"SFTSpec": _sft, "PretrainSpec": _pretrain}
"""By the name of the spec's class: a command imports the models of its own kind, and no other's."""
