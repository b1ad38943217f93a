"""What a test does with a cluster, whichever it is: all of it through kubectl, so that any kubeconfig will do."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from tests.cluster.bed.cache import BedError

T = TypeVar("T")
Manifest = dict[str, Any]


def until(condition: Callable[[], T], what: str, seconds: float = 60, every: float = 0.1) -> T:
    """What `condition` returns once it is true. An exception of its own is a no, told when the time is up."""
    deadline = time.monotonic() + seconds
    while True:
        last = ""
        try:
            if found := condition():
                return found
        except (BedError, OSError, LookupError) as error:
            last = f": {error}"
        if time.monotonic() > deadline:
            raise BedError(f"waited {seconds:.0f} s in vain for {what}{last}")
        time.sleep(every)


def documents(manifests: Sequence[Manifest]) -> str:
    """As JSON: PyYAML and kubectl do not agree on which bare words are booleans."""
    return "\n---\n".join(json.dumps(manifest) for manifest in manifests)


class Cluster:
    """A cluster reached by a kubeconfig."""

    def __init__(self, kubeconfig: Path, kubectl: Path | str = "kubectl"):
        self.kubeconfig = kubeconfig
        self.kubectl_command = str(kubectl)

    def kubectl(self, *arguments: str, input: str | None = None, check: bool = True, seconds: float = 300) -> str:
        """Standard output. A refusal raises with what the API server said, unless `check` is False."""
        command = [self.kubectl_command, "--kubeconfig", str(self.kubeconfig), *arguments]
        try:
            done = subprocess.run(
                command,
                input=input,
                check=False,
                capture_output=True,
                text=True,
                timeout=seconds,
                env=os.environ | {"TZ": "UTC"},
            )
        except FileNotFoundError:
            raise BedError(
                f"no program {self.kubectl_command!r} on PATH: install kubectl, or let the bed bring its own"
            ) from None
        except subprocess.TimeoutExpired:
            raise BedError(f"`kubectl {' '.join(arguments)}` did not answer in {seconds:.0f} s") from None
        if check and done.returncode:
            raise BedError(f"`kubectl {' '.join(arguments)}` exited {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def get(self, *arguments: str) -> Manifest:
        """`kubectl get ARGUMENTS -o json`."""
        found: Manifest = json.loads(self.kubectl("get", *arguments, "-o", "json"))
        return found

    def items(self, *arguments: str) -> list[Manifest]:
        found: list[Manifest] = self.get(*arguments)["items"]
        return found

    def raw(self, path: str) -> str:
        return self.kubectl("get", "--raw", path)

    def apply(self, *manifests: Manifest, namespace: str | None = None, server_side: bool = True) -> str:
        where = ["-n", namespace] if namespace else []
        how = ["--server-side", "--force-conflicts"] if server_side else []
        return self.kubectl("apply", *where, *how, "-f", "-", input=documents(manifests))

    def create(self, *manifests: Manifest, namespace: str | None = None, flags: Sequence[str] = ()) -> str:
        where = ["-n", namespace] if namespace else []
        return self.kubectl("create", *where, *flags, "-f", "-", input=documents(manifests))

    def wait(self, what: str, condition: str, namespace: str = "default", seconds: float = 120) -> None:
        """`kubectl wait`, e.g. `wait("pod/a", "condition=Ready")` or `wait("pod/a", "jsonpath={.status.phase}=Failed")`."""
        self.kubectl(
            "wait", what, f"--for={condition}", "-n", namespace, f"--timeout={seconds:.0f}s", seconds=seconds + 10
        )

    def logs(self, pod: str, namespace: str = "default", container: str | None = None) -> str:
        return self.kubectl("logs", pod, "-n", namespace, *(["-c", container] if container else []))

    @contextmanager
    def namespace(self, name: str, enforce: str = "restricted") -> Iterator[str]:
        """A namespace under a Pod Security level, with its default ServiceAccount ready; deleted afterwards."""
        going = ["get", "namespace", name, "--ignore-not-found", "-o", "jsonpath={.metadata.deletionTimestamp}"]
        until(lambda: not self.kubectl(*going), f"the namespace {name} of an earlier test to go", 180)
        labels = {"pod-security.kubernetes.io/enforce": enforce}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}})
        until(lambda: self.get("serviceaccount", "default", "-n", name), f"the default ServiceAccount of {name}")
        try:
            yield name
        finally:
            self.kubectl("delete", "namespace", name, "--wait=false", check=False)

    def nodes(self) -> list[str]:
        return [item["metadata"]["name"] for item in self.items("nodes")]

    def fake_gpus(self, count: int, node: str | None = None) -> None:
        """Makes the node say that it has GPUs: pods that ask for them are scheduled and start. It outlives a kubelet restart."""
        path = "nvidia.com~1gpu"
        patch = [
            {"op": "add", "path": f"/status/{part}/{path}", "value": str(count)} for part in ("capacity", "allocatable")
        ]
        for name in [node] if node else self.nodes():
            self.kubectl("patch", "node", name, "--subresource=status", "--type=json", "-p", json.dumps(patch))

    def evict(self, pod: str, namespace: str = "default", grace_seconds: int | None = None) -> None:
        """Through the Eviction API, as a drain does: the pod gets the DisruptionTarget condition."""
        options = {} if grace_seconds is None else {"deleteOptions": {"gracePeriodSeconds": grace_seconds}}
        eviction = {
            "apiVersion": "policy/v1",
            "kind": "Eviction",
            "metadata": {"name": pod, "namespace": namespace},
            **options,
        }
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/eviction"
        self.kubectl("create", "--raw", path, "-f", "-", input=json.dumps(eviction))

    @contextmanager
    def drained(self, node: str | None = None, flags: Sequence[str] = ()) -> Iterator[str]:
        """A node cordoned and emptied through the Eviction API; schedulable again afterwards."""
        name = node or self.nodes()[0]
        self.kubectl("drain", name, "--ignore-daemonsets", "--delete-emptydir-data", "--force", *flags)
        try:
            yield name
        finally:
            self.kubectl("uncordon", name)
