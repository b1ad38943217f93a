"""A control plane alone: etcd, API server, controller manager and scheduler on loopback. Needs no root and no node.

    with ControlPlane.temporary() as plane:
        plane.kubectl("apply", "-f", "manifests/crd")
        plane.restart_apiserver()

Pods stay Pending, for there is no node; all else is real: CRDs with their CEL rules, admission, RBAC, server-side apply,
Jobs, garbage collection.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from tests.cluster.bed import binaries
from tests.cluster.bed.cache import BedError
from tests.cluster.bed.cluster import Cluster, until
from tests.cluster.bed.pki import Pki

FAST_CONTROLLERS = ("--kube-api-qps=1000", "--kube-api-burst=2000")
"""The defaults (20 and 30) make a fresh cluster wait 10 s for its first ServiceAccounts, instead of 3."""


@dataclass(frozen=True)
class Plan:
    """Where a control plane listens and what it may be told besides; its programs' command lines follow from it."""

    folder: Path
    pki: Pki
    bind: str = "127.0.0.1"
    advertise: str = "127.0.0.1"
    port: int = 6443
    etcd_port: int = 2379
    etcd_peer_port: int = 2380
    services: str = "10.96.0.0/24"
    apiserver_flags: tuple[str, ...] = ()
    controller_manager_flags: tuple[str, ...] = ()
    scheduler_flags: tuple[str, ...] = ()
    etcd_flags: tuple[str, ...] = field(default=("--unsafe-no-fsync",))
    """Durability is the host's disk's matter; a test's cluster that survives a power cut is of no use."""

    def etcd(self) -> list[str]:
        client, peer = f"http://127.0.0.1:{self.etcd_port}", f"http://127.0.0.1:{self.etcd_peer_port}"
        return [
            "etcd", f"--data-dir={self.folder}/etcd", "--log-level=warn", f"--initial-cluster=default={peer}",
            f"--listen-client-urls={client}", f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", *self.etcd_flags,
        ]  # fmt: skip

    def apiserver(self) -> list[str]:
        pki = self.pki
        return [
            "kube-apiserver", f"--etcd-servers=http://127.0.0.1:{self.etcd_port}",
            f"--bind-address={self.bind}", f"--secure-port={self.port}", f"--advertise-address={self.advertise}",
            f"--service-cluster-ip-range={self.services}", "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction", "--allow-privileged=true", "--profiling=false",
            f"--client-ca-file={pki['ca.crt']}",
            f"--tls-cert-file={pki['apiserver.crt']}", f"--tls-private-key-file={pki['apiserver.key']}",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-signing-key-file={pki['sa.key']}", f"--service-account-key-file={pki['sa.pub']}",
            f"--kubelet-client-certificate={pki['kubelet-client.crt']}",
            f"--kubelet-client-key={pki['kubelet-client.key']}", f"--kubelet-certificate-authority={pki['ca.crt']}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--requestheader-client-ca-file={pki['ca.crt']}", "--requestheader-allowed-names=front-proxy-client",
            "--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--proxy-client-cert-file={pki['front-proxy-client.crt']}",
            f"--proxy-client-key-file={pki['front-proxy-client.key']}", *self.apiserver_flags,
        ]  # fmt: skip

    def controller_manager(self) -> list[str]:
        pki = self.pki
        return [
            "kube-controller-manager", f"--kubeconfig={pki['kube-controller-manager.kubeconfig']}",
            "--secure-port=0", "--leader-elect=false", "--profiling=false", "--use-service-account-credentials=true",
            f"--service-account-private-key-file={pki['sa.key']}", f"--root-ca-file={pki['ca.crt']}",
            f"--cluster-signing-cert-file={pki['ca.crt']}", f"--cluster-signing-key-file={pki['ca.key']}",
            f"--service-cluster-ip-range={self.services}", *FAST_CONTROLLERS, *self.controller_manager_flags,
        ]  # fmt: skip

    def scheduler(self) -> list[str]:
        return [
            "kube-scheduler", f"--kubeconfig={self.pki['kube-scheduler.kubeconfig']}", "--secure-port=0",
            "--leader-elect=false", *FAST_CONTROLLERS, *self.scheduler_flags,
        ]  # fmt: skip


