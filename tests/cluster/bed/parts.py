"""What the tests run on, in the parts that they ask for: each is built once, and takes as long as the machine needs."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

from tests.benchmarks import llama_factory
from tests.cluster.bed import binaries, cache, debian, images
from tests.cluster.bed.node import demand_host
from tests.workloads.serving import llama_index_client

COMMAND = "make test-programs"


def demand_built() -> None:
    """For a process of tests: what is missing fails at once, and names the command that builds it."""
    cache.demand_all_built(COMMAND)


def control_plane() -> None:
    """etcd and Kubernetes, for tests against a real API server, JobSet, whose types come and go on it, and a registry."""
    binaries.ensure([*binaries.CONTROL_PLANE, "jobset", "registry"])


def pages() -> None:
    """A browser, and the environment of the chat page's image."""
    if not os.environ.get(debian.OWN_BROWSER):
        debian.browser()
    images.environment("chat")


def node() -> None:
    """All of a node: its programs, what tests install on it, and the project's images. Raises BedError where none can run."""
    demand_host()
    binaries.ensure([product.name for product in (*binaries.PRODUCTS, *binaries.ADDONS)])
    debian.node_tools()
    for role in images.ROLES:
        images.make(role)


def docker() -> None:
    """A Docker engine with Compose, and the project's images in it. Raises BedError where none can run."""
    demand_host()
    binaries.ensure([binaries.COMPOSE.name])
    debian.engine()
    pages()
    for role in images.EXTRAS:
        images.make(role)


def peer() -> None:
    """A control plane, the operator and the training that ours are measured beside, and a client that has no place beside others."""
    binaries.ensure([*binaries.CONTROL_PLANE, "jobset", *(product.name for product in binaries.PEERS)])
    llama_factory.environment()
    llama_index_client.environment()


PARTS: Mapping[str, Callable[[], None]] = {
    "control-plane": control_plane,
    "pages": pages,
    "node": node,
    "docker": docker,
    "peer": peer,
}
