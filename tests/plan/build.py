"""Resources that show only what matters to the case."""

from __future__ import annotations

from typing import Any

from alpaca_operator.api import SFTJob
from alpaca_operator.settings import Settings

SETTINGS = Settings(images={"SFTJob": "registry.example/sft:1"})


def sft_job(*, metadata: dict[str, Any] | None = None, **spec: Any) -> SFTJob:
    return SFTJob.model_validate(
        {
            "apiVersion": "literary-alpaca.io/v1alpha1",
            "kind": "SFTJob",
            "metadata": {"name": "poet", "namespace": "poetry", "uid": "uid-poet", **(metadata or {})},
            "spec": {
                "model": {"uri": "pvc://models/base"},
                "dataset": {"train": [{"uri": "pvc://data/poems.jsonl"}]},
                "output": {"uri": "pvc://models/poet"},
                **spec,
            },
        }
    )
