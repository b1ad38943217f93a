"""A merged model is base plus adapter, whatever the adapter; a wrong merge is never published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.runs import Place, job
from workloads import merging, model
from workloads.errors import WorkloadError

model.quiet_libraries()


@pytest.mark.parametrize(
    ("base", "lora"),
    [
        pytest.param("base", {}, id="LoRA"),
        pytest.param("base", {"useRslora": True}, id="rsLoRA"),
        pytest.param("base", {"useDora": True}, id="DoRA"),
        pytest.param("base", {"modulesToSave": ["embed_tokens", "lm_head"]}, id="with embeddings and head"),
        pytest.param("tied", {}, id="tied embeddings"),
        pytest.param("tied", {"modulesToSave": ["embed_tokens"]}, id="tied embeddings that are trained"),
        pytest.param("tied", {"modulesToSave": ["lm_head"]}, id="a tied head that is trained"),
    ],
)
def test_the_merged_model_is_base_plus_adapter(base: str, lora: dict[str, Any], place: Place) -> None:
    ended = place.run(
        job(model={"uri": base}, merge=True, lora={"dropout": 0, **lora}, training={"epochs": 4, "learningRate": 3e-2})
    )
    assert ended.exit_code == 0, ended.text
    out = place.folder / "out"
    assert json.loads((out / "artifact.json").read_text())["kind"] == "Model"
    metrics = ended.termination["metrics"]
    assert metrics["mergeLogitDifference"] < 1e-4
    assert metrics["mergeTokenAgreement"] == 1.0
    # An independent look, by the plain libraries: the folder loads whole, and differs from the base as the adapter does.
    difference, moved = compare(place.folder / base, out)
    assert difference < 1e-4
    assert moved > 0.1, "the adapter has learnt something that could be lost"


def compare(base: Path, out: Path) -> tuple[float, float]:
    """Largest logit difference of the merged model from base + adapter, and from the base alone."""
    import warnings

    import peft
    import torch
    from transformers import AutoModelForCausalLM

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        merged = AutoModelForCausalLM.from_pretrained(out).eval()
        plain = AutoModelForCausalLM.from_pretrained(base).eval()
        ids = torch.arange(4, 104)[None]
        with torch.inference_mode():
            alone = plain(input_ids=ids).logits
            both = peft.PeftModel.from_pretrained(plain, str(out / "adapter")).eval()(input_ids=ids).logits
            found = merged(input_ids=ids).logits
    return float((found - both).abs().max()), float((found - alone).abs().max())


def test_the_merged_model_has_the_dtype_of_its_base(place: Place, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    half = tmp_path / "half"
    AutoModelForCausalLM.from_pretrained(place.folder / "base", dtype=torch.bfloat16).save_pretrained(half)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (half / name).write_bytes((place.folder / "base" / name).read_bytes())
    ended = place.run(job(model={"uri": "half"}, merge=True))
    assert ended.exit_code == 0, ended.text
    assert {value.dtype for value in load_file(place.folder / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((place.folder / "out" / "config.json").read_text())["dtype"] == "bfloat16"


@pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name
def test_a_wrong_merge_is_refused(place: Place, tmp_path: Path) -> None:
    done = place.run(job(training={"epochs": 4, "learningRate": 3e-2}))
    assert done.exit_code == 0, done.text
    base = model.look(place.folder / "base", "spec.model.uri", "base")
    adapter = merging.Adapter.open(place.folder / "out", "out")
    for update in adapter.updates.values():
        update.scale = 0.0  # as if the scale of the update had been forgotten: the model without its adapter
    (tmp_path / "merged").mkdir()
    with pytest.raises(WorkloadError, match=r"logits differ from base \+ adapter by .*: nothing is published"):
        merging.merge(
            base, [merging.Step(adapter)], merging.Target(tmp_path / "merged", "float32"), [list(range(4, 60))], None
        )
