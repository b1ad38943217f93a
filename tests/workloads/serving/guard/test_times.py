"""Requests that come half, and never whole: each ends within its time, on a real connection."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator

import pytest
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse
from starlette.routing import Route, Router

from tests.workloads.serving.attacks import raw
from workloads.runtime import http
from workloads.serving.guard.addresses import ANYWHERE
from workloads.serving.guard.guard import Guard, Rules
from workloads.serving.guard.routes import Allowed

LONG = 60.0
"""Seconds after which a test gives up: the limits under test are a fifth of one."""


async def echo(request: Request) -> PlainTextResponse:
    return PlainTextResponse(await request.body())


@pytest.fixture
def root(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(http, "HEAD_SECONDS", 0.2)
    rules = Rules(
        routes=[Allowed("POST", "/echo", largest_body=100), Allowed("POST", "/large", largest_body=1_000_000)],
        addresses=ANYWHERE,
        admit=lambda scope: None,
        refused=lambda scope, refusal: JSONResponse(refusal.body(), refusal.status),
        log=lambda line: None,
        body_seconds=0.2,
    )
    listener = http.listen(in_pod=False, port=0, variable="port")
    routes = [Route(path, echo, methods=["POST"]) for path in ("/echo", "/large")]
    server = http.Server(Guard(Router(routes), rules), graceful_seconds=1)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    server.should_exit = True
    thread.join(LONG)
    assert not thread.is_alive()


HEAD = b"POST /echo HTTP/1.1\r\nHost: localhost\r\n"


@pytest.mark.parametrize(
    "half",
    [
        pytest.param(b"", id="a connection that says nothing"),
        pytest.param(b"POST /ec", id="half a line"),
        pytest.param(HEAD, id="a head without end"),
        pytest.param(HEAD + b"Content-Length: 2\r\n\r\nabPOST /ec", id="a second request that is half"),
    ],
)
def test_a_head_that_does_not_end_is_not_waited_for(root: str, half: bytes) -> None:
    answer = raw(root, half)  # the server has closed the connection
    assert (b"200 OK" in answer) == (b"ab" in half)


def test_a_body_that_does_not_end_is_told_so(root: str) -> None:
    answer = raw(root, HEAD + b"Content-Length: 50\r\n\r\nhalf")
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"The body did not come whole within 0.2 s: send it again." in answer


def test_a_connection_between_two_requests_is_kept(root: str) -> None:
    with socket.create_connection(("127.0.0.1", int(root.rpartition(":")[2])), timeout=LONG) as connection:
        for word in (b"ab", b"cd"):
            connection.sendall(HEAD + b"Content-Length: 2\r\n\r\n" + word)
            answer = b""
            while not answer.endswith(word):
                answer += connection.recv(4096)
            threading.Event().wait(0.5)  # longer than a head may take


def test_who_is_refused_in_the_middle_of_a_body_still_reads_why(root: str) -> None:
    answer = raw(root, HEAD + b"Content-Length: 3000000\r\n\r\n" + b"x" * 3_000_000)
    assert answer.startswith(b"HTTP/1.1 413 ")
    assert b"connection: close" in answer
    assert b"larger than 0 KiB" in answer


LARGE = b"POST /large HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nTransfer-Encoding: chunked\r\n\r\n"


def test_a_body_in_crumbs_is_not_swept_up(root: str) -> None:
    """Of which each would take as long as a large piece, while nobody else is answered."""
    answer = raw(root, LARGE + b"1\r\nx\r\n" * 10_000 + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")
    assert b"more than 4,096 pieces of less than 64 bytes: send it in larger ones." in answer


@pytest.mark.parametrize(("size", "count"), [(1, 4_000), (100, 9_000)], ids=["few small ones", "many that are larger"])
def test_a_body_in_pieces_is_read_whole(root: str, size: int, count: int) -> None:
    answer = raw(root, LARGE + b"%x\r\n%s\r\n" % (size, b"x" * size) * count + b"0\r\n\r\n")
    assert answer.startswith(b"HTTP/1.1 200 ")
    assert answer.endswith(b"x" * size * count)


def test_a_refused_body_that_is_no_http_is_not_answered_twice(root: str, caplog: pytest.LogCaptureFixture) -> None:
    head = HEAD.replace(b"/echo", b"/nowhere") + b"Transfer-Encoding: chunked\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(root.rpartition(":")[2])), timeout=LONG) as connection:
        connection.sendall(head + b"1\r\nx\r\n")
        answer = connection.recv(4096)
        connection.sendall(b"no length\r\n")
        while part := connection.recv(4096):
            answer += part
    assert answer.startswith(b"HTTP/1.1 404 ")
    assert answer.count(b"HTTP/1.1") == 1
    assert not [record for record in caplog.records if record.name == "asyncio"]
