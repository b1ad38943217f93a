"""What GPTQModel is given to load stands for the model as it lies in its folder."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from workloads.models import inspect, libraries

libraries.quiet()


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval().requires_grad_(False)


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
