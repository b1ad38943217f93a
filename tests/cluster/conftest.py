"""The clusters that tests ask for, one per test run.

ALPACA_TEST_CLUSTER says which cluster the tests marked `cluster` get:

    (unset)    a node of the project's own, made for this run; needs root
    existing   the one that KUBECONFIG names. If `make cluster-up` made it, all tests run on it; in any other, those that
               need the node itself are skipped, each saying so
    none       none: these tests are left out
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.cluster.bed import addons
from tests.cluster.bed.cache import BedError
from tests.cluster.bed.cluster import Cluster
from tests.cluster.bed.node import Bed, demand_host
from tests.cluster.installation import Installation, installed
from tests.cluster.team import Team, team

CHOICES = ("", "existing", "none")


def choice() -> str:
    chosen = os.environ.get("ALPACA_TEST_CLUSTER", "")
    if chosen not in CHOICES:
        raise pytest.UsageError(f"ALPACA_TEST_CLUSTER={chosen!r} is not known: use existing or none, or leave it unset")
    return chosen


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if choice() != "none":
        return
    left_out = [item for item in items if item.get_closest_marker("cluster")]
    if left_out:
        items[:] = [item for item in items if item not in left_out]
        config.hook.pytest_deselected(items=left_out)
        config.stash[LEFT_OUT] = len(left_out)


LEFT_OUT = pytest.StashKey[int]()


def pytest_report_collectionfinish(config: pytest.Config) -> str | None:
    count = config.stash.get(LEFT_OUT, 0)
    return f"{count} tests that need a Kubernetes node are left out: ALPACA_TEST_CLUSTER=none" if count else None


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A cluster with a node: the project's own, or an existing one."""
    if choice() == "existing":
        kubeconfig = os.environ.get("KUBECONFIG")
        if not kubeconfig or not Path(kubeconfig).exists():
            pytest.fail(
                f"ALPACA_TEST_CLUSTER=existing, but KUBECONFIG is {kubeconfig!r}: set it to the file of a running cluster"
            )
        yield Bed.of(Path(kubeconfig)) or Cluster(Path(kubeconfig))
        return
    try:
        demand_host()
    except BedError as error:
        pytest.fail(str(error))
    with Bed.temporary() as bed:
        yield bed


@pytest.fixture(scope="session")
def bed(cluster: Cluster) -> Bed:
    """The project's own node, for tests that reach behind the API: files of a volume, a killed kubelet, images."""
    if not isinstance(cluster, Bed):
        pytest.skip(
            "reaches into the node itself, which only the project's own bed allows (ALPACA_TEST_CLUSTER=existing)"
        )
    return cluster


@pytest.fixture(scope="session")
def jobset(bed: Bed) -> Bed:
    """The node with JobSet on it, for jobs of several pods."""
    addons.install_jobset(bed)
    return bed


@pytest.fixture(scope="module")
def kueue(bed: Bed) -> Iterator[Bed]:
    """The node with Kueue on it, for jobs that wait for their turn. Its webhooks judge every pod, and while it is away none is made: the
    modules of tests that kill an API server come before those with Kueue."""
    addons.install_kueue(bed)
    yield bed
    addons.remove_kueue(bed)


@pytest.fixture(scope="session")
def operator(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """The node with manifests/default on it: the operator's image under its own rights."""
    with installed(bed, tmp_path_factory.mktemp("overlay")) as installation:
        yield installation


@pytest.fixture(scope="module")
def shared(operator: Installation, request: pytest.FixtureRequest) -> Iterator[Team]:
    """A namespace for a module whose tests do not disturb each other's jobs."""
    with team(operator.bed, request.module.__name__.rpartition(".")[2].replace("_", "-")) as made:
        yield made


@pytest.fixture
def mine(operator: Installation, request: pytest.FixtureRequest) -> Iterator[Team]:
    """A namespace of the test's own."""
    name = re.sub(r"[^a-z0-9]+", "-", request.node.name.removeprefix("test_").lower())
    with team(operator.bed, name[:50].strip("-")) as made:
        yield made
