"""Why a pod ended."""

from __future__ import annotations

import signal

from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.status import FailureClass, Reason
from alpaca_operator.diagnosis.model import Diagnosis
from alpaca_operator.diagnosis.pod import ExaminedPod
from alpaca_operator.diagnosis.text import one_line

DISRUPTIONS = {
    "EvictionByEvictionAPI": "evicted from node {node}, as when a node is drained",
    "PreemptionByScheduler": "preempted on node {node} by a pod of higher priority; a pod.priorityClassName may prevent that",
    "DeletionByTaintManager": "removed from node {node}, which got a taint that the pod does not tolerate or lost contact",
    "DeletionByPodGC": "lost with node {node}",
    "TerminationByKubelet": "ended by the kubelet of node {node}",
}
"""By the reason of the pod's condition DisruptionTarget."""


def disrupted(pod: ExaminedPod) -> Diagnosis | None:
    """Nobody's mistake, whatever the exit code: a pod killed on the way out may end with any."""
    condition = pod.condition("DisruptionTarget")
    if not pod.ended or not condition.is_true:
        return None
    what = DISRUPTIONS.get(condition.reason, "ended by the cluster on node {node}")
    what = what.format(node=pod.node or "unknown")
    reported = pod.status.get("message")
    if reported and condition.reason == "TerminationByKubelet":
        what += f": {one_line(str(reported)).rstrip('.')}"
    if "low on resource" in str(reported):
        what += "; set pod.resources.requests to what the job needs, so that it gets a node with room"
    saved = "; a checkpoint was saved" if pod.exit_code == ExitCode.INTERRUPTED else ""
    return Diagnosis(
        "Infrastructure", Reason.DISRUPTED, what + saved, exit_code=pod.exit_code, termination=pod.termination
    )


def evicted_by_its_own_limit(pod: ExaminedPod) -> Diagnosis | None:
    """The kubelet evicts a pod that fills its disk limit without calling that a disruption."""
    if not pod.ended or pod.status.get("reason") != "Evicted":
        return None
    reported = one_line(str(pod.status.get("message", "its local storage is full"))).rstrip(".")
    return Diagnosis(
        "UserError",
        Reason.DISRUPTED,
        f"{reported}: raise ephemeral-storage in pod.resources.limits, or set cache.claimName so that downloads go to a volume",
        exit_code=pod.exit_code,
    )


def out_of_memory(pod: ExaminedPod) -> Diagnosis | None:
    """Killed by the kernel; the workload had no chance of a last word."""
    if not pod.ended or pod.culprit is None or pod.culprit.reason != "OOMKilled":
        return None
    limit = pod.asks_for("limits").get("memory")
    message = (
        f"out of memory at the limit of {limit}: raise pod.resources.limits.memory (it includes /dev/shm), or make the batch smaller"
        if limit
        else "the node ran out of memory: set pod.resources.requests.memory and limits.memory to what the job needs"
    )
    return Diagnosis("OutOfMemory", Reason.OUT_OF_MEMORY, message, exit_code=pod.exit_code)


EXITS: dict[int, tuple[FailureClass, Reason, str]] = {
    ExitCode.SPEC: ("UserError", Reason.INVALID_SPEC, "the workload refuses the spec"),
    ExitCode.DATA: ("DataError", Reason.INVALID_DATA, "the data cannot be used"),
    ExitCode.INPUT: ("UserError", Reason.INPUT_NOT_FOUND, "an input is missing or unreadable"),
    ExitCode.INTERNAL: ("Internal", Reason.WORKLOAD_ERROR, "the workload failed"),
    ExitCode.MEMORY: ("OutOfMemory", Reason.OUT_OF_MEMORY, "out of memory"),
    ExitCode.HUNG: ("Hung", Reason.HUNG, "no step for failurePolicy.hangTimeoutSeconds"),
    ExitCode.INTERRUPTED: ("Infrastructure", Reason.INTERRUPTED, "stopped from outside after saving a checkpoint"),
}
"""What each exit code of the contract means where the workload left no words of its own."""


