"""What a reconcile has at hand. Built once, in ``__main__``; handed in everywhere, so that tests hand in their own."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from pydantic import ValidationError

from alpaca_operator.api import KINDS, Resource, tolerant
from alpaca_operator.api.contract import LABEL_UID, Progress
from alpaca_operator.api.resource import Job
from alpaca_operator.api.selectors import LabelSelector
from alpaca_operator.api.sources import JobReference
from alpaca_operator.cluster.budget import WriteBudget
from alpaca_operator.cluster.claims import Claims
from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.objects import Object, Pod, controller_of
from alpaca_operator.cluster.queue import Queue
from alpaca_operator.cluster.resources import ABSENT, APIS, JOB_SETS, OPTIONAL, PODS, RESOURCES, APIResource
from alpaca_operator.cluster.store import Key, Store, is_aside, is_of_page, is_pusher, is_scout
from alpaca_operator.errors import ApiError
from alpaca_operator.exits import Exit, Unavailable, Unreadable
from alpaca_operator.inputs import Inputs
from alpaca_operator.lifecycle import LIFECYCLES
from alpaca_operator.outcomes.observed import PageApart, Pusher, QueueWords, Sample, Scout
from alpaca_operator.plan.names import job_of_set
from alpaca_operator.polling.answers import ScrapeCache
from alpaca_operator.polling.events import WithoutPods
from alpaca_operator.polling.workloads import InQueues
from alpaca_operator.settings import Settings

log = logging.getLogger(__name__)

MAKES_PODS = frozenset({"Job", "JobSet", "Deployment"})
OUTAGE_SECONDS = 10.0
"""An API server that is restarted or has a new leader is back within this."""


Version = tuple[str | None, str | None, Inputs]
"""Of a resource and its child, and the inputs."""
What = Literal["child", "status"]
"""What is written."""


@dataclass
class Outages:
    """Since when the API server has not been available to a resource."""

    now: Callable[[], datetime]
    _since: dict[tuple[Key, What], tuple[Unavailable, datetime]] = field(default_factory=dict)

    def lasting(self, key: Key, what: What, exit: Unavailable) -> Unavailable | None:
        """What is to be told of it: nothing until it lasts, and then the same words however often it is tried, for each change would be a
        write."""
        first, since = self._since.setdefault((key, what), (exit, self.now()))
        return first if (self.now() - since).total_seconds() >= OUTAGE_SECONDS else None

    def over(self, key: Key, what: What) -> None:
        self._since.pop((key, what), None)

    def forget(self, key: Key) -> None:
        self.over(key, "child")
        self.over(key, "status")


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass
class World:
    """Reads for ``observe`` (none of them waits), and what ``apply`` writes with."""

    settings: Settings
    kube: Kube
    store: Store = field(default_factory=Store)
    queue: Queue[Key] = field(default_factory=lambda: Queue(tenant=lambda key: key.namespace))
    scrapes: ScrapeCache = field(default_factory=ScrapeCache)
    without_pods: WithoutPods = field(default_factory=WithoutPods)
    in_queues: InQueues = field(default_factory=InQueues)
    budget: WriteBudget = field(default_factory=lambda: WriteBudget(10, 15))
    now: Callable[[], datetime] = utc_now
    completions_recorded: dict[Key, str] = field(default_factory=dict)
    """UIDs of those whose end has got its Event by this operator."""
    outages: Outages = field(init=False)
    claims: Claims = field(init=False)
    applied: dict[Key, tuple[str, str]] = field(default_factory=dict)
    """Of children: what was applied last, and what became of it."""
    refused: dict[Key, str] = field(default_factory=dict)
    """Leases of other operators that work on a resource, of which an Event tells."""
    going: dict[Key, str | None] = field(default_factory=dict)
    """UIDs of those in whose namespace nothing is made any more."""
    strays: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    """Pods that say they are of a resource's child, when everything was read last, and of none that is known: that one is gone, and this
    operator has not seen it."""
    converged: dict[Key, Version] = field(default_factory=dict)
    """Of jobs: with what their children were as planned when they were looked at last."""
    scouts_refused: dict[Key, str] = field(default_factory=dict)
    """UIDs of children beside which nothing may look for room."""
    _unknown: dict[Key, tuple[tolerant.Path, ...]] = field(default_factory=dict)
    """Fields that were left out and told of."""

    def __post_init__(self) -> None:
        self.outages = Outages(lambda: self.now())
        self.claims = Claims(self.kube, self.settings)

    def resource(self, key: Key) -> Resource | None:
        """Raises Unreadable."""
        try:
            found, unknown = self.store.read(key)
        except ValidationError as error:
            raise Unreadable.of(error) from error
        if unknown and self._unknown.get(key) != unknown:
            self._unknown[key] = unknown
            fields = ", ".join(".".join(map(str, path)) for path in unknown)
            log.warning("%s: read without %s, which this operator does not know: its CRD is newer", key, fields)
        return found

    def child(self, resource: Resource) -> Object | None:
        children = self.store.children(resource)
        return next((one for one in children if one["kind"] in MAKES_PODS and not is_aside(one)), None)

    def jobs(self, child: Object) -> list[Object]:
        return self.store.of("Job", child)

    def family(self, child: Object) -> frozenset[str]:
        return self.store.family(child)

    def other_children(self, resource: Resource) -> list[Object]:
        return [one for one in self.store.children(resource) if one["kind"] not in MAKES_PODS]

    def pods(self, resource: Resource) -> list[Object]:
        return [pod for pod in self.store.pods(resource) if not is_aside(pod)]

    def scout(self, resource: Resource) -> Scout | None:
        found = next(filter(is_scout, self.store.children(resource)), None)
        return Scout(found, tuple(map(Pod, self.store.of("Pod", found)))) if found else None

    def pusher(self, resource: Resource) -> Pusher | None:
        found = next(filter(is_pusher, self.store.children(resource)), None)
        return Pusher(found, tuple(map(Pod, self.store.of("Pod", found)))) if found else None

    def page(self, resource: Resource) -> PageApart | None:
        there = (one for one in self.store.children(resource) if one["kind"] == "Deployment" and is_of_page(one))
        found = next((one for one in there if "deletionTimestamp" not in one["metadata"]), None)
        pods = tuple(Pod(pod) for pod in self.store.pods(resource) if is_of_page(pod))
        return PageApart(found, pods) if found else None

    def progress(self, resource: Resource) -> tuple[Progress, datetime] | None:
        return self.scrapes.latest(resource.metadata.uid or "")

    def answers_foul(self, resource: Resource) -> bool:
        return self.scrapes.is_foul(resource.metadata.uid or "")

    def traffic(self, resource: Resource) -> list[tuple[Sample, datetime]]:
        return self.scrapes.samples(resource.metadata.uid or "")

    def refusal(self, resource: Resource) -> Exit | None:
        return self.without_pods.found(key_for(resource))

    def queue_words(self, resource: Resource) -> QueueWords | None:
        return self.in_queues.found(key_for(resource))

    def version(self, resource: Resource, inputs: Inputs) -> Version:
        """What a job's plan, and whether its child follows it, depends on."""
        child = self.child(resource)
        return resource.metadata.resource_version, child["metadata"]["resourceVersion"] if child else None, inputs

    def expect(self, resource: Resource) -> None:
        """A child that lacks pods is asked about, beside the workers, of a JobSet its Job; and one that a queue holds."""
        self.in_queues.look(key_for(resource), self.child(resource))
        child, pods = self.child(resource), self.pods(resource)
        job = (
            next((one for one in self.jobs(child) if one["metadata"].get("deletionTimestamp") is None), child)
            if child
            else None
        )
        if job is not child:
            pods = self.store.of("Pod", job) if job else []
        self.without_pods.look(key_for(resource), job, len(pods) >= getattr(resource, "size", 1))

    def named(self, reference: JobReference, resource: Resource) -> Job | None:
        """Raises Unreadable."""
        found = self.resource(Key(reference.kind, resource.metadata.namespace or "", reference.name))
        return found if isinstance(found, Job) else None

    def selected(self, labels: LabelSelector, resource: Resource) -> list[Job]:
        """Without those that cannot be read: their own statuses say why."""
        found = []
        for key in self.store.selectable(resource.metadata.namespace or ""):
            raw = self.store.raw(key)
            if raw is None or not labels.holds(raw["metadata"].get("labels") or {}):
                continue
            with contextlib.suppress(Unreadable):
                job = self.resource(key)
                found += [job] if isinstance(job, Job) else []
        return found

    def enqueue_consumers(self, key: Key) -> None:
        """Something became of the resource: who waits for its output is looked at now, not when a watch tells."""
        for consumer in self.store.consumers(key):
            self.queue.add(consumer)

    def forget(self, key: Key) -> None:
        """The resource is gone."""
        self.outages.forget(key)
        self.refused.pop(key, None)
        self.going.pop(key, None)
        self.without_pods.forget(key)
        self.in_queues.forget(key)
        self.completions_recorded.pop(key, None)
        self.converged.pop(key, None)
        self.scouts_refused.pop(key, None)
        self._unknown.pop(key, None)
        self.strays.pop(key, None)
        self.budget.forget(key)

    async def refresh(self, key: Key) -> None:
        """Brings what is known of a resource, its children and its pods up to what the API server holds now."""
        known = self.store.raw(key)
        if known is None:
            return
        live = await self.kube.get(RESOURCES[key.kind], key.namespace, key.name)
        if live is None or live["metadata"]["uid"] != known["metadata"]["uid"]:
            self.store.remove(known)
            self.enqueue_consumers(key)
        if live is None:
            return
        if self.store.put(live):
            self.enqueue_consumers(key)
        uid = live["metadata"]["uid"]
        for api in (*(APIS[kind] for kind in self._kinds_of_children(key)), PODS):
            found = await self._labelled(api, key.namespace, uid)
            listed = {obj["metadata"]["uid"] for obj in found}
            for obj in self.store.owned(api.kind, uid):
                if obj["metadata"]["uid"] not in listed and (relabelled := await self.kube.reread(obj)):
                    found.append(relabelled)
            self.store.replace(api.kind, uid, found)
            if api is PODS:
                self.strays[key] = tuple(self._strays(key, uid, found))

    def _kinds_of_children(self, key: Key) -> list[str]:
        """Those that tell of the resource's pods: optional ones where it may have one."""
        several = getattr(self.resource(key), "nodes", 1) > 1
        unread = {api.kind for api in OPTIONAL} - ({JOB_SETS.kind} if several else set())
        return [kind for kind in LIFECYCLES[key.kind].children if kind not in unread]

    async def _labelled(self, api: APIResource, namespace: str, uid: str) -> list[Object]:
        try:
            return [obj async for obj in self.kube.list(api, namespace, labels=f"{LABEL_UID}={uid}")]
        except ApiError as error:
            if api in OPTIONAL and error.status in ABSENT:
                return []
            raise

    def _strays(self, key: Key, uid: str, found: list[Object]) -> Iterator[str]:
        known = {pod["metadata"]["uid"] for pod in self.store.owned("Pod", uid)}
        for pod in found:
            owner = controller_of(pod)
            child = f"{key.name}-{KINDS[key.kind].workload}"
            ours = owner is not None and owner.get("name") in (child, job_of_set(child))
            if ours and pod["metadata"]["uid"] not in known and not Pod(pod).is_over:
                yield pod["metadata"]["name"]


def key_for(resource: Resource) -> Key:
    return Key(resource.kind, resource.metadata.namespace or "", resource.metadata.name)
