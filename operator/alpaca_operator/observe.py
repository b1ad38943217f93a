"""All that a reconcile reads, gathered once: the child, its pods, the last progress, what other jobs made, the time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from typing import Protocol

from alpaca_operator.api import Resource
from alpaca_operator.api.contract import Progress
from alpaca_operator.api.resource import Job
from alpaca_operator.api.selectors import LabelSelector
from alpaca_operator.api.sources import JobReference
from alpaca_operator.cluster.objects import Object, Pod
from alpaca_operator.exits import Exit
from alpaca_operator.lifecycle import LIFECYCLES
from alpaca_operator.outcomes.observed import Observed, PageApart, Pusher, QueueWords, Sample, Scout


class World(Protocol):
    """What the store knows. Plain dicts, as the API server sent them; nothing here waits or reads over the network."""

    def now(self) -> datetime:
        """The time, in UTC."""

    def child(self, resource: Resource) -> Object | None:
        """The Job, JobSet or Deployment that the resource owns, by the UID of its owner; also while it is being deleted."""

    def jobs(self, child: Object) -> Sequence[Object]:
        """The Jobs that belong to the child."""

    def family(self, child: Object) -> frozenset[str]:
        """UIDs of all that belongs to the child, or did."""

    def other_children(self, resource: Resource) -> Sequence[Object]:
        """What the resource owns besides, but for its pods."""

    def pods(self, resource: Resource) -> Sequence[Object]:
        """Every pod labelled with the resource's UID: those in the cluster, and those deleted after they had ended, in
        their last state, until the resource's status has their end (an eviction ends and deletes a pod within milliseconds)."""

    def scout(self, resource: Resource) -> Scout | None:
        """What looks for room for more nodes; its pods are none of the resource's."""

    def pusher(self, resource: Resource) -> Pusher | None:
        """What pushes the output; its pods are none of the resource's."""

    def page(self, resource: Resource) -> PageApart | None:
        """The page, where it has pods of its own; these are none of the resource's."""

    def answers_foul(self, resource: Resource) -> bool:
        """Whether a running pod answers what no workload of this version does."""

    def progress(self, resource: Resource) -> tuple[Progress, datetime] | None:
        """What the running pod last told, and when it was read."""

    def traffic(self, resource: Resource) -> Sequence[tuple[Sample, datetime]]:
        """What each running pod of a deployment last told, and when it was read."""

    def refusal(self, resource: Resource) -> Exit | None:
        """Why the child has no pods, from the events of the Job controller; None when it has some, or nothing was said."""

    def queue_words(self, resource: Resource) -> QueueWords | None:
        """What Kueue says of the child, while it holds it."""

    def named(self, reference: JobReference, resource: Resource) -> Job | None:
        """The job that a ``from`` of the resource names."""

    def selected(self, labels: LabelSelector, resource: Resource) -> list[Job]:
        """The jobs in the resource's namespace that make adapters, and have these labels."""


def gather(resource: Resource, world: World) -> Observed:
    progress, read_at = world.progress(resource) or (None, None)
    pods = sorted(map(Pod, world.pods(resource)), key=lambda pod: pod.created_at)
    child = world.child(resource)
    lifecycle = LIFECYCLES[resource.kind]

    def find(reference: JobReference) -> Job | None:
        return world.named(reference, resource)

    def select(labels: LabelSelector) -> list[Job]:
        return world.selected(labels, resource)

    inputs = lifecycle.resolve_inputs(resource, child, find, select)
    return Observed(
        now=world.now(),
        child=child,
        jobs=tuple(world.jobs(child)) if child else (),
        family=world.family(child) if child else frozenset(),
        pods=tuple(pods),
        scout=world.scout(resource),
        pusher=world.pusher(resource),
        page=world.page(resource),
        gates=lifecycle.gates(resource, find),
        progress=progress,
        progress_at=read_at,
        answers_foul=world.answers_foul(resource),
        refusal=world.refusal(resource),
        queue=world.queue_words(resource),
        inputs=inputs.inputs,
        missing=inputs.missing,
        held=inputs.held,
        passed_over=inputs.passed_over,
        other_children=tuple(world.other_children(resource)),
        traffic=tuple(world.traffic(resource)),
    )


def children(observed: Observed, resource: Resource, world: World) -> Observed:
    """The same look, with the children as they are after what was just written."""
    child = world.child(resource)
    return replace(
        observed,
        child=child,
        jobs=tuple(world.jobs(child)) if child else (),
        family=world.family(child) if child else frozenset(),
        page=world.page(resource),
        other_children=tuple(world.other_children(resource)),
    )


__all__ = ["Observed", "World", "children", "gather"]
