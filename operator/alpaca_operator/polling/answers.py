"""What running pods last told."""

from __future__ import annotations

from datetime import datetime

from alpaca_operator.api.contract import Progress
from alpaca_operator.outcomes.observed import Sample

Told = Progress | Sample


class Board:
    """What each resource's running pods last told, by the resource's UID and the pod's. A pod's last word is in its termination
    message, not here."""

    def __init__(self) -> None:
        self._told: dict[str, dict[str, tuple[Told, datetime]]] = {}

    def latest(self, uid: str) -> tuple[Progress, datetime] | None:
        """Of a job, which has one pod at a time."""
        known = [(one, at) for one, at in self._told.get(uid, {}).values() if isinstance(one, Progress)]
        return max(known, key=lambda each: each[1], default=None)

    def samples(self, uid: str) -> list[tuple[Sample, datetime]]:
        """Of all pods of a deployment."""
        return [(one, at) for one, at in self._told.get(uid, {}).values() if isinstance(one, Sample)]

    def put(self, uid: str, pod: str, news: Told, at: datetime) -> bool:
        """Whether it is news."""
        pods = self._told.setdefault(uid, {})
        known = pods.get(pod)
        if known is not None and isinstance(news, Sample) and isinstance(known[0], Sample):
            news = news.after(known[0], (at - known[1]).total_seconds())
        pods[pod] = (news, at)
        return known is None or known[0] != news

    def keep_only(self, pods: set[str]) -> None:
        """Forgets pods that no longer run."""
        for uid, of_pods in list(self._told.items()):
            for pod in of_pods.keys() - pods:
                del of_pods[pod]
            if not of_pods:
                del self._told[uid]
