"""A model's weights as a function of their names: each tensor is made in float32 when it is asked for, none is kept.

So a model is merged, saved and checked with the memory of a few of its tensors, whatever its size. What changes a model (another
vocabulary, an adapter) is other `Weights` on top of it, and so several changes are a chain.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.errors import InputError
from workloads.models import inspect, safetensors_io

if TYPE_CHECKING:
    import torch

    from workloads.models.resize_embeddings import EmbeddingRemap

EMBEDDING, HEAD = f"{inspect.EMBEDDING}.weight", f"{inspect.HEAD}.weight"
COMPUTED = ("rotary_emb.inv_freq",)
"""Old files have them; they follow from the configuration, and another rope scaling makes them wrong."""


class Weights(ABC):
    """A model's weights in float32, each made when it is asked for."""

    embedding: str
    """Name of the input embedding."""
    head: str
    """Name of the output head, whether or not it is the embedding."""
    tied: bool
    """The head is the embedding."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Every weight in the order of the files; without a head that is the embedding."""

    @abstractmethod
    def shape(self, name: str) -> tuple[int, ...]: ...

    @abstractmethod
    def read(self, name: str) -> torch.Tensor:
        """A tensor that the caller may change."""

    @property
    def rows(self) -> int:
        """Token ids that the model knows."""
        return self.shape(self.embedding)[0]


class SavedWeights(Weights):
    """Those in a model's folder. Raises InputError for a folder without an input embedding."""

    def __init__(self, folder: Path, label: str, *, tied: bool) -> None:
        self._tensors = {
            name: tensor
            for file in inspect.weight_files(folder, label)
            for name, tensor in safetensors_io.tensors(file, label).items()
            if not name.endswith(COMPUTED)
        }
        found = next((name for name in self._tensors if name.endswith(EMBEDDING)), None)
        if found is None:
            raise InputError(
                f"{label}: no weight is called {EMBEDDING}: only models of Llama's kind are merged, and this has "
                f"{', '.join(list(self._tensors)[:3])}, …"
            )
        self.embedding, self.tied = found, tied
        self.head = next((name for name in self._tensors if name.endswith(HEAD)), HEAD)
        if tied:
            self._tensors.pop(self.head, None)  # transformers does not read it either
        elif self.head not in self._tensors:
            raise InputError(
                f"{label}: config.json unties the head from the embedding, and there is no {HEAD}: copy the model again"
            )

    @property
    def names(self) -> list[str]:
        return list(self._tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._tensors[self._stored(name)].shape

    def read(self, name: str) -> torch.Tensor:
        read = self._tensors[self._stored(name)].read()
        return read.float() if read.is_floating_point() else read

    def dtype(self, name: str) -> str:
        return self._tensors[self._stored(name)].dtype

    def _stored(self, name: str) -> str:
        return self.embedding if self.tied and name == self.head else name


class ResizedWeights(Weights):
    """Those of another model, with the embedding rows of another vocabulary."""

    def __init__(self, before: Weights, remap: EmbeddingRemap) -> None:
        self._before, self._remap = before, remap
        self.embedding, self.head, self.tied = before.embedding, before.head, before.tied

    @property
    def names(self) -> list[str]:
        return self._before.names

    def shape(self, name: str) -> tuple[int, ...]:
        shape = self._before.shape(name)
        return (self._remap.rows, *shape[1:]) if name in (self.embedding, self.head) else shape

    def read(self, name: str) -> torch.Tensor:
        read = self._before.read(name)
        return self._remap.of(read) if name in (self.embedding, self.head) else read


def config_for(weights: Weights, config: Any) -> Any:
    """A copy of a transformers configuration, for the model that has these weights."""
    config = copy.deepcopy(config)
    config.vocab_size = weights.rows
    config.tie_word_embeddings = weights.tied
    return config
