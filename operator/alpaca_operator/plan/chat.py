"""ChatDeployment: a Deployment whose pods hold the page and, unless the API is elsewhere, the engine; and what stands before them."""

from __future__ import annotations

import math

from alpaca_operator.api.chain import note
from alpaca_operator.api.chat import VLLM, ChatDeployment, ChatSpec, Page
from alpaca_operator.api.contract import (
    ANNOTATION_ENGINE,
    ANNOTATION_REPLICAS,
    API_PORT,
    CHECK_CONTAINER,
    CONFIG_PATH,
    DRAIN_SECONDS,
    ENGINE_CONTAINER,
    ENV_API_KEY,
    FRONT_CONTAINER,
    LABEL_REVISION,
    MOUNT_ROOT,
    VLLM_PORT,
)
from alpaca_operator.api.endpoint import KeyReference
from alpaca_operator.api.sources import resolved
from alpaca_operator.exits import Exit
from alpaca_operator.inputs import Inputs
from alpaca_operator.outcomes.observed import Observed
from alpaca_operator.plan import adapters, keep, llama_cpp, page, pod, service, tool_calls, vllm
from alpaca_operator.plan.base import Manifest, Plan
from alpaca_operator.plan.containers import PROBE_SECONDS, draining, hosts, probe
from alpaca_operator.plan.moving import PageAt, answers_within, page_at
from alpaca_operator.plan.volumes import claims, mounts, volumes
from alpaca_operator.settings import Settings

THE_OPERATORS = frozenset(
    {
        "gates",
        "update_policy",
        "update_strategy",
        "replicas",
        "startup_timeout_seconds",
        "service",
        "pod_disruption_budget",
        "http_route",
        "adapter_selector",
    }
)
"""Fields that are nothing to the pods: to change them starts no new ones."""

