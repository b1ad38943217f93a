"""Which token a model holds for the likeliest, and whether it was the right one: one rule for training, evaluation and what is written.

Of several that are equally likely it is the first, as with greedy decoding: a model that holds all tokens for equally likely foretells
nothing, and bfloat16 makes ties of tokens that are not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

BLOCK = 256
"""Logits whose largest is looked for first, by a kernel that uses the whole width of a processor, which that of ``argmax`` does not."""


def likeliest(logits: torch.Tensor) -> torch.Tensor:
    """The first of the largest in every row of ``logits`` (rows, vocabulary), as ``argmax`` gives it, a few times faster on a CPU."""
    import torch

    size = logits.shape[-1]
    if logits.device.type != "cpu" or size < 2 * BLOCK:
        return logits.argmax(-1)
    whole = size - size % BLOCK
    largest = logits[:, :whole].reshape(len(logits), whole // BLOCK, BLOCK).amax(-1)
    if whole < size:
        largest = torch.cat([largest, logits[:, whole:].amax(-1, keepdim=True)], -1)
    start = largest.argmax(-1, keepdim=True) * BLOCK
    # Past the end the last one is looked at again: where it is the largest, it is found at its own place first.
    within = (start + torch.arange(BLOCK, device=logits.device)).clamp_(max=size - 1)
    return start[:, 0] + logits.gather(-1, within).argmax(-1)


def hits(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Whether each label (rows) is the likeliest by its logits (rows, vocabulary). One whose logit is no number is not."""
    own = logits.gather(-1, labels[:, None])[:, 0]
    found: torch.Tensor = (likeliest(logits) == labels) & ~own.isnan()
    return found
