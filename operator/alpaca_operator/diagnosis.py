"""Pure: a pod, or an answer of the API server, told in one line with what to do."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from pydantic import ValidationError

from alpaca_operator.api.contract import CONTAINER, ENGINE_CONTAINER, NEVER_RETRIED, ExitCode, Termination
from alpaca_operator.api.status import FailureClass, Reason

Object = dict[str, Any]

LINE_LIMIT = 1000
"""Characters of a message: `kubectl describe` still shows it well, and 32 attempts fit a status."""
SILENCE = timedelta(seconds=60)
"""A kubelet that answers has removed a pod well within this after its grace period."""
PATIENCE = timedelta(minutes=2)
"""Volumes are attached and mounted well within this; a pull of the image comes after them and is not counted."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A child, or its pod, that is not taken: by the API server, a quota, a policy, or by the planner."""

    reason: Reason
    message: str

    @property
    def passes(self) -> bool:
        """Whether it may be taken later as it is."""
        return self.reason is Reason.QUOTA_EXCEEDED

    @property
    def failure_class(self) -> FailureClass:
        return "Infrastructure" if self.passes else "UserError"


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is wrong with a pod: why it ended, or what it waits for."""

    failure_class: FailureClass
    reason: Reason
    message: str
    ended: bool = True
    exit_code: int | None = None
    rank: int | None = None
    last_word: Termination | None = None
    pod: str = ""
    uid: str = ""
    finished_at: str | None = None

    @property
    def retried(self) -> bool:
        """Whether another pod may do better."""
        if self.failure_class == "Infrastructure":
            return self.ended  # whatever the exit code of a pod that was killed
        return self.ended and self.reason is not Reason.OUT_OF_MEMORY and self.exit_code not in NEVER_RETRIED


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the checks read it."""

    raw: Object
    now: datetime
    ended: bool = field(init=False)
    culprit: Object | None = field(init=False)
    """The terminated state of the container that is to blame."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "culprit", root_cause(self._terminated()))
        # The phase follows seconds after the container; an evicted pod may be gone before it does.
        ours = next((one for one in self.containers() if one.get("name") == CONTAINER), {})
        dead = ((ours.get("state") or {}).get("terminated") or {}).get("exitCode", 0) != 0
        object.__setattr__(self, "ended", self.status.get("phase") == "Failed" or dead)

    @property
    def name(self) -> str:
        return str(self.raw["metadata"]["name"])

    @property
    def namespace(self) -> str:
        return str(self.raw["metadata"].get("namespace", "default"))

    @property
    def node(self) -> str:
        return str(self.raw.get("spec", {}).get("nodeName", ""))

    @property
    def status(self) -> Object:
        found: Object = self.raw.get("status") or {}
        return found

    @property
    def exit_code(self) -> int | None:
        return self.culprit.get("exitCode") if self.culprit else None

    @property
    def last_word(self) -> Termination | None:
        return parse_last_word(self.culprit.get("message")) if self.culprit else None

    def condition(self, kind: str) -> Object:
        conditions: list[Object] = self.status.get("conditions") or []
        return next((one for one in conditions if one.get("type") == kind), {})

    def resources(self, kind: str) -> dict[str, str]:
        """Limits or requests of the workload's container."""
        containers: list[Object] = self.raw.get("spec", {}).get("containers") or []
        ours = next((one for one in containers if one.get("name") in (CONTAINER, ENGINE_CONTAINER)), {})
        return {name: str(value) for name, value in ((ours.get("resources") or {}).get(kind) or {}).items()}

    def containers(self) -> list[Object]:
        found: list[Object] = [*(self.status.get("initContainerStatuses") or [])]
        return [*found, *(self.status.get("containerStatuses") or [])]

    def waiting(self) -> Iterable[tuple[Object, str, str]]:
        """(container status, reason, message) of each container that the kubelet has not started."""
        for container in self.containers():
            waiting = (container.get("state") or {}).get("waiting") or {}
            if waiting.get("reason"):
                yield container, str(waiting["reason"]), str(waiting.get("message", ""))

    def _terminated(self) -> list[Object]:
        states = [(container.get("state") or {}).get("terminated") for container in self.containers()]
        return [state for state in states if state and state.get("exitCode")]


