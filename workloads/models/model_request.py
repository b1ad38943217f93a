"""A model that a spec asks to answer: looked into, and what cannot work refused, before any weights are read."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alpaca_operator.api.sources import RopeScaling
from workloads.errors import DataError, SpecError
from workloads.models import adapter_names, inspect, libraries, rope
from workloads.models.configuration import configuration
from workloads.models.kernels import plain
from workloads.models.load import LoadOptions
from workloads.models.lora_adapter import LoRAAdapter
from workloads.storage import contents
from workloads.system import hardware, memory
from workloads.system.hardware import AMPERE, NF4_BLOCK, Device

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedTokenizerBase


HEADROOM = 0.8
"""Share of the memory that weights may fill; what a model remembers of conversations needs some too."""


@dataclass(frozen=True)
class ModelRequest:
    """What a spec asks for, its inputs found."""

    field: str
    """Where the spec names the model, such as `model` or `compareWith.model`."""
    uri: str
    folder: Path
    adapters: Sequence[tuple[str, str, Path]] = ()
    """Field, uri and folder of each."""
    bits: Literal[4, 8] | None = None
    rope_scaling: RopeScaling | None = None

    @property
    def label(self) -> str:
        return f"spec.{self.field} {self.uri}"


@dataclass(frozen=True)
class InspectedModel:
    """A model that was looked into, and can be loaded."""

    request: ModelRequest
    base: inspect.Base
    tokenizer: PreTrainedTokenizerBase
    options: LoadOptions
    quantized: str | None
    """How its files are quantized already."""
    device: Device
    notes: tuple[str, ...] = ()
    """Sentences for the user."""

    @property
    def kind(self) -> Literal["Model", "GPTQModel", "LoRAAdapter"]:
        return "LoRAAdapter" if self.request.adapters else "GPTQModel" if self.quantized else "Model"

    @property
    def context(self) -> int:
        """Positions that it reaches."""
        return int(context_length(self.base.config) * (self.base.rope_scaling.factor if self.base.rope_scaling else 1))


def inspect_request(request: ModelRequest) -> InspectedModel:
    """Check everything that can be known without reading weights. Raises InputError, DataError or SpecError that names the field."""
    base = inspect.inspect_model(request.folder, f"spec.{request.field}", request.uri)
    quantized = _quantized(base, request)
    unhide_libraries(request, quantized)
    device = hardware.detect()
    options, notes = _load_options(base, request, device, quantized)
    adapters = [(f"spec.{named} {uri}", folder) for named, uri, folder in request.adapters]
    base = rope.stretched(base, request.rope_scaling, f"spec.{request.field}.ropeScaling", rope.trained_with(adapters))
    notes += rope.taken_over(base, request.rope_scaling)
    return InspectedModel(request, base, _tokenizer(base, request), options, quantized, device, tuple(notes))


def unhide_libraries(request: ModelRequest, quantized: str | None) -> None:
    """Optional packages that an earlier model, or job, of this process has hidden are there again where this one needs them."""
    bitsandbytes = request.bits is not None or quantized == "bitsandbytes"
    libraries.quiet(bitsandbytes=bitsandbytes)
    if bitsandbytes:
        libraries.show("bitsandbytes")
    if quantized == "gptq":
        libraries.show("gptqmodel", "optimum")


def _quantized(base: inspect.Base, request: ModelRequest) -> str | None:
    """How the files are quantized already."""
    config = base.config.get("quantization_config")
    if config is None:
        return None
    how = str(config.get("quant_method", "quantized"))
    if how == "compressed-tensors":
        raise SpecError(
            f"{request.label} is held as compressed tensors ({config.get('format', 'of no format')}), which vLLM reads: serve it with engine "
            "vLLM, or name the model that it was made from"
        )
    if request.bits is not None:
        bits = f", {config['bits']} bits" if "bits" in config else ""
        raise SpecError(
            f"{request.field.removesuffix('model')}load.bits is {request.bits} and {request.label} is quantized already ({how}{bits}): remove load"
        )
    return how


def _load_options(
    base: inspect.Base, request: ModelRequest, device: Device, quantized: str | None
) -> tuple[LoadOptions, list[str]]:
    notes: list[str] = []
    if device.kind == "cuda":
        weights: Literal["float32", "bfloat16", "float16"] = "bfloat16" if device.capability >= AMPERE else "float16"
    else:
        weights = "float32"
        size = 4 * sum(math.prod(shape) for shape in base.shapes.values())
        free = memory.available()
        if not (request.bits or quantized) and size > HEADROOM * free:
            weights = "bfloat16"
            notes.append(
                f"{size / 2**30:.1f} GiB are needed in float32 and {free / 2**30:.1f} GiB are free: the weights are held in bfloat16"
            )
    if request.bits:
        if not device.bitsandbytes:
            raise SpecError(
                f"load.bits {request.bits} needs the package bitsandbytes, which is not installed: install it, or remove load"
            )
        odd = sorted({shape[1] for shape in base.shapes.values() if len(shape) == 2 and shape[1] % NF4_BLOCK})
        if request.bits == 4 and device.kind == "cpu" and odd:
            raise SpecError(
                f"load.bits 4 on a CPU needs layer widths that {NF4_BLOCK} divides, and {request.label} has {', '.join(map(str, odd))}: set "
                "load.bits to 8, or remove load"
            )
    spread = None
    if device.kind == "cuda" and not (request.bits or quantized):
        spread = _spread(base, request, device, weights)
    precision: Literal["fp32", "bf16", "fp16"] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[weights]  # type: ignore[assignment]
    options = LoadOptions(
        precision=precision, weights=weights, bits=request.bits, attention=plain(base.config), spread=spread
    )
    return options, notes


def _spread(base: inspect.Base, request: ModelRequest, device: Device, weights: str) -> dict[int | str, int] | None:
    """What the weights may take of each GPU of the node, where they need more than one. On fewer a token is sooner there: GPUs that hold
    layers one after the other compute one after the other."""
    size = 2 * sum(math.prod(shape) for shape in base.shapes.values())
    room = int(HEADROOM * device.memory)
    if device.count < 2 or size <= room:
        return None
    if size > device.count * room:
        raise SpecError(
            f"{request.label} needs {size / 2**30:.1f} GiB in {weights}, and {device.count} GPUs have room for "
            f"{device.count * room / 2**30:.1f} GiB of weights: ask for more GPUs in pod.resources.limits, or set load.bits to 8 or 4"
        )
    return dict.fromkeys(range(device.count), room)


def _tokenizer(base: inspect.Base, request: ModelRequest) -> PreTrainedTokenizerBase:
    """The last adapter's where it brings one, with its chat template; else the base's. Vocabularies that differ are refused."""
    from workloads.data import tokenizer_io

    tokenizer = tokenizer_io.load_tokenizer(base.folder)
    inspect.check_vocabulary(base, tokenizer, request.label)
    for named, uri, folder in request.adapters:
        named_base = BaseOfAdapters(request.label, request.uri, base.rows, configuration(base, request.label))
        own = check_adapter(f"spec.{named} {uri}", folder, named_base)
        if own is not None:
            own.chat_template = own.chat_template or tokenizer.chat_template
            tokenizer = own
    return tokenizer


@dataclass(frozen=True)
class BaseOfAdapters:
    """What is asked of a model that adapters go on."""

    label: str
    """In messages."""
    uri: str
    rows: int
    """Of its vocabulary."""
    config: PretrainedConfig


def check_adapter(label: str, folder: Path, base: BaseOfAdapters) -> PreTrainedTokenizerBase | None:
    """The tokenizer that an adapter brings, if it does. Raises DataError, which begins with ``label``, for an adapter that does not fit."""
    from workloads.data import tokenize, tokenizer_io

    adapter = LoRAAdapter.open(folder, label)
    rows = adapter.rows
    own = None
    if any((folder / name).is_file() for name in contents.VOCABULARY_FILES):
        own = tokenizer_io.load_tokenizer(folder)
        rows = rows or (tokenize.rows_of(own) if tokenize.rows_of(own) > base.rows else None)
    if rows is not None and rows != base.rows:
        raise DataError(
            f"{label} has a vocabulary of {rows} rows and the base {base.uri} one of {base.rows}: name the base that the adapter was "
            "made from, or merge the two with a MergeJob, which makes the base's embeddings grow"
        )
    adapter_names.check(adapter, base.config, base.label)
    return own


def context_length(config: Mapping[str, Any]) -> int:
    """A window that slides over the text ends the context for us: rows of the cache are not cut at the front."""
    reach = int(config.get("max_position_embeddings") or 4096)
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if (scaling.get("rope_type") or scaling.get("type")) == "dynamic":
        reach = int(
            reach * scaling.get("factor", 1)
        )  # it measures by the original number, which therefore stays in the configuration
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return min(reach, int(window)) if window else reach
