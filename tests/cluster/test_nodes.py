"""Several pods that train one model, as a JobSet on a real node: what they learn is what one pod would, and whatever becomes of one of them
ends and restarts all."""

from __future__ import annotations

import signal
from typing import Any

import pytest

from alpaca_operator.api.contract import LABEL_INDEX
from tests.cluster.bed.cluster import Manifest, until
from tests.cluster.bed.node import Bed
from tests.cluster.team import PATIENCE, Team, ready
from tests.cluster.test_disruption import STEPS, begins_after, weights

pytestmark = pytest.mark.cluster

PAIR = {"nodes": 2, "processesPerNode": 1}
SLOW = 2 * PATIENCE
"""Two pods import torch at once, twice where they start again."""


@pytest.fixture(scope="module")
def pairs(jobset: Bed, shared: Team) -> Team:
    """With `calm`, which one pod of two processes has trained."""
    start(shared, "calm", parallelism={"processesPerNode": 2})
    shared.state("calm", "Succeeded", seconds=SLOW)
    return shared


def start(team: Team, name: str, **spec: Any) -> None:
    team.start(
        name,
        **{
            "training": {"maxSteps": STEPS, "saveSteps": 20},
            "failurePolicy": {"maxRestarts": 0},
            "parallelism": PAIR,
            **spec,
        },
    )


def of_node(team: Team, name: str, index: int) -> Manifest:
    """The newest pod of a node."""
    return [pod for pod in team.pods(name) if pod["metadata"]["labels"].get(LABEL_INDEX) == str(index)][-1]


def kill(team: Team, pod: Manifest) -> None:
    """SIGKILL to every process of the pod, as when the kernel is short of memory; the kubelet hears of nothing before."""
    uid = pod["metadata"]["uid"].replace("-", "[-_]")
    script = 'for p in /proc/[0-9]*; do grep -qs "$1" "$p/cgroup" && grep -qs workloads "$p/cmdline" && kill -9 "${p#/proc/}"; done; true'
    team.bed.node_exec("sh", "-c", script, "kill", uid)


def test_two_pods_learn_what_two_processes_of_one_pod_do(pairs: Team) -> None:
    start(pairs, "pair")
    job = pairs.at_step("pair", 1)
    assert job["status"]["nodes"] == {"ready": 2, "total": 2, "display": "2/2"}
    assert ready(job)["message"].endswith("runs on node node1, 1 more with it")
    assert pairs.table("-o", "wide")[-1]["NODES"] == "2/2"
    job = pairs.state("pair", "Succeeded", seconds=SLOW)
    assert weights(pairs, "pair") == weights(pairs, "calm")
    assert job["status"]["restarts"]["total"] == 0
    # However they are spread, it is the same job.
    start(pairs, "same", output={"uri": "pvc://models/pair"}, parallelism={"processesPerNode": 2})
    pairs.state("same", "Reused")


@pytest.mark.parametrize("index", [0, 1])
def test_a_killed_pod_ends_the_other_within_seconds_and_both_go_on(pairs: Team, index: int) -> None:
    name = f"killed-{index}"
    start(pairs, name, failurePolicy={"maxRestarts": 1})
    pairs.at_step(name, 30)
    victim = of_node(pairs, name, index)
    kill(pairs, victim)
    job = pairs.until(name, lambda job: job["status"]["restarts"]["total"], "restarted", SLOW)
    [attempt] = job["status"]["attempts"]
    assert (attempt["pod"], attempt["exitCode"]) == (victim["metadata"]["name"], 128 + signal.SIGKILL), (
        "the other only stopped with it"
    )
    assert job["status"]["restarts"]["user"] == 1
    second = until(
        lambda: (
            (found := of_node(pairs, name, 0))["metadata"]["uid"] != victim["metadata"]["uid"]
            and found["metadata"]["name"]
        ),
        "the next pods",
        SLOW,
    )
    assert begins_after(pairs, second) >= 20
    pairs.state(name, "Succeeded", seconds=SLOW)
    assert weights(pairs, name) == weights(pairs, "calm")


def test_an_evicted_pod_saves_for_both_and_counts_as_a_disruption(pairs: Team) -> None:
    start(pairs, "evicted")
    pairs.at_step("evicted", 30)
    pairs.bed.evict(of_node(pairs, "evicted", 1)["metadata"]["name"], pairs.namespace)
    job = pairs.until("evicted", lambda job: job["status"]["restarts"]["infra"], "told as evicted", SLOW)
    saved = job["status"]["checkpoint"]["step"]
    assert saved >= 30
    [attempt] = job["status"]["attempts"]
    assert attempt["message"].startswith("evicted from node node1, as when a node is drained; a checkpoint was saved")
    job = pairs.state("evicted", "Succeeded", seconds=SLOW)
    assert job["status"]["restarts"] == {"user": 0, "infra": 1, "total": 1}
    assert weights(pairs, "evicted") == weights(pairs, "calm")


def test_held_and_resumed_they_go_on(pairs: Team) -> None:
    start(pairs, "held")
    pairs.at_step("held", 30)
    pairs.set("held", suspend=True)
    job = pairs.state("held", "Suspended", seconds=SLOW)
    saved = job["status"]["checkpoint"]["step"]
    assert saved >= 30
    assert pairs.pods("held") == []
    pairs.set("held", suspend=False)
    until(lambda: len(pairs.pods("held")) == 2, "the next pods", SLOW)
    assert begins_after(pairs, of_node(pairs, "held", 0)["metadata"]["name"]) == saved
    job = pairs.state("held", "Succeeded", seconds=SLOW)
    assert job["status"]["restarts"]["total"] == 0
    assert weights(pairs, "held") == weights(pairs, "calm")


def test_a_bad_row_ends_both_at_once_and_is_told_by_one_line(pairs: Team) -> None:
    (pairs.data / "bad.json").write_text(
        '[{"instruction": "a", "input": "", "output": "b"}, {"instruction": "c"}]', encoding="utf-8"
    )
    start(pairs, "bad", dataset={"train": [{"uri": "pvc://data/bad.json"}]}, failurePolicy={"maxRestarts": 3})
    job = pairs.state("bad", "InvalidData", seconds=SLOW)
    assert "bad.json" in ready(job)["message"]
    assert job["status"]["restarts"]["total"] == 0
    assert len(job["status"]["attempts"]) == 1
    until(
        lambda: pairs.bed.get("jobset", "bad-sft", "-n", pairs.namespace)["status"].get("terminalState") == "Failed",
        "the set to end",
    )


def test_after_its_deadline_the_set_ends(pairs: Team) -> None:
    start(pairs, "late")
    pairs.at_step("late", 10)
    pairs.set("late", activeDeadlineSeconds=1)
    job = pairs.state("late", "DeadlineExceeded", seconds=SLOW)
    assert job["status"]["restarts"]["total"] == 0
    until(
        lambda: pairs.bed.get("jobset", "late-sft", "-n", pairs.namespace)["status"].get("terminalState") == "Failed",
        "the set to end",
    )
