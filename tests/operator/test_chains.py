"""Jobs that read what other jobs make, against a real API server: applied in any order, with producers that fail, go and come."""

from __future__ import annotations

import asyncio
import json
import random
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.contract import ANNOTATION_CONFIG, ExitCode
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.resources import PODS
from tests.operator.kubelet import Outcome
from tests.operator.process import OperatorProcess
from tests.operator.team import SFTJOBS, Object, Team, conditions, ready

pytestmark = pytest.mark.controlplane

COLLECTED = 180
"""The garbage collector of a fresh cluster learns of new kinds after half a minute; until then an old child has its name."""


def made(name: str, digest: str = "sha256:1", after: float = 0.0) -> Outcome:
    output = {"uri": f"s3://models/{name}", "digest": digest, "kind": "Model"}
    return Outcome(after=after, more={"step": 1, "total_steps": 1, "output": output})


def reads(name: str) -> dict[str, Any]:
    """The part of a spec that makes a job train on what another publishes, and publish a model itself."""
    return {"model": {"from": {"kind": "SFTJob", "name": name}}, "merge": True}


def inputs_ready(job: Object) -> tuple[str, str]:
    found = next(each for each in job["status"]["conditions"] if each["type"] == "InputsReady")
    return found["status"], found["reason"]


async def config(team: Team, name: str) -> Object:
    """The manifest that the newest pod of a job reads."""
    pods = [pod async for pod in team.kube.list(PODS, team.namespace, labels=f"literary-alpaca.io/name={name}")]
    newest = max(pods, key=lambda pod: int(pod["metadata"]["resourceVersion"]))
    read: Object = json.loads(newest["metadata"]["annotations"][ANNOTATION_CONFIG])
    return read


async def delete(team: Team, name: str) -> None:
    await asyncio.to_thread(team.plane.kubectl, "delete", "sftjob", name, "-n", team.namespace)


