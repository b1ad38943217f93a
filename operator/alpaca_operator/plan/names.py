"""Names and labels of children: how they are found again, and whose they are."""

from __future__ import annotations

from collections.abc import Mapping

from alpaca_operator.api import Resource
from alpaca_operator.api.contract import (
    KUEUE_PREFIX,
    LABEL_KIND,
    LABEL_MANAGED_BY,
    LABEL_NAME,
    LABEL_UID,
    MANAGED_BY,
)
from alpaca_operator.plan.base import Manifest

NODE = "node"
"""The replicated Job of a JobSet: its pods are `<set>-node-0-<n>-xxxxx`."""


def child_name(resource: Resource) -> str:
    """`<resource>-<noun>`. One child has one name, so that creating it twice cannot make two."""
    return f"{resource.metadata.name}-{resource.workload}"


def scout_name(child: str) -> str:
    """Of the Job that looks for room."""
    return f"{child}-scout"


def pusher_name(child: str) -> str:
    """Of the Job that pushes what the child has made; as short as the longest names need."""
    return f"{child}-pub"


def page_name(child: str) -> str:
    """Of the Deployment and the Service of a page in pods of its own."""
    return f"{child}-page"


def pods_name(child: str) -> str:
    """Of the Service without an address that names all pods of an engine, ready or not."""
    return f"{child}-pods"


def job_of_set(child: str) -> str:
    """As JobSet names the one Job of a set."""
    return f"{child}-{NODE}-0"


def labels(resource: Resource) -> dict[str, str]:
    """Of every child and every pod; the UID tells a resource from an earlier one of its name."""
    return {
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_KIND: resource.kind,
        LABEL_NAME: resource.metadata.name,
        LABEL_UID: resource.metadata.uid or "",
    }


def for_kueue(carried: Mapping[str, str]) -> dict[str, str]:
    """The labels or annotations that Kueue reads: `kueue.x-k8s.io/…`, and those of its parts (`provreq.kueue.x-k8s.io/…`)."""
    domain = KUEUE_PREFIX.rstrip("/")
    return {key: value for key, value in carried.items() if key.partition("/")[0].endswith(domain)}


def owner(resource: Resource) -> Manifest:
    """Deleting the resource deletes the child, and waits for it where the deletion is in the foreground."""
    return {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "name": resource.metadata.name,
        "uid": resource.metadata.uid,
        "controller": True,
        "blockOwnerDeletion": True,
    }


def child_metadata(resource: Resource, annotations: Mapping[str, str] | None = None) -> Manifest:
    """Of what makes the pods: found by its labels, the resource's own, and known to queueing systems by what they read."""
    metadata = resource.metadata
    annotations = for_kueue(metadata.annotations) | dict(annotations or {})
    return {
        "name": child_name(resource),
        "namespace": metadata.namespace,
        "labels": for_kueue(metadata.labels) | labels(resource),
        **({"annotations": annotations} if annotations else {}),
        "ownerReferences": [owner(resource)],
    }