HUNG_SECONDS = 30
"""For a container that its probe has given up: nobody is answered by it."""
CHECK_RESOURCES: Manifest = {"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"memory": "2Gi"}}
FRONT_RESOURCES: Manifest = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
LOOKING_RESOURCES: Manifest = {"requests": {"cpu": "100m", "memory": "1Gi"}, "limits": {"memory": "2Gi"}}
"""Of a front that looks at adapters: torch and PEFT stay in it, 750 MiB."""


def plan(chat: ChatDeployment, inputs: Inputs, settings: Settings, observed: Observed | None = None) -> Plan:
    """Everything that the operator keeps for a deployment. ``observed``: what there is of it, which tells where its page is now."""
    spec = resolved(chat.spec, {field: found.uri for field, found in inputs.items()})
    engine, why = choose(spec, settings)
    # What stands before vLLM is told what was chosen of both.
    chosen = {"engine": engine} | ({"vllm": VLLM(tool_call_parser=tool_calls.parser(spec))} if engine == "vLLM" else {})
    spec = spec.model_copy(update=chosen)
    # Without those that a selector takes: of them the pods refuse one by its name, and serve the others.
    if refusal := unfit(chat.model_copy(update={"spec": spec}), settings):
        return Plan(refusal=refusal)
    chat = chat.model_copy(update={"spec": adapters.with_selected(spec, inputs)})
    at = page_at(chat, observed)
    deployed = deployment(_with_page(chat) if at.is_within else _without_page(chat), inputs, settings, at)
    deployed["metadata"]["annotations"][ANNOTATION_ENGINE] = f"{engine}: {why}"
    if adapters.are_listed(chat.spec):
        deployed["metadata"]["annotations"] |= adapters.annotation(chat, inputs)
    pages = [page.deployment(chat, settings, observed)] if at.is_apart else []
    before = service.all_of(chat, engine=engine != "External", at=at, page_within=answers_within(observed))
    return Plan((deployed, *pages, *before))


def _with_page(chat: ChatDeployment) -> ChatDeployment:
    """As pods read it that have the page: how many others would have it, and where, is nothing to them."""
    inner = chat.spec.page.model_copy(update={"replicas": None, "node_selector": {}, "tolerations": []})
    return chat.model_copy(update={"spec": chat.spec.model_copy(update={"page": inner})})


def _without_page(chat: ChatDeployment) -> ChatDeployment:
    """As pods read it that have none: of the page the image is left, which stands before vLLM too."""
    none = Page(image=chat.spec.page.image)
    return chat.model_copy(update={"spec": chat.spec.model_copy(update={"page": none})})


def choose(spec: ChatSpec, settings: Settings) -> tuple[str, str]:
    """What answers, and why."""
    if spec.engine != "Auto":
        return spec.engine, "spec.engine says so"
    if not vllm.devices(spec):
        return "Transformers", "no GPU is asked for in pod.resources"
    if spec.pod.image:
        return "Transformers", "pod.image is given; with an image of vLLM, set engine to vLLM"
    if not settings.image_vllm:
        return "Transformers", "the operator has no image of vLLM (ALPACA_IMAGE_VLLM)"
    if cannot := vllm.unable(spec):
        return "Transformers", cannot
    return "vLLM", "a GPU is asked for, and vLLM can serve the spec"


def unfit(chat: ChatDeployment, settings: Settings) -> Exit | None:
    """Why a valid spec cannot be served in this cluster."""
    spec = chat.spec
    if refusal := pod.unmountable(chat):
        return refusal
    if not (spec.page.image or settings.image_page):
        return pod.invalid(
            "page.image is not set, and the operator has no image of the page: set it, or the operator's ALPACA_IMAGE_PAGE",
            chat,
        )
    if spec.engine != "External" and not _engine_image(chat, settings):
        variable = "ALPACA_IMAGE_VLLM" if spec.engine == "vLLM" else f"ALPACA_IMAGE_{chat.kind.upper()}"
        return pod.invalid(
            f"pod.image is not set, and the operator has no image of the engine: set it, or the operator's {variable}",
            chat,
        )
    if spec.engine == "vLLM" and (cannot := vllm.unable(spec)):
        return pod.invalid(f"{cannot}: set engine to Transformers", chat)
    with_adapters = spec.adapters or adapters.are_listed(spec)
    if spec.engine == "vLLM" and with_adapters and not settings.images.get(chat.kind):
        return pod.invalid(
            f"adapters are looked at before vLLM is given them, and the operator has no image that does: set its ALPACA_IMAGE_{chat.kind.upper()}",
            chat,
        )
    if spec.engine == "LlamaCpp" and (cannot := llama_cpp.unable(spec)):
        return pod.invalid(cannot, chat)
    return None


def deployment(chat: ChatDeployment, inputs: Inputs, settings: Settings, at: PageAt) -> Manifest:
    spec = chat.spec
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        # What is served stands beside the pods that serve it: one write changes both.
        "metadata": service.metadata(chat, annotations={ANNOTATION_REPLICAS: str(spec.replicas), **note(inputs)}),
        "spec": {
            "replicas": spec.replicas,
            "revisionHistoryLimit": 3,
            "progressDeadlineSeconds": spec.startup_timeout_seconds + 60,
            "strategy": strategy(spec),
            "selector": {"matchLabels": service.selector(chat)},
            "template": template(chat, inputs, settings, at),
        },
    }


def strategy(spec: ChatSpec) -> Manifest:
    """A new pod next to the old one, unless it would wait for the GPU that the old one holds, or the spec says otherwise."""
    if (spec.update_strategy or ("Recreate" if vllm.devices(spec) else "Surge")) == "Recreate":
        return {"type": "Recreate"}
    return {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}


