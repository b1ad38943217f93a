"""Two processes in one pod: they train under ZeRO-2, go on after the pod was killed, and tell which of them failed."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.bed.cluster import until
from tests.cluster.team import PATIENCE, Team

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(1800)]

STEPS = 120
SLOW = 3 * PATIENCE
"""Seconds: each of two processes imports torch, DeepSpeed and the rest, on two cores."""
PAIR: dict[str, Any] = {
    "parallelism": {"processesPerNode": 2},
    "deepspeed": {"preset": "Zero2"},
    "lora": {"dropout": 0.1},
    "training": {"maxSteps": STEPS, "saveSteps": 10},
}


def test_two_processes_complete_and_a_killed_pod_s_successor_publishes_the_same(mine: Team) -> None:
    mine.start("calm", **PAIR)
    calm = mine.state("calm", "Succeeded", seconds=SLOW)
    [pod] = mine.pods("calm")
    lines = mine.lines(pod["metadata"]["name"])
    assert [line["message"] for line in lines if "train together" in line.get("message", "")] == [
        "2 processes train together"
    ]
    logged = [line["step"] for line in lines if "loss" in line]
    assert logged == list(range(1, STEPS + 1)), "each step once: one process speaks for both"
    assert calm["status"]["resolvedPolicy"]["parallel"] == "Zero2"
    assert calm["status"]["metrics"]["steps"] == STEPS

    mine.start("killed", **PAIR)
    mine.past_step("killed", 20, SLOW)
    first = mine.pod("killed")
    mine.kubectl("delete", "pod", first, "--grace-period=0", "--force")
    job = mine.state("killed", "Succeeded", seconds=SLOW)
    assert job["status"]["restarts"]["total"] == 1
    second = mine.pod("killed")
    assert second != first
    assert min(line["step"] for line in mine.lines(second) if "loss" in line) > 10, "it went on from a checkpoint"
    assert weights(mine, "killed") == weights(mine, "calm")


def test_a_process_that_dies_alone_is_named_in_the_status(mine: Team) -> None:
    mine.start("lame", **PAIR | {"training": {"maxSteps": 5000}}, failurePolicy={"maxRestarts": 0})
    mine.until("lame", lambda job: step(job) > 2, "past step 2", SLOW)
    mine.kubectl("exec", mine.pod("lame"), "--", "python", "-c", KILL_THE_SECOND)
    job = mine.state("lame", "RestartsExceeded", "WorkloadError", seconds=PATIENCE)
    failure = job["status"]["failure"]
    assert (failure["rank"], failure["exitCode"], failure["class"]) == (1, 70, "Internal")
    assert "process 1 was ended by SIGKILL, from outside" in failure["message"]


KILL_THE_SECOND = """
import os, pathlib, signal
processes = [int(path.parent.name) for path in pathlib.Path("/proc").glob("[0-9]*/cmdline") if b"spawn_main" in path.read_bytes()]
os.kill(max(set(processes) - {os.getpid()}), signal.SIGKILL)
"""


def step(job: dict[str, Any]) -> int:
    return int(job.get("status", {}).get("progress", {}).get("step") or 0)


def weights(team: Team, folder: str) -> str:
    """sha256 of the adapter that was published there."""
    path = team.models / folder / "artifact.json"
    artifact = json.loads(until(lambda: path.exists() and path.read_text(), f"{path}"))
    return next(str(file["sha256"]) for file in artifact["files"] if file["path"] == "adapter_model.safetensors")
