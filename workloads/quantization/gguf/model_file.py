"""The file itself, written one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.errors import InputError
from workloads.models.inspect import Base
from workloads.models.safetensors_io import Tensor
from workloads.quantization.gguf import architecture
from workloads.quantization.gguf.vocabulary import Vocabulary

if TYPE_CHECKING:
    import numpy as np
    import torch
    from transformers import PretrainedConfig

PLAIN = {"F32": 4, "F16": 2, "BF16": 2}
"""Types that no value is rounded in beyond its own precision, with the bytes of a value."""
FILE_TYPES = {
    "F32": 0, "F16": 1, "BF16": 32, "Q8_0": 7, "Q6_K": 18, "Q5_K_M": 17, "Q4_K_M": 15, "Q3_K_M": 12, "Q2_K": 10,
}  # fmt: skip
"""llama.cpp's numbers for whole files (`llama_ftype`)."""
BITS = {"F16": 16, "BF16": 16, "Q8_0": 8.5, "Q6_K": 6.6, "Q5_K_M": 5.7, "Q4_K_M": 4.9, "Q3_K_M": 3.9, "Q2_K": 3.2}
"""Of a weight, scales included, measured over whole Llama models."""


def plain_type(base: Base, wanted: str) -> str:
    """The type to write first: the wanted one, or for those that llama.cpp makes the one that holds the model as it is."""
    if wanted in PLAIN:
        return wanted
    return {"bfloat16": "BF16", "float16": "F16"}.get(base.dtype, "F32")


def expected_bytes(base: Base, wanted: str) -> int:
    """About what a file of this type takes."""
    bits = BITS.get(wanted, 8 * PLAIN.get(wanted, 4))
    return int(sum(math.prod(shape) for shape in base.shapes.values()) * bits / 8)


def write(
    path: Path,
    base: Base,
    config: PretrainedConfig,
    vocabulary: Vocabulary,
    kind: str,
    label: str,
    heartbeat: Callable[[], None],
) -> None:
    """The model in ``base`` into ``path``. ``kind``: one of `PLAIN`. Matrices get it, vectors are float32, as llama.cpp wants them.

    Raises InputError, which begins with ``label``, for a weight that llama.cpp has no place for, or that ``kind`` cannot hold.
    """
    from gguf import GGMLQuantizationType, GGUFWriter

    writer = GGUFWriter(path, architecture.of(base))
    writer.add_type("model")
    writer.add_file_type(FILE_TYPES[kind])
    architecture.add_to(writer, config, label)
    vocabulary.add_to(writer)
    planned = list(_planned(base, config, label))
    for name, shape, _ in planned:
        of_tensor = kind if len(shape) > 1 else "F32"
        size = math.prod(shape) * PLAIN[of_tensor]
        writer.add_tensor_info(name, shape, _numpy(of_tensor), size, GGMLQuantizationType[of_tensor])
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, shape, read in planned:
            heartbeat()
            writer.write_tensor_data(_as(read(), kind if len(shape) > 1 else "F32", f"{label}: {name}"))
    finally:
        writer.close()


def _planned(
    base: Base, config: PretrainedConfig, label: str
) -> Iterator[tuple[str, tuple[int, ...], Callable[[], torch.Tensor]]]:
    """Name, shape and values of each tensor. A head that is the embedding is left out: llama.cpp takes the embedding then."""
    import gguf

    kind = architecture.of(base)
    number = next(key for key, name in gguf.MODEL_ARCH_NAMES.items() if name == kind)
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    divisors = architecture.rope_divisors(config)
    if divisors is not None:
        yield "rope_freqs.weight", tuple(divisors.shape), lambda: divisors
    for source in sorted(base.tensors):
        tensor = base.tensors[source]
        name = names.get_name(source, try_suffixes=(".weight", ".bias"))
        if name is None:
            raise InputError(
                f"{label}: {source} has no place in a GGUF file of a {kind} model: name a model without it"
            )
        heads = architecture.heads_of(source, config, kind)
        if heads is None:
            yield name, tensor.shape, tensor.read
        else:
            yield name, tensor.shape, partial(_interleaved, tensor, heads)


def _interleaved(tensor: Tensor, heads: int) -> torch.Tensor:
    return architecture.interleaved(tensor.read(), heads)


def _numpy(kind: str) -> np.dtype[Any]:
    import numpy as np

    return np.dtype({"F32": np.float32, "F16": np.float16, "BF16": np.uint16}[kind])


def _as(values: torch.Tensor, kind: str, label: str) -> np.ndarray[Any, Any]:
    """In a type of the file. Raises InputError for values that it has no numbers for."""
    import torch

    made = values.to({"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}[kind])
    if kind == "F16" and bool((made.isinf() & ~values.isinf()).any()):
        raise InputError(
            f"{label} has values up to {float(values.abs().max()):g}, and F16 ends at 65504: set gguf.type to BF16"
        )
    made = made.contiguous()
    return (made.view(torch.uint16) if kind == "BF16" else made).numpy()
