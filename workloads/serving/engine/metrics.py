"""What Prometheus, and the operator's status, read of an engine."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Literal

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from workloads.serving.model_figures import ModelFigures
from workloads.serving.refusal import Refusal

Outcome = Literal["answered", "cancelled", "invalid", "unauthorized", "busy", "unavailable", "timeout", "failed"]
OUTCOMES: tuple[Outcome, ...] = (
    "answered",
    "cancelled",
    "invalid",
    "unauthorized",
    "busy",
    "unavailable",
    "timeout",
    "failed",
)
BY_STATUS: dict[int, Outcome] = {401: "unauthorized", 408: "timeout", 429: "busy", 501: "invalid", 503: "unavailable"}
WINDOW_SECONDS = 10.0
"""Over which the speed is averaged."""
FIRST_TOKEN_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
CONTENT_TYPE = CONTENT_TYPE_LATEST


class Metrics(ModelFigures):
    """Counts of one engine, over all its models. It is the schedulers' Watcher."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._requests = Counter(
            "alpaca_chat_requests", "Requests by how they ended", ["outcome"], registry=self._registry
        )
        self._tokens = Counter(
            "alpaca_chat_tokens",
            "Tokens by kind: those of prompts that were read (prompt), those that were known from before (reused), those written (completion)",
            ["kind"],
            registry=self._registry,
        )
        self._first = Histogram(
            "alpaca_chat_time_to_first_token_seconds",
            "From a request's arrival to the first token of its answer, time in the queue included",
            buckets=FIRST_TOKEN_BUCKETS,
            registry=self._registry,
        )
        for outcome in OUTCOMES:
            self._requests.labels(outcome)
        self._read, self._reused, self._written = (
            self._tokens.labels(kind) for kind in ("prompt", "reused", "completion")
        )
        self._lock = threading.Lock()
        self._recent: deque[tuple[float, int]] = deque()
        self._started = clock()
        self._gauge(
            "alpaca_chat_tokens_per_second", "Tokens written a second, over the last ten", self.tokens_per_second
        )

    def watch(self, queued: Callable[[], int], running: Callable[[], int]) -> None:
        """Where the numbers of waiting and running requests are read from."""
        self._gauge("alpaca_chat_queued", "Requests that wait", queued)
        self._gauge("alpaca_chat_running", "Requests that are being answered", running)

    def ended(self, outcome: Outcome) -> None:
        self._requests.labels(outcome).inc()

    def refused(self, refusal: Refusal) -> None:
        self.ended(BY_STATUS.get(refusal.status, "failed" if refusal.status >= 500 else "invalid"))

    def first_token(self, seconds: float) -> None:
        self._first.observe(seconds)

    def prompt_tokens(self, count: int) -> None:
        self._read.inc(count)

    def reused_tokens(self, count: int) -> None:
        self._reused.inc(count)

    def completion_tokens(self, count: int) -> None:
        self._written.inc(count)
        now = self._clock()
        with self._lock:
            self._recent.append((now, count))
            self._forget(now)

    def tokens_per_second(self) -> float:
        """0 when nothing was written lately."""
        now = self._clock()
        with self._lock:
            self._forget(now)
            return sum(count for _, count in self._recent) / min(WINDOW_SECONDS, max(1.0, now - self._started))

    def _forget(self, now: float) -> None:
        while self._recent and self._recent[0][0] < now - WINDOW_SECONDS:
            self._recent.popleft()

    def _gauge(self, name: str, description: str, read: Callable[[], float]) -> None:
        Gauge(name, description, registry=self._registry).set_function(read)
