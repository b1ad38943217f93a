"""SFTJob: one pod that trains."""

from __future__ import annotations

from alpaca_operator.api import Resource
from alpaca_operator.plan import pod
from alpaca_operator.plan.base import Inputs, Plan
from alpaca_operator.plan.job import one_pod
from alpaca_operator.settings import Settings


def plan(job: Resource, inputs: Inputs, settings: Settings) -> Plan:
    if refusal := pod.unfit(job, settings):
        return Plan(refusal=refusal)
    return Plan((one_pod(job, pod.template(job, settings)),))
