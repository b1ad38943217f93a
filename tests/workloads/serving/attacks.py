"""What an attacker has: raw connections, other names, and a look at whether the process still answers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from urllib.parse import urlsplit

import httpx

ALIVE_SECONDS = 10.0
"""Within which a process answers that is alive, on a machine that is busy with other tests. Without bounds it took 20 to 170."""


def slowest_livez(root: str, attack: Callable[[], None]) -> float:
    """Seconds of the slowest answer of `/livez`, asked again and again from before ``attack`` to after it."""
    over, began, slowest = threading.Event(), threading.Event(), [0.0]

    def watch() -> None:
        with httpx.Client(timeout=300) as client:
            while not over.is_set():
                start = time.monotonic()
                assert client.get(f"{root}/livez").json() == {"status": "alive"}
                slowest[0] = max(slowest[0], time.monotonic() - start)
                began.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    assert began.wait(60)
    try:
        attack()
    finally:
        over.set()
        watcher.join()
    return slowest[0]


def raw(root: str, request: bytes) -> bytes:
    """What the server sends back for these very bytes, until it closes the connection."""
    host, _, port = urlsplit(root).netloc.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer
