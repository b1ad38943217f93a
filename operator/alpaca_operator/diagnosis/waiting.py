"""What a pod waits for."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

from alpaca_operator.api.contract import CONTAINER, CONTAINERS, FRONT_CONTAINER, PAGE_CONTAINER
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.objects import parse_time
from alpaca_operator.diagnosis.model import Diagnosis
from alpaca_operator.diagnosis.pod import ExaminedPod
from alpaca_operator.diagnosis.text import one_line

SILENCE = timedelta(seconds=60)
"""A kubelet that answers has removed a pod well within this after its grace period."""
PATIENCE = timedelta(minutes=2)
"""Volumes are attached and mounted well within this; a pull of the image comes after them and is not counted."""


def silent_node(pod: ExaminedPod) -> Diagnosis | None:
    """A pod that should be gone: its node is lost, and no other pod is made while this one might still write."""
    if not (stamp := pod.deletion_timestamp):
        return None
    if pod.now < parse_time(stamp) + SILENCE or not pod.node:
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


def volume_not_ready(pod: ExaminedPod) -> Diagnosis | None:
    """The scheduler says so before any node is considered."""
    reported = _not_scheduled(pod)
    if missing := CLAIM_MISSING.search(reported):
        claim = missing["claim"]
        message = f"PersistentVolumeClaim {claim} does not exist in namespace {pod.namespace}: create it, or name another claim in pvc://"
    elif deleted := CLAIM_DELETED.search(reported):
        message = (
            f"PersistentVolumeClaim {deleted['claim']} is being deleted: make it anew, or name another claim in pvc://"
        )
    elif any(problem in reported for problem in CLAIM_PROBLEMS):
        claims = ", ".join(pod.claims)
        message = f"a volume is not ready ({one_line(reported).split('. ')[0]}): see kubectl describe pvc -n {pod.namespace} for {claims}"
    else:
        return None
    return Diagnosis("UserError", Reason.VOLUME_NOT_READY, message, ended=False)


def not_mounted(pod: ExaminedPod) -> Diagnosis | None:
    """On a node, but without volumes or network for too long: why, the kubelet tells in Events of the pod alone."""
    since = waits_on_node_since(pod)
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


def unschedulable(pod: ExaminedPod) -> Diagnosis | None:
    """No node fits; the message names what was asked for, since that is what can be changed."""
    reported = _not_scheduled(pod)
    if not reported:
        return None
    wanted = pod.asks_for("limits") | pod.asks_for("requests")
    asked = ", ".join(f"{name}: {value}" for name, value in sorted(wanted.items())) or "no resources"
    remedies = [remedy for word, remedy in SCHEDULING_REMEDIES if word in reported] or ["see kubectl get nodes"]
    # What follows is about preemption: numbers that change with every other pod.
    nodes = one_line(reported).split(" preemption:")[0].rstrip(". ")
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
    (r"\bnot found\b|manifest unknown", "the registry has no such image: correct {image}"),
    (
        r"unauthorized|authentication required|denied|403|401",
        "the registry wants credentials: add a Secret to pod.imagePullSecrets",
    ),
    (
        r"no such host|connection refused|timeout|deadline exceeded|unreachable|EOF|reset by peer",
        "the registry cannot be reached from the node: check its name in {image}, and the node's network",
    ),
    (r"InvalidImageName|invalid reference|couldn't parse", "that is not an image name: correct {image}"),
    (r"ErrImageNeverPull|Never", "it is not on the node, and pod.imagePullPolicy is Never"),
)
"""By pattern and not by the kubelet's words: those alternate between ErrImagePull and ImagePullBackOff every few seconds,
and each change would be a write."""


def unpullable(pod: ExaminedPod) -> Diagnosis | None:
    for container, waiting in pod.waiting():
        if waiting.reason in PULL_REASONS:
            reported = f"{waiting.reason} {waiting.message.replace(str(container.image), '')}"
            cause = next(
                (text for pattern, text in PULL_CAUSES if re.search(pattern, reported)), "see kubectl describe pod"
            )
            field = "page.image" if container.name in (PAGE_CONTAINER, FRONT_CONTAINER) else "pod.image"
            text = f"image {container.image} cannot be pulled: {cause.format(image=field)}"
            return Diagnosis("UserError", Reason.IMAGE_NOT_PULLABLE, text, ended=False)
    return None


def held_up(pod: ExaminedPod) -> Diagnosis | None:
    """A container that others put before the workload fails again and again: it does not start before that one has."""
    workload = pod.container(CONTAINER)
    if workload is None or workload.waiting is None:
        return None
    for one, waiting in pod.waiting():
        if one.name not in CONTAINERS and waiting.reason == "CrashLoopBackOff":
            how = f" (exit {one.last_terminated.exit_code})" if one.last_terminated else ""
            text = (
                f"container {one.name}, which is not of the operator, fails again and again{how}, and the workload waits for it: see kubectl "
                f"logs -n {pod.namespace} {pod.name} -c {one.name}, or ask who adds it to pods"
            )
            return Diagnosis("Infrastructure", Reason.CONTAINER_NOT_CREATED, text, ended=False)
    return None


CREATE_REASONS = ("CreateContainerConfigError", "CreateContainerError", "RunContainerError", "PreCreateHookError")


def not_created(pod: ExaminedPod) -> Diagnosis | None:
    """A Secret, a key or a user is missing; the kubelet tries again until it is there."""
    for _, waiting in pod.waiting():
        if waiting.reason in CREATE_REASONS:
            reported = one_line(waiting.message) or waiting.reason
            text = f"the container cannot be made: {reported}: {_creation_remedy(reported, pod)}"
            return Diagnosis("UserError", Reason.CONTAINER_NOT_CREATED, text, ended=False)
    return None


def _not_scheduled(pod: ExaminedPod) -> str:
    """What the scheduler says of a pod that it cannot place. A pod held by a scheduling gate only waits its turn."""
    condition = pod.condition("PodScheduled")
    if pod.ended or condition.status != "False" or condition.reason != "Unschedulable":
        return ""
    return condition.message or "the scheduler gave no reason"


def waits_on_node_since(pod: ExaminedPod) -> datetime | None:
    """Since when a pod that is on a node has waited for its volumes and its network."""
    placed, ready = pod.condition("PodScheduled"), pod.condition("PodReadyToStartContainers")
    if pod.ended or not placed.is_true or ready.status != "False":
        return None
    return parse_time(placed.last_transition_time)


def _creation_remedy(reported: str, pod: ExaminedPod) -> str:
    if found := re.search(r'(secret|configmap) "([^"]+)" not found', reported):
        return (
            f"create it: kubectl create {found[1]} {'generic ' * (found[1] == 'secret')}{found[2]} -n {pod.namespace}"
        )
    if "couldn't find key" in reported:
        return "add the key"
    if "non-root" in reported or "runAsNonRoot" in reported:
        return "pod.image must run as a user other than root"
    return f"see kubectl describe pod -n {pod.namespace} {pod.name}"
