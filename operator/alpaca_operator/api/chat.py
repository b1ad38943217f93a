"""ChatDeployment: a chat page and an OpenAI-compatible API for a model, served until it is deleted."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from alpaca_operator.api.conversations import SystemPrompt, TemplateName
from alpaca_operator.api.endpoint import Endpoint
from alpaca_operator.api.model import IntOrPercent, ModelName, Name, ShortText, Spec
from alpaca_operator.api.pod import PodSettings, ResourceRequirements, Toleration
from alpaca_operator.api.resource import HOST_NAME, Cache, Resource, ResourceSpec
from alpaca_operator.api.rules import Rule, untouched
from alpaca_operator.api.selectors import LabelSelector
from alpaca_operator.api.serving import ServingStatus
from alpaca_operator.api.sources import AdapterSource, AnsweringModel, JobReference, Source
from alpaca_operator.api.training import Load

Folder = Annotated[
    str, StringConstraints(min_length=8, max_length=1024, pattern=r"^pvc://[a-z0-9][-a-z0-9.]*(/[^\s]*)?$")
]
EngineName = Literal["Auto", "Transformers", "vLLM", "LlamaCpp", "External"]


class ChatModel(AnsweringModel):
    """A model that answers: full, quantized, or a GGUF file."""

    accepts: ClassVar = AnsweringModel.accepts | {"GGUFModel", "FP8Model"}


class ServedAdapter(AdapterSource):
    """A LoRA adapter on the model."""

    name: ModelName | None = None
    """Makes it a model of its own, which requests call so: the model with this adapter alone. Absent, it is put on the model for all."""


NO_TWO_TEMPLATES = Rule(
    cel="!has(self.templateFile) || self.template == 'FromModel'",
    holds=lambda part: part.template_file is None or part.template == "FromModel",
    message="template and templateFile both name a template: remove one",
)


class Comparison(Spec):
    """A second model, whose answers stand beside those of the first."""

    name: ModelName | None = None
    """How the page and the API call it; absent is the deployment's name with `-other`."""
    model: ChatModel | None = None
    """The model: full, or quantized by QuantizeJob."""
    adapters: list[AdapterSource] = Field(default_factory=list, max_length=16)
    """Adapters put on it, not merged."""
    load: Load | None = None
    """Hold it in 8 or 4 bits. Not for a model that is quantized already."""
    template: TemplateName = "FromModel"
    """How a conversation becomes text for this model."""
    template_file: Source | None = None
    """A Jinja chat template, used in place of `template`."""
    endpoint: Endpoint | None = None
    """Where it is served, with `engine: External`."""

    rules: ClassVar = (
        NO_TWO_TEMPLATES,
        Rule(
            cel="has(self.model) != has(self.endpoint)",
            holds=lambda other: (other.model is None) != (other.endpoint is None),
            message="compareWith needs model or endpoint, and not both: name one",
        ),
    )


class Answering(Spec):
    """How answers are written where a question does not say. What is absent is taken from the model's generation_config.json."""

    temperature: float | None = Field(None, ge=0, le=2)
    """0 takes the likeliest token each time. Without a value of the model's own, 0.3."""
    top_p: float | None = Field(None, gt=0, le=1)
    """Draw from the likeliest tokens that together have this probability. Without a value of the model's own, 0.95."""
    top_k: int | None = Field(None, ge=0, le=100_000)
    """Draw from this many of the likeliest tokens; 0 from all. Without a value of the model's own, 50."""
    repetition_penalty: float | None = Field(None, ge=1, le=10)
    """Tokens that were used already become this much less likely. Without a value of the model's own, 1.1."""
    max_new_tokens: int | None = Field(None, ge=1, le=65536)
    """Longest answer, in tokens. Without a value of the model's own, 512."""


class Limits(Spec):
    """What one pod takes on."""

    max_input_tokens: int | None = Field(None, ge=16, le=4_194_304)
    """Longest conversation in tokens; above it the oldest turns are left out, and a question that is too long by itself is refused.
    Absent, the model's context less the longest answer."""
    max_queue: int = Field(64, ge=0, le=100_000)
    """Questions that wait for their turn; more are refused at once, with the status 429."""
    max_batch: int = Field(16, ge=1, le=1024)
    """Questions answered at the same time; each takes memory for its conversation."""
    request_timeout_seconds: int = Field(600, ge=1, le=86400)
    """An answer that takes longer is cut off, and says so."""


AUTO_PARSER, NO_PARSER = "Auto", "None"


