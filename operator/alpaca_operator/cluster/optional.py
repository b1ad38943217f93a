"""Watches a kind that a cluster may not have, or not yet, or not any more: kopf, which watches all else, sees what is there when it starts."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.queue import Queue
from alpaca_operator.cluster.resources import ABSENT, APIResource
from alpaca_operator.cluster.store import Key, Store, key_of
from alpaca_operator.cluster.watches import MANAGED_SELECTOR, delay, wake
from alpaca_operator.errors import ApiError, Unreachable
from alpaca_operator.settings import Settings

log = logging.getLogger(__name__)

PAUSE_SECONDS = 5.0
"""Between two looks whether the kind has come, or the server is back."""


@dataclass
class OptionalWatch:
    """Of children of one kind. When the kind comes, everybody who may wait for it is looked at."""

    api: APIResource
    settings: Settings
    kube: Kube
    store: Store
    queue: Queue[Key]
    pause_seconds: float = PAUSE_SECONDS
    _absent: set[str | None] = field(default_factory=set)
    """Namespaces, or None for all of them, in which the kind is not served."""

    async def run(self) -> None:
        """Until cancelled."""
        async with asyncio.TaskGroup() as group:
            for namespace in self.settings.namespaces or (None,):
                group.create_task(self._follow(namespace), name=f"watch of {self.api.plural}")

    async def _follow(self, namespace: str | None) -> None:
        while True:
            try:
                await self._remove_ghosts(namespace)
                self._notice_that_it_came(namespace)
                async for kind, obj in self.kube.watch(self.api, namespace, labels=MANAGED_SELECTOR):
                    key = self.store.remove(obj) if kind == "DELETED" else self.store.put(obj)
                    wake(key, self.store, self.queue, after=delay(obj))
            except ApiError as error:
                if error.status in ABSENT:
                    self._notice_that_it_is_absent(namespace)
                else:
                    log.warning("the watch of %s ended: %s", self.api.plural, error)
            except Unreachable as error:
                log.warning("the watch of %s ended: %s", self.api.plural, error)
            await asyncio.sleep(self.pause_seconds)

    async def _remove_ghosts(self, namespace: str | None) -> None:
        """What was deleted while nobody watched."""
        _, found = await self.kube.snapshot(self.api, namespace, labels=MANAGED_SELECTOR, metadata_only=True)
        listed = {key_of(obj) for obj in found}
        for key in self.store.keys(self.api.kind):
            if namespace in (None, key.namespace) and key not in listed and (ghost := self.store.raw(key)):
                # One that was made since is not on the list, and is no ghost.
                live = await self.kube.reread(ghost)
                wake(self.store.remove(ghost) if live is None else self.store.put(live), self.store, self.queue)

    def _notice_that_it_came(self, namespace: str | None) -> None:
        if namespace not in self._absent:
            return
        self._absent.discard(namespace)
        log.info("the cluster has %s now", self.api.plural)
        for key in self.store.resources():
            self.queue.add(key)

    def _notice_that_it_is_absent(self, namespace: str | None) -> None:
        """Where the kind was removed, its objects are gone with it."""
        self._absent.add(namespace)
        for key in self.store.keys(self.api.kind):
            if namespace in (None, key.namespace) and (gone := self.store.raw(key)):
                wake(self.store.remove(gone), self.store, self.queue)
