"""The only writer: of children, and of the status that tells about them."""

from __future__ import annotations

import logging
from collections.abc import Awaitable
from typing import Any

from alpaca_operator import events
from alpaca_operator.api import KINDS, Resource
from alpaca_operator.api.resource import Job, ObjectMeta
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.claims import Other, claim_of
from alpaca_operator.cluster.objects import Object, Pod, controller_of
from alpaca_operator.cluster.queue import LONGEST_DELAY, RETRIED_LONGEST, Result
from alpaca_operator.cluster.resources import APIS, JOB_SETS, OPTIONAL, RESOURCES, ROUTES, APIResource
from alpaca_operator.cluster.store import Key, key_of
from alpaca_operator.diagnosis import refusals
from alpaca_operator.diagnosis.text import one_line
from alpaca_operator.errors import ApiError, Unreachable
from alpaca_operator.exits import Exit, Refused, Unavailable, Waiting
from alpaca_operator.inputs import Inputs
from alpaca_operator.jobs import publications
from alpaca_operator.lifecycle import LIFECYCLES
from alpaca_operator.outcomes import conditions
from alpaca_operator.outcomes.conditions import Change
from alpaca_operator.outcomes.observed import Observed
from alpaca_operator.plan import Manifest, Plan, keep
from alpaca_operator.plan.job import STOP_PATCH, STOP_POD_PATCH, drift
from alpaca_operator.plan.jobset import INSTALL
from alpaca_operator.plan.pusher import pusher
from alpaca_operator.plan.scout import scout
from alpaca_operator.world import World, key_for

CREATED_ONCE = frozenset({"Job", "JobSet", "NetworkPolicy"})
"""Children that queueing systems and their controllers write to, or whose plan never changes. All others are kept as they are planned."""

LEFT_ALONE_SECONDS = 30.0
"""Between two looks at who works on a resource of another operator."""

log = logging.getLogger(__name__)


async def other_operator(key: Key, world: World) -> Other | None:
    """Who else works on the resource. What another one has left behind is taken up, before anything else is written."""
    current = world.store.raw(key)
    if current is None:
        return None
    other = await world.claims.other(current)
    if other is None and claim_of(current) and not _has_ended(key, current):
        await _sign(key, world)
    return other


async def leave_alone(key: Key, other: Other, world: World) -> Result:
    """Nothing is written but one Event, which names both, of what has not come to its end yet."""
    current = world.store.raw(key)
    if current is not None and not _has_ended(key, current) and world.refused.get(key) != other.lease:
        world.refused[key] = other.lease
        plural = RESOURCES[key.kind].plural
        remedy = "stop one of the two, or give each namespaces of its own (ALPACA_NAMESPACES)"
        if not other.holder:
            remedy += (
                f"; if that one is gone for good: kubectl patch {plural} {key.name} -n {key.namespace} --subresource=status --type=json "
                """-p '[{"op": "remove", "path": "/status/operator"}]'"""
            )
        said = f"{other} works on it, and {world.claims.name} leaves it alone: {remedy}"
        log.error("%s: %s", key, said)
        note = events.Note("Warning", events.ANOTHER_OPERATOR, said)
        await events.record(world.kube, world.settings.identity, _unread(key, current), note, once=other.lease)
    return Result(LEFT_ALONE_SECONDS, outcome="another operator's")


async def _sign(key: Key, world: World) -> None:
    """The resource says that this operator works on it. Raises ApiError 409 where another was faster."""
    current = world.store.raw(key)
    if current is None or claim_of(current) == world.claims.own:
        return
    _keep_off(current, world)
    status = {**(current.get("status") or {}), "operator": world.claims.own}
    world.store.put(await world.kube.put_status(RESOURCES[key.kind], current, status))


def _has_ended(key: Key, current: Object) -> bool:
    return LIFECYCLES[key.kind].is_final(current.get("status") or {})


def _keep_off(current: Object, world: World) -> None:
    """What was read of the resource since it was looked at may name another operator."""
    if not world.claims.may_write(current):
        raise ApiError(409, "Conflict", f"the operator of Lease {claim_of(current)} has taken it up")


async def attempt(action: Awaitable[Exit | None], resource: Resource) -> Exit | None:
    """What the API server answers is an exit; raises ApiError for a write that crossed another, which is tried again at once."""
    try:
        return await action
    except (ApiError, Unreachable) as error:
        again = {} if resource.spec.fixed() else {"again": ""}
        found = refusals.exit_of(error, **again)
        if found is None:
            raise
        if isinstance(found, Unavailable):
            log.warning("%s: %s; tried again", key_for(resource), error)
        return found


