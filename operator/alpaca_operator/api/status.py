"""The status of a job: conditions with their reasons, progress, result, failure."""

from enum import StrEnum
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel


class Condition(StrEnum):
    """Types of conditions, in the order that kstatus reads them."""

    READY = "Ready"
    """The output is published."""
    RECONCILING = "Reconciling"
    """Work goes on, or is waited for."""
    STALLED = "Stalled"
    """Only a person can help."""
    INPUTS_READY = "InputsReady"
    """Everything the job reads from exists."""
    SUSPENDED = "Suspended"
    """Held by `spec.suspend`."""
    COMPLETE = "Complete"
    """Ended well."""
    FAILED = "Failed"
    """Ended for good without a result."""
    EXPOSED = "Exposed"
    """Reached from outside, by whoever wants to; only there where it holds."""
    ADAPTERS_LOADED = "AdaptersLoaded"
    """Every adapter that a deployment lists or selects answers; absent where it has none beside its model."""
    PAGE_AVAILABLE = "PageAvailable"
    """The page of a deployment answers in pods of its own; absent where it runs in the engine's."""
    PUBLISHED = "Published"
    """What was made lies at every place of `spec.publish`; absent where the spec names none."""


class Reason(StrEnum):
    """Why a condition stands as it does. Reasons are API: never renamed."""

    PENDING = "Pending"
    """The pod is not running yet; the message says what it waits for."""
    NOT_FOUND = "NotFound"
    """A job that `from` names does not exist; this one starts once that is complete."""
    NOT_READY = "NotReady"
    """A job that `from` names is not complete yet."""
    PRODUCER_FAILED = "ProducerFailed"
    """A job that `from` names has failed; corrected and created anew under its name, it is waited for again."""
    KIND_MISMATCH = "KindMismatch"
    """A job that `from` names makes something else than the input takes."""
    CYCLE_DETECTED = "CycleDetected"
    """The job waits for itself, through the jobs that `from` names."""
    QUEUED = "Queued"
    """Kueue has not admitted the job, or the pods of a deployment, yet."""
    UNSCHEDULABLE = "Unschedulable"
    """No node fits: too few GPUs, too little memory, a taint, a selector."""
    VOLUME_NOT_READY = "VolumeNotReady"
    """A claim is missing, or not bound."""
    IMAGE_NOT_PULLABLE = "ImageNotPullable"
    """The image does not exist, or the registry refuses it."""
    CONTAINER_NOT_CREATED = "ContainerNotCreated"
    """The kubelet cannot create the container: a missing Secret or key, a wrong user."""
    STARTING = "Starting"
    """The pod runs; model and data are being loaded."""
    RUNNING = "Running"
    """Steps are being made."""
    RESTARTING = "Restarting"
    """The last pod ended early; the next continues from the newest checkpoint."""
    SUSPENDED = "Suspended"
    """Held by `spec.suspend`."""
    STOPPING = "Stopping"
    """The pod saves a checkpoint before it stops."""
    SUCCEEDED = "Succeeded"
    """The output is published."""
    REUSED = "Reused"
    """The output was there already, made from the same spec and inputs."""
    INVALID_SPEC = "InvalidSpec"
    """The workload refuses the spec (exit 64)."""
    INVALID_DATA = "InvalidData"
    """A row cannot be used, or no row is left (exit 65)."""
    INPUT_NOT_FOUND = "InputNotFound"
    """A model or data path is missing or unreadable (exit 66)."""
    OUTPUT_EXISTS = "OutputExists"
    """Another artifact lies at the output (exit 64)."""
    DISK_FULL = "DiskFull"
    """A volume that the job writes to has no room left (exit 64)."""
    GATE_FAILED = "GateFailed"
    """The result was measured, and does not keep a bound of the spec; it is not published (exit 64)."""
    LOSS_DIVERGED = "LossDiverged"
    """The loss became NaN or infinite (exit 64)."""
    OUT_OF_MEMORY = "OutOfMemory"
    """The container, or the GPU, had too little memory (exit 71, or killed by the kernel)."""
    HUNG = "Hung"
    """No step for `hangTimeoutSeconds` (exit 72)."""
    INTERRUPTED = "Interrupted"
    """Stopped after saving a checkpoint (exit 75)."""
    DISRUPTED = "Disrupted"
    """The node was drained or lost, or the pod evicted or preempted."""
    WORKLOAD_ERROR = "WorkloadError"
    """An error of ours or of a library (exit 70, or any other)."""
    RESTARTS_EXCEEDED = "RestartsExceeded"
    """`failurePolicy.maxRestarts` or `maxInfraRestarts` is used up."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """Still running after `activeDeadlineSeconds`."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    """A ResourceQuota refuses the pod or the job."""
    ADMISSION_REFUSED = "AdmissionRefused"
    """An admission policy or webhook refuses the pod or the job."""
    NOT_ACCEPTED = "NotAccepted"
    """The API server does not take what the operator writes; the message has its words."""
    API_SERVER_UNAVAILABLE = "APIServerUnavailable"
    """The API server, or a webhook that it asks, does not answer; tried again by itself."""
    OPERATOR_OUTDATED = "OperatorOutdated"
    """The resource holds a word that this operator does not know: its CRD is newer."""
    NAME_CONFLICT = "NameConflict"
    """An object with the child's name exists and is not ours."""
    CHILD_LOST = "ChildLost"
    """The job's child was deleted by someone else; it is made again."""
    SERVING = "Serving"
    """Every pod answers, with the newest spec and model."""
    DEGRADED = "Degraded"
    """Some pods answer, fewer than are wanted."""
    UPDATING = "Updating"
    """New pods start; the old ones answer until they are ready."""
    UPDATE_FAILED = "UpdateFailed"
    """New pods do not become ready; the old ones go on answering."""
    UPDATE_HELD = "UpdateHeld"
    """A new model is there and not served: `updatePolicy` is Manual, or a gate does not let it pass. The old one is served."""
    SCALED_TO_ZERO = "ScaledToZero"
    """No pods are wanted."""
    PUBLISHED = "Published"
    """What was made lies at every place of `publish`."""
    PUBLISHING = "Publishing"
    """What was made is pushed to the places of `publish`."""
    PUBLISH_REFUSED = "PublishRefused"
    """A place of `publish` does not take the push: its token, its name, or what lies there already (exit 64)."""
    JOB_SET_NOT_INSTALLED = "JobSetNotInstalled"
    """The cluster has no JobSet, which jobs of several nodes need."""
    ROUTE_NOT_SUPPORTED = "RouteNotSupported"
    """The cluster has no Gateway API; all but the route is served."""
    ADAPTER_REFUSED = "AdapterRefused"
    """An adapter beside the model is not served; the message names it and says why. All others are."""
    WITHOUT_AUTH = "WithoutAuth"
    """A route or a load balancer leads to page and API, and `auth` is not set."""


