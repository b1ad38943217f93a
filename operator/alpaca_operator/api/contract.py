"""What the operator and the pods agree on: exit codes, labels, paths, progress, the last word, the artifact on disk."""

from enum import IntEnum
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints
from pydantic.alias_generators import to_camel
from pydantic_core import from_json

from alpaca_operator.api import tolerant
from alpaca_operator.api.status import OutputKind, PlaceBeside, Reason, Short

GROUP_PREFIX = "literary-alpaca.io"

LABEL_MANAGED_BY = "app.kubernetes.io/managed-by"
MANAGED_BY = "literary-alpaca"
LABEL_KIND = f"{GROUP_PREFIX}/kind"
LABEL_NAME = f"{GROUP_PREFIX}/name"
LABEL_UID = f"{GROUP_PREFIX}/uid"
LABEL_PUSHER = f"{GROUP_PREFIX}/pusher"
"""On a Job, and its pods, that push what a job has made to the places of its `publish`."""
ANNOTATION_PUSHES = f"{GROUP_PREFIX}/pushes"
"""On such a Job: what it pushes where, a word for each place."""
LABEL_SCOUT = f"{GROUP_PREFIX}/scout"
"""On a Job, and its pods, that do nothing but find out whether there is room for more nodes."""
LABEL_PAGE = f"{GROUP_PREFIX}/page"
"""On what belongs to a page in pods of its own, and on these: the name of the deployment. They have none of LABEL_KIND and LABEL_NAME, by which
pods of the engine are found."""
SCOUT_SECONDS = 60
"""How long they look: an autoscaler hears of them, and what they have found is not tied up for longer."""
ANNOTATION_CONFIG = f"{GROUP_PREFIX}/config"
"""On the pod: the manifest as JSON, which the downward API shows the workload as a file."""
ANNOTATION_INPUTS = f"{GROUP_PREFIX}/inputs"
"""On the child, and in the manifest that the workload reads: the inputs that other jobs made, as JSON, as they were at the start."""
ANNOTATION_ACCEPT = f"{GROUP_PREFIX}/accept"
"""On a resource with `updatePolicy: Manual`: the update that is to be served."""
ANNOTATION_APPLIED = f"{GROUP_PREFIX}/applied"
"""On a child that the operator keeps as it is planned: the digest of the plan."""
ANNOTATION_ENGINE = f"{GROUP_PREFIX}/engine"
"""On a Deployment: what answers, and why, as `Transformers: no GPU is asked for`."""
ANNOTATION_REPLICAS = f"{GROUP_PREFIX}/replicas"
"""On a Deployment: the number of pods that its resource asked for last. As long as it asks for the same, others may scale."""
ANNOTATION_ADAPTERS = f"{GROUP_PREFIX}/adapters"
"""On a Deployment and its pods: an AdapterList as JSON. The downward API shows the pod its own as a file, anew when it is changed."""
LABEL_REVISION = f"{GROUP_PREFIX}/revision"
"""On pods of a Deployment: which plan they are of."""
KUEUE_PREFIX = "kueue.x-k8s.io/"
LABEL_INDEX = "batch.kubernetes.io/job-completion-index"
"""On each of several pods that train together: the number of its node."""

CONTAINER = "workload"
ENGINE_CONTAINER = "engine"
PAGE_CONTAINER = "ui"
FRONT_CONTAINER = "api"
"""What stands before vLLM."""
CHECK_CONTAINER = "adapter-check"
"""What looks at an adapter before vLLM starts with it."""
CONTAINERS = frozenset({CONTAINER, ENGINE_CONTAINER, PAGE_CONTAINER, FRONT_CONTAINER, CHECK_CONTAINER})
"""Those that we put into pods. Others come from whoever has a hand in pods as they are made (a mesh's proxy, an agent), and say nothing
of our work."""
PROGRESS_PORT = 8085
API_PORT = 8000
"""The engine: OpenAI's API under /v1, /health, /livez, /metrics."""
VLLM_PORT = 8001
"""vLLM, for its own pod alone: what stands before it answers on API_PORT."""
PAGE_PORT = 7860
"""The chat page."""
DRAIN_SECONDS = 5
"""What a Service needs to take a pod from its list: a pod of a ChatDeployment is told to stop so much later (its preStop), while its grace
period runs already."""
NODES_PORT = 29500
"""Where the first of several nodes keeps the store that their launching processes meet in."""
CONFIG_PATH = "/etc/alpaca/job.json"
ADAPTERS_PATH = "/etc/alpaca/adapters.json"
"""Beside it: ANNOTATION_ADAPTERS of the pod."""
MOUNT_ROOT = "/mnt"
"""`pvc://claim/path` is `/mnt/<claim>/path` in a pod."""
TERMINATION_PATH = "/dev/termination-log"
TERMINATION_LIMIT = 4096
"""Bytes of a termination message that the kubelet keeps."""
PROGRESS_LIMIT = 64 * 1024
"""Bytes of a /progress answer that the operator reads."""

