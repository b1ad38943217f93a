"""What running pods last told."""

from __future__ import annotations

from datetime import datetime

from alpaca_operator.api.contract import Progress
from alpaca_operator.outcomes.observed import Sample

Scraped = Progress | Sample


class ScrapeCache:
    """What each resource's running pods last told, by the resource's UID and the pod's. A pod's last word is in its termination
    message, not here."""

    def __init__(self) -> None:
        self._scraped: dict[str, dict[str, tuple[Scraped, datetime]]] = {}
        self._foul: dict[str, set[str]] = {}
        """By the resource's UID those of its pods whose last answer was none that a workload gives."""

    def latest(self, uid: str) -> tuple[Progress, datetime] | None:
        """Of a job, which has one pod at a time."""
        known = [(one, at) for one, at in self._scraped.get(uid, {}).values() if isinstance(one, Progress)]
        return max(known, key=lambda each: each[1], default=None)

    def samples(self, uid: str) -> list[tuple[Sample, datetime]]:
        """Of all pods of a deployment."""
        return [(one, at) for one, at in self._scraped.get(uid, {}).values() if isinstance(one, Sample)]

    def is_foul(self, uid: str) -> bool:
        """Whether a pod of the resource answers, and not as a workload of this version does."""
        return bool(self._foul.get(uid))

    def put_foul(self, uid: str, pod: str, foul: bool) -> bool:
        """Whether it is news."""
        pods = self._foul.setdefault(uid, set())
        known = pod in pods
        (pods.add if foul else pods.discard)(pod)
        return known != foul

    def put(self, uid: str, pod: str, scraped: Scraped, at: datetime) -> bool:
        """Whether it is news."""
        pods = self._scraped.setdefault(uid, {})
        known = pods.get(pod)
        if known is not None and isinstance(scraped, Sample) and isinstance(known[0], Sample):
            scraped = scraped.after(known[0], (at - known[1]).total_seconds())
        pods[pod] = (scraped, at)
        return known is None or known[0] != scraped

    def retain(self, pods: set[str]) -> None:
        """Forgets pods that no longer run."""
        for uid, of_pods in list(self._scraped.items()):
            for pod in of_pods.keys() - pods:
                del of_pods[pod]
            if not of_pods:
                del self._scraped[uid]
        self._foul = {uid: left for uid, foul in self._foul.items() if (left := foul & pods)}
