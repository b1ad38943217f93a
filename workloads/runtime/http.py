"""A port to answer on, and uvicorn on it without signals of its own."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import uvicorn

from workloads.errors import SpecError


class Server(uvicorn.Server):
    """uvicorn without its own signals: what a stop means is for its owner to say."""

    def __init__(self, app: Any, graceful_seconds: int, lifespan: str = "off") -> None:
        super().__init__(
            uvicorn.Config(
                app,
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
