"""A real model through the same path: image, claim, pod, operator, published weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.cluster import smollm2
from tests.cluster.bed.cache import CHECKOUT
from tests.cluster.team import Team

pytestmark = [pytest.mark.cluster, pytest.mark.slow]

STEPS = 6
ASK = """
import sys, torch, transformers
tokenizer = transformers.AutoTokenizer.from_pretrained(sys.argv[1])
model = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
question = [{"role": "user", "content": "What is the capital of France?"}]
ids = tokenizer.apply_chat_template(question, add_generation_prompt=True, return_tensors="pt", return_dict=True)
answer = model.generate(**ids, max_new_tokens=16, do_sample=False)[0][ids["input_ids"].shape[1]:]
print(tokenizer.decode(answer, skip_special_tokens=True))
"""


@pytest.mark.timeout(1800)
def test_smollm2_is_fine_tuned_merged_and_still_knows_what_it_knew(mine: Team) -> None:
    shutil.copytree(smollm2.folder(), mine.models / "smollm2")
    shutil.copy(CHECKOUT / "examples" / "quickstart" / "poems.jsonl", mine.data)
    mine.start(
        "poet",
        model={"uri": "pvc://models/smollm2"},
        dataset={"train": [{"uri": "pvc://data/poems.jsonl"}], "validationSplit": 0.02},
        template="ChatML",
        training={"maxSteps": STEPS, "learningRate": 1e-3, "sequenceLength": 256},
        merge=True,
        pod={"resources": {"limits": {"memory": "6Gi"}, "requests": {"memory": "3Gi"}}},
    )
    job = mine.state("poet", "Succeeded", seconds=1500)
    metrics = job["status"]["metrics"]
    losses = [
        line["loss"] for line in mine.lines(mine.pod("poet")) if line.get("stage") == "Training" and "loss" in line
    ]
    assert len(losses) == metrics["steps"] == STEPS
    assert losses[0] < 6, "of 49,152 tokens a model that knows nothing gives each a loss of 10.8"
    assert losses[-1] < losses[0]
    assert metrics["mergeLogitDifference"] < 1e-2
    assert job["status"]["output"]["kind"] == "Model"

    merged = mine.models / "poet"
    assert json.loads((merged / "artifact.json").read_text())["kind"] == "Model"
    assert (merged / "adapter" / "adapter_model.safetensors").exists()
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK, str(merged)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout
