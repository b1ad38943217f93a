"""LoRA adapters in training: whether the one to start from fits base and spec, how one is put on, and how it names its base."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.sources import ModelSource
from alpaca_operator.api.training import LoRA
from workloads.errors import SpecError
from workloads.models import adapter_names
from workloads.models.configuration import configuration
from workloads.models.inspect import ADAPTER_CONFIG, Base
from workloads.models.load import LoadOptions
from workloads.models.lora_adapter import LoRAAdapter, weight_of
from workloads.models.weight_files import EMBEDDING, HEAD
from workloads.models.weights import SavedWeights
from workloads.system.describe import first_line

if TYPE_CHECKING:
    from peft import LoraConfig, PeftModel
    from transformers import PreTrainedModel

    from alpaca_operator.api.sft import SFTSpec


def open_adapter(folder: Path, spec: SFTSpec) -> LoRAAdapter:
    """The adapter to start from, as far as its files tell. Raises InputError or DataError for one that is none, SpecError where `lora`
    says something else."""
    assert spec.adapter is not None
    adapter = LoRAAdapter.open(folder, f"spec.adapter {spec.adapter.uri}")
    _check_settings(adapter.config, spec.lora, spec.adapter.uri)
    return adapter


def _check_settings(config: dict[str, Any], lora: LoRA, uri: str | None) -> None:
    """Raises SpecError where `lora` sets what the adapter was not made with."""
    made_with = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "target_modules": sorted(config.get("target_modules") or []),
        "modules_to_save": sorted(config.get("modules_to_save") or []),
        "use_rslora": bool(config.get("use_rslora")),
        "use_dora": bool(config.get("use_dora")),
    }
    for key, value in lora.model_dump(include=set(made_with) & lora.model_fields_set).items():
        value = sorted(value) if isinstance(value, list) else value
        if value != made_with[key]:
            alias = LoRA.model_fields[key].alias
            raise SpecError(
                f"lora.{alias} is {value} and the adapter at {uri} was made with {made_with[key]}: leave lora.{alias} out, or "
                "start a fresh adapter by leaving spec.adapter out"
            )


def check_fits(base: Base, spec: SFTSpec, adapter: LoRAAdapter | None) -> None:
    """What can be known of base and adapter before the first step.

    Raises InputError for a base that no model can be made of, DataError where the adapter to start from is of another base, SpecError
    where PEFT can put no such adapter on it, and where `merge` is set and what will be trained cannot be merged.
    """
    label = f"spec.model {spec.model.uri}"
    config = configuration(base, label)
    if adapter is not None:
        adapter_names.check(adapter, config, f"the base {spec.model.uri}")
        trained = adapter.shapes
    else:
        with refusals_told(spec.lora):
            trained = adapter_names.names_of(configuration_of(spec.lora, tied=base.tied), config)
    if spec.merge:
        check_mergeable(base, trained, label)


def check_mergeable(base: Base, trained: Iterable[str], label: str) -> None:
    """Raises SpecError for an adapter, of the tensors ``trained``, that changes what the files of the base do not hold by that name."""
    weights = SavedWeights(base, label)
    known = {*weights.names, weights.head}
    strange = sorted(key for key in trained if weight_of(key) not in known)
    if strange:
        raise SpecError(
            f"merge: {strange[0]} and {len(strange) - 1} more weights of the adapter change layers that {label} does not hold by their names, "
            "so they cannot be merged into it: set merge to false, or name other layers in lora.targetModules"
        )


PEFT_NAMES = {
    "rank": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "target_modules": "target_modules",
    "modules_to_save": "modules_to_save",
    "use_rslora": "use_rslora",
    "use_dora": "use_dora",
}
"""What PEFT calls the fields of `lora`."""


def attach(model: PreTrainedModel, lora: LoRA, options: LoadOptions, start_from: Path | None = None) -> PeftModel:
    """Freeze the base and put a LoRA adapter on it: a fresh one, or the one that training goes on from, with the dropout of ``lora``.

    Raises SpecError for what PEFT cannot do with this model.
    """
    import peft

    if options.bits:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if start_from is not None:
        made_with: Any = peft.PeftConfig.from_pretrained(str(start_from))
        made_with.lora_dropout = lora.dropout  # how it is trained on, and nothing that its weights know of
        return peft.PeftModel.from_pretrained(
            model,
            start_from,
            config=made_with,
            is_trainable=True,
            autocast_adapter_dtype=True,
            torch_device=str(model.device),
        )
    fresh = configuration_of(lora, tied=bool(model.config.tie_word_embeddings))
    with refusals_told(lora):
        return peft.get_peft_model(model, fresh, autocast_adapter_dtype=True)


def configuration_of(lora: LoRA, *, tied: bool) -> LoraConfig:
    """PEFT's, from ours, for a base whose ends are ``tied`` or not."""
    import peft

    settings = {theirs: getattr(lora, ours) for ours, theirs in PEFT_NAMES.items()}
    settings["modules_to_save"] = settings["modules_to_save"] or None
    return peft.LoraConfig(
        task_type="CAUSAL_LM",
        **settings,
        # A tied head that is trained apart from its embedding would be merged into garbage.
        ensure_weight_tying=tied and bool({EMBEDDING, HEAD} & set(lora.modules_to_save)),
        bias="none",
        init_lora_weights=True,
    )


@contextmanager
def refusals_told(lora: LoRA) -> Iterator[None]:
    """Raises SpecError for what PEFT cannot do; nothing but a model and ``lora`` may go into the block."""
    try:
        yield
    except (ValueError, TypeError, NotImplementedError) as error:
        raise SpecError(_refused(error, lora)) from error


def _refused(error: Exception, lora: LoRA) -> str:
    """What PEFT says, with the fields that it speaks of, in our words."""
    said = first_line(error)
    fields = [ours for ours, theirs in PEFT_NAMES.items() if re.search(rf"\b{theirs}\b", said)]
    values = ", ".join(f"lora.{LoRA.model_fields[name].alias} is {getattr(lora, name)}" for name in fields)
    changed = " or ".join(
        f"lora.{LoRA.model_fields[name].alias}" for name in dict.fromkeys([*fields, "target_modules"])
    )
    return f"{values or 'lora'}: PEFT cannot put such an adapter on this model ({said}): change {changed}"


def name_base(adapter_folder: Path, source: ModelSource, base: Base) -> None:
    """Let adapter_config.json name the base as others find it: a repository and revision on the hub, else the folder."""
    path = adapter_folder / ADAPTER_CONFIG
    config = json.loads(path.read_text(encoding="utf-8"))
    if source.uri and source.uri.startswith("hf://"):
        name, _, revision = source.uri.removeprefix("hf://").partition("@")
        config |= {"base_model_name_or_path": name, "revision": revision or None}
    else:
        config["base_model_name_or_path"] = str(base.folder)
    for layers in ("target_modules", "modules_to_save"):
        if isinstance(config.get(layers), list):
            config[layers].sort()  # sets to PEFT, in another order each time: the same run gives the same files
    path.write_text(json.dumps(config, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")
