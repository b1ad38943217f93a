"""What autoscalers of the samples read and set is there: figures of the engine, the scale of a deployment, ports of its Service."""

from __future__ import annotations

import re

import pytest
from ruamel.yaml import YAML

from alpaca_operator.api import GROUP, KINDS
from alpaca_operator.plan import PLANNERS
from tests.golden import SAMPLES, SETTINGS, load_all
from tests.manifests.build import read
from workloads.serving.engine.metrics import Metrics

FOLDER = SAMPLES / "autoscaling"
SCALERS = [
    *read(FOLDER / "horizontal.yaml"),
    *(each for name in ("keda-page", "keda-api", "keda") for each in read(FOLDER / f"{name}.yaml")),
]
ADAPTER = YAML(typ="safe").load(read(FOLDER / "prometheus-adapter.yaml")[0]["data"]["config.yaml"])["rules"]
(CHAT,) = load_all(SAMPLES / "chat-deployment-page.yaml")


def of_kind(kind):
    return [one for one in SCALERS if one["kind"] == kind]


def exported():
    """What Prometheus gathers of an engine."""
    metrics = Metrics()
    metrics.watch(lambda: 0, lambda: 0)
    return set(re.findall(r"^(\w+)", metrics.text().decode(), re.MULTILINE))


@pytest.mark.parametrize(
    "scaler", [*of_kind("HorizontalPodAutoscaler"), *of_kind("ScaledObject")], ids=lambda one: one["kind"]
)
def test_what_is_scaled_is_the_sample_and_has_a_scale(scaler):
    target = scaler["spec"]["scaleTargetRef"]
    assert target["apiVersion"].split("/")[0] == GROUP
    assert target["name"] == CHAT.metadata.name
    assert KINDS[target["kind"]].scales


def test_the_rules_of_the_adapter_give_the_metrics_that_the_autoscaler_asks_for():
    series = re.search(r"\^alpaca_chat_\(([\w|]+)\)\$", ADAPTER[0]["seriesQuery"])
    own = {f"alpaca_chat_{name}" for name in series[1].split("|")}
    assert own <= exported()
    (scaler,) = of_kind("HorizontalPodAutoscaler")
    asked = {metric["pods"]["metric"]["name"] for metric in scaler["spec"]["metrics"]}
    assert len(asked) == 2
    assert asked <= own
    with_vllm = re.findall(r"# with vLLM: (\w+)", (FOLDER / "horizontal.yaml").read_text(encoding="utf-8"))
    assert [rule["name"]["as"] for rule in ADAPTER[1:]] == with_vllm


def test_the_proxy_leads_to_the_services_of_page_and_engine_and_wakes_the_deployment():
    planned = PLANNERS[CHAT.kind](CHAT, {}, SETTINGS).manifests
    services = [one for one in planned if one["kind"] == "Service" and "clusterIP" not in one["spec"]]
    there = {(one["metadata"]["name"], port["port"]) for one in services for port in one["spec"]["ports"]}
    routes = of_kind("InterceptorRoute")
    assert {(one["spec"]["target"]["service"], one["spec"]["target"]["port"]) for one in routes} == there
    (scaler,) = of_kind("ScaledObject")
    triggers = scaler["spec"]["triggers"]
    woken_by = [one["metadata"]["interceptorRoute"] for one in triggers if one["type"] == "external-push"]
    assert woken_by == [one["metadata"]["name"] for one in routes]
    asked = [re.findall(r"\w+_\w+", one["metadata"]["query"])[0] for one in triggers if one["type"] == "prometheus"]
    assert asked
    assert set(asked) <= exported()
    assert scaler["spec"]["minReplicaCount"] == 0
