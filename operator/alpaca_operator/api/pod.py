"""The pod of a resource: image, resources, placement, environment."""

from typing import Annotated, Literal

from pydantic import Field, StringConstraints

from alpaca_operator.api.model import Name, Quantity, Raw, ShortText, Size, Spec


class ResourceRequirements(Spec):
    """What the container asks of the node."""

    limits: dict[Annotated[str, StringConstraints(max_length=253)], Quantity] = Field(
        default_factory=dict, max_length=32
    )
    """The most it may use, such as `nvidia.com/gpu: 1`, `memory: 64Gi`."""
    requests: dict[Annotated[str, StringConstraints(max_length=253)], Quantity] = Field(
        default_factory=dict, max_length=32
    )
    """What is set aside for it; a resource with a limit and no request asks for the limit."""


class Toleration(Spec):
    """A taint that the pod accepts."""

    key: ShortText | None = None
    """The taint's key; absent with `operator: Exists` matches every taint."""
    operator: Literal["Exists", "Equal"] | None = None
    """`Equal` (the default of Kubernetes) compares the value; `Exists` does not."""
    value: ShortText | None = None
    """The taint's value."""
    effect: Literal["NoSchedule", "PreferNoSchedule", "NoExecute"] | None = None
    """The taint's effect; absent matches every effect."""
    toleration_seconds: int | None = None
    """How long a `NoExecute` taint is borne."""


class LocalObjectReference(Spec):
    """An object in the job's namespace."""

    name: Name
    """Its name."""


class ResourceClaim(Spec):
    """A claim on devices, by dynamic resource allocation."""

    name: Name
    """Name of the claim within the pod."""
    resource_claim_name: Name | None = None
    """An existing ResourceClaim."""
    resource_claim_template_name: Name | None = None
    """A template from which each pod gets a claim of its own."""


class EnvVar(Spec):
    """An environment variable of the container."""

    name: ShortText
    """Its name."""
    value: Annotated[str, StringConstraints(max_length=4096)] | None = None
    """Its value."""
    value_from: Raw | None = None
    """A source of the value, as in a pod: `secretKeyRef`, `configMapKeyRef`, `fieldRef`, `resourceFieldRef`."""


class PodSettings(Spec):
    """What the pod gets besides what the job itself needs."""

    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = None
    """Container image; absent takes the operator's default for this kind."""
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] | None = None
    """When the image is pulled; absent leaves it to Kubernetes."""
    image_pull_secrets: list[LocalObjectReference] = Field(default_factory=list, max_length=8)
    """Secrets with registry credentials."""
    resources: ResourceRequirements = Field(default_factory=ResourceRequirements)
    """GPUs, memory and CPU. The number of training processes follows the limit on GPUs (`nvidia.com/gpu`, `amd.com/gpu`)."""
    resource_claims: list[ResourceClaim] = Field(default_factory=list, max_length=8)
    """Devices by dynamic resource allocation."""
    node_selector: dict[ShortText, ShortText] = Field(default_factory=dict, max_length=32)
    """Labels a node must have."""
    tolerations: list[Toleration] = Field(default_factory=list, max_length=32)
    """Taints that the pod accepts."""
    affinity: Raw | None = None
    """Node and pod affinity, as in a pod."""
    topology_spread_constraints: list[Raw] = Field(default_factory=list, max_length=8)
    """As in a pod."""
    priority_class_name: Name | None = None
    """Priority, and with it what may be preempted."""
    service_account_name: Name | None = None
    """Service account of the pod, for image pull secrets or workload identity. Its token is not mounted."""
    runtime_class_name: Name | None = None
    """Runtime class, such as `nvidia`."""
    scheduler_name: Name | None = None
    """Scheduler, where it is not the default one."""
    env: list[EnvVar] = Field(default_factory=list, max_length=64)
    """Environment variables added to the container."""
    env_from: list[Raw] = Field(default_factory=list, max_length=16)
    """Secrets and ConfigMaps whose keys become environment variables, as in a pod."""
    volumes: list[Raw] = Field(default_factory=list, max_length=16)
    """Volumes as in a pod, each with the fields of its mount beside: `mountPath`, and where wanted `readOnly`, `subPath`. Claims that
    `pvc://` names are mounted without this."""
    labels: dict[ShortText, Annotated[str, StringConstraints(max_length=63)]] = Field(
        default_factory=dict, max_length=32
    )
    """Labels added to the pod."""
    annotations: dict[ShortText, Annotated[str, StringConstraints(max_length=4096)]] = Field(
        default_factory=dict, max_length=32
    )
    """Annotations added to the pod."""
    shm_size: Size = "1Gi"
    """Size of /dev/shm, which data loaders and NCCL use; it counts against the memory limit."""
    termination_grace_period_seconds: int = Field(600, ge=1, le=86400)
    """Time between the request to stop and the kill: enough to finish a step and save a checkpoint."""
