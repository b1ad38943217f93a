"""Adapters merged into their base, in float32 and tensor by tensor, and verified against PEFT before the result is published.

Nothing is ever loaded whole: a model is merged, saved and verified with the memory of a few of its tensors.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.errors import SpecError
from workloads.models import adapter_names, safetensors_io
from workloads.models.configuration import configuration
from workloads.models.inspect import Base
from workloads.models.layerwise_logits import compute_logits
from workloads.models.lora_adapter import LoRAAdapter
from workloads.models.merged_weights import MergedWeights
from workloads.models.weights import ReferenceWeights, ResizedWeights, SavedWeights, Weights, config_for

if TYPE_CHECKING:
    import torch

    from workloads.models.resize_embeddings import EmbeddingRemap

SHARD_SIZE = 5 * 10**9
"""Bytes of the largest file of weights."""
TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference of a logit that rounding to a dtype explains, as a share of the largest logit. A wrong merge (a scale left
out, a tied head gone astray) is off by the size of the logits themselves."""
OF_ANOTHER_VOCABULARY = ", or put the tokenizer that it was trained with into its folder"
"""What makes the embeddings grow first."""
M_MMAP_THRESHOLD = -3
"""Of glibc's malloc.h: blocks from this size on are mapped on their own."""


@dataclass(frozen=True)
class Step:
    """An adapter to be merged, and what its vocabulary does to the embeddings first."""

    adapter: LoRAAdapter
    remap: EmbeddingRemap | None = None


@dataclass(frozen=True)
class MergeCheck:
    """How far a merged model is from base and adapter."""

    logit_difference: float
    """The largest, over all positions and tokens looked at."""
    token_agreement: float
    """Share of the positions at which both think the same token the likeliest."""


@dataclass(frozen=True)
class Target:
    """What is written, and who is called meanwhile."""

    folder: Path
    dtype: str
    """`float32`, `bfloat16` or `float16`."""
    shard_size: int = SHARD_SIZE
    """Bytes."""
    limit: float | None = None
    """Largest difference of a logit; what rounding to the dtype explains where it is not given."""
    remedy: str = "name the base that the adapter was made from"
    """What to do about a larger one."""
    written: Callable[[int, int], None] = field(default=lambda number, total: None)
    """Called after each file with the number written and their total."""
    heartbeat: Callable[[], None] = field(default=lambda: None)
    """Called for each tensor; may raise to stop."""


def merge(base: Base, steps: Sequence[Step], target: Target, sample: Sequence[Sequence[int]]) -> MergeCheck:
    """Merge ``steps`` in their order into ``base``, save as safetensors with config.json, and verify the logits.

    ``sample`` are token ids to compare on. Raises DataError where an adapter is of another base, and SpecError when the saved
    model, read back, is not base plus adapters.
    """
    _give_memory_back()
    config = configuration(base, str(base.folder))
    config.use_cache = True
    saved = SavedWeights(base, str(base.folder))
    reached: Weights = saved
    for number, step in enumerate(steps):
        grown = _grown(reached, step)
        named = "what the adapters before it make of the base" if number else "the base"
        adapter_names.check(step.adapter, config_for(grown, config), named, OF_ANOTHER_VOCABULARY)
        reached = MergedWeights(grown, step.adapter)
    _save(reached, saved, config, target)
    return verify_logits(base.folder, steps, target, config, sample)


def _grown(weights: Weights, step: Step) -> Weights:
    return ResizedWeights(weights, step.remap) if step.remap is not None else weights


def _give_memory_back() -> None:
    """Have glibc return freed tensors to the system. It would keep those below 32 MB, in holes too small for the next: a model of
    270 MB took 380 MB of them, and takes 33."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 1 << 20)


def _save(merged: Weights, base: SavedWeights, config: Any, target: Target) -> None:
    import torch

    def dtype(name: str) -> str:
        held = base.dtype(name) if name in base.names else target.dtype
        return target.dtype if getattr(torch, held).is_floating_point else held

    def make(name: str) -> torch.Tensor:
        target.heartbeat()
        with torch.inference_mode():
            return merged.read(name)

    planned = [safetensors_io.Planned(name, merged.shape(name), dtype(name)) for name in merged.names]
    safetensors_io.write(target.folder, planned, target.shard_size, make, target.written)
    config = config_for(merged, config)
    config.dtype = getattr(torch, target.dtype)
    config.save_pretrained(target.folder)


def verify_logits(
    base: Path, steps: Sequence[Step], target: Target, config: Any, sample: Sequence[Sequence[int]]
) -> MergeCheck:
    """PEFT's logits for each adapter on what came before it, beside those of the model with it merged in; the saved one at the end.

    Both ends, the base and the saved model, are read by the libraries alone: a mistake in how we read or write a folder shows.
    """
    from transformers import AutoConfig

    checks = []
    before: Weights = ReferenceWeights(base, str(base))
    for number, step in enumerate(steps):
        before = _grown(before, step)
        expected = compute_logits(before, config, sample, target.heartbeat, step.adapter)
        after: Weights = MergedWeights(before, step.adapter)
        if number == len(steps) - 1:
            after = ReferenceWeights(target.folder, str(target.folder))
            config = AutoConfig.from_pretrained(target.folder, trust_remote_code=False, local_files_only=True)
        found = compute_logits(after, config, sample, target.heartbeat)
        before = after
        check = _compare(expected, found)
        checks.append(check)
        largest = max(float(logits.abs().max()) for logits in expected)
        limit = TOLERANCE[target.dtype] * max(largest, 1.0) if target.limit is None else target.limit
        if not check.logit_difference <= limit:
            raise SpecError(  # trying again would not help
                f"merge: the merged model's logits differ from base + adapter by {check.logit_difference:.3g} (largest logit {largest:.3g}, "
                f"bound {limit:.3g}, saved as {target.dtype}): nothing is published; {target.remedy}"
            )
    return MergeCheck(max(check.logit_difference for check in checks), min(check.token_agreement for check in checks))


def _compare(expected: Sequence[torch.Tensor], found: Sequence[torch.Tensor]) -> MergeCheck:
    difference = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in zip(expected, found, strict=True))
    return MergeCheck(difference, same / sum(len(logits) for logits in expected))