async def converge(resource: Resource, plan: Plan, world: World, inputs: Inputs) -> Exit | None:
    """Makes what is missing, and mends and removes what is kept. What is refused is returned or raised, for the status has to tell; what
    is no longer wanted goes all the same. ``inputs``: what was planned with."""
    refusal: Exit | None = None
    refused: ApiError | None = None
    for manifest in plan.manifests:
        make = _create_once if manifest["kind"] in CREATED_ONCE else _apply
        try:
            refusal = await make(resource, manifest, world)
        except ApiError as error:
            if error.status == 409 or error.status >= 500:
                raise
            refused = error
        if refusal or refused:
            break
    planned = {key_of(manifest) for manifest in plan.manifests}
    for child in world.store.children(resource):
        if child["kind"] not in CREATED_ONCE and key_of(child) not in planned and _is_ours(child, resource):
            await remove(child, world)
    if refused is not None:
        raise refused
    made_once = all(manifest["kind"] in CREATED_ONCE for manifest in plan.manifests)
    if refusal is None and made_once and world.child(resource) is not None:
        # Until the resource, its child or its inputs are others there is nothing to plan: pods come and go more often.
        world.converged[key_for(resource)] = world.version(resource, inputs)
    return refusal


async def end(child: Object, world: World) -> None:
    """Stops a child for good; its pods get their grace period, and stay for their logs. A JobSet ends with its Job."""
    for job in world.jobs(child) or [child]:
        if job["kind"] == "Job" and drift(STOP_PATCH, job):
            await _merge(job, STOP_PATCH, world)


async def look_for_room(resource: Job, world: World) -> None:
    """Makes what looks for room for more nodes. Where it may not be made, the job does not grow, which is told once."""
    key, child = key_for(resource), world.child(resource)
    if child is None or world.scouts_refused.get(key) == child["metadata"]["uid"]:
        return
    try:
        await _create_once(resource, scout(resource, world.settings), world)
    except ApiError as error:
        if error.status == 409 or error.status >= 500:
            raise
        world.scouts_refused[key] = child["metadata"]["uid"]
        said = one_line(f"it is not seen whether there is room for more nodes, and it does not grow: {error}")
        log.warning("%s: %s", key, said)
        note = events.Note("Warning", events.SERVER_WARNING, said)
        await events.record(world.kube, world.settings.identity, resource, note, once=said)


async def push(resource: Job, observed: Observed, world: World) -> Exit | None:
    """Makes what pushes the output to every place that is due."""
    places = publications.due(resource, observed)
    return await _create_once(resource, pusher(resource, places, world.settings), world)


async def end_pod(pod: Pod, world: World) -> None:
    """Stops a pod for good; it stays for its logs."""
    await _merge(pod.raw, STOP_POD_PATCH, world)


async def retell(pod: Pod, patch: dict[str, Any], world: World) -> None:
    """A pod that runs is to know something else than it was made with."""
    await _merge(pod.raw, patch, world)


async def remove(child: Object, world: World) -> None:
    """Deletes a child; its pods get their grace period to save a checkpoint, and it stays visible until they are gone."""
    if "deletionTimestamp" in child["metadata"]:
        return
    remaining = await world.kube.delete(APIS[child["kind"]], child)
    if remaining is None:
        world.store.remove(child)
    elif remaining.get("kind") == child["kind"]:
        world.store.put(remaining)


async def update_status(resource: Resource, after: dict[str, Any], exit: Exit | None, world: World) -> Result:
    """Writes the status if it tells anything new, and then the Event that goes with it."""
    key = key_for(resource)
    current = world.store.raw(key)
    if current is None:
        return Result.never
    _keep_off(current, world)
    before, after = current.get("status") or {}, {**after, "operator": world.claims.own}
    change = conditions.change(before, after, LIFECYCLES[key.kind].status)
    if change is Change.NOTHING:
        if world.completions_recorded.get(key) != resource.metadata.uid and (
            note := events.of_completion(before, world.now())
        ):
            await _tell(resource, note, before, world)
        return Result.never
    if change is Change.PROGRESS and (wait := world.budget.ask(key)):
        return Result(requeue_after=wait)
    try:
        world.store.put(await world.kube.put_status(RESOURCES[key.kind], current, after))
    except (ApiError, Unreachable) as error:
        refusal = refusals.exit_of_status(error)
        if refusal is None:
            raise
        if isinstance(error, ApiError) and error.status == 404:
            await world.refresh(key)
        return await _tell_without_all(resource, after, refusal, world)
    world.outages.over(key, "status")
    if change is Change.TRANSITION:
        if "progress" not in after:  # the figures are then how many pods run, of which the next state tells as well
            world.budget.told(key)
        world.enqueue_consumers(key)
    of_state = events.of_outage(before, after, exit) or events.of_transition(before, after)
    for note in filter(None, (of_state, events.of_exposure(before, after), events.of_page(before, after))):
        await _tell(resource, note, after, world)
    if note := events.of_publication(before, after):
        await events.record(world.kube, world.settings.identity, resource, note, None)
    _log_transition(key, before, after)
    return Result.never