def by_exit_code(pod: ExaminedPod) -> Diagnosis | None:
    """The workload's own last word, where its exit code is one of the contract's."""
    if not pod.ended or pod.exit_code not in EXITS or pod.culprit is None:
        return None
    failure_class, reason, default = EXITS[pod.exit_code]
    termination = pod.termination
    # What a workload that was stopped happened to log last is no reason for anything.
    logged = "" if pod.exit_code == ExitCode.INTERRUPTED else pod.last_line
    text = termination.message if termination and termination.message else logged
    return Diagnosis(
        failure_class,
        (termination and termination.reason) or reason,
        text or f"{default}: see kubectl logs -n {pod.namespace} {pod.name}",
        exit_code=pod.exit_code,
        rank=termination.rank if termination else None,
        termination=termination,
    )


def not_startable(pod: ExaminedPod) -> Diagnosis | None:
    """The image lacks what the container is to run: the runtime's 126, 127 and 128, or a Python without our modules."""
    if not pod.ended or pod.culprit is None:
        return None
    reported = pod.last_line or "its command does not start"
    if pod.exit_code not in (126, 127, 128) and "No module named 'workloads" not in reported:
        return None
    message = f"{reported}: pod.image must be one of this project's images, or built from one"
    return Diagnosis("UserError", Reason.CONTAINER_NOT_CREATED, message, exit_code=pod.exit_code)


STOPS = (128 + signal.SIGKILL, 128 + signal.SIGTERM)


def killed_at_a_stop(pod: ExaminedPod) -> Diagnosis | None:
    """Somebody deleted the pod, and its grace period was over before it had saved; or it had not started yet."""
    if not pod.ended or pod.exit_code not in (None, *STOPS) or not pod.killed_on_request:
        return None
    grace = pod.spec.get("terminationGracePeriodSeconds")
    how = {
        None: "before it had started",
        128 + signal.SIGTERM: "and stopped before it could save",
    }.get(pod.exit_code, f"and killed before it had saved: raise pod.terminationGracePeriodSeconds, which is {grace}")
    return Diagnosis("Infrastructure", Reason.DISRUPTED, f"told to stop, {how}", exit_code=pod.exit_code)


def by_signal(pod: ExaminedPod) -> Diagnosis | None:
    """128 + n is what a container's exit becomes when signal n kills it."""
    if not pod.ended or pod.exit_code is None or pod.exit_code - 128 not in [*signal.Signals]:
        return None
    name = signal.Signals(pod.exit_code - 128).name
    remedy = {
        "SIGKILL": "it was killed, or did not stop within pod.terminationGracePeriodSeconds",
        "SIGTERM": "it was stopped before it could save",
    }.get(name, f"a library crashed: see kubectl logs -n {pod.namespace} {pod.name}")
    return Diagnosis("Internal", Reason.WORKLOAD_ERROR, f"ended by {name}: {remedy}", exit_code=pod.exit_code)


def failed_beside(pod: ExaminedPod) -> Diagnosis | None:
    """A container that is not ours took the pod with it, and none of ours says why. Its exit code is no word of the workload's."""
    if not pod.ended or pod.culprit is not None or pod.bystander is None:
        return None
    name, how = pod.bystander
    message = (
        f"container {name}, which is not of the operator, failed (exit {how.exit_code}): see kubectl logs -n {pod.namespace} {pod.name} "
        f"-c {name}, or ask who adds it to pods"
    )
    return Diagnosis("Internal", Reason.WORKLOAD_ERROR, message)


def anything_else(pod: ExaminedPod) -> Diagnosis | None:
    """Failed with an exit code that means nothing to us, or with none at all."""
    if not pod.ended:
        return None
    reported = pod.last_line or one_line(str(pod.status.get("message", "")))
    where = f"see kubectl logs -n {pod.namespace} {pod.name}"
    message = f"{reported}: {where}" if reported else f"the workload failed without a word: {where}"
    return Diagnosis("Internal", Reason.WORKLOAD_ERROR, message, exit_code=pod.exit_code)
