"""LoRA adapters in training: whether the one to start from fits base and spec, how one is put on, and how it names its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.sft import SFTSpec
from alpaca_operator.api.sources import ModelSource
from alpaca_operator.api.training import LoRA
from workloads.errors import DataError, InputError, SpecError
from workloads.models import safetensors_io
from workloads.models.inspect import ADAPTER_CONFIG, ADAPTER_WEIGHTS, EMBEDDING, HEAD, Base
from workloads.models.load import LoadOptions
from workloads.models.lora_adapter import PREFIX
from workloads.system.describe import contents, nearby

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel


def check_adapter(base: Base, folder: Path, spec: SFTSpec) -> dict[str, Any]:
    """The configuration of the adapter to start from, after making sure that it fits the base and `lora`.

    Raises InputError for a folder without an adapter, DataError where its vocabulary is not the base's, SpecError where `lora`
    says something else.
    """
    assert spec.adapter is not None
    label = f"spec.adapter {spec.adapter.uri}"
    if not folder.is_dir():
        raise InputError(f"{label}: there is no folder {folder}{nearby(folder)}")
    for name in (ADAPTER_CONFIG, ADAPTER_WEIGHTS):
        if not (folder / name).is_file():
            raise InputError(f"{label}: {folder} has no {name}{contents(folder)}")
    config: dict[str, Any] = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    if config.get("peft_type") != "LORA":
        raise InputError(f"{label} is of type {config.get('peft_type')}: only LoRA adapters can be trained on")
    _check_shapes(base, folder, spec, label)
    _check_settings(config, spec.lora, spec.adapter.uri)
    return config


def _check_shapes(base: Base, folder: Path, spec: SFTSpec, label: str) -> None:
    """Raises DataError for an adapter of another base."""
    shapes = {name: tensor.shape for name, tensor in safetensors_io.tensors(folder / ADAPTER_WEIGHTS, label).items()}
    for name, shape in shapes.items():
        if EMBEDDING in name and "lora_" not in name and shape[0] != base.rows:
            raise DataError(
                f"{label} was trained with a vocabulary of {shape[0]} rows and the base {spec.model.uri} has {base.rows}: name the base "
                "that the adapter was made from"
            )
    for name, shape in shapes.items():
        layer = next(
            (key for key in base.shapes if key.rpartition(".")[0] and _stem(name).endswith(key.rpartition(".")[0])),
            None,
        )
        if layer and name.endswith("lora_A.weight") and shape[1] != base.shapes[layer][1]:
            raise DataError(
                f"{label}: {_stem(name)} takes {shape[1]} inputs and the base's layer has {base.shapes[layer][1]}: name the base that "
                "the adapter was made from"
            )


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


def attach(model: PreTrainedModel, lora: LoRA, options: LoadOptions, start_from: Path | None = None) -> PeftModel:
    """Freeze the base and put a LoRA adapter on it: a fresh one, or the one that training goes on from."""
    import peft

    if options.bits:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if start_from is not None:
        return peft.PeftModel.from_pretrained(
            model, start_from, is_trainable=True, autocast_adapter_dtype=True, torch_device=str(model.device)
        )
    tied = bool(model.config.tie_word_embeddings)
    return peft.get_peft_model(
        model,
        peft.LoraConfig(
            task_type="CAUSAL_LM",
            r=lora.rank,
            lora_alpha=lora.alpha,  # type: ignore[arg-type]  # PEFT takes fractions too
            lora_dropout=lora.dropout,
            target_modules=list(lora.target_modules),
            modules_to_save=list(lora.modules_to_save) or None,
            use_rslora=lora.use_rslora,
            use_dora=lora.use_dora,
            # A tied head that is trained apart from its embedding would be merged into garbage.
            ensure_weight_tying=tied and bool({EMBEDDING, HEAD} & set(lora.modules_to_save)),
            bias="none",
            init_lora_weights=True,
        ),
        autocast_adapter_dtype=True,
    )


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


def _stem(name: str) -> str:
    """`base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight` → `model.layers.0.self_attn.q_proj`."""
    return name.removeprefix(PREFIX).partition(".lora_")[0]