async def _tell_without_all(resource: Resource, after: dict[str, Any], exit: Exit, world: World) -> Result:
    """Of a status that is not taken: what matters of it, and why not all; where not even that, an Event."""
    key = key_for(resource)
    current = world.store.raw(key)
    if current is None or current["metadata"]["uid"] != resource.metadata.uid:
        return Result.never  # it is gone
    log.warning("%s: its status cannot be written: %s", key, exit.message)
    if isinstance(exit, Unavailable):
        await tell_by_event(key, exit, world)
        return Result(RETRIED_LONGEST, failed=True, not_before=exit.retry_after, outcome="unreachable")
    before = current.get("status") or {}
    least = conditions.essential(before, after, exit)
    try:
        if least != before:
            world.store.put(await world.kube.put_status(RESOURCES[key.kind], current, least))
            world.enqueue_consumers(key)
            if note := events.of_transition(before, least):
                await _tell(resource, note, least, world)
            _log_transition(key, before, least)
    except ApiError as error:
        if refusals.exit_of_status(error) is None:
            raise
        await tell_by_event(key, exit, world)
    return Result(LONGEST_DELAY, failed=True, outcome="refused")


async def tell_by_event(key: Key, exit: Exit, world: World) -> None:
    """Once, of what no status can tell; of what may pass, when it lasts."""
    lasting = world.outages.lasting(key, "status", exit) if isinstance(exit, Unavailable) else exit
    current = world.store.raw(key)
    if lasting is not None and current is not None:
        note = events.of_exit(lasting)
        await events.record(world.kube, world.settings.identity, _unread(key, current), note, once=lasting.message)


def _unread(key: Key, current: Object) -> Resource:
    """To be named by, without its spec, which may be unreadable."""
    names: dict[str, Any] = {"api_version": current["apiVersion"], "kind": key.kind}
    return KINDS[key.kind].model_construct(**names, metadata=ObjectMeta.model_validate(current["metadata"]))


async def report(key: Key, exit: Exit, world: World) -> None:
    """The status says so, as far as nothing else can be said of the resource, unless it has an end; that stands."""
    current, lifecycle = world.store.raw(key), LIFECYCLES[key.kind]
    if current is not None and not lifecycle.is_final(current.get("status") or {}):
        await update_status(
            _unread(key, current), conditions.of_unread(lifecycle.status, current, exit, world.now()), exit, world
        )


async def _tell(resource: Resource, note: events.Note, status: dict[str, Any], world: World) -> None:
    ended = status.get("completionTime")
    await events.record(world.kube, world.settings.identity, resource, note, ended)
    if ended:
        world.completions_recorded[key_for(resource)] = resource.metadata.uid or ""


async def _create_once(resource: Resource, manifest: Manifest, world: World) -> Exit | None:
    """Children are made once and never updated: queueing systems and the Job controller write to them. ``drift`` is the exception."""
    api, live = APIS[manifest["kind"]], world.store.raw(key_of(manifest))
    if live is None or not _is_ours(live, resource):
        warnings: list[str] = []
        try:
            world.store.put(await world.kube.create(api, manifest, warnings=warnings))
            await _pass_on(warnings, resource, manifest, world)
            return None
        except ApiError as error:
            if api in OPTIONAL and error.status == 404:
                return _not_installed(api)
            if error.reason != "AlreadyExists":
                raise
            metadata = manifest["metadata"]
            live = await world.kube.get(api, metadata["namespace"], metadata["name"])
            ours = live is not None and _is_ours(live, resource)
            if live is None or (not ours and _is_predecessors(live)):
                return _waits_for_the_name(manifest, live)
            if not ours:
                raise
            world.store.put(live)
    if "deletionTimestamp" not in live["metadata"] and (patch := drift(manifest, live)):
        await _merge(live, patch, world)
    return None


