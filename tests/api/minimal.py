"""The smallest spec of every kind."""

from __future__ import annotations

from typing import Any

MINIMAL: dict[str, dict[str, Any]] = {
    "ChatDeployment": {
        "model": {"uri": "pvc://models/poet"},
    },
    "DatasetJob": {
        "sources": [{"uri": "pvc://data/raw"}],
        "output": {"uri": "pvc://data/corpus"},
    },
    "TokenizerJob": {
        "base": {"uri": "pvc://models/base"},
        "dataset": {"train": [{"uri": "pvc://data/corpus"}]},
        "output": {"uri": "pvc://models/vocabulary"},
    },
    "PretrainJob": {
        "model": {"uri": "pvc://models/base"},
        "dataset": {"train": [{"uri": "pvc://data/corpus"}]},
        "output": {"uri": "pvc://models/literate"},
    },
    "SFTJob": {
        "model": {"uri": "pvc://models/base"},
        "dataset": {"train": [{"uri": "pvc://data/poems.jsonl"}]},
        "output": {"uri": "pvc://models/poet"},
    },
    "MergeJob": {
        "model": {"uri": "pvc://models/base"},
        "adapters": [{"uri": "pvc://models/adapter"}],
        "output": {"uri": "pvc://models/merged"},
    },
    "QuantizeJob": {
        "model": {"uri": "pvc://models/merged"},
        "calibration": {"train": [{"uri": "pvc://data/poems.jsonl"}]},
        "output": {"uri": "pvc://models/small"},
    },
    "EvaluationJob": {
        "models": [{"name": "poet", "model": {"uri": "pvc://models/poet"}}],
        "prompts": {"preset": "zh"},
        "output": {"uri": "pvc://reports/poet"},
    },
}
