"""Models to be measured, and EvaluationJobs of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tests.workloads import quantized, tiny
from tests.workloads.runs import merged

QUESTIONS = [
    {"question": row["instruction"], "category": ["人物", "风景"][number % 2], "reference": row["output"]}
    for number, row in enumerate(tiny.rows(6, seed=5))
]


def write(folder: Path) -> Path:
    """`base` (random), `tuned` (it knows the rows by heart), `rows.json` and `questions.jsonl`."""
    tiny.write_model(folder / "base", hidden=64)
    quantized.tune(folder / "tuned", count=24)
    tiny.write_rows(folder / "rows.json", 24, seed=5)
    lines = (json.dumps(question, ensure_ascii=False) for question in QUESTIONS)
    (folder / "questions.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return folder


def model(folder: str, **settings: Any) -> dict[str, Any]:
    """The model in that folder, of the same name."""
    return {"name": folder, "model": {"uri": folder}, "template": "HumanAssistant", **settings}


def job(*models: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """An EvaluationJob over rows and questions; ``spec`` adds to it and overrides it, and None takes a part away."""
    whole = merged(
        {
            "models": list(models) or [model("base"), model("tuned")],
            "dataset": {"validation": [{"uri": "rows.json"}], "sequenceLength": 128},
            "prompts": {"file": {"uri": "questions.jsonl"}},
            "generation": {"maxNewTokens": 64, "batchSize": 4},
            "output": {"uri": "out"},
        },
        spec,
    )
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "EvaluationJob",
        "metadata": {"name": "compare"},
        "spec": {key: value for key, value in whole.items() if value is not None},
    }


def write_task(folder: Path, **changes: Any) -> None:
    """A task in lm-evaluation-harness's own format: what somebody likes, out of two."""
    folder.mkdir()
    rows = [{"question": row["question"], "good": row["reference"], "bad": row["reference"][::-1]} for row in QUESTIONS]
    (folder / "likes.jsonl").write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    settings = {
        "task": "likes",
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"validation": "likes.jsonl"}},
        "validation_split": "validation",
        "output_type": "multiple_choice",
        "doc_to_text": "Human: {{question}}\nAssistant:",
        "doc_to_choice": "{{[good, bad]}}",
        "doc_to_target": 0,
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
        **changes,
    }
    (folder / "likes.yaml").write_text(json.dumps(settings, ensure_ascii=False), encoding="utf-8")