async def _merge(child: Object, patch: Object, world: World) -> None:
    try:
        world.store.put(await world.kube.merge(APIS[child["kind"]], child, patch))
    except ApiError as error:
        if error.status != 404:
            raise
        world.store.remove(child)  # deleted a moment ago: nothing is left to change


async def _apply(resource: Resource, manifest: Manifest, world: World) -> Exit | None:
    """Applied only where that changes something: nothing is written while nothing happens."""
    api, metadata, wanted = APIS[manifest["kind"]], manifest["metadata"], keep.with_digest(manifest)
    live = world.store.raw(key_of(manifest))
    if live is None or not _is_ours(live, resource):
        live = await world.kube.get(
            api, metadata["namespace"], metadata["name"]
        )  # applying would take it from whoever made it
        if live is not None and not _is_ours(live, resource):
            if _is_predecessors(live):
                return _waits_for_the_name(manifest, live)
            raise ApiError(409, "AlreadyExists", f'{api.plural} "{metadata["name"]}" already exists')
    if live is not None:
        if "deletionTimestamp" in live["metadata"]:
            return None
        wanted = keep.as_listed(keep.as_scaled(wanted, live), live)
        if keep.holds(wanted, live) or world.applied.get(key_of(manifest)) == keep.outcome(wanted, live):
            return None
    # Two that apply would do so in turns: of a Job, which is made once, its own name sees to that.
    await _sign(key_for(resource), world)
    warnings: list[str] = []
    try:
        answer = await world.kube.apply(api, wanted, warnings=warnings)
        # A policy may have changed what was asked for, and would do so again: applied once more it would be as it is.
        if not keep.holds(wanted, answer):
            world.applied[key_of(manifest)] = keep.outcome(wanted, answer)
        world.store.put(answer)
    except ApiError as error:
        if api in OPTIONAL and error.status == 404:
            return _not_installed(api)
        raise
    await _pass_on(warnings, resource, manifest, world)
    return None


NOT_INSTALLED = {
    ROUTES: (Reason.ROUTE_NOT_SUPPORTED, "install the Gateway API, or remove httpRoute"),
    JOB_SETS: (
        Reason.JOB_SET_NOT_INSTALLED,
        f"install JobSet, which runs jobs of several nodes ({INSTALL}), or set parallelism.nodes to 1 in a job of another name; with JobSet "
        "there it starts by itself",
    ),
}


def _not_installed(api: APIResource) -> Exit:
    reason, remedy = NOT_INSTALLED.get(api, (Reason.NOT_ACCEPTED, "the operator cannot do without"))
    return Refused(reason, f"the cluster has no {api.kind} of {api.group}/{api.version}: {remedy}")


async def _pass_on(warnings: list[str], resource: Resource, manifest: Manifest, world: World) -> None:
    """What the API server says of an object that it takes, once each: kubectl would have shown it to whoever had made the object."""
    for warning in dict.fromkeys(warnings):
        said = one_line(f"the API server says of {manifest['kind']} {manifest['metadata']['name']}: {warning}")
        log.warning("%s: %s", key_for(resource), said)
        note = events.Note("Warning", events.SERVER_WARNING, said)
        await events.record(world.kube, world.settings.identity, resource, note, once="warning")


def _is_ours(child: Object, resource: Resource) -> bool:
    owner = controller_of(child)
    return owner is not None and owner["uid"] == resource.metadata.uid


def _is_predecessors(child: Object) -> bool:
    """The child of a deleted resource that had the same name: the garbage collector is about to delete it."""
    owner = controller_of(child)
    return owner is not None and owner["kind"] in KINDS


def _waits_for_the_name(manifest: Manifest, live: Object | None) -> Exit:
    """Looked at again when that child is gone; by itself, where nobody tells of it."""
    owner = controller_of(live) if live is not None else None
    whose = f"{owner['kind']} {owner.get('name')}" if owner else manifest["metadata"]["ownerReferences"][0]["kind"]
    return Waiting(
        Reason.STOPPING,
        f"waits for {manifest['kind']} {manifest['metadata']['name']} to go, which belongs to a deleted {whose}: kubectl get "
        f"{manifest['kind'].lower()} {manifest['metadata']['name']} -o yaml shows what holds it",
    )


def _log_transition(key: Key, before: dict[str, Any], after: dict[str, Any]) -> None:
    old, new = events.ready(before), events.ready(after)
    if new and new.get("reason") != old.get("reason"):
        log.info("%s: %s: %s", key, new["reason"], new.get("message"), extra={"reason": new["reason"]})
