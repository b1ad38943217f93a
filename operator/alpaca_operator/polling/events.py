"""Why Jobs have no pods: a quota, a policy, a webhook refuse them in an Event of the Job alone, which nobody watches.

Read with one LIST for all Jobs of a namespace, and only while one of them lacks pods.
"""

from __future__ import annotations

from dataclasses import dataclass

from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.objects import Object, condition
from alpaca_operator.cluster.resources import EVENTS
from alpaca_operator.cluster.store import Key, is_newer, version
from alpaca_operator.diagnosis import refusals
from alpaca_operator.exits import Exit
from alpaca_operator.polling.lookout import Lookout, LookoutReader

REPORTS_IN_EVENTS = {"Job": "FailedCreate", "JobSet": "JobCreationFailed"}
"""Children whose controller tells of a refused pod, or Job, in Events alone, and the reason of those; the others do in their status."""
END_CONDITIONS = ("Complete", "Completed", "Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet")


class WithoutPods(Lookout[Exit]):
    """Resources whose Job lacks pods, or whose JobSet has no Job."""

    def look(self, key: Key, child: Object | None, has_pods: bool) -> None:
        """Takes up a resource that waits for a pod, and lets go of one that does not."""
        self.watch_for(key, child if child is not None and not has_pods and _waits_for_pods(child) else None)


@dataclass
class EventReader(LookoutReader[Exit]):
    """Reads why pods are refused."""

    kube: Kube

    what = "the Events"

    async def find(self, namespace: str) -> dict[str, Exit]:
        newest: dict[str, Object] = {}
        for kind in sorted({self.lookout.child(uid)["kind"] for uid in self.lookout.asked(namespace)}):
            fields = f"regarding.kind={kind},reason={REPORTS_IN_EVENTS[kind]}"
            async for event in self.kube.list(EVENTS, namespace, fields=fields):
                uid = (event.get("regarding") or {}).get("uid", "")
                if uid not in newest or is_newer(version(event), version(newest[uid])):
                    newest[uid] = event
        told = {uid: refusals.exit_of_report(event.get("note") or "") for uid, event in newest.items()}
        return {uid: refusal for uid, refusal in told.items() if refusal is not None}


def _waits_for_pods(child: Object) -> bool:
    spec, status = child.get("spec") or {}, child.get("status") or {}
    return not (
        child["kind"] not in REPORTS_IN_EVENTS
        or "deletionTimestamp" in child["metadata"]
        or spec.get("suspend")
        or (status.get("active") or 0) >= spec.get("parallelism", 1)
        or status.get("succeeded")
        or any(condition(child, kind).is_true for kind in END_CONDITIONS)
    )
