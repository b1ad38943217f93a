"""A model as it answers: full, in 8 or 4 bits, quantized by GPTQ, with adapters on it.

What cannot work was refused by `model_request` before.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from workloads.errors import DataError, OutOfMemory, SpecError
from workloads.models import dynamic_positions, libraries
from workloads.models.load import load_base
from workloads.models.model_request import (
    InspectedModel,
    ModelRequest,
    context_length,
    inspect_request,
    unhide_libraries,
)
from workloads.runtime import exits

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedTokenizerBase


@dataclass
class LoadedModel:
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

    @property
    def layers(self) -> Counter[torch.device]:
        """How many of its layers lie on each device; all on its own, where they do not tell their number."""
        found: dict[int, torch.device] = {}
        for module in self.model.modules():
            if isinstance(number := getattr(module, "layer_idx", None), int):
                weights = chain(module.parameters(), module.buffers())  # those of GPTQ are buffers
                found.setdefault(number, next(weights).device)
        return Counter(found.values()) or Counter([self.model.device])

    def wear(self, adapter: int | None) -> None:
        """Answer with one of the adapters beside each other on it, by its place, or with the model alone."""
        if adapter is None:
            self.model.base_model.disable_adapter_layers()
        else:
            self.model.base_model.enable_adapter_layers()
            self.model.set_adapter(f"adapter{adapter}", inference_mode=True)

    def start_anew(self) -> None:
        """Forget how long the last text was, by which transformers has stretched the positions of a model that `changes_with_length`."""
        dynamic_positions.start_anew(self.model)

    @property
    def changes_with_length(self) -> bool:
        """Whether its positions are stretched by the length of the text (dynamic NTK): texts of different lengths cannot be computed
        together then."""
        return dynamic_positions.changes_with_length(self.model)


def load(request: ModelRequest) -> LoadedModel:
    """Look, check, load. Raises InputError, DataError or SpecError that names the field, OutOfMemory when it does not fit."""
    return load_inspected(inspect_request(request))


def load_inspected(inspected: InspectedModel, beside: Sequence[tuple[str, str, Path]] = ()) -> LoadedModel:
    """Read the weights. ``beside``: field, uri and folder of adapters that are put on it beside each other; it wears none of them at first.
    Raises InputError or DataError that names the field, OutOfMemory when they do not fit."""
    request, options, quantized = inspected.request, inspected.options, inspected.quantized
    unhide_libraries(request, quantized)
    try:
        with libraries.silenced() if quantized == "gptq" else contextlib.nullcontext():
            loaded: Any = load_base(inspected.base, request.label, options)
        if inspected.device.kind == "cuda" and not request.bits and not options.spread:
            loaded = loaded.to("cuda:0")
        loaded = _put_on(loaded, beside, request.uri)
        loaded = _with_adapters(loaded, request, merge=options.weights == "float32" and not (request.bits or quantized))
    except Exception as error:
        if isinstance(exits.explain(error), OutOfMemory):
            raise OutOfMemory(
                f"{request.label} does not fit in memory: set load.bits to 8 or 4, serve a quantized model, or raise pod.resources.limits"
            ) from error
        raise
    loaded.eval().requires_grad_(False)
    found = LoadedModel(
        model=loaded,
        tokenizer=inspected.tokenizer,
        context=context_length(loaded.config.to_dict()),
        kind=inspected.kind,
        how={
            "weights": f"{quantized}" if quantized else {4: "nf4", 8: "int8"}.get(request.bits or 0, options.weights),
            "precision": options.weights,
            "attention": options.attention,
            "device": f"{len(options.spread)} × {inspected.device.name}" if options.spread else inspected.device.name,
        },
        notes=[*inspected.notes],
    )
    if beside:
        found.wear(None)
    return found


def _with_adapters(loaded: Any, request: ModelRequest, *, merge: bool) -> Any:
    """Adapters on the base: merged in memory where that rounds nothing away, beside it elsewhere."""
    if not request.adapters:
        return loaded
    loaded = _put_on(loaded, request.adapters, request.uri)
    if len(request.adapters) > 1:
        try:
            loaded.base_model.set_adapter([f"adapter{number}" for number in range(len(request.adapters))])
        except ValueError as error:
            raise SpecError(
                f"spec.{request.adapters[-1][0]}: adapters that bring embeddings of their own cannot stand beside others ({error}): merge them "
                "with a MergeJob"
            ) from error
    return loaded.merge_and_unload() if merge else loaded


def _put_on(loaded: Any, adapters: Sequence[tuple[str, str, Path]], base: str) -> Any:
    """Adapters on a model, called by their places."""
    if not adapters:
        return loaded
    import peft

    for number, (named, uri, folder) in enumerate(adapters):
        name = f"adapter{number}"
        try:
            if isinstance(loaded, peft.PeftModel):
                loaded.load_adapter(folder, name, torch_device=str(loaded.device))
            else:
                loaded = peft.PeftModel.from_pretrained(loaded, folder, name, torch_device=str(loaded.device))
        except (ValueError, RuntimeError, KeyError) as error:
            raise DataError(
                f"spec.{named} {uri} does not fit the base {base} ({str(error).splitlines()[0]}): name the base that the adapter was "
                "made from"
            ) from error
    return loaded
