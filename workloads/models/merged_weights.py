"""An adapter merged into the weights that it is on, tensor by tensor and in float32: what a merged weight is depends on that weight and
the adapter alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from workloads.errors import DataError
from workloads.models.lora_adapter import LoRAAdapter, LoRAUpdate
from workloads.models.weights import Weights

if TYPE_CHECKING:
    import torch


class MergedWeights(Weights):
    """Those of another model with an adapter merged in."""

    def __init__(self, before: Weights, adapter: LoRAAdapter) -> None:
        self._before, self._adapter = before, adapter
        self.embedding, self.head = before.embedding, before.head
        self.tied = before.tied and self._stays_tied()

    @property
    def names(self) -> list[str]:
        before = self._before.names
        return before if self.tied or self.head in before else [*before, self.head]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._before.shape(name)

    def read(self, name: str) -> torch.Tensor:
        if self.tied and name == self.head:
            name = self.embedding
        return merge_tensor(name, self._before, self._adapter)

    def _stays_tied(self) -> bool:
        """A tied head that was trained apart from its embedding is lost where the two are saved as one."""
        import torch

        touched = {self.embedding, self.head} & self._adapter.updates.keys()
        if not touched:
            return True
        if touched == {self.embedding} and self._adapter.config.get("ensure_weight_tying"):
            return True
        return torch.equal(*(merge_tensor(name, self._before, self._adapter) for name in (self.embedding, self.head)))


def merge_tensor(name: str, before: Weights, adapter: LoRAAdapter) -> torch.Tensor:
    """The weight with the adapter's update in it. Raises DataError where that is infinite or not a number.

    The same operations in the same order as PEFT's `merge_and_unload`, so that the result is the same bit by bit.
    """
    update = adapter.updates.get(name)
    if update is None:
        return before.read(name)
    if update.lora_A is not None and update.magnitude is None and update.whole is None:
        merged = _change(update, update.scale * adapter.weight)
        merged += before.read(name)
    else:
        merged = before.read(name) if update.whole is None else update.whole.read().float()
        if update.magnitude is not None:
            merged = _with_dora(update, update.magnitude.read().float().reshape(-1), merged)
        elif update.lora_A is not None:
            change = _change(update, update.scale)
            change += merged
            merged = change
        if adapter.weight != 1:
            weight = before.read(name)
            merged = weight + adapter.weight * (merged - weight)
    if not bool(merged.isfinite().all()):
        raise DataError(
            f"{adapter.label} makes {name} infinite or not a number: the training that made it has diverged"
        )
    return merged


def _change(update: LoRAUpdate, scale: float) -> torch.Tensor:
    """B·A as the weight lies, scaled."""
    assert update.lora_A is not None, "checked when the adapter was opened"
    assert update.lora_B is not None, "one is refused without the other"
    change = update.lora_B.read().float() @ update.lora_A.read().float()
    return (change.T if update.embeds else change) * scale


def _with_dora(update: LoRAUpdate, magnitude: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """DoRA: weight and change together give the direction of each output (of each column of an embedding), ``magnitude`` its length."""
    import torch

    change = _change(update, update.scale)
    # PEFT adds an embedding's transposes up anew for the norm; another order of the sum would be another last bit.
    length = torch.linalg.norm(weight.T + change.T, dim=1) if update.embeds else None
    change += weight
    if length is None:
        length = torch.linalg.norm(change, dim=1)
    factor = (magnitude / length).view(*((1, -1) if update.embeds else (-1, 1)))
    merged: torch.Tensor = factor * change
    return merged