class ControlPlane(Cluster):
    """Programs as children of this process; they end with it, however it ends."""

    def __init__(
        self,
        folder: Path,
        *,
        apiserver_flags: Sequence[str] = (),
        controller_manager_flags: Sequence[str] = (),
        scheduler_flags: Sequence[str] = (),
    ):
        self.folder = folder.absolute()
        ports = free_ports(3)
        self.server = f"https://127.0.0.1:{ports[0]}"
        pki = Pki.make(self.folder / "pki", self.server, ["127.0.0.1", "10.96.0.1"])
        # Nothing here can reach a Service, and loopback is refused as the kubernetes Service's endpoint.
        no_endpoint = "--endpoint-reconciler-type=none"
        self.plan = Plan(
            self.folder,
            pki,
            port=ports[0],
            etcd_port=ports[1],
            etcd_peer_port=ports[2],
            apiserver_flags=(no_endpoint, *apiserver_flags),
            controller_manager_flags=tuple(controller_manager_flags),
            scheduler_flags=tuple(scheduler_flags),
        )
        (self.folder / "log").mkdir(exist_ok=True)
        folders = binaries.ensure(binaries.CONTROL_PLANE)
        self.environment = {**os.environ, "PATH": binaries.path(folders)}
        super().__init__(
            Path(pki["admin.kubeconfig"]), shutil.which("kubectl", path=self.environment["PATH"]) or "kubectl"
        )
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.keeper: subprocess.Popen[bytes] | None = None

    @classmethod
    @contextmanager
    def temporary(
        cls,
        *,
        apiserver_flags: Sequence[str] = (),
        controller_manager_flags: Sequence[str] = (),
        scheduler_flags: Sequence[str] = (),
    ) -> Iterator[ControlPlane]:
        """A running one whose folder goes with it."""
        with tempfile.TemporaryDirectory(prefix="alpaca-control-plane-", ignore_cleanup_errors=True) as folder:
            plane = cls(
                Path(folder),
                apiserver_flags=apiserver_flags,
                controller_manager_flags=controller_manager_flags,
                scheduler_flags=scheduler_flags,
            )
            with plane:
                yield plane

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Returns when the API server is ready and the controller manager has made the first ServiceAccount."""
        self._spawn("etcd", self.plan.etcd())
        self.start_apiserver()
        self._spawn("kube-controller-manager", self.plan.controller_manager())
        self._spawn("kube-scheduler", self.plan.scheduler())
        until(
            lambda: self._alive() and self.get("serviceaccount", "default", "-n", "default"),
            "the default ServiceAccount",
        )

    def stop(self) -> None:
        for name in reversed(list(self.processes)):
            self._end(name, signal.SIGKILL)
        if self.keeper:
            self.keeper.kill()
            self.keeper.communicate()
            self.keeper = None

    def start_apiserver(self, *more_flags: str) -> None:
        """`more_flags` hold for this start alone."""
        self._spawn("kube-apiserver", [*self.plan.apiserver(), *more_flags])
        until(lambda: self._alive() and self.raw("/readyz"), "the API server's /readyz", 120)

    def stop_apiserver(self, how: signal.Signals = signal.SIGKILL) -> None:
        """Connections break at once by default, as when its machine is lost; SIGTERM ends watches in order."""
        self._end("kube-apiserver", how)

    def restart_apiserver(self, *more_flags: str, how: signal.Signals = signal.SIGKILL) -> None:
        """The same data on the same port."""
        self.stop_apiserver(how)
        self.start_apiserver(*more_flags)

    def log(self, program: str) -> str:
        return (self.folder / "log" / f"{program}.log").read_text(errors="replace")

    def _spawn(self, name: str, command: list[str]) -> None:
        program = shutil.which(command[0], path=self.environment["PATH"])
        if not program:
            raise BedError(f"no program {command[0]!r} on {self.environment['PATH']}")
        group = next((process.pid for process in self.processes.values()), 0)
        with (self.folder / "log" / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(
                [program, *command[1:]],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                process_group=group,
            )
        if not self.keeper:
            self.keeper = _keep(self.processes[name].pid)

    def _end(self, name: str, how: signal.Signals) -> None:
        process = self.processes.pop(name, None)
        if not process:
            return
        process.send_signal(how)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=60)
            return
        process.kill()
        process.wait()

    def _alive(self) -> bool:
        for name, process in self.processes.items():
            if process.poll() is not None:
                said = self.log(name)[-2000:]
                raise RuntimeError(f"{name} exited {process.returncode} while the control plane started:\n{said}")
        return True


def _keep(group: int) -> subprocess.Popen[bytes]:
    """Ends the process group when this process is gone: only it holds the other end of the pipe, and the kernel closes it."""
    return subprocess.Popen(
        ["sh", "-c", f"read _ || kill -s KILL -- -{group}"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def free_ports(count: int) -> list[int]:
    """Below the range from which the kernel takes the ports of outgoing connections: an API server that restarts finds its own free."""
    found: list[int] = []
    random_ports = random.SystemRandom()
    deadline = time.monotonic() + 10
    while len(found) < count and time.monotonic() < deadline:
        port = random_ports.randrange(20000, 32000)
        with socket.socket() as probe, suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            if port not in found:
                found.append(port)
    if len(found) < count:
        raise BedError("found no free port on 127.0.0.1 between 20000 and 32000: end what listens there")
    return found
