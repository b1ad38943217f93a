"""What an attacker has: raw connections, other names, and a look at what the process does before it answers."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import httpx

ALIVE_SECONDS = 1.0
"""Of a processor, which a process may work on other things before it says that it is alive: it takes 0.16 at most, and took 20 to 170
without bounds."""


def most_before_livez(pid: int, root: str, attack: Callable[[], None]) -> float:
    """Seconds of processors, at most, that a process took between `/livez` and its answer, asked again and again from before ``attack`` to
    after it. What else the machine does is not counted: however long it makes the answer wait, the process works no more before it."""
    over, began = threading.Event(), threading.Event()

    def watched() -> float:
        most = 0.0
        with httpx.Client(timeout=300) as client:
            while not over.is_set():
                start = _worked(pid)
                assert client.get(f"{root}/livez").json() == {"status": "alive"}
                most = max(most, _worked(pid) - start)
                began.set()
        return most

    with ThreadPoolExecutor(1) as watcher:
        watching = watcher.submit(watched)
        try:
            assert began.wait(60)
            attack()
        finally:
            over.set()
        return watching.result()


def _worked(pid: int) -> float:
    """Seconds that all threads of a process had processors."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def raw(root: str, request: bytes) -> bytes:
    """What the server sends back for these very bytes, until it closes the connection."""
    host, _, port = urlsplit(root).netloc.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer
