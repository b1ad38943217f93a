"""What goes wrong is told in one line with its remedy: in kubectl's table, an Event, and `status.failure`."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cluster.bed.cluster import Manifest
from tests.cluster.team import Team, condition, ended, ready

pytestmark = pytest.mark.cluster

ENDLESS = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    "{% for message in messages %}{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}{% endfor %}"
)


@dataclass(frozen=True)
class Failure:
    """`message` as kubectl shows it; `{pod}` is the pod's name."""

    spec: dict[str, Any]
    state: str
    blamed: str
    message: str
    for_good: bool = True
    exit_code: int | None = None


def trains_on(name: str) -> dict[str, Any]:
    return {"dataset": {"train": [{"uri": f"pvc://data/{name}"}]}}


def base(name: str) -> dict[str, Any]:
    return {"model": {"uri": f"pvc://data/bases/{name}"}}


FAILURES = {
    "a-model-that-is-not-there": Failure(
        base("lama"),
        "InputNotFound",
        "UserError",
        "spec.model.uri: pvc://data/bases/lama: /mnt/data/bases/lama does not exist: /mnt/data/bases holds broken/, llama/, private/; did you "
        "mean llama? (pod {pod}, exit 66)",
        exit_code=66,
    ),
    "a-model-that-may-not-be-read": Failure(
        base("private"),
        "InputNotFound",
        "UserError",
        "spec.model.uri: pvc://data/bases/private: /mnt/data/bases/private/model.safetensors may not be read by user 65532: chmod -R a+rX "
        "/mnt/data/bases/private/model.safetensors, or change its owner (pod {pod}, exit 66)",
        exit_code=66,
    ),
    "a-model-with-broken-weights": Failure(
        base("broken"),
        "LossDiverged",
        "UserError",
        "the loss is nan before anything was learnt: the base model's weights hold values that are no numbers, or overflow: check the files "
        "of spec.model, or set training.precision (now Auto) to fp32 (pod {pod}, exit 64)",
        exit_code=64,
    ),
    "a-row-that-is-cut-off": Failure(
        trains_on("torn.jsonl"),
        "InvalidData",
        "DataError",
        "/mnt/data/torn.jsonl, line 2: not JSON (Expecting property name enclosed in double quotes at character 32): mend or remove this line (pod {pod}, exit 65)",
        exit_code=65,
    ),
    "rows-without-an-answer": Failure(
        trains_on("questions.jsonl"),
        "InvalidData",
        "DataError",
        "dataset.train: no example is left of 3 conversations (3 without an assistant turn): check format and columns, or raise "
        "training.sequenceLength (pod {pod}, exit 65)",
        exit_code=65,
    ),
    "an-output-that-is-taken": Failure(
        {"output": {"uri": "pvc://models/taken"}},
        "OutputExists",
        "UserError",
        "spec.output.uri: pvc://models/taken has files but no artifact.json, so they are not ours to replace: name another folder, or "
        "remove it (pod {pod}, exit 64)",
        exit_code=64,
    ),
    "too-little-memory": Failure(
        {"pod": {"resources": {"limits": {"memory": "256Mi"}}}},
        "OutOfMemory",
        "OutOfMemory",
        "out of memory at the limit of 256Mi: raise pod.resources.limits.memory (it includes /dev/shm), or make the batch smaller (pod "
        "{pod}, exit 137)",
        exit_code=137,
    ),
    "a-template-that-never-ends": Failure(
        {
            "template": "FromModel",
            "templateFile": {"uri": "pvc://data/endless.jinja"},
            "failurePolicy": {"hangTimeoutSeconds": 30, "maxRestarts": 0},
        },
        "Hung",
        "Hung",
        "nothing moved for 30 s while loading: the stacks of all threads are in the log; if a step or an evaluation takes this long, raise "
        "failurePolicy.hangTimeoutSeconds (pod {pod}, exit 72)",
        exit_code=72,
    ),
    "a-claim-that-is-not-there": Failure(
        {"model": {"uri": "pvc://nowhere/llama"}},
        "VolumeNotReady",
        "UserError",
        "PersistentVolumeClaim nowhere does not exist in namespace test-failures: create it, or name another claim in pvc:// (pod {pod})",
        for_good=False,
    ),
    "a-claim-without-a-volume": Failure(
        {"model": {"uri": "pvc://unbound/llama"}},
        "VolumeNotReady",
        "UserError",
        "a volume is not ready (0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims): see kubectl describe pvc -n "
        "test-failures for unbound, data, models (pod {pod})",
        for_good=False,
    ),
    "an-image-that-cannot-be-pulled": Failure(
        {"pod": {"image": "127.0.0.1:1/train:1"}},
        "ImageNotPullable",
        "UserError",
        "image 127.0.0.1:1/train:1 cannot be pulled: the registry cannot be reached from the node: check its name in pod.image, and the "
        "node's network (pod {pod})",
        for_good=False,
    ),
    "more-gpus-than-any-node-has": Failure(
        {"pod": {"resources": {"limits": {"nvidia.com/gpu": 64}, "requests": None}}},
        "Unschedulable",
        "Infrastructure",
        "no node fits a pod that asks for nvidia.com/gpu: 64 (0/1 nodes are available: 1 Insufficient nvidia.com/gpu): lower pod.resources, "
        "wait for other pods to end, or add a node that has them (pod {pod})",
        for_good=False,
    ),
    "a-secret-that-is-not-there": Failure(
        {"model": {"uri": "pvc://models/tiny", "secretRef": {"name": "hub"}}},
        "ContainerNotCreated",
        "UserError",
        'the container cannot be made: secret "hub" not found: create it: kubectl create secret generic hub -n test-failures (pod {pod})',
        for_good=False,
    ),
    "a-volume-of-the-node": Failure(
        {"pod": {"volumes": [{"name": "node", "mountPath": "/node", "hostPath": {"path": "/"}}]}},
        "AdmissionRefused",
        "UserError",
        'PodSecurity refuses the pod: "restricted:latest": restricted volume types (volume "node" uses restricted volume type "hostPath"): '
        "change pod in a job of another name, or ask who set the policy",
        for_good=False,
    ),
}


