"""Training goes on through what a cluster does to its pods, and stops when it is told to. Whatever happened, the weights are the same."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass

import pytest

from tests.cluster.bed.cluster import until
from tests.cluster.installation import Installation
from tests.cluster.team import PATIENCE, Team, condition, progress, ready

pytestmark = pytest.mark.cluster

STEPS = 300
"""Enough that every pod is met in the middle."""


@dataclass(frozen=True)
class Disturbed:
    """Trainings that ran side by side; all but `calm` were met at some step past 30."""

    team: Team
    pods: dict[str, str]
    """The pod that each of them had then."""


@pytest.fixture(scope="module")
def disturbed(shared: Team) -> Disturbed:
    deeds: dict[str, Callable[[str], object]] = {
        "evicted": lambda name: shared.bed.evict(shared.pod(name), shared.namespace),
        "held": lambda name: shared.set(name, suspend=True),
        "late": lambda name: shared.set(name, activeDeadlineSeconds=1),
    }
    for name in ("calm", *deeds):
        start(shared, name)
    pods: dict[str, str] = {}

    def disturb() -> bool:
        for name in deeds.keys() - pods.keys():
            if shared.logged_step(name) > 30:
                pods[name] = shared.pod(name)
                deeds[name](name)
        return len(pods) == len(deeds)

    until(disturb, "every training to be met in the middle", PATIENCE)
    return Disturbed(shared, pods)


def start(team: Team, name: str, **spec: object) -> None:
    team.start(name, training={"maxSteps": STEPS, "saveSteps": 20}, failurePolicy={"maxRestarts": 0}, **spec)


def weights(team: Team, folder: str, after: int = STEPS) -> str:
    """sha256 of the adapter that was published there, after so many steps."""
    artifact = json.loads((team.models / folder / "artifact.json").read_text())
    assert artifact["metrics"]["steps"] == after
    return next(str(file["sha256"]) for file in artifact["files"] if file["path"] == "adapter_model.safetensors")


def steps(team: Team, pod: str) -> list[int]:
    """Those that a pod has logged so far."""
    return [line["step"] for line in team.lines(pod) if line.get("stage") == "Training" and "loss" in line]


def begins_after(team: Team, pod: str) -> int:
    """The step of the checkpoint that a pod says it goes on from; its first logged step is the next one."""

    def said() -> int:
        words = (line.get("message", "") for line in team.lines(pod))
        found = [re.fullmatch(r"going on from run-[-0-9a-f]+/checkpoint-(\d+)", message) for message in words]
        return next((int(match[1]) for match in found if match), 0)

    step = until(said, f"{pod} to go on from a checkpoint", PATIENCE)
    until(lambda: steps(team, pod), f"the first step of {pod}", PATIENCE)
    assert steps(team, pod)[0] == step + 1, "no step is lost, none is made twice"
    return step


def test_an_evicted_training_goes_on_from_its_last_step_and_uses_up_no_restart(disturbed: Disturbed) -> None:
    training, first = disturbed.team, disturbed.pods["evicted"]
    job = training.until("evicted", lambda job: job["status"]["restarts"]["infra"], "told as evicted")
    saved = job["status"]["checkpoint"]["step"]
    assert saved >= 30
    message = f"evicted from node node1, as when a node is drained; a checkpoint was saved (pod {first}, exit 75)"
    [attempt] = job["status"]["attempts"]
    assert (attempt["pod"], attempt["class"], attempt["reason"], attempt["exitCode"], attempt["message"]) == (
        first,
        "Infrastructure",
        "Disrupted",
        75,
        message,
    )
    assert training.events("evicted")[0] == (
        "Restarting",
        f"{message}; the next pod continues from the checkpoint at step {saved} (restart 1 of 10, failurePolicy.maxInfraRestarts)",
    )
    second = until(lambda: (found := training.pod("evicted")) != first and found, "the next pod")
    assert begins_after(training, second) == saved
    job = training.state("evicted", "Succeeded")
    assert job["status"]["restarts"] == {"user": 0, "infra": 1, "total": 1}
    training.state("calm", "Succeeded")
    assert weights(training, "evicted") == weights(training, "calm")


def test_suspended_a_training_leaves_the_node_and_resumed_it_goes_on(disturbed: Disturbed) -> None:
    training = disturbed.team
    job = training.state("held", "Suspended")
    saved = job["status"]["checkpoint"]["step"]
    message = f"held by spec.suspend; set to false, it continues from the checkpoint at step {saved}"
    assert ready(job)["message"] == message
    assert condition(job, "Suspended")["status"] == "True"
    assert training.pods("held") == []
    training.set("held", suspend=False)
    until(lambda: training.pods("held"), "the next pod")
    assert begins_after(training, training.pod("held")) == saved
    job = training.state("held", "Succeeded")
    assert job["status"]["restarts"]["total"] == 0, "nobody's failure"
    assert training.events("held") == [("Suspended", message), ("Succeeded", "published pvc://models/held")]
    assert weights(training, "held") == weights(training, "calm")


def test_after_its_deadline_a_job_of_another_name_goes_on(disturbed: Disturbed) -> None:
    training = disturbed.team
    job = training.state("late", "DeadlineExceeded")
    saved = job["status"]["checkpoint"]["step"]
    message = (
        "still running after activeDeadlineSeconds (1 s): a job of another name with a longer one and the same output continues from the "
        f"checkpoint at step {saved}"
    )
    assert ready(job)["message"] == job["status"]["failure"]["message"] == message
    assert training.events("late") == [("DeadlineExceeded", message)]
    assert condition(job, "Failed")["status"] == "True"
    assert job["status"]["restarts"]["total"] == 0
    start(training, "later", output={"uri": "pvc://models/late"})
    until(lambda: training.pods("later"), "its pod")
    assert begins_after(training, training.pod("later")) == saved
    training.state("later", "Succeeded")
    assert weights(training, "late") == weights(training, "calm")


def test_a_pod_told_to_stop_in_its_first_moments_stops(mine: Team) -> None:
    """Long before its grace period is over: process 1 of a container ignores what it has no handler for."""
    mine.start("early", pod={"terminationGracePeriodSeconds": 3600})
    until(lambda: any(pod["status"]["phase"] == "Running" for pod in mine.pods("early")), "the pod to run", every=0.05)
    mine.set("early", suspend=True)
    mine.state("early", "Suspended", seconds=120)


def test_a_drained_node_gives_its_training_back_where_it_was(mine: Team, operator: Installation) -> None:
    """The operator is drained with it, and finds what it left; whether it saw the end of the pod is chance."""
    start(mine, "poet")
    mine.at_step("poet", 30)
    first = mine.pod("poet")
    with mine.bed.drained():
        waits = mine.until("poet", lambda job: mine.pods("poet") and mine.pod("poet") != first, "a new pod")
        assert progress(waits) >= 30
    operator.wait_available()
    assert begins_after(mine, mine.pod("poet")) >= 30
    job = mine.state("poet", "Succeeded")
    assert job["status"]["restarts"]["user"] == 0
    assert weights(mine, "poet")
