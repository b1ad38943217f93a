"""What looks for room for the nodes that a job goes on without: a Job of as many pods as are missing, which ask for what theirs would ask."""

from __future__ import annotations

from alpaca_operator.api.contract import LABEL_SCOUT, SCOUT_SECONDS
from alpaca_operator.api.resource import Job
from alpaca_operator.plan import names, pod
from alpaca_operator.plan.base import Manifest
from alpaca_operator.settings import Settings

CONTAINER = "scout"
MARK = {LABEL_SCOUT: "true"}


def scout(resource: Job, settings: Settings) -> Manifest:
    """It ends by itself a minute after the pods of the job have to have stopped, should nobody be there to end it."""
    template, metadata = pod.template(resource, settings), names.child_metadata(resource)
    (workload,) = template["spec"]["containers"]
    missing = resource.nodes - resource.size
    does_nothing = {
        "name": CONTAINER,
        "command": ["python", "-c", "import signal; signal.pause()"],
        **{name: workload[name] for name in ("image", "imagePullPolicy", "resources") if name in workload},
        **pod.RESTRICTED,
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            **metadata,
            "name": names.scout_name(metadata["name"]),
            "labels": {**metadata["labels"], **MARK},
        },
        "spec": {
            "parallelism": missing,
            "completions": missing,
            "backoffLimit": 0,
            "activeDeadlineSeconds": SCOUT_SECONDS + resource.spec.pod.termination_grace_period_seconds,
            "template": {
                "metadata": {
                    "labels": {**template["metadata"]["labels"], **MARK},
                    "annotations": {**resource.spec.pod.annotations, **names.for_kueue(resource.metadata.annotations)},
                },
                # Volumes are not mounted, and still say in which zone there has to be room.
                "spec": {**template["spec"], "containers": [does_nothing], "terminationGracePeriodSeconds": 1},
            },
        },
    }
