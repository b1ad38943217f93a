"""The engine's process: the port is open at once, the model comes, requests are answered, and a stop lets running answers finish."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api import contract
from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.status import Reason
from workloads.errors import WorkloadError
from workloads.runtime import exits
from workloads.runtime.console import display, prepare_process
from workloads.runtime.http import Server, listen, port
from workloads.runtime.progress import Display
from workloads.serving.engine.model_specs import model_specs
from workloads.serving.engine.server import Engine, application
from workloads.serving.grace import seconds_left
from workloads.serving.guard import addresses, keys
from workloads.system.environment import Environment, share_processors

if TYPE_CHECKING:
    from workloads.serving.engine.live_adapters import LiveAdapters
    from workloads.serving.engine.served_model import ServedModel

ENV_PORT = "ALPACA_ENGINE_PORT"
"""Another port than contract.API_PORT, where that is taken on somebody's machine."""
LINGER_SECONDS = 5.0
"""A pod goes on answering for so long after it was told to stop: until then requests still reach it."""
LAST_WORDS_SECONDS = 3
"""For connections to close after the last answer."""

LOADER = "loading"

Sidecar = Callable[[str, asyncio.Event], Awaitable[None]]
"""Something that runs with the engine: it is given the API's address, and an event that tells it to stop."""


def execute(job: ChatDeployment, sidecar: Sidecar | None = None) -> int:
    """Serve ``job`` until a signal comes; returns the exit code."""
    try:
        environment = Environment.read(os.environ)
    except WorkloadError as error:
        return exits.exit_with(error, os.environ)
    prepare_process()
    share_processors()
    with display(environment.in_pod) as console:
        try:
            asyncio.run(Service(job, environment, os.environ, console, sidecar).run())
            ending = exits.termination(Reason.SUCCEEDED, ExitCode.OK, "stopped as asked", contract.Progress())
        except BaseException as error:  # noqa: BLE001 - every way to end has to reach the exit code and the last word
            ending = exits.failed(error, contract.Progress())
    exits.write_termination(ending, environment.termination_log)
    if any(thread.name == LOADER for thread in threading.enumerate()):
        sys.stderr.flush()
        os._exit(ending.exit_code)  # it cannot be stopped, and would die in the middle of what it imports
    return ending.exit_code


class Service:
    """An engine with its port, from start to end."""

    def __init__(
        self,
        job: ChatDeployment,
        environment: Environment,
        environ: Mapping[str, str],
        console: Display,
        sidecar: Sidecar | None = None,
    ) -> None:
        self._job, self._environment, self._environ, self._console = job, environment, environ, console
        names = tuple(name for model in model_specs(job) for name in model.names)
        self.engine = Engine(names, key=keys.of(job, environ))
        self._port = port(environ, ENV_PORT, contract.API_PORT)
        self._sidecar = sidecar
        self._grace = seconds_left(job, environment.in_pod)
        self._stop = asyncio.Event()
        self._list = Path(listed) if (listed := environ.get(contract.ENV_ADAPTERS)) else None
        self._live: LiveAdapters | None = None

    async def run(self) -> None:
        """Raises WorkloadError when the model cannot be loaded, or the port is taken."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):  # before a word is said: whoever reads it may stop us
            loop.add_signal_handler(number, self._on_signal)
        listener = listen(self._environment.in_pod, self._port, ENV_PORT)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        self._console.log(f"the API comes up at {address}")
        known = addresses.of(self._job, self._environ, self._environment.in_pod)
        server = Server(application(self.engine, known, self._console.log), LAST_WORDS_SECONDS)
        closing = asyncio.Event()
        tasks = [asyncio.ensure_future(server.serve(sockets=[listener]))]
        if self._sidecar is not None:
            tasks.append(asyncio.ensure_future(self._sidecar(address, closing)))
        try:
            await self._until_stopped(address, tasks)
            await self._drain()
        finally:
            await asyncio.to_thread(self._close)
            server.should_exit = True
            closing.set()
            await asyncio.gather(*tasks)

    async def _until_stopped(self, address: str, tasks: Sequence[asyncio.Future[None]]) -> None:
        """Load, answer, and wait for a signal. Raises what one of ``tasks`` dies of."""
        serving = asyncio.ensure_future(self._load_and_wait(address))
        await asyncio.wait({serving, *tasks}, return_when=asyncio.FIRST_COMPLETED)
        for task in (*tasks, serving):
            if task.done():
                task.result()

    async def _load_and_wait(self, address: str) -> None:
        self.engine.models = await self._loaded()
        for served in self.engine.models.values():
            self.engine.metrics.loaded(served.name, served.kind, served.digest)
        if self.engine.models:
            names = tuple(self.engine.models)
            # What was loaded stays. Python's collector would look at half a million objects of it each time that a request makes many.
            gc.freeze()
            self._console.log(f"{' and '.join(names)} answer{'s' if len(names) == 1 else ''} at {address}")
        waiting: list[asyncio.Future[Any]] = [asyncio.ensure_future(self._stop.wait())]
        if self.engine.models and self._live is not None:
            waiting.append(asyncio.ensure_future(self._live.follow()))
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            if task.done():
                task.result()
            task.cancel()

    async def _loaded(self) -> dict[str, ServedModel]:
        """Load in a daemon thread: a stop does not wait for it. Empty when one came before the models."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[dict[str, ServedModel]] = loop.create_future()

        def log(message: str) -> None:
            self.engine.message = message
            self._console.log(message)

        def load() -> None:
            try:
                models = self._load(log)
                loop.call_soon_threadsafe(done.set_result, models)
            except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
                if not loop.is_closed():
                    loop.call_soon_threadsafe(done.set_exception, error)

        threading.Thread(target=load, name=LOADER, daemon=True).start()
        stopped = asyncio.ensure_future(self._stop.wait())
        either: set[asyncio.Future[Any]] = {done, stopped}
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        stopped.cancel()
        return done.result() if done.done() else {}

    def _load(self, log: Callable[[str], None]) -> dict[str, ServedModel]:
        if self._job.spec.engine == "LlamaCpp":
            from workloads.serving.llama_cpp.loading import load as load_models
        elif self._list is not None:
            from workloads.serving.engine.live_adapters import LiveAdapters

            self._live = LiveAdapters(self._job, self._environment, self._list, self.engine, self._console.log)
            return self._live.load(self.engine.metrics, log)
        else:
            from workloads.serving.engine.loading import load as load_models

        return load_models(self._job, self._environment, self.engine.metrics, log)

    def _on_signal(self) -> None:
        if self._stop.is_set():  # asked twice
            os._exit(ExitCode.OK)
        self._stop.set()

    async def _drain(self) -> None:
        """Let running answers come to their end, within the grace period."""
        left = max(0.0, self._grace - LAST_WORDS_SECONDS)
        end = time.monotonic() + left
        if self._environment.in_pod and self.engine.models:
            await asyncio.sleep(min(LINGER_SECONDS, left / 2))
        self.engine.draining = True
        if not self.engine.idle_within(0):
            self._console.log("stopping: running answers are finished, new requests are refused")
            await asyncio.to_thread(self.engine.idle_within, end - time.monotonic())

    def _close(self) -> None:
        for scheduler in self.engine.schedulers:
            scheduler.close()
