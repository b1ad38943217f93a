"""All that can wake the operator: events of our kinds, of their children, and of the pods. kopf watches; nothing is decided here."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import kopf

from alpaca_operator.api import KINDS
from alpaca_operator.api.contract import LABEL_INDEX, LABEL_MANAGED_BY, MANAGED_BY
from alpaca_operator.cluster.access import configuration
from alpaca_operator.cluster.kube import FIRST_PAGE
from alpaca_operator.cluster.objects import Object, controller_of
from alpaca_operator.cluster.queue import Queue
from alpaca_operator.cluster.resources import CHILDREN, WATCHED
from alpaca_operator.cluster.store import Key, Store
from alpaca_operator.errors import ApiError, Unreachable

MANAGED_SELECTOR = f"{LABEL_MANAGED_BY}={MANAGED_BY}"


TOGETHER_SECONDS = 1.5
"""In which of pods that work together the others follow, as a rule: they are looked at once, and not with each of them anew."""


Reread = Callable[[Object], Awaitable[Object | None]]
"""An object as it is now; None where it is gone."""


def registry(store: Store, queue: Queue[Key], reread: Reread) -> kopf.OperatorRegistry:
    """Event handlers only: kopf's other kinds keep their state in annotations, which is a write per resource and step."""
    handlers = kopf.OperatorRegistry()

    async def on_event(event: kopf.RawEvent, **_: Any) -> None:
        obj: Any = event["object"]
        key = await _take_the_end(obj, store, reread) if event["type"] == "DELETED" else store.put(obj)
        wake(key, store, queue, after=delay(obj))

    for api in WATCHED.values():
        kopf.on.event(api.group, api.version, api.plural, registry=handlers)(on_event)

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        """As our own client logs in; kopf asks again when a token has expired."""
        found = await configuration()
        header = await found.get_api_key_with_prefix("BearerToken", alias="authorization") or ""
        scheme, _space, token = header.rpartition(" ")
        return kopf.ConnectionInfo(
            server=found.host,
            ca_path=found.ssl_ca_cert,
            insecure=not found.verify_ssl,
            scheme=scheme or None,
            token=token or None,
            certificate_path=found.cert_file,
            private_key_path=found.key_file,
            proxy_url=found.proxy,
        )

    return handlers


def wake(key: Key | None, store: Store, queue: Queue[Key], after: float = 0.0) -> None:
    """Something became of a resource, or of what belongs to it."""
    if key is not None:
        if after:
            queue.add_after(key, after)
        else:
            queue.add(key, ahead=store.is_new(key))  # many at once: first a child for each, then what becomes of them
        for consumer in store.consumers(key):
            queue.add(consumer)


def delay(obj: Object) -> float:
    """Seconds until it is worth looking at what this belongs to: a pod that works with others, a set, or the Job of one, is soon followed."""
    owner = controller_of(obj)
    of_set = obj["kind"] == "JobSet" or (owner is not None and owner["kind"] == "JobSet")
    one_of_several = obj["kind"] == "Pod" and LABEL_INDEX in (obj["metadata"].get("labels") or {})
    return TOGETHER_SECONDS if of_set or one_of_several else 0.0


async def _take_the_end(obj: Any, store: Store, reread: Reread) -> Key | None:
    """A watch by labels says of an object whose labels were changed that it is deleted, with the labels that it had. What is deleted was told
    so before, as a rule; of anything else the API server is asked."""
    if "deletionTimestamp" not in obj["metadata"] and obj["kind"] not in KINDS:
        try:
            live = await reread(obj)
        except (ApiError, Unreachable):  # a resync asks again
            return None
        if live is not None:
            return store.put(live)
    return store.remove(obj)


def settings() -> kopf.OperatorSettings:
    """Each deviation from kopf's defaults, with its reason."""
    chosen = kopf.OperatorSettings()
    chosen.posting.enabled = False  # Events are ours, in events.py at the top: kopf's tell of handlers, not of jobs
    chosen.peering.standalone = True  # the Lease in leader.py decides who works
    chosen.scanning.disabled = (
        True  # __main__ waits for the CRDs; watching all CRDs of a cluster needs rights we do without
    )
    chosen.persistence.diffbase_storage = NoDiffs()
    chosen.persistence.progress_storage = NoProgress()
    chosen.process.ultimate_exiting_timeout = 12  # a stop that hangs must end before the kubelet ends it
    chosen.networking.error_backoffs = (
        1,
        1,
        2,
        3,
        *(5,) * 20,
    )  # kopf's own grow to 21 s, which an API server that is back waits
    chosen.watching.chunk_size = FIRST_PAGE  # it lists what it watches, and must not hold all of it at once
    chosen.queueing.idle_timeout = 0.2  # kopf keeps a task per object for this long after each event
    for api in CHILDREN:
        chosen.watching.label_selectors[api.group, api.version, api.plural] = (
            MANAGED_SELECTOR  # not every pod of the cluster
        )
    return chosen


class NoDiffs(kopf.DiffBaseStorage):
    """kopf copies and compares each object with its last state; a level-triggered reconcile reads no differences."""

    def build(self, *, body: Any, extra_fields: Any = None) -> kopf.BodyEssence:
        return kopf.BodyEssence({})

    def fetch(self, *, body: Any) -> None:
        return None

    def store(self, *, body: Any, patch: Any, essence: Any) -> None:
        return None


class NoProgress(kopf.ProgressStorage):
    """kopf would note in annotations which handlers are done; ours have nothing to remember."""

    def fetch(self, *, key: Any, body: Any) -> None:
        return None

    def store(self, *, key: Any, record: Any, body: Any, patch: Any) -> None:
        return None

    def purge(self, *, key: Any, body: Any, patch: Any) -> None:
        return None

    def touch(self, *, body: Any, patch: Any, value: Any) -> None:
        return None

    def clear(self, *, essence: Any) -> Any:
        return essence