def template(chat: ChatDeployment, inputs: Inputs, settings: Settings, at: PageAt) -> Manifest:
    listed = adapters.are_listed(chat.spec)
    read = adapters.without(inputs) if listed else inputs
    made = {field: one for field, one in read.items() if one.producer_uid}
    nothing_to_them = THE_OPERATORS | (adapters.FIELDS if listed else set()) | (set() if at.is_within else {"page"})
    manifest_json = pod.config(chat, note(made), without=nothing_to_them)
    external = chat.spec.engine == "External"
    engines = [] if external else [engine(chat, settings)]
    fronts = [front(chat, settings)] if chat.spec.engine == "vLLM" else []
    pages = [page.container(chat, settings)] if at.is_within else []
    tmp = [page.TMP] if pages or fronts else []
    frame = pod.pod_frame(chat, manifest_json, [*engines, *fronts, *pages], [*volumes(chat), *tmp])
    if chat.spec.engine == "vLLM" and chat.spec.adapters and not listed:
        frame["spec"]["initContainers"] = [check(chat, settings)]
    if listed:
        adapters.show(frame, FRONT_CONTAINER if fronts else ENGINE_CONTAINER)
    frame["metadata"]["labels"] = {**frame["metadata"]["labels"], LABEL_REVISION: keep.digest(frame)}
    if listed:  # behind the digest: pods of one plan have the lists of their days
        frame["metadata"]["annotations"] |= adapters.annotation(chat, inputs)
    return frame


def engine(chat: ChatDeployment, settings: Settings) -> Manifest:
    """The model. While it loads it is neither ready nor dead."""
    spec = chat.spec
    with_vllm = spec.engine == "vLLM"
    ours: Manifest = {"ports": [{"name": "api", "containerPort": API_PORT, "protocol": "TCP"}]}

    def asked(path: str, failures: int) -> Manifest:
        return _probe_within(path, failures=failures) if with_vllm else probe(path, "api", failures=failures)

    # What stands before vLLM stays when vLLM alone is started anew: its hook would wait for that to go until the pod's whole grace period is over.
    anew: Manifest = {"terminationGracePeriodSeconds": HUNG_SECONDS} if with_vllm else {}

    return {
        "name": ENGINE_CONTAINER,
        "image": _engine_image(chat, settings),
        **pod.given(imagePullPolicy=spec.pod.image_pull_policy),
        "command": vllm.command(chat) if with_vllm else ["python", "-m", "workloads.engine", CONFIG_PATH],
        "env": pod.env(chat, [*pod.household(), *_engine_env(chat, with_vllm)]),
        **pod.given(envFrom=pod.env_from(chat)),
        **({} if with_vllm else ours),
        "resources": pod.resources(spec.pod),
        "startupProbe": asked("/health", math.ceil(spec.startup_timeout_seconds / PROBE_SECONDS)) | anew,
        "readinessProbe": asked("/health", 2),
        # A minute: a node that trains beside may let an answer wait, and to start again costs the model's loading. vLLM, which listens
        # when it has loaded, has one answer to whether it is well.
        "livenessProbe": asked("/health" if with_vllm else "/livez", 12) | anew,
        "lifecycle": _behind_the_front() if with_vllm else draining(spec),
        **pod.RESTRICTED,
        "volumeMounts": _models(chat),
    }


def check(chat: ChatDeployment, settings: Settings) -> Manifest:
    """What looks at an adapter as our own engine would, and ends the pod's start where it does not fit: vLLM passes over what it does not
    know the name of."""
    return {
        "name": CHECK_CONTAINER,
        "image": settings.images[chat.kind],
        **pod.given(imagePullPolicy=chat.spec.pod.image_pull_policy),
        "command": ["python", "-m", "workloads.adapter_check", CONFIG_PATH],
        "env": pod.env(chat, pod.household()),
        **pod.given(envFrom=pod.env_from(chat)),
        "resources": CHECK_RESOURCES,
        **pod.RESTRICTED,
        "volumeMounts": _models(chat),
    }


