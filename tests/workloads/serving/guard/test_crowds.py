"""More connections, and more bodies, than a server has room for."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route, Router

from tests.workloads.serving.front.standin import serve
from workloads.runtime import http
from workloads.serving.guard.addresses import ANYWHERE
from workloads.serving.guard.guard import Guard, Rules
from workloads.serving.guard.routes import Allowed

LONG = 60.0
"""Seconds after which a test gives up."""
HEAD = b"Host: localhost\r\n"
ASK = b"GET /livez HTTP/1.1\r\n" + HEAD + b"\r\n"
ASK_LONG = b"GET /long HTTP/1.1\r\n" + HEAD + b"\r\n"
HALF = b"POST /echo HTTP/1.1\r\n" + HEAD + b"Content-Length: 50\r\n\r\nhalf"


class Crowded:
    """A server that takes four connections, two of one address."""

    def __init__(self) -> None:
        self.answers = threading.Semaphore(0)
        """Counts the long answers that were begun."""
        self.goes_on = threading.Event()
        routes = [
            Route("/livez", lambda request: PlainTextResponse("alive")),
            Route("/long", self._long),
            Route("/echo", _echo, methods=["POST"]),
        ]
        self.url, self.end = serve(Guard(Router(routes), rules()))
        self._open: list[socket.socket] = []

    async def _long(self, request: Request) -> PlainTextResponse:
        self.answers.release()
        await asyncio.to_thread(self.goes_on.wait, LONG)
        return PlainTextResponse("done")

    def connected(self, said: bytes = b"", number: int = 1) -> socket.socket:
        """A connection of one of this machine's addresses."""
        port = int(self.url.rpartition(":")[2])
        made = socket.create_connection(("127.0.0.1", port), timeout=LONG, source_address=(f"127.0.0.{number}", 0))
        self._open.append(made)
        made.sendall(said)
        return made

    def close(self) -> None:
        self.goes_on.set()
        for each in self._open:
            each.close()
        self.end()


async def _echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


def rules(**settings: Any) -> Rules:
    return Rules(
        routes=[Allowed("GET", "/livez"), Allowed("GET", "/long"), Allowed("POST", "/echo", largest_body=80)],
        addresses=ANYWHERE,
        admit=lambda scope: None,
        refused=lambda scope, refusal: JSONResponse(refusal.body(), refusal.status, headers=refusal.headers),
        log=lambda line: None,
        **settings,
    )


@pytest.fixture
def crowded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Crowded]:
    monkeypatch.setattr(http, "MOST_CONNECTIONS", 4)
    monkeypatch.setattr(http, "MOST_OF_ONE_ADDRESS", 2)
    made = Crowded()
    yield made
    made.close()


def told(connection: socket.socket, end: bytes = b"alive") -> bytes:
    """What comes, up to an ``end`` or the end of the connection, also where that is closed before all was read that was said."""
    answer = b""
    with suppress(ConnectionResetError):
        while not answer.endswith(end) and (part := connection.recv(4096)):
            answer += part
    return answer


@pytest.mark.parametrize("said", [b"", b"GET /li", HALF], ids=["nothing", "half a head", "half a body"])
def test_of_one_addresss_connections_the_oldest_that_says_nothing_makes_room(crowded: Crowded, said: bytes) -> None:
    first, second = crowded.connected(said), crowded.connected()
    assert told(crowded.connected(ASK)).endswith(b"alive")
    assert told(first) == b""
    second.sendall(ASK)
    assert told(second).endswith(b"alive")


def test_one_address_does_not_take_the_room_of_others(crowded: Crowded) -> None:
    for _ in range(2):
        crowded.connected(ASK_LONG)
        assert crowded.answers.acquire(timeout=LONG)
    refused = told(crowded.connected(ASK))
    assert refused.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1" in refused
    assert told(crowded.connected(ASK, number=2)).endswith(b"alive")


def test_of_all_connections_too(crowded: Crowded) -> None:
    first = crowded.connected(b"", 1)
    others = [crowded.connected(ASK, number) for number in (1, 2, 2)]
    assert all(told(each).endswith(b"alive") for each in others)
    assert told(crowded.connected(ASK, number=3)).endswith(b"alive")
    assert told(first) == b""


def test_who_is_being_answered_is_not_cut_off(crowded: Crowded) -> None:
    answered = crowded.connected(ASK_LONG)
    assert crowded.answers.acquire(timeout=LONG)
    for _ in range(3):
        assert told(crowded.connected(ASK)).endswith(b"alive")
    crowded.goes_on.set()
    assert told(answered, b"done").endswith(b"done")


async def test_bodies_that_do_not_come_whole_do_not_fill_the_memory() -> None:
    guarded = Guard(Router([Route("/echo", _echo, methods=["POST"])]), rules(most_held=100))
    arrived, goes_on = asyncio.Event(), asyncio.Event()

    async def halves() -> AsyncIterator[bytes]:
        yield b"x" * 60
        arrived.set()
        await goes_on.wait()
        yield b"y" * 10

    transport = httpx.ASGITransport(guarded)
    async with httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=LONG) as client:
        slow = asyncio.create_task(client.post("/echo", content=halves()))
        await arrived.wait()
        refused = await client.post("/echo", content=b"x" * 60)
        assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_room")
        assert refused.headers["retry-after"] == "1"
        assert (await client.post("/echo", content=b"x" * 40)).is_success
        goes_on.set()
        assert (await slow).text == "x" * 60 + "y" * 10
        assert (await client.post("/echo", content=b"x" * 80)).is_success
