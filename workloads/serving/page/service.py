"""The page's process, from start to end."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from alpaca_operator.api import contract
from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.status import Reason
from workloads.errors import WorkloadError
from workloads.runtime import exits
from workloads.runtime.http import Server, listen, port
from workloads.serving.guard import addresses
from workloads.serving.page.settings import Settings
from workloads.system.environment import TELEMETRY_OFF, Environment

ENV_PORT = "ALPACA_PAGE_PORT"
"""Another port than contract.PAGE_PORT, where that is taken on somebody's machine."""
LINGER_SECONDS = 3
"""For running answers when the page is told to stop. Longer would help nobody: the engine beside it stops as well."""


def execute(job: ChatDeployment) -> int:
    """Serve the page of ``job`` until a signal comes; returns the exit code."""
    try:
        environment = Environment.read(os.environ)
        settings = Settings.read(job, os.environ)
        number = port(os.environ, ENV_PORT, contract.PAGE_PORT)
    except WorkloadError as error:
        return exits.exit_with(error, os.environ)
    try:
        asyncio.run(_until_signal(job, settings, environment.in_pod, number))
        ending = exits.termination(Reason.SUCCEEDED, ExitCode.OK, "stopped as asked", contract.Progress())
    except BaseException as error:  # noqa: BLE001 - every way to end has to reach the exit code and the last word
        ending = exits.failed(error, contract.Progress())
    exits.write_termination(ending, environment.termination_log)
    return ending.exit_code


async def _until_signal(job: ChatDeployment, settings: Settings, in_pod: bool, number: int) -> None:
    stop = asyncio.Event()
    for name in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(name, stop.set)
    await serve(job, settings, in_pod, number, stop)


async def serve(job: ChatDeployment, settings: Settings, in_pod: bool, number: int, stop: asyncio.Event) -> None:
    """The page on port ``number`` until ``stop`` is set. Raises SpecError when the port is taken."""
    listener = listen(in_pod, number, ENV_PORT)
    quiet(os.environ)
    from workloads.serving.page.server import application

    guarded = application(settings, addresses.of(job, os.environ, in_pod), log)
    server = Server(guarded, LINGER_SECONDS, lifespan="on")
    serving = asyncio.create_task(server.serve(sockets=[listener]))
    log(f"the page is at http://127.0.0.1:{listener.getsockname()[1]}")
    stopped = asyncio.create_task(stop.wait())
    await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    server.should_exit = True
    await serving


def log(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def quiet(environ: dict[str, str] | os._Environ[str]) -> None:
    """Before Gradio is imported: it tells nobody that it runs, and fetches nothing."""
    for name, value in {**TELEMETRY_OFF, "HF_HUB_OFFLINE": "1", "GRADIO_RUN_HISTORY": "False"}.items():
        environ.setdefault(name, value)
