"""A model as it answers: full, in 8 or 4 bits, quantized by GPTQ, with adapters on it.

What cannot work was refused by `model_request` before.
"""

from __future__ import annotations

import contextlib
from collections import Counter
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

    @property
    def computing(self) -> Any:
        """What computes, with the adapters that it wears: PEFT's own wrapper wants one of them to be there always."""
        import peft

        return self.model.get_base_model() if isinstance(self.model, peft.PeftModel) else self.model

    def wear(self, adapter: int | None) -> None:
        """Answer with one of the adapters beside each other on it, by its place, or with the model alone."""
        if adapter is None:
            self.model.base_model.disable_adapter_layers()
        else:
            self.model.base_model.enable_adapter_layers()
            self.model.set_adapter(f"adapter{adapter}", inference_mode=True)

    def put_on(self, adapter: int, source: tuple[str, str, Path], base: str) -> None:
        """One more adapter beside those that are on it, at a place where none is; it wears none afterwards. ``source``: its field, uri and
        folder; ``base``: the model's uri. Raises DataError that names the field, OutOfMemory; the model is as it was before then."""
        import torch

        model = self.model
        try:
            # The same tensors as when the model was loaded, whoever calls: those of inference mode are of no use outside of it.
            with torch.inference_mode(False):
                self.model = _put_on(model, adapter, source, base)
        except Exception as error:
            _take_off(model, adapter)
            if isinstance(exits.explain(error), OutOfMemory):
                raise OutOfMemory(
                    f"spec.{source[0]} {source[1]} does not fit in memory beside what is served: remove another adapter, or raise "
                    "pod.resources.limits"
                ) from error
            raise
        self.model.eval().requires_grad_(False)
        self.wear(None)

    def take_off(self, adapter: int) -> None:
        """Forget an adapter; it wears none afterwards."""
        _take_off(self.model, adapter)
        self.wear(None)

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


def load_inspected(inspected: InspectedModel) -> LoadedModel:
    """Read the weights. Raises InputError or DataError that names the field, OutOfMemory when they do not fit."""
    request, options, quantized = inspected.request, inspected.options, inspected.quantized
    unhide_libraries(request, quantized)
    try:
        with libraries.silenced() if quantized == "gptq" else contextlib.nullcontext():
            loaded: Any = load_base(inspected.base, request.label, options)
        if inspected.device.kind == "cuda" and not request.bits and not options.spread:
            loaded = loaded.to("cuda:0")
        loaded = _with_adapters(loaded, request, merge=options.weights == "float32" and not (request.bits or quantized))
    except Exception as error:
        if isinstance(exits.explain(error), OutOfMemory):
            raise OutOfMemory(
                f"{request.label} does not fit in memory: set load.bits to 8 or 4, serve a quantized model, or raise pod.resources.limits"
            ) from error
        raise
    loaded.eval().requires_grad_(False)
    return LoadedModel(
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


def _with_adapters(loaded: Any, request: ModelRequest, *, merge: bool) -> Any:
    """Adapters on the base: merged in memory where that rounds nothing away, beside it elsewhere."""
    if not request.adapters:
        return loaded
    for number, source in enumerate(request.adapters):
        loaded = _put_on(loaded, number, source, request.uri)
    if len(request.adapters) > 1:
        try:
            loaded.base_model.set_adapter([f"adapter{number}" for number in range(len(request.adapters))])
        except ValueError as error:
            raise SpecError(
                f"spec.{request.adapters[-1][0]}: adapters that bring embeddings of their own cannot stand beside others ({error}): merge them "
                "with a MergeJob"
            ) from error
    return loaded.merge_and_unload() if merge else loaded


def _put_on(loaded: Any, number: int, source: tuple[str, str, Path], base: str) -> Any:
    """An adapter on a model, called by its place; the model with it."""
    import peft

    named, uri, folder = source
    name = f"adapter{number}"
    try:
        if not isinstance(loaded, peft.PeftModel):
            return peft.PeftModel.from_pretrained(loaded, folder, name, torch_device=str(loaded.device))
        loaded.load_adapter(folder, name, torch_device=str(loaded.device))
    except (ValueError, RuntimeError, KeyError) as error:
        if isinstance(exits.explain(error), OutOfMemory):  # which is a RuntimeError, and says nothing of the adapter
            raise
        raise DataError(
            f"spec.{named} {uri} does not fit the base {base} ({str(error).splitlines()[0]}): name the base that the adapter was "
            "made from"
        ) from error
    return loaded


def _take_off(loaded: Any, number: int) -> None:
    """An adapter from a model, also where it was put on by half."""
    import peft
    from peft.tuners.tuners_utils import BaseTunerLayer

    name = f"adapter{number}"
    if isinstance(loaded, peft.PeftModel):
        if name in loaded.peft_config:
            # PEFT would choose another to be active, and warn of it.
            others = [other for other in loaded.peft_config if other != name]
            if others:
                loaded.set_adapter(others[0], inference_mode=True)
            loaded.delete_adapter(name)
        return
    # The first of all: PEFT has put its layers into the model, and handed nothing out that would take them away.
    for module in list(loaded.modules()):
        for place, child in list(module.named_children()):
            if isinstance(child, BaseTunerLayer):
                setattr(module, place, child.get_base_layer())
    if hasattr(loaded, "peft_config"):
        del loaded.peft_config