def diagnose(pod: Object, now: datetime) -> Diagnosis | None:
    """The root cause, or None for a pod that runs, starts, or ended well."""
    read = Pod(pod, now)
    if read.status.get("phase") == "Succeeded":
        return None
    found = next((found for check in CHECKS if (found := check(read))), None)
    if found is None:
        return None
    suffix = f"pod {read.name}" if found.exit_code is None else f"pod {read.name}, exit {found.exit_code}"
    return Diagnosis(
        failure_class=found.failure_class,
        reason=found.reason,
        message=f"{one_line(found.message)} ({suffix})",
        ended=found.ended,
        exit_code=found.exit_code,
        rank=found.rank,
        last_word=found.last_word,
        pod=read.name,
        uid=str(pod["metadata"].get("uid", "")),
        finished_at=ended_at(read) if found.ended else None,
    )


def changes_at(pod: Object, now: datetime) -> datetime | None:
    """When time alone will change the diagnosis, if nothing else does."""
    read = Pod(pod, now)
    if read.ended or read.status.get("phase") == "Succeeded":
        return None
    stopped, placed = pod["metadata"].get("deletionTimestamp"), _waits_on_node_since(read)
    moments = [instant(stopped) + SILENCE] if stopped else []
    moments += [placed + PATIENCE] if placed else []
    return min((moment for moment in moments if moment > now), default=None)


# --- Why a pod ended -------------------------------------------------------------------------------------------------

DISRUPTIONS = {
    "EvictionByEvictionAPI": "evicted from node {node}, as when a node is drained",
    "PreemptionByScheduler": "preempted on node {node} by a pod of higher priority; a pod.priorityClassName may prevent that",
    "DeletionByTaintManager": "removed from node {node}, which got a taint that the pod does not tolerate or lost contact",
    "DeletionByPodGC": "lost with node {node}",
    "TerminationByKubelet": "ended by the kubelet of node {node}",
}
"""By the reason of the pod's condition DisruptionTarget."""


def disrupted(pod: Pod) -> Diagnosis | None:
    """Nobody's mistake, whatever the exit code: a pod killed on the way out may end with any."""
    condition = pod.condition("DisruptionTarget")
    if not pod.ended or condition.get("status") != "True":
        return None
    what = DISRUPTIONS.get(str(condition.get("reason")), "ended by the cluster on node {node}")
    what = what.format(node=pod.node or "unknown")
    told = pod.status.get("message")
    if told and condition.get("reason") == "TerminationByKubelet":
        what += f": {one_line(str(told)).rstrip('.')}"
    if "low on resource" in str(told):
        what += "; set pod.resources.requests to what the job needs, so that it gets a node with room"
    saved = "; a checkpoint was saved" if pod.exit_code == ExitCode.INTERRUPTED else ""
    return Diagnosis("Infrastructure", Reason.DISRUPTED, what + saved, exit_code=pod.exit_code, last_word=pod.last_word)


def evicted_by_its_own_limit(pod: Pod) -> Diagnosis | None:
    """The kubelet evicts a pod that fills its disk limit without calling that a disruption."""
    if not pod.ended or pod.status.get("reason") != "Evicted":
        return None
    told = one_line(str(pod.status.get("message", "its local storage is full"))).rstrip(".")
    return Diagnosis(
        "UserError",
        Reason.DISRUPTED,
        f"{told}: raise ephemeral-storage in pod.resources.limits, or set cache.claimName so that downloads go to a volume",
        exit_code=pod.exit_code,
    )


