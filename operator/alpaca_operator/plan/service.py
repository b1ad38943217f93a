"""What stands before the pods of a deployment: its Service, and where asked for a budget for disruptions and a route."""

from __future__ import annotations

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import API_PORT, LABEL_KIND, LABEL_NAME, LABEL_PAGE, PAGE_PORT
from alpaca_operator.plan import names
from alpaca_operator.plan.base import Manifest
from alpaca_operator.plan.moving import PageAt

NO_LIMIT = "0s"
"""As the Gateway API says it."""


def selector(chat: ChatDeployment) -> dict[str, str]:
    """Labels that find the pods. Without the UID: a Deployment's selector is for life, and a name has one owner at a time."""
    return {LABEL_KIND: chat.kind, LABEL_NAME: chat.metadata.name}


def selector_of_page(chat: ChatDeployment) -> dict[str, str]:
    """A label that finds the pods of a page apart, and none of the engine's."""
    return {LABEL_PAGE: chat.metadata.name}


def metadata(chat: ChatDeployment, **more: Manifest) -> Manifest:
    """Of every child but those of a page apart."""
    return {
        "name": names.child_name(chat),
        "namespace": chat.metadata.namespace,
        "labels": names.labels(chat),
        "ownerReferences": [names.owner(chat)],
        **{name: each for name, each in more.items() if each},
    }


def metadata_of_page(chat: ChatDeployment, name: str, **more: Manifest) -> Manifest:
    """Of children that a page apart needs."""
    common = metadata(chat, **more)
    return {**common, "name": name, "labels": common["labels"] | selector_of_page(chat)}


PAGE: Manifest = {"name": "page", "port": PAGE_PORT, "targetPort": "page", "protocol": "TCP"}
API: Manifest = {"name": "api", "port": API_PORT, "targetPort": "api", "protocol": "TCP"}


def service(chat: ChatDeployment, *, engine: bool, page: bool) -> Manifest:
    """The page where that, and the API where an ``engine`` runs in the pods."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata(chat, annotations=chat.spec.service.annotations),
        "spec": {
            "type": chat.spec.service.type,
            "selector": selector(chat),
            "ports": [*([PAGE] if page else []), *([API] if engine else [])],
            # The page keeps a user's stream in the pod that began it. Also with one replica: an autoscaler and a roll-out make several
            # pods of it, and nobody asks the spec. A page apart asks for all its users from one address, and any engine will do.
            "sessionAffinity": "ClientIP" if page else "None",
        },
    }


def service_of_page(chat: ChatDeployment) -> Manifest:
    """The page in pods of its own."""
    name = names.page_name(names.child_name(chat))
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata_of_page(chat, name, annotations=chat.spec.service.annotations),
        "spec": {
            "type": chat.spec.service.type,
            "selector": selector_of_page(chat),
            "ports": [PAGE],
            "sessionAffinity": "ClientIP",
        },
    }


def service_of_pods(chat: ChatDeployment) -> Manifest:
    """All pods of the engine by one name, for the page to see of those that are not ready whether there are any, and what they say."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata_of_page(chat, names.pods_name(names.child_name(chat))),
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": selector(chat),
            "ports": [API],
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


def route(chat: ChatDeployment, *, engine: bool, page_apart: bool) -> Manifest | None:
    """The API under /v1, everything else to the page. An answer streams for as long as one may take, and to the page for as long as it is
    open: a Gateway's own limit would cut it."""
    wanted = chat.spec.http_route
    if wanted is None:
        return None
    seconds = chat.spec.limits.request_timeout_seconds

    child = names.child_name(chat)
    page = names.page_name(child) if page_apart else child

    def rule(path: str, name: str, port: int, limit: str) -> Manifest:
        return {
            "matches": [{"path": {"type": "PathPrefix", "value": path}}],
            "backendRefs": [{"name": name, "port": port}],
            "timeouts": {"request": limit},
        }

    return {
        "apiVersion": "gateway.networking.k8s.io/v1",
        "kind": "HTTPRoute",
        "metadata": metadata(chat),
        "spec": {
            "parentRefs": [parent.model_dump(by_alias=True, exclude_none=True) for parent in wanted.parent_refs],
            **({"hostnames": wanted.hostnames} if wanted.hostnames else {}),
            "rules": [
                *([rule("/v1", child, API_PORT, f"{seconds}s")] if engine else []),
                rule("/", page, PAGE_PORT, NO_LIMIT),
            ],
        },
    }


def all_of(chat: ChatDeployment, *, engine: bool, at: PageAt, page_within: bool) -> list[Manifest]:
    """``page_within``: whether pods of the engine have the page still, which is led there until they go. The route comes last: a cluster may
    not have any."""
    wanted = (
        service(chat, engine=engine, page=at.is_within or page_within),
        *((service_of_page(chat), service_of_pods(chat)) if at.is_apart else ()),
        budget(chat),
        route(chat, engine=engine, page_apart=at.is_led_apart),
    )
    return [manifest for manifest in wanted if manifest is not None]