class VLLM(Spec):
    """What concerns vLLM alone."""

    tool_call_parser: Annotated[
        str, StringConstraints(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9][-A-Za-z0-9_.]*$")
    ] = AUTO_PARSER
    """How the model writes calls of tools, by vLLM's name for it: `hermes`, `llama3_json`, `mistral`, `qwen3_xml`, … With one, models may
    choose to call tools (`tool_choice: auto`). `Auto` knows that of models on a hub whose name tells it (Qwen2.5 and Qwen3, Llama-3.1 to 3.3,
    Hermes, Mistral, GLM), `None` takes none: tools are called where a request says `required` or names one."""


class Auth(Spec):
    """Who may ask. Page and API are locked together: a login on one alone would be no lock."""

    secret_name: Name
    """A Secret in the same namespace with the keys `username` and `password` (the page's login) and `apiKey` (the API's bearer token).
    Locally the environment has them: `ALPACA_CHAT_USERNAME`, `ALPACA_CHAT_PASSWORD`, `ALPACA_API_KEY`."""


class Page(Spec):
    """The chat page."""

    title: Annotated[str, StringConstraints(min_length=1, max_length=100)] | None = None
    """Its title; absent is the deployment's name."""
    history_turns: int = Field(20, ge=0, le=1000)
    """Turns of the conversation that are sent along with a question, to begin with; users may change it."""
    votes: Folder | None = None
    """A folder `pvc://claim/path` in which what users think of answers is kept, each vote with the conversation up to it: `liked` as rows
    that SFTJob reads, `preferences` and `disliked` for tuning by preferences. Absent, nothing is kept, and the page asks for no votes."""
    image: Annotated[str, StringConstraints(min_length=1, max_length=512)] | None = None
    """Container image of the page; absent takes the operator's default."""
    resources: ResourceRequirements = Field(default_factory=ResourceRequirements)
    """Memory and CPU of the page, beside those of the engine (`pod.resources`). Absent, it asks for little."""
    replicas: int | None = Field(None, ge=1, le=100)
    """Pods of the page alone, with a Service of their own, `<name>-chat-page`: the page is there while the model loads and while no pod of
    the engine is wanted, and tells so. Of `pod` they take labels, annotations, imagePullPolicy, imagePullSecrets, serviceAccountName,
    priorityClassName and terminationGracePeriodSeconds. Absent, the page runs in the engine's pods. With `engine: External` the pods hold
    the page alone anyway: `replicas` is their number."""
    node_selector: dict[ShortText, ShortText] = Field(default_factory=dict, max_length=32)
    """Labels a node must have for pods of the page alone; `pod.nodeSelector` is for those of the engine."""
    tolerations: list[Toleration] = Field(default_factory=list, max_length=32)
    """Taints that pods of the page alone accept; `pod.tolerations` is for those of the engine."""

    rules: ClassVar = (
        Rule(
            cel="has(self.replicas) || !((has(self.nodeSelector) && size(self.nodeSelector) > 0) || (has(self.tolerations) && size(self.tolerations) > 0))",
            holds=lambda page: page.replicas is not None or not (page.node_selector or page.tolerations),
            message="nodeSelector and tolerations of the page are of pods of its own: set page.replicas, or remove them",
        ),
    )


class ServiceSettings(Spec):
    """How the pods are reached."""

    type: Literal["ClusterIP", "NodePort", "LoadBalancer"] = "ClusterIP"
    """Within the cluster, on a port of every node, or by a load balancer of the cloud. With `page.replicas` it holds for both Services, the
    page's and the API's."""
    annotations: dict[ShortText, Annotated[str, StringConstraints(max_length=4096)]] = Field(
        default_factory=dict, max_length=32
    )
    """Annotations of the Service, which load balancers read; with `page.replicas` of both."""


class DisruptionBudget(Spec):
    """How many pods a drain of nodes must leave."""

    min_available: IntOrPercent | None = None
    """Pods that stay, as a number or `50%`."""
    max_unavailable: IntOrPercent | None = None
    """Pods that may go at the same time, as a number or `50%`."""

    rules: ClassVar = (
        Rule(
            cel="has(self.minAvailable) != has(self.maxUnavailable)",
            holds=lambda budget: (budget.min_available is None) != (budget.max_unavailable is None),
            message="podDisruptionBudget needs minAvailable or maxUnavailable, and not both: set one",
        ),
    )


