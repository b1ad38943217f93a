"""The one reconcile of every kind, and the workers that run it.

Level-triggered: a key says that something may have happened to a resource, never what. Everything is read anew, and doing it
once more changes nothing.
"""

from __future__ import annotations

import asyncio
import logging
import time

from alpaca_operator import apply, metrics, observe
from alpaca_operator.api import Resource
from alpaca_operator.api.resource import Job
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.queue import LONGEST_DELAY, RETRIED_LONGEST, Result
from alpaca_operator.cluster.store import Key
from alpaca_operator.diagnosis import refusals
from alpaca_operator.errors import ApiError, NotLeading, Unreachable
from alpaca_operator.exits import Exit, NamespaceGoing, Unavailable, Unreadable, Waiting
from alpaca_operator.lifecycle import LIFECYCLES
from alpaca_operator.observe import Observed
from alpaca_operator.outcomes.verdict import Desired
from alpaca_operator.plan import PLANNERS
from alpaca_operator.world import World, key_for

NO_ROOM_SECONDS = 10.0
"""Before a full quota is asked again: room comes when another job ends, and five hundred that ask are work that others wait for."""

log = logging.getLogger(__name__)


async def reconcile(key: Key, world: World, *, live: bool = False) -> Result:
    """``live``: what is known was read from the API server just now, not brought by watches, which may lag."""
    resource = world.resource(key)
    if resource is None or resource.metadata.deletion_timestamp:  # its children go with it, by their owner references
        world.forget(key)
        return Result.never
    if world.going.get(key, "") == resource.metadata.uid:  # its children go one by one, and none can be made anew
        return Result.never
    lifecycle = LIFECYCLES[key.kind]
    world.expect(resource)
    observed = observe.gather(resource, world)
    desired = lifecycle.desired(resource, observed)
    if not live and _starts_or_ends_a_run(desired, resource, observed):
        exit = await apply.attempt(world.refresh(key), resource)
        if exit is None:
            return await reconcile(key, world, live=True)
    else:
        exit = await apply.attempt(_act(desired, resource, observed, world), resource)
    if isinstance(exit, NamespaceGoing):
        world.going[key] = resource.metadata.uid
    outage = world.outages.lasting(key, "child", exit) if isinstance(exit, Unavailable) else None
    if outage is None and not isinstance(exit, Unavailable):
        world.outages.over(key, "child")
    if desired is Desired.PRESENT and _has_just_begun(resource, observed, world):
        # First a child for all who wait; the statuses follow, with what the children do by then.
        return Result(requeue_after=0.0)
    if isinstance(exit, Unavailable) and outage is None:
        return _again(exit)  # one that does not last is not worth a word
    # A child that was lost and made again is told of first.
    if desired is Desired.PRESENT and observed.child is not None:
        observed = observe.children(observed, resource, world)
        unheard = await apply.attempt(_retell(resource, observed, world), resource)
        if isinstance(unheard, Unavailable):
            return _again(unheard)
        exit = exit or unheard
    if exit is None and (wait := lifecycle.may_wait(resource, observed)):
        return Result(requeue_after=wait.total_seconds())
    after = lifecycle.compute(resource, observed, outage or exit)
    ends = lifecycle.is_final(after) and not lifecycle.is_terminal(resource)
    if not live and (ends or lifecycle.counts(resource, after)):
        # Both are told once. The last pod's last word must be in; and whether a pod's end counts depends on its Job as it was then, which
        # another watch brings: evicted by a queue, it does not.
        if unseen := await apply.attempt(world.refresh(key), resource):
            return await _tell_what_hinders(key, unseen, world)
        return await reconcile(key, world, live=True)
    result = await apply.update_status(resource, after, outage or exit, world)
    if exit is not None:
        return _again(exit)
    if _status_asks_for_more(resource, desired, observed, world):
        return Result(requeue_after=0.0)
    time_alone = lifecycle.requeue_after(resource, observed)
    return result.or_sooner(time_alone.total_seconds() if time_alone is not None else None)


def _status_asks_for_more(resource: Resource, desired: Desired, observed: Observed, world: World) -> bool:
    """Whether the status that was just written decides that the children stop or go, or that the output is pushed: no watch brings what
    this operator wrote itself."""
    now = world.resource(key_for(resource))
    if now is None or now.metadata.resource_version == resource.metadata.resource_version:
        return False
    lifecycle = LIFECYCLES[resource.kind]
    wanted = lifecycle.desired(now, observed)
    ends = wanted is not desired and wanted in (Desired.STOPPED, Desired.ABSENT)
    return ends or lifecycle.pushing(now, observed) in (Desired.PRESENT, Desired.ABSENT)


async def _tell_what_hinders(key: Key, exit: Exit, world: World) -> Result:
    """Where nothing can be said of the resource itself."""
    lasting = world.outages.lasting(key, "child", exit) if isinstance(exit, Unavailable) else exit
    if lasting is not None:
        await apply.report(key, lasting, world)
    return _again(exit)


