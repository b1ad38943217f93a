"""Whom this machine trusts to say who a server is."""

from __future__ import annotations

import functools
import ssl


@functools.cache
def trusted() -> ssl.SSLContext:
    """As every client would read it by itself, which takes a seventh of a second each time."""
    import httpx2

    return httpx2.create_ssl_context()
