"""Whether a child is as it is planned: defaults, additions of others and other ways to write a quantity are no difference."""

from __future__ import annotations

from typing import Any

import pytest

from alpaca_operator.api.contract import ANNOTATION_ADAPTERS, LABEL_REVISION
from alpaca_operator.plan.keep import as_listed, as_scaled, holds, outcome, with_digest

PLANNED = {"spec": {"containers": [{"name": "engine", "image": "a"}], "replicas": 1, "labels": {"a": "b"}}}


@pytest.mark.parametrize(
    "live",
    [
        pytest.param(PLANNED, id="the same"),
        pytest.param(
            {"spec": {**PLANNED["spec"], "dnsPolicy": "ClusterFirst"}, "status": {}}, id="with what the server adds"
        ),
        pytest.param({"spec": {**PLANNED["spec"], "labels": {"a": "b", "c": "d"}}}, id="with a label of somebody else"),
        pytest.param(
            {
                "spec": {
                    **PLANNED["spec"],
                    "containers": [{"name": "proxy"}, {"name": "engine", "image": "a", "tty": False}],
                }
            },
            id="with a container of somebody else",
        ),
    ],
)
def test_as_it_is_planned(live):
    assert holds(PLANNED, live)


@pytest.mark.parametrize(
    "live",
    [
        pytest.param({"spec": {**PLANNED["spec"], "replicas": 2}}, id="another number"),
        pytest.param({"spec": {**PLANNED["spec"], "labels": {}}}, id="a label less"),
        pytest.param(
            {"spec": {**PLANNED["spec"], "containers": [{"name": "engine", "image": "b"}]}}, id="another image"
        ),
        pytest.param({"spec": {**PLANNED["spec"], "containers": []}}, id="a container less"),
        pytest.param({}, id="nothing of it"),
    ],
)
def test_not_as_it_is_planned(live):
    assert not holds(PLANNED, live)


@pytest.mark.parametrize(
    ("planned", "live", "same"),
    [
        ("1000m", "1", True),
        ("0.5", "500m", True),
        (1, "1", True),
        ("1Gi", "1024Mi", True),
        ("1G", "1Gi", False),
        ("100m", "100", False),
        ("a", "b", False),
        (True, 1, True),
        ("pvc://1", "pvc://2", False),
    ],
)
def test_quantities(planned, live, same):
    assert holds({"cpu": planned}, {"cpu": live}) is same


def test_lists_without_names_are_held_item_by_item():
    assert holds({"drop": ["ALL"]}, {"drop": ["ALL"]})
    assert not holds({"drop": ["ALL"]}, {"drop": ["ALL", "NET_RAW"]})


class TestTheNumberOfPods:
    def deployment(self, asked: int, replicas: int) -> dict:
        annotations = {"literary-alpaca.io/replicas": str(asked)}
        return {"metadata": {"name": "poet-chat", "annotations": annotations}, "spec": {"replicas": replicas}}

    def test_an_autoscaler_is_not_fought(self):
        assert as_scaled(self.deployment(1, 1), self.deployment(1, 7))["spec"]["replicas"] == 7

    def test_another_number_in_the_spec_counts(self):
        assert as_scaled(self.deployment(2, 2), self.deployment(1, 7))["spec"]["replicas"] == 2

    def test_a_service_has_none(self):
        service = {"metadata": {"name": "poet-chat"}, "spec": {}}
        assert as_scaled(service, service) == service


def test_what_was_taken_out_of_the_plan_is_seen_by_its_digest():
    first = with_digest({"metadata": {"name": "poet-chat"}, "spec": {"type": "ClusterIP", "extra": True}})
    second = with_digest({"metadata": {"name": "poet-chat"}, "spec": {"type": "ClusterIP"}})
    assert not holds(second, first)


def test_what_a_policy_makes_of_a_plan_is_the_same_outcome_until_somebody_changes_it():
    planned = {"kind": "Service", "metadata": {"name": "a"}, "spec": {"type": "ClusterIP"}}
    metadata = {
        "name": "a",
        "annotations": {"deployment.kubernetes.io/revision": "1"},
        "resourceVersion": "5",
        "generation": 1,
    }
    live = {"kind": "Service", "metadata": metadata, "spec": {"type": "NodePort"}, "status": {"replicas": 1}}
    assert not holds(planned, live)
    later = {"resourceVersion": "9", "annotations": {"deployment.kubernetes.io/revision": "2"}}
    assert outcome(planned, live) == outcome(planned, {**live, "metadata": {**metadata, **later}, "status": {}})
    for changed in (
        {**live, "spec": {"type": "LoadBalancer"}},
        {**live, "metadata": {**metadata, "labels": {"a": "b"}}},
    ):
        assert outcome(planned, live) != outcome(planned, changed)
    assert outcome(planned, live) != outcome({**planned, "spec": {}}, live)


class TestTheListOfAdapters:
    def made(self, listed: str, revision: str = "a") -> dict[str, Any]:
        labels, annotations = {LABEL_REVISION: revision}, {ANNOTATION_ADAPTERS: listed, "config": "{}"}
        return {
            "kind": "Deployment",
            "metadata": {"annotations": {ANNOTATION_ADAPTERS: listed}},
            "spec": {"replicas": 1, "template": {"metadata": {"labels": labels, "annotations": annotations}}},
        }

    def test_another_one_makes_no_new_pods(self):
        planned = as_listed(self.made("new"), self.made("old"))
        assert planned["spec"] == self.made("old")["spec"]
        assert planned["metadata"]["annotations"] == {ANNOTATION_ADAPTERS: "new"}

    def test_new_pods_have_the_newest(self):
        assert as_listed(self.made("new", "b"), self.made("old")) == self.made("new", "b")

    def test_what_has_none_is_as_it_is_planned(self):
        service = {"kind": "Service", "metadata": {"annotations": {}}, "spec": {"type": "ClusterIP"}}
        assert as_listed(service, service) == service
