"""A port to answer on, and uvicorn on it without signals of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from workloads.errors import SpecError

HEAD_SECONDS = 30.0
"""For the head of a request to come whole, and for a new connection to begin one."""


class Server(uvicorn.Server):
    """uvicorn without its own signals: what a stop means is for its owner to say."""

    def __init__(self, app: Any, graceful_seconds: int, lifespan: str = "off") -> None:
        super().__init__(
            uvicorn.Config(
                app,
                http=_Protocol,
                log_config=None,
                access_log=False,
                lifespan=lifespan,  # type: ignore[arg-type]
                ws="none",
                timeout_keep_alive=75,
                timeout_graceful_shutdown=graceful_seconds,
                server_header=False,
            )
        )

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _Protocol(H11Protocol):
    """uvicorn's own, which closes a connection whose request's head does not come to its end. h11 bounds a head's size, and nothing its
    time: a crowd of connections that say a byte a minute would take every file that the process may open."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._wait()

    def _wait(self) -> None:
        """While a head is on its way. Between two requests of a connection uvicorn's own limit holds, until the first byte."""
        between = self.timeout_keep_alive_task is not None and not self.conn.trailing_data[0]
        if self.conn.their_state is not h11.IDLE or between:
            self._stop_waiting()
        elif self._waiting is None:
            self._waiting = self.loop.call_later(HEAD_SECONDS, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


def listen(in_pod: bool, port: int, variable: str) -> socket.socket:
    """A listening socket: in a pod on every address, elsewhere on this machine's own alone. Raises SpecError, which names the
    ``variable`` that sets another port, when it is taken."""
    try:
        if in_pod:
            dual = socket.has_dualstack_ipv6()
            return socket.create_server(
                ("", port), family=socket.AF_INET6 if dual else socket.AF_INET, dualstack_ipv6=dual, backlog=1024
            )
        return socket.create_server(("127.0.0.1", port), backlog=1024)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SpecError(f"port {port} is taken: set {variable} to another, or to 0 for a free one") from error
        raise


def port(environ: Mapping[str, str], variable: str, default: int) -> int:
    """The port that ``variable`` names. Raises SpecError for one that is none."""
    text = environ.get(variable)
    if not text:
        return default
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise SpecError(f"{variable} is {text!r}: give a port, or 0 for a free one")
    return int(text)
