"""The chat page: a container in the engine's pods, or in a Deployment of its own behind a Service of its own."""

from __future__ import annotations

from alpaca_operator.api.chat import ChatDeployment, ChatModel, ChatSpec, Comparison, Limits
from alpaca_operator.api.contract import (
    ANNOTATION_REPLICAS,
    API_PORT,
    CONFIG_PATH,
    ENV_API_KEY,
    ENV_COMPARE_API_KEY,
    ENV_COMPARE_URL,
    ENV_ENGINE_PODS_URL,
    ENV_ENGINE_URL,
    ENV_PASSWORD,
    ENV_USERNAME,
    GROUP_PREFIX,
    LABEL_MANAGED_BY,
    LABEL_REVISION,
    LABEL_UID,
    MANAGED_BY,
    MOUNT_ROOT,
    PAGE_CONTAINER,
    PAGE_PORT,
)
from alpaca_operator.api.endpoint import KeyReference
from alpaca_operator.api.pod import PodSettings
from alpaca_operator.outcomes.observed import Observed
from alpaca_operator.plan import keep, names, pod, service
from alpaca_operator.plan.base import Manifest
from alpaca_operator.plan.containers import draining, hosts, probe
from alpaca_operator.plan.volumes import claim_of, mounts, volumes
from alpaca_operator.settings import Settings

RESOURCES: Manifest = {"requests": {"cpu": "50m", "memory": "256Mi"}, "limits": {"memory": "1Gi"}}
TMP: Manifest = {"name": "alpaca-page-tmp", "emptyDir": {}}

READ = frozenset({"model", "compare_with", "system_prompt", "limits", "auth", "page", "hosts", "pod"})
"""Fields of the spec that a page in pods of its own is told of. Of the models no more than that there are some: the engine tells the rest,
and another model starts no pages anew."""
READ_ELSEWHERE = READ | {"engine", "endpoint"}
"""Where the API is elsewhere."""


def container(chat: ChatDeployment, settings: Settings, *, apart: bool = False) -> Manifest:
    """No model, no GPU; ready as soon as it is there, for it tells what the engine does."""
    spec = chat.spec
    asked = spec.page.resources.model_dump(exclude_defaults=True) or RESOURCES
    return {
        "name": PAGE_CONTAINER,
        "image": spec.page.image or settings.image_page,
        **pod.given(imagePullPolicy=spec.pod.image_pull_policy),
        "command": ["python", "-m", "workloads.chat_ui", CONFIG_PATH],
        "env": [*pod.household(), *_env(chat, apart)],
        "ports": [{"name": "page", "containerPort": PAGE_PORT, "protocol": "TCP"}],
        "resources": asked,
        "startupProbe": probe("/", "page", failures=60),
        # A pod is ready as a whole: a page that is slow for a moment would take the API out of its Service. One that hangs is started anew.
        "readinessProbe": probe("/livez", "page", failures=6),
        "livenessProbe": probe("/livez", "page", failures=12),
        "lifecycle": draining(spec),
        **pod.RESTRICTED,
        "volumeMounts": [
            next(mount for mount in mounts(chat) if mount["name"] == "alpaca-config"),
            {"name": TMP["name"], "mountPath": "/tmp"},
            *_votes(chat),
        ],
    }


def deployment(chat: ChatDeployment, settings: Settings, observed: Observed | None) -> Manifest:
    """Pods of the page alone. While they are kept until the engine's have the page, as many as there are."""
    replicas = chat.spec.page.replicas
    if replicas is None and observed is not None and observed.page is not None:
        replicas = observed.page.raw["spec"]["replicas"]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": service.metadata_of_page(
            chat, names.page_name(names.child_name(chat)), annotations={ANNOTATION_REPLICAS: str(replicas)}
        ),
        "spec": {
            "replicas": replicas,
            "revisionHistoryLimit": 3,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}},
            "selector": {"matchLabels": service.selector_of_page(chat)},
            "template": _template(chat, settings),
        },
    }


