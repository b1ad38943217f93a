"""Adapters that are models of their own, beside each other on one base: looked into before any weights are read.

The base is in memory once. An adapter is worn for a pass, so that those that answer at the same time take a pass each: PEFT's own way of
mixing them in one batch does so by sequences, knows neither DoRA nor quantized layers, and a pass has one sequence.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from pathlib import Path

from workloads.errors import SpecError
from workloads.models.lora_adapter import LoRAAdapter
from workloads.models.model_request import InspectedModel, inspect_request
from workloads.storage.sources import Input


@dataclass(frozen=True)
class Beside:
    """One of them."""

    name: str
    model: InspectedModel
    """The base with this adapter alone."""
    digest: str
    size: int
    """Bytes that it takes in memory."""

    @property
    def source(self) -> tuple[str, str, Path]:
        """Field, uri and folder."""
        return self.model.request.adapters[0]


def inspect(name: str, field: str, source: Input, base: InspectedModel) -> Beside:
    """The adapter that lies at ``source``, on ``base``, which has none. Raises SpecError, and what `inspect_request` raises, for one that
    cannot stand beside others."""
    label = f"spec.{field} {source.uri}"
    adapter = LoRAAdapter.open(source.path, label)
    must_change_layers_alone(adapter)
    model = inspect_request(replace(base.request, adapters=((field, source.uri, source.path),)))
    if model.base.rope_scaling != base.base.rope_scaling:
        raise SpecError(
            f"{label} was trained with a ropeScaling that the base is not served with: set model.ropeScaling to it, or merge first, with a "
            "MergeJob"
        )
    # PEFT holds adapters in 32 bits, whatever their base is in.
    size = 4 * sum(math.prod(shape) for shape in adapter.shapes.values())
    return Beside(name, model, source.digest, size)


def must_change_layers_alone(adapter: LoRAAdapter) -> None:
    """Raises SpecError for an adapter with whole weights, which there is one place for in a base."""
    if adapter.rows is not None or any(update.whole for update in adapter.updates.values()):
        raise SpecError(
            f"{adapter.label} brings embeddings or other weights of its own, as with an extended vocabulary, and cannot stand beside others on one "
            "base: merge first, with a MergeJob, and serve what it makes"
        )
