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

    def latest(self, uid: str) -> tuple[Progress, datetime] | None:
        """Of a job, which has one pod at a time."""
        known = [(one, at) for one, at in self._scraped.get(uid, {}).values() if isinstance(one, Progress)]
        return max(known, key=lambda each: each[1], default=None)

    def samples(self, uid: str) -> list[tuple[Sample, datetime]]:
        """Of all pods of a deployment."""
        return [(one, at) for one, at in self._scraped.get(uid, {}).values() if isinstance(one, Sample)]

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