def _template(chat: ChatDeployment, settings: Settings) -> Manifest:
    chat = _of_page(chat)
    only = container(chat, settings, apart=True)
    mounted = {mount["name"] for mount in only["volumeMounts"]}
    frame = pod.pod_frame(
        chat, _told(chat), [only], [*(volume for volume in volumes(chat) if volume["name"] in mounted), TMP]
    )
    # By none of these a selector of the engine's finds them.
    frame["metadata"]["labels"] = {
        **{name: value for name, value in chat.spec.pod.labels.items() if not name.startswith(f"{GROUP_PREFIX}/")},
        LABEL_MANAGED_BY: MANAGED_BY,
        LABEL_UID: chat.metadata.uid or "",
        **service.selector_of_page(chat),
    }
    frame["metadata"]["labels"][LABEL_REVISION] = keep.digest(frame)
    return frame


def _of_page(chat: ChatDeployment) -> ChatDeployment:
    """As pods of the page read it: without what of `pod` is about the engine (devices, where these are, its volumes), and without the queue that
    it may wait in. A place of their own is theirs."""
    given = chat.spec.pod
    kept = PodSettings(
        image_pull_policy=given.image_pull_policy,
        image_pull_secrets=given.image_pull_secrets,
        priority_class_name=given.priority_class_name,
        service_account_name=given.service_account_name,
        labels=given.labels,
        annotations=given.annotations,
        termination_grace_period_seconds=given.termination_grace_period_seconds,
        node_selector=chat.spec.page.node_selector,
        tolerations=chat.spec.page.tolerations,
    )
    metadata = chat.metadata.model_copy(update={"labels": {}, "annotations": {}})
    return chat.model_copy(update={"metadata": metadata, "spec": chat.spec.model_copy(update={"pod": kept})})


def _told(chat: ChatDeployment) -> str:
    """The manifest that it reads."""
    spec = chat.spec
    other = spec.compare_with
    if spec.endpoint is None:
        other = other and Comparison(model=_no_more_than_there_is(other.model))
    grace = spec.pod.termination_grace_period_seconds
    told = spec.model_copy(
        update={
            "model": _no_more_than_there_is(spec.model),
            "compare_with": other,
            "limits": Limits(request_timeout_seconds=spec.limits.request_timeout_seconds),
            "page": spec.page.model_copy(update={"replicas": None, "node_selector": {}, "tolerations": []}),
            "pod": PodSettings(termination_grace_period_seconds=grace),
        }
    )
    read = READ if spec.endpoint is None else READ_ELSEWHERE
    without = frozenset(ChatSpec.model_fields) - read
    return pod.config(chat.model_copy(update={"spec": told}), {}, without=without)


def _no_more_than_there_is(model: ChatModel | None) -> ChatModel | None:
    return model and ChatModel(uri=model.uri)


def _votes(chat: ChatDeployment) -> list[Manifest]:
    """The claim in which votes are kept: nothing else of it is for the page."""
    claim = claim_of(chat.spec.page.votes)
    return [mount for mount in mounts(chat) if claim and mount["mountPath"] == f"{MOUNT_ROOT}/{claim}"]


def _env(chat: ChatDeployment, apart: bool) -> list[Manifest]:
    spec, ours = chat.spec, []
    first = spec.endpoint
    if first is None and apart:
        child = names.child_name(chat)
        ours.append({"name": ENV_ENGINE_URL, "value": _url(chat, child)})
        ours.append({"name": ENV_ENGINE_PODS_URL, "value": _url(chat, names.pods_name(child))})
    else:
        ours.append({"name": ENV_ENGINE_URL, "value": first.url if first else f"http://127.0.0.1:{API_PORT}/v1"})
    if first and first.secret_ref:
        ours.append(pod.from_secret(ENV_API_KEY, first.secret_ref))
    if spec.auth is not None:
        name = spec.auth.secret_name
        ours.append(pod.from_secret(ENV_USERNAME, KeyReference(name=name, key="username")))
        ours.append(pod.from_secret(ENV_PASSWORD, KeyReference(name=name, key="password")))
        if first is None:
            ours.append(pod.from_secret(ENV_API_KEY, KeyReference(name=name)))
    ours += hosts(chat)
    second = spec.compare_with and spec.compare_with.endpoint
    if second:
        ours.append({"name": ENV_COMPARE_URL, "value": second.url})
        ours += [pod.from_secret(ENV_COMPARE_API_KEY, second.secret_ref)] if second.secret_ref else []
    return ours


def _url(chat: ChatDeployment, name: str) -> str:
    """Of a Service. The cluster may have any domain: its DNS completes the name."""
    return f"http://{name}.{chat.metadata.namespace}.svc:{API_PORT}/v1"
