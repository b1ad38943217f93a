"""What a user does in a namespace of the node: volumes, jobs, and what kubectl shows of them."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from alpaca_operator.api.contract import LABEL_INDEX, LABEL_NAME
from tests.cluster.bed import cache
from tests.cluster.bed.cluster import Manifest, until
from tests.cluster.bed.node import Bed
from tests.workloads import tiny

PATIENCE = 300.0
"""Seconds for a pod to import torch and train on a machine that is busy with other pods."""


class Team:
    """A namespace with the claims `models`, which holds a tiny Llama in `tiny`, and `data`, with rows in `rows.json`."""

    def __init__(self, bed: Bed, namespace: str) -> None:
        self.bed = bed
        self.namespace = namespace
        self.models = bed.volume(namespace, "models")
        self.data = bed.volume(namespace, "data")
        self.add_model("tiny")
        self.add_rows("rows.json", 100)

    # -- what lies on its volumes -------------------------------------------------------------------------------------

    def add_model(self, name: str) -> Path:
        """A copy of the tiny Llama, readable by the pods."""
        folder = self.models / name
        shutil.copytree(tiny_model(), folder)
        return folder

    def add_rows(self, name: str, count: int) -> Path:
        return tiny.write_rows(self.data / name, count)

    # -- what it asks for ---------------------------------------------------------------------------------------------

    def apply(self, *manifests: Manifest) -> str:
        return self.bed.apply(*manifests, namespace=self.namespace, server_side=False)

    def start(self, name: str, **spec: Any) -> None:
        self.apply(sft_job(name, **spec))

    def set(self, name: str, **spec: Any) -> None:
        self.kubectl("patch", f"sftjob/{name}", "--type=merge", "-p", json.dumps({"spec": spec}))

    def kubectl(self, *arguments: str, **more: Any) -> str:
        return self.bed.kubectl("-n", self.namespace, *arguments, **more)

    # -- what it sees -------------------------------------------------------------------------------------------------

    def job(self, name: str) -> Manifest:
        return self.bed.get("sftjob", name, "-n", self.namespace)

    def jobs(self) -> list[Manifest]:
        return self.bed.items("sftjobs", "-n", self.namespace)

    def pods(self, name: str) -> list[Manifest]:
        """Oldest first."""
        found = self.bed.items("pods", "-n", self.namespace, "-l", f"{LABEL_NAME}={name}")
        return sorted(found, key=lambda pod: (pod["metadata"]["creationTimestamp"], pod["metadata"]["name"]))

    def pod(self, name: str) -> str:
        """Name of the newest pod of a job."""
        return str(self.pods(name)[-1]["metadata"]["name"])

    def lines(self, pod: str) -> list[dict[str, Any]]:
        """The JSON lines of a pod's log."""
        found = []
        for line in self.bed.logs(pod, self.namespace).splitlines():
            if line.startswith("{"):
                found.append(json.loads(line))
        return found

    def events(self, name: str, kind: str = "SFTJob") -> list[tuple[str, str]]:
        """(reason, note) of the Events about a job, oldest first."""
        found = self.bed.items(
            "events.events.k8s.io",
            "-n",
            self.namespace,
            f"--field-selector=regarding.kind={kind},regarding.name={name}",
        )
        found.sort(key=lambda event: int(event["metadata"]["resourceVersion"]))
        return [(event["reason"], event["note"]) for event in found]

    def table(self, *flags: str) -> list[dict[str, str]]:
        """What `kubectl get sftjobs` prints, a row each by column."""
        return rows_of(self.kubectl("get", "sftjobs", *flags))

    def found(self, manifest: Manifest) -> Manifest:
        """The object of a manifest, as it is now."""
        return self.bed.get(manifest["kind"], manifest["metadata"]["name"], "-n", self.namespace)

    def wait(self, manifest: Manifest, *reasons: str, seconds: float = 900) -> Manifest:
        """The job once STATE is one of `reasons`; one that has ended otherwise fails at once."""

        def there() -> bool:
            now = self.found(manifest)
            assert ready(now).get("reason") in reasons or not ended(now), json.dumps(now["status"], indent=1)
            return ready(now).get("reason") in reasons

        until(there, f"{manifest['metadata']['name']} to be {' or '.join(reasons)}", seconds, every=0.5)
        return self.found(manifest)

    def until(
        self, name: str, holds: Callable[[Manifest], Any], what: str, seconds: float = PATIENCE, every: float = 0.3
    ) -> Manifest:
        """The job once it `holds`. One that has ended will not change any more, and fails at once."""
        deadline = time.monotonic() + seconds
        while True:
            job = self.job(name)
            if holds(job):
                return job
            late = time.monotonic() > deadline
            if late or ended(job):
                told = json.dumps(job.get("status"), indent=1)
                raise AssertionError(f"{name} {'is not yet' if late else 'ended before it was'} {what}: {told}")
            time.sleep(every)

    def state(self, name: str, *reasons: str, seconds: float = PATIENCE) -> Manifest:
        """Waits until STATE is one of `reasons`; the job as it is then."""
        return self.until(name, lambda job: ready(job).get("reason") in reasons, " or ".join(reasons), seconds)

    def at_step(self, name: str, step: int, seconds: float = PATIENCE) -> Manifest:
        """Waits until the status has told at least `step`, and not the end."""
        return self.until(name, lambda job: progress(job) >= step and not ended(job), f"at step {step}", seconds)

    def past_step(self, name: str, step: int, seconds: float = PATIENCE) -> None:
        """Waits until the job has logged at least `step`."""
        until(lambda: self.logged_step(name) >= step, f"{name} to log step {step}", seconds, every=0.2)

    def logged_step(self, name: str) -> int:
        """The last that the job's pod, of several the first node's, has logged; 0 before it has. The status, which is not written at every
        step, may have nothing between the first of so short a training and its end."""
        first = [pod for pod in self.pods(name) if pod["metadata"]["labels"].get(LABEL_INDEX, "0") == "0"]
        lines = self.lines(first[-1]["metadata"]["name"]) if first and _has_begun(first[-1]) else []
        return max((line["step"] for line in lines if "loss" in line), default=0)


