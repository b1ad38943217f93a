"""How far running jobs are: asked of their pods, kept in memory, written to the status within a budget."""

from __future__ import annotations

import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial

import aiohttp
from pydantic import ValidationError

from alpaca_operator import metrics
from alpaca_operator.api import KINDS
from alpaca_operator.api.contract import API_PORT, CONTAINER, PROGRESS_LIMIT, PROGRESS_PORT, Progress
from alpaca_operator.api.resource import Job
from alpaca_operator.chats import traffic
from alpaca_operator.cluster import access
from alpaca_operator.cluster.http import error_text, read_capped
from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.objects import Object, Pod
from alpaca_operator.cluster.queue import Queue
from alpaca_operator.cluster.resources import PODS
from alpaca_operator.cluster.store import Key, Store
from alpaca_operator.errors import ApiError, Unreachable
from alpaca_operator.polling.answers import ScrapeCache, Scraped
from alpaca_operator.polling.schedule import ReadBudget, Schedule, poll
from alpaca_operator.settings import Settings

log = logging.getLogger(__name__)

READS_PER_SECOND = 20
"""Of all pods together. Each costs about a millisecond; beyond a hundred pods each is asked less often instead."""
AT_ONCE = 32
FAILURES_BEFORE_LOG = 2
"""A pod that does not answer twice is read from the end of its log instead."""
LOG_EVERY = 8
"""Failures between two reads of a log that tells nothing, at the most."""
LOG_LINES = 20
METRICS_LIMIT = 256 * 1024
"""Bytes of /metrics that are read: vLLM's have a hundred kilobytes."""
GIVEN_UP_SECONDS = 300.0
"""Until a pod is asked again whose answer was none that a workload gives, or who let the operator wait again and again."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What the pods of a kind are asked while they run."""

    port: int
    path: str
    parse: Callable[[bytes], Scraped]
    limit: int = PROGRESS_LIMIT
    """Bytes of an answer that are read."""
    in_log: bool = False
    """Whether the end of a pod's log tells the same."""


@dataclass(slots=True)
class Target:
    """A running pod, whose it is, and how often in a row it has not answered, or kept the operator waiting."""

    key: Key
    pod: Object
    failures: int = 0
    late: int = 0
    foul: bool = False
    """Whether its last answer was none that a workload gives."""
    wordless: int = 0
    """How often in a row its log told nothing either."""
    log_due: int = FAILURES_BEFORE_LOG
    """The failure at which its log is read again."""

    def log_told(self, *, something: bool) -> None:
        """A log is read by way of the API server and the kubelet: of a pod that is long in starting ever more seldom."""
        self.wordless = 0 if something else self.wordless + 1
        self.log_due = self.failures + min(2**self.wordless, LOG_EVERY) if self.wordless else self.failures + 1

    def pause(self, usual: float) -> float:
        """The seconds after which to ask again: a pod that is only starting refuses at once, and costs nothing."""
        if self.foul:
            return max(usual, GIVEN_UP_SECONDS)
        return max(usual, min(usual * 2.0 ** min(self.late, 32), GIVEN_UP_SECONDS)) if self.late else usual


