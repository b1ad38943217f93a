"""Pure: how a container ended last that is started again and again."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.objects import Pod
from alpaca_operator.diagnosis import diagnose
from alpaca_operator.diagnosis.model import Diagnosis


def crash(pod: Pod, now: datetime) -> Diagnosis | None:
    """Of a pod whose containers are started again: how one that does not answer ended last. None where none has ended."""
    ended = pod.at_last_end()
    if ended is None:
        return None
    found = diagnose(ended, now)
    if found is None or any(one.exit_code for one in ended.terminated):
        return found
    message = (
        f"container {ended.containers[0].name} was stopped by its probes and started again: it had not loaded within startupTimeoutSeconds, "
        f"or answered no more (pod {found.pod})"
    )
    return replace(found, failure_class="Hung", reason=Reason.HUNG, message=message, exit_code=0)
