"""Adapter and base into one model, in float32, proved against the two apart before it is published."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.errors import WorkloadError
from workloads.model import Base, stretch

if TYPE_CHECKING:
    from alpaca_operator.api.base import RopeScaling

TOLERANCE = {"float32": 1e-3, "float16": 2e-2, "bfloat16": 1e-1}
"""Largest difference of a logit that rounding to a dtype explains, as a share of the largest logit. A wrong merge (a scale left
out, a tied head gone astray) is off by the size of the logits themselves."""


@dataclass(frozen=True)
class Proof:
    """How far a merged model is from base and adapter."""

    logit_difference: float
    """The largest, over all positions and tokens looked at."""
    token_agreement: float
    """Share of the positions at which both think the same token the likeliest."""


def merge(
    base: Base,
    adapter: Path,
    target: Path,
    sample: Sequence[Sequence[int]],
    dtype: str,
    rope_scaling: RopeScaling | None,
) -> Proof:
    """Merge ``adapter`` into ``base`` and save to ``target`` as safetensors in ``dtype`` ("float32", "bfloat16", "float16").

    ``sample`` are token ids to compare on. Raises WorkloadError when the saved model, read back, is not base plus adapter.
    """
    import peft
    import torch

    model = _load(base.folder, "float32", rope_scaling)
    combined = peft.PeftModel.from_pretrained(model, str(adapter)).eval()
    expected = [_logits(combined, ids) for ids in sample]
    merged: Any = combined.merge_and_unload(safe_merge=True)
    if merged.get_output_embeddings().weight is not merged.get_input_embeddings().weight:
        # A head that was trained apart from its embedding; left tied, saving would throw it away.
        same = torch.equal(merged.get_output_embeddings().weight, merged.get_input_embeddings().weight)
        merged.config.tie_word_embeddings = bool(merged.config.tie_word_embeddings and same)
        if merged.config.tie_word_embeddings:
            merged.tie_weights()
    merged.config.use_cache = True
    merged.to(getattr(torch, dtype)).save_pretrained(str(target))
    del model, combined, merged
    gc.collect()

    saved = _load(target, "float32", None).eval()
    found = [_logits(saved, ids) for ids in sample]
    proof = _compare(expected, found)
    largest = max(float(logits.abs().max()) for logits in expected)
    if not proof.logit_difference <= TOLERANCE[dtype] * max(largest, 1.0):
        raise WorkloadError(
            f"merge: the merged model's logits differ from base + adapter by {proof.logit_difference:.3g} (largest logit "
            f"{largest:.3g}, bound {TOLERANCE[dtype]:g} of it for {dtype}): nothing is published; set merge to false to get the adapter"
        )
    return proof


def _load(folder: Path, dtype: str, rope_scaling: RopeScaling | None) -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    if rope_scaling:
        stretch(config, rope_scaling.type, rope_scaling.factor)
    return AutoModelForCausalLM.from_pretrained(
        folder,
        config=config,
        dtype=getattr(torch, dtype),
        trust_remote_code=False,
        local_files_only=True,
        use_safetensors=True,
    )


def _logits(model: Any, ids: Sequence[int]) -> Any:
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.tensor([list(ids)]), use_cache=False).logits[0].float()


def _compare(expected: list[Any], found: list[Any]) -> Proof:
    difference = max(float((a - b).abs().max()) for a, b in zip(expected, found, strict=True))
    same = sum(int((a.argmax(-1) == b.argmax(-1)).sum()) for a, b in zip(expected, found, strict=True))
    return Proof(difference, same / sum(len(logits) for logits in expected))
