"""Holds what the operator knows against what exists: once in full at the start, then every few minutes by metadata alone.

A watch can miss things: objects deleted during a gap stay as ghosts, and a watch that has died silently brings nothing more. What
is found missing is put right here; a watch that misses something twice in a row makes /healthz fail, and the process starts afresh.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from dataclasses import dataclass, field

from alpaca_operator import metrics
from alpaca_operator.api import KINDS
from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.objects import Object
from alpaca_operator.cluster.queue import Queue
from alpaca_operator.cluster.resources import ABSENT, OPTIONAL, WATCHED, APIResource
from alpaca_operator.cluster.store import Key, Store, is_newer, key_of, version
from alpaca_operator.cluster.watches import MANAGED_SELECTOR
from alpaca_operator.errors import ApiError, Rewound, Unreachable
from alpaca_operator.settings import Settings

log = logging.getLogger(__name__)

CATCH_UP_SECONDS = 5.0
"""What a watch may lag behind a LIST before it counts as having missed something."""
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
    _behind: dict[tuple[str, str | None], int] = field(default_factory=dict)

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
        """How much the watch of ``api`` had missed. What is newer than the LIST the LIST says nothing of."""
        before = {key: version(known) for key, known in self._known(api, namespace)}
        at, found = await self.kube.snapshot(api, namespace, labels=_labels(api), metadata_only=True)
        self._notice_rewind(api, namespace, at, list(before.values()))
        listed = {key_of(obj): obj for obj in found}

        def ghosts_now() -> list[Object]:
            absent = [(key, known) for key, known in self._known(api, namespace) if key not in listed]
            return [known for key, known in absent if _was_before(version(known), at, before.get(key))]

        if not (self._stale(listed) or ghosts_now()):
            return 0
        await asyncio.sleep(self.catch_up_seconds)
        ghosts = [ghost for ghost in ghosts_now() if not await self._was_relabelled(ghost)]
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

    async def _was_relabelled(self, absent: Object) -> bool:
        live = await self.kube.reread(absent)
        if live is not None:
            self._enqueue(self.store.put(live))
        return live is not None

    def _notice_rewind(self, api: APIResource, namespace: str | None, at: str, before: list[str]) -> None:
        """Raises Rewound. A LIST is of now: in two passes in a row behind what was read before it, the server has gone back."""
        ahead = [one for one in before if one.isdecimal() and at.isdecimal() and is_newer(one, at)]
        times = self._behind.get((api.kind, namespace), 0) + 1 if ahead else 0
        self._behind[api.kind, namespace] = times
        if times >= STALLED_AFTER:
            raise Rewound(
                f"the API server is at revision {at} of {api.plural}, and {max(ahead, key=int)} was read of it before: it was restored from "
                "an older state, and everything is read anew"
            )

    def _stale(self, listed: dict[Key, Object]) -> list[Key]:
        """What is missing here, or older than the LIST shows it."""
        return [
            key
            for key, obj in listed.items()
            if not self.store.is_deleted(obj)
            and ((known := self.store.raw(key)) is None or is_newer(version(obj), version(known)))
        ]

    def _known(self, api: APIResource, namespace: str | None) -> Iterator[tuple[Key, Object]]:
        for key in self.store.keys(api.kind):
            if namespace in (None, key.namespace) and (known := self.store.raw(key)):
                yield key, known

    def _enqueue(self, key: Key | None) -> None:
        if key is not None:
            self.queue.add(key)
            for consumer in self.store.consumers(key):
                self.queue.add(consumer)


def _labels(api: APIResource) -> str:
    return "" if api.kind in KINDS else MANAGED_SELECTOR


def _was_before(known: str, listed_at: str, before: str | None) -> bool:
    """Whether a state is one that the LIST would have shown. Where versions cannot be ordered: one that was known before it began."""
    if known.isdecimal() and listed_at.isdecimal():
        return not is_newer(known, listed_at)
    return known == before
