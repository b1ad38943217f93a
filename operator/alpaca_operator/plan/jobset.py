"""A JobSet for several pods that train together: DNS names, restarts as a whole and Kueue's support are JobSet's work.

Its one Job has a pod for each node and never starts one again by itself: a pod that fails ends the Job, and the set starts it anew with
all its pods, from the newest checkpoint.
"""

from __future__ import annotations

from alpaca_operator.api.chain import note
from alpaca_operator.api.contract import (
    CONTAINER,
    ENV_ATTEMPT,
    ENV_COORDINATOR,
    ENV_JOBSET,
    ENV_NODE,
    ENV_NODES,
    ENV_POD,
    ENV_RUN_ID,
    IGNORED,
    LABEL_INDEX,
    LABEL_UID,
    NEVER_RETRIED,
    PROGRESS_PORT,
)
from alpaca_operator.api.resource import Job
from alpaca_operator.api.sources import resolved
from alpaca_operator.inputs import Inputs
from alpaca_operator.outcomes.observed import Observed
from alpaca_operator.plan import names, pod
from alpaca_operator.plan.base import Manifest, Plan
from alpaca_operator.plan.job import on_exit, plan_job
from alpaca_operator.settings import Settings

API_VERSION = "jobset.x-k8s.io/v1alpha2"
VERSION = "v0.12.0"
"""Of JobSet: the first whose failure policy reads messages."""
INSTALL = f"kubectl apply --server-side -f https://github.com/kubernetes-sigs/jobset/releases/download/{VERSION}/manifests.yaml"

LABEL_SET = "jobset.sigs.k8s.io/jobset-uid"
LABEL_ATTEMPT = "jobset.sigs.k8s.io/restart-attempt"
ANNOTATION_COORDINATOR = "jobset.sigs.k8s.io/coordinator"
"""Written on each pod by JobSet: the name that DNS knows node 0 by."""


def from_pod(path: str) -> Manifest:
    return {"fieldRef": {"fieldPath": path}}


IDENTITY: tuple[Manifest, ...] = (
    {"name": ENV_JOBSET, "valueFrom": from_pod(f"metadata.labels['{LABEL_SET}']")},
    {"name": ENV_ATTEMPT, "valueFrom": from_pod(f"metadata.labels['{LABEL_ATTEMPT}']")},
    {"name": ENV_POD, "valueFrom": from_pod("metadata.uid")},
    # One run in all pods; a pod of an older attempt that comes back finds itself to be no longer the newest. Suspended and resumed by a queue,
    # a set has the same attempt: what node 0 adds to this, of its pod, tells the pods of now from those of before.
    {"name": ENV_RUN_ID, "value": f"$({ENV_JOBSET})-$({ENV_ATTEMPT})"},
    {"name": ENV_NODE, "valueFrom": from_pod(f"metadata.labels['{LABEL_INDEX}']")},
    {"name": ENV_COORDINATOR, "valueFrom": from_pod(f"metadata.annotations['{ANNOTATION_COORDINATOR}']")},
)


def plan_nodes(resource: Job, inputs: Inputs, settings: Settings, observed: Observed | None = None) -> Plan:
    """One pod, or a JobSet of as many as the job has nodes."""
    if resource.nodes == 1:
        return plan_job(resource, inputs, settings)
    if refusal := pod.unfit(resource, settings):
        return Plan(refusal=refusal)
    spec = resolved(resource.spec, {field: found.uri for field, found in inputs.items()})
    resource = resource.model_copy(update={"spec": spec})
    found = note(inputs)
    template = pod.template(resource, settings, found, identity(resource))
    return Plan((network_policy(resource), several_pods(resource, template, found)))


def identity(resource: Job) -> list[Manifest]:
    """Which run a pod is, which node of it, and of how many where they are fewer than the spec asks for."""
    fewer: list[Manifest] = [{"name": ENV_NODES, "value": str(resource.size)}] if resource.size < resource.nodes else []
    return [*IDENTITY, *fewer]


