"""What benchmarks of operators measure with: writes from the audit log, arrivals from a watch, processes from /proc."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import statistics
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path

import aiohttp

from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.resources import APIResource

AT_ONCE = 32
NAMESPACE = "default"
TICKS = os.sysconf("SC_CLK_TCK")

AUDIT_POLICY = """
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- {level: Metadata, verbs: [create, update, patch, delete]}
- {level: None}
"""


def audited(folder: Path, name: str = "audit") -> tuple[Path, list[str]]:
    """The audit log, and the flags of an API server that writes it."""
    policy, log = folder / f"{name}.yaml", folder / f"{name}.log"
    policy.write_text(AUDIT_POLICY)
    return log, [f"--audit-policy-file={policy}", f"--audit-log-path={log}"]


OUR_AGENTS = ("literary-alpaca/", "kopf/")
"""How the user agents of our operator begin: its own, and that of kopf, which watches for it."""


class Audit:
    """An operator's writes, as the API server wrote them down; its Lease apart, which is renewed by the clock."""

    def __init__(self, log: Path, agents: tuple[str, ...]) -> None:
        """``agents``: how the user agents of its programs begin."""
        self._log = log
        self._agents = agents
        self._read = 0

    def new(self) -> Counter[str]:
        """Since the last call."""
        with self._log.open("rb") as log:
            log.seek(self._read)
            *lines, unfinished = log.read().split(b"\n")
            self._read = log.tell() - len(unfinished)
        events = [event for event in map(json.loads, lines) if event["userAgent"].startswith(self._agents)]
        kinds = [f"{event['verb']} {event['objectRef']['resource']}" for event in events]
        return Counter(kind for kind in kinds if not kind.endswith(" leases"))


class Arrivals:
    """When a watch first brought each object of a type."""

    def __init__(self) -> None:
        self.at: dict[str, float] = {}

    async def watch(self, kube: Kube, api: APIResource, ready: asyncio.Event) -> None:
        version = (await kube.call("GET", api.path(NAMESPACE), query={"limit": "1"}))["metadata"]["resourceVersion"]
        forever = aiohttp.ClientTimeout(total=None)
        async with kube.request(
            "GET", api.path(NAMESPACE), query={"watch": "true", "resourceVersion": version}, timeout=forever
        ) as answer:
            ready.set()
            rest = b""
            async for piece in answer.content.iter_any():
                now = time.monotonic()
                *lines, rest = (rest + piece).split(b"\n")
                for event in map(json.loads, lines):
                    if event["type"] == "ADDED":
                        self.at.setdefault(event["object"]["metadata"]["name"], now)

    async def count(self, wanted: int, seconds: float = 180) -> float:
        """When so many had come."""
        async with asyncio.timeout(seconds):
            while len(self.at) < wanted:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
        return max(self.at.values())


@contextlib.asynccontextmanager
async def arrivals(kube: Kube, api: APIResource) -> AsyncIterator[Arrivals]:
    found, started = Arrivals(), asyncio.Event()
    task = asyncio.create_task(found.watch(kube, api, started))
    await started.wait()
    try:
        yield found
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def at_once(names: list[str], make: Callable[[str], Awaitable[object]]) -> dict[str, float]:
    """When each was asked for."""
    asked: dict[str, float] = {}
    places = asyncio.Semaphore(AT_ONCE)

    async def one(name: str) -> None:
        async with places:
            asked[name] = time.monotonic()
            await make(name)

    await asyncio.gather(*map(one, names))
    return asked


def milliseconds(delays: Iterable[float]) -> str:
    cuts = statistics.quantiles(delays, n=100)
    return f"p50 {cuts[49] * 1000:.0f} ms, p99 {cuts[98] * 1000:.0f} ms"


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS


def resident_mib(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS")) / 1024
