"""The operator as a process of its own, for tests that kill it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from alpaca_operator.api import KINDS
from tests.cluster.bed.cluster import until
from tests.cluster.bed.controlplane import free_ports

IMAGE = "example.org/train:test"


class OperatorProcess:
    """``settings`` are environment variables without their prefix, in lower case."""

    def __init__(self, kubeconfig: Path, log: Path, identity: str = "operator-0", **settings: object) -> None:
        self.kubeconfig = kubeconfig
        self.log = log
        self.identity = identity
        self.settings = settings
        self.process: subprocess.Popen[bytes] | None = None
        self.port = 0

    def start(self) -> None:
        [self.port] = free_ports(1)
        given = {f"ALPACA_{name.upper()}": str(value) for name, value in self.settings.items()}
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("ALPACA_", "KUBE"))}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "alpaca_operator"],
                env=environment
                | {
                    "KUBECONFIG": str(self.kubeconfig),
                    "ALPACA_IDENTITY": self.identity,
                    **{f"ALPACA_IMAGE_{kind.upper()}": IMAGE for kind in KINDS},
                    "ALPACA_IMAGE_PAGE": IMAGE,
                    "ALPACA_PORT": str(self.port),
                    "ALPACA_LOG_FORMAT": "Text",
                    **given,
                },
                stdout=log,
                stderr=log,
            )

    def stop(self, how: signal.Signals = signal.SIGTERM) -> int:
        """The exit status. Whatever does not end by itself is killed."""
        assert self.process
        self.process.send_signal(how)
        try:
            return self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def ended(self) -> int | None:
        assert self.process
        return self.process.poll()

    def probe(self, path: str) -> tuple[int, str]:
        """Status and text of /healthz, /readyz, /metrics; 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def metric(self, name: str) -> float:
        """The value of a line of /metrics, labels included in its name; 0 when there is none."""
        return next((float(line.rpartition(" ")[2]) for line in self.metrics() if line.rpartition(" ")[0] == name), 0.0)

    def metrics(self) -> list[str]:
        """The lines of /metrics; none of a process that has ended. One that is busy is asked again, for no answer is no 0."""
        return [] if self.ended() is not None else until(self._metrics, "the operator's /metrics")

    def resources(self) -> int:
        """How many resources it knows of."""
        return int(sum(float(line.rpartition(" ")[2]) for line in self.metrics() if line.startswith("alpaca_jobs{")))

    def _metrics(self) -> list[str]:
        status, text = self.probe("/metrics")
        return text.splitlines() if status == 200 else []

    def wait_ready(self) -> None:
        until(lambda: self.probe("/readyz")[0] == 200, "the operator's /readyz")

    def wait_leading(self) -> None:
        until(lambda: self.metric("alpaca_leading") == 1.0, "the operator to hold the Lease")

    def said(self) -> str:
        return self.log.read_text(errors="replace")


@contextmanager
def operator(
    kubeconfig: Path, folder: Path, identity: str = "operator-0", **settings: object
) -> Iterator[OperatorProcess]:
    """A running operator that holds the Lease; a test that fails shows its log."""
    process = OperatorProcess(kubeconfig, folder / f"{identity}.log", identity, **settings)
    process.start()
    try:
        process.wait_leading()
        yield process
    except BaseException:
        print(f"--- log of {identity} ---\n{process.said()[-20000:]}")
        raise
    finally:
        if process.ended() is None:
            process.stop()
