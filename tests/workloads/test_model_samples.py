"""The samples for published models run, on tiny twins of those models."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.workloads import tiny, twins
from tests.workloads.runs import ROOT, Place

SAMPLES = ROOT / "manifests" / "samples" / "models"
TWINS = {
    "llama-3-1-8b-lora": ("Llama-3.1", "<|eot_id|>"),
    "llama-3-1-70b-qlora": ("Llama-3.1", "<|eot_id|>"),
    "llama-3-2-3b-full": ("Llama-3.2", "<|eot_id|>"),
    "llama-3-3-70b-lora": ("Llama-3.3", "<|eot_id|>"),
    "qwen2-5-7b-lora": ("Qwen2.5", "<|im_end|>"),
    "qwen3-8b-lora": ("Qwen3", "<|im_end|>"),
    "qwen3-32b-qlora": ("Qwen3", "<|im_end|>"),
    "codellama-7b-instruct-lora": ("CodeLlama", "</s>"),
}
"""The family of each sample's model, and the token that ends an answer."""
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def on_a_desk(sample: str) -> dict[str, Any]:
    """The sample with its model's twin, a few short steps, and without the GPUs that it asks for."""
    job: dict[str, Any] = YAML(typ="safe").load(SAMPLES / f"{sample}.yaml")
    spec = job["spec"]
    for part in ("pod", "cache", "deepspeed"):
        spec.pop(part, None)
    spec["model"] = {"uri": "pvc://models/twin"}
    small = {"sequenceLength": 512, "maxSteps": 2, "gradientAccumulation": 1, "reportTo": []}
    kept = {name: value for name, value in spec["training"].items() if name not in ("epochs", "optimizer")}
    spec["training"] = {**kept, **small}
    return job


def write_conversations(path: Path) -> None:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["text"])
        for row in tiny.rows(40):
            rows.writerow([f"<s>Human: {row['instruction']}\n</s><s>Assistant: {row['output']}\n</s>"])


@pytest.mark.parametrize(
    "sample",
    [
        pytest.param(
            sample, marks=[pytest.mark.drill] if sample == "qwen3-32b-qlora" else []
        )  # a method, and a twin, that others have
        for sample in TWINS
    ],
)
def test_a_sample_trains_the_twin_of_its_model(sample: str, sentencepiece_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    family, end = TWINS[sample]
    storage = tmp_path / "storage"
    twins.write(storage / "models" / "twin", family, sentencepiece_folder)
    (storage / "data").mkdir()
    write_conversations(storage / "data" / "train_sft.csv")
    job = on_a_desk(sample)
    ended = Place(tmp_path).run(job, cold=job["spec"]["method"] == "QLoRA")

    assert ended.exit_code == 0, ended.text
    assert sorted(ended.losses) == [1, 2]
    assert ended.evaluations
    out = storage / "models" / sample
    tokenizer = AutoTokenizer.from_pretrained(out)
    decoding = json.loads((out / "generation_config.json").read_text(encoding="utf-8"))
    ends = decoding["eos_token_id"]
    assert tokenizer.convert_tokens_to_ids(end) in (ends if isinstance(ends, list) else [ends])
    asked = tokenizer.apply_chat_template(
        [{"role": "user", "content": "问"}], tokenize=False, add_generation_prompt=True
    )
    assert "问" in asked
    if job["spec"]["method"] == "Full":
        config = json.loads((out / "config.json").read_text(encoding="utf-8"))
        assert config["tie_word_embeddings"] is True
        assert config["rope_parameters"]["rope_type"] == "llama3"
    else:
        adapter = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
        assert sorted(adapter["target_modules"]) == sorted(PROJECTIONS)
        assert adapter["r"] == job["spec"]["lora"]["rank"]


def test_every_family_has_its_sample() -> None:
    assert {family for family, _ in TWINS.values()} == set(twins.FAMILIES)
