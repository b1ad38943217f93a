"""A line for every request, without anything that was asked or answered."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Callable
from typing import Any

from starlette.types import Message, Scope, Send

from workloads.serving.guard.scope import header

REQUEST_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)
"""An id that a client gives is taken over where it looks like one: the log is no place for more."""


class Entry:
    """One request, as the log tells of it."""

    def __init__(self, scope: Scope, send: Send) -> None:
        given = header(scope, b"x-request-id") or ""
        self.id = given if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        self.route = "-"
        self.received = 0
        self._method = scope["method"] if scope["method"].isalpha() else "-"
        self._send = send
        self._began = time.monotonic()
        self._status = 0
        self._sent = 0

    @property
    def failed(self) -> bool:
        return self._status >= 400

    async def send(self, message: Message) -> None:
        """As the server's own; it gives every answer the id, and counts."""
        if message["type"] == "http.response.start":
            self._status = message["status"]
            message = {**message, "headers": [*message["headers"], (b"x-request-id", self.id.encode())]}
        self._sent += len(message.get("body", b""))
        await self._send(message)

    def tell(self, log: Callable[[str], None]) -> None:
        """Status 499 is a client that left before an answer."""
        values: dict[str, Any] = {
            "method": self._method[:10],
            "route": self.route,
            "status": self._status or 499,
            "ms": round((time.monotonic() - self._began) * 1000),
            "in": self.received,
            "out": self._sent,
            "id": self.id,
        }
        log("access " + " ".join(f"{name}={value}" for name, value in values.items()))