class ParentReference(Spec):
    """A Gateway."""

    name: Name
    """Its name."""
    namespace: Name | None = None
    """Its namespace, where it is another one. The Gateway has to allow routes from here."""
    section_name: ShortText | None = None
    """One of its listeners; absent are all."""


RouteHost = Annotated[
    str, StringConstraints(min_length=1, max_length=253, pattern=r"^(\*\.)?[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")
]


class Route(Spec):
    """A route of the Gateway API: the page at `/`, the API at `/v1`."""

    parent_refs: list[ParentReference] = Field(min_length=1, max_length=8)
    """The Gateways that carry it."""
    hostnames: list[RouteHost] = Field(default_factory=list, max_length=16)
    """Host names, such as `chat.example.org`; absent takes those of the Gateway."""


class Gate(Spec):
    """A job that has to end well before a model is served."""

    from_: JobReference = Field(alias="from")
    """An EvaluationJob with gates, or any other job. One that measured a model counts for the very model that it measured: when the
    model is made anew, it has to be measured anew."""


class ChatSpec(ResourceSpec):
    """What to serve, how, and to whom. Every field may change: new pods take over when they are ready."""

    model: ChatModel | None = None
    """The model: full, quantized by QuantizeJob, or with `engine: LlamaCpp` a folder with one GGUF file. With `engine: External` there
    is none."""
    adapters: list[ServedAdapter] = Field(default_factory=list, max_length=16)
    """Adapters on it, not merged: put on it together, or, where they have names, each a model of its own beside it, in the memory of one.
    Those with names are added and removed while the pods serve, unless one lies on a claim, or needs a Secret, that the pods do not have, or
    is the first or the last that vLLM has; vLLM reads them from `pvc://` alone."""
    adapter_selector: LabelSelector | None = None
    """SFTJobs of this namespace by their labels: the adapter of each that is complete and was trained on this very model is a model of its
    own beside it, by the job's name, from then on and until the job is deleted or loses the labels; 16 at most. They come and go while the
    pods serve, as adapters with names do. The label is the decision: `gates` and `updatePolicy` hold none of them back."""
    load: Load | None = None
    """Hold it in 8 or 4 bits. Not for a model that is quantized already."""
    template: TemplateName = "FromModel"
    """How a conversation becomes text: the one that the model was tuned with."""
    template_file: Source | None = None
    """A Jinja chat template, used in place of `template`."""
    engine: EngineName = "Auto"
    """What answers. `Auto` takes vLLM where a GPU is asked for, the operator has an image of it and it can serve this spec, else
    Transformers, which runs on CPUs too. `LlamaCpp` serves a GGUF file on CPUs. `External` puts the page before an API elsewhere."""
    endpoint: Endpoint | None = None
    """The API elsewhere, with `engine: External`."""
    vllm: VLLM | None = None
    """What concerns vLLM alone."""
    compare_with: Comparison | None = None
    """A second model, side by side with the first on the page, by its own name in the API."""
    generation: Answering = Field(default_factory=Answering)
    """How answers are written where a question does not say."""
    system_prompt: SystemPrompt | None = None
    """System prompt of conversations that bring none; users may change it on the page."""
    limits: Limits = Field(default_factory=Limits)
    """What one pod takes on."""
    auth: Auth | None = None
    """Who may ask; absent, everybody who reaches the Service."""
    page: Page = Field(default_factory=Page)
    """The chat page."""
    gates: list[Gate] = Field(default_factory=list, max_length=16)
    """Jobs that have to end well before a model is served."""
    update_policy: Literal["Automatic", "Manual"] = "Automatic"
    """What happens when a job that `from` names makes a new model. `Automatic` serves it once it is there and passed `gates`; `Manual`
    only tells of it. Either way the old one is served until then, and by `updateStrategy: Surge` until the new one is ready."""
    update_strategy: Literal["Surge", "Recreate"] | None = None
    """How new pods take over. `Surge` starts one beside the old ones, which answer until it is ready: it needs room for a pod more, and its
    GPUs. `Recreate` ends the old pods first, and nothing answers until the new ones have loaded. Absent, `Recreate` where pods ask for a
    GPU, which a new one might wait for in vain, else `Surge`."""
    replicas: int = Field(1, ge=0, le=1000)
    """Pods: of the engine alone with `page.replicas`. `kubectl scale` and autoscalers set it."""
    startup_timeout_seconds: int = Field(1800, ge=10, le=86400)
    """Time for a pod to load its model. After it the pod is started anew, and an update counts as failed."""
    service: ServiceSettings = Field(default_factory=ServiceSettings)
    """How the pods are reached."""
    pod_disruption_budget: DisruptionBudget | None = None
    """How many pods a drain of nodes must leave; absent, nothing holds a drain up."""
    http_route: Route | None = None
    """A route of the Gateway API; absent, there is none."""
    hosts: list[RouteHost] = Field(default_factory=list, max_length=32)
    """Names under which browsers reach page and API through what the operator does not make: an Ingress, a balancer, a proxy.
    `*.example.org` stands for all names below it. Once one is given, here or in `httpRoute.hostnames`, requests under other names are
    refused, so that no one points a name of theirs at the page; the cluster's own names, localhost and addresses in figures always pass.
    Pages of these names may ask the API."""
    cache: Cache | None = None
    """A volume for downloads; absent, each pod starts cold."""
    pod: PodSettings = Field(default_factory=PodSettings)
    """Image and resources of the engine, and placement of the pod."""

    @property
    def written_to(self) -> list[str]:
        return [self.page.votes] if self.page.votes else []

    rules: ClassVar = (
        NO_TWO_TEMPLATES,
        Rule(
            cel="self.engine != 'External' || has(self.endpoint)",
            holds=lambda spec: spec.engine != "External" or spec.endpoint is not None,
            message="engine External asks an API elsewhere: set endpoint.url",
        ),
        Rule(
            cel="self.engine == 'External' || !has(self.endpoint)",
            holds=lambda spec: spec.engine == "External" or spec.endpoint is None,
            message="endpoint is only read with engine External: set engine to External, or remove endpoint",
        ),
        Rule(
            cel="self.engine == 'External' || has(self.model)",
            holds=lambda spec: spec.engine == "External" or spec.model is not None,
            message="nothing is served: set model, or engine to External and endpoint.url",
        ),
        Rule(
            cel="self.engine != 'External' || !(has(self.model) || (has(self.adapters) && size(self.adapters) > 0) || has(self.load))",
            holds=lambda spec: spec.engine != "External" or not (spec.model or spec.adapters or spec.load),
            message="engine External loads no model: remove model, adapters and load, or set engine to Auto",
        ),
        Rule(
            cel=f"self.engine != 'External' || (self.template == 'FromModel' && !has(self.templateFile) && {untouched('generation', Answering)} && "
            f"{untouched('limits', Limits, but=frozenset({'request_timeout_seconds'}))})",
            holds=lambda spec: (
                spec.engine != "External"
                or (
                    spec.template == "FromModel"
                    and spec.template_file is None
                    and spec.generation == Answering()
                    and spec.limits == Limits(request_timeout_seconds=spec.limits.request_timeout_seconds)
                )
            ),
            message="engine External answers by its own settings: remove template, generation and limits (but requestTimeoutSeconds), or set "
            "engine to Auto",
        ),
        Rule(
            cel="self.engine != 'External' || !has(self.page) || !has(self.page.replicas)",
            holds=lambda spec: spec.engine != "External" or spec.page.replicas is None,
            message="with engine External the pods hold the page alone: remove page.replicas, and set replicas",
        ),
        Rule(
            cel="!has(self.compareWith) || (self.engine == 'External') == has(self.compareWith.endpoint)",
            holds=lambda spec: (
                spec.compare_with is None or (spec.engine == "External") == (spec.compare_with.endpoint is not None)
            ),
            message="compareWith is served as the first model is: give it endpoint with engine External, model with any other",
        ),
        Rule(
            cel="self.engine != 'vLLM' || !(has(self.compareWith) || has(self.load) || (has(self.adapters) && size(self.adapters) > 1 && "
            "self.adapters.exists(one, !has(one.name))))",
            holds=lambda spec: (
                spec.engine != "vLLM"
                or not (
                    spec.compare_with
                    or spec.load
                    or (len(spec.adapters) > 1 and any(one.name is None for one in spec.adapters))
                )
            ),
            message="vLLM serves one model with at most one adapter that has no name, in the bits that it was saved in: remove compareWith, "
            "load and further adapters, give the adapters names, or set engine to Transformers",
        ),
        Rule(
            cel="!has(self.adapters) || self.adapters.all(one, has(one.name)) || self.adapters.all(one, !has(one.name))",
            holds=lambda spec: len({one.name is None for one in spec.adapters}) < 2,
            message="adapters with a name are models of their own and those without are put on the model for all: name all of them, or none",
        ),
        Rule(
            cel="!has(self.adapters) || self.adapters.all(one, !has(one.name) || self.adapters.exists_one(other, has(other.name) && "
            "other.name == one.name))",
            holds=lambda spec: (
                len({one.name for one in spec.adapters if one.name}) == sum(bool(one.name) for one in spec.adapters)
            ),
            message="two adapters have one name: requests choose by it, give each its own",
        ),
        Rule(
            cel="!has(self.adapterSelector) || !has(self.adapters) || self.adapters.all(one, has(one.name))",
            holds=lambda spec: spec.adapter_selector is None or all(one.name for one in spec.adapters),
            message="those that adapterSelector takes are models of their own: give the adapters names, or remove one of the two",
        ),
        Rule(
            cel="!has(self.adapterSelector) || self.engine in ['Auto', 'Transformers', 'vLLM']",
            holds=lambda spec: spec.adapter_selector is None or spec.engine in ("Auto", "Transformers", "vLLM"),
            message="adapterSelector is only read with engines Transformers and vLLM: remove it, or set engine to one of them",
        ),
        Rule(
            cel="!has(self.vllm) || self.engine == 'vLLM' || self.engine == 'Auto'",
            holds=lambda spec: spec.vllm is None or spec.engine in ("vLLM", "Auto"),
            message="vllm is only read with engine vLLM: remove it, or set engine to vLLM",
        ),
        Rule(
            cel="self.engine != 'vLLM' || (self.template == 'FromModel' && !has(self.templateFile))",
            holds=lambda spec: spec.engine != "vLLM" or (spec.template == "FromModel" and spec.template_file is None),
            message="vLLM takes the chat template that is saved with the model: remove template and templateFile, or set engine to Transformers",
        ),
        Rule(
            cel="self.engine != 'LlamaCpp' || !(has(self.load) || (has(self.adapters) && size(self.adapters) > 0) || "
            "(has(self.compareWith) && (has(self.compareWith.load) || (has(self.compareWith.adapters) && size(self.compareWith.adapters) > 0))))",
            holds=lambda spec: (
                spec.engine != "LlamaCpp"
                or not any(part.load or part.adapters for part in (spec, spec.compare_with) if part is not None)
            ),
            message="llama.cpp serves a GGUF file as it is: remove load and adapters (merge them before the file is written), or set engine to "
            "Transformers",
        ),
        Rule(
            cel="self.engine != 'LlamaCpp' || !((has(self.model) && has(self.model.ropeScaling)) || "
            "(has(self.compareWith) && has(self.compareWith.model) && has(self.compareWith.model.ropeScaling)))",
            holds=lambda spec: (
                spec.engine != "LlamaCpp"
                or not any(
                    part.model.rope_scaling
                    for part in (spec, spec.compare_with)
                    if part is not None and part.model is not None
                )
            ),
            message="a GGUF file says itself how its positions are stretched: remove ropeScaling, and set it on the QuantizeJob that writes the "
            "file",
        ),
    )


