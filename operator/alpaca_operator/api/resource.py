"""The resource itself, and what every kind has besides its own fields: failure policy, cache, suspend, deadlines."""

import re
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.alias_generators import to_camel

from alpaca_operator.api.model import Model, Name, Spec
from alpaca_operator.api.pod import PodSettings
from alpaca_operator.api.rules import Rule
from alpaca_operator.api.sources import Output
from alpaca_operator.api.status import OutputKind, ResourceStatus, Status

GROUP = "literary-alpaca.io"
VERSION = "v1alpha1"
API_VERSION = f"{GROUP}/{VERSION}"
PLURALS = {
    "DatasetJob": "datasetjobs",
    "TokenizerJob": "tokenizerjobs",
    "PretrainJob": "pretrainjobs",
    "SFTJob": "sftjobs",
    "MergeJob": "mergejobs",
    "QuantizeJob": "quantizejobs",
    "EvaluationJob": "evaluationjobs",
    "ChatDeployment": "chatdeployments",
}


class FailurePolicy(Spec):
    """How often a job is tried again, and when a silent one counts as hung."""

    max_restarts: int = Field(3, ge=0, le=100)
    """Restarts after an error that may pass. Node loss and preemption are not counted here. A wrong spec, bad data, a missing
    input or too little memory is never tried again: the next run would fail alike."""
    max_infra_restarts: int = Field(10, ge=0, le=1000)
    """Restarts after preemption, eviction or the loss of a node; each continues from the newest checkpoint."""
    hang_timeout_seconds: int = Field(1800, ge=10, le=604800)
    """Seconds without a step, and without bytes that are read or written, after which the run counts as hung: it writes the stacks of all
    threads to its log and exits 72. Raise it when one step, or one evaluation, takes longer than this."""


class Cache(Spec):
    """A volume for what is worth keeping between pods: downloaded models, tokenised data sets."""

    claim_name: Name
    """A PersistentVolumeClaim in the job's namespace."""


class Parallelism(Spec):
    """How many processes train together."""

    nodes: int = Field(1, ge=1, le=1024)
    """Machines that train together over one storage, which all of them mount (docs/processes.md). Above 1 the operator makes a JobSet with a
    pod for each, and the cluster needs JobSet."""
    min_nodes: int | None = Field(None, ge=1, le=1024)
    """With fewer machines than asked for the run goes on with at least this many: each then makes more of a step, which stays as it is.
    Absent, all of `nodes` have to be there. `gradientAccumulation` × `nodes` has to be a multiple of it. When there is room again, it grows."""
    rescale_after_seconds: int = Field(600, ge=0, le=604800)
    """Seconds without room for all of `nodes` after which fewer of them start, and between two looks whether there is room for more again. Only
    read with `minNodes`."""
    processes_per_node: int | None = Field(None, ge=1, le=64)
    """Processes in each pod, each with a GPU of its own. Absent, there is one for each GPU of `pod.resources.limits`, or one. They share
    the rows, so that an optimizer step sees as many times `batchSizePerDevice` × `gradientAccumulation` sequences."""

    # The number that was asked for counts, wherever they ran, and however many of them could.
    non_semantic: ClassVar = frozenset({"nodes", "min_nodes", "rescale_after_seconds", "processes_per_node"})
    rules: ClassVar = (
        Rule(
            cel="!has(self.minNodes) || self.minNodes <= self.nodes",
            holds=lambda asked: asked.min_nodes is None or asked.min_nodes <= asked.nodes,
            message="parallelism.minNodes is above parallelism.nodes: lower it, or raise nodes",
        ),
        Rule(
            cel="has(self.minNodes) || self.rescaleAfterSeconds == 600",
            holds=lambda asked: asked.min_nodes is not None or asked.rescale_after_seconds == 600,
            message="parallelism.rescaleAfterSeconds is only read with minNodes: set minNodes, or remove rescaleAfterSeconds",
        ),
    )

    def numbers_of_nodes(self, gradient_accumulation: int) -> list[int]:
        """How many nodes may train, the most first: those among which the passes of a step can be divided evenly."""
        passes = gradient_accumulation * self.nodes
        return [number for number in range(self.nodes, (self.min_nodes or self.nodes) - 1, -1) if passes % number == 0]


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

    model_config = ConfigDict(
        extra="allow", frozen=True, alias_generator=to_camel, populate_by_name=True, defer_build=True
    )

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
    nodes_work_apart: ClassVar[bool] = False
    """Whether each of several pods does a part for itself: one that is lost is replaced, and the others go on."""

    spec: JobSpec
    status: Status | None = None

    @property
    def has_begun(self) -> bool:
        return self.status is not None and self.status.start_time is not None

    @property
    def nodes(self) -> int:
        """Pods that work on it at the same time."""
        return 1

    @property
    def size(self) -> int:
        """With how many it is to go on: fewer where there was no room for all, as its status says."""
        planned = self.status.nodes.total if self.status and self.status.nodes else self.nodes
        return min(planned, self.nodes)

    @property
    def restarts_left(self) -> int:
        """What earlier children of it have used up, before it was held or its child lost, a new one does not get again."""
        used = self.status.restarts.user if self.status and self.status.restarts else 0
        return max(0, self.spec.failure_policy.max_restarts - used)

    @property
    def seconds_left(self) -> int | None:
        """The same of its time."""
        limit = self.spec.active_deadline_seconds
        used = self.status.active_time.seconds if self.status and self.status.active_time else 0
        return None if limit is None else max(1, limit - used)

    @property
    def output_kind(self) -> OutputKind:
        """What this job publishes: known from its spec, so that a chain that cannot fit is refused before it starts."""
        return self.yields


HOST_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
"""A label of DNS as RFC 1035 has it, which the names of Services are."""
NODES_NAME_LIMIT = 34
"""With the longest noun and what JobSet puts behind it, the name of a pod and of its Service fit one label, which is how JobSet tells where
node 0 is (`<name>-pretrain-node-0-0.n-12345678`)."""
NODES_NAME_RULE = Rule(
    cel="!has(self.spec.parallelism) || self.spec.parallelism.nodes == 1 || "
    f"(size(self.metadata.name) <= {NODES_NAME_LIMIT} && self.metadata.name.matches('^{HOST_NAME.pattern}$'))",
    holds=lambda job: (
        job.spec.parallelism.nodes == 1
        or (len(job.metadata.name) <= NODES_NAME_LIMIT and HOST_NAME.fullmatch(job.metadata.name) is not None)
    ),
    message=f"metadata.name of a job of several nodes becomes the name of hosts: at most {NODES_NAME_LIMIT} characters, a letter first, and "
    "a-z, 0-9 and - only",
)


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
    {"name": "Nodes", "type": "string", "jsonPath": ".status.nodes.display", "priority": 1},
    {"name": "Message", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].message', "priority": 1},
)
