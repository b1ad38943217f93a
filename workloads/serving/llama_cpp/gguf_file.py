"""What a GGUF file says of itself: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from workloads.errors import InputError
from workloads.system.describe import some

FIRST_PART = re.compile(r"-00001-of-\d{5}\.gguf$")
PART = re.compile(r"-\d{5}-of-\d{5}\.gguf$")
"""llama.cpp finds the others by the name of the first."""


@dataclass(frozen=True)
class GGUFFile:
    """A file whose metadata was read."""

    path: Path
    label: str
    """How messages call it."""
    metadata: Mapping[str, Any]

    @property
    def architecture(self) -> str:
        return str(self.metadata["general.architecture"])

    def number(self, name: str) -> int:
        """Of the architecture. Raises InputError where the file does not say."""
        key = f"{self.architecture}.{name}"
        if key not in self.metadata:
            raise InputError(f"{self.label}: {self.path.name} has no {key}: write it anew with llama.cpp's converter")
        value = self.metadata[key]
        return int(max(value) if isinstance(value, list) else value)

    @property
    def context(self) -> int:
        """Positions that the model was made for."""
        return self.number("context_length")

    @property
    def bytes_per_position(self) -> int:
        """Of a conversation, keys and values of all layers, in 16 bits."""
        heads = self.number("attention.head_count")
        kv_heads = self.metadata.get(f"{self.architecture}.attention.head_count_kv", heads)
        kv_heads = max(kv_heads) if isinstance(kv_heads, list) else kv_heads
        width = self.number("embedding_length") // heads
        keys = int(self.metadata.get(f"{self.architecture}.attention.key_length", width))
        values = int(self.metadata.get(f"{self.architecture}.attention.value_length", width))
        return self.number("block_count") * int(kv_heads) * (keys + values) * 2


def find(folder: Path, label: str) -> Path:
    """The one GGUF file of a folder. Raises InputError, which begins with ``label``, where there is none or more than one model."""
    names = sorted(path.name for path in folder.glob("*.gguf"))
    if not names:
        holds = some(sorted(os.listdir(folder)))
        raise InputError(
            f"{label}: {folder} has no .gguf file; it holds {holds}: name the output of a QuantizeJob with format GGUF, or set engine to Auto"
        )
    models = [name for name in names if FIRST_PART.search(name) or not PART.search(name)]
    if len(models) != 1:
        raise InputError(f"{label}: {folder} holds {some(names)}: leave one model in it, or name a folder with one")
    return folder / models[0]


def read(folder: Path, label: str) -> GGUFFile:
    """What the file in ``folder`` says. Raises InputError, which begins with ``label``."""
    from gguf import GGUFReader

    path = find(folder, label)
    try:
        fields = GGUFReader(path).fields
        metadata = {name: field.contents() for name, field in fields.items()}
    except (ValueError, IndexError) as error:
        raise InputError(f"{label}: {path} is no GGUF file, or cut short ({error}): copy it again") from error
    if "general.architecture" not in metadata:
        raise InputError(f"{label}: {path} does not say its architecture: write it anew with llama.cpp's converter")
    return GGUFFile(path, label, metadata)
