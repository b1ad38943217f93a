"""A control plane of its own, with manifests/default applied: policies of these tests must not reach other tests' jobs. It goes with the last of
them: four idle ones took a seventh of a core from all that came later."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.bed.controlplane import ControlPlane
from tests.manifests.build import MANIFESTS


@pytest.fixture(scope="package")
def installed() -> Iterator[ControlPlane]:
    with ControlPlane.temporary() as plane:
        plane.kubectl("apply", "--server-side", "-k", str(MANIFESTS / "default"))
        plane.kubectl("wait", "--for=condition=Established", "crd", "--all")
        yield plane
