"""A request to the API server, and what is read of its answer."""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator
from dataclasses import dataclass

import aiohttp
from kubernetes.aio.client.api_client import ApiClient

from alpaca_operator.errors import ApiError, Unreachable


@dataclass(slots=True)
class Request:
    """An answer to be read within ``async with``. Redirects are not followed: the server has no need of them, and what a pod
    sends through it must not lead elsewhere."""

    client: ApiClient
    session: aiohttp.ClientSession
    method: str
    path: str
    headers: dict[str, str]
    body: bytes | None
    timeout: aiohttp.ClientTimeout
    response: aiohttp.ClientResponse | None = None

    async def __aenter__(self) -> aiohttp.ClientResponse:
        await self.client.update_params_for_auth(self.headers, [], ["BearerToken"], self.path, self.method, None)
        settings = self.client.configuration
        try:
            self.response = await self.session.request(
                self.method,
                settings.host + self.path,
                headers=self.headers,
                data=self.body,
                timeout=self.timeout,
                allow_redirects=False,
                server_hostname=settings.tls_server_name or None,
                proxy=settings.proxy or None,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{self.method} {self.path}: {error_text(error)}") from error
        return self.response

    async def __aexit__(self, *_: object) -> None:
        if self.response is not None:
            self.response.release()


async def lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    """However long they are: aiohttp's own refuse those above its buffer."""
    rest = b""
    async for piece in response.content.iter_any():
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield line


async def read_capped(response: aiohttp.ClientResponse, limit: int) -> bytes:
    """The answer, or its first ``limit`` bytes; the rest is not read."""
    content = bytearray()
    try:
        async for piece in response.content.iter_any():
            content += piece
            if len(content) > limit:
                response.close()
                break
    except (aiohttp.ClientError, TimeoutError) as error:
        raise Unreachable(f"GET {response.url.path}: {error_text(error)}") from error
    return bytes(content[:limit])


WARNING = re.compile(r'\d{3} \S+ "(?P<text>.*)"', re.DOTALL)


def warning_text(header: str) -> str:
    """Of a header as RFC 7234 has it: `299 - "text"`, with quotes and backslashes escaped."""
    found = WARNING.match(header)
    return re.sub(r"\\(.)", r"\1", found["text"]) if found else header


def error_text(error: BaseException) -> str:
    """A timeout's own text is empty."""
    return str(error) or type(error).__name__


def api_error(response: aiohttp.ClientResponse, content: bytes) -> ApiError:
    try:
        body = json.loads(content)
    except ValueError:
        body = {}
    status = body if isinstance(body, dict) else {}
    return ApiError(
        response.status,
        str(status.get("reason") or response.reason or ""),
        str(status.get("message") or content[:500].decode(errors="replace")),
        _seconds(response.headers.get("Retry-After", "")),
    )


def _seconds(header: str) -> float:
    """Of Retry-After; a date, which the API server does not send, counts as none."""
    return float(header) if header.isdecimal() else 0.0
