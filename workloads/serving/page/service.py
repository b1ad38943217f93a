"""The page's process, from start to end."""

from __future__ import annotations

import asyncio
import os

from alpaca_operator.api import contract
from alpaca_operator.api.chat import ChatDeployment
from workloads.runtime.http import Server, listen, port
from workloads.serving import process
from workloads.serving.grace import seconds_left
from workloads.serving.guard import addresses
from workloads.serving.page.settings import Settings
from workloads.serving.process import Serving, log
from workloads.system.environment import TELEMETRY_OFF, Environment

ENV_PORT = "ALPACA_PAGE_PORT"
"""Another port than contract.PAGE_PORT, where that is taken on somebody's machine."""
LINGER_SECONDS = 3
"""For running answers at least, and at a terminal at most: somebody waits there."""


def execute(job: ChatDeployment) -> int:
    """Serve the page of ``job`` until a signal comes; returns the exit code."""

    def prepare(environment: Environment) -> Serving:
        settings = Settings.read(job, os.environ)
        number = port(os.environ, ENV_PORT, contract.PAGE_PORT)
        return lambda stop: serve(job, settings, environment.in_pod, number, stop)

    return process.execute(prepare)


async def serve(job: ChatDeployment, settings: Settings, in_pod: bool, number: int, stop: asyncio.Event) -> None:
    """The page on port ``number`` until ``stop`` is set. Raises SpecError when the port is taken."""
    listener = listen(in_pod, number, ENV_PORT)
    quiet(os.environ)
    from workloads.serving.page.server import application

    guarded = application(settings, addresses.of(job, os.environ, in_pod), log)
    server = Server(guarded, linger_seconds(job, in_pod), lifespan="on")
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    log(f"the page is at http://127.0.0.1:{listener.getsockname()[1]}")
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving


def linger_seconds(job: ChatDeployment, in_pod: bool) -> int:
    """How long running answers have to come to their end: whoever writes them goes on, elsewhere or, within its own grace period, beside."""
    return max(LINGER_SECONDS, int(seconds_left(job, in_pod))) if in_pod else LINGER_SECONDS


def quiet(environ: dict[str, str] | os._Environ[str]) -> None:
    """Before Gradio is imported: it tells nobody that it runs, and fetches nothing."""
    for name, value in {**TELEMETRY_OFF, "HF_HUB_OFFLINE": "1", "GRADIO_RUN_HISTORY": "False"}.items():
        environ.setdefault(name, value)
