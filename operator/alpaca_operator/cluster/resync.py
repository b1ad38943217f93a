"""Holds what the operator knows against what exists: once in full at the start, then every few minutes by metadata alone.

A watch can miss things: objects deleted during a gap stay as ghosts, and a watch that has died silently brings nothing more. What
is found missing is put right here; a watch that misses something twice in a row makes /healthz fail, and the process starts afresh.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from alpaca_operator import metrics
from alpaca_operator.api import KINDS
from alpaca_operator.cluster.kube import OPTIONAL, WATCHED, APIResource, Kube
from alpaca_operator.cluster.objects import Object
from alpaca_operator.cluster.queue import Queue
from alpaca_operator.cluster.store import Key, Store, key_of, version
from alpaca_operator.cluster.watches import MANAGED_SELECTOR
from alpaca_operator.errors import ApiError, Unreachable
from alpaca_operator.settings import Settings

log = logging.getLogger(__name__)

CATCH_UP_SECONDS = 5.0
"""What a watch may lag behind a LIST before it counts as having missed something."""
ABSENT = (403, 404)
"""How the API server answers for a kind that it does not have, or that we may not read: an older role may lack it."""
STALLED_AFTER = 2
"""Passes in a row in which the same watch missed something."""


@dataclass
class Resync:
    """``sick`` names the watches that no longer bring what happens."""

    settings: Settings
    kube: Kube
    store: Store
    queue: Queue[Key]
    catch_up_seconds: float = CATCH_UP_SECONDS
    _missed: dict[str, int] = field(default_factory=dict)

    @property
    def stalled(self) -> list[str]:
        return sorted(kind for kind, times in self._missed.items() if times >= STALLED_AFTER)

    async def list_all(self) -> None:
        """Reads everything, so that the first reconcile of a resource sees the child it has."""
        for api in (*WATCHED.values(), *OPTIONAL):
            for namespace in self.settings.namespaces or (None,):
                try:
                    async for obj in self.kube.list(api, namespace, labels=_labels(api)):
                        self._enqueue(self.store.put(obj))
                except ApiError as error:
                    if api not in OPTIONAL or error.status not in ABSENT:
                        raise

    async def run(self) -> None:
        """Until cancelled. A pass that fails is left out: the next one finds the same."""
        while True:
            await asyncio.sleep(self.settings.resync_seconds)
            try:
                await self.check_all()
            except (ApiError, Unreachable) as error:
                log.warning("resync left out: %s", error)

    async def check_all(self) -> None:
        for api in WATCHED.values():
            repaired = [await self._check(api, namespace) for namespace in self.settings.namespaces or (None,)]
            self._missed[api.kind] = self._missed.get(api.kind, 0) + 1 if any(repaired) else 0
        for api in OPTIONAL:  # without a watch: what others do to it is found here, and makes nobody sick
            for namespace in self.settings.namespaces or (None,):
                try:
                    await self._check(api, namespace)
                except ApiError as error:
                    if error.status not in ABSENT:
                        raise
        if self.stalled:
            log.error("the watches of %s have missed changes in %d passes: /healthz fails", self.stalled, STALLED_AFTER)

    async def _check(self, api: APIResource, namespace: str | None) -> int:
        """How much the watch of ``api`` had missed. Ghosts are judged only if they were known before the LIST began."""
        before = {
            key: version(self._raw(key)) for key in self.store.keys(api.kind) if namespace in (None, key.namespace)
        }
        listed = {
            key_of(obj): obj async for obj in self.kube.list(api, namespace, labels=_labels(api), metadata_only=True)
        }
        if not (self._stale(listed) or before.keys() - listed.keys()):
            return 0
        await asyncio.sleep(self.catch_up_seconds)
        ghosts = [
            known
            for key in before.keys() - listed.keys()
            if (known := self.store.raw(key)) and version(known) == before[key]
        ]
        for ghost in ghosts:
            metrics.RESYNC_REPAIRS.labels(api.kind, "ghost").inc()
            self._enqueue(self.store.remove(ghost))
        behind = self._stale(listed)
        repaired = 0
        for key in behind:
            obj = await self.kube.get(api, key.namespace, key.name)
            if obj is not None and (resource := self.store.put(obj)) is not None:
                metrics.RESYNC_REPAIRS.labels(api.kind, "missed").inc()
                repaired += 1
                self._enqueue(resource)
        if ghosts or repaired:
            log.warning("resync: %s: %d ghosts removed, %d missed changes read", api.kind, len(ghosts), repaired)
        return len(ghosts) + repaired

    def _stale(self, listed: dict[Key, Object]) -> list[Key]:
        return [
            key
            for key, obj in listed.items()
            if not self.store.is_deleted(obj)
            and ((known := self.store.raw(key)) is None or version(known) < version(obj))
        ]

    def _raw(self, key: Key) -> Object:
        found = self.store.raw(key)
        assert found is not None  # keys() lists what raw() has, and nothing waits in between
        return found

    def _enqueue(self, key: Key | None) -> None:
        if key is not None:
            self.queue.add(key)
            for consumer in self.store.consumers(key):
                self.queue.add(consumer)


def _labels(api: APIResource) -> str:
    return "" if api.kind in KINDS else MANAGED_SELECTOR