async def _act(desired: Desired, resource: Resource, observed: Observed, world: World) -> Exit | None:
    for pod in LIFECYCLES[resource.kind].spent(observed):
        await apply.end_pod(pod, world)
    await _look_for_room(resource, observed, world)
    if unpushed := await _push(resource, observed, world):
        return unpushed
    match desired:
        case Desired.PRESENT:
            # Nothing new is made next to a pod that still saves; the garbage collector ends it.
            if observed.child is None and (strays := world.strays.pop(key_for(resource), ())):
                return Waiting(Reason.STOPPING, f"waits for pod {', '.join(strays)} to stop, whose Job is gone")
            if world.converged.get(key_for(resource)) == world.version(resource, observed.inputs):
                return None
            plan = PLANNERS[resource.kind](resource, observed.inputs, world.settings, observed)
            return plan.refusal or await apply.converge(resource, plan, world, observed.inputs)
        case Desired.STOPPED if observed.child:
            await apply.end(observed.child, world)
        case Desired.ABSENT if observed.child:
            await apply.remove(observed.child, world)
    return None


async def _retell(resource: Resource, observed: Observed, world: World) -> None:
    for pod, patch in LIFECYCLES[resource.kind].retold(observed):
        await apply.retell(pod, patch, world)


async def _look_for_room(resource: Resource, observed: Observed, world: World) -> None:
    """For more nodes, where a job goes on with fewer than it asks for."""
    match LIFECYCLES[resource.kind].scouting(resource, observed):
        case Desired.PRESENT if isinstance(resource, Job):
            await apply.look_for_room(resource, world)
        case Desired.STOPPED if observed.scout:
            await apply.end(observed.scout.raw, world)
        case Desired.ABSENT if observed.scout:
            await apply.remove(observed.scout.raw, world)


async def _push(resource: Resource, observed: Observed, world: World) -> Exit | None:
    """What the resource has made, to the places that it names."""
    match LIFECYCLES[resource.kind].pushing(resource, observed):
        case Desired.PRESENT if isinstance(resource, Job):
            return await apply.push(resource, observed, world)
        case Desired.ABSENT if observed.pusher:
            await apply.remove(observed.pusher.raw, world)
    return None


def _again(exit: Exit) -> Result:
    """When what did not go well is tried again."""
    match exit:
        case Unavailable():
            return Result(RETRIED_LONGEST, failed=True, not_before=exit.retry_after, outcome="unreachable")
        case NamespaceGoing():
            return Result.never
        case Waiting(Reason.QUOTA_EXCEEDED):
            return Result(RETRIED_LONGEST, failed=True, not_before=NO_ROOM_SECONDS, outcome="refused")
        case Waiting():
            return Result(RETRIED_LONGEST, failed=True, outcome="refused")
    return Result(LONGEST_DELAY, failed=True, outcome="refused")


def _starts_or_ends_a_run(desired: Desired, resource: Resource, observed: Observed) -> bool:
    """What cannot be taken back: a child deleted, or made once more after one was there before."""
    if desired in (Desired.STOPPED, Desired.ABSENT):
        return observed.child is not None and "deletionTimestamp" not in observed.child["metadata"]
    return desired is Desired.PRESENT and observed.child is None and resource.has_begun


def _has_just_begun(resource: Resource, observed: Observed, world: World) -> bool:
    return not resource.has_begun and observed.child is None and world.child(resource) is not None


async def work(world: World) -> None:
    """One worker; several run side by side, and no two of them have the same key. Runs until cancelled."""
    while True:
        key = await world.queue.get()
        try:
            await _work_on(key, world)
        finally:
            world.queue.done(key)


async def reconcile_or_report(key: Key, world: World) -> Result:
    """The status of a resource that cannot be read says so. One that another operator works on is left alone."""
    if (other := await apply.other_operator(key, world)) is not None:
        return await apply.leave_alone(key, other, world)
    try:
        return await reconcile(key, world)
    except Unreadable as error:
        log.error("%s: %s", key, error)
        await apply.report(key, error.exit, world)
        return Result(LONGEST_DELAY, failed=True, outcome="unreadable")


async def _work_on(key: Key, world: World) -> None:
    queue, began = world.queue, time.monotonic()
    try:
        result = await reconcile_or_report(key, world)
        outcome = result.outcome
    except NotLeading as error:
        log.warning("%s: %s", key, error)
        result, outcome = Result(requeue_after=RETRIED_LONGEST, failed=True), "unreachable"
    except (ApiError, Unreachable) as error:
        result = await _without_a_status(key, error, world)
        outcome = result.outcome
    except Exception:  # a bug: told once with its traceback, and tried again, for the next state may pass
        log.exception("%s: reconcile failed", key)
        result, outcome = Result(requeue_after=LONGEST_DELAY, failed=True), "error"
    metrics.RECONCILES.labels(key.kind, outcome).inc()
    metrics.RECONCILE_SECONDS.labels(key.kind).observe(time.monotonic() - began)
    if result.failed:
        queue.backoff(key, result.requeue_after or LONGEST_DELAY, result.not_before)
        return
    queue.forget(key)
    if result.requeue_after is not None:
        queue.add_after(key, result.requeue_after)


async def _without_a_status(key: Key, error: ApiError | Unreachable, world: World) -> Result:
    """An answer that came before anything could be said on the resource itself."""
    exit = refusals.exit_of_status(error)
    if exit is None:  # somebody wrote in between: usual
        log.debug("%s: %s; tried again", key, error)
        return Result(RETRIED_LONGEST, failed=True, outcome="conflict")
    log.warning("%s: %s; tried again", key, error)
    await apply.tell_by_event(key, exit, world)
    return _again(exit)


async def run_workers(world: World) -> None:
    """Until cancelled; an error that leaves a worker ends them all."""
    async with asyncio.TaskGroup() as group:
        for number in range(world.settings.workers):
            group.create_task(work(world), name=f"worker {number}")
