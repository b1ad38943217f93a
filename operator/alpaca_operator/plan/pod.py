"""The pod of a job: one container that runs the workload, and passes PodSecurity `restricted`."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence, Set
from typing import Any

from alpaca_operator.api import Resource
from alpaca_operator.api.contract import (
    ANNOTATION_CONFIG,
    CONFIG_PATH,
    CONTAINER,
    ENV_CACHE,
    ENV_IN_POD,
    ENV_RUN_ID,
    ENV_SECRETS,
    MOUNT_ROOT,
    PROGRESS_PORT,
    TERMINATION_PATH,
    secret_prefix,
)
from alpaca_operator.api.endpoint import KeyReference, endpoints, key_variable
from alpaca_operator.api.model import QUANTITY
from alpaca_operator.api.pod import PodSettings
from alpaca_operator.api.resource import Job
from alpaca_operator.api.sources import sources
from alpaca_operator.api.status import Reason
from alpaca_operator.exits import Exit, Refused
from alpaca_operator.plan import names
from alpaca_operator.plan.base import Manifest
from alpaca_operator.plan.volumes import PVC, mounts, path_of, place_of, sources_of, volumes
from alpaca_operator.settings import Settings

USER = 65532
"""The user and group of the images; also the group that owns what is written to volumes."""
CACHE_FOLDER = ".literary-alpaca"
"""In the claim of `cache`, which may hold other things too."""


def unfit(resource: Job, settings: Settings) -> Exit | None:
    """Why a valid spec cannot run in a pod: known before one is made, and cheaper to hear than from a pod that ran for hours."""
    return unmountable(resource) or _without_image(resource, settings) or _lost_with_the_pod(resource)


QUANTITIES = ("emptyDir.sizeLimit", "requests.storage", "limits.storage", "resourceFieldRef.divisor")
"""Fields in the pieces of a pod that are handed on as they are. Of a wrong one the API server names neither field nor value."""


def _unreadable_quantity(settings: PodSettings) -> str | None:
    pieces: dict[str, Any] = {f"pod.volumes[{number}]": volume for number, volume in enumerate(settings.volumes)}
    pieces |= {f"pod.env[{number}].valueFrom": one.value_from for number, one in enumerate(settings.env)}
    for path, value in (found for place, piece in pieces.items() for found in _leaves(piece, place)):
        if path.endswith(QUANTITIES) and not (isinstance(value, int | float) or re.fullmatch(QUANTITY, str(value))):
            return f"{path} is {value!r}, which is no quantity: write a number, such as 5Gi or 500M"
    return None


def _leaves(piece: Any, path: str) -> Iterator[tuple[str, Any]]:
    if isinstance(piece, dict):
        for name, value in piece.items():
            yield from _leaves(value, f"{path}.{name}")
    elif isinstance(piece, list):
        for number, value in enumerate(piece):
            yield from _leaves(value, f"{path}[{number}]")
    elif piece is not None:
        yield path, piece


def unmountable(resource: Resource) -> Exit | None:
    """Volumes are handed on as they are, but for what we read of them."""
    for number, volume in enumerate(resource.spec.pod.volumes):
        for key in ("name", "mountPath"):
            if not isinstance(volume.get(key), str):
                problem = f"pod.volumes[{number}] has no {key}: a volume needs name and mountPath besides its source"
                return invalid(problem, resource)
        if len(found := sources_of(volume)) != 1:
            has = f"has {len(found)} sources ({', '.join(found)})" if found else "has no source"
            problem = f"pod.volumes[{number}] ({volume['name']}) {has}: name one, such as persistentVolumeClaim: {{claimName: …}}"
            return invalid(problem, resource)
    unreadable = _unreadable_quantity(resource.spec.pod)
    return invalid(unreadable, resource) if unreadable else None


def _without_image(resource: Job, settings: Settings) -> Exit | None:
    spec = resource.spec
    if spec.pod.image is None and resource.kind not in settings.images:
        variable = f"ALPACA_IMAGE_{resource.kind.upper()}"
        return invalid(
            f"pod.image is not set, and the operator has no image for {resource.kind}: set it, or the operator's {variable}",
            resource,
        )
    return None


def _lost_with_the_pod(resource: Job) -> Exit | None:
    """An output that nobody would find after the pod: what it is written to has to outlive it."""
    uri = resource.spec.output.uri
    path = path_of(uri)
    if path is None:
        return None
    place, remedy = place_of(path, resource), "write pvc://<claim>/<folder> or s3://<bucket>/<key>"
    if place is not None and place.outlives_the_pod and place.below and not place.read_only:
        return None
    if place is None or not place.outlives_the_pod:
        theirs = place is not None and any(volume["name"] == place.volume for volume in resource.spec.pod.volumes)
        where = f"on volume {place.volume} ({place.source})" if place and theirs else "within the pod"
        volume = "a volume that outlives it there" if theirs else "a volume there"
        problem = f"lies {where} and would be lost with it: {remedy}, or mount {volume} (pod.volumes)"
    elif not place.below:
        problem = "names no folder within a claim: write pvc://<claim>/<folder>"
        if not uri.startswith(PVC):
            problem = f"is where volume {place.volume} is mounted: name a folder below it, so that it can be replaced as a whole"
    else:
        problem = f"lies on volume {place.volume}, which is mounted read-only: {remedy}, or remove its readOnly"
    return invalid(f"output.uri {uri} {problem}", resource)


def invalid(message: str, resource: Resource) -> Exit:
    again = "; the spec is immutable, so in a job of another name" if resource.spec.fixed() else ""
    return Refused(Reason.INVALID_SPEC, f"{message}{again}")


NOT_OF_THE_WORK = frozenset({"publish"})
"""Fields (by their Python names) that are done by a pod of their own, once the work is."""

POD_IDENTITY: tuple[Manifest, ...] = ({"name": ENV_RUN_ID, "valueFrom": {"fieldRef": {"fieldPath": "metadata.uid"}}},)
"""Which run a pod is, where it is alone."""


def template(
    resource: Job,
    settings: Settings,
    found: Mapping[str, str] | None = None,
    identity: Sequence[Manifest] = POD_IDENTITY,
) -> Manifest:
    """A pod template for a Job. ``found``: what other jobs had made, as an annotation of the manifest that the workload reads; ``identity``:
    variables that say which run the pod is, and which part of it."""
    container = _container(resource, settings, identity)
    told = config(resource, found or {}, without=NOT_OF_THE_WORK)
    frame = pod_frame(resource, told, [container], volumes(resource))
    frame["spec"] = {"restartPolicy": "Never", **frame["spec"]}
    return frame


def pod_frame(resource: Resource, manifest_json: str, containers: list[Manifest], volumes: list[Manifest]) -> Manifest:
    """What is around the containers of every pod of ours. ``told``: the manifest that they read."""
    pod = resource.spec.pod
    metadata = resource.metadata
    return {
        "metadata": {
            "labels": pod.labels | names.for_kueue(metadata.labels) | names.labels(resource),
            "annotations": pod.annotations | names.for_kueue(metadata.annotations) | {ANNOTATION_CONFIG: manifest_json},
        },
        "spec": {
            "terminationGracePeriodSeconds": pod.termination_grace_period_seconds,
            # The workload speaks to no API server, and NCCL hangs on the variables of hundreds of Services.
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER,
                "runAsGroup": USER,
                "fsGroup": USER,
                # Always would change the owner of every file on every start: minutes on a volume of models.
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": containers,
            "volumes": volumes,
            **_placement(pod),
        },
    }


def config(resource: Resource, annotations: Mapping[str, str], *, without: Set[str] = frozenset()) -> str:
    """The manifest that the workload reads, as compact JSON: what was set, but for the fields (by their Python names) that are nothing to it.
    Not the defaults: an image of another version has its own fields, and would not know all of ours."""
    metadata = resource.metadata
    manifest = {
        "apiVersion": resource.api_version,
        "kind": resource.kind,
        "metadata": {
            "name": metadata.name,
            "namespace": metadata.namespace,
            "uid": metadata.uid,
            **given(annotations=annotations),
        },
        "spec": resource.spec.model_dump(
            by_alias=True, exclude_none=True, mode="json", exclude_defaults=True, exclude=set(without)
        ),
    }
    return json.dumps(manifest, ensure_ascii=False, separators=(",", ":"))


def _container(resource: Resource, settings: Settings, identity: Sequence[Manifest]) -> Manifest:
    # No probes: a long step, an evaluation or a save is no reason to kill a training. The watchdog within the workload knows
    # what a hang is; no limit on ephemeral storage either, where a download would end the run.
    pod = resource.spec.pod
    return {
        "name": CONTAINER,
        "image": pod.image or settings.images[resource.kind],
        **given(imagePullPolicy=pod.image_pull_policy),
        "command": ["python", "-m", f"workloads.{resource.workload}", CONFIG_PATH],
        "env": env(resource, [*household(identity), *keys_of_endpoints(resource)]),
        **given(envFrom=env_from(resource)),
        "ports": [{"name": "progress", "containerPort": PROGRESS_PORT, "protocol": "TCP"}],
        "resources": resources(pod),
        **RESTRICTED,
        "volumeMounts": mounts(resource),
    }


RESTRICTED: Manifest = {
    "securityContext": {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    },
    "terminationMessagePath": TERMINATION_PATH,
    # A workload that could not write its last word leaves the end of its log.
    "terminationMessagePolicy": "FallbackToLogsOnError",
}
"""Of every container of ours."""


def household(identity: Sequence[Manifest] = POD_IDENTITY) -> list[Manifest]:
    """The environment of every container of ours."""
    return [
        {"name": ENV_IN_POD, "value": "1"},
        *identity,
        {"name": "HOME", "value": "/tmp"},
        {"name": "USER", "value": "alpaca"},  # torch asks for the user's name, and a numeric user has none
    ]


KERNELS = {"GPTQMODEL_TORCH_EXTENSIONS_DIR": "gptqmodel", "TRITON_CACHE_DIR": "triton"}
"""Where libraries keep what they compile on the first use of a GPU, minutes of work. Both file it by their own version and torch's."""


