"""`Auto` by device and model, and the refusal of what a device cannot do."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from alpaca_operator.api.sft import SFTSpec
from workloads.errors import SpecError
from workloads.system.hardware import Device
from workloads.training import auto
from workloads.training.memory_estimate import Sizes

GIB = 2**30
CPU = Device("cpu", "this machine's CPU", 0)
A100 = Device("cuda", "A100", 80 * GIB, (8, 0), flash_attention_2=True)
H100 = Device("cuda", "H100", 80 * GIB, (9, 0), flash_attention_2=True, flash_attention_3=True)
B200 = Device("cuda", "B200", 180 * GIB, (10, 0), flash_attention_2=True, flash_attention_3=True)
L40S = Device("cuda", "L40S", 48 * GIB, (8, 9))
RTX3060 = Device("cuda", "RTX 3060", 12 * GIB, (8, 6))
V100 = Device("cuda", "V100", 32 * GIB, (7, 0), flash_attention_2=True)

LLAMA_7B = Sizes(
    parameters=6_738_415_616,
    embeddings=2 * 32000 * 4096,
    trainable=19_988_480,
    hidden=4096,
    intermediate=11008,
    layers=32,
    vocabulary=32000,
    widths=(4096, 11008),
)
LLAMA_7B_WHOLE = replace(LLAMA_7B, trainable=LLAMA_7B.parameters)
LLAMA_8B = Sizes(8_030_261_248, 2 * 128256 * 4096, 20_971_520, 4096, 14336, 32, 128256, (4096, 14336))
LLAMA_8B_WHOLE = replace(LLAMA_8B, trainable=LLAMA_8B.parameters)
LLAMA_1B = Sizes(1_235_814_400, 128256 * 2048, 5_636_096, 2048, 8192, 16, 128256, (2048, 8192))
LLAMA_1B_WHOLE = replace(LLAMA_1B, trainable=LLAMA_1B.parameters)


def spec(**fields: Any) -> SFTSpec:
    return SFTSpec.model_validate(
        {"model": {"uri": "base"}, "dataset": {"train": [{"uri": "rows"}]}, "output": {"uri": "out"}, **fields}
    )


def resolved(device: Device, sizes: Sizes, **fields: Any) -> dict[str, Any]:
    found = auto.resolve(spec(**fields), device, sizes).as_dict()
    found.pop("estimatedMemoryGiB")
    return found


def row(
    precision: str, weights: str, attention: str, checkpointing: str, optimizer: str, parallel: str = "None"
) -> dict[str, Any]:
    return {
        "precision": precision,
        "weights": weights,
        "attention": attention,
        "gradientCheckpointing": checkpointing,
        "optimizer": optimizer,
        "parallel": parallel,
    }


@pytest.mark.parametrize(
    ("device", "sizes", "fields", "expected"),
    [
        pytest.param(
            CPU, LLAMA_7B, {}, row("fp32", "float32", "sdpa", "None", "adamw_torch"), id="a CPU trains in float32"
        ),
        pytest.param(
            CPU,
            LLAMA_7B_WHOLE,
            {"method": "Full"},
            row("fp32", "float32", "sdpa", "None", "adamw_torch"),
            id="a CPU trains a whole model in float32 too",
        ),
        pytest.param(
            CPU,
            LLAMA_7B,
            {"method": "QLoRA"},
            row("fp32", "nf4", "sdpa", "None", "adamw_torch"),
            id="a CPU holds a base in 4 bits when asked to",
        ),
        pytest.param(
            CPU,
            LLAMA_7B,
            {"method": "QLoRA", "load": {"bits": 8}},
            row("fp32", "int8", "sdpa", "None", "adamw_torch"),
            id="a CPU holds a base in 8 bits when asked to",
        ),
        pytest.param(
            A100,
            LLAMA_7B,
            {},
            row("bf16", "bfloat16", "flash_attention_2", "None", "adamw_torch_fused"),
            id="LoRA of 7B fits 80 GiB without checkpointing",
        ),
        pytest.param(
            H100,
            LLAMA_7B,
            {},
            row("bf16", "bfloat16", "flash_attention_3", "None", "adamw_torch_fused"),
            id="a Hopper takes FlashAttention-3",
        ),
        pytest.param(
            B200,
            LLAMA_7B,
            {},
            row("bf16", "bfloat16", "flash_attention_2", "None", "adamw_torch_fused"),
            id="LoRA on Blackwell, which FlashAttention-3 does not run on",
        ),
        pytest.param(
            replace(A100, flash_attention_2=False),
            LLAMA_7B,
            {},
            row("bf16", "bfloat16", "sdpa", "None", "adamw_torch_fused"),
            id="without FlashAttention it is sdpa",
        ),
        pytest.param(
            A100,
            LLAMA_7B,
            {"training": {"batchSizePerDevice": 8}},
            row("bf16", "bfloat16", "flash_attention_2", "Full", "adamw_torch_fused"),
            id="a batch that does not fit is checkpointed",
        ),
        pytest.param(
            RTX3060,
            LLAMA_7B,
            {},
            row("bf16", "nf4", "sdpa", "Full", "paged_adamw_8bit"),
            id="LoRA of 7B on 12 GiB becomes nf4, checkpointed, with a paged 8-bit optimizer",
        ),
        pytest.param(
            A100,
            LLAMA_7B,
            {"method": "QLoRA"},
            row("bf16", "nf4", "flash_attention_2", "None", "adamw_torch_fused"),
            id="QLoRA that fits is not checkpointed",
        ),
        pytest.param(
            A100,
            LLAMA_1B_WHOLE,
            {"method": "Full"},
            row("bf16", "float32", "flash_attention_2", "Full", "adamw_8bit"),
            id="a whole 1B keeps float32 weights",
        ),
        pytest.param(
            A100,
            LLAMA_7B_WHOLE,
            {"method": "Full"},
            row("bf16", "float32", "flash_attention_2", "Full", "adamw_8bit"),
            id="a whole 7B on 80 GiB keeps float32 weights, with an 8-bit optimizer",
        ),
        pytest.param(
            A100,
            LLAMA_8B_WHOLE,
            {"method": "Full"},
            row("bf16", "bfloat16", "flash_attention_2", "Full", "adamw_torch", "Zero2Offload"),
            id="a whole 8B on 80 GiB has its float32 weights in main memory",
        ),
        pytest.param(
            L40S,
            LLAMA_7B_WHOLE,
            {"method": "Full"},
            row("bf16", "bfloat16", "sdpa", "Full", "adamw_torch", "Zero2Offload"),
            id="a whole 7B on 48 GiB too",
        ),
        pytest.param(
            A100,
            LLAMA_8B_WHOLE,
            {"method": "Full", "deepspeed": {"preset": "Zero2", "offload": "CPU"}},
            row("bf16", "bfloat16", "flash_attention_2", "Full", "adamw_torch_fused", "Zero2Offload"),
            id="offload is used when asked for",
        ),
        pytest.param(
            V100,
            LLAMA_7B,
            {},
            row("fp16", "float16", "sdpa", "Full", "adamw_torch_fused"),
            id="an old GPU trains LoRA in float16 AMP, checkpointed",
        ),
        pytest.param(
            A100,
            LLAMA_7B,
            {"deepspeed": {"preset": "Zero3"}},
            row("bf16", "bfloat16", "flash_attention_2", "None", "adamw_torch_fused", "Zero3"),
            id="ZeRO-3 is used when asked for",
        ),
        pytest.param(
            A100,
            LLAMA_7B,
            {
                "training": {
                    "precision": "fp32",
                    "attention": "eager",
                    "gradientCheckpointing": "Full",
                    "optimizer": "adafactor",
                }
            },
            row("fp32", "float32", "eager", "Full", "adafactor"),
            id="what is named is taken",
        ),
        pytest.param(
            A100,
            LLAMA_7B,
            {"training": {"precision": "fp32"}},
            row("fp32", "float32", "sdpa", "None", "adamw_torch_fused"),
            id="FlashAttention is not chosen for float32",
        ),
        pytest.param(
            RTX3060,
            LLAMA_7B,
            {"training": {"precision": "bf16"}},
            row("bf16", "bfloat16", "sdpa", "Full", "adamw_torch_fused"),
            id="a named precision forbids 4 bits",
        ),
        pytest.param(
            CPU,
            LLAMA_7B,
            {"training": {"optimizer": "adamw_8bit"}},
            row("fp32", "float32", "sdpa", "None", "adamw_8bit"),
            id="8-bit Adam works on a CPU",
        ),
    ],
)
def test_auto_follows_the_table(device: Device, sizes: Sizes, fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert resolved(device, sizes, **fields) == expected


@pytest.mark.parametrize(
    ("device", "sizes", "fields", "message"),
    [
        pytest.param(
            CPU,
            LLAMA_7B,
            {"training": {"precision": "fp16"}},
            "training.precision fp16 needs a GPU and this machine has none: set it to Auto, fp32 or bf16",
            id="float16 on a CPU",
        ),
        pytest.param(
            CPU,
            LLAMA_7B,
            {"training": {"attention": "flash_attention_2"}},
            "training.attention flash_attention_2 needs a GPU and this machine has none: set it to Auto or sdpa",
            id="FlashAttention on a CPU",
        ),
        pytest.param(
            CPU,
            LLAMA_7B,
            {"training": {"optimizer": "paged_adamw_8bit"}},
            "training.optimizer paged_adamw_8bit pages GPU memory and this machine has no GPU: set it to Auto or adamw_8bit",
            id="a paged optimizer on a CPU",
        ),
        pytest.param(
            CPU,
            replace(LLAMA_7B, widths=(576, 688)),
            {"method": "QLoRA"},
            "method QLoRA in 4 bits on a CPU needs layer widths that 64 divides, and this model has 688: set load.bits to 8, or "
            "set method to LoRA",
            id="nf4 on a CPU with a width of 688",
        ),
        pytest.param(
            replace(CPU, bitsandbytes=False),
            LLAMA_7B,
            {"method": "QLoRA"},
            "method QLoRA holds the base in 4 bits, for which the package bitsandbytes is not installed: install it, or set method to "
            "LoRA",
            id="QLoRA without bitsandbytes",
        ),
        pytest.param(
            V100,
            LLAMA_7B,
            {"training": {"precision": "bf16"}},
            "training.precision bf16 needs a GPU of sm80 or newer and V100 is sm70: set it to Auto or fp16",
            id="bfloat16 on an old GPU",
        ),
        pytest.param(
            V100,
            LLAMA_7B_WHOLE,
            {"method": "Full"},
            "method Full needs bf16, which V100 (sm70) lacks: set method to LoRA, or training.precision to fp32 where memory allows "
            "it",
            id="a whole model on an old GPU",
        ),
        pytest.param(
            A100,
            LLAMA_7B_WHOLE,
            {"method": "Full", "training": {"precision": "fp16"}},
            "training.precision fp16 with method Full trains to a loss of 0 (updates vanish in half precision): set precision to bf16 "
            "or fp32, or method to LoRA",
            id="a whole model in float16",
        ),
        pytest.param(
            V100,
            LLAMA_7B,
            {"training": {"attention": "flash_attention_2"}},
            "training.attention flash_attention_2 needs a GPU of sm80 or newer and V100 is sm70: set it to Auto",
            id="FlashAttention-2 on an old GPU",
        ),
        pytest.param(
            A100,
            LLAMA_7B,
            {"training": {"attention": "flash_attention_3"}},
            "training.attention flash_attention_3 runs on GPUs of sm90 (Hopper) alone and A100 is sm80: set it to Auto",
            id="FlashAttention-3 before Hopper",
        ),
        pytest.param(
            B200,
            LLAMA_7B,
            {"training": {"attention": "flash_attention_3"}},
            "training.attention flash_attention_3 runs on GPUs of sm90 (Hopper) alone and B200 is sm100: set it to Auto",
            id="FlashAttention-3 after Hopper",
        ),
        pytest.param(
            RTX3060,
            LLAMA_7B,
            {"training": {"attention": "flash_attention_2"}},
            "training.attention flash_attention_2 needs the package flash-attn, which is not installed: install it, or set it to Auto",
            id="FlashAttention that is not installed",
        ),
        pytest.param(
            A100,
            LLAMA_7B,
            {"training": {"attention": "flash_attention_2", "precision": "fp32"}},
            "training.attention flash_attention_2 computes in half precision only: set training.precision to bf16, or attention to "
            "sdpa",
            id="FlashAttention in float32",
        ),
        pytest.param(
            A100,
            LLAMA_7B,
            {"method": "QLoRA", "deepspeed": {"config": {"zero_optimization": {"stage": 3}}}},
            "method QLoRA does not run under ZeRO-3: set zero_optimization.stage in deepspeed.config to 2, or set method to LoRA",
            id="QLoRA under somebody's own ZeRO-3",
        ),
        pytest.param(
            RTX3060,
            LLAMA_7B_WHOLE,
            {"method": "Full"},
            "method Full needs 64.3 GiB with float32 weights and RTX 3060 has 12.0 GiB; in bfloat16 weights alone small updates vanish, and "
            "the GPU needs 15.9 GiB even while float32 ones are in main memory: set deepspeed to {preset: Zero3, offload: CPU} where there "
            "are 100.4 GiB of main memory, or set method to LoRA",
            id="a whole model whose half-precision copy does not fit",
        ),
        pytest.param(
            A100,
            LLAMA_8B_WHOLE,
            {"method": "Full", "training": {"optimizer": "adamw_8bit"}},
            "method Full needs 78.2 GiB with float32 weights and A100 has 80.0 GiB; in bfloat16 weights alone small updates vanish, and "
            "training.optimizer adamw_8bit keeps its state on the GPU: set training.optimizer to Auto and deepspeed to {preset: Zero2, "
            "offload: CPU} where there are 119.7 GiB of main memory, or set method to LoRA",
            id="a whole model in bfloat16 alone under a named 8-bit optimizer",
        ),
        pytest.param(
            replace(A100, main_memory=64 * GIB),
            LLAMA_8B_WHOLE,
            {"method": "Full"},
            "method Full needs 78.2 GiB with float32 weights and A100 has 80.0 GiB; in bfloat16 weights alone small updates vanish, and of "
            "main memory, which could take float32 ones, 64.0 GiB are free: set deepspeed to {preset: Zero2, offload: CPU} where there are "
            "119.7 GiB of main memory, or set method to LoRA",
            id="a whole model that main memory is too small for",
        ),
        pytest.param(
            replace(A100, deepspeed=False),
            LLAMA_8B_WHOLE,
            {"method": "Full"},
            "method Full needs 78.2 GiB with float32 weights and A100 has 80.0 GiB; in bfloat16 weights alone small updates vanish, and the "
            "package deepspeed, which keeps float32 ones in main memory, is not installed: set deepspeed to {preset: Zero2, offload: CPU} "
            "where there are 119.7 GiB of main memory, or set method to LoRA",
            id="a whole model that only DeepSpeed could train here",
        ),
        pytest.param(
            A100,
            LLAMA_8B_WHOLE,
            {"method": "Full", "deepspeed": {"config": {"train_batch_size": "auto"}}},
            "deepspeed.config keeps no float32 weights beside those in bfloat16, in which small updates vanish: set "
            "zero_optimization.stage or bf16.enabled in it, or set method to LoRA",
            id="somebody's own DeepSpeed without float32 weights",
        ),
    ],
)
def test_what_a_device_cannot_do_is_refused(device: Device, sizes: Sizes, fields: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError) as refusal:
        auto.resolve(spec(**fields), device, sizes)
    assert str(refusal.value) == message


@pytest.mark.parametrize(("device", "chosen"), [(CPU, "eager"), (A100, "flash_attention_2")])
def test_a_model_without_sdpa_gets_a_kernel_that_it_has(device: Device, chosen: str) -> None:
    gemma_2 = ("flash_attention_3", "flash_attention_2", "eager")
    assert auto.resolve(spec(), device, LLAMA_7B, gemma_2).attention == chosen
    with pytest.raises(SpecError) as refusal:
        auto.resolve(spec(training={"attention": "sdpa"}), device, LLAMA_7B, gemma_2)
    assert str(refusal.value) == (
        "training.attention is sdpa and this model computes with flash_attention_3, flash_attention_2, eager alone: set it to Auto"
    )


def test_a_choice_that_costs_precision_is_told() -> None:
    (note,) = auto.resolve(spec(), RTX3060, LLAMA_7B).notes
    assert note == (
        "14.4 GiB are needed and RTX 3060 has 12.0 GiB: the base is held in 4 bits (nf4); set training.precision to bf16 to forbid it"
    )


def test_weights_that_are_kept_in_main_memory_are_told() -> None:
    (note,) = auto.resolve(spec(method="Full"), A100, LLAMA_8B_WHOLE).notes
    assert note == (
        "78.2 GiB are needed for float32 weights and A100 has 80.0 GiB: they are kept in main memory with the optimizer's state (119.7 GiB; "
        "DeepSpeed ZeRO-2, offload), and the GPU computes with a copy in bfloat16"
    )


@pytest.mark.parametrize("memory", [8, 12, 16, 24, 40, 48, 72, 79, 80, 141, 192])
@pytest.mark.parametrize("sizes", [LLAMA_1B_WHOLE, LLAMA_7B_WHOLE, LLAMA_8B_WHOLE], ids=["1B", "7B", "8B"])
@pytest.mark.parametrize(
    "optimizer", ["Auto", "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adafactor"]
)
def test_no_whole_model_is_trained_in_bfloat16_alone(memory: int, sizes: Sizes, optimizer: str) -> None:
    device = replace(A100, memory=memory * GIB)
    try:
        found = auto.resolve(spec(method="Full", training={"optimizer": optimizer}), device, sizes)
    except SpecError:
        return
    assert found.weights == "float32" or found.parallel == "Zero2Offload"


def test_embeddings_trained_with_an_adapter_count_with_their_optimizer_state() -> None:
    # 13B of Llama-2 with 74,674 pieces: 765 M weights in the two embeddings, 16 bytes each while they train.
    plain = Sizes(13_454_950_400, 2 * 74_674 * 5120, 31_293_440, 5120, 13824, 40, 74_674)
    saved = replace(plain, trainable=plain.trainable + plain.embeddings)
    more = auto.resolve(spec(), A100, saved).estimate - auto.resolve(spec(), A100, plain).estimate
    assert more == 16 * 764_661_760
