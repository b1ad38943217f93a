"""Operators and API servers die at random moments: every job is trained once, none is lost, none doubled."""

from __future__ import annotations

import json
import os
import random
import time
from collections import Counter

import pytest

from alpaca_operator.api import KINDS
from alpaca_operator.api.contract import LABEL_NAME
from tests.cluster.bed.cache import CHECKOUT, BedError
from tests.cluster.bed.cluster import until
from tests.cluster.bed.node import Bed
from tests.cluster.installation import DEPLOYMENT, NAMESPACE, Installation
from tests.cluster.team import Team, condition, ended, ready, sft_job

pytestmark = pytest.mark.cluster

DEATHS = 8
JOBS = [f"poet-{number}" for number in range(20)]


@pytest.mark.timeout(1800)
def test_twenty_jobs_are_trained_once_each_while_leaders_and_api_servers_die(
    mine: Team, operator: Installation, capsys: pytest.CaptureFixture[str]
) -> None:
    seed = int(os.environ.get("ALPACA_TEST_SEED") or time.time_ns() % 10**6)
    with capsys.disabled():
        print(f"\nALPACA_TEST_SEED={seed}")
    chance = random.Random(seed)
    bed = operator.bed
    operator.scale(2)
    deeds = {
        "the leader's process is killed": lambda: operator.kill_process(operator.leader()),
        "the leader's pod is gone": lambda: operator.kill_pod(operator.leader()),
        "the API server is killed": bed.restart_apiserver,
    }
    # Four at a time: more do not fit the memory of a small machine.
    mine.apply(
        *(sft_job(name, training={"maxSteps": 3}, pod={"resources": {"requests": {"cpu": "380m"}}}) for name in JOBS)
    )
    done: list[str] = []
    while len(done) < DEATHS and not all(ended(job) for job in jobs(mine)):
        time.sleep(chance.uniform(0, 8))
        # Each once, in any order, then as it comes.
        deed = chance.choice([name for name in deeds if name not in done] or [*deeds])
        done.append(deed)
        try:
            until(lambda deed=deed: deeds[deed]() or True, f"somebody to do it to; so far: {', '.join(done)}", 120)
        except BedError:
            print(operator.state())
            raise
    until(lambda: all(ended(job) for job in jobs(mine)), "twenty jobs to end", 1200, every=1)

    assert set(done) == set(deeds), f"it was over too soon: {done}"
    operator.wait_available()
    for job in jobs(mine):
        assert ready(job)["reason"] == "Succeeded", ready(job)
        assert job["status"]["restarts"] == {"user": 0, "infra": 0, "total": 0}
    assert len(mine.jobs()) == len(JOBS)
    # The operator goes by the pod; the Job controller, which an API server's death holds up, counts it a little later.
    until(
        lambda: all(child["status"].get("succeeded") for child in bed.items("jobs", "-n", mine.namespace)),
        "the Job controller to count every pod",
        300,
    )
    children = bed.items("jobs", "-n", mine.namespace)
    assert Counter(child["metadata"]["name"] for child in children) == Counter(f"{name}-sft" for name in JOBS)
    assert all(child["status"]["succeeded"] == 1 and not child["status"].get("failed") for child in children)
    pods = bed.items("pods", "-n", mine.namespace)
    assert Counter(pod["metadata"]["labels"][LABEL_NAME] for pod in pods) == Counter(JOBS), "one pod each"
    for name in JOBS:
        assert json.loads((mine.models / name / "artifact.json").read_text())["job"]["name"] == name
    assert sorted(path.name for path in mine.models.iterdir()) == sorted([*JOBS, "tiny"]), (
        "nothing half-written is left"
    )


def jobs(team: Team) -> list[dict[str, object]]:
    """While the API server is away, what it says is waited for."""
    return until(team.jobs, "the API server to answer", 120)


def test_of_two_replicas_the_other_takes_over(mine: Team, operator: Installation) -> None:
    operator.scale(2)
    leader = operator.wait_leading()
    operator.kill_pod(leader)
    mine.start("poet", suspend=True)
    mine.state("poet", "Suspended")
    assert operator.leader() not in ("", leader)
    operator.wait_available()
    operator.scale(1)


def test_a_crd_may_be_installed_after_the_operator() -> None:
    """On a node of its own: to take the CRDs away is to take all jobs away."""
    everything = CHECKOUT / "manifests" / "default"
    with Bed.temporary(roles=["operator"]) as bed:
        documents = bed.kubectl("kustomize", str(everything)).split("\n---\n")
        crds = [each for each in documents if "\nkind: CustomResourceDefinition\n" in each]
        others = [each for each in documents if each not in crds]
        bed.kubectl("apply", "--server-side", "-f", "-", input="\n---\n".join(others))
        until(
            lambda: f"waiting for the CRDs of {', '.join(sorted(KINDS))}: kubectl apply" in log(bed),
            "a word of that",
            300,
        )
        bed.kubectl("apply", "--server-side", "-f", "-", input="\n---\n".join(crds))
        bed.kubectl("rollout", "status", DEPLOYMENT, "-n", NAMESPACE, "--timeout=120s")
        until(lambda: bed.apply(sft_job("poet"), namespace="default"), "the API server to know SFTJobs")
        until(lambda: condition(bed.get("sftjob", "poet"), "Ready"), "the job's first status")
        assert bed.get("job", "poet-sft")["metadata"]["ownerReferences"][0]["name"] == "poet"
        restarts = "jsonpath={.items[*].status.containerStatuses[*].restartCount}"
        assert bed.kubectl("get", "pods", "-n", NAMESPACE, "-o", restarts) == "0", "it waited, and was not restarted"


def log(bed: Bed) -> str:
    try:
        return bed.kubectl("logs", DEPLOYMENT, "-n", NAMESPACE)
    except BedError:  # its container is being made
        return ""
