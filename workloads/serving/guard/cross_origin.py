"""What scripts of pages elsewhere may read: the answers of the API, where `hosts` names the page's own host.

A browser asks for leave first, with OPTIONS, and hides an answer that does not name the page. Without names nothing here answers, and a
browser keeps everything to itself. The chat page has no such leave: its cookies are for its own scripts.
"""

from __future__ import annotations

import re

from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from workloads.serving.guard.addresses import Addresses

SECONDS = 600
"""For so long a browser need not ask again."""


def readable(app: ASGIApp, addresses: Addresses) -> ASGIApp:
    """``app``, whose answers pages of the names in ``addresses`` may read, refusals too. What they may ask is the guard's to say."""
    if not addresses.hosts:
        return app
    return CORSMiddleware(
        app,
        allow_origin_regex=origins(addresses),
        allow_methods=("GET", "POST"),
        allow_headers=("*",),
        expose_headers=("x-request-id", "retry-after"),
        max_age=SECONDS,
    )


def origins(addresses: Addresses) -> str:
    """A pattern of the origins of those names, on any port."""
    names = "|".join(_pattern(host.lower()) for host in addresses.hosts)
    return rf"https?://(?:{names})(?::\d{{1,5}})?"


def _pattern(host: str) -> str:
    return rf"[a-z0-9.-]+{re.escape(host[1:])}" if host.startswith("*.") else re.escape(host)
