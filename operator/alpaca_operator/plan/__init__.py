"""Pure: (resource, inputs, settings) -> Plan. One planner per kind; what kinds share lies in pod.py, job.py and volumes.py."""

from __future__ import annotations

from collections.abc import Callable

from alpaca_operator.api import Resource
from alpaca_operator.plan import sft
from alpaca_operator.plan.base import Inputs, Manifest, Plan
from alpaca_operator.settings import Settings

PLANNERS: dict[str, Callable[[Resource, Inputs, Settings], Plan]] = {"SFTJob": sft.plan}

__all__ = ["PLANNERS", "Inputs", "Manifest", "Plan"]
