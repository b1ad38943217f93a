"""What Kueue says of children that wait in its queues: in a Workload of its own, which is nobody's event for us."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from alpaca_operator.api.contract import KUEUE_PREFIX
from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.objects import Object, condition
from alpaca_operator.cluster.resources import ABSENT, APIResource
from alpaca_operator.cluster.store import Key
from alpaca_operator.diagnosis.text import one_line
from alpaca_operator.errors import ApiError
from alpaca_operator.outcomes.observed import QueueWords
from alpaca_operator.polling.lookout import Lookout, LookoutReader

WORKLOADS = APIResource("kueue.x-k8s.io", "v1beta2", "workloads", "Workload")
LABEL_JOB = f"{KUEUE_PREFIX}job-uid"
LABEL_QUEUE = f"{KUEUE_PREFIX}queue-name"
VISIBILITY = "/apis/visibility.kueue.x-k8s.io/v1beta2/namespaces/{namespace}/localqueues/{queue}/pendingworkloads"
"""Who waits, in order. An aggregated API, which an administrator may have left out."""
NOT_THERE = (*ABSENT, 503)
"""How the API server answers where it is left out, or Kueue is down."""


class InQueues(Lookout[QueueWords]):
    """Resources whose child is suspended and names a queue."""

    def look(self, key: Key, child: Object | None) -> None:
        """Takes up a resource that waits in a queue, and lets go of one that does not."""
        self.watch_for(key, child if child is not None and _is_held_by_a_queue(child) else None)


@dataclass
class WorkloadReader(LookoutReader[QueueWords]):
    """Reads what Kueue says."""

    kube: Kube

    what = "Kueue's Workloads"

    async def find(self, namespace: str) -> dict[str, QueueWords]:
        asked = list(self.lookout.asked(namespace))
        try:
            labels = f"{LABEL_JOB} in ({','.join(asked)})"
            workloads = [one async for one in self.kube.list(WORKLOADS, namespace, labels=labels)]
        except ApiError as error:
            if error.status in ABSENT:
                return {}
            raise
        by_child = {one["metadata"]["labels"][LABEL_JOB]: one for one in workloads}
        queues = {uid: self.lookout.child(uid)["metadata"]["labels"][LABEL_QUEUE] for uid in asked}
        places: dict[str, int] = {}
        for queue in sorted(set(queues.values())):
            places |= await self._places(namespace, queue)
        return {uid: _words(by_child.get(uid), places) for uid in asked}

    async def _places(self, namespace: str, queue: str) -> dict[str, int]:
        """Of workloads in a queue, by name, from 1."""
        try:
            found = await self.kube.read(VISIBILITY.format(namespace=namespace, queue=queue)) or {}
        except ApiError as error:
            if error.status in NOT_THERE:
                return {}
            raise
        items: Iterable[Any] = found.get("items") or ()
        return {one["metadata"]["name"]: int(one["positionInLocalQueue"]) + 1 for one in items}


def _words(workload: Object | None, places: dict[str, int]) -> QueueWords:
    if workload is None:
        return QueueWords(known=False)
    evicted, reserved = condition(workload, "Evicted"), condition(workload, "QuotaReserved")
    waiting = reserved.message if reserved.status == "False" else ""
    checks = (workload.get("status") or {}).get("admissionChecks") or ()
    unchecked = "; ".join(
        f"{one['name']}: {one.get('message') or one['state']}" for one in checks if one["state"] != "Ready"
    )
    return QueueWords(
        why=one_line(waiting or unchecked),
        evicted=one_line(evicted.message) if evicted.is_true else "",
        place=places.get(workload["metadata"]["name"]),
    )


def _is_held_by_a_queue(child: Object) -> bool:
    labels = child["metadata"].get("labels") or {}
    return bool(
        child["spec"].get("suspend") and labels.get(LABEL_QUEUE) and "deletionTimestamp" not in child["metadata"]
    )
