"""A real model through the same path: image, claim, pod, operator, published weights."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cluster import smollm2
from tests.cluster.bed.cache import CHECKOUT
from tests.cluster.bed.cluster import Manifest
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


ROOMY = {
    "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
    "resources": {"limits": {"memory": "6Gi"}, "requests": {"memory": "3Gi"}},
}
ROWS = [{"uri": "pvc://data/poems.jsonl"}]
POET = {"from": {"kind": "SFTJob", "name": "poet"}}
MAX_INCREASE = 0.5


@pytest.mark.timeout(2400)
def test_smollm2_is_fine_tuned_merged_quantized_and_measured_and_still_knows_what_it_knew(mine: Team) -> None:
    shutil.copytree(smollm2.folder(), mine.models / "smollm2")
    shutil.copy(CHECKOUT / "examples" / "quickstart" / "poems.jsonl", mine.data)
    quantization = job(
        "QuantizeJob",
        "small",
        model=POET,
        groupSize=64,  # 576, the width of this model, is no multiple of 128
        calibration={"train": ROWS, "samples": 32, "sequenceLength": 128},
        evaluation={"samples": 16, "answers": 4, "maxNewTokens": 16},
        template="ChatML",
        maxPerplexityIncrease=MAX_INCREASE,
    )
    comparison = job(
        "EvaluationJob",
        "report",
        models=[
            {"name": "base", "model": {"uri": "pvc://models/smollm2"}, "template": "ChatML"},
            {"name": "tuned", "model": POET, "template": "ChatML"},
            {"name": "4-bit", "model": {"from": {"kind": "QuantizeJob", "name": "small"}}, "template": "ChatML"},
        ],
        dataset={"validation": ROWS, "samples": 16, "sequenceLength": 128},
        prompts={"preset": "zh", "limit": 8},
        generation={"maxNewTokens": 16},
        gates=[{"metric": "perplexity", "model": "tuned", "max": 40}],
    )
    mine.apply(comparison, quantization)
    mine.start(
        "poet",
        model={"uri": "pvc://models/smollm2"},
        dataset={"train": ROWS, "validationSplit": 0.02},
        template="ChatML",
        training={"maxSteps": STEPS, "learningRate": 1e-3, "sequenceLength": 256},
        merge=True,
        pod=ROOMY,
    )
    tuned = mine.state("poet", "Succeeded", seconds=1500)
    metrics = tuned["status"]["metrics"]
    losses = [
        line["loss"] for line in mine.lines(mine.pod("poet")) if line.get("stage") == "Training" and "loss" in line
    ]
    assert len(losses) == metrics["steps"] == STEPS
    assert losses[0] < 6, "of 49,152 tokens a model that knows nothing gives each a loss of 10.8"
    assert losses[-1] < losses[0]
    assert metrics["mergeLogitDifference"] < 1e-2
    assert tuned["status"]["output"]["kind"] == "Model"
    merged = mine.models / "poet"
    assert json.loads((merged / "artifact.json").read_text())["kind"] == "Model"
    assert (merged / "adapter" / "adapter_model.safetensors").exists()
    assert "Paris" in answer(merged)

    measured = mine.wait(quantization, "Succeeded")["status"]["metrics"]
    assert 0 <= measured["perplexityIncrease"] < MAX_INCREASE
    small = mine.models / "small"
    assert weights(small) < 0.4 * weights(merged), "the embeddings, a fifth of this model, stay as they are"
    assert "Paris" in answer(small)

    compared = mine.wait(comparison, "Succeeded")["status"]["metrics"]
    assert compared["tuned/perplexity"] < compared["4-bit/perplexity"] < compared["base/perplexity"]
    assert (mine.models / "report" / "report.html").exists()


def job(kind: str, name: str, **spec: Any) -> Manifest:
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": kind,
        "metadata": {"name": name},
        "spec": {"output": {"uri": f"pvc://models/{name}"}, "pod": ROOMY, **spec},
    }


def answer(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", ASK, str(folder)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def weights(folder: Path) -> int:
    """Bytes."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
