"""Pure: how a container ended last that is started again and again."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.objects import Object
from alpaca_operator.diagnosis import diagnose
from alpaca_operator.diagnosis.model import Diagnosis


def crash(pod: Object, now: datetime) -> Diagnosis | None:
    """Of a pod whose containers are started again: how one that does not answer ended last. None where none has ended."""
    status = pod.get("status") or {}
    died = [
        {**container, "state": {"terminated": end}}
        for container in status.get("containerStatuses") or ()
        if not container.get("ready") and (end := _last_end(container))
    ]
    if not died:
        return None
    found = diagnose({**pod, "status": {**status, "phase": "Failed", "containerStatuses": died}}, now)
    if found is None or any(one["state"]["terminated"].get("exitCode") for one in died):
        return found
    message = (
        f"container {died[0]['name']} was stopped by its probes and started again: it had not loaded within startupTimeoutSeconds, or "
        f"answered no more (pod {found.pod})"
    )
    return replace(found, failure_class="Hung", reason=Reason.HUNG, message=message, exit_code=0)


def _last_end(container: Object) -> Object | None:
    states = (container.get("state") or {}, container.get("lastState") or {})
    return next((state["terminated"] for state in states if "terminated" in state), None)
