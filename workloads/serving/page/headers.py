"""Headers by which a browser lets nothing in from elsewhere, and the scripts of the page that it is to run."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from workloads.serving.page import theme

INLINE_SCRIPT = re.compile(rb"<script(?![^>]*\ssrc=)[^>]*>(.*?)</script>", re.DOTALL)
ABOUT_GRADIO = re.compile(rb"\s*<meta\s[^>]*(?:og|twitter):[^>]*>")
"""What messengers would show of a link to the page: Gradio's name and a picture from the net."""
ICON = re.compile(rb"\s*<link\s[^>]*rel=\"icon\"[^>]*>")
HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    # Nothing to anybody else. With no-referrer a browser would send our own forms without an origin: `null`, which is refused.
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"permissions-policy", b"camera=(), geolocation=(), microphone=(), payment=(), usb=()"),
]
DROPPED = (b"access-control-",)
"""Gradio lets any page elsewhere read its answers, with the visitor's login."""


def policy(scripts: Sequence[bytes] = (), forms: str = "'none'") -> bytes:
    """The Content-Security-Policy of a page with these ``scripts`` in it, and no others, whose ``forms`` are sent there."""
    hashes = [f"'sha256-{base64.b64encode(hashlib.sha256(script).digest()).decode()}'" for script in scripts]
    return "; ".join(
        (
            "default-src 'self'",
            # Gradio evaluates what is wired to its events.
            " ".join(("script-src 'self' 'unsafe-eval'", *hashes)),
            "style-src 'self' 'unsafe-inline'",  # Gradio's components write styles as they go
            # What a model wrote loads nothing and sends nothing, also from here, should it become a part of the page.
            "img-src data: blob:",
            "media-src 'none'",
            "frame-src 'none'",
            "object-src 'none'",
            "font-src 'self' data:",
            "base-uri 'self'",
            f"form-action {forms}",
            "frame-ancestors 'self'",
        )
    ).encode()


class Headers:
    """Puts the headers on every answer, and our script in front of Gradio's on its pages."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        script = b"\n".join((theme.STATIC / name).read_bytes() for name in theme.SCRIPTS)
        icon = base64.b64encode((theme.STATIC / "favicon.svg").read_bytes())  # the only picture; no address may be one
        link = b'<link rel="icon" href="data:image/svg+xml;base64,' + icon + b'">'
        self._head = b"<head>\n" + link + b"\n<script>" + script + b"</script>"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        held: list[Message] = []

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                kept = [(name, value) for name, value in message["headers"] if not name.lower().startswith(DROPPED)]
                message = {**message, "headers": [*kept, *HEADERS]}
                if b"text/html" in dict(kept).get(b"content-type", b""):
                    held.append(message)
                    return
                message["headers"].append((b"content-security-policy", policy()))
            elif held:
                held.append(message)
                if message.get("more_body"):
                    return
                start, *parts = held
                body = self._ours(b"".join(part.get("body", b"") for part in parts))
                kept = [(name, value) for name, value in start["headers"] if name != b"content-length"]
                ours = [
                    (b"content-length", str(len(body)).encode()),
                    (
                        b"content-security-policy",
                        policy(INLINE_SCRIPT.findall(body), "'self'" if scope["path"] == "/login" else "'none'"),
                    ),
                ]
                await send({**start, "headers": [*kept, *ours]})
                await send({"type": "http.response.body", "body": body})
                return
            await send(message)

        await self._app(scope, receive, guarded)

    def _ours(self, html: bytes) -> bytes:
        return ICON.sub(b"", ABOUT_GRADIO.sub(b"", html)).replace(b"<head>", self._head, 1)
