"""A job from `kubectl apply` to its adapter, on a real node, by the images and rights that a user installs."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from alpaca_operator.api.contract import ENV_CPU_FOR_GPU
from tests.cluster.bed.cache import CHECKOUT
from tests.cluster.bed.cluster import until
from tests.cluster.team import Team, condition, ready

pytestmark = pytest.mark.cluster

SAMPLE = CHECKOUT / "manifests" / "samples" / "sft-job.yaml"
POEMS = CHECKOUT / "examples" / "quickstart" / "poems.jsonl"


@pytest.fixture(scope="module")
def sampled(shared: Team) -> Team:
    """A namespace with what the sample names."""
    shared.add_model("llama-2-7b")
    shutil.copy(POEMS, shared.data)
    shared.bed.fake_gpus(8)
    return shared


def sample() -> str:
    """The sample for a node that only says that it has GPUs."""
    manifest = yaml.safe_load(SAMPLE.read_text())
    manifest["spec"]["pod"]["env"] = [{"name": ENV_CPU_FOR_GPU, "value": "1"}]
    return yaml.safe_dump(manifest)


def test_the_sample_trains_and_publishes_an_adapter_that_peft_loads(sampled: Team) -> None:
    said = sampled.kubectl("apply", "-f", "-", input=sample())
    assert said == "sftjob.literary-alpaca.io/poet created\n"
    sampled.kubectl("wait", "sftjob/poet", "--for=condition=Complete", "--timeout=300s", seconds=310)

    [row] = sampled.table()
    assert (row["NAME"], row["STATE"], row["PROGRESS"], row["ETA"], row["RESTARTS"]) == (
        "poet",
        "Succeeded",
        "3/3 100%",
        "",
        "0",
    )
    [row] = sampled.table("-o", "wide")
    assert (row["MODEL"], row["OUTPUT"], row["QUEUE"], row["NODES"], row["MESSAGE"]) == (
        "pvc://models/llama-2-7b",
        "pvc://models/poet",
        "",
        "",  # told of jobs of several nodes
        "published pvc://models/poet",
    )
    status = sampled.job("poet")["status"]
    artifact = json.loads((sampled.models / "poet" / "artifact.json").read_text())
    assert status["output"] == {
        "uri": "pvc://models/poet",
        "digest": artifact["digest"],
        "kind": "LoRAAdapter",
        "reused": False,
    }
    assert status["metrics"]["steps"] == 3
    assert status["resolvedInputs"]["model"]["digest"] == artifact["inputs"]["model"]["digest"]
    assert status["resolvedPolicy"]["precision"] == "fp32"
    assert sampled.events("poet") == [("Succeeded", "published pvc://models/poet")]
    assert load_with_peft(sampled.models / "llama-2-7b", sampled.models / "poet") > 0
    assert not (sampled.models / "poet.checkpoints").exists()


LOAD = """
import sys, peft, transformers
base = transformers.AutoModelForCausalLM.from_pretrained(sys.argv[1])
model = peft.PeftModel.from_pretrained(base, sys.argv[2])
print(sum(weight.abs().sum().item() for name, weight in model.named_parameters() if "lora_B" in name))
"""


def load_with_peft(base: Path, adapter: Path) -> float:
    """How far the adapter moves the base: the sum of its B matrices, which start at 0."""
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", LOAD, str(base), str(adapter)],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    # PEFT imports GPTQModel where it is installed, and that greets on standard output.
    return float(done.stdout.splitlines()[-1])


def test_what_did_not_change_is_reused_under_another_name(sampled: Team) -> None:
    before = (sampled.models / "poet" / "artifact.json").read_bytes()
    sampled.kubectl("apply", "-f", "-", input=sample().replace("name: poet", "name: poet-again"))
    job = sampled.state("poet-again", "Reused")
    assert condition(job, "Complete")["status"] == "True"
    assert ready(job)["message"] == (
        "pvc://models/poet already holds the result of the same spec and inputs: nothing was run"
    )
    assert job["status"]["output"]["reused"] is True
    assert (sampled.models / "poet" / "artifact.json").read_bytes() == before
    [pod] = sampled.pods("poet-again")
    assert not [line for line in sampled.lines(pod["metadata"]["name"]) if "loss" in line], "nothing was trained"


def test_progress_counts_up_in_kubectl_get(sampled: Team) -> None:
    """By a watch, as a person does who waits; in the same time, the pod is looked into."""
    sampled.add_rows("many.json", 2000)
    sampled.start(
        "long",
        dataset={"train": [{"uri": "pvc://data/many.json"}], "validationSplit": 0.05},
        training={"maxSteps": 1_000_000, "evalSteps": 1_000_000, "saveSteps": 1_000_000},
    )
    seen: list[dict[str, str]] = []

    def look() -> bool:
        [row] = [row for row in sampled.table() if row["NAME"] == "long"]
        if not seen or {**row, "AGE": ""} != {**seen[-1], "AGE": ""}:
            seen.append(row)
        return row["STATE"] not in ("", "Pending", "Starting", "Running")

    until(lambda: look() or seen[-1]["STATE"] == "Running", "the job to run", 300)
    restricted = json.loads(sampled.kubectl("exec", sampled.pod("long"), "--", "python", "-c", INSIDE))
    assert restricted == {
        "user": [65532, 65532],
        "token": False,
        "root": "Read-only file system",
        "capabilities": "0000000000000000",
        "new privileges": "1",
    }

    def counted() -> list[int]:
        return [int(row["PROGRESS"].partition("/")[0]) for row in seen if "/" in row["PROGRESS"]]

    # However fast the machine is: the job is much longer than this, and is not waited for.
    until(lambda: look() or len(set(counted())) >= 3, "progress to be told three times", 300)
    assert seen[-1]["STATE"] == "Running", seen[-1]
    assert counted() == sorted(counted())
    assert [row for row in seen if row["STATE"] == "Running" and row["LOSS"] and row["ETA"]], seen
    sampled.kubectl("delete", "sftjob", "long")


def test_validation_rows_are_measured(sampled: Team) -> None:
    sampled.start(
        "brief",
        dataset={"train": [{"uri": "pvc://data/poems.jsonl"}], "validationSplit": 0.05},
        training={"maxSteps": 100, "evalSteps": 50},
    )
    sampled.state("brief", "Succeeded", seconds=300)
    artifact = json.loads((sampled.models / "brief" / "artifact.json").read_text())
    assert artifact["metrics"]["evalLoss"] < 5.6, "a random model of this vocabulary starts there"


INSIDE = """
import json, os, pathlib
try:
    open("/anything", "w")
    root = "writable"
except OSError as error:
    root = error.strerror
told = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "user": [os.getuid(), os.getgid()],
    "token": pathlib.Path("/var/run/secrets/kubernetes.io").exists(),
    "root": root,
    "capabilities": told["CapEff"].strip(),
    "new privileges": told["NoNewPrivs"].strip(),
}))
"""
