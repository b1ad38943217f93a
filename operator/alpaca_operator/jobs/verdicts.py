"""Pure: where a job stands, by an ordered list of small judgements, each with its reason and its line."""

from __future__ import annotations

from collections.abc import Callable

from alpaca_operator.api.contract import KUEUE_PREFIX
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.objects import Pod
from alpaca_operator.diagnosis.model import Diagnosis
from alpaca_operator.diagnosis.pod import workload_ended
from alpaca_operator.exits import Exit, Refused, Unavailable
from alpaca_operator.jobs import several
from alpaca_operator.jobs.case import (
    Case,
    leftovers,
    out_of_restarts,
    pod_that_succeeded,
    ready_reason,
    termination_of,
)
from alpaca_operator.outcomes.conditions import stamp
from alpaca_operator.outcomes.verdict import Standing, Verdict


def succeeded(case: Case) -> Verdict | None:
    """A pod that ended well settles it, also when its child was deleted in the same moment: the output is published."""
    done = pod_that_succeeded(case.observed)
    complete = case.child.complete if case.child else None
    if done is None and complete is None:
        return None
    output = case.resource.spec.output.uri
    termination = termination_of(done)
    finished = _finished(done) or (complete and complete.last_transition_time) or stamp(case.observed.now)
    if termination and termination.reason is Reason.REUSED:
        message = f"{output} already holds the result of the same spec and inputs: nothing was run"
        return Verdict(Standing.DONE, Reason.REUSED, message, ended_at=finished)
    return Verdict(Standing.DONE, Reason.SUCCEEDED, f"published {output}", ended_at=finished)


def not_worth_retrying(case: Case) -> Verdict | None:
    """The next run would fail alike."""
    if case.last is None or case.last.retried:
        return None
    return _failed(case, case.last.reason, case.last.message, case.last)


def too_many_disruptions(case: Case) -> Verdict | None:
    """The Job counts only failures; disruptions are counted here."""
    limit = case.resource.spec.failure_policy.max_infra_restarts
    if case.infra <= limit or case.last is None:
        return None
    message = (
        f"gave up after {_times(limit, 'restart')} by disruption (failurePolicy.maxInfraRestarts), the last: {case.last.message}. "
        f"A job of another name with the same output {case.resumption}"
    )
    return _failed(case, Reason.RESTARTS_EXCEEDED, message, case.last)


def too_many_failures(case: Case) -> Verdict | None:
    """As the Job controller counts, a moment before it says so: no next pod is promised in between."""
    if case.last is None or not out_of_restarts(case.child, case.ended):
        return None
    return _gave_up(case, case.last, case.last.finished_at)


def deadline_passed(case: Case) -> Verdict | None:
    """The Job controller stops the pod; its last word is waited for."""
    since = case.overdue_since
    if since is None:
        return None
    limit = case.resource.spec.active_deadline_seconds
    if case.live is not None:
        message = f"still running after activeDeadlineSeconds ({limit} s): {_stop(case)}, a running step is saved first"
        return Verdict(Standing.WORKING, Reason.STOPPING, message)
    message = (
        f"still running after activeDeadlineSeconds ({limit} s): a job of another name with a longer one and the same "
        f"output {case.resumption}"
    )
    return _failed(case, Reason.DEADLINE_EXCEEDED, message, Refused(Reason.DEADLINE_EXCEEDED, message), since)


def child_failed(case: Case) -> Verdict | None:
    """The Job controller gave up."""
    failed = case.child.failed if case.child else None
    if case.child is None or failed is None:
        return None
    if case.failing is not None:
        return others_stop(case)
    at = failed.last_transition_time
    if case.last is None:
        message = f"its {case.child.kind} failed and left no pod to ask ({failed.reason}: {failed.message})"
        return _failed(case, Reason.WORKLOAD_ERROR, message, Diagnosis("Internal", Reason.WORKLOAD_ERROR, message), at)
    if case.child.out_of_restarts:
        return _gave_up(case, case.last, at)
    return _failed(case, case.last.reason, case.last.message, case.last, at)


def _gave_up(case: Case, last: Diagnosis, at: str | None) -> Verdict:
    limit = case.resource.spec.failure_policy.max_restarts
    if limit == 0:
        return _failed(case, last.reason, last.message, last, at)
    message = f"gave up after {_times(limit, 'restart')} (failurePolicy.maxRestarts), the last: {last.message}"
    return _failed(case, Reason.RESTARTS_EXCEEDED, message, last, at)


def suspended(case: Case) -> Verdict | None:
    if not case.resource.spec.suspend:
        return None
    if case.child is not None or case.live is not None:
        return Verdict(
            Standing.WORKING, Reason.STOPPING, f"spec.suspend is true: {_stop(case)}, a running step is saved first"
        )
    resume = f"; set to false, it {case.resumption}" if case.before.start_time else ": set it to false to start"
    return Verdict(Standing.HELD, Reason.SUSPENDED, f"held by spec.suspend{resume}")


