"""Alerts and dashboard ask for figures that exist, and for states that are states."""

from __future__ import annotations

import json
import re

from prometheus_client.metrics import MetricWrapperBase

from alpaca_operator import metrics
from alpaca_operator.api.contract import LABEL_MANAGED_BY, MANAGED_BY
from alpaca_operator.api.status import Reason
from alpaca_operator.plan import PLANNERS
from tests.golden import SAMPLES, SETTINGS, load_all
from tests.manifests.build import MANIFESTS, kustomized, read
from workloads.runtime.metrics_server import GAUGES, GOODPUT

FOLDER = MANIFESTS / "monitoring"
ALERTS = [rule for group in read(FOLDER / "alerts.yaml")[0]["spec"]["groups"] for rule in group["rules"]]
PANELS = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))["panels"]
EXPRESSIONS = [rule["expr"] for rule in ALERTS] + [target["expr"] for panel in PANELS for target in panel["targets"]]


def exported() -> set[str]:
    """Names as Prometheus stores them."""
    own = [each for each in vars(metrics).values() if isinstance(each, MetricWrapperBase)]
    families = [family for metric in own for family in metric.describe()]
    names = {f"{family.name}_total" if family.type == "counter" else family.name for family in families}
    names |= {f"{family.name}_bucket" for family in families if family.type == "histogram"}
    names |= {f"alpaca_{field}" for field in GAUGES} | {f"alpaca_goodput_{field}_ratio" for field in GOODPUT}
    return names | {"alpaca_stage"}


def test_goodput_is_shown():
    asked = [expression.split("{")[0] for expression in EXPRESSIONS]
    assert {"alpaca_goodput_steps_ratio", "alpaca_goodput_time_ratio"} <= set(asked)


def test_every_figure_exists():
    asked = {name for expression in EXPRESSIONS for name in re.findall(r"\balpaca_\w+", expression)}
    assert len(asked) > 10
    assert asked - exported() == set()


def test_every_state_is_a_reason():
    asked = {
        state
        for expression in EXPRESSIONS
        for states in re.findall(r'state=~"([^"]+)"', expression)
        for state in states.split("|")
    }
    assert asked
    assert asked - {reason.value for reason in Reason} == set()


def test_every_alert_says_what_to_look_at():
    for rule in ALERTS:
        assert rule["labels"]["severity"] in ("info", "warning", "critical")
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]


def test_the_monitors_find_what_is_installed():
    built = {each["kind"]: each for each in kustomized(FOLDER)}
    service = next(each for each in kustomized(MANIFESTS / "default") if each["kind"] == "Service")
    selector = built["ServiceMonitor"]["spec"]["selector"]["matchLabels"]
    assert selector.items() <= service["metadata"]["labels"].items()
    assert built["ServiceMonitor"]["spec"]["endpoints"][0]["port"] in [
        port["name"] for port in service["spec"]["ports"]
    ]
    assert built["PodMonitor"]["spec"]["selector"]["matchLabels"] == {LABEL_MANAGED_BY: MANAGED_BY}


def test_the_pod_monitor_asks_a_port_that_pods_have():
    (monitor,) = [each for each in kustomized(FOLDER) if each["kind"] == "PodMonitor"]
    for resource in [job for sample in SAMPLES.glob("*-job.yaml") for job in load_all(sample)]:
        (child,) = PLANNERS[resource.kind](resource, {}, SETTINGS).manifests
        pod = child["spec"]["template"]
        assert monitor["spec"]["podMetricsEndpoints"][0]["port"] in [
            port["name"] for port in pod["spec"]["containers"][0]["ports"]
        ]
        assert set(monitor["spec"]["podTargetLabels"]) <= set(pod["metadata"]["labels"])


def test_the_pod_monitor_asks_a_port_that_chats_have():
    (monitor,) = [each for each in kustomized(FOLDER) if each["kind"] == "PodMonitor"]
    (chat,) = load_all(SAMPLES / "chat-deployment.yaml")
    deployment, *_ = PLANNERS[chat.kind](chat, {}, SETTINGS).manifests
    containers = deployment["spec"]["template"]["spec"]["containers"]
    ports = [port["name"] for container in containers for port in container.get("ports", ())]
    assert ports.count(monitor["spec"]["podMetricsEndpoints"][1]["port"]) == 1


def test_panels_do_not_overlap():
    taken = [(x, y) for panel in PANELS for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
             for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])]  # fmt: skip
    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
