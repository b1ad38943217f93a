"""Whom a browser believes to speak to: Host against names that were pointed here by others, Origin against pages of others.

A page elsewhere can send requests here with a visitor's own reach and login. The browser tells of it: by Origin in every request that
may change something, and by Host where the page's name was pointed to this address after it was loaded (DNS rebinding).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from starlette.types import Scope

from alpaca_operator.api import contract
from alpaca_operator.api.chat import ChatDeployment
from workloads.serving.guard.scope import header
from workloads.serving.refusal import Refusal, cut

LOOPBACK = ("localhost",)
CLUSTER = (".svc", ".svc.cluster.local", ".cluster.local")
"""Ends of names that no one can register, so that nobody points them anywhere."""
DEFAULT_PORTS = (":80", ":443")


@dataclass(frozen=True)
class Addresses:
    """The names by which page and API are reached."""

    hosts: tuple[str, ...] = ()
    """Of routes and balancers; `*.example.org` stands for every name below."""
    any_host: bool = False
    """Not all names are known: a balancer or an Ingress that the spec does not tell of may have given one."""

    def check_host(self, scope: Scope) -> None:
        """Raises Refusal for a name that is not one of ours. An address in figures always passes: no name was pointed at it."""
        host = header(scope, b"host") or ""
        if self.any_host or self._is_ours(_name(host)):
            return
        raise Refusal(
            421,
            f"The Host '{cut(host)}' is not one of this server: use its own address, or put the name into spec.hosts.",
            "unknown_host",
        )

    def check_origin(self, scope: Scope) -> None:
        """Raises Refusal for a request that a page from elsewhere sends."""
        origin = header(scope, b"origin")
        if origin is None:
            return
        sender = _without_default_port(_netloc(origin))
        # A proxy may say under which name it was asked. A page elsewhere cannot: no answer here allows it a header of its own.
        asked = (header(scope, b"host"), header(scope, b"x-forwarded-host"))
        if sender and sender in (_without_default_port(name.lower()) for name in asked if name):
            return
        if sender and self._is_named(_name(sender)):
            return
        raise Refusal(
            403,
            f"A page of '{cut(origin)}' may not ask here: open this server's own page, or put the name into spec.hosts.",
            "foreign_origin",
        )

    def _is_ours(self, name: str) -> bool:
        return name in LOOPBACK or _is_address(name) or name.endswith(CLUSTER) or self._is_named(name)

    def _is_named(self, name: str) -> bool:
        return any(
            name.endswith(host[1:]) if host.startswith("*.") else name == host for host in map(str.lower, self.hosts)
        )


ANYWHERE = Addresses(any_host=True)


def of(job: ChatDeployment, environ: Mapping[str, str], in_pod: bool) -> Addresses:
    """Those of a deployment. On a machine of one's own all are known; in a cluster only where the spec tells of one."""
    route = job.spec.http_route
    told = environ.get(contract.ENV_HOSTS, "").split()
    named = (*job.spec.hosts, *(route.hostnames if route else ()), *told)
    return Addresses(tuple(dict.fromkeys(named)), any_host=in_pod and not named)


def _netloc(origin: str) -> str:
    """Empty of what is none, such as `null`."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:  # a bracket that nothing closes
        return ""


def _name(netloc: str) -> str:
    """Without the port."""
    if netloc.startswith("["):
        return netloc.partition("]")[0].removeprefix("[").lower()
    return netloc.partition(":")[0].lower().removesuffix(".")


def _without_default_port(netloc: str) -> str:
    for port in DEFAULT_PORTS:
        netloc = netloc.removesuffix(port)
    return netloc


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
