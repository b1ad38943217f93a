"""How long a container that was told to stop may go on answering."""

from __future__ import annotations

from alpaca_operator.api import contract
from alpaca_operator.api.chat import ChatDeployment
from workloads.system.signals import RESERVE


def seconds_left(job: ChatDeployment, in_pod: bool) -> float:
    """Of the grace period of ``job``, until which everything has to be over: in a pod a part of it was gone before anybody was told."""
    grace = job.spec.pod.termination_grace_period_seconds
    return (grace - (contract.drain_seconds(grace) if in_pod else 0)) * (1 - RESERVE)