def env(resource: Resource, ours: Sequence[Manifest]) -> list[Manifest]:
    """``ours`` first; a variable of the same name in the spec takes its place."""
    spec = resource.spec
    ours = list(ours)
    if spec.cache:
        cache = f"{MOUNT_ROOT}/{spec.cache.claim_name}/{CACHE_FOLDER}"
        ours.append({"name": ENV_CACHE, "value": cache})
        ours += [{"name": variable, "value": f"{cache}/kernels/{name}"} for variable, name in KERNELS.items()]
    if len(secrets := secrets_of(resource)) > 1:
        ours.append({"name": ENV_SECRETS, "value": ",".join(secrets)})
    users = [variable.model_dump(by_alias=True, exclude_none=True) for variable in spec.pod.env]
    return list({variable["name"]: variable for variable in [*ours, *users]}.values())


def env_from(resource: Resource) -> list[Manifest]:
    """The credentials of the sources, then what the user adds. Of several Secrets once more, kept apart: of two keys of one name the last
    wins, whatever it is for, and the workload sees by these that there were two."""
    secrets = secrets_of(resource)
    ours: list[Manifest] = [{"secretRef": {"name": name}} for name in secrets]
    apart = [{"prefix": secret_prefix(number), **one} for number, one in enumerate(ours)] if len(secrets) > 1 else []
    return [*ours, *resource.spec.pod.env_from, *apart]


