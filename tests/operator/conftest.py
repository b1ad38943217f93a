"""A control plane with our CRDs, the operator as a process, and a played kubelet."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from alpaca_operator.cluster.kube import Kube
from tests.cluster.bed.cluster import until
from tests.cluster.bed.controlplane import ControlPlane
from tests.operator.kubelet import Kubelet, kubelet
from tests.operator.process import OperatorProcess, operator
from tests.operator.team import Team

CRDS = Path(__file__).parents[2] / "manifests" / "crd"


def install_crds(plane: ControlPlane) -> None:
    plane.kubectl("apply", "--server-side", "-f", str(CRDS))
    until(lambda: plane.raw("/apis/literary-alpaca.io/v1alpha1/sftjobs"), "the API server to serve our kinds")


@pytest.fixture(scope="session")
def plane(control_plane: ControlPlane) -> ControlPlane:
    install_crds(control_plane)
    return control_plane


@pytest.fixture(scope="module")
def running(plane: ControlPlane, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OperatorProcess]:
    """One operator for the tests of a module that do not harm it."""
    with operator(
        plane.kubeconfig, tmp_path_factory.mktemp("operator"), lease_name="shared", progress_via="Pod"
    ) as process:
        yield process


@pytest.fixture
async def kube(plane: ControlPlane) -> AsyncIterator[Kube]:
    kube = await Kube.connect(str(plane.kubeconfig))
    yield kube
    await kube.close()


@pytest.fixture
async def team(plane: ControlPlane, kube: Kube, request: pytest.FixtureRequest) -> AsyncIterator[Team]:
    """A namespace of the test's own, and a kubelet for its pods."""
    name = f"t-{abs(hash(request.node.nodeid)) % 10**10}"
    with plane.namespace(name):
        async with kubelet(kube, name) as player:
            made = Team(plane, kube, name, player)
            yield made
            await made.clear()


__all__ = ["Kubelet", "kube", "plane", "running", "team"]
