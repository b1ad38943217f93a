"""A DeepSpeed configuration of the user's own is put to the library before anything is loaded."""

from __future__ import annotations

from typing import Any

import pytest

from alpaca_operator.api.training import DeepSpeed
from workloads.errors import SpecError
from workloads.training import deepspeed_check, deepspeed_config
from workloads.training.auto import Policy

WHOLE: dict[str, Any] = {
    "fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16, "loss_scale_window": 1000, "hysteresis": 2, "min_loss_scale": 1},
    "bf16": {"enabled": "auto"},
    "optimizer": {"type": "AdamW", "params": {"lr": "auto", "betas": "auto", "eps": "auto", "weight_decay": "auto"}},
    "scheduler": {"type": "WarmupDecayLR", "params": {"warmup_num_steps": "auto", "total_num_steps": "auto"}},
    "zero_optimization": {
        "stage": 3,
        "offload_optimizer": {"device": "cpu", "pin_memory": True},
        "reduce_bucket_size": "auto",
        "stage3_gather_16bit_weights_on_model_save": True,
    },
    "activation_checkpointing": {"partition_activations": False},
    "aio": {"block_size": 1048576},
    "flops_profiler": {"enabled": False},
    "gradient_accumulation_steps": "auto",
    "gradient_clipping": "auto",
    "steps_per_print": 2000,
    "train_batch_size": 16,
    "train_micro_batch_size_per_gpu": "auto",
    "wall_clock_breakdown": False,
}  # fmt: skip


def check(**changes: Any) -> None:
    deepspeed_check.check(DeepSpeed(config=WHOLE | changes), on_gpu=False)


@pytest.mark.parametrize(("own", "filled_in"), [
    pytest.param(
        {"zero_optimization": {"stage": 2}},
        {"gradient_clipping": "auto", "train_batch_size": "auto", "bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}},
        id="training says what the configuration does not",
    ),
    pytest.param(
        {"gradient_clipping": 0.5, "fp16": {"enabled": True}},
        {"gradient_clipping": 0.5, "train_batch_size": "auto", "fp16": {"enabled": True}},
        id="and nothing that it does",
    ),
])  # fmt: skip
def test_a_configuration_of_ones_own_follows_training(own: dict[str, Any], filled_in: dict[str, Any]) -> None:
    policy = Policy("fp32", "float32", None, "sdpa", "None", "adamw_torch", "Custom", 0)
    found = deepspeed_config.config(DeepSpeed(config=own), policy, lambda line: None)
    assert found is not None
    assert {key: found.get(key) for key in filled_in} == filled_in
    assert ("bf16" in found) == ("bf16" in filled_in)


def test_what_the_library_reads_is_accepted() -> None:
    check()
    deepspeed_check.check(None, on_gpu=False)
    deepspeed_check.check(DeepSpeed(preset="Zero3"), on_gpu=False)


@pytest.mark.parametrize(("changes", "message"), [
    pytest.param(
        {"fp16": {"enabled": "auto", "fp16_opt_level": "O2"}},
        "deepspeed.config.fp16.fp16_opt_level is a key that DeepSpeed 0.19.8 does not know: remove it",
        id="a key of another library",
    ),
    pytest.param(
        {"zero_optimization": {"stage": 3, "offload_param": {"device": "gpu"}}},
        "deepspeed.config.zero_optimization.offload_param.device is 'gpu', which DeepSpeed 0.19.8 does not accept (Input should be 'none', "
        "'cpu' or 'nvme'): correct it",
        id="a value deep inside",
    ),
    pytest.param(
        {"zero_optimisation": {"stage": 3}},
        "deepspeed.config.zero_optimisation is nothing that DeepSpeed 0.19.8 reads: did you mean zero_optimization?",
        id="a section that it would pass over in silence",
    ),
    pytest.param(
        {"train_batch_size": "16"},
        "deepspeed.config.train_batch_size is '16': give a number of at least 1, or auto",
        id="a number in quotes",
    ),
    pytest.param(
        {"bf16": {"enabled": True}, "fp16": {"enabled": True}},
        "deepspeed.config is not accepted by DeepSpeed 0.19.8 (AssertionError: bfloat16 and fp16 modes cannot be simultaneously enabled): "
        "correct it, or use deepspeed.preset",
        id="two that exclude each other",
    ),
])  # fmt: skip
def test_what_it_does_not_accept_is_refused_with_its_key(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refusal:
        check(**changes)
    assert str(refusal.value) == message
