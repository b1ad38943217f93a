"""What a pod mounts: the claims behind every pvc:// of the spec, the user's volumes, and places to write."""

from __future__ import annotations

from alpaca_operator.api import Resource
from alpaca_operator.api.contract import ANNOTATION_CONFIG, CONFIG_PATH, MOUNT_ROOT
from alpaca_operator.api.resource import ResourceSpec
from alpaca_operator.api.sources import sources
from alpaca_operator.plan.base import Manifest

PVC = "pvc://"


def claim_of(uri: str | None) -> str | None:
    """The claim that a URI names, if it is a pvc:// one."""
    return uri.removeprefix(PVC).partition("/")[0] if uri and uri.startswith(PVC) else None


def claims(spec: ResourceSpec) -> dict[str, bool]:
    """Every claim that the spec names, and whether it is written to. A claim is mounted once: what holds an input beside the
    output or the cache has to be writable."""
    read = [claim_of(source.uri) for _, source in sources(spec)]
    written = [*map(claim_of, spec.written_to), spec.cache.claim_name if spec.cache else None]
    return {claim: claim in written for claim in dict.fromkeys([*read, *written]) if claim}


def volumes(resource: Resource) -> list[Manifest]:
    own: list[Manifest] = [
        {
            "name": "alpaca-config",
            "downwardAPI": {
                "items": [
                    {
                        "path": CONFIG_PATH.rpartition("/")[2],
                        "fieldRef": {"fieldPath": f"metadata.annotations['{ANNOTATION_CONFIG}']"},
                    }
                ]
            },
        },
        {"name": "alpaca-tmp", "emptyDir": {}},
        {"name": "alpaca-shm", "emptyDir": {"medium": "Memory", "sizeLimit": resource.spec.pod.shm_size}},
    ]
    claimed: list[Manifest] = [
        {"name": f"alpaca-claim-{number}", "persistentVolumeClaim": {"claimName": claim}}
        for number, claim in enumerate(claims(resource.spec))
    ]
    users = [
        {key: value for key, value in volume.items() if key != "mountPath"} for volume in resource.spec.pod.volumes
    ]
    taken = _taken(resource)
    return [volume for volume in own if volume["name"] not in taken] + claimed + users


def mounts(resource: Resource) -> list[Manifest]:
    own: list[Manifest] = [
        {"name": "alpaca-config", "mountPath": CONFIG_PATH.rpartition("/")[0], "readOnly": True},
        # The root file system is read-only: libraries keep caches and compiled kernels here.
        {"name": "alpaca-tmp", "mountPath": "/tmp"},
        # Data loaders and NCCL share memory; a container's own /dev/shm has 64 MiB.
        {"name": "alpaca-shm", "mountPath": "/dev/shm"},
    ]
    claimed = [
        {"name": f"alpaca-claim-{number}", "mountPath": f"{MOUNT_ROOT}/{claim}", "readOnly": not written}
        for number, (claim, written) in enumerate(claims(resource.spec).items())
    ]
    users = [{"name": volume["name"], "mountPath": volume["mountPath"]} for volume in resource.spec.pod.volumes]
    taken = _taken(resource)
    return [mount for mount in own if mount["name"] not in taken] + claimed + users


def _taken(resource: Resource) -> set[str]:
    """Of our volumes those whose place the user has given to one of their own."""
    places = {"/tmp": "alpaca-tmp", "/dev/shm": "alpaca-shm"}
    return {places[path] for volume in resource.spec.pod.volumes if (path := volume["mountPath"].rstrip("/")) in places}
