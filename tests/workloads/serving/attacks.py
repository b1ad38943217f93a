"""What an attacker has: raw connections, other names, and a look at what the process does before it answers."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Callable
from urllib.parse import urlsplit

ALIVE_SECONDS = 1.0
"""Of a processor, which a process may work on other things before it says that it is alive: it takes 0.16 at most, and took 20 to 170
without bounds."""


def most_before_livez(pid: int, root: str, attack: Callable[[], None]) -> float:
    """Seconds of processors, at most, that a process took between `/livez` and its answer, asked again and again from before ``attack`` to
    after it. What else the machine does is not counted: however long it makes the answer wait, the process works no more before it.

    A process of its own asks: as a thread beside those of an attack it would be late to see an answer, and take it for a late one.
    """
    asking = [sys.executable, "-c", WATCHER, str(pid), *urlsplit(root).netloc.split(":")]
    with subprocess.Popen(asking, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as watcher:
        assert watcher.stdout is not None
        assert watcher.stdout.readline() == "alive\n"
        try:
            attack()
        finally:
            told = watcher.communicate()[0]
        return float(told)


WATCHER = """
import os, select, socket, sys

pid, host, port = sys.argv[1:]

def worked():  # seconds that all threads of a process had processors
    fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

most, first = 0.0, True
with socket.create_connection((host, int(port)), timeout=300) as connection:
    while not select.select([sys.stdin], [], [], 0)[0]:
        start = worked()
        connection.sendall(f"GET /livez HTTP/1.1\\r\\nHost: {host}:{port}\\r\\n\\r\\n".encode())
        answer = b""
        while not answer.endswith(b'{"status":"alive"}'):
            part = connection.recv(65536)
            assert part, answer
            answer += part
        most = max(most, worked() - start)
        if first:
            print("alive", flush=True)
            first = False
print(most)
"""


def raw(root: str, request: bytes) -> bytes:
    """What the server sends back for these very bytes, until it closes the connection."""
    host, _, port = urlsplit(root).netloc.partition(":")
    with socket.create_connection((host, int(port)), timeout=60) as connection:
        connection.sendall(request)
        answer = b""
        while part := connection.recv(65536):
            answer += part
    return answer
