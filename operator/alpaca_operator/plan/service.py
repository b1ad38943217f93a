"""What stands before the pods of a deployment: its Service, and where asked for a budget for disruptions and a route."""

from __future__ import annotations

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import API_PORT, LABEL_KIND, LABEL_NAME, PAGE_PORT
from alpaca_operator.plan import names
from alpaca_operator.plan.base import Manifest

NO_LIMIT = "0s"
"""As the Gateway API says it."""


def selector(chat: ChatDeployment) -> dict[str, str]:
    """Labels that find the pods. Without the UID: a Deployment's selector is for life, and a name has one owner at a time."""
    return {LABEL_KIND: chat.kind, LABEL_NAME: chat.metadata.name}


def metadata(chat: ChatDeployment, **more: Manifest) -> Manifest:
    """Of every child."""
    return {
        "name": names.child_name(chat),
        "namespace": chat.metadata.namespace,
        "labels": names.labels(chat),
        "ownerReferences": [names.owner(chat)],
        **{name: each for name, each in more.items() if each},
    }


def service(chat: ChatDeployment, *, engine: bool) -> Manifest:
    """The page, and the API where an ``engine`` runs in the pods."""
    ports: list[Manifest] = [{"name": "page", "port": PAGE_PORT, "targetPort": "page", "protocol": "TCP"}]
    if engine:
        ports.append({"name": "api", "port": API_PORT, "targetPort": "api", "protocol": "TCP"})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(chat, annotations=chat.spec.service.annotations),
        "spec": {
            "type": chat.spec.service.type,
            "selector": selector(chat),
            "ports": ports,
            # The page keeps a user's stream in the pod that began it. Also with one replica: an autoscaler and a roll-out make several
            # pods of it, and nobody asks the spec.
            "sessionAffinity": "ClientIP",
        },
    }


def budget(chat: ChatDeployment) -> Manifest | None:
    wanted = chat.spec.pod_disruption_budget
    if wanted is None:
        return None
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata(chat),
        "spec": {
            **wanted.model_dump(by_alias=True, exclude_none=True),
            "selector": {"matchLabels": selector(chat)},
            # A pod that does not answer holds up nobody.
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
        },
    }


def route(chat: ChatDeployment, *, engine: bool) -> Manifest | None:
    """The API under /v1, everything else to the page. An answer streams for as long as one may take, and to the page for as long as it is
    open: a Gateway's own limit would cut it."""
    wanted = chat.spec.http_route
    if wanted is None:
        return None
    seconds = chat.spec.limits.request_timeout_seconds

    def rule(path: str, port: int, limit: str) -> Manifest:
        return {
            "matches": [{"path": {"type": "PathPrefix", "value": path}}],
            "backendRefs": [{"name": names.child_name(chat), "port": port}],
            "timeouts": {"request": limit},
        }

    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(chat),
        "spec": {
            "parentRefs": [parent.model_dump(by_alias=True, exclude_none=True) for parent in wanted.parent_refs],
            **({"hostnames": wanted.hostnames} if wanted.hostnames else {}),
            "rules": [*([rule("/v1", API_PORT, f"{seconds}s")] if engine else []), rule("/", PAGE_PORT, NO_LIMIT)],
        },
    }


def all_of(chat: ChatDeployment, *, engine: bool) -> list[Manifest]:
    """The route comes last: a cluster may not have any."""
    wanted = (service(chat, engine=engine), budget(chat), route(chat, engine=engine))
    return [manifest for manifest in wanted if manifest is not None]
