"""An adapter on a model: with the dropout that was asked for, or a refusal that names the field."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from transformers import AutoConfig, AutoModelForCausalLM

from alpaca_operator.api.training import LoRA
from workloads.errors import SpecError
from workloads.models import adapters
from workloads.models.load import LoadOptions

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name

OPTIONS = LoadOptions("fp32", "float32", None, "sdpa")


def model(kind: str = "llama", **values: Any) -> Any:
    small = {"vocab_size": 32, "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "head_dim": 4}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small, **heads, **values))


def dropouts(found: Any) -> set[float]:
    return {
        getattr(layer.lora_dropout["default"], "p", 0.0) for layer in found.modules() if isinstance(layer, LoraLayer)
    }


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_an_adapter_is_trained_on_with_the_dropout_of_the_spec(tmp_path: Path, dropout: float) -> None:
    first = adapters.attach(model(), LoRA(dropout=0.1), OPTIONS)
    assert dropouts(first) == {0.1}
    first.save_pretrained(str(tmp_path))
    further = adapters.attach(model(), LoRA(dropout=dropout), OPTIONS, tmp_path)
    assert dropouts(further) == {dropout}
    assert all(weight.requires_grad for name, weight in further.named_parameters() if "lora_" in name)


@pytest.mark.filterwarnings("ignore:The following .*_pattern keys:RuntimeWarning")
def test_experts_that_peft_gives_no_dropout_are_refused_with_the_fields_to_change() -> None:
    experts = {"num_experts": 2, "moe_intermediate_size": 8, "decoder_sparse_step": 1, "num_experts_per_tok": 1}
    with torch.device("meta"), pytest.raises(SpecError) as refusal:
        adapters.attach(model("qwen3_moe", **experts), LoRA(), OPTIONS)
    assert str(refusal.value) == (
        "lora.dropout is 0.05: PEFT cannot put such an adapter on this model (lora.ParamWrapper does not work with lora_dropout != 0.): "
        "change lora.dropout or lora.targetModules"
    )
    with torch.device("meta"):
        found = adapters.attach(model("qwen3_moe", **experts), LoRA(dropout=0), OPTIONS)
    assert any("experts" in name and "lora_" in name for name, _ in found.named_parameters())
