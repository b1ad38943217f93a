"""A model's weights as a function of their names: each tensor is made in float32 when it is asked for, none is kept.

So a model is merged, saved and checked with the memory of a few of its tensors, whatever its size. What changes a model (another
vocabulary, an adapter) is other `Weights` on top of it, and so several changes are a chain.
"""

from __future__ import annotations

import copy
import json
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from safetensors import safe_open

from workloads.errors import InputError
from workloads.models import weight_files
from workloads.models.inspect import Base

if TYPE_CHECKING:
    import torch

    from workloads.models.resize_embeddings import EmbeddingRemap

EMBEDDING, HEAD = f"{weight_files.EMBEDDING}.weight", f"{weight_files.HEAD}.weight"


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
    """Those of a base, where `inspect` found them. Raises InputError for a model without an input embedding."""

    def __init__(self, base: Base, label: str) -> None:
        self._tensors = base.tensors
        found = next((name for name in self._tensors if name.endswith(EMBEDDING)), None)
        if found is None:
            raise InputError(
                f"{label}: no weight is called {EMBEDDING}: only models of Llama's kind are merged, and this has "
                f"{', '.join(list(self._tensors)[:3])}, …"
            )
        self.embedding, self.tied = found, base.tied
        self.head = next((name for name in self._tensors if name.endswith(HEAD)), HEAD)

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


class ReferenceWeights(Weights):
    """Those in a model's folder, read by the libraries alone: what a proof is held against. It shares nothing with `inspect` and
    `SavedWeights`, so that a mistake of theirs shows. Raises InputError for a model without an embedding and a head."""

    def __init__(self, folder: Path, label: str) -> None:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
        from transformers.utils import SAFE_WEIGHTS_INDEX_NAME, SAFE_WEIGHTS_NAME

        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        known = set(model.state_dict())
        index = folder / SAFE_WEIGHTS_INDEX_NAME
        if (folder / SAFE_WEIGHTS_NAME).is_file():
            files = {SAFE_WEIGHTS_NAME}
        else:
            files = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._files: dict[str, Path] = {}
        for file in sorted(files):
            with safe_open(folder / file, framework="pt") as opened:
                for name in known.intersection(opened.keys()):
                    self._shapes[name] = tuple(opened.get_slice(name).get_shape())
                    self._files[name] = folder / file
        paths = {id(module): name for name, module in model.named_modules()}
        inputs, outputs = model.get_input_embeddings(), model.get_output_embeddings()
        self.embedding, self.head = f"{paths[id(inputs)]}.weight", f"{paths[id(outputs)]}.weight"
        if self.embedding not in self._files:
            raise InputError(f"{label}: {self.embedding} is not in its files: copy the model again")
        self.tied = False
        if self.head not in self._files:
            self.tied = True
        elif config.tie_word_embeddings:  # transformers ties what is equal, and nothing else, whatever config.json says
            self.tied = torch.equal(self.read(self.embedding), self.read(self.head))

    @property
    def names(self) -> list[str]:
        return [name for name in self._shapes if not (self.tied and name == self.head)]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._shapes[self.embedding if self.tied and name == self.head else name]

    def read(self, name: str) -> torch.Tensor:
        import torch

        stored = self.embedding if self.tied and name == self.head else name
        with safe_open(self._files[stored], framework="pt") as opened:
            found: torch.Tensor = opened.get_tensor(stored)
        return found.to(torch.float32 if found.is_floating_point() else found.dtype, copy=True)


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
