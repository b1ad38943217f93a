"""Logits of a model that is never in memory whole: each layer gets its weights when it is called, and loses them when it has answered."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workloads.errors import InputError
from workloads.models.lora_adapter import PREFIX, LoRAAdapter
from workloads.models.weights import Weights, config_for

if TYPE_CHECKING:
    import torch

Place = tuple[Any, str, str]
"""A module, the name of its parameter, and the name of the weight that belongs there."""


def compute_logits(
    weights: Weights,
    config: Any,
    sample: Sequence[Sequence[int]],
    heartbeat: Callable[[], None],
    adapter: LoRAAdapter | None = None,
) -> list[torch.Tensor]:
    """By transformers, and by PEFT with an ``adapter``: for each row of token ids a float32 tensor of shape (tokens, vocabulary).

    Raises InputError where ``config`` asks for weights that are not there.
    """
    import torch
    from accelerate import init_empty_weights
    from transformers import AutoModelForCausalLM

    with init_empty_weights(include_buffers=False):
        model = AutoModelForCausalLM.from_config(config_for(weights, config), dtype=torch.float32)
    placeholders = _put_placeholders(model)
    if adapter is not None:
        import peft

        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", "Model has `tie_word_embeddings=True`", UserWarning
            )  # meant for who trains
            model = peft.PeftModel.from_pretrained(model, str(adapter.folder), low_cpu_mem_usage=True)
    model.eval()
    places = _places(model, placeholders, weights, PREFIX if adapter is not None else "")
    _fill_while_called(places, weights, heartbeat, adapter.weight if adapter is not None else 1.0)
    longest = max(len(ids) for ids in sample)
    # Padding on the right changes nothing before it: no position looks ahead.
    batch = torch.tensor([[*ids, *[0] * (longest - len(ids))] for ids in sample])
    with torch.inference_mode():
        logits = model(input_ids=batch, use_cache=False).logits.float()
    return [row[: len(ids)].clone() for row, ids in zip(logits, sample, strict=True)]


def _placeholder(shape: Sequence[int], dtype: torch.dtype | None = None) -> torch.nn.Parameter:
    """A parameter of this shape in the memory of one value; not on the meta device, since PEFT moves an adapter to where its layer is."""
    import torch

    return torch.nn.Parameter(torch.zeros((), dtype=dtype).expand(tuple(shape)), requires_grad=False)


def _put_placeholders(model: Any) -> dict[int, torch.nn.Parameter]:
    """In the place of every weight; returns them by their identity."""
    placeholders: dict[int, torch.nn.Parameter] = {}
    replaced: dict[int, torch.nn.Parameter] = {}
    for layer in model.modules():
        for name, parameter in list(layer.named_parameters(recurse=False)):
            if id(parameter) not in replaced:  # tied weights stay tied
                replaced[id(parameter)] = _placeholder(parameter.shape, parameter.dtype)
            placeholder = replaced[id(parameter)]
            setattr(layer, name, placeholder)
            placeholders[id(placeholder)] = placeholder
    return placeholders


def _inner(layer: Any) -> Any:
    """The base's own layer, inside what PEFT has put around it."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    if isinstance(layer, ModulesToSaveWrapper):
        return layer.original_module
    return layer.get_base_layer() if isinstance(layer, BaseTunerLayer) else layer


def _places(
    model: Any, placeholders: dict[int, torch.nn.Parameter], weights: Weights, prefix: str
) -> dict[Any, list[Place]]:
    """For each layer that is called, where its weights belong. Raises InputError for a placeholder that no weight would fill."""
    unfilled = dict(placeholders)
    places: dict[Any, list[Place]] = {}
    for name in (*weights.names, *((weights.head,) if weights.tied else ())):
        path, _, attribute = name.rpartition(".")
        try:
            layer = model.get_submodule(prefix + path)
        except AttributeError:
            continue  # a weight that this version of transformers has no use for
        places.setdefault(layer, [])
        inner = _inner(layer)
        parameter = getattr(inner, attribute)
        unfilled.pop(id(parameter), None)
        if id(parameter) in placeholders:  # else the adapter has brought it
            places[layer].append((inner, attribute, name))
    missing = [name.removeprefix(prefix) for name, parameter in model.named_parameters() if id(parameter) in unfilled]
    if missing:
        raise InputError(
            f"{len(missing)} weights that config.json asks for are not in the files ({', '.join(missing[:3])}, …): copy the model again"
        )
    return places


def _fill_while_called(
    places: dict[Any, list[Place]], weights: Weights, heartbeat: Callable[[], None], adapter_weight: float
) -> None:
    """Give each layer its weights when it is called, and take them away when it has answered; the adapter's part of the answer counts
    ``adapter_weight`` times."""
    import torch
    from peft.utils.other import ModulesToSaveWrapper

    def fill(layer: Any, _: Any) -> None:
        heartbeat()
        for inner, attribute, name in places[layer]:
            setattr(inner, attribute, torch.nn.Parameter(weights.read(name), requires_grad=False))

    def blend_and_empty(layer: Any, inputs: Any, output: Any) -> Any:
        inner = _inner(layer)
        if adapter_weight != 1 and inner is not layer:
            without_adapter = inner(*inputs)
            output = without_adapter + adapter_weight * (output - without_adapter)
        for module, attribute, _ in places[layer]:
            setattr(module, attribute, _placeholder(getattr(module, attribute).shape))
        return output

    for layer in places:
        if isinstance(layer, ModulesToSaveWrapper) and adapter_weight == 1:
            continue  # its original is not called
        layer.register_forward_pre_hook(fill)
        layer.register_forward_hook(blend_and_empty)
