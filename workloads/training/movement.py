"""Whether training has changed anything: the bits of the weights that are trained, before and after."""

from __future__ import annotations

from typing import Any

import torch

INTEGERS = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""By the bytes of an element, what its bits are read as."""


def bit_sums(model: Any) -> list[int]:
    """For each weight that is trained, the sum of its bits read as integers: read once, at the speed of the memory, and another number
    as soon as one element differs. Under ZeRO-3, of the part that this process holds."""
    sums = []
    for weight in model.parameters():
        if weight.requires_grad:
            held = getattr(weight, "ds_tensor", weight).detach()
            sums.append(held.view(INTEGERS[held.element_size()]).sum(dtype=torch.int64))
    return [int(total) for total in torch.stack(sums).tolist()] if sums else []