class ChatDeployment(Resource):
    """Serves a model: a chat page for people, an OpenAI-compatible API for their programs."""

    short_names: ClassVar = ("chat",)
    columns: ClassVar = (
        {"name": "State", "type": "string", "jsonPath": '.status.conditions[?(@.type=="Ready")].reason'},
        {"name": "Model", "type": "string", "jsonPath": ".status.model.display"},
        {"name": "URL", "type": "string", "jsonPath": ".status.url"},
        {"name": "Replicas", "type": "string", "jsonPath": ".status.replicasDisplay"},
        {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
        {"name": "Engine", "type": "string", "jsonPath": ".status.engine.name", "priority": 1},
        {"name": "Tokens/s", "type": "string", "jsonPath": ".status.traffic.display", "priority": 1},
        {
            "name": "Message",
            "type": "string",
            "jsonPath": '.status.conditions[?(@.type=="Ready")].message',
            "priority": 1,
        },
    )
    workload: ClassVar = "chat"
    name_limit: ClassVar = 40
    name_rules: ClassVar = (
        Rule(
            cel=f"self.metadata.name.matches('^{HOST_NAME.pattern}$')",
            holds=lambda chat: HOST_NAME.fullmatch(chat.metadata.name) is not None,
            message="metadata.name becomes the name of a Service: it starts with a letter and has a-z, 0-9 and - only",
        ),
    )
    scales: ClassVar = True

    kind: Literal["ChatDeployment"] = "ChatDeployment"
    spec: ChatSpec
    status: ServingStatus | None = None