ARTIFACT_FILE = "artifact.json"
"""Written last into an output: without it a folder is no artifact."""

ENV_RUN_ID = "ALPACA_RUN_ID"
"""In a pod: its UID, also where several share the work; in several that train together, that of their JobSet and how often it was started again, to
which the first node adds a word of its own. Checkpoints lie under `run-<id>`, and a run that is no longer the newest publishes nothing."""
ENV_JOBSET = "ALPACA_JOBSET"
"""In a pod of a JobSet: the UID of that."""
ENV_ATTEMPT = "ALPACA_ATTEMPT"
"""In a pod of a JobSet: how often that was started again. A younger attempt may take over from an older one, and never the other way."""
ENV_POD = "ALPACA_POD"
"""In a pod of a JobSet: its own UID."""
ENV_NODE = "ALPACA_NODE"
"""Of several nodes the number of this one, from 0."""
ENV_GROUP = "ALPACA_GROUP"
"""Where several machines each do a part of the work for themselves: what those of one run have in common. Absent, this one does all."""
ENV_NODES = "ALPACA_NODES"
"""How many nodes there are, where it is fewer than the spec asks for, and no fewer than its `minNodes`."""
ENV_COORDINATOR = "ALPACA_COORDINATOR"
"""Name or address under which the others reach the first of several nodes; `:port` where it is not NODES_PORT."""
ENV_IN_POD = "ALPACA_IN_POD"
"""Set to 1 in a pod: `pvc://` is under MOUNT_ROOT, JSON lines on standard output, a termination message."""
ENV_STORAGE = "ALPACA_STORAGE"
ENV_CACHE = "ALPACA_CACHE"
ENV_TERMINATION = "ALPACA_TERMINATION_LOG"
ENV_PROGRESS_PORT = "ALPACA_PROGRESS_PORT"
ENV_START_METHOD = "ALPACA_START_METHOD"
"""How several processes of a run are started: `spawn`, or, where there is no GPU, `fork`, which shares what was imported."""
ENV_CPU_FOR_GPU = "ALPACA_CPU_FOR_GPU"
"""Set to 1, a pod whose GPUs are not there goes on on the CPU: for nodes that only say that they have some."""
ENV_ENGINE_URL = "ALPACA_ENGINE_URL"
"""Base of the API that the page asks."""
ENV_ENGINE_PODS_URL = "ALPACA_ENGINE_PODS_URL"
"""In a page in pods of its own: the same API, of whichever pods of the engine there are, ready or not. It is looked at where nobody answers at
ENV_ENGINE_URL, and asked nothing."""
ENV_COMPARE_URL = "ALPACA_COMPARE_URL"
"""Base of the API of the second model, where it has one of its own."""
ENV_ADAPTERS = "ALPACA_ADAPTERS"
"""A file with an AdapterList, which is followed while the model is served. Absent, the adapters are those of the spec."""
ENV_HOSTS = "ALPACA_HOSTS"
"""Names of the routes that lead to page and API, with spaces between them."""
ENV_API_KEY = "ALPACA_API_KEY"
ENV_COMPARE_API_KEY = "ALPACA_COMPARE_API_KEY"
ENV_USERNAME = "ALPACA_CHAT_USERNAME"
ENV_PASSWORD = "ALPACA_CHAT_PASSWORD"
ENV_PUSH = "ALPACA_PUSH"
"""In a pod that pushes: the places of `publish` that it is for, by their numbers, separated by commas."""
ENV_PUSH_DIGEST = "ALPACA_PUSH_DIGEST"
"""In a pod that pushes: the digest of what its job has made."""
ENV_SECRETS = "ALPACA_SECRETS"
"""Where the sources of a job name several Secrets: their names, separated by commas. The keys of each then come a second time, with a prefix of
its own."""


