"""Fixtures of the whole suite."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.cluster.bed import parts
from tests.cluster.bed.controlplane import ControlPlane


def pytest_configure() -> None:
    parts.demand_built()


@pytest.fixture(scope="session")
def control_plane() -> Iterator[ControlPlane]:
    """A real API server on loopback, with etcd, controllers and scheduler, shared by the session: use a namespace of your own."""
    with ControlPlane.temporary() as plane:
        yield plane