@pytest.mark.usefixtures("running")
class TestTheUsualWay:
    async def test_applied_in_reverse_each_waits_for_its_input_and_starts_by_itself(self, team: Team) -> None:
        names = [f"step-{number}" for number in range(4)]
        for name in names:
            team.kubelet.outcomes[name] = made(name, digest=f"sha256:{name}")
        for before, name in reversed(list(pairwise(names))):
            await team.apply(name, **reads(before))
            await team.state(name, "NotFound")
        assert await team.pods() == []
        await team.apply(names[0], merge=True)
        last = await team.state(names[-1], "Succeeded")
        assert inputs_ready(last) == ("True", "Running")
        maker = await team.job(names[-2])
        assert last["status"]["resolvedInputs"] == {
            "model": {
                "uri": "s3://models/step-2",
                "digest": "sha256:step-2",
                "producerUID": maker["metadata"]["uid"],
            }
        }
        assert (await config(team, names[-1]))["spec"]["model"] == {"uri": "s3://models/step-2"}
        assert team.kubelet.started == dict.fromkeys(names, 1)
        assert [reason for reason, _ in await team.events(4)] == ["Succeeded"] * 4, "waiting is no event"

    async def test_a_consumer_starts_when_its_producer_ends(self, team: Team) -> None:
        """How soon is printed, not judged: a loaded machine proves nothing."""
        await team.apply("reader", **reads("base"))
        await team.apply("base", merge=True)
        await team.state("reader", "NotReady")
        await team.state("base", "Starting", "Running")
        clock = asyncio.get_running_loop().time
        team.kubelet.outcomes["base"] = made("base")
        async with asyncio.timeout(60):
            while ready(await team.job("base")).get("reason") != "Succeeded":  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            ended = clock()
            while await team.child("reader") is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            print(f"{clock() - ended:.3f} s from the producer's end to its consumer's Job")
        reader = await team.state("reader", "Starting", "Running")
        assert inputs_ready(reader)[0] == "Unknown", "its pod has not read them yet"

    async def test_a_failed_producer_is_told_and_once_it_is_made_anew_the_chain_goes_on(self, team: Team) -> None:
        team.kubelet.outcomes["base"] = Outcome(
            ExitCode.DATA, Reason.INVALID_DATA, "a.jsonl, row 7: no answer: drop it"
        )
        await team.apply("base", merge=True)
        await team.apply("reader", **reads("base"))
        await team.apply("last", **reads("reader"))
        reader = await team.state("reader", "ProducerFailed")
        assert ready(reader)["message"].startswith(
            "model.from names SFTJob base, which failed (InvalidData: a.jsonl, row 7: no answer: drop it"
        )
        assert conditions(reader)["Stalled"] == "True"
        assert conditions(reader)["Failed"] == "False"
        assert inputs_ready(reader) == ("False", "ProducerFailed")
        last = await team.until("last", lambda job: "is stuck" in ready(job).get("message", ""), "told of it")
        assert ready(last)["message"].startswith(
            "waits for SFTJob reader (model.from) to complete, which is stuck (ProducerFailed: model.from names SFTJob base, which failed"
        )
        await delete(team, "base")
        await team.state("reader", "NotFound")
        team.kubelet.default = made("any")
        team.kubelet.outcomes.clear()
        await team.apply("base", merge=True)
        await team.state("last", "Succeeded", seconds=COLLECTED)
        assert [reason for reason, _ in await team.events(1) if reason == "ProducerFailed"] == ["ProducerFailed"]

    async def test_a_circle_is_told_to_all_in_it_until_it_is_broken(self, team: Team) -> None:
        names = ["rock", "paper", "scissors"]
        team.kubelet.default = made("any")
        for before, name in zip([names[-1], *names], names, strict=False):
            await team.apply(name, **reads(before))
        for name in names:
            job = await team.state(name, "CycleDetected")
            assert conditions(job)["Stalled"] == "True"
        assert ready(await team.job("rock"))["message"] == (
            "waits for itself (rock → scissors → paper → rock): delete one of these jobs, and create it without that from"
        )
        await delete(team, "rock")
        await team.state("scissors", "NotReady")
        assert await team.pods() == []
        await team.apply("rock", merge=True)
        await team.state("scissors", "Succeeded")

    async def test_an_adapter_where_a_model_is_wanted_is_refused_before_anything_runs(self, team: Team) -> None:
        team.kubelet.default = made("any")
        await team.apply("base", suspend=True)
        await team.apply("reader", **reads("base"))
        job = await team.state("reader", "KindMismatch")
        assert conditions(job)["Stalled"] == "True"
        assert ready(job)["message"] == (
            "model.from names SFTJob base, which makes a LoRAAdapter; model takes Model: set merge on it, or put a MergeJob between; "
            "specs are immutable, so in a job of another name"
        )
        await delete(team, "base")
        await team.apply("base", merge=True)
        await team.state("reader", "Succeeded")

    async def test_a_held_producer_holds_its_consumers_and_they_say_so(self, team: Team) -> None:
        team.kubelet.default = made("any")
        await team.apply("base", merge=True, suspend=True)
        await team.apply("reader", **reads("base"))
        job = await team.until("reader", lambda job: "suspended" in ready(job).get("message", ""), "told of it")
        assert ready(job)["message"] == (
            "waits for SFTJob base (model.from) to complete, which is suspended: set its spec.suspend to false"
        )
        await team.set("base", suspend=False)
        await team.state("reader", "Succeeded")

    async def test_a_started_job_does_not_care_what_becomes_of_its_producer(self, team: Team) -> None:
        team.kubelet.outcomes["base"] = made("base", digest="sha256:first")
        await team.apply("base", merge=True)
        first = await team.state("base", "Succeeded")
        await team.apply("reader", **reads("base"))
        reader = await team.state("reader", "Starting", "Running")
        pinned = reader["status"]["resolvedInputs"]
        assert pinned["model"]["producerUID"] == first["metadata"]["uid"]
        await delete(team, "base")
        team.kubelet.outcomes["base"] = made("base", digest="sha256:second")
        await team.apply("base", merge=True, output={"uri": "s3://models/elsewhere"})
        await team.state("base", "Succeeded", seconds=COLLECTED)
        await team.set("reader", suspend=True)
        await team.state("reader", "Suspended")
        team.kubelet.outcomes["reader"] = made("reader")
        await team.set("reader", suspend=False)
        reader = await team.state("reader", "Succeeded")
        assert reader["status"]["resolvedInputs"] == pinned
        assert (await config(team, "reader"))["spec"]["model"] == {"uri": "s3://models/base"}
        assert team.kubelet.started["reader"] == 2

    async def test_an_ended_job_stays_ended_when_its_producer_goes(self, team: Team) -> None:
        team.kubelet.default = made("any")
        await team.apply("base", merge=True)
        await team.apply("reader", **reads("base"))
        await team.state("reader", "Succeeded")
        await delete(team, "base")
        await team.set("reader", ttlSecondsAfterFinished=86400)  # one more look
        job = await team.until("reader", lambda job: job["status"]["observedGeneration"] == 2, "looked at")
        assert ready(job)["reason"] == "Succeeded"

    async def test_a_consumer_of_what_is_complete_costs_as_many_writes_as_any_job(
        self, team: Team, running: OperatorProcess
    ) -> None:
        def writes() -> float:
            kinds = (("jobs", "create"), ("sftjobs", "patch"), ("events", "create"))
            names = [f'alpaca_api_writes_total{{resource="{resource}",verb="{verb}"}}' for resource, verb in kinds]
            return sum(running.metric(name) for name in names)

        team.kubelet.outcomes["base"] = made("base")
        await team.apply("base", merge=True)
        await team.state("base", "Succeeded")
        await team.events(1)  # the last write for it
        team.kubelet.starts_others = False
        await team.alone(running)
        before = writes()
        await team.apply("reader", **reads("base"))
        job = await team.state("reader", "Pending")
        assert writes() - before == 2, "the child and a status"
        assert job["status"]["resolvedInputs"]["model"]["digest"] == "sha256:1"


async def test_with_the_operator_killed_at_random_a_chain_runs_through_once(team: Team, tmp_path: Path) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    dice = random.Random(seed)
    names = [f"step-{number}" for number in range(6)]
    team.kubelet.outcomes = {name: made(name, digest=f"sha256:{name}", after=dice.uniform(0, 1.5)) for name in names}
    process = OperatorProcess(
        team.plane.kubeconfig, tmp_path / "log", lease_name=team.namespace, namespaces=team.namespace
    )
    process.start()
    try:
        for before, name in reversed(list(pairwise(names))):
            await team.apply(name, **reads(before))
        await team.apply(names[0], merge=True)
        for _ in range(5):
            await asyncio.sleep(dice.uniform(0.5, 3))
            await asyncio.to_thread(process.kill)
            process.start()
        last = await team.state(names[-1], "Succeeded", seconds=240)
        assert last["status"]["resolvedInputs"]["model"]["digest"] == "sha256:step-4"
        assert team.kubelet.started == dict.fromkeys(names, 1)
        found = [job async for job in team.kube.list(SFTJOBS, team.namespace)]
        assert {ready(job)["reason"] for job in found} == {"Succeeded"}
    finally:
        print(process.said()[-5000:])
        process.stop()