def drain_seconds(grace_seconds: int) -> int:
    """What of a grace period is gone when a container is told to stop. Of a short one the last second is left."""
    return min(DRAIN_SECONDS, grace_seconds - 1)


def place_prefix(number: int) -> str:
    """Of the variables that come from the Secret of a place of `publish`."""
    return f"ALPACA_PLACE_{number}_"


def secret_prefix(number: int) -> str:
    """Of the variables that come from one of ENV_SECRETS."""
    return f"ALPACA_SECRET_{number}_"


class ExitCode(IntEnum):
    """How a workload ends; values from BSD's sysexits.h where it has one."""

    OK = 0
    SPEC = 64
    """A bad spec: wrong field, an option that cannot be honoured, an output that is taken, a loss that diverged."""
    DATA = 65
    """Bad data: file, row and reason are named."""
    INPUT = 66
    """An input is missing or unreadable."""
    INTERNAL = 70
    """Anything else."""
    MEMORY = 71
    """Too little memory."""
    HUNG = 72
    """No step for `hangTimeoutSeconds`."""
    INTERRUPTED = 75
    """Stopped on request after a checkpoint: run again to go on."""


NEVER_RETRIED = (ExitCode.SPEC, ExitCode.DATA, ExitCode.INPUT, ExitCode.MEMORY)
"""The next run would end alike."""
IGNORED = (ExitCode.INTERRUPTED, 128 + 9, 128 + 15)
"""Ends that the Job controller must not count: stopped on request, and killed by SIGKILL or SIGTERM, which is how a stop ends that was not
over in time. It does not see who asked for the stop; the operator does, and counts those that nobody asked for."""


class Wire(BaseModel):
    """JSON between our processes: camelCase, strict in what it writes, patient with fields that a newer side adds."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="ignore",
        frozen=True,
        protected_namespaces=(),
        defer_build=True,
    )

    def to_json(self) -> str:
        """Compact JSON without absent fields; NaN and infinities become null, as JSON has neither."""
        return self.model_dump_json(by_alias=True, exclude_none=True)


Count = Annotated[int, Field(ge=0, le=2**53)]
"""A number of steps or seconds that every reader of JSON keeps whole, and the API server takes."""


class Checkpoint(Wire):
    """The newest complete checkpoint."""

    uri: PlaceBeside
    step: Count


Stage = Literal[
    "Loading",
    "Preparing",
    "Training",
    "Quantizing",
    "Evaluating",
    "Answering",
    "Merging",
    "Saving",
    "Pushing",
    "Serving",
]
Word = Annotated[str, StringConstraints(max_length=64, pattern="^[A-Z][A-Za-z]*$")]
"""A stage of a newer version."""


Share = Annotated[float, Field(ge=0, le=1)]


class Goodput(Wire):
    """How much of what a job has done, over all its attempts, was not lost to their ends."""

    steps: Share
    """Optimizer steps that the present weights are made of, of all that were made."""
    time: Share | None = None
    """Seconds spent in these steps, of all since the first attempt began."""


class Progress(Wire):
    """The answer of `/progress` on rank 0. Lines of the JSON log carry the same fields."""

    stage: Stage | Word = "Loading"
    step: Count | None = None
    total_steps: Count | None = None
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: Count | None = None
    goodput: Goodput | None = None
    checkpoint: Checkpoint | None = None
    resolved_policy: dict[str, Any] | None = None


class Published(Wire):
    """What lies at the output now."""

    uri: Short
    digest: Short
    kind: OutputKind | None = None
    """None where it is of a newer version."""
    reused: bool = False


class PushedTo(Wire):
    """A place that the output was pushed to."""

    uri: Short
    revision: Short
    """Of the repository there: the commit, or the digest of the manifest."""
    digest: Short
    """Of the artifact that was pushed."""


class InputRead(Wire):
    """An input as the workload read it."""

    uri: Short
    digest: Short | None = None


def _known_reason(value: Any) -> Any:
    return value if not isinstance(value, str) or value in set(Reason) else None


class Termination(Wire):
    """The pod's last word, in its termination message. It survives the operator being down."""

    reason: Annotated[Reason | None, BeforeValidator(_known_reason)]
    """None where it is of a newer version."""
    exit_code: int = 0
    message: str = ""
    """One line: what happened and what to do."""
    rank: Count | None = None
    step: Count | None = None
    total_steps: Count | None = None
    loss: float | None = None
    metrics: Annotated[dict[str, float | None], Field(max_length=64)] | None = None
    resolved_policy: dict[str, Any] | None = None
    resolved_inputs: dict[str, InputRead] | None = None
    checkpoint: Checkpoint | None = None
    output: Published | None = None
    publications: Annotated[list[PushedTo], Field(max_length=16)] | None = None

    @classmethod
    def hear(cls, text: str) -> Self:
        """As a pod left it, without what this side does not understand, for that may be newer, or spoilt: the rest must not be lost with it.
        Raises ValueError for what is no last word at all."""
        return tolerant.read(cls, from_json(text))[0]