NEVER = -1
INPUTS_KEPT = 512
"""As many as any spec can name."""

OutputKind = Literal["Dataset", "Tokenizer", "Model", "LoRAAdapter", "GPTQModel", "GGUFModel", "FP8Model", "Report"]
"""What a job publishes."""

FailureClass = Literal["UserError", "DataError", "OutOfMemory", "Infrastructure", "Hung", "Internal"]

Text = Annotated[str, StringConstraints(max_length=32768)]
Short = Annotated[str, StringConstraints(max_length=1024)]
PlaceBeside = Annotated[str, StringConstraints(max_length=2048)]
"""A folder that is named after the output's, which may have 1024 characters itself."""


class StatusPart(BaseModel):
    """A part of the status: camelCase outside, frozen. Unknown fields are dropped: a newer operator may have written them."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        protected_namespaces=(),
        defer_build=True,
    )


class ConditionStatus(StatusPart):
    """A condition, in the shape of metav1.Condition."""

    type: Annotated[str, StringConstraints(max_length=316)]
    """Which condition."""
    status: Literal["True", "False", "Unknown"]
    """Whether it holds."""
    reason: Annotated[str, StringConstraints(max_length=1024)]
    """One word, for programs."""
    message: Text = ""
    """One line, for people: what happened and what to do."""
    last_transition_time: str = Field(json_schema_extra={"format": "date-time"})
    """When the condition last changed from one status to another."""
    observed_generation: int | None = None
    """Generation of the spec that it speaks of."""


class GoodputStatus(StatusPart):
    """How much of what a job has done, over all its pods, was not lost to their ends."""

    steps: float
    """Share of the steps made that count (0–1): the others were made after a checkpoint, and lost with a pod."""
    time: float | None = None
    """Share of the seconds since the first pod began that were spent in steps that count (0–1)."""


class ProgressStatus(StatusPart):
    """How far a running job is, as its rank 0 last told."""

    step: int | None = None
    """Optimizer steps done."""
    total_steps: int | None = None
    """Optimizer steps in all."""
    percent: int | None = None
    """Share of the steps that are done, 0–100."""
    epoch: float | None = None
    """Passes over the training set done."""
    loss: float | None = None
    """Training loss of the last logged step (nats per token)."""
    loss_display: Short | None = None
    """The loss as kubectl shows it."""
    learning_rate: float | None = None
    """Learning rate of the last step."""
    tokens_per_second: float | None = None
    """Unpadded tokens a second."""
    eta_seconds: int | None = None
    """Seconds to the end, at the present speed."""
    eta: Short | None = None
    """The same as `2h05m`."""
    goodput: GoodputStatus | None = None
    """Useful work, over all pods of the job."""
    display: Short | None = None
    """`1200/5000 24%`."""
    stage: Short | None = None
    """What the workload is doing: `Loading`, `Preparing`, `Training`, `Evaluating`, `Merging`, `Saving`."""
    updated_at: str | None = Field(None, json_schema_extra={"format": "date-time"})
    """When it was read."""


class Restarts(StatusPart):
    """How often a new pod had to take over."""

    user: int = 0
    """After errors, counted against `maxRestarts`."""
    infra: int = 0
    """After disruptions, counted against `maxInfraRestarts`."""
    total: int = 0
    """Both."""


class NodesStatus(StatusPart):
    """The pods of a job of several nodes."""

    ready: int
    """Pods that run."""
    total: int
    """Pods that are to work at the same time: fewer than `parallelism.nodes` where there was no room for all."""
    display: Short
    """`3/4`."""
    grown: int | None = None
    """How often it was made anew with more of them. Each time it waits twice as long as before until it looks for room again."""


class ActiveTime(StatusPart):
    """What a job has used up of its `activeDeadlineSeconds` by runs that were stopped: to hold a job does not give it more time."""

    seconds: int
    """Time of the Jobs that are gone."""
    child: Short
    """UID of the last of them."""


class ResolvedInput(StatusPart):
    """An input as it was when the job started."""

    uri: Short
    """Where it was read from."""
    digest: Short | None = None
    """sha256 of the artifact, or of what lies there."""
    producer_uid: Short | None = Field(None, alias="producerUID")
    """UID of the job that made it, where one did."""
    producer: Short | None = None
    """Kind and name of that job, where its output is followed as it is made anew."""


class CheckpointStatus(StatusPart):
    """The newest complete checkpoint."""

    uri: PlaceBeside
    """Its folder."""
    step: int
    """Optimizer steps that it holds."""


class OutputStatus(StatusPart):
    """What was published."""

    uri: Short
    """The folder of `spec.output.uri`."""
    digest: Short | None = None
    """sha256 over artifact.json's list of files."""
    kind: OutputKind | None = None
    """What it is."""
    reused: bool = False
    """It was there already, made from the same spec and inputs."""


