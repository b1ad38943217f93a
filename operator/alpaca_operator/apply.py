"""The only writer: of children, and of the status that tells about them."""

from __future__ import annotations

import logging
from typing import Any

from alpaca_operator import diagnosis, events, status
from alpaca_operator.api import KINDS, Resource
from alpaca_operator.diagnosis import Refusal
from alpaca_operator.errors import ApiError
from alpaca_operator.kube import APIS, RESOURCES
from alpaca_operator.plan import Manifest, Plan
from alpaca_operator.plan.job import ENDING, drift
from alpaca_operator.queue import Again
from alpaca_operator.status import Change
from alpaca_operator.store import Key, Object, key_of
from alpaca_operator.world import World, key_for

log = logging.getLogger(__name__)


async def converge(resource: Resource, plan: Plan, world: World) -> Refusal | None:
    """Makes what is missing. The first refusal ends it, and is returned: the status has to tell."""
    for manifest in plan.manifests:
        if refusal := await _exist(resource, manifest, world):
            return refusal
    return None


async def end(child: Object, world: World) -> None:
    """Stops a child for good; its pods get their grace period, and stay for their logs."""
    if drift(ENDING, child):
        world.store.put(await world.kube.merge(APIS[child["kind"]], child, ENDING))


async def remove(child: Object, world: World) -> None:
    """Deletes a child; its pods get their grace period to save a checkpoint, and it stays visible until they are gone."""
    if "deletionTimestamp" in child["metadata"]:
        return
    left = await world.kube.delete(APIS[child["kind"]], child)
    if left is None:
        world.store.remove(child)
    elif left.get("kind") == child["kind"]:
        world.store.put(left)


async def report(resource: Resource, after: dict[str, Any], world: World) -> Again:
    """Writes the status if it tells anything new, and then the Event that goes with it."""
    key = key_for(resource)
    current = world.store.raw(key)
    if current is None:
        return Again.never
    before = current.get("status") or {}
    change = status.change(before, after)
    if change is Change.NOTHING:
        return Again.never
    if change is Change.PROGRESS and (wait := world.budget.ask(key)):
        return Again(after=wait)
    world.store.put(await world.kube.put_status(RESOURCES[key.kind], current, after))
    if change is Change.TRANSITION:
        world.wake_consumers(key)
    if note := events.worth_telling(before, after):
        await events.record(world.kube, world.settings.identity, resource, note)
    _log_transition(key, before, after)
    return Again.never


async def _exist(resource: Resource, manifest: Manifest, world: World) -> Refusal | None:
    """Children are made once and never updated: queueing systems and the Job controller write to them. ``drift`` is the exception."""
    api, live = APIS[manifest["kind"]], world.store.raw(key_of(manifest))
    if live is None or not _is_ours(live, resource):
        try:
            world.store.put(await world.kube.create(api, manifest))
            return None
        except ApiError as error:
            if error.reason != "AlreadyExists":
                return _refused(error)
            metadata = manifest["metadata"]
            live = await world.kube.get(api, metadata["namespace"], metadata["name"])
            ours = live is not None and _is_ours(live, resource)
            if live is None or (not ours and _is_predecessors(live)):
                raise  # it is gone in a moment
            if not ours:
                return _refused(error)
            world.store.put(live)
    if "deletionTimestamp" not in live["metadata"] and (patch := drift(manifest, live)):
        world.store.put(await world.kube.merge(api, live, patch))
    return None


def _is_ours(child: Object, resource: Resource) -> bool:
    owners = child["metadata"].get("ownerReferences") or ()
    return any(owner.get("controller") and owner["uid"] == resource.metadata.uid for owner in owners)


def _is_predecessors(child: Object) -> bool:
    """The child of a deleted resource that had the same name: the garbage collector is about to delete it."""
    owners = child["metadata"].get("ownerReferences") or ()
    return any(owner.get("controller") and owner["kind"] in KINDS for owner in owners)


def _refused(error: ApiError) -> Refusal:
    """The refusal, if the API server's answer is one; what passes by itself is raised again."""
    refusal = diagnosis.refusal(error.status, error.message)
    if refusal is None:
        raise error
    return refusal


def _log_transition(key: Key, before: dict[str, Any], after: dict[str, Any]) -> None:
    was, now = events.ready(before), events.ready(after)
    if now and now.get("reason") != was.get("reason"):
        log.info("%s: %s: %s", key, now["reason"], now.get("message"), extra={"reason": now["reason"]})