def out_of_memory(pod: Pod) -> Diagnosis | None:
    """Killed by the kernel; the workload had no chance of a last word."""
    if not pod.ended or not pod.culprit or pod.culprit.get("reason") != "OOMKilled":
        return None
    limit = pod.resources("limits").get("memory")
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


def by_exit_code(pod: Pod) -> Diagnosis | None:
    """The workload's own last word, where its exit code is one of the contract's."""
    if not pod.ended or pod.exit_code not in EXITS or pod.culprit is None:
        return None
    failure_class, reason, default = EXITS[pod.exit_code]
    word = pod.last_word
    # What a workload that was stopped happened to log last is no reason for anything.
    logged = "" if pod.exit_code == ExitCode.INTERRUPTED else last_line(str(pod.culprit.get("message", "")))
    text = word.message if word and word.message else logged
    return Diagnosis(
        failure_class,
        word.reason if word else reason,
        text or f"{default}: see kubectl logs -n {pod.namespace} {pod.name}",
        exit_code=pod.exit_code,
        rank=word.rank if word else None,
        last_word=word,
    )


def not_startable(pod: Pod) -> Diagnosis | None:
    """The image lacks what the container is to run: the runtime's 126, 127 and 128, or a Python without our modules."""
    if not pod.ended or pod.culprit is None:
        return None
    told = last_line(str(pod.culprit.get("message", ""))) or "its command does not start"
    if pod.exit_code not in (126, 127, 128) and "No module named 'workloads" not in told:
        return None
    message = f"{told}: pod.image must be one of this project's images, or built from one"
    return Diagnosis("UserError", Reason.CONTAINER_NOT_CREATED, message, exit_code=pod.exit_code)


def by_signal(pod: Pod) -> Diagnosis | None:
    """128 + n is what a container's exit becomes when signal n kills it."""
    if not pod.ended or pod.exit_code is None or pod.exit_code - 128 not in [*signal.Signals]:
        return None
    name = signal.Signals(pod.exit_code - 128).name
    remedy = {
        "SIGKILL": "it was killed, or did not stop within pod.terminationGracePeriodSeconds",
        "SIGTERM": "it was stopped before it could save",
    }.get(name, f"a library crashed: see kubectl logs -n {pod.namespace} {pod.name}")
    return Diagnosis("Internal", Reason.WORKLOAD_ERROR, f"ended by {name}: {remedy}", exit_code=pod.exit_code)


def anything_else(pod: Pod) -> Diagnosis | None:
    """Failed with an exit code that means nothing to us, or with none at all."""
    if not pod.ended:
        return None
    told = last_line(str((pod.culprit or {}).get("message", ""))) or one_line(str(pod.status.get("message", "")))
    where = f"see kubectl logs -n {pod.namespace} {pod.name}"
    message = f"{told}: {where}" if told else f"the workload failed without a word: {where}"
    return Diagnosis("Internal", Reason.WORKLOAD_ERROR, message, exit_code=pod.exit_code)


# --- What a pod waits for --------------------------------------------------------------------------------------------


def silent_node(pod: Pod) -> Diagnosis | None:
    """A pod that should be gone: its node is lost, and no other pod is made while this one might still write."""
    if not (stamp := pod.raw["metadata"].get("deletionTimestamp")):
        return None
    if pod.now < instant(stamp) + SILENCE or not pod.node:
        return None
    return Diagnosis(
        "Infrastructure",
        Reason.DISRUPTED,
        f"node {pod.node} does not answer, the pod should have stopped at {stamp}; where the node is gone for good, "
        f"kubectl delete node {pod.node} lets a new pod go on from the newest checkpoint",
        ended=False,
    )


CLAIM_MISSING = re.compile(r'persistentvolumeclaim "(?P<claim>[^"]+)" not found')
CLAIM_DELETED = re.compile(r'persistentvolumeclaim "(?P<claim>[^"]+)" is being deleted')
CLAIM_PROBLEMS = (
    "unbound immediate PersistentVolumeClaims",
    "persistent volumes to bind",
    "volume node affinity conflict",
)