def old_pods_stop(case: Case) -> Verdict | None:
    """Nothing new is made next to a pod that still saves."""
    pods = leftovers(case.observed)
    if not pods:
        return None
    if case.trouble and case.trouble.reason is Reason.DISRUPTED:
        return Verdict(Standing.WORKING, Reason.STOPPING, case.trouble.message, case.trouble)
    return Verdict(Standing.WORKING, Reason.STOPPING, f"waits for {', '.join(pods)} to stop, then {case.resumption}")


def inputs_missing(case: Case) -> Verdict | None:
    """Nothing is made before everything that it reads is there."""
    missing = case.observed.missing
    if missing is None or case.child is not None:
        return None
    if missing.transient:
        return Verdict(Standing.WORKING, missing.reason, missing.message)
    return Verdict(Standing.STUCK, missing.reason, missing.message, Refused(missing.reason, missing.message))


def refused(case: Case) -> Verdict | None:
    refusal = case.exit or (case.observed.refusal if len(case.pods) < case.size else None)
    if refusal is None or isinstance(refusal, Unavailable):
        return None
    standing = Standing.WORKING if refusal.transient else Standing.STUCK
    return Verdict(standing, refusal.reason, refusal.message, refusal)


def child_lost(case: Case) -> Verdict | None:
    """Its pods were there once, the child is not, and nobody asked for that."""
    held = ready_reason(case.before) in (Reason.SUSPENDED, Reason.STOPPING)
    if case.child is not None or not case.before.start_time or held:
        return None
    return Verdict(
        Standing.WORKING,
        Reason.CHILD_LOST,
        f"its {KINDS[case.resource.nodes > 1 and not case.resource.nodes_work_apart]} was deleted by someone else and is made again; it {case.resumption}",
    )


def queued(case: Case) -> Verdict | None:
    """Kueue suspends the child until there is room. We never touch that field."""
    child = case.child
    if child is None or not child.is_suspended:
        return None
    label = (
        f"{KUEUE_PREFIX}queue-name"  # of the child too: where a namespace has a default queue, Kueue writes it there
    )
    queue = child.labels.get(label) or case.resource.metadata.labels.get(label)
    words = case.observed.queue
    if case.live is not None:
        who = f"its {child.kind} was suspended by someone else"
        if queue is not None:
            why = f" ({words.evicted.rstrip('.')})" if words and words.evicted else ""
            who = f"Kueue's queue {queue} wants its place back{why}"
        message = f"{who}: {_stop(case)}, a running step is saved first"
        return Verdict(Standing.WORKING, Reason.STOPPING, message)
    if queue is None:
        message = f"its {child.name} was suspended by someone else: set spec.suspend of the {child.kind} to false"
    elif words is not None and not words.known:
        message = f"Kueue has not taken it up yet: see whether its controller runs, and whether it manages {child.kind}s in queue {queue}"
    else:
        message = f"waits for room in Kueue's queue {queue}"
        message += f", at place {words.place}" if words and words.place else ""
        message += f", then {case.resumption}" if case.before.start_time else ""
        if words and words.why:
            message += f": {words.why}"
        elif not case.before.start_time:
            message += ": kubectl get workloads shows its place"
    return Verdict(Standing.WORKING, Reason.QUEUED, message)


def rescaled(case: Case) -> Verdict | None:
    """There is no room for all nodes, and fewer go on; or there is room for more again."""
    if case.child is None or case.next_size == case.child.size:
        return None
    if case.next_size > case.child.size:
        message = f"there is room for {case.next_size} nodes: {case.child.name} grows, which is made anew with them, and {case.resumption}"
        return Verdict(Standing.WORKING, Reason.STOPPING, message)
    limit = case.resource.spec.parallelism.rescale_after_seconds  # type: ignore[attr-defined]
    message = (
        f"no room for {case.child.size} nodes in {limit} s (parallelism.rescaleAfterSeconds): {case.child.name} is made anew with "
        f"{case.next_size}, and {case.resumption}"
    )
    return Verdict(Standing.WORKING, Reason.STOPPING, message)


def others_stop(case: Case) -> Verdict | None:
    """One of several pods has failed, and the others end with it: the last may know more than the first."""
    if case.failing is None:
        return None
    message = f"{case.failing.message}: {len(case.pods)} of {case.size} pods still stop"
    return Verdict(Standing.WORKING, Reason.STOPPING, message, case.failing)


def pod_troubled(case: Case) -> Verdict | None:
    """A pod that cannot start: it may pass by itself, so work counts as going on."""
    if case.trouble is None:
        return None
    return Verdict(Standing.WORKING, case.trouble.reason, case.trouble.message, case.trouble)


