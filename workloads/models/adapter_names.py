"""Whether an adapter's file holds what PEFT will ask it for on a model: every A and B of every target layer, and nothing over.

PEFT loads what it knows the name of and passes over the rest. An adapter of other names is then no adapter at all, and one that lacks
layers is another one, without an error anywhere.
"""

from __future__ import annotations

import copy
import warnings
from typing import TYPE_CHECKING, Any

from workloads.errors import DataError
from workloads.models.inspect import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from workloads.models.weight_files import EMBEDDING, HEAD
from workloads.system.describe import first_line

if TYPE_CHECKING:
    from workloads.models.lora_adapter import LoRAAdapter

Shape = tuple[int, ...]
Shapes = dict[str, Shape]
"""By the name in PEFT's files."""
SHOWN = 3
"""Names in a message."""


def check(adapter: LoRAAdapter, config: Any, named: str, larger_vocabulary: str = "") -> None:
    """Raises DataError for an adapter that does not fit the model of this transformers configuration, which messages call ``named``;
    ``larger_vocabulary`` is what else can be done about a vocabulary that is not the model's."""
    asked, also = _asked_for(adapter, config, named)
    held = {_by_one_name(key): shape for key, shape in adapter.shapes.items()}
    missing, over = sorted(asked.keys() - held), sorted(held.keys() - asked.keys() - also.keys())
    if missing or over:
        found = [f"lacks {_some(missing)}"] if missing else []
        found += [f"has {_some(over)}, which nothing there is called"] if over else []
        raise DataError(
            f"{adapter.label}: {ADAPTER_WEIGHTS} is not what {ADAPTER_CONFIG} describes on {named}: it {' and '.join(found)}: name the base "
            "that the adapter was made from, or copy the adapter again"
        )
    for key, shape in held.items():
        _check_shape(adapter, key, shape, asked.get(key) or also[key], named, larger_vocabulary)


def _check_shape(
    adapter: LoRAAdapter, key: str, shape: Shape, wanted: Shape, named: str, larger_vocabulary: str
) -> None:
    if shape == wanted:
        return
    if key.endswith((f"{EMBEDDING}.weight", f"{HEAD}.weight")) and shape[1:] == wanted[1:]:
        raise DataError(
            f"{adapter.label} was trained with a vocabulary of {shape[0]} rows and {named} has {wanted[0]}: name the base that the "
            f"adapter was made from{larger_vocabulary}"
        )
    raise DataError(
        f"{adapter.label}: its {key} has the shape {_by(shape)} and would have {_by(wanted)} on {named}: name the base that the adapter was "
        "made from"
    )


def _asked_for(adapter: LoRAAdapter, config: Any, named: str) -> tuple[Shapes, Shapes]:
    """What PEFT itself would save of such an adapter, by name; and the same with the embeddings, which it may save besides."""
    import peft

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about fields of other versions
            lora = peft.PeftConfig.from_pretrained(str(adapter.folder))
        return names_of(lora, config), names_of(lora, config, embeddings=True)
    except Exception as error:  # the shapes of a model, and what the adapter says of itself: nothing else goes into it
        raise DataError(
            f"{adapter.label}: its {ADAPTER_CONFIG} does not fit {named} ({first_line(error)}): name the base that the adapter was made from"
        ) from error


def names_of(lora: Any, config: Any, *, embeddings: bool = False) -> Shapes:
    """What PEFT would save of an adapter with the configuration ``lora`` on the model of the transformers configuration ``config``."""
    import peft
    import torch
    from transformers import AutoModelForCausalLM

    config = copy.deepcopy(config)
    if hasattr(config, "quantization_config"):  # layers of the same names and sizes, which take memory to make
        del config.quantization_config
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about tied ends: meant for who trains
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
        model: Any = peft.get_peft_model(empty, copy.deepcopy(lora), low_cpu_mem_usage=True)
        saved = peft.get_peft_model_state_dict(model, save_embedding_layers=embeddings)
    return {_by_one_name(key): tuple(tensor.shape) for key, tensor in saved.items()}


def _by_one_name(key: str) -> str:
    """DoRA's magnitudes have two names, by the version of PEFT; it reads both."""
    return key.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def _some(names: list[str]) -> str:
    more = ", …" if len(names) > SHOWN else ""
    return f"{len(names)} weights ({', '.join(names[:SHOWN])}{more})" if len(names) > 1 else names[0]


def _by(shape: Shape) -> str:
    return "×".join(map(str, shape))
