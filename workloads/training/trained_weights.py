"""The weights of a training on disk: what `save_pretrained` writes of a model or an adapter."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import safetensors.torch

FILES = ("adapter_*", "model*.safetensors*", "config.json", "generation_config.json")


def save(model: Any, folder: Path, state_dict: dict[str, Any] | None = None) -> None:
    """An adapter's own weights, or all of a model's, as safetensors."""
    options: dict[str, Any] = {"state_dict": state_dict} if state_dict is not None else {}
    if hasattr(model, "peft_config"):
        # "auto" asks the hub whether the vocabulary grew; modules_to_save holds the embeddings that were trained.
        options["save_embedding_layers"] = False
    model.save_pretrained(str(folder), **options)


def trained_alone(model: Any) -> dict[str, Any] | None:
    """The weights that are trained, where those are a few of a whole model's: embeddings, and not the layers between them."""
    moving = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    whole = len(moving) == sum(1 for _ in model.parameters())
    return None if whole or hasattr(model, "peft_config") else moving


def save_part(weights: dict[str, Any], folder: Path) -> None:
    """What `trained_alone` found, under a model's file name."""
    safetensors.torch.save_file(weights, str(folder / "model.safetensors"))


def copy(source: Path, target: Path) -> None:
    """From one folder into another, which is made."""
    target.mkdir(parents=True, exist_ok=True)
    for pattern in FILES:
        for file in source.glob(pattern):
            shutil.copyfile(file, target / file.name)
