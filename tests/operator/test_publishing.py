"""The pushes of finished jobs, against a real API server: beside the job, after its gates, and never by training again."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.resources import JOBS, RESOURCES
from tests.operator.kubelet import Outcome
from tests.operator.team import Object, Team, conditions

pytestmark = [pytest.mark.controlplane, pytest.mark.usefixtures("running")]

DONE = Outcome(
    more={
        "output": {"uri": "s3://models/poet", "digest": "sha256:1", "kind": "LoRAAdapter"},
        "step": 1,
        "total_steps": 1,
    }
)
HUB = {"uri": "hf://poets/poet", "secretRef": {"name": "hub"}}


def pushed(*uris: str, digest: str = "sha256:1", **more: Any) -> Outcome:
    places = [{"uri": uri, "revision": f"commit-of-{uri.rpartition('/')[2]}", "digest": digest} for uri in uris]
    return Outcome(reason=Reason.PUBLISHED, more={"publications": places}, **more)


def published(job: Object) -> dict[str, Any]:
    return next((one for one in job["status"].get("conditions", ()) if one["type"] == "Published"), {})


async def pusher(team: Team) -> Object | None:
    return await team.kube.get(JOBS, team.namespace, "poet-sft-pub")


async def test_what_a_job_made_is_pushed_once_it_is_complete_and_the_status_says_where(team: Team) -> None:
    team.kubelet.default, team.kubelet.pushes = DONE, pushed("hf://poets/poet")

    await team.apply(publish=[HUB])

    job = await team.until("poet", lambda job: published(job).get("status") == "True", "published")
    assert conditions(job)["Complete"] == "True"
    assert published(job)["reason"] == "Published"
    assert published(job)["message"] == "hf://poets/poet has it in commit-of-poet"
    assert job["status"]["publications"] == [
        {"uri": "hf://poets/poet", "revision": "commit-of-poet", "digest": "sha256:1"}
    ]
    assert (team.kubelet.started, team.kubelet.pushed) == ({"poet": 1}, {"poet": 1})
    assert [reason for reason, _ in await team.events(2)] == ["Succeeded", "Published"]


async def test_a_finished_job_whose_only_news_is_publish_is_pushed_and_not_trained_again(team: Team) -> None:
    team.kubelet.default, team.kubelet.pushes = DONE, pushed("hf://poets/poet")
    await team.apply()
    job = await team.state("poet", "Succeeded")
    assert published(job) == {}

    await team.set(publish=[HUB])

    await team.until("poet", lambda job: published(job).get("status") == "True", "published")
    team.kubelet.pushes = pushed("hf://poets/another")
    await team.set(publish=[HUB, {"uri": "hf://poets/another"}])
    job = await team.until("poet", lambda job: len(job["status"].get("publications", ())) == 2, "at both places")
    assert published(job)["status"] == "True"
    assert (team.kubelet.started, team.kubelet.pushed) == ({"poet": 1}, {"poet": 2})


async def test_a_place_that_refuses_is_told_of_while_the_job_stays_complete_and_is_asked_again_on_demand(
    team: Team,
) -> None:
    refusal = "spec.publish[0].uri: hf://poets/poet: the hub does not let the token write there (403)"
    team.kubelet.default = DONE
    team.kubelet.pushes = Outcome(ExitCode.SPEC, Reason.PUBLISH_REFUSED, refusal)
    await team.apply(publish=[HUB])

    job = await team.until("poet", lambda job: published(job).get("reason") == "PublishRefused", "refused")

    assert conditions(job)["Complete"] == conditions(job)["Ready"] == "True"
    assert published(job)["status"] == "False"
    assert published(job)["message"].startswith(refusal)
    assert published(job)["message"].endswith(
        f"once that is mended, kubectl delete job poet-sft-pub -n {team.namespace} has it tried again"
    )
    team.kubelet.pushes = pushed("hf://poets/poet")
    await asyncio.to_thread(team.plane.kubectl, "delete", "job", "poet-sft-pub", "-n", team.namespace)
    await team.until("poet", lambda job: published(job).get("status") == "True", "published")
    assert (team.kubelet.started, team.kubelet.pushed) == ({"poet": 1}, {"poet": 2})


async def test_a_push_that_breaks_off_is_tried_again_by_its_own_pod(team: Team) -> None:
    team.kubelet.default = DONE
    team.kubelet.pushes = Outcome(ExitCode.INTERNAL, Reason.WORKLOAD_ERROR, "hf://poets/poet broke off")
    await team.apply(publish=[HUB])
    await team.until("poet", lambda job: "broke off" in published(job).get("message", ""), "broken off")
    team.kubelet.pushes = pushed("hf://poets/poet")

    await team.until("poet", lambda job: published(job).get("status") == "True", "published")

    assert team.kubelet.started == {"poet": 1}
    assert team.kubelet.pushed["poet"] >= 2


async def test_a_place_after_a_gate_waits_for_it_and_the_others_do_not(team: Team) -> None:
    team.kubelet.default, team.kubelet.pushes = DONE, pushed("hf://poets/draft")
    team.kubelet.outcomes["gate"] = Outcome(after=3600)
    gate = [{"from": {"kind": "EvaluationJob", "name": "gate"}}]
    await team.apply(merge=True, publish=[{"uri": "hf://poets/draft"}, {**HUB, "after": gate}])

    job = await team.until("poet", lambda job: published(job).get("reason") == "NotFound", "waiting for its gate")

    assert [one["uri"] for one in job["status"]["publications"]] == ["hf://poets/draft"]
    evaluation = {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "EvaluationJob",
        "metadata": {"name": "gate", "namespace": team.namespace},
        "spec": {
            "models": [{"name": "poet", "model": {"from": {"kind": "SFTJob", "name": "poet"}}}],
            "prompts": {"preset": "zh"},
            "output": {"uri": "s3://reports/poet"},
        },
    }
    await team.kube.create(RESOURCES["EvaluationJob"], evaluation)
    await team.until("poet", lambda job: published(job).get("reason") == "NotReady", "waiting for its gate to end")
    assert team.kubelet.pushed == {"poet": 1}
    team.kubelet.pushes = pushed("hf://poets/poet")
    team.kubelet.outcomes["gate"] = Outcome(more={"output": {"uri": "s3://reports/poet", "digest": "sha256:r"}})

    job = await team.until("poet", lambda job: published(job).get("status") == "True", "published")

    assert [one["uri"] for one in job["status"]["publications"]] == ["hf://poets/draft", "hf://poets/poet"]
    assert team.kubelet.pushed == {"poet": 2}


async def test_a_place_that_is_no_longer_asked_for_is_not_pushed_to_any_more(team: Team) -> None:
    team.kubelet.default = DONE
    await team.apply(publish=[HUB])
    await team.until("poet", lambda job: "pushes" in published(job).get("message", ""), "pushing")

    await team.set(publish=None)

    await team.until("poet", lambda job: not published(job), "without places")
    async with asyncio.timeout(60):
        while await pusher(team):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert team.kubelet.started == {"poet": 1}


async def test_after_the_ttl_the_pod_that_pushed_goes_and_nothing_is_pushed_again(team: Team) -> None:
    team.kubelet.default, team.kubelet.pushes = DONE, pushed("hf://poets/poet")
    await team.apply(publish=[HUB], ttlSecondsAfterFinished=1)
    await team.until("poet", lambda job: published(job).get("status") == "True", "published")

    async with asyncio.timeout(60):
        while await team.children():  # noqa: ASYNC110
            await asyncio.sleep(0.1)

    assert published(await team.job())["status"] == "True"
    assert (team.kubelet.started, team.kubelet.pushed) == ({"poet": 1}, {"poet": 1})