def several_pods(resource: Job, template: Manifest, annotations: dict[str, str] | None = None) -> Manifest:
    """The JobSet, created once. Queueing systems write to it afterwards."""
    return {
        "apiVersion": API_VERSION,
        "kind": "JobSet",
        "metadata": names.child_metadata(resource, annotations),
        # No ttlSecondsAfterFinished, as with a Job.
        "spec": {
            # Nodes find each other before they are ready. The name of the Service is short: with that of a pod it has to fit a label.
            "network": {"enableDNSHostnames": True, "publishNotReadyAddresses": True, "subdomain": subdomain(resource)},
            "coordinator": {"replicatedJob": names.NODE, "jobIndex": 0, "podIndex": 0},
            "failurePolicy": {
                "maxRestarts": resource.restarts_left,
                # No pod of the next attempt starts beside one that still saves.
                "restartStrategy": "BlockingRecreate",
                "rules": failure_rules(),
            },
            "replicatedJobs": [
                {
                    "name": names.NODE,
                    "replicas": 1,
                    "template": {
                        "metadata": {"labels": names.labels(resource)},
                        "spec": {
                            "completionMode": "Indexed",
                            "parallelism": resource.size,
                            "completions": resource.size,
                            "backoffLimit": 0,
                            "podFailurePolicy": {"rules": pod_failure_rules()},
                            "podReplacementPolicy": "Failed",
                            "template": template,
                        },
                    },
                }
            ],
        },
    }


def network_policy(resource: Job) -> Manifest:
    """Who reaches the pods: each other on every port, for what NCCL and gloo listen on is theirs to choose and not encrypted; progress is
    for everybody. What they reach is not ours to say: downloads and storage are where the user has them."""
    metadata, ours = resource.metadata, names.labels(resource)
    own = {"podSelector": {"matchLabels": {LABEL_UID: ours[LABEL_UID]}}}
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": names.child_name(resource),
            "namespace": metadata.namespace,
            "labels": ours,
            "ownerReferences": [names.owner(resource)],
        },
        "spec": {
            **own,
            "policyTypes": ["Ingress"],
            "ingress": [{"from": [own]}, {"ports": [{"port": PROGRESS_PORT, "protocol": "TCP"}]}],
        },
    }


def subdomain(resource: Job) -> str:
    """The headless Service that JobSet makes for the names of the pods."""
    return f"n-{(resource.metadata.uid or '')[:8]}"


def pod_failure_rules() -> list[Manifest]:
    """They end the Job at once in every case; by its message, which names the rule's match, the set knows why."""
    return [
        {"action": "FailJob", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        on_exit("FailJob", *IGNORED),
        on_exit("FailJob", *NEVER_RETRIED),
    ]


def failure_rules() -> list[Manifest]:
    """What becomes of the set when its Job has failed: the first rule that matches decides, and what none matches counts towards maxRestarts.

    The messages are the Job controller's (pkg/controller/job/pod_failure_policy.go): "Container workload for pod … failed with exit code 65
    matching FailJob rule at index 2", "Pod … has condition DisruptionTarget matching FailJob rule at index 0".
    """
    return [
        # Asked for by us alone: how a set is stopped whose end is told already.
        {"name": "stopped", "action": "FailJobSet", "onJobFailureReasons": ["DeadlineExceeded"]},
        {
            "name": "disrupted",
            "action": "RestartJobSetAndIgnoreMaxRestarts",
            "onJobFailureReasons": ["PodFailurePolicy"],
            "onJobFailureMessagePatterns": ["has condition DisruptionTarget matching", _exit_code(IGNORED)],
        },
        {
            "name": "futile",
            "action": "FailJobSet",
            "onJobFailureReasons": ["PodFailurePolicy"],
            "onJobFailureMessagePatterns": [_exit_code(NEVER_RETRIED)],
        },
    ]


def _exit_code(codes: tuple[int, ...]) -> str:
    return f"Container {CONTAINER} for pod .* failed with exit code ({'|'.join(str(int(code)) for code in sorted(codes))}) matching"
