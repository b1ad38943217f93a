"""The numbers of a model that decide how it can be trained, and the memory that a step needs."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from workloads.errors import SpecError
from workloads.models.inspect import Base, Shapes
from workloads.models.load import Bits
from workloads.models.weight_files import EMBEDDING, HEAD
from workloads.training import method
from workloads.training.method import Spec


@dataclass(frozen=True)
class Sizes:
    """The shape of a model, read from config.json and the headers of its weights."""

    parameters: int
    embeddings: int
    """Of these, in the input embedding and, where it is not tied to it, the output head."""
    trainable: int
    """Weights that get a gradient: the adapter's and copies of modulesToSave, or all."""
    hidden: int
    intermediate: int
    layers: int
    vocabulary: int
    widths: tuple[int, ...] = ()
    """Input widths of the linear layers that would be quantized."""


def sizes(base: Base, spec: Spec) -> Sizes:
    """The numbers that the policy decides by. Raises SpecError when `lora` names layers that the model does not have."""
    parameters = sum(math.prod(shape) for shape in base.shapes.values())
    ends = [name for name in base.shapes if name.endswith((f"{EMBEDDING}.weight", f"{HEAD}.weight"))]
    embeddings = sum(math.prod(base.shapes[name]) for name in ends)
    layers = _adapted(base.shapes, spec.lora.target_modules)
    how = method.of(spec)
    if how.trains != "Adapter":
        trainable = parameters if how.trains == "Everything" else embeddings
    else:
        if not layers and how.adapter_uri is None:
            raise SpecError(
                f"lora.targetModules names {', '.join(spec.lora.target_modules)}, and this model has no such layer: it has "
                f"{', '.join(_layer_names(base.shapes))}"
            )
        trainable = sum(spec.lora.rank * sum(base.shapes[name]) for name in layers)
        for module in spec.lora.modules_to_save:
            saved = [name for name in base.shapes if module in name.split(".")]
            if not saved and not (module == HEAD and base.tied):
                raise SpecError(
                    f"lora.modulesToSave names {module}, and this model has no such layer: it has "
                    f"{', '.join(_layer_names(base.shapes))}"
                )
            trainable += sum(math.prod(base.shapes[name]) for name in saved)
    return Sizes(
        parameters=parameters,
        embeddings=embeddings,
        trainable=trainable,
        hidden=int(base.config.get("hidden_size", 0)),
        intermediate=int(base.config.get("intermediate_size", 0)),
        layers=int(base.config.get("num_hidden_layers", 0)),
        vocabulary=base.rows,
        widths=tuple(sorted({base.shapes[name][1] for name in layers})),
    )


OFFLOAD_BUFFERS = 4 * 500_000_000
"""Bytes: under ZeRO-2 with offload a bucket of gradients is reduced while the one before goes to main memory; each holds 5e8 values of two bytes,
of which one in two is on its way at most."""


def offloaded(sizes: Sizes) -> int:
    """Bytes of main memory that ZeRO-2 with offload takes: float32 weights, their gradients, and two moments of each."""
    return 16 * sizes.trainable


def estimate(
    spec: Spec,
    sizes: Sizes,
    precision: str,
    bits: Bits | None,
    weights: str,
    checkpointing: str,
    optimizer: str,
    offloads: bool = False,
) -> int:
    """Bytes of device memory for one step; with ``offloads``, while gradients and optimizer state are in main memory.

    Activations follow Korthikanti et al. (arXiv:2205.05198, section 4), with Llama's gated MLP and without dropout masks: a
    layer keeps about ten vectors of the hidden and six of the intermediate width per token. The logits count three times
    (half precision, the loss's float32 copy, its gradient).
    """
    how = method.of(spec)
    half = 4 if precision == "fp32" else 2
    width = {"float32": 4, "bfloat16": 2, "float16": 2}[weights]
    linear = sizes.parameters - sizes.embeddings
    # nf4 with double quantization: 4 bits, and 0.127 for the scales (Dettmers et al., arXiv:2305.14314, section 3).
    base = int(linear * {4: 0.516, 8: 1.02}[bits]) + sizes.embeddings * width if bits else sizes.parameters * width
    moments = 2 if optimizer in ("adamw_8bit", "paged_adamw_8bit") else 4 if optimizer == "adafactor" else 8
    # A full model's gradients have its weights' dtype; an adapter's weights, and embeddings trained alone, are float32 copies.
    state = sizes.trainable * (width + moments if how.trains == "Everything" else 4 + 4 + moments)
    if offloads:
        state = OFFLOAD_BUFFERS
    tokens = spec.training.batch_size_per_device * how.length
    layer = tokens * (10 * sizes.hidden + 6 * sizes.intermediate) * half
    kept = layer + sizes.layers * tokens * sizes.hidden * half if checkpointing == "Full" else sizes.layers * layer
    logits = tokens * sizes.vocabulary * (half + 4 + 4)
    return base + state + kept + logits


def _adapted(shapes: Shapes, targets: Iterable[str]) -> list[str]:
    """Weights of the linear layers whose name ends in one of ``targets``, as peft matches them."""
    ends = tuple(targets)
    return [
        name
        for name, shape in shapes.items()
        if len(shape) == 2
        and name.endswith(".weight")
        and any(name[: -len(".weight")] == end or name[: -len(".weight")].endswith(f".{end}") for end in ends)
    ]


def _layer_names(shapes: Shapes) -> list[str]:
    return sorted(
        {name.split(".")[-2] for name, shape in shapes.items() if len(shape) == 2 and name.endswith(".weight")}
    )
