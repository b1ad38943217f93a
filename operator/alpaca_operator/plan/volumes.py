"""What a pod mounts: the claims behind every pvc:// of the spec, the user's volumes, and places to write."""

from __future__ import annotations

import posixpath
from dataclasses import dataclass

from alpaca_operator.api import Resource
from alpaca_operator.api.contract import ANNOTATION_CONFIG, CONFIG_PATH, MOUNT_ROOT
from alpaca_operator.api.resource import ResourceSpec
from alpaca_operator.api.sources import sources
from alpaca_operator.plan.base import Manifest

PVC = "pvc://"
MOUNT_FIELDS = ("mountPath", "readOnly", "recursiveReadOnly", "subPath", "subPathExpr", "mountPropagation")
"""Of an entry of pod.volumes those that are the mount's. What else it has besides its name is the volume's: its source."""
OUTLIVES_ITS_POD = frozenset(
    {
        "persistentVolumeClaim",
        "nfs",
        "hostPath",
        "iscsi",
        "fc",
        "cephfs",
        "rbd",
        "glusterfs",
        "azureFile",
        "azureDisk",
        "awsElasticBlockStore",
        "gcePersistentDisk",
        "vsphereVolume",
        "cinder",
        "portworxVolume",
        "quobyte",
        "scaleIO",
        "storageos",
        "photonPersistentDisk",
    }
)
"""Sources whose content is still there when the pod is gone. All others are made for the pod (emptyDir, ephemeral, csi, which Kubernetes
has for ephemeral volumes alone) or cannot be written to (configMap, secret, image)."""


def claim_of(uri: str | None) -> str | None:
    """The claim that a URI names, if it is a pvc:// one."""
    return uri.removeprefix(PVC).partition("/")[0] if uri and uri.startswith(PVC) else None


def claims(spec: ResourceSpec) -> dict[str, bool]:
    """Every claim that the spec names, and whether it is written to. A claim is mounted once: what holds an input beside the
    output or the cache has to be writable."""
    # Adapters' last, and by their names: those of a chat come and go, and what else is mounted stays as it is.
    of_adapters = {claim_of(source.uri) or "" for field, source in sources(spec) if field.startswith("adapters[")}
    read = [claim_of(source.uri) for field, source in sources(spec) if not field.startswith("adapters[")]
    written = [*map(claim_of, spec.written_to), spec.cache.claim_name if spec.cache else None]
    return {claim: claim in written for claim in dict.fromkeys([*read, *written, *sorted(of_adapters)]) if claim}


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
        {key: value for key, value in volume.items() if key not in MOUNT_FIELDS} for volume in resource.spec.pod.volumes
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
    users = [
        {"name": volume["name"], **{key: volume[key] for key in MOUNT_FIELDS if key in volume}}
        for volume in resource.spec.pod.volumes
    ]
    taken = _taken(resource)
    return [mount for mount in own if mount["name"] not in taken] + claimed + users


def _taken(resource: Resource) -> set[str]:
    """Of our volumes those whose place the user has given to one of their own."""
    places = {"/tmp": "alpaca-tmp", "/dev/shm": "alpaca-shm"}
    return {places[path] for volume in resource.spec.pod.volumes if (path := volume["mountPath"].rstrip("/")) in places}


@dataclass(frozen=True, slots=True)
class Place:
    """The volume that a path of the pod lies on."""

    volume: str
    source: str
    """`persistentVolumeClaim`, `emptyDir`, …"""
    below: bool
    """Whether the path is below the mount: a mount point itself can be neither renamed nor replaced."""
    read_only: bool

    @property
    def outlives_the_pod(self) -> bool:
        return self.source in OUTLIVES_ITS_POD


def sources_of(volume: Manifest) -> list[str]:
    """What an entry of pod.volumes says of where its content is. Without any the API server makes it an emptyDir, unasked."""
    return [key for key, value in volume.items() if key not in (*MOUNT_FIELDS, "name") and value is not None]


def path_of(uri: str) -> str | None:
    """Where a URI lies in the pod; None of what lies elsewhere."""
    if uri.startswith(PVC):
        return posixpath.normpath(f"{MOUNT_ROOT}/{uri.removeprefix(PVC)}")
    if "://" in uri and not uri.startswith("file://"):
        return None
    return posixpath.normpath(uri.removeprefix("file://"))


def place_of(path: str, resource: Resource) -> Place | None:
    """The innermost of the pod's mounts around ``path``, as the kernel finds it; None for the container's own file system."""
    around = [mount for mount in mounts(resource) if _is_within(path, _normal(mount["mountPath"]))]
    if not around:
        return None
    mount = max(around, key=lambda one: len(_normal(one["mountPath"])))
    volume = next(one for one in volumes(resource) if one["name"] == mount["name"])
    [source] = sources_of(volume) or ["emptyDir"]
    content = volume.get(source)
    return Place(
        volume=mount["name"],
        source=source,
        below=path != _normal(mount["mountPath"]),
        read_only=bool(mount.get("readOnly") or (isinstance(content, dict) and content.get("readOnly"))),
    )


def _normal(path: str) -> str:
    return posixpath.normpath(f"/{path.lstrip('/')}")


def _is_within(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder.rstrip('/')}/")
