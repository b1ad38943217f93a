"""Why Jobs have no pods: a quota, a policy, a webhook refuse them in an Event of the Job alone, which nobody watches.

Read at growing intervals, with one LIST for all Jobs of a namespace, and only while one of them has no pod.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from alpaca_operator.cluster.kube import EVENTS, Kube
from alpaca_operator.cluster.objects import Object, condition
from alpaca_operator.cluster.queue import Queue
from alpaca_operator.cluster.store import Key, is_newer, version
from alpaca_operator.diagnosis import refusals
from alpaca_operator.errors import ApiError, Unreachable
from alpaca_operator.exits import Exit
from alpaca_operator.polling.schedule import ReadBudget, Schedule, poll

log = logging.getLogger(__name__)

REPORTS_IN_EVENTS = {"Job": "FailedCreate", "JobSet": "JobCreationFailed"}
"""Children whose controller tells of a refused pod, or Job, in Events alone, and the reason of those; the others do in their status."""
FIRST_SECONDS = 3.0
"""A Job controller makes the first pod well within this, unless it is refused."""
LONGEST_SECONDS = 60.0
END_CONDITIONS = ("Complete", "Completed", "Failed", "Suspended", "FailureTarget", "SuccessCriteriaMet")


@dataclass
class WithoutPods:
    """Resources whose Job lacks pods, or whose JobSet has no Job, by its UID, and what was found out of each."""

    schedule: Schedule[str] = field(default_factory=Schedule)
    """Namespaces."""
    _jobs: dict[str, dict[str, Key]] = field(default_factory=dict)
    _kinds: dict[str, str] = field(default_factory=dict)
    """Of the children, by UID."""
    _uids: dict[Key, str] = field(default_factory=dict)
    _pauses: dict[str, float] = field(default_factory=dict)
    _refusals: dict[Key, Exit] = field(default_factory=dict)

    def look(self, key: Key, child: Object | None, has_pods: bool) -> None:
        """Takes up a resource that waits for its first pod, and lets go of one that does not."""
        uid = child["metadata"]["uid"] if child is not None and not has_pods and _waits_for_pods(child) else None
        if self._uids.get(key) == uid:
            return
        self.forget(key)
        if uid is not None:
            self._uids[key] = uid
            self._kinds[uid] = str(child["kind"]) if child else ""
            self._jobs.setdefault(key.namespace, {})[uid] = key
            self._pauses[key.namespace] = FIRST_SECONDS
            self.schedule.set_sooner(key.namespace, FIRST_SECONDS)

    def forget(self, key: Key) -> None:
        self._refusals.pop(key, None)
        jobs, uid = self._jobs.get(key.namespace, {}), self._uids.pop(key, "")
        jobs.pop(uid, None)
        self._kinds.pop(uid, None)
        if not jobs:
            self._jobs.pop(key.namespace, None)
            self._pauses.pop(key.namespace, None)
            self.schedule.remove(key.namespace)

    def refusal(self, key: Key) -> Exit | None:
        return self._refusals.get(key)

    def jobs(self, namespace: str) -> dict[str, Key]:
        """By the Job's UID."""
        return self._jobs.get(namespace, {})

    def kinds(self, namespace: str) -> set[str]:
        """Of those children."""
        return {self._kinds[uid] for uid in self.jobs(namespace)}

    def take(self, namespace: str, notes: dict[str, str]) -> list[Key]:
        """What the newest Event of each Job says, by UID; the resources for which that is news."""
        found = {key: refusals.exit_of_report(notes[uid]) for uid, key in self.jobs(namespace).items() if uid in notes}
        news = [key for key, refusal in found.items() if refusal is not None and self._refusals.get(key) != refusal]
        self._refusals |= {key: refusal for key, refusal in found.items() if refusal is not None}
        return news

    def pause(self, namespace: str) -> float | None:
        """Until it is worth reading again; None when nobody waits any more."""
        if namespace not in self._jobs:
            return None
        self._pauses[namespace] = min(self._pauses[namespace] * 2, LONGEST_SECONDS)
        return self._pauses[namespace]


@dataclass
class EventReader:
    """Reads for ``without_pods``. A resource of which something is found out goes into the queue."""

    kube: Kube
    queue: Queue[Key]
    without_pods: WithoutPods
    budget: ReadBudget

    async def run(self) -> None:
        """Until cancelled."""
        await poll(self.without_pods.schedule, self.read)

    async def read(self, namespace: str) -> float | None:
        """The seconds after which to read the namespace again."""
        if not self.without_pods.jobs(namespace):
            return None
        try:
            async with self.budget.turn():
                notes = await self._notes(namespace)
            for key in self.without_pods.take(namespace, notes):
                self.queue.add(key)
        except (ApiError, Unreachable) as error:
            log.warning("the Events of namespace %s cannot be read: %s", namespace, error)
        return self.without_pods.pause(namespace)

    async def _notes(self, namespace: str) -> dict[str, str]:
        newest: dict[str, Object] = {}
        for kind in self.without_pods.kinds(namespace):
            fields = f"regarding.kind={kind},reason={REPORTS_IN_EVENTS[kind]}"
            async for event in self.kube.list(EVENTS, namespace, fields=fields):
                uid = (event.get("regarding") or {}).get("uid", "")
                if uid not in newest or is_newer(version(event), version(newest[uid])):
                    newest[uid] = event
        return {uid: event.get("note") or "" for uid, event in newest.items()}


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