def volume_not_ready(pod: Pod) -> Diagnosis | None:
    """The scheduler says so before any node is considered."""
    told = _not_scheduled(pod)
    if missing := CLAIM_MISSING.search(told):
        claim = missing["claim"]
        message = f"PersistentVolumeClaim {claim} does not exist in namespace {pod.namespace}: create it, or name another claim in pvc://"
    elif deleted := CLAIM_DELETED.search(told):
        message = (
            f"PersistentVolumeClaim {deleted['claim']} is being deleted: make it anew, or name another claim in pvc://"
        )
    elif any(problem in told for problem in CLAIM_PROBLEMS):
        claims = ", ".join(_claims(pod))
        message = f"a volume is not ready ({one_line(told).split('. ')[0]}): see kubectl describe pvc -n {pod.namespace} for {claims}"
    else:
        return None
    return Diagnosis("UserError", Reason.VOLUME_NOT_READY, message, ended=False)


def not_mounted(pod: Pod) -> Diagnosis | None:
    """On a node, but without volumes or network for too long: why, the kubelet tells in Events of the pod alone."""
    since = _waits_on_node_since(pod)
    if since is None or pod.now < since + PATIENCE:
        return None
    minutes = int(PATIENCE.total_seconds()) // 60
    message = (
        f"a volume (or the network) of the pod is not ready on node {pod.node} after {minutes} minutes: the events of "
        f"kubectl describe pod -n {pod.namespace} {pod.name} say which"
    )
    return Diagnosis("UserError", Reason.VOLUME_NOT_READY, message, ended=False)


SCHEDULING_REMEDIES = (
    ("Insufficient", "lower pod.resources, wait for other pods to end, or add a node that has them"),
    ("untolerated taint", "add the taint to pod.tolerations"),
    ("node affinity/selector", "correct pod.nodeSelector or pod.affinity"),
    ("unschedulable", "uncordon a node, or add one"),
)


def unschedulable(pod: Pod) -> Diagnosis | None:
    """No node fits; the message names what was asked for, since that is what can be changed."""
    told = _not_scheduled(pod)
    if not told:
        return None
    wanted = pod.resources("limits") | pod.resources("requests")
    asked = ", ".join(f"{name}: {value}" for name, value in sorted(wanted.items())) or "no resources"
    remedies = [remedy for word, remedy in SCHEDULING_REMEDIES if word in told] or ["see kubectl get nodes"]
    # What follows is about preemption: numbers that change with every other pod.
    nodes = one_line(told).split(" preemption:")[0].rstrip(". ")
    message = f"no node fits a pod that asks for {asked} ({nodes}): {'; '.join(remedies)}"
    return Diagnosis("Infrastructure", Reason.UNSCHEDULABLE, message, ended=False)


PULL_REASONS = (
    "ErrImagePull",
    "ImagePullBackOff",
    "InvalidImageName",
    "ErrImageNeverPull",
    "ImageInspectError",
    "RegistryUnavailable",
    "SignatureValidationFailed",
)
PULL_CAUSES = (
    (r"\bnot found\b|manifest unknown", "the registry has no such image: correct pod.image"),
    (
        r"unauthorized|authentication required|denied|403|401",
        "the registry wants credentials: add a Secret to pod.imagePullSecrets",
    ),
    (
        r"no such host|connection refused|timeout|deadline exceeded|unreachable|EOF|reset by peer",
        "the registry cannot be reached from the node: check its name in pod.image, and the node's network",
    ),
    (r"InvalidImageName|invalid reference|couldn't parse", "that is not an image name: correct pod.image"),
    (r"ErrImageNeverPull|Never", "it is not on the node, and pod.imagePullPolicy is Never"),
)
"""By pattern and not by the kubelet's words: those alternate between ErrImagePull and ImagePullBackOff every few seconds,
and each change would be a write."""


