"""Pure: where the page and the API of a deployment are reached, from as far away as is known."""

from __future__ import annotations

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import API_PORT, PAGE_PORT
from alpaca_operator.cluster.objects import Object, Pod
from alpaca_operator.outcomes.observed import Observed


def page(chat: ChatDeployment, observed: Observed) -> str | None:
    """In pods of its own once it answers there, or where the engine's do not have it."""
    if route := _by_route(chat, observed):
        return route
    within = _service(observed, observed.child)
    if observed.page is not None and (observed.page.answers or not _has(within, PAGE_PORT)):
        return _by_service(_service(observed, observed.page.raw), observed.page.pods, PAGE_PORT)
    return _by_service(within, observed.pods, PAGE_PORT)


def api(chat: ChatDeployment, observed: Observed) -> str | None:
    """The base for OpenAI's clients."""
    if chat.spec.endpoint is not None:
        return chat.spec.endpoint.url
    base = _by_route(chat, observed) or _by_service(_service(observed, observed.child), observed.pods, API_PORT)
    return f"{base}/v1" if base else None


def _by_route(chat: ChatDeployment, observed: Observed) -> str | None:
    """Where there is one: a cluster without a Gateway API has none, whatever the spec asks for. The Gateway is not ours to read: a listener that is called http speaks that, any other TLS."""
    route = chat.spec.http_route
    made = any(one["kind"] == "HTTPRoute" for one in observed.other_children)
    if route is None or not route.hostnames or not made:
        return None
    plain = all(parent.section_name == "http" for parent in route.parent_refs)
    return f"{'http' if plain else 'https'}://{route.hostnames[0].removeprefix('*.')}"


def _service(observed: Observed, deployment: Object | None) -> Object | None:
    """Of the pods of a Deployment, by its name."""
    name = (deployment or {}).get("metadata", {}).get("name")
    services = (one for one in observed.other_children if one["kind"] == "Service")
    return next((one for one in services if one["metadata"]["name"] == name), None)


def _has(service: Object | None, port: int) -> bool:
    return any(one["port"] == port for one in (service or {}).get("spec", {}).get("ports", ()))


def _by_service(service: Object | None, pods: tuple[Pod, ...], port: int) -> str | None:
    if service is None:
        return None
    name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
    host = _balanced(service)
    if host:
        return f"http://{host}:{port}"
    node, node_port = _some_node(pods), _node_port(service, port)
    if node and node_port:
        return f"http://{node}:{node_port}"
    return f"http://{name}.{namespace}.svc:{port}"


def _balanced(service: Object) -> str | None:
    balancers: list[Object] = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or [{}]
    host: str | None = balancers[0].get("hostname") or balancers[0].get("ip")
    return host


def _node_port(service: Object, port: int) -> int | None:
    """Of a Service that is meant to be reached by it; a balanced one has one too."""
    if service["spec"].get("type") != "NodePort":
        return None
    return next((one.get("nodePort") for one in service["spec"]["ports"] if one["port"] == port), None)


def _some_node(pods: tuple[Pod, ...]) -> str | None:
    """Any will do: one that has a pod, of those that answer first. A node that the last pod has left may be gone."""
    here = [pod for pod in pods if pod.host_ip and not (pod.is_over or pod.deletion_timestamp)]
    return next((pod.host_ip for pod in sorted(here, key=lambda pod: not pod.is_ready)), None)
