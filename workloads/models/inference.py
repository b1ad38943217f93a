"""A model as it answers: full, in 8 or 4 bits, quantized by GPTQ, with adapters on it.

What cannot work is told by the headers of the files, before anything large is read.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from alpaca_operator.api.base import ModelSource, RopeScaling
from workloads.errors import DataError, InputError, OutOfMemory, SpecError
from workloads.models import inspect, libraries
from workloads.models.load import LoadOptions, load_base
from workloads.models.lora_adapter import LoRAAdapter
from workloads.models.weights import SavedWeights
from workloads.runtime import exits
from workloads.storage import contents
from workloads.system import hardware, memory
from workloads.system.hardware import AMPERE, NF4_BLOCK, Device

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HEADROOM = 0.8
"""Share of the memory that weights may fill; what a model remembers of conversations needs some too."""


@dataclass(frozen=True)
class Wanted:
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
    def shown(self) -> str:
        return f"spec.{self.field} {self.uri}"


@dataclass
class Servable:
    """A model in memory."""

    model: Any
    tokenizer: PreTrainedTokenizerBase
    context: int
    """Positions that it reaches."""
    kind: Literal["Model", "GPTQModel", "LoRAAdapter"]
    how: dict[str, Any]
    """What was decided: precision, bits, device."""
    notes: list[str] = field(default_factory=list)
    """Sentences for the user."""

    @property
    def bytes_per_position(self) -> int:
        """What it remembers of one token: a key and a value in every layer."""
        config = self.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        return int(2 * config.num_hidden_layers * heads * width * self.model.dtype.itemsize)

    def start_anew(self) -> None:
        """Forget how long the last text was, by which transformers has stretched the positions of a model that `changes_with_length`."""
        import torch

        for module in self.model.modules():
            if hasattr(module, "original_inv_freq"):
                device = module.original_inv_freq.device
                module(torch.zeros(1, device=device), torch.zeros((1, 1), dtype=torch.long, device=device))

    @property
    def changes_with_length(self) -> bool:
        """Whether its positions are stretched by the length of the text (dynamic NTK): texts of different lengths cannot be computed
        together then."""
        kinds = {(self.model.config.rope_parameters or {}).get("rope_type")}
        return bool(kinds & {"dynamic", "longrope"})


@dataclass(frozen=True)
class Looked:
    """A model that was looked into, and can be loaded."""

    wanted: Wanted
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
        return "LoRAAdapter" if self.wanted.adapters else "GPTQModel" if self.quantized else "Model"

    @property
    def context(self) -> int:
        """Positions that it reaches, without a rope scaling that the spec adds."""
        return _context(self.base.config)


def look(wanted: Wanted) -> Looked:
    """Check everything that can be known without reading weights. Raises InputError, DataError or SpecError that names the field."""
    base = inspect.inspect_model(wanted.folder, f"spec.{wanted.field}", wanted.uri)
    quantized = _quantized(base, wanted)
    _libraries(wanted, quantized)
    device = hardware.detect()
    options, notes = _load_options(base, wanted, device, quantized)
    return Looked(wanted, base, _tokenizer(base, wanted), options, quantized, device, tuple(notes))


def load(wanted: Wanted) -> Servable:
    """Look, check, load. Raises InputError, DataError or SpecError that names the field, OutOfMemory when it does not fit."""
    return load_looked(look(wanted))


def load_looked(looked: Looked) -> Servable:
    """Read the weights. Raises InputError or DataError that names the field, OutOfMemory when they do not fit."""
    from workloads.models import libraries

    wanted, options, quantized = looked.wanted, looked.options, looked.quantized
    _libraries(wanted, quantized)
    try:
        with libraries.silenced() if quantized == "gptq" else contextlib.nullcontext():
            loaded = load_base(looked.base, ModelSource(uri=wanted.uri, rope_scaling=wanted.rope_scaling), options)
        if looked.device.kind == "cuda" and not wanted.bits:
            loaded = loaded.to("cuda:0")
        loaded = _with_adapters(loaded, wanted, merge=options.weights == "float32" and not (wanted.bits or quantized))
    except Exception as error:
        if isinstance(exits.explain(error), OutOfMemory):
            raise OutOfMemory(
                f"{wanted.shown} does not fit in memory: set load.bits to 8 or 4, serve a quantized model, or raise pod.resources.limits"
            ) from error
        raise
    loaded.eval().requires_grad_(False)
    return Servable(
        model=loaded,
        tokenizer=looked.tokenizer,
        context=_context(loaded.config.to_dict()),
        kind=looked.kind,
        how={
            "weights": f"{quantized}" if quantized else {4: "nf4", 8: "int8"}.get(wanted.bits or 0, options.weights),
            "precision": options.weights,
            "attention": options.attention,
            "device": looked.device.name,
        },
        notes=[*looked.notes],
    )


def _libraries(wanted: Wanted, quantized: str | None) -> None:
    """Optional packages that an earlier model, or job, of this process has hidden are there again where this one needs them."""
    bitsandbytes = wanted.bits is not None or quantized == "bitsandbytes"
    libraries.quiet(bitsandbytes=bitsandbytes)
    if bitsandbytes:
        libraries.show("bitsandbytes")
    if quantized == "gptq":
        libraries.show("gptqmodel", "optimum")


def _quantized(base: inspect.Base, wanted: Wanted) -> str | None:
    """How the files are quantized already."""
    config = base.config.get("quantization_config")
    if config is None:
        return None
    how = str(config.get("quant_method", "quantized"))
    if wanted.bits is not None:
        bits = f", {config['bits']} bits" if "bits" in config else ""
        raise SpecError(
            f"{wanted.field.removesuffix('model')}load.bits is {wanted.bits} and {wanted.shown} is quantized already ({how}{bits}): remove load"
        )
    return how


def _load_options(
    base: inspect.Base, wanted: Wanted, device: Device, quantized: str | None
) -> tuple[LoadOptions, list[str]]:
    notes: list[str] = []
    if device.kind == "cuda":
        weights: Literal["float32", "bfloat16", "float16"] = "bfloat16" if device.capability >= AMPERE else "float16"
    else:
        weights = "float32"
        size = 4 * sum(math.prod(shape) for shape in base.shapes.values())
        free = memory.available()
        if not (wanted.bits or quantized) and size > HEADROOM * free:
            weights = "bfloat16"
            notes.append(
                f"{size / 2**30:.1f} GiB are needed in float32 and {free / 2**30:.1f} GiB are free: the weights are held in bfloat16"
            )
    if wanted.bits:
        if not device.bitsandbytes:
            raise SpecError(
                f"load.bits {wanted.bits} needs the package bitsandbytes, which is not installed: install it, or remove load"
            )
        odd = sorted({shape[1] for shape in base.shapes.values() if len(shape) == 2 and shape[1] % NF4_BLOCK})
        if wanted.bits == 4 and device.kind == "cpu" and odd:
            raise SpecError(
                f"load.bits 4 on a CPU needs layer widths that {NF4_BLOCK} divides, and {wanted.shown} has {', '.join(map(str, odd))}: set "
                "load.bits to 8, or remove load"
            )
    precision: Literal["fp32", "bf16", "fp16"] = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}[weights]  # type: ignore[assignment]
    return LoadOptions(precision=precision, weights=weights, bits=wanted.bits, attention="sdpa"), notes


def _tokenizer(base: inspect.Base, wanted: Wanted) -> PreTrainedTokenizerBase:
    """The last adapter's where it brings one, with its chat template; else the base's. Vocabularies that differ are refused."""
    from workloads.data import tokenize, tokenizer_io

    tokenizer = tokenizer_io.load_tokenizer(base.folder)
    if tokenize.rows_of(tokenizer) > base.rows:
        raise InputError(
            f"{wanted.shown}: its tokenizer has {tokenize.rows_of(tokenizer)} tokens and its embedding {base.rows} rows: put the tokenizer "
            "there that the model was trained with"
        )
    for named, uri, folder in wanted.adapters:
        shown = f"spec.{named} {uri}"
        adapter = LoRAAdapter.open(folder, shown)
        rows = adapter.rows
        own = None
        if any((folder / name).is_file() for name in contents.VOCABULARY_FILES):
            own = tokenizer_io.load_tokenizer(folder)
            rows = rows or (tokenize.rows_of(own) if tokenize.rows_of(own) > base.rows else None)
        if rows is not None and rows != base.rows:
            raise DataError(
                f"{shown} has a vocabulary of {rows} rows and the base {wanted.uri} one of {base.rows}: name the base that the adapter was "
                "made from, or merge the two with a MergeJob, which makes the base's embeddings grow"
            )
        if "quantization_config" not in base.config:
            tied = bool(base.config.get("tie_word_embeddings", base.tied))
            adapter.check_fits(SavedWeights(base.folder, wanted.shown, tied=tied), wanted.shown)
        if own is not None:
            own.chat_template = own.chat_template or tokenizer.chat_template
            tokenizer = own
    return tokenizer


def _with_adapters(loaded: Any, wanted: Wanted, *, merge: bool) -> Any:
    """Adapters on the base: merged in memory where that rounds nothing away, beside it elsewhere."""
    if not wanted.adapters:
        return loaded
    import peft

    names = [f"adapter{number}" for number in range(len(wanted.adapters))]
    for name, (named, uri, folder) in zip(names, wanted.adapters, strict=True):
        try:
            if isinstance(loaded, peft.PeftModel):
                loaded.load_adapter(folder, name, torch_device=str(loaded.device))
            else:
                loaded = peft.PeftModel.from_pretrained(loaded, folder, name, torch_device=str(loaded.device))
        except (ValueError, RuntimeError, KeyError) as error:
            raise DataError(
                f"spec.{named} {uri} does not fit the base {wanted.uri} ({str(error).splitlines()[0]}): name the base that the adapter was "
                "made from"
            ) from error
    if len(names) > 1:
        try:
            loaded.base_model.set_adapter(names)
        except ValueError as error:
            raise SpecError(
                f"spec.{wanted.adapters[-1][0]}: adapters that bring embeddings of their own cannot stand beside others ({error}): merge them "
                "with a MergeJob"
            ) from error
    return loaded.merge_and_unload() if merge else loaded


def _context(config: Mapping[str, Any]) -> int:
    """A window that slides over the text ends the context for us: rows of the cache are not cut at the front."""
    reach = int(config.get("max_position_embeddings") or 4096)
    scaling = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if (scaling.get("rope_type") or scaling.get("type")) == "dynamic":
        reach = int(
            reach * scaling.get("factor", 1)
        )  # it measures by the original number, which therefore stays in the configuration
    window = config.get("sliding_window") if config.get("use_sliding_window", True) else None
    return min(reach, int(window)) if window else reach
