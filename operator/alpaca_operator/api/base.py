"""What every kind shares: the base of all specs, sources and outputs, failure policy, pod settings, the resource itself."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from alpaca_operator.api.rules import Rule
from alpaca_operator.api.status import OutputKind, ResourceStatus, Status

GROUP = "literary-alpaca.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
PLURALS = {
    "TokenizerJob": "tokenizerjobs",
    "PretrainJob": "pretrainjobs",
    "SFTJob": "sftjobs",
    "MergeJob": "mergejobs",
    "QuantizeJob": "quantizejobs",
    "EvaluationJob": "evaluationjobs",
    "ChatDeployment": "chatdeployments",
}


class Model(BaseModel):
    """Base of everything typed here: camelCase outside, closed to unknown fields, frozen."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
        validate_default=False,
    )


class Spec(Model):
    """A part of a spec. ``rules`` bind its fields to each other; the API server and this class both enforce them."""

    rules: ClassVar[tuple[Rule, ...]] = ()
    non_semantic: ClassVar[frozenset[str]] = frozenset()
    """Fields (by their Python names) that leave the result as it is: a job that differs in nothing else is the same job, whose
    output is reused and whose checkpoints are gone on from."""

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        broken = [rule.message for rule in self.rules if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self


Name = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""The name of a Kubernetes object."""

Uri = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024, pattern=r"^((hf|pvc|s3|file)://[^\n]+|[^:\n]+)$"),
    Field(examples=["pvc://models/llama-2-7b", "hf://meta-llama/Llama-2-7b-hf@main", "s3://bucket/key", "./model"]),
]

Quantity = Annotated[int | str, Field(json_schema_extra={"x-kubernetes-int-or-string": True})]
"""A Kubernetes quantity, such as ``2``, ``500m`` or ``16Gi``."""

Raw = Annotated[
    dict[str, Any],
    Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True, "additionalProperties": None}),
]
"""A piece of a pod spec, handed on as it is; the API server checks it when the pod is made."""

ShortText = Annotated[str, StringConstraints(max_length=253)]
Path = Annotated[str, StringConstraints(max_length=1024)]


class SecretReference(Spec):
    """A Secret in the job's namespace whose keys become environment variables of the pod."""

    name: Name
    """Name of the Secret, with keys such as `HF_TOKEN`, or `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and `AWS_ENDPOINT_URL`."""


class JobReference(Spec):
    """Another job in the same namespace (locally: in the same file), whose output is read once it is published."""

    kind: Literal["TokenizerJob", "PretrainJob", "SFTJob", "MergeJob", "QuantizeJob", "EvaluationJob"]
    """Its kind."""
    name: Name
    """Its name."""


class Source(Spec):
    """Where an input is read from."""

    content: ClassVar[Literal["Model", "Adapter", "Tokenizer", "Dataset", "File"]] = "File"
    """What has to lie there. It decides which files count, and where a hub keeps it."""
    accepts: ClassVar[frozenset[OutputKind]] = frozenset()
    """Outputs of jobs that `from` may name here."""
    non_semantic: ClassVar = frozenset({"uri", "from_", "secret_ref"})  # what lies there counts, by its digest

    uri: Uri | None = None
    """`pvc://claim/path`, `hf://org/name@revision`, `s3://bucket/key`, `file:///path` or a path. On a laptop
    `pvc://claim/path` is `$ALPACA_STORAGE/claim/path` (`./storage/claim/path`)."""
    from_: JobReference | None = Field(None, alias="from")
    """The output of another job, in place of `uri`. This job waits until that one is complete."""
    secret_ref: SecretReference | None = None
    """Credentials for the source, from a Secret. Locally the same variables are read from the environment."""

    rules: ClassVar = (
        Rule(
            cel="has(self.uri) != has(self.from)",
            holds=lambda source: (source.uri is None) != (source.from_ is None),
            message="an input needs uri or from, and not both: name one",
        ),
    )


class AdapterSource(Source):
    """A LoRA adapter."""

    content: ClassVar = "Adapter"
    accepts: ClassVar = frozenset({"LoRAAdapter"})


def sources(part: object, path: str = "") -> Iterator[tuple[str, Source]]:
    """Every Source below ``part``, with the camelCase path of its field (``model``, ``dataset.train[0]``), in the order of the spec."""
    if isinstance(part, Source):
        yield path, part
    elif isinstance(part, Model):
        for name, field in type(part).model_fields.items():
            yield from sources(getattr(part, name), ".".join(filter(None, (path, field.alias or name))))
    elif isinstance(part, list):
        for index, each in enumerate(part):
            yield from sources(each, f"{path}[{index}]")


def resolved(part: Any, uris: Mapping[str, str], path: str = "") -> Any:
    """``part`` with every ``from`` replaced by the URI of the output it stands for, by the paths that ``sources`` gives.

    Raises KeyError for a reference that ``uris`` does not have.
    """
    if isinstance(part, Source):
        return part if part.from_ is None else part.model_copy(update={"from_": None, "uri": uris[path]})
    if isinstance(part, Model):
        names = {
            name: ".".join(filter(None, (path, field.alias or name))) for name, field in type(part).model_fields.items()
        }
        changed = {name: resolved(getattr(part, name), uris, where) for name, where in names.items()}
        return (
            part.model_copy(update=changed) if any(changed[name] is not getattr(part, name) for name in names) else part
        )
    if isinstance(part, list):
        items = [resolved(each, uris, f"{path}[{index}]") for index, each in enumerate(part)]
        return items if any(new is not old for new, old in zip(items, part, strict=True)) else part
    return part


class RopeScaling(Spec):
    """Stretches the rotary position embedding to longer sequences than the base was trained on."""

    type: Literal["linear", "dynamic", "yarn"] = "linear"
    """How positions are stretched: `linear` divides them, `dynamic` (NTK) and `yarn` change the base frequency."""
    factor: float = Field(ge=1, le=64)
    """How many times the base's context length."""


class ModelSource(Source):
    """The base model."""

    content: ClassVar = "Model"
    accepts: ClassVar = frozenset({"Model"})

    rope_scaling: RopeScaling | None = None
    """Set to train beyond the base's context length; absent keeps the base's own setting."""


class Output(Spec):
    """Where the result is written."""

    uri: Uri
    """Folder of the result, by the same forms as inputs except `hf://`. It is written beside its final place and renamed when
    whole, so that nothing half-written is ever found there."""
    overwrite: bool = False
    """Replace an artifact of other settings that already lies there. Off, such a job is refused and the artifact stays."""

    rules: ClassVar = (
        Rule(
            cel="!self.uri.startsWith('hf://')",
            holds=lambda output: not output.uri.startswith("hf://"),
            message="output.uri cannot be hf://: write to pvc://, s3:// or a path",
        ),
    )


class FailurePolicy(Spec):
    """How often a job is tried again, and when a silent one counts as hung."""

    max_restarts: int = Field(3, ge=0, le=100)
    """Restarts after an error that may pass. Node loss and preemption are not counted here. A wrong spec, bad data, a missing
    input or too little memory is never tried again: the next run would fail alike."""
    max_infra_restarts: int = Field(10, ge=0, le=1000)
    """Restarts after preemption, eviction or the loss of a node; each continues from the newest checkpoint."""
    hang_timeout_seconds: int = Field(1800, ge=10, le=604800)
    """Seconds without a step after which the run counts as hung: it writes the stacks of all threads to its log and exits 72.
    Raise it when one step, or one evaluation, takes longer than this."""


class Cache(Spec):
    """A volume for what is worth keeping between pods: downloaded models, tokenised data sets."""

    claim_name: Name
    """A PersistentVolumeClaim in the job's namespace."""


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
    """Volumes as in a pod, each with one field more: `mountPath`. Claims that `pvc://` names are mounted without this."""
    labels: dict[ShortText, Annotated[str, StringConstraints(max_length=63)]] = Field(
        default_factory=dict, max_length=32
    )
    """Labels added to the pod."""
    annotations: dict[ShortText, Annotated[str, StringConstraints(max_length=4096)]] = Field(
        default_factory=dict, max_length=32
    )
    """Annotations added to the pod."""
    shm_size: Annotated[str, StringConstraints(max_length=32)] = "1Gi"
    """Size of /dev/shm, which data loaders and NCCL use; it counts against the memory limit."""
    termination_grace_period_seconds: int = Field(600, ge=1, le=86400)
    """Time between the request to stop and the kill: enough to finish a step and save a checkpoint."""


class Parallelism(Spec):
    """How many processes train together."""

    nodes: int = Field(1, ge=1, le=1024)
    """Pods that train together."""
    processes_per_node: int | None = Field(None, ge=1, le=64)
    """Processes in each pod, each with a GPU of its own. Absent, there is one for each GPU of `pod.resources.limits`, or one. They share
    the rows, so that an optimizer step sees as many times `batchSizePerDevice` × `gradientAccumulation` sequences."""

    non_semantic: ClassVar = frozenset({"processes_per_node"})  # the number that trained counts, wherever it came from

    rules: ClassVar = (
        Rule(
            cel="self.nodes == 1",
            holds=lambda parallelism: parallelism.nodes == 1,
            message="parallelism.nodes above 1 is not supported by this version: set nodes to 1 and use a node with more GPUs",
        ),
    )


class ResourceSpec(Spec):
    """What every kind has besides its own fields."""

    if (
        TYPE_CHECKING
    ):  # declared below, each time where a reader of the reference looks for them: a base's fields come first
        cache: Cache | None
        pod: PodSettings

    @classmethod
    def fixed(cls) -> list[str]:
        """Fields (camelCase) that keep their value after creation."""
        return []

    @property
    def written_to(self) -> list[str]:
        """URIs that the pod writes to, besides its cache."""
        return []


class JobSpec(ResourceSpec):
    """What every job has besides its own fields."""

    output: Output
    """Where the result is written."""
    failure_policy: FailurePolicy = Field(default_factory=FailurePolicy)
    """How often the job is tried again."""
    suspend: bool = False
    """Stop the pod (it saves a checkpoint first) and hold; set back to false, the job goes on from there. May be changed."""
    active_deadline_seconds: int | None = Field(None, ge=1, le=31536000)
    """Seconds after its start at which a job that is still running fails with `DeadlineExceeded`. May be changed."""
    ttl_seconds_after_finished: int | None = Field(None, ge=0, le=31536000)
    """Seconds after its end at which its pods are deleted. The job itself and its output stay. May be changed."""
    cache: Cache | None = None
    """A volume for downloads and tokenised data; absent, each pod starts cold."""
    pod: PodSettings = Field(default_factory=PodSettings)
    """Image, resources and placement of the pod."""

    non_semantic: ClassVar = frozenset(
        {
            "output",
            "failure_policy",
            "suspend",
            "active_deadline_seconds",
            "ttl_seconds_after_finished",
            "cache",
            "pod",
        }
    )
    mutable: ClassVar[frozenset[str]] = frozenset({"suspend", "activeDeadlineSeconds", "ttlSecondsAfterFinished"})
    """Fields of the spec that may change after creation."""

    @classmethod
    def fixed(cls) -> list[str]:
        return [name for field in cls.model_fields.values() if (name := field.alias or "") not in cls.mutable]

    @property
    def written_to(self) -> list[str]:
        return [self.output.uri]


class ObjectMeta(BaseModel):
    """The part of an object's metadata that we read; everything else is kept as it came."""

    model_config = ConfigDict(extra="allow", frozen=True, alias_generator=to_camel, populate_by_name=True)

    name: str
    namespace: str | None = None
    uid: str | None = None
    generation: int | None = None
    resource_version: str | None = None
    deletion_timestamp: str | None = None
    creation_timestamp: str | None = None
    labels: dict[str, str] = Field(default_factory=dict)
    annotations: dict[str, str] = Field(default_factory=dict)


class Resource(Model):
    """An object of one of our kinds. Subclasses narrow ``kind`` and ``spec`` and say how kubectl shows them."""

    short_names: ClassVar[tuple[str, ...]] = ()
    columns: ClassVar[tuple[dict[str, Any], ...]] = ()
    workload: ClassVar[str] = ""
    """The noun: ``python -m workloads.<workload>``."""
    name_limit: ClassVar[int] = 50
    """Longest name whose pods still fit 63 characters: the child adds `-<noun>`, the Job controller six more."""
    name_rules: ClassVar[tuple[Rule, ...]] = ()
    """What else binds the name; they see the whole object."""
    scales: ClassVar[bool] = False
    """Whether `kubectl scale` and autoscalers set `spec.replicas`."""

    api_version: Literal["literary-alpaca.io/v1alpha1"] = "literary-alpaca.io/v1alpha1"
    kind: str
    metadata: ObjectMeta
    spec: ResourceSpec
    status: ResourceStatus | None = None

    @property
    def has_begun(self) -> bool:
        """Whether a run of it is known, of which no second one may be made unawares."""
        return False

    @model_validator(mode="after")
    def _obey_name_rules(self) -> Self:
        broken = [rule.message for rule in self.name_rules if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self


class Job(Resource):
    """A resource that runs to an end, and publishes."""

    yields: ClassVar[OutputKind] = "Report"
    """What the job publishes, where its spec has no say in that; see ``output_kind``."""

    spec: JobSpec
    status: Status | None = None

    @property
    def has_begun(self) -> bool:
        return self.status is not None and self.status.start_time is not None

    @property
    def output_kind(self) -> OutputKind:
        """What this job publishes: known from its spec, so that a chain that cannot fit is refused before it starts."""
        return self.yields


JOB_COLUMNS: tuple[dict[str, Any], ...] = (
    {"name": "State", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].reason'},
    {"name": "Progress", "type": "string", "jsonPath": ".status.progress.display"},
    {"name": "Loss", "type": "string", "jsonPath": ".status.progress.lossDisplay"},
    {"name": "ETA", "type": "string", "jsonPath": ".status.progress.eta"},
    {"name": "Restarts", "type": "integer", "jsonPath": ".status.restarts.total"},
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {"name": "Model", "type": "string", "jsonPath": ".spec.model.uri", "priority": 1},
    {"name": "From", "type": "string", "jsonPath": ".spec.model.from.name", "priority": 1},
    {"name": "Output", "type": "string", "jsonPath": ".spec.output.uri", "priority": 1},
    {"name": "Queue", "type": "string", "jsonPath": ".metadata.labels.kueue\\.x-k8s\\.io/queue-name", "priority": 1},
    {"name": "Nodes", "type": "integer", "jsonPath": ".spec.parallelism.nodes", "priority": 1},
    {"name": "Message", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].message', "priority": 1},
)