@dataclass
class Scraper:
    """Asks every running pod in turn. A resource whose progress is news goes into the queue."""

    settings: Settings
    kube: Kube
    store: Store
    queue: Queue[Key]
    scrapes: ScrapeCache
    budget: ReadBudget = field(default_factory=lambda: ReadBudget(READS_PER_SECOND, AT_ONCE))
    schedule: Schedule[str] = field(default_factory=Schedule)
    """UIDs of pods."""
    _targets: dict[str, Target] = field(default_factory=dict)

    async def run(self) -> None:
        """Until cancelled."""
        through_server = self.settings.progress_via == "APIServer" or (
            self.settings.progress_via == "Auto" and not access.in_cluster()
        )
        timeout = aiohttp.ClientTimeout(total=self.settings.progress_timeout_seconds)
        # A session of its own: what goes to pods must not carry the API server's credentials.
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True)) as session:
            fetch: Fetch = self._through_server if through_server else partial(self._directly, session)
            await poll(self.schedule, partial(self._scrape, fetch), self._discover)

    def _discover(self) -> None:
        """New pods are asked at once; of those that no longer run the last answer is forgotten."""
        running = {pod["metadata"]["uid"]: (key, pod) for key, pod in self.store.running()}
        for uid in self._targets.keys() - running.keys():
            del self._targets[uid]
            self.schedule.remove(uid)
        for uid, (key, pod) in running.items():
            if uid in self._targets:
                self._targets[uid].pod = pod
            else:
                self._targets[uid] = Target(key, pod)
                self.schedule.set(uid, 0.0)
        self.scrapes.retain(set(running))

    async def _scrape(self, fetch: Fetch, uid: str) -> float | None:
        """The seconds after which to ask the pod again: more where there are so many that the budget is not enough."""
        async with self.budget.turn():
            target = self._targets.get(uid)
            if target is None:
                return None
            scraped = await self._read(target, fetch)
        resource = self.store.raw(target.key)
        if uid not in self._targets or resource is None:
            return None
        of = resource["metadata"]["uid"]
        news = self.scrapes.put_foul(of, uid, target.foul)
        if scraped is not None:
            news |= self.scrapes.put(of, uid, scraped, datetime.now(UTC))
        if news:
            self.queue.add(target.key)
        return target.pause(max(self.settings.progress_seconds, len(self._targets) / self.budget.per_second))

    async def _read(self, target: Target, fetch: Fetch) -> Scraped | None:
        endpoint, asked_at = ENDPOINTS[target.key.kind], time.monotonic()
        try:
            scraped = endpoint.parse(capped(await fetch(target.pod, endpoint), endpoint.limit))
        except (Unreachable, ApiError, ValueError) as error:
            target.failures += 1
            target.foul = isinstance(error, ValueError)
            in_time = time.monotonic() - asked_at < 0.9 * self.settings.progress_timeout_seconds
            target.late = 0 if in_time else target.late + 1
            metrics.SCRAPES.labels("failed").inc()
            log.debug("%s: pod %s does not answer: %s", target.key, target.pod["metadata"]["name"], error)
            if not endpoint.in_log or (target.failures < target.log_due and not target.foul):
                return None
            told = await self._from_log(target.pod)
            target.log_told(something=told is not None)
            return told
        target.failures, target.late, target.foul = 0, 0, False
        target.wordless, target.log_due = 0, FAILURES_BEFORE_LOG
        metrics.SCRAPES.labels("answered").inc()
        return scraped

    async def _directly(self, session: aiohttp.ClientSession, pod: Object, endpoint: Endpoint) -> bytes:
        address = Pod(pod).ip
        if not address:
            raise Unreachable("the pod has no address yet")
        host = f"[{address}]" if ":" in address else address
        try:
            url = f"http://{host}:{endpoint.port}/{endpoint.path}"
            async with session.get(url, allow_redirects=False) as response:
                if response.status != 200:
                    raise ApiError(response.status, response.reason or "", f"GET /{endpoint.path}")
                return await read_capped(response, endpoint.limit + 1)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(error_text(error)) from error

    async def _through_server(self, pod: Object, endpoint: Endpoint) -> bytes:
        metadata = pod["metadata"]
        path = PODS.path(metadata["namespace"], f"{metadata['name']}:{endpoint.port}", f"proxy/{endpoint.path}")
        return await self.kube.text(path, limit=endpoint.limit + 1, seconds=self.settings.progress_timeout_seconds)

    async def _from_log(self, pod: Object) -> Progress | None:
        metadata = pod["metadata"]
        query = {"container": CONTAINER, "tailLines": str(LOG_LINES), "limitBytes": str(PROGRESS_LIMIT)}
        path = PODS.path(metadata["namespace"], metadata["name"], "log")
        try:
            text = await self.kube.text(
                path, limit=PROGRESS_LIMIT, seconds=self.settings.progress_timeout_seconds, query=query
            )
        except (Unreachable, ApiError) as error:
            metrics.SCRAPES.labels("no log").inc()
            log.debug("the log of pod %s cannot be read: %s", metadata["name"], error)
            return None
        metrics.SCRAPES.labels("from log").inc()
        return last_progress(text)


def capped(answer: bytes, limit: int = PROGRESS_LIMIT) -> bytes:
    """Raises ValueError for an answer that is longer than any that a workload gives."""
    if len(answer) > limit:
        raise ValueError(f"the answer is longer than {limit} bytes")
    return answer


def parse(answer: bytes) -> Progress:
    """Raises ValueError (pydantic's is one) for whatever is not a whole Progress, of numbers that a status can hold."""
    return Progress.model_validate_json(capped(answer), strict=True)


def last_progress(log_end: bytes) -> Progress | None:
    """The newest line that tells a step, of a log of JSON lines; lines of libraries in between are passed over."""
    for line in reversed(log_end.splitlines()):
        if line.startswith(b"{") and b'"step"' in line:
            try:
                return Progress.model_validate_json(line, strict=True)
            except ValidationError:
                continue
    return None


JOB_ENDPOINT = Endpoint(PROGRESS_PORT, "progress", parse, in_log=True)
CHAT_ENDPOINT = Endpoint(API_PORT, "metrics", traffic.parse, limit=METRICS_LIMIT)
ENDPOINTS = {name: JOB_ENDPOINT if issubclass(kind, Job) else CHAT_ENDPOINT for name, kind in KINDS.items()}
Fetch = Callable[[Object, Endpoint], Awaitable[bytes]]
