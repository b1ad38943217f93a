"""What the containers of a deployment have in common: how they are looked at, how they stop, and the names that they are told."""

from __future__ import annotations

from alpaca_operator.api.chat import ChatDeployment, ChatSpec
from alpaca_operator.api.contract import ENV_HOSTS, drain_seconds
from alpaca_operator.plan.base import Manifest

PROBE_SECONDS = 5


def probe(path: str, port: str, *, failures: int) -> Manifest:
    return {
        "httpGet": {"path": path, "port": port},
        "periodSeconds": PROBE_SECONDS,
        "timeoutSeconds": 5,
        "failureThreshold": failures,
    }


def draining(spec: ChatSpec) -> Manifest:
    """Answered until the Service knows; the rest of the grace period is for what is being answered."""
    return {"preStop": {"sleep": {"seconds": drain_seconds(spec.pod.termination_grace_period_seconds)}}}


def hosts(chat: ChatDeployment) -> list[Manifest]:
    """The route is nothing else to the pods, and they are not told of it; of `hosts` they are by their spec."""
    route = chat.spec.http_route
    return [{"name": ENV_HOSTS, "value": " ".join(route.hostnames)}] if route and route.hostnames else []
