"""A QuantizeJob with ``format: FP8``: its fields are what compressed-tensors and vLLM read, and its numbers those that come out there."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, safe_open

from tests.workloads import tiny
from tests.workloads.quantized import done, job, run

LAYERS = [f"model.layers.{block}.{part}" for block in (0, 1) for part in (
    "self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj",
)]  # fmt: skip


def fp8_job(**spec: Any) -> dict[str, Any]:
    made = job(format="FP8", **spec)
    del made["spec"]["groupSize"]
    return made


@pytest.fixture(scope="module")
def written(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `tuned`, and what a job made of it: `out`."""
    folder = tmp_path_factory.mktemp("fp8")
    for name in ("tuned", "rows.json"):
        (folder / name).symlink_to(made / name)
    done(run(folder, fp8_job(maxPerplexityIncrease=0.2, minStopRate=0.25)))
    return folder


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_compressed_tensors_reads_what_config_json_says(written: Path) -> None:
    """vLLM makes its scheme of the same fields: CompressedTensorsW8A8Fp8 wants 8-bit floats, symmetric, by channel, activations by token."""
    from compressed_tensors.config import CompressionFormat
    from compressed_tensors.quantization import (
        QuantizationConfig,
        QuantizationStatus,
        QuantizationStrategy,
        QuantizationType,
    )

    content = read(written / "out" / "config.json")["quantization_config"]
    assert content["quant_method"] == "compressed-tensors"
    found = QuantizationConfig.model_validate(content)
    assert (found.format, found.quantization_status) == (
        CompressionFormat.float_quantized.value,
        QuantizationStatus.COMPRESSED,
    )
    assert found.ignore == ["lm_head"]
    [group] = found.config_groups.values()
    assert group.targets == ["Linear"]
    weights, activations = group.weights, group.input_activations
    assert weights is not None
    assert activations is not None
    for part in (weights, activations):
        assert (part.num_bits, part.type, part.symmetric) == (8, QuantizationType.FLOAT, True)
    assert (weights.strategy, weights.dynamic) == (QuantizationStrategy.CHANNEL, False)
    assert (activations.strategy, activations.dynamic) == (QuantizationStrategy.TOKEN, True)
    assert group.output_activations is None


def test_every_linear_layer_has_eight_bits_and_a_scale_for_each_output(written: Path) -> None:
    import torch

    before, after = load_file(written / "tuned" / "model.safetensors"), load_file(written / "out" / "model.safetensors")
    names = {f"{layer}.weight" for layer in LAYERS}
    assert after.keys() == before.keys() | {f"{name}_scale" for name in names}
    for name, values in before.items():
        if name not in names:
            assert torch.equal(after[name], values.to(torch.bfloat16)), name
            continue
        assert after[name].dtype == torch.float8_e4m3fn
        scale = after[f"{name}_scale"]
        assert tuple(scale.shape) == (values.shape[0], 1)
        decoded = after[name].float() * scale.float()
        # Three bits behind the leading one: half a step is a sixteenth, or where numbers become subnormal 2^-10 of the scale.
        assert ((decoded - values).abs() <= values.abs() / 15 + scale.float() * 2**-9).all(), name
        assert decoded.abs().max() > 0.9 * values.abs().max()


def test_transformers_computes_with_what_it_unpacks_as_we_measured(written: Path) -> None:
    """By compressed-tensors' own decompression, which shares nothing with what wrote it."""
    import torch
    from transformers import AutoModelForCausalLM, CompressedTensorsConfig

    from workloads.models import libraries

    with libraries.silenced():
        whole = CompressedTensorsConfig(dequantize=True)
        model = AutoModelForCausalLM.from_pretrained(written / "out", dtype=torch.bfloat16, quantization_config=whole)
    stored = load_file(written / "out" / "model.safetensors")
    for layer in LAYERS:
        expected = stored[f"{layer}.weight"].float() * stored[f"{layer}.weight_scale"].float()
        assert torch.allclose(model.get_submodule(layer).weight.float(), expected, rtol=2**-7), layer
    figures = read(written / "out" / "report.json")["metrics"]
    assert figures["bytesAfter"] < 0.7 * figures["bytesBefore"]
    assert 0.9 < figures["tokenAgreement"] <= 1
    assert 0 < figures["meanDivergence"] < 0.1


def test_the_output_is_a_model_with_its_report(written: Path) -> None:
    artifact = read(written / "out" / "artifact.json")
    assert artifact["kind"] == "FP8Model"
    assert {
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "report.json",
        "README.md",
    } <= {file["path"] for file in artifact["files"]}
    assert read(written / "out" / "config.json")["dtype"] == "bfloat16"
    assert "vllm serve" in (written / "out" / "README.md").read_text(encoding="utf-8")
    assert [path.name for path in written.glob("out.*")] == [], "nothing is left beside it"
    with safe_open(written / "out" / "model.safetensors", "pt") as tensors:
        assert tensors.metadata() == {"format": "pt"}


def test_a_head_that_is_the_embedding_stays_that(made: Path, tmp_path: Path) -> None:
    tiny.write_model(tmp_path / "tuned", hidden=64, tie_word_embeddings=True)
    (tmp_path / "rows.json").symlink_to(made / "rows.json")
    done(run(tmp_path, fp8_job(evaluation={"answers": 0})))
    assert "lm_head.weight" not in load_file(tmp_path / "out" / "model.safetensors")
    assert read(tmp_path / "out" / "config.json")["tie_word_embeddings"] is True


def test_a_broken_gate_publishes_nothing(written: Path, tmp_path: Path) -> None:
    for name in ("tuned", "rows.json"):
        (tmp_path / name).symlink_to(written / name)
    ended = run(tmp_path, fp8_job(maxMeanDivergence=1e-9, evaluation={"answers": 0}))
    assert (ended.exit_code, ended.termination["reason"]) == (64, "GateFailed")
    assert not (tmp_path / "out").exists()


def test_what_is_in_eight_bits_already_is_refused(written: Path, tmp_path: Path) -> None:
    (tmp_path / "tuned").symlink_to(written / "out")
    (tmp_path / "rows.json").symlink_to(written / "rows.json")
    ended = run(tmp_path, fp8_job())
    assert ended.exit_code == 66
    assert "is quantized already (compressed-tensors): name the model that it was made from" in ended.text


def test_no_row_of_zeros_becomes_no_number() -> None:
    import torch

    from workloads.quantization.fp8 import scale

    weights = torch.tensor([[0.0, 0.0], [448.0, -2.0]])
    assert scale(weights, torch.bfloat16).tolist() == [[1.0], [1.0]]
