"""A quantized model is held against the original as it is, its output head included."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from workloads.data.conversations import Example
from workloads.models import inspect, libraries
from workloads.quantization.fidelity import Reference

libraries.quiet()

ROWS = [Example(np.arange(4, 40, dtype=np.int32), np.arange(36) > 5, number) for number in range(2)]


def silent() -> None:
    pass


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


@pytest.mark.parametrize("lost", [False, True], ids=["the same head", "the embedding in its place"])
def test_a_head_that_was_lost_shows(shelf: Path, tmp_path: Path, lost: bool) -> None:
    reference = Reference(tmp_path / "reference")
    reference.record(loaded(shelf / "base"), ROWS, 3, silent)
    quantized = loaded(shelf / "base")
    if lost:
        quantized.lm_head.weight.data.copy_(quantized.model.embed_tokens.weight.data)
    _, found = reference.compare(quantized, ROWS, 3, silent)
    if lost:
        assert found.agreement < 0.9
        assert found.divergence > 1e-4
    else:
        assert found.agreement == 1.0
        assert found.divergence == pytest.approx(0, abs=1e-9)


def test_what_gptq_loads_has_the_head_that_config_json_denies(shelf: Path, tmp_path: Path) -> None:
    from alpaca_operator.api.quantize import QuantizeSpec
    from workloads.data import tokenizer_io
    from workloads.quantization.prepare import _model_folder

    folder = Path(shutil.copytree(shelf / "base", tmp_path / "base"))
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"tie_word_embeddings": True}))
    base = inspect.inspect_model(folder, "spec.model.uri", "base")
    spec = QuantizeSpec.model_validate(
        {
            "model": {"uri": "base"},
            "calibration": {"train": [{"uri": "train.json"}]},
            "output": {"uri": "out"},
        }
    )
    made = _model_folder(base, spec, tokenizer_io.load_tokenizer(folder), tmp_path / "model")
    assert made != folder
    assert json.loads((made / "config.json").read_text())["tie_word_embeddings"] is False
    assert torch.equal(loaded(made).lm_head.weight, loaded(shelf / "base").lm_head.weight)
