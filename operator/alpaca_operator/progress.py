"""How far running jobs are: asked of their pods, kept in memory, written to the status within a budget."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime

import aiohttp
from pydantic import ValidationError

from alpaca_operator import kube as kubernetes
from alpaca_operator import metrics
from alpaca_operator.api.contract import CONTAINER, PROGRESS_LIMIT, PROGRESS_PORT, Progress
from alpaca_operator.errors import ApiError, Unreachable
from alpaca_operator.kube import PODS, Kube, read_capped, told
from alpaca_operator.queue import Queue
from alpaca_operator.settings import Settings
from alpaca_operator.store import Key, Object, Store

log = logging.getLogger(__name__)

READS_PER_SECOND = 20
"""Of all pods together. Each costs about a millisecond; beyond a hundred pods each is asked less often instead."""
AT_ONCE = 32
FAILURES_BEFORE_LOG = 2
"""A pod that does not answer twice is read from the end of its log instead."""
LOG_LINES = 20


class Board:
    """What each resource's running pod last told. A pod's last word is in its termination message, not here."""

    def __init__(self) -> None:
        self._told: dict[str, tuple[Progress, datetime]] = {}

    def latest(self, uid: str) -> tuple[Progress, datetime] | None:
        return self._told.get(uid)

    def put(self, uid: str, progress: Progress, at: datetime) -> bool:
        """Whether it is news."""
        known = self._told.get(uid)
        self._told[uid] = (progress, at)
        return known is None or known[0] != progress

    def keep_only(self, uids: set[str]) -> None:
        for uid in self._told.keys() - uids:
            del self._told[uid]


class Budget:
    """Of progress writes: so many a second overall, and one per resource in so many seconds. Never used for changes of state.

    Who must wait gets a time of its own, so that a thousand who wait do not ask again and again.
    """

    def __init__(self, per_second: float, resource_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._spacing = 1 / per_second
        self._resource_seconds = resource_seconds
        self._clock = clock
        self._free_at = clock()
        self._turn: dict[Key, float] = {}
        self._written: dict[Key, float] = {}

    def ask(self, key: Key) -> float:
        """0 grants a write; else the seconds after which to ask again."""
        now = self._clock()
        if key not in self._turn:
            earliest = max(now, self._written.get(key, now - self._resource_seconds) + self._resource_seconds)
            if earliest > now:
                return earliest - now
            self._turn[key] = max(now, self._free_at)
            self._free_at = self._turn[key] + self._spacing
        if (wait := self._turn[key] - now) > 0:
            return wait
        del self._turn[key]
        self._written[key] = now
        return 0.0

    def forget(self, key: Key) -> None:
        self._turn.pop(key, None)
        self._written.pop(key, None)


@dataclass(slots=True)
class Asked:
    """What is known of a pod as one that answers."""

    failures: int = 0
    due: float = 0.0


@dataclass
class Reader:
    """Asks every running pod in turn. A resource whose progress is news goes into the queue."""

    settings: Settings
    kube: Kube
    store: Store
    queue: Queue[Key]
    board: Board
    _asked: dict[str, Asked] = field(default_factory=dict)

    async def run(self) -> None:
        """Until cancelled."""
        through_server = self.settings.progress_via == "APIServer" or (
            self.settings.progress_via == "Auto" and not kubernetes.in_cluster()
        )
        timeout = aiohttp.ClientTimeout(total=self.settings.progress_timeout_seconds)
        # A session of its own: what goes to pods must not carry the API server's credentials.
        async with aiohttp.ClientSession(timeout=timeout, connector=aiohttp.TCPConnector(force_close=True)) as session:
            ask = self._through_server if through_server else lambda pod: self._directly(session, pod)
            loop = asyncio.get_running_loop()
            places = asyncio.Semaphore(AT_ONCE)
            while True:
                await asyncio.sleep(1.0)
                due = list(self._due(loop.time()))
                await asyncio.gather(*(self._read(key, pod, ask, places) for key, pod in due))

    def _due(self, now: float) -> Iterator[tuple[Key, Object]]:
        running = list(self.store.running())
        pause = max(self.settings.progress_seconds, len(running) / READS_PER_SECOND)
        pods = {pod["metadata"]["uid"] for _, pod in running}
        self._asked = {uid: asked for uid, asked in self._asked.items() if uid in pods}
        self.board.keep_only({_resource_uid(self.store, key) for key, _ in running})
        for key, pod in running:
            asked = self._asked.setdefault(pod["metadata"]["uid"], Asked())
            if asked.due <= now:
                asked.due = now + pause
                yield key, pod

    async def _read(self, key: Key, pod: Object, ask: Callable[[Object], object], places: asyncio.Semaphore) -> None:
        asked = self._asked[pod["metadata"]["uid"]]
        async with places:
            try:
                progress = parse(await ask(pod))  # type: ignore[misc]
                asked.failures = 0
                metrics.SCRAPES.labels("answered").inc()
            except (Unreachable, ApiError, ValueError) as error:
                asked.failures += 1
                metrics.SCRAPES.labels("failed").inc()
                log.debug("%s: pod %s does not tell its progress: %s", key, pod["metadata"]["name"], error)
                if asked.failures < FAILURES_BEFORE_LOG:
                    return
                found = await self._from_log(pod)
                if found is None:
                    return
                progress = found
        if self.board.put(_resource_uid(self.store, key), progress, datetime.now(UTC)):
            self.queue.add(key)

    async def _directly(self, session: aiohttp.ClientSession, pod: Object) -> bytes:
        address = pod.get("status", {}).get("podIP", "")
        if not address:
            raise Unreachable("the pod has no address yet")
        host = f"[{address}]" if ":" in address else address
        try:
            async with session.get(f"http://{host}:{PROGRESS_PORT}/progress", allow_redirects=False) as response:
                if response.status != 200:
                    raise ApiError(response.status, response.reason or "", "GET /progress")
                return await read_capped(response, PROGRESS_LIMIT + 1)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(told(error)) from error

    async def _through_server(self, pod: Object) -> bytes:
        metadata = pod["metadata"]
        path = PODS.path(metadata["namespace"], f"{metadata['name']}:{PROGRESS_PORT}", "proxy/progress")
        return await self.kube.text(path, limit=PROGRESS_LIMIT + 1, seconds=self.settings.progress_timeout_seconds)

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


def parse(answer: bytes) -> Progress:
    """Raises ValueError (pydantic's is one) for whatever is not a whole Progress."""
    if len(answer) > PROGRESS_LIMIT:
        raise ValueError(f"the answer is longer than {PROGRESS_LIMIT} bytes")
    return Progress.model_validate_json(answer, strict=True)


def last_progress(log_end: bytes) -> Progress | None:
    """The newest line that tells a step, of a log of JSON lines; lines of libraries in between are passed over."""
    for line in reversed(log_end.splitlines()):
        if line.startswith(b"{") and b'"step"' in line:
            try:
                return Progress.model_validate_json(line, strict=True)
            except ValidationError:
                continue
    return None


def _resource_uid(store: Store, key: Key) -> str:
    raw = store.raw(key)
    return str(raw["metadata"]["uid"]) if raw else ""
