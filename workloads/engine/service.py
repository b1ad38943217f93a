"""The engine's process: the port is open at once, the model comes, requests are answered, and a stop lets running answers finish."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping

import uvicorn

from alpaca_operator.api import contract
from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.status import Reason
from workloads import endings, runtime
from workloads.console import display
from workloads.engine.server import Engine, application
from workloads.environment import Environment
from workloads.errors import SpecError, WorkloadError
from workloads.progress import Display
from workloads.stop import RESERVE

ENV_PORT = "ALPACA_ENGINE_PORT"
"""Another port than contract.API_PORT, where that is taken on somebody's machine."""
LINGER_SECONDS = 5.0
"""A pod goes on answering for so long after it was told to stop: until then requests still reach it."""
LAST_WORDS_SECONDS = 3
"""For connections to close after the last answer."""


def execute(job: ChatDeployment) -> int:
    """Serve ``job`` until a signal comes; returns the exit code."""
    try:
        environment = Environment.read(os.environ)
    except WorkloadError as error:
        return endings.refuse(error, os.environ)
    runtime.prepare_process()
    with display(environment.in_pod) as shown:
        try:
            asyncio.run(Service(job, environment, os.environ, shown).run())
            ending = endings.last_word(Reason.SUCCEEDED, ExitCode.OK, "stopped as asked", contract.Progress())
        except BaseException as error:  # noqa: BLE001 - every way to end has to reach the exit code and the last word
            ending = endings.failed(error, contract.Progress())
    endings.tell(ending, environment.termination_log)
    return ending.exit_code


class Service:
    """An engine with its port, from start to end."""

    def __init__(
        self, job: ChatDeployment, environment: Environment, environ: Mapping[str, str], shown: Display
    ) -> None:
        from workloads.engine import loading

        self._job, self._environment, self._shown = job, environment, shown
        names = tuple(part.name for part in loading.parts(job))
        self.engine = Engine(names, key=api_key(job, environ))
        self._port = _port(environ.get(ENV_PORT))
        self._grace = job.spec.pod.termination_grace_period_seconds * (1 - RESERVE)
        self._stop = asyncio.Event()

    async def run(self) -> None:
        """Raises WorkloadError when the model cannot be loaded, or the port is taken."""
        listener = listen(self._environment.in_pod, self._port)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/v1"
        self._shown.say(f"the API comes up at {address}")
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_signal)
        server = Server(application(self.engine))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            self.engine.models = await self._loaded()
            self._shown.say(
                f"{' and '.join(self.engine.names)} answer{'s' if len(self.engine.names) == 1 else ''} at {address}"
            )
            await self._stop.wait()
            await self._drain()
        finally:
            await asyncio.to_thread(self._close)
            server.should_exit = True
            await serving

    async def _loaded(self):  # type: ignore[no-untyped-def]
        """Load in a daemon thread: a stop does not wait for it."""
        loop = asyncio.get_running_loop()
        done = loop.create_future()

        def say(message: str) -> None:
            self.engine.message = message
            self._shown.say(message)

        def load() -> None:
            from workloads.engine import loading

            try:
                models = loading.load(self._job, self._environment, self.engine.metrics, say)
                loop.call_soon_threadsafe(done.set_result, models)
            except BaseException as error:  # noqa: BLE001 - it is raised again where it is waited for
                loop.call_soon_threadsafe(done.set_exception, error)

        threading.Thread(target=load, name="loading", daemon=True).start()
        stopped = asyncio.create_task(self._stop.wait())
        await asyncio.wait({done, stopped}, return_when=asyncio.FIRST_COMPLETED)
        if not done.done():
            self._leave_at_once()
        stopped.cancel()
        return done.result()

    def _leave_at_once(self) -> None:
        """There is nothing to finish, and the thread that loads cannot be stopped."""
        ending = endings.last_word(Reason.SUCCEEDED, ExitCode.OK, "stopped while loading", contract.Progress())
        endings.tell(ending, self._environment.termination_log)
        sys.stdout.flush()
        os._exit(ExitCode.OK)

    def _on_signal(self) -> None:
        if self._stop.is_set():  # asked twice
            os._exit(ExitCode.OK)
        self._stop.set()

    async def _drain(self) -> None:
        """Let running answers come to their end, within the grace period."""
        end = time.monotonic() + self._grace - LAST_WORDS_SECONDS
        if self._environment.in_pod:
            await asyncio.sleep(min(LINGER_SECONDS, self._grace / 2))
        self.engine.draining = True
        if not self.engine.idle_within(0):
            self._shown.say("stopping: running answers are finished, new requests are refused")
            await asyncio.to_thread(self.engine.idle_within, end - time.monotonic())

    def _close(self) -> None:
        for served in self.engine.models.values():
            served.scheduler.close()


class Server(uvicorn.Server):
    """uvicorn without its own signals: what a stop means is ours to say."""

    def __init__(self, app) -> None:  # type: ignore[no-untyped-def]
        super().__init__(
            uvicorn.Config(
                app,
                log_config=None,
                access_log=False,
                lifespan="off",
                ws="none",
                timeout_keep_alive=75,
                timeout_graceful_shutdown=LAST_WORDS_SECONDS,
                server_header=False,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def listen(in_pod: bool, port: int) -> socket.socket:
    """A listening socket: in a pod on every address, elsewhere on this machine's own alone. Raises SpecError when the port is taken."""
    try:
        if in_pod:
            dual = socket.has_dualstack_ipv6()
            return socket.create_server(
                ("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual, backlog=1024
            )
        return socket.create_server(("127.0.0.1", port), backlog=1024)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SpecError(f"port {port} is taken: set {ENV_PORT} to another, or to 0 for a free one") from error
        raise


def api_key(job: ChatDeployment, environ: Mapping[str, str]) -> str | None:
    """The key that requests need. Raises SpecError where the spec, or a login, asks for one and there is none."""
    key = environ.get(contract.ENV_API_KEY) or None
    if key is None and job.spec.auth is not None:
        raise SpecError(
            f"auth.secretName is {job.spec.auth.secret_name} and {contract.ENV_API_KEY} is not set: put the key apiKey into that Secret; locally set the "
            "variable"
        )
    if key is None and (environ.get(contract.ENV_USERNAME) or environ.get(contract.ENV_PASSWORD)):
        raise SpecError(
            f"{contract.ENV_USERNAME} locks the page and {contract.ENV_API_KEY} is not set: the API would be open; set it too"
        )
    return key


def _port(text: str | None) -> int:
    if not text:
        return contract.API_PORT
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise SpecError(f"{ENV_PORT} is {text!r}: give a port, or 0 for a free one")
    return int(text)