def unpullable(pod: Pod) -> Diagnosis | None:
    for container, reason, message in pod.waiting():
        if reason in PULL_REASONS:
            told = f"{reason} {message.replace(str(container.get('image')), '')}"
            cause = next(
                (text for pattern, text in PULL_CAUSES if re.search(pattern, told)), "see kubectl describe pod"
            )
            text = f"image {container.get('image')} cannot be pulled: {cause}"
            return Diagnosis("UserError", Reason.IMAGE_NOT_PULLABLE, text, ended=False)
    return None


CREATE_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError")


def not_created(pod: Pod) -> Diagnosis | None:
    """A Secret, a key or a user is missing; the kubelet tries again until it is there."""
    for _, reason, message in pod.waiting():
        if reason in CREATE_REASONS:
            told = one_line(message) or reason
            text = f"the container cannot be made: {told}: {_creation_remedy(told, pod)}"
            return Diagnosis("UserError", Reason.CONTAINER_NOT_CREATED, text, ended=False)
    return None


CHECKS: tuple[Callable[[Pod], Diagnosis | None], ...] = (
    disrupted,  # before the exit code: a pod killed on the way out ends with any
    evicted_by_its_own_limit,  # before the exit code: its containers were killed for it
    out_of_memory,  # before the signal that it came with
    by_exit_code,
    not_startable,
    by_signal,
    anything_else,  # the last word on pods that ended
    silent_node,  # before the rest: nothing of such a pod is news any more
    volume_not_ready,  # before unschedulable, whose condition it shares
    unschedulable,
    unpullable,
    not_created,
    not_mounted,
)
"""The first that speaks wins."""


# --- What the API server refuses -------------------------------------------------------------------------------------

QUOTA = re.compile(r"exceeded quota: (?P<quota>[^,]+), (?P<figures>requested: .*)")
QUOTA_WANTS = re.compile(r"failed quota: (?P<quota>[^:]+): must specify (?P<what>.*)")
POLICIES = (
    re.compile(r"ValidatingAdmissionPolicy '(?P<who>[^']+)'.*? denied request: (?P<why>.*)", re.DOTALL),
    re.compile(r'admission webhook "(?P<who>[^"]+)" denied the request: (?P<why>.*)', re.DOTALL),
    re.compile(r"(?P<who>violates PodSecurity) (?P<why>.*)", re.DOTALL),
)


def refusal(code: int, message: str, *, again: str = " in a job of another name") -> Refusal | None:
    """What a 4xx answer to the creation of a child or its pod means for the user, by the API server's own words. ``again``: how a
    spec is changed; a deployment's is changed in place.

    None for what is not the user's to mend: an outage, a namespace that is going, a bug of ours.
    """
    if code == 409 and "already exists" in message:
        return Refusal(
            Reason.NAME_CONFLICT,
            f"its child's name is taken ({one_line(message)}, and belongs to something else): delete that, or use a job of another name",
        )
    if found := QUOTA.search(message):
        return Refusal(
            Reason.QUOTA_EXCEEDED,
            f"quota {found['quota']} has no room ({one_line(found['figures'])}): lower pod.resources, wait for other jobs "
            "to end, or ask for a larger quota",
        )
    if found := QUOTA_WANTS.search(message):
        what = one_line(found["what"])
        return Refusal(Reason.QUOTA_EXCEEDED, f"quota {found['quota']} counts {what}: set them in pod.resources")
    for policy in POLICIES:
        if found := policy.search(message):
            who = "PodSecurity" if "PodSecurity" in found["who"] else f"admission policy {found['who']}"
            why = one_line(found["why"]).rstrip(".")
            return Refusal(
                Reason.ADMISSION_REFUSED,
                f"{who} refuses the pod: {why}: change pod{again}, or ask who set the policy",
            )
    if code == 403 and "cannot create resource" in message:
        return Refusal(
            Reason.ADMISSION_REFUSED,
            f"the operator has no right to create it ({one_line(message)}): apply manifests/rbac",
        )
    if code == 403 and "being terminated" in message:
        return None
    if code == 403:
        return Refusal(
            Reason.ADMISSION_REFUSED,
            f"the API server refuses the pod: {one_line(message)}: make what it asks for, or change pod{again}",
        )
    if code == 422:
        return Refusal(
            Reason.INVALID_SPEC,
            f"the API server refuses the pod: {one_line(message)}: correct pod{again}",
        )
    return None