class PublicationStatus(StatusPart):
    """A place that the output was pushed to."""

    uri: Short
    """As `spec.publish` names it."""
    revision: Short
    """Of the repository there: the commit, or the digest of the manifest."""
    digest: Short
    """Of what was pushed: as `status.output.digest`."""


class Failure(StatusPart):
    """The root cause of a failure."""

    failure_class: FailureClass = Field(alias="class")
    """Who can help: the user, whoever keeps the data, the cluster, or us."""
    reason: Short
    """One word, for programs: a reason of the conditions."""
    exit_code: int | None = None
    """Exit code of the container."""
    pod: Short | None = None
    """The pod that failed first."""
    rank: int | None = None
    """The process in it."""
    message: Text
    """What happened and what to do."""


class Attempt(StatusPart):
    """A pod that ended without success, or the one of several that was the cause; the newest are kept, so that a deleted pod is not
    forgotten."""

    pod: Short
    """Its name."""
    uid: Short
    """Its UID; that of their Job where there are several."""
    failure_class: FailureClass | None = Field(None, alias="class")
    """Who can help."""
    reason: Short
    """Why it ended."""
    exit_code: int | None = None
    """Exit code of its container."""
    finished_at: str | None = None
    """When it ended."""
    message: Text = ""
    """One line of diagnosis."""


