"""/healthz, /readyz and /metrics, on one port."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

from alpaca_operator import events, metrics
from alpaca_operator.cluster.store import Store

Check = Callable[[], str]
"""Says what is wrong; nothing when all is well."""


@asynccontextmanager
async def serve(
    port: int, *, health: Check, readiness: Check, store: Store, depth: Callable[[], int]
) -> AsyncIterator[int]:
    """Serves until the block is left; gives the port, which is any free one for ``port=0``."""

    def probe(check: Check) -> Callable[[web.Request], object]:
        async def answer(_: web.Request) -> web.Response:
            wrong = check()
            return web.Response(text=wrong or "ok", status=503 if wrong else 200)

        return answer

    async def serve_metrics(_: web.Request) -> web.Response:
        metrics.QUEUE_DEPTH.set(depth())
        _count_jobs(store)
        return web.Response(body=generate_latest(), headers={"Content-Type": CONTENT_TYPE_LATEST})

    app = web.Application()
    app.router.add_get("/healthz", probe(health))  # type: ignore[arg-type]
    app.router.add_get("/readyz", probe(readiness))  # type: ignore[arg-type]
    app.router.add_get("/metrics", serve_metrics)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        site = web.TCPSite(runner, None, port)
        await site.start()
        yield int(runner.addresses[0][1])
    finally:
        await runner.cleanup()


def _count_jobs(store: Store) -> None:
    states = Counter(
        (key.kind, str(events.ready((store.raw(key) or {}).get("status") or {}).get("reason", "New")))
        for key in store.resources()
    )
    metrics.JOBS.clear()
    for (kind, state), count in states.items():
        metrics.JOBS.labels(kind, state).set(count)