# --- Reading ---------------------------------------------------------------------------------------------------------


def root_cause(states: list[Object]) -> Object | None:
    """Of several terminated containers the one whose exit says most, then the earliest: the others are collateral."""
    return min(states, key=lambda state: (_vagueness(state), str(state.get("finishedAt") or "~")), default=None)


def parse_last_word(text: str | None) -> Termination | None:
    """The termination message, if the workload wrote it; anything else (a log's tail, a truncated line) is None."""
    try:
        return Termination.model_validate_json(text or "")
    except ValidationError:
        return None


def last_line(text: str) -> str:
    """The last line that says something: of a traceback the exception, of a JSON log its message."""
    for line in reversed(text.strip().splitlines()):
        try:
            entry = json.loads(line)
        except ValueError:
            return one_line(line)
        if isinstance(entry, dict) and entry.get("message"):
            return one_line(str(entry["message"]))
    return ""


COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def one_line(text: str) -> str:
    line = " ".join(COLOURS.sub("", text).split())
    return line if len(line) <= LINE_LIMIT else line[: LINE_LIMIT - 1] + "…"


def instant(stamp: str) -> datetime:
    return datetime.fromisoformat(stamp.replace("Z", "+00:00"))


def ended_at(pod: Pod) -> str | None:
    """When its container ended; of a pod that vanished with its node, when that was noticed."""
    stamp = (pod.culprit or {}).get("finishedAt") or pod.condition("DisruptionTarget").get("lastTransitionTime")
    return str(stamp) if stamp else None


def _vagueness(state: Object) -> int:
    """0 for a cause that names itself, up to 3 for a peer that only lost its connection or was told to stop."""
    code = state.get("exitCode")
    if state.get("reason") == "OOMKilled" or code in NEVER_RETRIED or code == ExitCode.HUNG:
        return 0
    if code == ExitCode.INTERNAL:
        return 1
    return 3 if code in (ExitCode.INTERRUPTED, 128 + signal.SIGTERM, 128 + signal.SIGKILL) else 2


def _not_scheduled(pod: Pod) -> str:
    """What the scheduler says of a pod that it cannot place. A pod held by a scheduling gate only waits its turn."""
    condition = pod.condition("PodScheduled")
    if pod.ended or condition.get("status") != "False" or condition.get("reason") != "Unschedulable":
        return ""
    return str(condition.get("message", "")) or "the scheduler gave no reason"


def _waits_on_node_since(pod: Pod) -> datetime | None:
    """Since when a pod that is on a node has waited for its volumes and its network."""
    placed, ready = pod.condition("PodScheduled"), pod.condition("PodReadyToStartContainers")
    if pod.ended or placed.get("status") != "True" or ready.get("status") != "False":
        return None
    return instant(str(placed["lastTransitionTime"]))


def _claims(pod: Pod) -> list[str]:
    volumes: list[Object] = pod.raw.get("spec", {}).get("volumes") or []
    return [str(one["persistentVolumeClaim"]["claimName"]) for one in volumes if "persistentVolumeClaim" in one]


def _creation_remedy(told: str, pod: Pod) -> str:
    if found := re.search(r'(secret|configmap) "([^"]+)" not found', told):
        return (
            f"create it: kubectl create {found[1]} {'generic ' * (found[1] == 'secret')}{found[2]} -n {pod.namespace}"
        )
    if "couldn't find key" in told:
        return "add the key"
    if "non-root" in told or "runAsNonRoot" in told:
        return "pod.image must run as a user other than root"
    return f"see kubectl describe pod -n {pod.namespace} {pod.name}"
