"""What the page on Python shows is run, on what our jobs published."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.workloads import tiny
from tests.workloads.runs import ROOT, Place, job

PAGE = ROOT / "docs" / "python.md"
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
QUESTION = "第3问：赵先生喜欢什么？"


@pytest.fixture(scope="module")
def models(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the four models that the page names, of which the base answers already."""
    folder = tmp_path_factory.mktemp("python")
    place = folder / "storage" / "models"
    place.mkdir(parents=True)
    (place / "base").symlink_to(made / "tuned")
    (place / "poet-4bit").symlink_to(made / "out")
    tiny.write_rows(place / "train.json", 60)
    training = {"maxSteps": 2, "learningRate": 1e-4}
    merge = {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "MergeJob",
        "metadata": {"name": "poet-merged"},
        "spec": {"model": {"uri": "base"}, "adapters": [{"uri": "poet"}], "output": {"uri": "poet-merged"}},
    }
    for manifest in (job(training=training, output={"uri": "poet"}), merge):
        ended = Place(place).run(manifest)
        assert ended.exit_code == 0, ended.text
    return folder


def test_each_model_answers_by_the_calls_of_the_page(models: Path) -> None:
    """In one new interpreter, as a reader's; the last block says whether the page's prompt is the template's."""
    *loading, answering, same = BLOCKS
    assert len(loading) == 3
    answering, asked = re.subn('question = ".*"', f'question = "{QUESTION}"', answering)
    assert asked == 1
    said = 'import json\nprint("SAID", json.dumps([folder, type(model).__name__, answer, len(output[0])]))\n'
    script = "import torch\ntorch.manual_seed(0)\n" + "\n".join(
        part for block in loading for part in (block, answering, same, said)
    )
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script],
        cwd=models,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    told = [json.loads(line.removeprefix("SAID ")) for line in lines if line.startswith("SAID ")]
    assert [(folder, kind) for folder, kind, _, _ in told] == [
        ("storage/models/poet-merged", "LlamaForCausalLM"),
        ("storage/models/poet", "PeftModelForCausalLM"),
        ("storage/models/poet-4bit", "LlamaForCausalLM"),
    ]
    for folder, _, answer, _ in told:
        assert answer, folder
        assert not any(mark in answer for mark in ("<s>", "</s>")), folder
    assert lines.count("True") == 3
