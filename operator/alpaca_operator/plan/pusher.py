"""What pushes the output of a finished job to the places of its `publish`: a Job of one pod, without a GPU."""

from __future__ import annotations

from collections.abc import Sequence

from alpaca_operator.api.contract import (
    ANNOTATION_CONFIG,
    ANNOTATION_PUSHES,
    CONFIG_PATH,
    ENV_PUSH,
    ENV_PUSH_DIGEST,
    LABEL_PUSHER,
    place_prefix,
)
from alpaca_operator.api.publication import Publication, publications, word
from alpaca_operator.api.resource import Job
from alpaca_operator.plan import names, pod
from alpaca_operator.plan.base import Manifest
from alpaca_operator.plan.job import failure_rules
from alpaca_operator.settings import Settings

MARK = {LABEL_PUSHER: "true"}
RESOURCES: Manifest = {"requests": {"cpu": "1", "memory": "1Gi"}, "limits": {"memory": "4Gi"}}
"""Files are sent in pieces: a model of any size needs no more."""


def pusher(resource: Job, places: Sequence[int], settings: Settings) -> Manifest:
    """It pushes to those ``places`` of `publish` that have these numbers. What is there already it leaves as it is, so that it may be
    made as often as need be."""
    metadata = names.child_metadata(resource)
    asked = publications(resource.spec)
    digest = resource.status.output.digest if resource.status and resource.status.output else None
    template = pod.template(resource, settings)
    (container,) = template["spec"]["containers"]
    told = {
        ENV_PUSH: ",".join(map(str, places)),
        **({ENV_PUSH_DIGEST: digest} if digest else {}),
    }
    pushes = {
        **container,
        "command": ["python", "-m", "workloads.publish", CONFIG_PATH],
        "env": [*container["env"], *({"name": name, "value": value} for name, value in told.items())],
        "resources": RESOURCES,
        **pod.given(envFrom=[*container.get("envFrom", []), *_secrets(places, asked)]),
    }
    frame = {name: part for name, part in template["spec"].items() if name != "resourceClaims"}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {
            **metadata,
            "name": names.pusher_name(metadata["name"]),
            "labels": {**metadata["labels"], **MARK},
            "annotations": {
                **metadata.get("annotations", {}),
                ANNOTATION_PUSHES: " ".join(word(asked[number], digest) for number in places),
            },
        },
        "spec": {
            "parallelism": 1,
            "completions": 1,
            "backoffLimit": resource.spec.failure_policy.max_restarts,
            "podFailurePolicy": {"rules": failure_rules()},
            "podReplacementPolicy": "Failed",
            "template": {
                "metadata": {
                    "labels": {**template["metadata"]["labels"], **MARK},
                    "annotations": {**template["metadata"]["annotations"], ANNOTATION_CONFIG: pod.config(resource, {})},
                },
                "spec": {**frame, "containers": [pushes]},
            },
        },
    }


def _secrets(places: Sequence[int], asked: Sequence[Publication]) -> list[Manifest]:
    """Those of the places, each under a prefix of its own: two hubs may each have an `HF_TOKEN`."""
    return [
        {"prefix": place_prefix(number), "secretRef": {"name": secret.name}}
        for number in places
        if (secret := asked[number].secret_ref)
    ]
