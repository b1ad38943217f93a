"""Nodes that are only said to be there: kwok writes what a kubelet would, of pods that start and run until they are deleted."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.cluster.bed import binaries
from tests.cluster.bed.cluster import until
from tests.cluster.bed.controlplane import ControlPlane

STAGES = (
    "node/fast/node-initialize.yaml",
    "node/heartbeat-with-lease/node-heartbeat-with-lease.yaml",
    "pod/fast/pod-ready.yaml",
    "pod/fast/pod-delete.yaml",
)
"""kwok's own, without the one by which a Job's pod is done as soon as it runs."""
ADDRESSES = "127.1.0.1/16"
"""Of pods: nobody listens there, which a program that asks one hears at once, as of a pod that only starts."""


@contextlib.contextmanager
def nodes(plane: ControlPlane, folder: Path, count: int = 10) -> Iterator[None]:
    """So many, each with more room than there are pods."""
    (program,) = binaries.ensure(["kwok"])
    made = [{"apiVersion": "v1", "kind": "Node", "metadata": {"name": f"node-{number}"}} for number in range(count)]
    plane.create(*made)
    command = [str(program / "kwok"), f"--kubeconfig={plane.kubeconfig}", "--manage-all-nodes", f"--cidr={ADDRESSES}"]
    stages = [f"--config={program / 'kustomize' / 'stage' / stage}" for stage in STAGES]
    with (folder / "kwok.log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--node-lease-duration-seconds=40", *stages], stdout=log, stderr=subprocess.STDOUT
        )
    try:
        until(lambda: all(map(_is_ready, plane.items("nodes"))), "kwok's nodes to be ready", 120)
        yield
    finally:
        process.kill()
        process.wait()


def _is_ready(node: dict[str, Any]) -> bool:
    taints = node["spec"].get("taints")
    conditions = {one["type"]: one["status"] for one in node.get("status", {}).get("conditions", [])}
    return conditions.get("Ready") == "True" and not taints
