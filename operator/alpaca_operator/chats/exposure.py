"""Pure: whether a deployment is led to from outside the cluster while everybody may ask."""

from __future__ import annotations

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.outcomes.observed import Observed


def unlocked(chat: ChatDeployment, observed: Observed) -> str | None:
    """What leads to it, and what to do; None where there is a login, or no way in that the spec asks for. A route that the cluster has no
    kind for leads nowhere."""
    spec = chat.spec
    has_route = any(one["kind"] == "HTTPRoute" for one in observed.other_children)
    ways = [
        *(["httpRoute"] if spec.http_route is not None and has_route else []),
        *(["service.type LoadBalancer"] if spec.service.type == "LoadBalancer" else []),
    ]
    if spec.auth is not None or not ways:
        return None
    verb = "leads" if len(ways) == 1 else "lead"
    return (
        f"{' and '.join(ways)} {verb} to the page and the API, and whoever reaches them may ask: set auth.secretName, unless something before "
        "them asks for a login"
    )
