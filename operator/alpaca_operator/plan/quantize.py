"""QuantizeJob: one pod that quantizes, on a GPU or on CPUs."""

from __future__ import annotations

from alpaca_operator.api.base import Job
from alpaca_operator.inputs import Inputs
from alpaca_operator.plan.base import Plan
from alpaca_operator.plan.job import plan_one_pod
from alpaca_operator.settings import Settings


def plan(job: Job, inputs: Inputs, settings: Settings) -> Plan:
    return plan_one_pod(job, inputs, settings)