def front(chat: ChatDeployment, settings: Settings) -> Manifest:
    """What is asked in vLLM's place: the guard, and what the spec says of answers. Ready when vLLM is. Where adapters come and go it looks at
    them, as `check` does, and has the image and the memory that this takes."""
    spec = chat.spec
    looks = adapters.are_listed(spec)
    ours = [*pod.household(), *_key(chat), *hosts(chat)]
    mounted = [mount for mount in _models(chat) if _is_read(mount)]
    return {
        "name": FRONT_CONTAINER,
        "image": settings.images[chat.kind] if looks else spec.page.image or settings.image_page,
        **pod.given(imagePullPolicy=spec.pod.image_pull_policy),
        "command": ["python", "-m", "workloads.chat_api", CONFIG_PATH],
        "env": pod.env(chat, ours) if looks else ours,
        **pod.given(envFrom=pod.env_from(chat) if looks else []),
        "ports": [{"name": "api", "containerPort": API_PORT, "protocol": "TCP"}],
        "resources": LOOKING_RESOURCES if looks else FRONT_RESOURCES,
        "startupProbe": probe("/livez", "api", failures=60),
        "readinessProbe": probe("/health", "api", failures=2),
        "livenessProbe": probe("/livez", "api", failures=12),
        "lifecycle": draining(spec),
        **pod.RESTRICTED,
        "volumeMounts": [
            # Of a model on a hub it brings what the model says of itself into the cache.
            *(mounted if looks else ({**mount, "readOnly": True} for mount in mounted)),
            {"name": page.TMP["name"], "mountPath": "/tmp"},
        ],
    }


def _models(chat: ChatDeployment) -> list[Manifest]:
    """What is mounted but for the votes, which are the page's: a claim that holds both is read here."""
    without_votes = chat.spec.page.model_copy(update={"votes": None})
    needed = claims(chat.spec.model_copy(update={"page": without_votes}))
    found = []
    for mount in mounts(chat):
        claim = mount["mountPath"].removeprefix(f"{MOUNT_ROOT}/")
        if not mount["name"].startswith("alpaca-claim-"):
            found.append(mount)
        elif claim in needed:
            found.append({**mount, "readOnly": not needed[claim]})
    return found


def _is_read(mount: Manifest) -> bool:
    """By the front: its spec, and the models' generation_config.json."""
    name: str = mount["name"]
    return name == "alpaca-config" or name.startswith("alpaca-claim-")


def _engine_image(chat: ChatDeployment, settings: Settings) -> str:
    default = settings.image_vllm if chat.spec.engine == "vLLM" else settings.images.get(chat.kind, "")
    return chat.spec.pod.image or default


def _engine_env(chat: ChatDeployment, with_vllm: bool) -> list[Manifest]:
    if not with_vllm:
        return [*_key(chat), *hosts(chat)]
    own: list[Manifest] = [{"name": "VLLM_NO_USAGE_STATS", "value": "1"}, {"name": "DO_NOT_TRACK", "value": "1"}]
    if adapters.are_listed(chat.spec):  # by what stands before it: nobody else reaches this of its API
        own.append({"name": "VLLM_ALLOW_RUNTIME_LORA_UPDATING", "value": "True"})
    return own


def _key(chat: ChatDeployment) -> list[Manifest]:
    auth = chat.spec.auth
    return [] if auth is None else [pod.from_secret(ENV_API_KEY, KeyReference(name=auth.secret_name))]


def _behind_the_front() -> Manifest:
    """vLLM breaks its answers off when it is told to stop: it is told when what stands before it has none any more, and is gone."""
    waiting = (
        f"import socket, time\ntime.sleep({DRAIN_SECONDS})\n"
        f"while not socket.socket().connect_ex(('127.0.0.1', {API_PORT})): time.sleep(1)"
    )
    return {"preStop": {"exec": {"command": ["python3", "-c", waiting]}}}


def _probe_within(path: str, *, failures: int) -> Manifest:
    """Of vLLM, which listens to its own pod alone: the kubelet is not in it."""
    asking = f"import urllib.request as r; r.urlopen('http://127.0.0.1:{VLLM_PORT}{path}', timeout=4)"
    return {
        "exec": {"command": ["python3", "-c", asking]},
        "periodSeconds": PROBE_SECONDS,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }
