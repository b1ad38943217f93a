"""What the operator may do is what it does, and what people may do with jobs follows what they may do in a namespace."""

from __future__ import annotations

import json
from typing import Any

import pytest

from alpaca_operator.api import GROUP, PLURALS
from tests.cluster.bed.cluster import until
from tests.manifests.build import MANIFESTS, read

OPERATOR = "system:serviceaccount:literary-alpaca-system:literary-alpaca-operator"

pytestmark = pytest.mark.controlplane


def may(
    installed, user: str, verb: str, group: str, resource: str, *, namespace: str = "default", name: str = ""
) -> bool:
    """Asked of the API server's own authorizer."""
    resource, _, part = resource.partition("/")
    attributes: dict[str, Any] = {"verb": verb, "group": group, "resource": resource, "subresource": part}
    attributes |= {"namespace": namespace, "name": name}
    groups = ["system:serviceaccounts", "system:authenticated"] if user.startswith("system:serviceaccount:") else []
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": user, "groups": groups, "resourceAttributes": attributes},
    }
    said = json.loads(installed.kubectl("create", "-f", "-", "-o", "json", input=json.dumps(review)))
    return bool(said["status"]["allowed"])


NEEDED = [
    *(
        (verb, GROUP, resource)
        for plural in PLURALS.values()
        for resource, verbs in {
            plural: ("get", "list", "watch"),
            f"{plural}/status": ("update",),
            f"{plural}/finalizers": ("update",),
        }.items()
        for verb in verbs
    ),
    *((verb, "batch", "jobs") for verb in ("get", "list", "watch", "create", "patch", "delete")),
    *(
        (verb, group, resource)
        for group, resource in (("apps", "deployments"), ("", "services"), ("policy", "poddisruptionbudgets"))
        for verb in ("get", "list", "watch", "create", "patch", "delete")
    ),
    *((verb, "gateway.networking.k8s.io", "httproutes") for verb in ("get", "list", "create", "patch", "delete")),
    *((verb, "", "pods") for verb in ("get", "list", "watch")),
    ("get", "", "pods/log"),
    ("create", "events.k8s.io", "events"),
    ("list", "events.k8s.io", "events"),
]

NEVER = [
    ("get", "", "secrets"),
    ("list", "", "secrets"),
    ("create", "", "pods"),
    ("create", "", "pods/exec"),
    ("get", "", "configmaps"),
    ("delete", "", "pods"),
    ("create", GROUP, PLURALS["SFTJob"]),
    ("delete", GROUP, PLURALS["SFTJob"]),
    ("update", GROUP, PLURALS["SFTJob"]),
    ("create", "rbac.authorization.k8s.io", "clusterroles"),
    ("update", "batch", "jobs/status"),
    ("update", "", "services/status"),
    ("update", GROUP, f"{PLURALS['ChatDeployment']}/scale"),
]


@pytest.mark.parametrize(("verb", "group", "resource"), NEEDED, ids=lambda value: value or "core")
def test_the_operator_may(installed, verb, group, resource):
    assert may(installed, OPERATOR, verb, group, resource)


@pytest.mark.parametrize(("verb", "group", "resource"), NEVER, ids=lambda value: value or "core")
def test_the_operator_may_not(installed, verb, group, resource):
    assert not may(installed, OPERATOR, verb, group, resource)


def test_the_lease_is_the_operators_and_no_other(installed):
    home, group = "literary-alpaca-system", "coordination.k8s.io"
    for verb in ("get", "update"):
        assert may(installed, OPERATOR, verb, group, "leases", namespace=home, name="literary-alpaca")
        assert not may(installed, OPERATOR, verb, group, "leases", namespace=home, name="another")
    assert may(installed, OPERATOR, "create", group, "leases", namespace=home)
    assert not may(installed, OPERATOR, "create", group, "leases")


def test_nothing_is_granted_by_a_wildcard():
    for path in (MANIFESTS / "rbac").glob("*.yaml"):
        for rule in read(path)[0].get("rules", ()):
            assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"], path.name


@pytest.mark.parametrize(
    ("role", "verbs", "not_verbs"),
    [
        pytest.param(
            "view", ("get", "list", "watch"), ("create", "delete", "patch"), id="who may view a namespace sees jobs"
        ),
        pytest.param(
            "edit", ("get", "list", "create", "patch", "delete"), (), id="who may edit a namespace makes jobs"
        ),
    ],
)
def test_people(installed, role, verbs, not_verbs):
    installed.kubectl(
        "create", "rolebinding", f"people-{role}", f"--clusterrole={role}", f"--user={role}er", "-n", "default"
    )
    for plural in PLURALS.values():
        for verb in verbs:
            installed_soon(installed, f"{role}er", verb, plural)
        for verb in not_verbs:
            assert not may(installed, f"{role}er", verb, GROUP, plural)
        assert not may(installed, f"{role}er", "update", GROUP, f"{plural}/status"), "the status is the operator's word"


def installed_soon(installed, user: str, verb: str, plural: str) -> None:
    """Aggregation takes the controller a moment."""
    until(lambda: may(installed, user, verb, GROUP, plural), f"{user} may {verb} {plural}")
