"""What others say of children, and tell nobody: read by namespace, at growing intervals, and only while somebody waits."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from alpaca_operator.cluster.objects import Object
from alpaca_operator.cluster.queue import Queue
from alpaca_operator.cluster.store import Key
from alpaca_operator.errors import ApiError, Unreachable
from alpaca_operator.polling.schedule import ReadBudget, Schedule, poll

T = TypeVar("T")

FIRST_SECONDS = 3.0
"""A controller has done its part well within this, unless it is hindered."""
LONGEST_SECONDS = 60.0

log = logging.getLogger(__name__)


@dataclass
class Lookout(Generic[T]):
    """Resources that wait, by the UID of the child that is asked about, and what was found out of each."""

    schedule: Schedule[str] = field(default_factory=Schedule)
    """Namespaces."""
    _asked: dict[str, dict[str, Key]] = field(default_factory=dict)
    _children: dict[str, Object] = field(default_factory=dict)
    _uids: dict[Key, str] = field(default_factory=dict)
    _pauses: dict[str, float] = field(default_factory=dict)
    _found: dict[Key, T] = field(default_factory=dict)

    def watch_for(self, key: Key, child: Object | None) -> None:
        """Takes up a resource whose ``child`` waits, and lets go of one of which None does."""
        uid = child["metadata"]["uid"] if child is not None else None
        if child is not None and self._uids.get(key) == uid:
            self._children[str(uid)] = child
            return
        self.forget(key)
        if child is not None:
            self._uids[key] = str(uid)
            self._children[str(uid)] = child
            self._asked.setdefault(key.namespace, {})[str(uid)] = key
            self._pauses[key.namespace] = FIRST_SECONDS
            self.schedule.set_sooner(key.namespace, FIRST_SECONDS)

    def forget(self, key: Key) -> None:
        self._found.pop(key, None)
        asked, uid = self._asked.get(key.namespace, {}), self._uids.pop(key, "")
        asked.pop(uid, None)
        self._children.pop(uid, None)
        if not asked:
            self._asked.pop(key.namespace, None)
            self._pauses.pop(key.namespace, None)
            self.schedule.remove(key.namespace)

    def found(self, key: Key) -> T | None:
        return self._found.get(key)

    def asked(self, namespace: str) -> dict[str, Key]:
        """By the child's UID."""
        return self._asked.get(namespace, {})

    def child(self, uid: str) -> Object:
        """As it was last seen."""
        return self._children[uid]

    def take(self, namespace: str, found: Mapping[str, T]) -> list[Key]:
        """What was found, by the child's UID; the resources for which that is news."""
        known = {key: found[uid] for uid, key in self.asked(namespace).items() if uid in found}
        news = [key for key, one in known.items() if self._found.get(key) != one]
        self._found |= known
        return news

    def pause(self, namespace: str) -> float | None:
        """Until it is worth reading again; None when nobody waits any more."""
        if namespace not in self._asked:
            return None
        self._pauses[namespace] = min(self._pauses[namespace] * 2, LONGEST_SECONDS)
        return self._pauses[namespace]


@dataclass
class LookoutReader(ABC, Generic[T]):
    """Reads for a lookout. A resource of which something is found out goes into the queue."""

    queue: Queue[Key]
    lookout: Lookout[T]
    budget: ReadBudget

    async def run(self) -> None:
        """Until cancelled."""
        await poll(self.lookout.schedule, self.read)

    async def read(self, namespace: str) -> float | None:
        """The seconds after which to read the namespace again."""
        if not self.lookout.asked(namespace):
            return None
        try:
            async with self.budget.turn():
                found = await self.find(namespace)
            for key in self.lookout.take(namespace, found):
                self.queue.add(key)
        except (ApiError, Unreachable) as error:
            log.warning("%s of namespace %s cannot be read: %s", self.what, namespace, error)
        return self.lookout.pause(namespace)

    what = ""
    """What is read."""

    @abstractmethod
    async def find(self, namespace: str) -> Mapping[str, T]:
        """What there is to say of those who are asked about, by the child's UID. Raises ApiError, Unreachable."""
