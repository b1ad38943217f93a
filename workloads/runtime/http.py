"""A port to answer on, and uvicorn on it without signals of its own."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from collections.abc import Iterator, Mapping
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from workloads.errors import SpecError

HEAD_SECONDS = 30.0
"""For the head of a request to come whole, and for a new connection to begin one."""
HEAD_BYTES = 64 * 1024
"""Of a head, or of the line before a piece of a body."""
MOST_PIECES, PIECE_BYTES = 4096, 64
"""A body in more pieces than that has so many bytes in each on average: what reads one takes the time of a piece whatever there is in it, and
nobody else is answered meanwhile. Of one byte each, half a million took 3.4 s."""
IN_CRUMBS = (
    f"The body comes in more than {MOST_PIECES:,} pieces of less than {PIECE_BYTES} bytes: send it in larger ones."
)

MOST_CONNECTIONS, MOST_OF_ONE_ADDRESS = 2000, 1000
"""At the same time. Behind a proxy all visitors have one address, and every open page holds a connection."""
REFUSED_SECONDS = 1.0
"""For a request to come of a connection that there is no room for: who is cut off before never sees why."""
FULL = b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n"


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


class _Connection(h11.Connection):
    """h11's own, which counts the pieces of a body."""

    is_in_crumbs = False
    _pieces = _bytes = 0

    def next_event(self) -> h11.Event | type[h11.NEED_DATA] | type[h11.PAUSED]:
        """Raises RemoteProtocolError."""
        event = super().next_event()
        if isinstance(event, h11.Request):
            self._pieces = self._bytes = 0
        elif isinstance(event, h11.Data):
            self._pieces += 1
            self._bytes += len(event.data)
            if self._pieces > MOST_PIECES and self._bytes < self._pieces * PIECE_BYTES:
                self.is_in_crumbs = True
                raise h11.RemoteProtocolError(IN_CRUMBS)
        return event


class _Protocol(H11Protocol):
    """uvicorn's own, which closes a connection whose request's head does not come to its end, whose body comes in crumbs, and one of too
    many. h11 bounds a head's size, and nothing its time: a crowd of connections that say a byte a minute would take every file that the process may open."""

    _waiting: asyncio.TimerHandle | None = None
    _heard_at = 0.0
    """When it was made, or last had an answer."""
    _is_refused = False

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self.conn: _Connection = _Connection(h11.SERVER, HEAD_BYTES)

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._heard_at = self.loop.time()
        self._wait()
        self._make_room()

    def data_received(self, data: bytes) -> None:
        if self._is_refused:
            self.transport.write(FULL)
            self.transport.close()
            return
        super().data_received(data)
        self._wait()

    def send_400_response(self, msg: str) -> None:
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):
            super().send_400_response(IN_CRUMBS if self.conn.is_in_crumbs else msg)
        else:  # an answer is on its way already
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._heard_at = self.loop.time()
        self._wait()

    @property
    def _awaits_its_client(self) -> bool:
        """It has no request, or one that is still on its way."""
        return self.cycle is None or self.cycle.response_complete or self.cycle.more_body

    def _make_room(self) -> None:
        """Of too many connections the one goes whose client says nothing for longest; where all are being answered, this one. So who asks
        whether the process is alive gets in, whatever crowd there is."""
        host = (self.client or ("",))[0]
        others = [each for each in self.connections if isinstance(each, _Protocol) and each is not self]
        beside = [each for each in others if (each.client or ("",))[0] == host]
        most = _most_connections()
        for crowd, limit in ((beside, min(MOST_OF_ONE_ADDRESS, most // 2)), (others, most)):
            if len(crowd) < limit:
                continue
            silent = [each for each in crowd if each._awaits_its_client]
            gone = min(silent, key=lambda each: each._heard_at, default=self)
            self.connections.discard(gone)
            if gone is self:
                self._is_refused = True
                self.loop.call_later(REFUSED_SECONDS, self.transport.close)
            else:
                gone.transport.close()
            return

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


def _most_connections() -> int:
    """No more than half of the files that the process may open."""
    return min(MOST_CONNECTIONS, resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2)


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