def pod_stops(case: Case) -> Verdict | None:
    told = [pod.name for pod in case.pods if pod.deletion_timestamp]
    if not told:
        return None
    return Verdict(Standing.WORKING, Reason.STOPPING, f"pod {told[0]} was told to stop; a running step is saved first")


def pod_runs(case: Case) -> Verdict | None:
    """Running from the first step on; what comes before is starting, and says so."""
    if case.live is None or case.live.phase != "Running":
        return None
    wanted, up = case.size - case.done, sum(pod.phase == "Running" for pod in case.pods)
    if up < wanted and not case.resource.nodes_work_apart:
        gathers_until = several.gathers_until(case.pods, wanted)
        if gathers_until and case.observed.now < gathers_until and ready_reason(case.before) != Reason.RUNNING:
            return None
        return Verdict(Standing.WORKING, Reason.STARTING, "the first pods run, and wait for the others")
    pod, node = case.live.name, case.live.node
    others = f", {up - 1} more with it" if up > 1 else ""
    if up < wanted:
        others += f"; {wanted - up} of {case.size} pods {_starts(wanted - up)}"
    if case.size < case.resource.nodes:
        others += f" ({case.size} of {case.resource.nodes} nodes: waits for room for more)"
    progress = case.observed.progress
    if progress is None:
        steps = ready_reason(case.before) == Reason.RUNNING
    else:
        steps = progress.stage not in ("Loading", "Preparing")
    if progress is None and case.observed.answers_foul:
        told = (
            f"pod {pod} runs on node {node}{others}; how far it is cannot be told, as what it answers at /progress is nothing that a workload "
            f"of this version does: give pod.image the operator's version, or see kubectl logs -n {case.live.namespace} {pod}"
        )
        return Verdict(Standing.WORKING, Reason.RUNNING, told)
    if steps:
        return Verdict(Standing.WORKING, Reason.RUNNING, f"pod {pod} runs on node {node}{others}")
    return Verdict(Standing.WORKING, Reason.STARTING, f"pod {pod} on node {node} loads model and data{others}")


def restarting(case: Case) -> Verdict | None:
    """Until the next pod runs."""
    if case.last is None:
        return None
    limits = case.resource.spec.failure_policy
    if case.last.failure_class == "Infrastructure":
        count = f"{case.restarts.infra} of {limits.max_infra_restarts}, failurePolicy.maxInfraRestarts"
    else:
        count = f"{case.restarts.user} of {limits.max_restarts}, failurePolicy.maxRestarts"
    message = f"{case.last.message}; the next pod {case.resumption} (restart {count})"
    return Verdict(Standing.WORKING, Reason.RESTARTING, message, case.last)


def pending(case: Case) -> Verdict:
    if case.starts_late:
        message = "waits for JobSet's controller to start its pods: see whether it runs"
        return Verdict(Standing.WORKING, Reason.PENDING, message)
    return Verdict(Standing.WORKING, Reason.PENDING, "waits for its pod to start")


KINDS = ("Job", "JobSet")
"""What makes its pods: of those that work apart or alone, of those that work together."""

VERDICTS: tuple[Callable[[Case], Verdict | None], ...] = (
    succeeded,  # before any failure: what is published is published
    not_worth_retrying,
    too_many_disruptions,
    too_many_failures,
    deadline_passed,
    child_failed,
    suspended,  # after the ends: suspending a finished job does not undo it
    rescaled,
    old_pods_stop,
    inputs_missing,
    refused,
    child_lost,
    queued,
    others_stop,
    pod_troubled,
    pod_stops,
    pod_runs,
    restarting,
    pending,
)
"""The first that speaks wins."""


def judge(case: Case) -> Verdict:
    return next(verdict for check in VERDICTS if (verdict := check(case)))


def _failed(case: Case, reason: Reason, message: str, cause: Diagnosis | Exit, at: str | None = None) -> Verdict:
    ended = at or (case.last and case.last.finished_at) or stamp(case.observed.now)
    return Verdict(Standing.FAILED, reason, message, cause, ended_at=ended)


def _finished(pod: Pod | None) -> str | None:
    ended = workload_ended(pod) if pod else None
    return ended.finished_at if ended else None


def _stop(case: Case) -> str:
    """Who stops."""
    if case.live is None:
        return f"its {case.child.kind} stops" if case.child else "its pods stop"
    return f"pod {case.live.name} stops" if len(case.pods) == 1 else f"{len(case.pods)} pods stop"


def _starts(count: int) -> str:
    return "starts" if count == 1 else "start"


def _times(count: int, what: str) -> str:
    return f"{count} {what}" if count == 1 else f"{count} {what}s"
