"""Pure: (resource, inputs, settings, observed) -> Plan. A planner for each kind; what they share lies in pod.py, job.py, jobset.py and volumes.py."""

from __future__ import annotations

from collections.abc import Callable

from alpaca_operator.inputs import Inputs
from alpaca_operator.plan import chat
from alpaca_operator.plan.base import Manifest, Plan
from alpaca_operator.plan.job import plan_job
from alpaca_operator.plan.jobset import plan_nodes

PLANNERS: dict[str, Callable[..., Plan]] = {
    "DatasetJob": plan_job,  # cleans text, on CPUs
    "TokenizerJob": plan_job,  # trains a vocabulary, on CPUs
    "PretrainJob": plan_nodes,  # trains
    "SFTJob": plan_nodes,  # trains
    "MergeJob": plan_job,  # merges, on CPUs
    "QuantizeJob": plan_job,  # quantizes, on a GPU or on CPUs
    "EvaluationJob": plan_job,  # measures models, one after the other
    "ChatDeployment": chat.plan,
}
"""The inputs are those that other jobs make: every ``from`` of the resource. What is observed is read where children follow it: a job's are made
once."""

__all__ = ["PLANNERS", "Inputs", "Manifest", "Plan"]
