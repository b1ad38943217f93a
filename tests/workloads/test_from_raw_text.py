"""Chains that begin with raw text, as `python -m workloads FILE` runs them: what trains reads the corpus, and validates on what it sets aside."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.workloads.curation.corpora import write_lines
from tests.workloads.literature import chinese
from tests.workloads.process import ROOT
from tests.workloads.runs import Place
from workloads.data import files

LOOP = {"maxSteps": 2, "gradientAccumulation": 1, "batchSizePerDevice": 2, "learningRate": 1e-2, "reportTo": []}


def manifest(kind: str, name: str, **spec: Any) -> dict[str, Any]:
    api = "literary-alpaca.io/v1alpha1"
    return {"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": {**spec, "output": {"uri": name}}}


def made_by(name: str) -> list[dict[str, Any]]:
    return [{"from": {"kind": "DatasetJob", "name": name}}]


def run(folder: Path, *manifests: dict[str, Any]) -> str:
    """What the chain prints; fails where it does."""
    (folder / "chain.yaml").write_text("\n---\n".join(json.dumps(one) for one in manifests), encoding="utf-8")
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "operator"))),
        "ALPACA_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    ended = subprocess.run(
        [sys.executable, "-m", "workloads", "chain.yaml"], cwd=folder, env=environ, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


def artifact(folder: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((folder / "artifact.json").read_text(encoding="utf-8"))
    return read


def test_a_fine_tuning_of_conversations_that_a_corpus_cleaned(study: Place) -> None:
    """Rows of two layouts, some of which come twice; the corpus writes them as one of those that SFTJob reads."""
    folder = study.folder
    alpaca = [{"instruction": f"写第{number}首诗", "output": f"白日依山尽，第{number}首。"} for number in range(30)]
    talks = [
        {"messages": [{"role": "user", "content": f"第{number}句？"}, {"role": "assistant", "content": "黄河入海流。"}]}
        for number in range(20)
    ]
    (folder / "talks").mkdir()
    for name, rows in (("a.jsonl", [*alpaca, *alpaca[:10]]), ("b.jsonl", talks)):
        (folder / "talks" / name).write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
    out = run(
        folder,
        manifest(
            "DatasetJob",
            "clean",
            content="Conversations",
            sources=[{"uri": "talks"}],
            split={"validationDocuments": 5},
            parallelism={"processesPerNode": 1},
        ),
        manifest(
            "SFTJob",
            "tuned",
            model={"uri": "base"},
            dataset={"train": made_by("clean"), "validation": made_by("clean")},
            template="HumanAssistant",
            training={**LOOP, "sequenceLength": 128, "evalSteps": 2},
        ),
    )
    assert re.search(r"DatasetJob clean +Succeeded +[0-9.]+ s +clean +documentsKept 60 → 50", out), out
    tuned = artifact(folder / "tuned")
    assert tuned["inputs"]["dataset.train[0]"]["digest"] == artifact(folder / "clean")["digest"]
    card = (folder / "tuned" / "README.md").read_text(encoding="utf-8")
    assert "train: 45 conversations read" in card
    assert "validation: 5 conversations read" in card
    assert tuned["metrics"]["evalLoss"] > 0


def test_a_pretraining_validates_on_what_the_corpus_set_aside(study: Place) -> None:
    folder = study.folder
    lines = chinese(600)
    pages = ["\n".join(lines[start : start + 10]) for start in range(0, len(lines), 10)]
    write_lines(folder / "web.jsonl", [*pages, *pages[:20]])
    run(
        folder,
        manifest(
            "DatasetJob",
            "clean",
            sources=[{"uri": "web.jsonl"}],
            split={"validationDocuments": 6},
            parallelism={"processesPerNode": 1},
        ),
        manifest(
            "PretrainJob",
            "trained",
            model={"uri": "base"},
            dataset={"train": made_by("clean"), "validation": made_by("clean")},
            training={**LOOP, "blockSize": 64, "evalSteps": 2},
        ),
    )
    parts = {
        part: [record["text"] for path in (folder / "clean" / part).iterdir() for _, record in files.records(path)]
        for part in ("train", "validation")
    }
    assert (len(parts["train"]), len(parts["validation"])) == (54, 6)
    assert sorted(parts["train"] + parts["validation"]) == sorted(pages)
    card = (folder / "trained" / "README.md").read_text(encoding="utf-8")
    assert "train: 54 documents" in card
    assert "validation: 6 documents" in card
    assert artifact(folder / "trained")["metrics"]["evalLoss"] > 0