class ArtifactFile(Wire):
    """A file of an artifact."""

    path: str
    """Relative to artifact.json, with `/`."""
    size: int
    sha256: str


class ArtifactInput(Wire):
    """An input that an artifact was made from."""

    uri: str
    digest: str
    """`sha256:…`: the digest of an artifact, or of the contents of what lay there."""


class Attempt(Wire):
    """A run of a job that made steps: the job goes on from the newest checkpoint of the one before."""

    run_id: str
    started_at: str
    processes: int
    """That trained together."""
    first_step: Count
    """The step of the checkpoint that it went on from; 0 is the beginning."""
    last_step: Count
    """The last that it is known to have made."""


class Ancestor(Wire):
    """The part of an input's own artifact.json that says what it was made from."""

    kind: OutputKind
    job: dict[str, str] = Field(default_factory=dict)
    spec_digest: str
    spec: dict[str, Any] = Field(default_factory=dict)
    inputs: dict[str, ArtifactInput] = Field(default_factory=dict)


class ListedAdapter(Wire):
    """A LoRA adapter that is a model of its own beside the one that it is put on."""

    name: str
    """How requests call it."""
    uri: str
    digest: str | None = None
    """What has to lie there, where a job made it."""


class AdapterList(Wire):
    """The adapters that are to be served beside each other on one model."""

    adapters: list[ListedAdapter] = Field(default_factory=list)


class Artifact(Wire):
    """The content of ARTIFACT_FILE."""

    api_version: Literal["literary-alpaca.io/v1alpha1"] = "literary-alpaca.io/v1alpha1"
    kind: OutputKind
    job: dict[str, str] = Field(default_factory=dict)
    """`kind` and `name` of the job that made it."""
    digest: str
    """`sha256:` over the sorted list of files with their digests: what the content is. Of a model, adapter or tokenizer only the files
    that it is loaded from count, so that making it again gives the same digest."""
    spec_digest: str
    """`sha256:` over the part of the spec that shapes the result, and the inputs: what it was made from."""
    inputs: dict[str, ArtifactInput] = Field(default_factory=dict)
    ancestors: dict[str, Ancestor] = Field(default_factory=dict)
    """By digest, every artifact that it was made from, and those that they were made from: it leads back to the first inputs also when
    those between were moved or removed. Each once, however many ways lead to it."""
    files: list[ArtifactFile] = Field(default_factory=list)
    versions: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, float | None] = Field(default_factory=dict)
    spec: dict[str, Any] = Field(default_factory=dict)
    processes: int = 1
    """Processes that the spec asked for: a step saw as many times `batchSizePerDevice` × `gradientAccumulation` sequences."""
    attempts: list[Attempt] = Field(default_factory=list)
    """The runs that trained it, with the number of processes that each really had."""
    resolved_policy: dict[str, Any] = Field(default_factory=dict)
    created_at: str = ""
