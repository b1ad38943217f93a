"""`python -m workloads.merge`: what lies at the output, and which adapters are refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api import contract
from tests.workloads import library, runs, tiny
from tests.workloads.runs import Ended, Place, merged

pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")  # peft asks by the old name


def job(*adapters: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A MergeJob of ``adapters`` into `base`; ``spec`` adds to it and overrides it, field by field."""
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "MergeJob",
        "metadata": {"name": "tiny"},
        "spec": merged(
            {"model": {"uri": "base"}, "adapters": list(adapters), "dtype": "float32", "output": {"uri": "merged"}},
            spec,
        ),
    }


def done(ended: Ended) -> Ended:
    assert ended.exit_code == 0, ended.text
    return ended


def loaded(folder: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)


def test_a_fine_tune_is_merged_as_its_own_job_would_have(place: Place) -> None:
    """`merge: true` and a MergeJob of the adapter make the same weights."""
    from safetensors.torch import load_file

    training = {"epochs": 2, "learningRate": 3e-2}
    done(place.run(runs.job(training=training, merge=True)))
    ended = done(place.run(job({"uri": "out/adapter"})))
    out = place.folder / "merged"
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md",
        "artifact.json",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert json.loads((out / "artifact.json").read_text())["kind"] == "Model"
    runtime, there = load_file(out / "model.safetensors"), load_file(place.folder / "out" / "model.safetensors")
    assert runtime.keys() == there.keys()
    assert all((runtime[name] == there[name]).all() for name in runtime)
    assert ended.termination["metrics"]["mergeTokenAgreement"] == 1.0
    assert ended.termination["metrics"]["mergeLogitDifference"] < 1e-4
    told = [
        (line["step"], line["totalSteps"]) for line in ended.lines if line.get("stage") == "Merging" and "step" in line
    ]
    assert told == [(1, 1)]


def test_a_larger_vocabulary_is_taken_from_the_adapter(study: Place) -> None:
    import torch
    from peft import PeftModel

    from workloads.data.tokenizer_io import load_tokenizer
    from workloads.models import resize_embeddings

    whole = {"modulesToSave": ["embed_tokens", "lm_head"]}
    done(
        study.run(
            library.job(
                tokenizer={"uri": "vocab"}, trainable="LoRA", lora=whole, training={"maxSteps": 3, "learningRate": 1e-2}
            )
        )
    )
    ended = done(study.run(job({"uri": "out"}, maxShardSize="0.2MB")))
    assert (
        "adapters[0] brings its vocabulary: 960 embedding rows: 600 kept, 360 new ones, each the mean of its old sub-tokens"
        in ended.messages
    )
    assert len(list((study.folder / "merged").glob("*.safetensors"))) > 2
    model, tokenizer = loaded(study.folder / "merged")
    ids = tokenizer("春天的江南", add_special_tokens=False)["input_ids"]
    assert max(ids) >= 600, "the new pieces are used"
    assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == len(tokenizer) == 960

    old, new = load_tokenizer(study.folder / "base"), load_tokenizer(study.folder / "vocab")
    base, _ = loaded(study.folder / "base")
    resize_embeddings.change_vocabulary(base, resize_embeddings.embedding_remap(old, new, 600))
    both = PeftModel.from_pretrained(base, str(study.folder / "out")).eval()
    with torch.inference_mode():
        found, expected = (each(input_ids=torch.tensor([ids])).logits for each in (model.eval(), both))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def adapter(folder: Path, base: Path, **lora: Any) -> Path:
    from tests.workloads.models.test_merge_lora import adapter_of

    return adapter_of(base, folder, **lora)


def of_our_own(folder: Path, spec: dict[str, Any]) -> Path:
    """``folder`` with the artifact.json that a job of this spec would have left there."""
    made = contract.Artifact.model_validate(
        {"kind": "LoRAAdapter", "digest": "sha256:a", "spec_digest": "sha256:b", "spec": spec}
    )
    (folder / contract.ARTIFACT_FILE).write_text(made.model_dump_json(by_alias=True))
    return folder


def test_the_positions_that_an_adapter_was_trained_with_are_the_merged_models(place: Place) -> None:
    folder = adapter(place.folder / "adapter", place.folder / "base")
    of_our_own(folder, {"model": {"digest": "sha256:c", "ropeScaling": {"factor": 2.0}}})
    ended = done(place.run(job({"uri": "adapter"})))
    assert "ropeScaling linear by 2, as the adapter was trained with it" in ended.messages
    config = json.loads((place.folder / "merged" / "config.json").read_text())
    assert (config["rope_parameters"]["rope_type"], config["rope_parameters"]["factor"]) == ("linear", 2.0)
    assert config["max_position_embeddings"] == 1024
    other = place.run(job({"uri": "adapter"}, model={"ropeScaling": {"factor": 4}}, output={"uri": "other"}))
    assert other.exit_code == 64
    assert other.termination["message"] == (
        "spec.adapters[0] adapter was trained with ropeScaling linear by 2, and spec.model.ropeScaling is ropeScaling linear by 4: set "
        "spec.model.ropeScaling to what the adapter was trained with"
    )


def test_an_adapter_of_another_vocabulary_is_refused(place: Place, library_folder: Path) -> None:
    adapter(place.folder / "adapter", library_folder / "base", modules_to_save=["embed_tokens"])
    tiny.write_model(place.folder / "narrow", hidden=64)
    ended = place.run(job({"uri": "adapter"}, model={"uri": "narrow"}))
    assert ended.exit_code == 65
    assert ended.termination["message"] == (
        "spec.adapters[0] adapter was trained with a vocabulary of 600 rows and the base has 256: name the base that the adapter was made "
        "from, or put the tokenizer that it was trained with into its folder"
    )
    assert not (place.folder / "merged").exists()


def test_a_quantized_base_is_refused(place: Place) -> None:
    adapter(place.folder / "adapter", place.folder / "base")
    base = place.folder / "quantized"
    base.mkdir()
    for file in (place.folder / "base").iterdir():
        (base / file.name).write_bytes(file.read_bytes())
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq", "bits": 4}}))
    ended = place.run(job({"uri": "adapter"}, model={"uri": "quantized"}))
    assert ended.exit_code == 66
    assert ended.termination["message"] == (
        "spec.model.uri quantized is quantized (gptq), and an update is lost in its rounding: name the model that it was quantized from; "
        "the result can be quantized afterwards"
    )


def test_a_difference_above_the_bound_publishes_nothing(place: Place) -> None:
    adapter(place.folder / "adapter", place.folder / "base")
    ended = place.run(job({"uri": "adapter"}, dtype="bfloat16", maxLogitDifference=1e-9))
    assert ended.exit_code == 64
    assert "bound 1e-09, saved as bfloat16): nothing is published; set dtype to float32" in ended.termination["message"]
    assert not (place.folder / "merged").exists()
    assert not list(place.folder.rglob("*merged*/**/*.safetensors")), "no half-written output is left"
