"""Pure: where a deployment stands, by an ordered list of small judgements, each with its reason and its line."""

from __future__ import annotations

from collections.abc import Callable

from alpaca_operator.api.contract import CHECK_CONTAINER, KUEUE_PREFIX
from alpaca_operator.api.status import Reason
from alpaca_operator.chats import adapters
from alpaca_operator.chats.case import Case, count_ready, display, is_unseen
from alpaca_operator.cluster.objects import true_condition
from alpaca_operator.diagnosis.refusals import exit_of_report
from alpaca_operator.diagnosis.text import one_line
from alpaca_operator.exits import Refused, Unavailable
from alpaca_operator.inputs import Inputs
from alpaca_operator.outcomes.verdict import Standing, Verdict


def refused(case: Case) -> Verdict | None:
    """By the API server or the planner; what is served goes on."""
    if case.exit is None or isinstance(case.exit, Unavailable):
        return None
    standing = Standing.WORKING if case.exit.transient else Standing.STUCK
    return Verdict(standing, case.exit.reason, _while_serving(case, case.exit.message), case.exit)


def inputs_missing(case: Case) -> Verdict | None:
    """What the spec asks for is not there; what was served before goes on."""
    missing = case.observed.missing
    if missing is None:
        return None
    standing = Standing.WORKING if missing.transient else Standing.STUCK
    reason = missing.reason
    if case.ready:
        reason = Reason.UPDATING if missing.transient else Reason.UPDATE_FAILED
    return Verdict(standing, reason, _while_serving(case, missing.message), Refused(missing.reason, missing.message))


def pods_refused(case: Case) -> Verdict | None:
    """A quota or a policy takes no pod: the Deployment controller passes on what it heard."""
    failed = true_condition(case.child, "ReplicaFailure")
    found = exit_of_report(failed.message, again="") if failed else None
    if found is None:
        return None
    standing = Standing.WORKING if found.transient else Standing.STUCK
    return Verdict(standing, found.reason, _while_serving(case, found.message), found)


def scaled_to_zero(case: Case) -> Verdict | None:
    if case.observed.child is None or case.wanted > 0:
        return None
    name = case.chat.metadata.name
    return Verdict(
        Standing.HELD,
        Reason.SCALED_TO_ZERO,
        f"no pods are wanted (spec.replicas is 0): kubectl scale chat {name} --replicas=1",
    )


def settled(case: Case) -> Verdict | None:
    """Everything that is wanted answers, and nothing else."""
    if case.observed.child is None or is_unseen(case.child) or case.old or count_ready(case.new) < case.wanted:
        return None
    held = case.observed.held
    if held is None:
        refused = "".join(
            f"; adapter {name} is not served: {why}" for name, why in adapters.refused(case.observed).items()
        )
        return Verdict(Standing.DONE, Reason.SERVING, one_line(f"{case.serves}{refused}"))
    message = f"{case.serves}; {_newer(held.inputs)}is not served: {held.message}"
    if held.failed:
        return Verdict(Standing.STUCK, Reason.UPDATE_FAILED, message, Refused(Reason.UPDATE_FAILED, held.message))
    return Verdict(Standing.DONE, Reason.UPDATE_HELD, message)


def update_failed(case: Case) -> Verdict | None:
    """Those that answer are kept until the new ones do."""
    if not (case.old and case.ready and case.hopeless):
        return None
    why = case.trouble.message if case.trouble else _too_late(case)
    message = f"{case.serves}, of before; the new pods do not become ready: {why}"
    return Verdict(Standing.STUCK, Reason.UPDATE_FAILED, message, case.trouble or Refused(Reason.UPDATE_FAILED, why))


def updating(case: Case) -> Verdict | None:
    if not case.ready or not (case.old or is_unseen(case.child)):
        return None
    how = case.trouble.message if case.trouble else "the old ones answer until they are ready"
    message = f"{case.serves}; {count_ready(case.new)} of {case.wanted} new ones are ready: {how}"
    return Verdict(Standing.WORKING, Reason.UPDATING, message, case.trouble)


def degraded(case: Case) -> Verdict | None:
    if not case.ready:
        return None
    how = case.trouble.message if case.trouble else "others start"
    standing = Standing.STUCK if case.hopeless else Standing.WORKING
    return Verdict(standing, Reason.DEGRADED, f"{case.serves}: {how}", case.trouble)


def pod_troubled(case: Case) -> Verdict | None:
    """Nothing answers, and a pod says why."""
    if case.trouble is None:
        return None
    standing = Standing.STUCK if case.hopeless else Standing.WORKING
    return Verdict(standing, case.trouble.reason, case.trouble.message, case.trouble)


def too_late(case: Case) -> Verdict | None:
    if not case.deadline_exceeded:
        return None
    why = _too_late(case)
    return Verdict(Standing.STUCK, Reason.DEADLINE_EXCEEDED, why, Refused(Reason.DEADLINE_EXCEEDED, why))


def queued(case: Case) -> Verdict | None:
    """Kueue holds a pod back until there is room for it."""
    held = [pod for pod in case.new if any(gate["name"].startswith(KUEUE_PREFIX) for gate in pod.scheduling_gates)]
    if not held:
        return None
    queue = held[0].labels.get(f"{KUEUE_PREFIX}queue-name")
    message = f"waits for room in Kueue's queue {queue}: kubectl get workloads shows its place"
    return Verdict(Standing.WORKING, Reason.QUEUED, message)


def starting(case: Case) -> Verdict | None:
    for pod in case.new:
        checks = any(one.name == CHECK_CONTAINER and one.running for one in pod.all_containers)
        if checks or pod.phase == "Running":
            does = "looks at the adapter before vLLM starts" if checks else "loads the model"
            return Verdict(Standing.WORKING, Reason.STARTING, f"pod {pod.name} on node {pod.node} {does}")
    return None


def pending(case: Case) -> Verdict:
    return Verdict(Standing.WORKING, Reason.PENDING, "waits for its pods to start")


VERDICTS: tuple[Callable[[Case], Verdict | None], ...] = (
    refused,  # before what the pods do: they are not of this spec
    inputs_missing,
    pods_refused,
    scaled_to_zero,
    settled,
    update_failed,
    updating,
    degraded,
    pod_troubled,  # from here on nothing answers
    queued,  # it may wait longer than a start may take
    too_late,
    starting,
    pending,
)
"""The first that speaks wins."""


def judge(case: Case) -> Verdict:
    return next(verdict for check in VERDICTS if (verdict := check(case)))


def _newer(inputs: Inputs) -> str:
    """What is held, as a subject; of a producer that failed there is nothing."""
    model = inputs.get("model")
    return f"{display(model)} is there and " if model else "a newer one "


# --- Reading ---------------------------------------------------------------------------------------------------------


def _while_serving(case: Case, message: str) -> str:
    return f"{case.serves}, of before; {message}" if case.ready else message


def _too_late(case: Case) -> str:
    limit = case.chat.spec.startup_timeout_seconds
    names = ", ".join(pod.name for pod in case.new) or "no pod"
    return one_line(
        f"not ready within startupTimeoutSeconds ({limit} s): see kubectl logs -n {case.chat.metadata.namespace} of {names}, or raise it"
    )
