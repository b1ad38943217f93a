"""Resources that show only what matters to the case."""

from __future__ import annotations

from typing import Any

import pytest

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


ENDS = [
    pytest.param(64, False, "FailJob", id="a bad spec"),
    pytest.param(65, False, "FailJob", id="bad data"),
    pytest.param(66, False, "FailJob", id="a missing input"),
    pytest.param(71, False, "FailJob", id="out of memory"),
    pytest.param(72, False, "Count", id="hung"),
    pytest.param(70, False, "Count", id="an error of ours"),
    pytest.param(139, False, "Count", id="crashed"),
    pytest.param(137, False, "Ignore", id="killed: the operator knows who asked"),
    pytest.param(143, False, "Ignore", id="stopped before it could save"),
    pytest.param(75, False, "Ignore", id="stopped after saving"),
    pytest.param(143, True, "Ignore", id="drained"),
    pytest.param(1, True, "Ignore", id="drained, and failed on its way out"),
    pytest.param(65, True, "Ignore", id="drained in the middle of reading"),
]
"""How a pod ends, whether a disruption was told of it, and what the Job makes of that."""


def first_match(rules: list[dict[str, Any]], code: int, *, disrupted: bool) -> int | None:
    """Which rule of a podFailurePolicy the Job controller goes by."""
    for index, rule in enumerate(rules):
        if (disrupted and "onPodConditions" in rule) or code in rule.get("onExitCodes", {}).get("values", ()):
            return index
    return None