class ResourceStatus(StatusPart):
    """What the operator knows of a resource of any kind."""

    observed_generation: int = NEVER
    """Generation of the spec that this status speaks of; -1 until it was first looked at."""
    conditions: list[ConditionStatus] = Field(
        default_factory=list,
        max_length=16,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]},
    )
    """`kubectl wait` and kstatus read these."""
    operator: Short | None = None
    """The operator that works on it, by its Lease: `namespace/name`. Another one that sees it leaves it alone while that is held."""


class Status(ResourceStatus):
    """What the operator knows of a job."""

    restarts: Restarts | None = None
    """How often a new pod had to take over."""
    nodes: NodesStatus | None = None
    """How many of its pods run, of a job of several nodes."""
    active_time: ActiveTime | None = None
    """What it has used up of its `activeDeadlineSeconds` by runs that were stopped."""
    progress: ProgressStatus | None = None
    """How far the running pod is."""
    metrics: dict[str, float | None] | None = Field(None, max_length=64)
    """Final metrics: `evalLoss`, `perplexity`, `meanTokenAccuracy`, `goodputSteps`, `goodputTime`. One that was not a number is left out; the reason `LossDiverged` tells of it."""
    resolved_inputs: dict[str, ResolvedInput] | None = Field(None, max_length=INPUTS_KEPT)
    """The inputs by the name of their field, with digests."""
    resolved_policy: dict[str, Any] | None = Field(
        None, json_schema_extra={"x-kubernetes-preserve-unknown-fields": True, "additionalProperties": None}
    )
    """What `Auto` became: precision, attention, gradientCheckpointing, optimizer, …"""
    checkpoint: CheckpointStatus | None = None
    """The newest complete checkpoint."""
    output: OutputStatus | None = None
    """What was published."""
    publications: list[PublicationStatus] | None = Field(None, max_length=16)
    """Places of `spec.publish` that have it."""
    failure: Failure | None = None
    """The root cause, once failed for good."""
    attempts: list[Attempt] = Field(default_factory=list, max_length=32)
    """Pods that ended without success, newest last."""
    start_time: str | None = Field(None, json_schema_extra={"format": "date-time"})
    """When the first pod was made."""
    completion_time: str | None = Field(None, json_schema_extra={"format": "date-time"})
    """When the job ended, well or for good."""


def is_told(status: dict[str, Any]) -> bool:
    """Whether an operator has written it."""
    return bool(status.get("observedGeneration", NEVER) != NEVER)


def unseen() -> dict[str, Any]:
    """The status of what no operator has told of yet, by the CRD's default. As Gateway API does it, condition and time too
    (apis/v1/gateway_types.go)."""
    message = "nothing is told of it yet: where that lasts longer than a minute, see whether the operator runs"
    ready = ConditionStatus(
        type=Condition.READY.value,
        status="Unknown",
        reason=Reason.PENDING.value,
        message=message,
        last_transition_time="1970-01-01T00:00:00Z",
    )
    return ResourceStatus(conditions=[ready]).model_dump(by_alias=True, exclude_none=True)
