"""The operator as a user installs it, and the ways in which tests harm it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.cluster.bed.cache import CHECKOUT
from tests.cluster.bed.cluster import until
from tests.cluster.bed.node import Bed

NAMESPACE = "literary-alpaca-system"
DEPLOYMENT = "deployment/literary-alpaca-operator"
LEASE = "lease/literary-alpaca"
SELECTOR = "app.kubernetes.io/name=literary-alpaca-operator"

OVERLAY = """\
apiVersion: kustomize.config.k8s.io/v1beta1
kind: Kustomization
resources: [{base}]
configMapGenerator:
  - name: literary-alpaca-settings
    namespace: literary-alpaca-system
    behavior: merge
    literals:
      # Jobs of tests last seconds, and their progress is to be seen.
      - ALPACA_PROGRESS_SECONDS=1
      - ALPACA_PROGRESS_WRITE_SECONDS=1
"""


@dataclass
class Installation:
    """The operator's Deployment on a node."""

    bed: Bed

    def pods(self) -> list[str]:
        listed = self.bed.kubectl("get", "pods", "-n", NAMESPACE, "-l", SELECTOR, "-o", "name")
        return [line.removeprefix("pod/") for line in listed.split()]

    def leader(self) -> str:
        """The pod that holds the Lease; empty where it is gone, or nobody has it."""
        holder = self.bed.kubectl("get", LEASE, "-n", NAMESPACE, "-o", "jsonpath={.spec.holderIdentity}")
        return holder if holder in self.pods() else ""

    def wait_leading(self) -> str:
        return until(self.leader, "a pod to hold the Lease", 120)

    def scale(self, replicas: int) -> None:
        self.bed.kubectl("scale", DEPLOYMENT, "-n", NAMESPACE, f"--replicas={replicas}")
        until(lambda: len(self.pods()) == replicas, f"{replicas} replicas")
        self.wait_available()

    def wait_available(self) -> None:
        self.bed.kubectl("rollout", "status", DEPLOYMENT, "-n", NAMESPACE, "--timeout=120s")

    def kill_process(self, pod: str) -> None:
        """SIGKILL to the operator in a pod: the kubelet starts its container again."""
        self._kill(self._uid(pod))

    def kill_pod(self, pod: str) -> None:
        """Gone at once, as with its node: the Deployment makes another."""
        uid = self._uid(pod)
        self.bed.kubectl("delete", "pod", pod, "-n", NAMESPACE, "--grace-period=0", "--force")
        self._kill(uid)  # the kubelet would still let it say goodbye

    def _uid(self, pod: str) -> str:
        found: str = self.bed.get("pod", pod, "-n", NAMESPACE)["metadata"]["uid"]
        return found

    def _kill(self, uid: str) -> None:
        script = 'for p in /proc/[0-9]*; do grep -qs "$1" "$p/cgroup" && grep -qs alpaca_operator "$p/cmdline" && kill -9 "${p#/proc/}"; done; true'
        self.bed.node_exec("sh", "-c", script, "kill", uid.replace("-", "[-_]"))

    def state(self) -> str:
        """For whoever reads a failed test."""
        lease = self.bed.kubectl("get", LEASE, "-n", NAMESPACE, "-o", "yaml", check=False)
        return self.bed.kubectl("get", "pods", "-n", NAMESPACE, "-o", "wide", check=False) + lease + self.log()

    def restarts(self) -> int:
        told = "jsonpath={.items[*].status.containerStatuses[*].restartCount}"
        return sum(map(int, self.bed.kubectl("get", "pods", "-n", NAMESPACE, "-l", SELECTOR, "-o", told).split()))

    def log(self) -> str:
        return self.bed.kubectl("logs", "-n", NAMESPACE, "-l", SELECTOR, "--tail=-1", "--prefix")


@contextmanager
def installed(bed: Bed, folder: Path) -> Iterator[Installation]:
    """manifests/default by an overlay in `folder`, as a user writes one to change settings; removed afterwards."""
    base = os.path.relpath(CHECKOUT / "manifests" / "default", folder.resolve())
    (folder / "kustomization.yaml").write_text(OVERLAY.format(base=base))
    bed.kubectl("apply", "--server-side", "-k", str(folder))
    installation = Installation(bed)
    try:
        installation.wait_available()
        installation.wait_leading()
        yield installation
    finally:
        bed.kubectl("delete", "--ignore-not-found", "--wait=false", "-k", str(folder), check=False)