def _has_begun(pod: Manifest) -> bool:
    return pod["status"].get("phase") in ("Running", "Succeeded", "Failed")


@contextmanager
def team(bed: Bed, name: str) -> Iterator[Team]:
    """A namespace under PodSecurity restricted."""
    with bed.namespace(name):
        yield Team(bed, name)


def sft_job(name: str, **spec: Any) -> Manifest:
    """A job that trains in seconds. `spec` is laid over it, field by field."""
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "SFTJob",
        "metadata": {"name": name},
        "spec": over(
            {
                "model": {"uri": "pvc://models/tiny"},
                "dataset": {"train": [{"uri": "pvc://data/rows.json"}], "validationSplit": 0},
                "template": "HumanAssistant",
                "training": {
                    "maxSteps": 5,
                    "learningRate": 0.01,
                    "sequenceLength": 128,
                    "gradientAccumulation": 1,
                    "reportTo": [],
                },
                "output": {"uri": f"pvc://models/{name}"},
                "pod": {
                    "env": [{"name": "OMP_NUM_THREADS", "value": "1"}],
                    # So that two cores are not shared by more pods than they can carry.
                    "resources": {"requests": {"cpu": "300m"}},
                },
            },
            spec,
        ),
    }


def over(part: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """`other` laid over `part`, object by object; None removes a field."""
    merged = dict(part)
    for key, value in other.items():
        old = merged.get(key)
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = over(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def tiny_model() -> Path:
    """A random Llama of two layers, made once and kept in the cache."""

    def make(draft: Path) -> None:
        tiny.write_model(draft, max_position_embeddings=2048)
        for path in draft.iterdir():
            path.chmod(0o644)  # safetensors lets only the owner read, and the pods' user is another

    return cache.made("models/tiny", cache.digest(Path(tiny.__file__).read_bytes(), "2048"), make)


def ready(job: Manifest) -> dict[str, Any]:
    return condition(job, "Ready")


def condition(job: Manifest, kind: str) -> dict[str, Any]:
    """What an operator has told; nothing before one has."""
    status = job.get("status", {})
    conditions = status.get("conditions", []) if status.get("observedGeneration") != -1 else []
    return next((each for each in conditions if each["type"] == kind), {})


def ended(job: Manifest) -> bool:
    return any(condition(job, kind).get("status") == "True" for kind in ("Complete", "Failed"))


def progress(job: Manifest) -> int:
    """Optimizer steps that the status tells; -1 before the first is told."""
    return int(job.get("status", {}).get("progress", {}).get("step", -1))


def rows_of(table: str) -> list[dict[str, str]]:
    """A table of kubectl, by its headings' places: a cell may be empty, and the last may hold spaces."""
    head, *lines = table.splitlines()
    names = head.split()
    starts = [head.index(name) if not number else head.index(f" {name}") + 1 for number, name in enumerate(names)]
    ends = [*starts[1:], None]
    return [
        {name: line[start:end].strip() for name, start, end in zip(names, starts, ends, strict=True)} for line in lines
    ]
