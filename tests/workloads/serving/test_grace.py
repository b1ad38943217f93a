"""What a container that stops takes of its pod's grace period: its preStop, as planned, and then its answers."""

from __future__ import annotations

import pytest

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.plan.containers import draining
from tests.workloads.engine_process import manifest
from workloads.serving.grace import seconds_left


@pytest.mark.parametrize(("grace", "left"), [(600, 535.5), (30, 22.5), (10, 4.5), (5, 0.9), (1, 0.9)])
def test_what_is_left_ends_before_the_grace_period_does(grace: int, left: float) -> None:
    job = ChatDeployment.model_validate(manifest(pod={"terminationGracePeriodSeconds": grace}))
    assert seconds_left(job, in_pod=True) == pytest.approx(left)
    assert draining(job.spec)["preStop"]["sleep"]["seconds"] + left < grace


def test_on_ones_own_machine_nothing_is_gone_before() -> None:
    job = ChatDeployment.model_validate(manifest(pod={"terminationGracePeriodSeconds": 10}))
    assert seconds_left(job, in_pod=False) == pytest.approx(9)
