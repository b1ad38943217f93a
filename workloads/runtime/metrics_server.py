"""`/progress` for the operator and `/metrics` for Prometheus, on one port."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST

from workloads.runtime.progress import ProgressTracker

GAUGES = {
    "step": "Optimizer steps done",
    "total_steps": "Optimizer steps in all",
    "epoch": "Passes over the training set done",
    "loss": "Training loss of the last logged step, in nats per token",
    "eval_loss": "Loss on the validation rows, in nats per token",
    "learning_rate": "Learning rate of the last step",
    "grad_norm": "Norm of the gradient before clipping",
    "tokens_per_second": "Unpadded tokens a second",
    "eta_seconds": "Seconds to the end at the present speed",
}
"""Fields of contract.Progress that are numbers; each becomes the metric ``alpaca_<field>``."""
GOODPUT = {
    "steps": "Optimizer steps that the present weights are made of, of all that the job has made",
    "time": "Seconds spent in these steps, of all since the first run of the job began",
}
"""Fields of contract.Goodput; each becomes the metric ``alpaca_goodput_<field>_ratio``."""


@contextmanager
def serve(tracker: ProgressTracker, host: str, port: int) -> Iterator[int]:
    """Answer from a daemon thread while the block runs; gives the port. An empty ``host`` is every address, IPv6 too where the node has it.

    Raises OSError when the port is taken.
    """
    server = _Server((host, port), _handler(tracker))
    threading.Thread(target=server.serve_forever, name="progress", daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        if not address[0] and socket.has_dualstack_ipv6():
            self.address_family = socket.AF_INET6
        super().__init__(address, handler)

    def server_bind(self) -> None:
        if self.address_family == socket.AF_INET6:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Collector:
    """Reads the board when Prometheus asks; fields that are not known yet are left out."""

    def __init__(self, tracker: ProgressTracker) -> None:
        self._tracker = tracker

    def collect(self) -> Iterator[GaugeMetricFamily]:
        current = self._tracker.current
        for field, help_text in GAUGES.items():
            value = getattr(current, field)
            if value is not None:
                yield GaugeMetricFamily(f"alpaca_{field}", help_text, value=value)
        for field, help_text in GOODPUT.items():
            share = getattr(current.goodput, field, None)
            if share is not None:
                yield GaugeMetricFamily(f"alpaca_goodput_{field}_ratio", help_text, value=share)
        stage = GaugeMetricFamily("alpaca_stage", "1 for what the workload is doing now", labels=["stage"])
        stage.add_metric([current.stage], 1)
        yield stage


def _handler(tracker: ProgressTracker) -> type[BaseHTTPRequestHandler]:
    registry = CollectorRegistry()
    registry.register(_Collector(tracker))

    class Handler(BaseHTTPRequestHandler):
        timeout = 10
        server_version = "literary-alpaca"
        sys_version = ""

        def do_GET(self) -> None:
            if self.path == "/progress":
                self._answer(200, "application/json", tracker.current.to_json().encode())
            elif self.path == "/metrics":
                self._answer(200, CONTENT_TYPE_LATEST, generate_latest(registry))
            else:
                self._answer(404, "text/plain; charset=utf-8", b"here are /progress and /metrics\n")

        def _answer(self, code: int, content_type: str, body: bytes) -> None:
            self.send_response(code)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: Any) -> None:
            """A scrape every few seconds is no news."""

    return Handler
