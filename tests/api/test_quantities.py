"""A quantity is what the API server takes for one: our pattern is held against it."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from alpaca_operator.api.model import IntOrPercent, Quantity
from alpaca_operator.cluster.kube import Kube
from alpaca_operator.cluster.resources import PODS
from alpaca_operator.errors import ApiError
from tests.cluster.bed.controlplane import ControlPlane

QUANTITIES = [
    (0, True),
    (2, True),
    ("2", True),
    ("16Gi", True),
    ("1.5Gi", True),
    (".5", True),
    ("1.", True),
    ("+1", True),
    ("500m", True),
    ("100k", True),
    ("1e3", True),
    ("1E3", True),
    ("1e-3", True),
    ("16GB", False),
    ("16gb", False),
    ("16 Gi", False),
    ("16GiB", False),
    ("1K", False),
    ("1ki", False),
    ("1e", False),
    ("-1", False),
    (-1, False),
    ("0x10", False),
    ("", False),
    ("all", False),
]


def takes(value: object, wanted: object = Quantity) -> bool:
    try:
        TypeAdapter(wanted).validate_python(value, strict=True)
    except ValidationError:
        return False
    return True


# The API server reads a suffix alone as 0.
@pytest.mark.parametrize(("value", "is_one"), [*QUANTITIES, ("Gi", False)])
def test_a_quantity(value: object, is_one: bool) -> None:
    assert takes(value) is is_one


@pytest.mark.parametrize(
    ("value", "is_one"), [(0, True), (2, True), ("50%", True), ("2", False), ("half", False), (-1, False)]
)
def test_a_number_of_pods(value: object, is_one: bool) -> None:
    assert takes(value, IntOrPercent) is is_one


@pytest.mark.controlplane
async def test_the_api_server_takes_the_same_for_a_quantity(control_plane: ControlPlane) -> None:
    kube = await Kube.connect(str(control_plane.kubeconfig))
    taken = {}
    try:
        for value, _ in QUANTITIES:
            container = {"name": "a", "image": "a", "resources": {"requests": {"memory": value}}}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a"}, "spec": {"containers": [container]}}
            try:
                await kube.write("create", "POST", PODS, f"{PODS.path('default')}?dryRun=All", pod)
                taken[value] = True
            except ApiError:
                taken[value] = False
    finally:
        await kube.close()
    assert taken == dict(QUANTITIES)
