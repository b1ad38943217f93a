"""An adapter is read whole or not at all, by every reader alike."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.workloads import tiny
from tests.workloads.models.test_merge_lora import adapter_of
from workloads.errors import DataError, InputError
from workloads.models import adapter_names, inspect, libraries
from workloads.models.configuration import configuration
from workloads.models.lora_adapter import LoRAAdapter

libraries.quiet()

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*is_gradient_checkpointing:FutureWarning",  # peft asks by the old name
    "ignore:Setting `save_embedding_layers` to `True`:UserWarning",
    "ignore:Model has `tie_word_embeddings=True`:UserWarning",
)
FILE = "adapter_model.safetensors"
Tensors = dict[str, torch.Tensor]


def check(folder: Path, base: Path) -> None:
    looked = inspect.inspect_model(base, "spec.model.uri", "base")
    adapter_names.check(LoRAAdapter.open(folder, "adapter"), configuration(looked, "base"), "the base")


@pytest.mark.parametrize(
    ("base", "lora"),
    [
        pytest.param("base", {}, id="LoRA"),
        pytest.param("base", {"use_dora": True, "use_rslora": True}, id="DoRA"),
        pytest.param("base", {"rank_pattern": {"q_proj": 2}}, id="ranks by layer"),
        pytest.param("base", {"layers_to_transform": [1]}, id="one layer"),
        pytest.param("base", {"target_modules": r".*\.0\.mlp\.(up|down)_proj"}, id="targets by expression"),
        pytest.param("base", {"target_modules": "all-linear"}, id="all linear layers"),
        pytest.param("base", {"target_modules": ["embed_tokens", "lm_head", "v_proj"]}, id="on embeddings"),
        pytest.param("base", {"modules_to_save": ["embed_tokens", "norm"]}, id="saved whole"),
        pytest.param("tied", {"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, id="tied ends"),
    ],
)  # fmt: skip
def test_what_peft_writes_fits(shelf: Path, tmp_path: Path, base: str, lora: dict[str, Any]) -> None:
    check(adapter_of(shelf / base, tmp_path / "adapter", **lora), shelf / base)


def renamed(old: str, new: str) -> Callable[[Tensors], Tensors]:
    return lambda held: {name.replace(old, new): value for name, value in held.items()}


def without(part: str) -> Callable[[Tensors], Tensors]:
    return lambda held: {name: value for name, value in held.items() if part not in name}


def together_with(name: str, *shape: int) -> Callable[[Tensors], Tensors]:
    return lambda held: {**held, name: torch.ones(shape)}


Q1 = "base_model.model.model.layers.1.self_attn.q_proj"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(renamed("base_model.model.", ""), "it lacks 8 weights (base_model.model.model.layers.0.", id="no prefix"),
        pytest.param(renamed("model.layers", "model.language_model.layers"), "and has 8 weights (base_model.model.model.language_model.", id="another prefix"),
        pytest.param(renamed("base_model.model.", "base_model.model.base_model.model."), "it lacks 8 weights", id="the prefix twice"),
        pytest.param(renamed(".weight", ".default.weight"), "default.weight, which is no part of a LoRA", id="the name of the adapter left in"),
        pytest.param(without(".layers.0."), "it lacks 4 weights (base_model.model.model.layers.0.mlp.down_proj.lora_A.weight, ", id="half of the layers"),
        pytest.param(without("down_proj"), "it lacks 4 weights", id="one of the target modules"),
        pytest.param(without(f"{Q1}.lora_B"), "only a part of the update of model.layers.1.self_attn.q_proj.weight", id="A without B"),
        pytest.param(together_with("base_model.model.model.norm.weight", 32), "it has base_model.model.model.norm.weight, which nothing there is called", id="a norm over"),
        pytest.param(together_with(f"{Q1}.base_layer.weight", 32, 32), f"it has {Q1}.base_layer.weight, which", id="a weight of the base over"),
        pytest.param(together_with("base_model.model.lm_head.weight", 300, 32), "was trained with a vocabulary of 300 rows and the base has 256", id="a head of another vocabulary"),
        pytest.param(lambda held: {name: value[:, :16] if name == f"{Q1}.lora_A.weight" else value for name, value in held.items()}, f"its {Q1}.lora_A.weight has the shape 4×16 and would have 4×32", id="a narrower layer"),
        pytest.param(lambda held: {name: value[:2] if name == f"{Q1}.lora_A.weight" else value[:, :2] if name == f"{Q1}.lora_B.weight" else value for name, value in held.items()}, "gives model.layers.1.self_attn.q_proj the rank 4 and its matrices have 2 and 2", id="another rank"),
    ],
)  # fmt: skip
def test_a_file_that_is_not_what_its_configuration_says_is_refused(
    shelf: Path, tmp_path: Path, change: Callable[[Tensors], Tensors], message: str
) -> None:
    folder = adapter_of(shelf / "base", tmp_path / "adapter")
    save_file({name: value.contiguous() for name, value in change(load_file(folder / FILE)).items()}, folder / FILE)
    with pytest.raises(DataError) as caught:
        check(folder, shelf / "base")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        pytest.param({"modules_to_save": ["lm_head"]}, "it lacks base_model.model.lm_head.weight:", id="a head that is not there"),
        pytest.param({"target_modules": ["q_proj"]}, "and has 4 weights|it has 4 weights", id="fewer targets"),
        pytest.param({"target_modules": ["query"]}, "adapter_config.json does not fit the base", id="targets of another architecture"),
        pytest.param({"r": None}, "no rank and alpha that are numbers", id="no rank"),
        pytest.param({"lora_alpha": "much"}, "no rank and alpha that are numbers", id="an alpha in words"),
        pytest.param({"rank_pattern": {"(": 2}}, "no rank and alpha that are numbers", id="a pattern that is none"),
        pytest.param({"rank_pattern": {"layers.1.self_attn.q_proj": 2}}, "the rank 2 and its matrices have 4 and 4", id="a rank of one layer"),
    ],
)  # fmt: skip
def test_a_configuration_that_is_not_its_file_is_refused(
    shelf: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    folder = adapter_of(shelf / "base", tmp_path / "adapter")
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(DataError, match=message.replace("(", r"\(")):
        check(folder, shelf / "base")


def test_two_adapters_in_one_folder_are_refused(shelf: Path, tmp_path: Path) -> None:
    folder = adapter_of(shelf / "base", tmp_path / "adapter")
    held = load_file(folder / FILE)
    torch.save(held, folder / "adapter_model.bin")
    check(folder, shelf / "base")
    torch.save({name: value + 1 for name, value in held.items()}, folder / "adapter_model.bin")
    with pytest.raises(
        InputError, match=r"adapter: two sets of weights lie in one folder: the .* of adapter_model\.bin is not that of"
    ):
        check(folder, shelf / "base")


def test_a_quantized_base_is_asked_for_the_same_names(shelf: Path, tmp_path: Path) -> None:
    folder = adapter_of(shelf / "base", tmp_path / "adapter")
    base = tiny.write_model(tmp_path / "base")
    path = base / "config.json"
    path.write_text(
        json.dumps(json.loads(path.read_text()) | {"quantization_config": {"quant_method": "gptq", "bits": 4}})
    )
    check(folder, base)
    save_file(without(".layers.0.")(load_file(folder / FILE)), folder / FILE)
    with pytest.raises(DataError, match="it lacks 4 weights"):
        check(folder, base)
