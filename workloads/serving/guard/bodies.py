"""Bodies: how large, how long they may take to come, and how many values they may hold, before anything reads them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

from workloads.serving.guard.scope import header
from workloads.serving.refusal import Refusal

LARGEST_QUESTION = 4 * 1024 * 1024
"""Bytes of a question: a million of Chinese characters, or two hundred thousand tokens in the escapes of JSON."""
SECONDS = 60.0
"""For a body to come whole: megabytes over a slow line."""
MOST_MARKS = 400_000
"""Commas and opening brackets. A parser makes an object of each value, and holds every other request up meanwhile: 4 MiB of `[],[],`
take it 0.7 s. A text of so many commas has more tokens than any context takes."""
MOST_HELD = 128 * 1024 * 1024
"""Bytes of all bodies that are on their way in, wait to be read or are being answered: thirty of the largest. A crowd that sends no more than
the beginning of each would fill the memory."""
DRAINED_SECONDS, DRAINED_BYTES = 5.0, 64 * 1024 * 1024
"""What is still read, and thrown away, of a request that was refused: who is cut off in the middle of a body never sees the answer."""


class Gone(Exception):
    """The client left before its request was whole."""


class Held:
    """Bytes of all bodies that a server has in hand."""

    def __init__(self, most: int) -> None:
        self._most, self._bytes = most, 0

    def take(self, size: int) -> None:
        """Raises Refusal where there is no room for so many more."""
        if self._bytes + size > self._most:
            raise Refusal(
                503,
                "There is no room for more requests of this size at the moment: send it again.",
                "no_room",
                type="server_error",
                headers={"Retry-After": "1"},
            )
        self._bytes += size

    def give_back(self, size: int) -> None:
        self._bytes -= size


class Body:
    """The body of one request."""

    def __init__(self, scope: Scope, receive: Receive, held: Held) -> None:
        self._scope, self._receive, self._held = scope, receive, held
        self._taken = 0
        self._is_read = not self._is_announced
        self.content: bytes | None = None
        """None until it is read, and once it is handed on."""

    @property
    def _is_announced(self) -> bool:
        length = header(self._scope, b"content-length")
        return length not in (None, "0") or header(self._scope, b"transfer-encoding") is not None

    async def read(self, largest: int, seconds: float) -> None:
        """All of it, at most ``largest`` bytes. Raises Refusal, by the announced length before a byte is read, and Gone."""
        announced = header(self._scope, b"content-length")
        if announced and int(announced) > largest:
            raise _too_large(largest)
        parts, size = [], 0
        try:
            async with asyncio.timeout(seconds):
                async for part in self._parts():
                    parts.append(part)
                    size += len(part)
                    if size > largest:
                        raise _too_large(largest)
                    self._held.take(len(part))
                    self._taken += len(part)
        except TimeoutError as error:
            raise Refusal(
                408, f"The body did not come whole within {seconds:g} s: send it again.", "body_timeout"
            ) from error
        content = b"".join(parts)
        marks = sum(content.count(mark) for mark in (b",", b"[", b"{"))
        if marks > MOST_MARKS:
            raise Refusal(
                413,
                f"The body has {marks:,} commas and brackets, and at most {MOST_MARKS:,} are read: shorten it.",
                "request_too_large",
            )
        self.content = content

    def let_go(self) -> None:
        """The request is over."""
        self._held.give_back(self._taken)
        self._taken = 0

    async def receive(self) -> Message:
        """As the application receives: what was read, and behind it what else the client does."""
        if self.content is None:
            return await self._receive()
        body, self.content = self.content, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def answer(self, response: Response, send: Send) -> None:
        """Send a refusal. Where the body is still on its way the answer goes first, and the connection is closed behind it."""
        if self._is_read:
            await response(self._scope, self._receive, send)
            return
        response.headers["connection"] = "close"
        await send({"type": "http.response.start", "status": response.status_code, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
        if header(self._scope, b"expect") is None:  # else the client waits for a word before it sends, and gets none
            await self._drain()
        await send({"type": "http.response.body", "body": b""})

    async def _drain(self) -> None:
        size = 0
        with contextlib.suppress(TimeoutError, Gone):  # whatever is still missing then is not waited for
            async with asyncio.timeout(DRAINED_SECONDS):
                async for part in self._parts():
                    size += len(part)
                    if size > DRAINED_BYTES:
                        return

    async def _parts(self) -> AsyncIterator[bytes]:
        while True:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise Gone
            yield message.get("body", b"")
            if not message.get("more_body"):
                self._is_read = True
                return


async def disconnected(receive: Receive) -> None:
    """Returns once the client has closed the connection."""
    while (await receive())["type"] != "http.disconnect":
        pass


def _too_large(largest: int) -> Refusal:
    limit = f"{largest // 2**20} MiB" if largest >= 2**20 else f"{largest // 2**10} KiB"
    return Refusal(413, f"The body is larger than {limit}: shorten the conversation.", "request_too_large")