@pytest.fixture(scope="module")
def failing(shared: Team) -> Team:
    """All of them at once: most of the time goes by in waiting."""
    for name in ("llama", "private", "broken"):
        shared.add_model(f"../data/bases/{name}")
    (shared.data / "bases" / "private" / "model.safetensors").chmod(0o600)
    spoil(shared.data / "bases" / "broken" / "model.safetensors")
    (shared.data / "torn.jsonl").write_text(f"{row('question', 'answer')}\n{row('question')[:30]}\n")
    (shared.data / "questions.jsonl").write_text(f"{row('question')}\n" * 3)
    (shared.data / "endless.jinja").write_text(ENDLESS)
    (shared.models / "taken").mkdir()
    (shared.models / "taken" / "notes.txt").write_text("not ours")
    shared.apply(claim("unbound"))
    for name, failure in FAILURES.items():
        shared.start(name, **failure.spec)
    return shared


def row(*turns: str) -> str:
    roles = ("user", "assistant")
    messages = [f'{{"role": "{role}", "content": "{text}"}}' for role, text in zip(roles, turns, strict=False)]
    return f'{{"messages": [{", ".join(messages)}]}}'


def spoil(weights: Path) -> None:
    """Every number of the last tensor becomes NaN."""
    with weights.open("r+b") as file:
        size = weights.stat().st_size
        file.seek(size - 4 * 256)
        file.write(b"\x00\x00\xc0\x7f" * 256)
        os.fsync(file.fileno())


def claim(name: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": {"name": name},
        "spec": {
            "accessModes": ["ReadWriteMany"],
            "storageClassName": "",
            "resources": {"requests": {"storage": "1Gi"}},
        },
    }


@pytest.mark.parametrize("name", FAILURES)
def test_what_is_wrong_is_told_with_its_remedy(failing: Team, name: str) -> None:
    failure = FAILURES[name]
    job = failing.state(name, failure.state)
    pods = failing.pods(name)
    pod = pods[-1]["metadata"]["name"] if pods else ""
    message = failure.message.format(pod=pod)

    assert rounded(ready(job)["message"]) == message
    [shown] = [each for each in failing.table("-o", "wide") if each["NAME"] == name]
    assert (shown["STATE"], rounded(shown["MESSAGE"])) == (failure.state, message)
    reason, note = failing.events(name)[-1]
    assert (reason, rounded(note)) == (failure.state, message)
    told = job["status"]["failure"]
    assert (told["class"], told.get("exitCode"), rounded(told["message"])) == (
        failure.blamed,
        failure.exit_code,
        message,
    )
    assert ended(job) is failure.for_good
    assert condition(job, "Complete")["status"] == "False"
    assert len(pods) <= 1, "it was tried again, and would fail alike"


def rounded(message: str) -> str:
    """A busy machine is late by a second or two."""
    return re.sub(r"moved for 3\d s", "moved for 30 s", message)


def test_the_log_of_a_hang_says_where(failing: Team) -> None:
    failing.state("a-template-that-never-ends", "Hung")
    log = failing.kubectl("logs", failing.pod("a-template-that-never-ends"))
    assert 'File "<template>"' in log


def test_a_quota_refuses_the_pod_until_there_is_room(mine: Team) -> None:
    mine.apply(
        {
            "apiVersion": "v1",
            "kind": "ResourceQuota",
            "metadata": {"name": "few"},
            "spec": {"hard": {"pods": "0"}},
        }
    )
    mine.kubectl("wait", "quota/few", "--for=jsonpath={.status.hard.pods}=0")
    mine.start("poet")
    job = mine.state("poet", "QuotaExceeded")
    message = (
        "quota few has no room (requested: pods=1, used: pods=0, limited: pods=0): lower pod.resources, wait for other jobs to end, or ask "
        "for a larger quota"
    )
    assert ready(job)["message"] == message
    assert mine.events("poet") == [("QuotaExceeded", message)]
    assert condition(job, "Reconciling")["status"] == "True", "it may have room later"
    mine.kubectl("delete", "quota", "few")
    mine.state("poet", "Starting", "Running", "Succeeded")
    mine.kubectl("delete", "sftjob", "poet", "--wait=false")
