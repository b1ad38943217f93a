"""Models whose positions are stretched by the length of the text (dynamic NTK): texts of different lengths cannot be computed together, and
transformers goes on with the stretch of the longest text so far."""

from __future__ import annotations

from typing import Any


def changes_with_length(model: Any) -> bool:
    """Whether the positions of a transformers model depend on how long the text is."""
    return (model.config.rope_parameters or {}).get("rope_type") in ("dynamic", "longrope")


def start_anew(model: Any) -> None:
    """Forget how long the last text was."""
    import torch

    for module in model.modules():
        if hasattr(module, "original_inv_freq"):
            device = module.original_inv_freq.device
            module(torch.zeros(1, device=device), torch.zeros((1, 1), dtype=torch.long, device=device))