def keys_of_endpoints(resource: Resource) -> list[Manifest]:
    """The keys of the APIs that a job asks, each in a variable of its own."""
    return [
        from_secret(key_variable(field), endpoint.secret_ref)
        for field, endpoint in endpoints(resource.spec)
        if endpoint.secret_ref
    ]


def from_secret(variable: str, reference: KeyReference) -> Manifest:
    return {"name": variable, "valueFrom": {"secretKeyRef": {"name": reference.name, "key": reference.key}}}


def secrets_of(resource: Resource) -> list[str]:
    return list(dict.fromkeys(source.secret_ref.name for _, source in sources(resource.spec) if source.secret_ref))


def resources(pod: PodSettings) -> Manifest:
    claims = [{"name": claim.name} for claim in pod.resource_claims]
    return given(limits=pod.resources.limits, requests=pod.resources.requests, claims=claims)


def _placement(pod: PodSettings) -> Manifest:
    """Where the pod may run, and as whom: handed on as it is."""
    return given(
        imagePullSecrets=[secret.model_dump() for secret in pod.image_pull_secrets],
        resourceClaims=[claim.model_dump(by_alias=True, exclude_none=True) for claim in pod.resource_claims],
        nodeSelector=pod.node_selector,
        tolerations=[toleration.model_dump(by_alias=True, exclude_none=True) for toleration in pod.tolerations],
        affinity=pod.affinity,
        topologySpreadConstraints=pod.topology_spread_constraints,
        priorityClassName=pod.priority_class_name,
        serviceAccountName=pod.service_account_name,
        runtimeClassName=pod.runtime_class_name,
        schedulerName=pod.scheduler_name,
    )


def given(**fields: Any) -> Manifest:
    """Those that are set: an empty field in a manifest is one more thing to read."""
    return {name: value for name, value in fields.items() if value}
