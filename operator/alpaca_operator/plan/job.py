"""A batch/v1 Job for one pod, or for several that share the work and each go on for themselves: restarts, deadlines and what counts as a
failure are the Job controller's work."""

from __future__ import annotations

from alpaca_operator.api.chain import note
from alpaca_operator.api.contract import (
    CONTAINER,
    ENV_GROUP,
    ENV_NODE,
    IGNORED,
    LABEL_INDEX,
    NEVER_RETRIED,
)
from alpaca_operator.api.resource import Job
from alpaca_operator.api.sources import resolved
from alpaca_operator.inputs import Inputs
from alpaca_operator.outcomes.observed import Observed
from alpaca_operator.plan import names, pod
from alpaca_operator.plan.base import Manifest, Plan
from alpaca_operator.settings import Settings

STOP_PATCH: Manifest = {"spec": {"activeDeadlineSeconds": 1}}
"""Merged into a Job, it ends it: running pods get their grace period, no more are made, those that ended stay for their logs."""


STOP_POD_PATCH: Manifest = {"spec": {"activeDeadlineSeconds": 1}}
"""Merged into a pod, it ends it: unlike a deletion that leaves the pod and its logs, and the Job controller hears of it."""


LABEL_JOB = "batch.kubernetes.io/controller-uid"
"""On each pod by the Job controller: the UID of its Job."""

ONE_OF_SEVERAL: tuple[Manifest, ...] = (
    *pod.POD_IDENTITY,  # each a run of its own: a first pod that was lost and comes back is no longer the newest
    {"name": ENV_NODE, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{LABEL_INDEX}']"}}},
    {"name": ENV_GROUP, "valueFrom": {"fieldRef": {"fieldPath": f"metadata.labels['{LABEL_JOB}']"}}},
)
"""Which run a pod is, and which of those that share the work."""


def plan_job(resource: Job, inputs: Inputs, settings: Settings, observed: Observed | None = None) -> Plan:
    """One Job, whose workload reads URIs where the resource named other jobs, and is told what must lie there. It has one pod, or as many as
    the job has nodes."""
    if refusal := pod.unfit(resource, settings):
        return Plan(refusal=refusal)
    spec = resolved(resource.spec, {field: found.uri for field, found in inputs.items()})
    resource = resource.model_copy(update={"spec": spec})
    found = note(inputs)
    identity = pod.POD_IDENTITY if resource.nodes == 1 else ONE_OF_SEVERAL
    return Plan((one_job(resource, pod.template(resource, settings, found, identity), found),))


def one_job(resource: Job, template: Manifest, annotations: dict[str, str] | None = None) -> Manifest:
    """The Job, created once. Queueing systems write to it afterwards, so nothing but ``drift`` is ever changed by us."""
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": names.child_metadata(resource, annotations),
        # No ttlSecondsAfterFinished: a Job that is gone before its end was recorded would be run again. The operator deletes
        # it once the status has the end.
        "spec": {
            "parallelism": resource.nodes,
            "completions": resource.nodes,
            **(_each_for_itself() if resource.nodes > 1 else {}),
            "backoffLimit": resource.restarts_left,
            "podFailurePolicy": {"rules": failure_rules()},
            # A pod that is being deleted may still save a checkpoint.
            "podReplacementPolicy": "Failed",
            **pod.given(activeDeadlineSeconds=resource.seconds_left),
            "template": template,
        },
    }


def _each_for_itself() -> Manifest:
    """A pod that is lost is replaced by one of its number; the first publishes, and with that the work of all is done. The limit on failures
    is that of all pods together, as the spec says it: one for each index would allow as many times more."""
    return {"completionMode": "Indexed", "successPolicy": {"rules": [{"succeededIndexes": "0"}]}}


def on_exit(action: str, *codes: int) -> Manifest:
    """A rule of a podFailurePolicy on the exit code of the workload."""
    return {
        "action": action,
        "onExitCodes": {"containerName": CONTAINER, "operator": "In", "values": sorted(map(int, codes))},
    }


def failure_rules() -> list[Manifest]:
    """The first that matches decides; what none matches counts towards backoffLimit."""
    return [
        # First: a pod killed on its way out may end with any exit code.
        {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
        on_exit("Ignore", *IGNORED),
        on_exit("FailJob", *NEVER_RETRIED),
    ]


def drift(wanted: Manifest, live: Manifest) -> Manifest | None:
    """What a Job that exists should get: the one mutable field of the spec that it carries, and while it waits the queue that it waits
    in. As a merge patch, None for nothing."""
    deadline = wanted["spec"].get("activeDeadlineSeconds")
    patch: Manifest = {}
    if live["spec"].get("activeDeadlineSeconds") != deadline:
        patch["spec"] = {"activeDeadlineSeconds": deadline}
    if "metadata" in wanted and live["spec"].get("suspend"):  # Kueue refuses another queue to a Job that runs
        asked, has = (names.for_kueue(one["metadata"].get("labels") or {}) for one in (wanted, live))
        if changed := {name: asked[name] for name in asked if has.get(name) != asked[name]}:
            patch["metadata"] = {"labels": changed}
    return patch or None
