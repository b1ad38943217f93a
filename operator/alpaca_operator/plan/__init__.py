"""Pure: (resource, inputs, settings) -> Plan. One planner per kind; what kinds share lies in pod.py, job.py and volumes.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from alpaca_operator.inputs import Inputs
from alpaca_operator.plan import chat, evaluation, merge, pretrain, quantize, sft, tokenizer
from alpaca_operator.plan.base import Manifest, Plan
from alpaca_operator.settings import Settings

PLANNERS: dict[str, Callable[[Any, Inputs, Settings], Plan]] = {
    "TokenizerJob": tokenizer.plan,
    "PretrainJob": pretrain.plan,
    "SFTJob": sft.plan,
    "MergeJob": merge.plan,
    "QuantizeJob": quantize.plan,
    "EvaluationJob": evaluation.plan,
    "ChatDeployment": chat.plan,
}
"""The inputs are those that other jobs make: every ``from`` of the resource."""

__all__ = ["PLANNERS", "Inputs", "Manifest", "Plan"]
