"""ChatDeployments against a real API server and Deployment controller, with a played kubelet: what a user of kubectl sees."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from alpaca_operator.api.contract import (
    ANNOTATION_ADAPTERS,
    ANNOTATION_CONFIG,
    ANNOTATION_INPUTS,
    LABEL_KIND,
    LABEL_PAGE,
    ExitCode,
)
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.resources import (
    BUDGETS,
    DEPLOYMENTS,
    EVENTS,
    PODS,
    RESOURCES,
    ROUTES,
    SERVICES,
    APIResource,
)
from tests.cluster.bed.controlplane import ControlPlane
from tests.operator.kubelet import Outcome
from tests.operator.process import OperatorProcess
from tests.operator.team import SFTJOBS, Object, Team, conditions, ready, sft_job

pytestmark = [pytest.mark.controlplane, pytest.mark.usefixtures("running")]

CHATS, EXAMS = RESOURCES["ChatDeployment"], RESOURCES["EvaluationJob"]
FROM_POET = {"model": {"from": {"kind": "SFTJob", "name": "poet"}}}


def made(digest: str, **more: Any) -> Outcome:
    """A training that published a merged model."""
    output = {"uri": "s3://models/poet", "digest": f"sha256:{digest}", "kind": "Model"}
    return Outcome(more={"output": output, **more})


@dataclass
class Salon:
    """A namespace with a chat in it."""

    team: Team
    name: str = "poet"

    async def open(self, **spec: Any) -> None:
        manifest = {
            "apiVersion": CHATS.api_version,
            "kind": CHATS.kind,
            "metadata": {"name": self.name, "namespace": self.team.namespace},
            "spec": {"model": {"uri": "s3://models/poet"}, **spec},
        }
        await self.team.kube.create(CHATS, manifest)

    async def chat(self) -> Object:
        return await self.found(CHATS, self.name)

    async def found(self, api: APIResource, name: str = "poet-chat") -> Object:
        found = await self.team.kube.get(api, self.team.namespace, name)
        assert found is not None, f"no {api.kind} {name}"
        return found

    async def set(self, **spec: Any) -> None:
        await self.team.kube.merge(CHATS, await self.chat(), {"spec": spec})

    async def until(self, holds: Callable[[Object], bool], what: str) -> Object:
        deadline = asyncio.get_running_loop().time() + 60
        while not holds(chat := await self.chat()):
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{self.name} is not {what}, but {json.dumps(chat['status'], indent=1)}")
            await asyncio.sleep(0.1)
        return chat

    async def state(self, *reasons: str) -> Object:
        return await self.until(
            lambda chat: (
                ready(chat).get("reason") in reasons
                and chat["status"]["observedGeneration"] == chat["metadata"]["generation"]
            ),
            " or ".join(reasons),
        )

    async def serves(self, digest: str) -> Object:
        return await self.until(
            lambda chat: (
                ready(chat).get("reason") == "Serving"
                and chat["status"].get("model", {}).get("digest") == f"sha256:{digest}"
            ),
            f"serving {digest}",
        )

    async def pods(self) -> list[Object]:
        pods = self.team.kube.list(PODS, self.team.namespace, labels=f"{LABEL_KIND}=ChatDeployment")
        return [pod async for pod in pods if not pod["metadata"].get("deletionTimestamp")]

    async def pages(self) -> list[Object]:
        """Pods of the page alone."""
        pods = self.team.kube.list(PODS, self.team.namespace, labels=f"{LABEL_PAGE}={self.name}")
        return [pod async for pod in pods if not pod["metadata"].get("deletionTimestamp")]

    async def containers(self) -> list[str]:
        """Of the engine's Deployment."""
        return [one["name"] for one in (await self.found(DEPLOYMENTS))["spec"]["template"]["spec"]["containers"]]

    async def gone(self, api: APIResource, name: str) -> None:
        async with asyncio.timeout(60):
            while await self.team.kube.get(api, self.team.namespace, name):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def page_says(self, reason: str, status: str = "True") -> Object:
        """Waits until the condition of the page does."""

        def says(chat: Object) -> bool:
            state = page_of(chat)
            return (state.get("reason"), state.get("status")) == (reason, status)

        return await self.until(says, f"of a page that is {reason}")

    async def told(self, *names: str, pods: int = 1) -> list[Object]:
        """The pods, once each has been told of these adapters."""

        def knows(pod: Object) -> bool:
            listed = json.loads(pod["metadata"]["annotations"][ANNOTATION_ADAPTERS])["adapters"]
            return [each["name"] for each in listed] == list(names)

        async with asyncio.timeout(60):
            while len(found := await self.pods()) != pods or not all(map(knows, found)):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return found

    async def train(self, digest: str, **more: Any) -> None:
        """Makes the model, as often as it is called."""
        self.team.kubelet.outcomes["poet"] = made(digest, **more)
        await self.team.kube.create(SFTJOBS, sft_job(self.team.namespace, "poet", merge=True))
        await self.team.state("poet", "Succeeded")

    async def forget_training(self) -> None:
        await self.team.kube.delete(SFTJOBS, await self.team.job("poet"))
        async with asyncio.timeout(60):
            while await self.team.kube.get(SFTJOBS, self.team.namespace, "poet"):  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    async def event(self, reason: str) -> list[str]:
        """Waits for an Event with this reason, which follows the status that it tells of; the reasons of all until then, oldest first."""
        async with asyncio.timeout(60):
            while reason not in (found := await self.events()):  # noqa: ASYNC110
                await asyncio.sleep(0.1)
        return found

    async def events(self) -> list[str]:
        events = self.team.kube.list(EVENTS, self.team.namespace)
        ours = [one async for one in events if one.get("regarding", {}).get("kind") == CHATS.kind]
        return [one["reason"] for one in sorted(ours, key=lambda one: int(one["metadata"]["resourceVersion"]))]


def page_of(chat: Object) -> Object:
    """The condition of a page in pods of its own."""
    conditions = chat.get("status", {}).get("conditions", [])
    return next((one for one in conditions if one["type"] == "PageAvailable"), {})


def is_page(pod: Object) -> bool:
    return LABEL_PAGE in pod["metadata"]["labels"]


@pytest.fixture
async def salon(team: Team) -> Salon:
    return Salon(team)


async def test_it_serves_and_says_where(salon: Salon) -> None:
    await salon.open()
    chat = await salon.state("Serving")
    assert conditions(chat) == {
        "Ready": "True",
        "Reconciling": "False",
        "Stalled": "False",
        "Suspended": "False",
        "InputsReady": "True",
    }
    namespace, status = salon.team.namespace, chat["status"]
    assert ready(chat)["message"] == "serves s3://models/poet on 1 of 1 pod"
    assert status["url"] == f"http://poet-chat.{namespace}.svc:7860"
    assert status["apiUrl"] == f"http://poet-chat.{namespace}.svc:8000/v1"
    assert (status["replicas"], status["readyReplicas"], status["replicasDisplay"]) == (1, 1, "1/1")
    assert status["engine"] == {"name": "Transformers", "message": "no GPU is asked for in pod.resources"}
    assert status["resolvedInputs"] == {"model": {"uri": "s3://models/poet"}}
    service = await salon.found(SERVICES)
    assert {port["port"] for port in service["spec"]["ports"]} == {7860, 8000}
    assert await salon.event("Serving") == ["Serving"]


async def test_what_kubectl_shows(salon: Salon) -> None:
    await salon.open()
    await salon.state("Serving")
    said = salon.team.plane.kubectl("get", "chat", "-n", salon.team.namespace).splitlines()
    assert said[0].split() == ["NAME", "STATE", "MODEL", "URL", "REPLICAS", "AGE"]
    url = f"http://poet-chat.{salon.team.namespace}.svc:7860"
    assert said[1].split()[:-1] == ["poet", "Serving", "s3://models/poet", url, "1/1"]


async def test_nothing_is_written_while_nothing_happens(salon: Salon, running: OperatorProcess) -> None:
    def writes() -> list[str]:
        return [
            line for line in running.metrics() if line.startswith("alpaca_api_writes_total{") and "leases" not in line
        ]

    await salon.team.alone(running)
    await salon.open(
        replicas=2, podDisruptionBudget={"minAvailable": 1}, pod={"resources": {"limits": {"cpu": "1000m"}}}
    )
    chat = await salon.until(
        lambda chat: (chat["status"].get("replicasDisplay"), ready(chat).get("reason")) == ("2/2", "Serving"), "whole"
    )
    looked = 'alpaca_reconciles_total{kind="ChatDeployment",outcome="done"}'
    await salon.event("Serving")  # the last write of a change
    before, looks = writes(), running.metric(looked)
    for number in range(3):  # annotations that nobody reads
        annotations = {"example.org/looked": str(number)}
        await salon.team.kube.merge(CHATS, chat, {"metadata": {"annotations": annotations}})
    async with asyncio.timeout(60):
        while running.metric(looked) == looks:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert writes() == before


async def test_it_waits_for_its_model_and_then_serves_it(salon: Salon) -> None:
    await salon.open(**FROM_POET)
    chat = await salon.state("NotFound")
    assert conditions(chat)["InputsReady"] == "False"
    assert await salon.team.kube.get(DEPLOYMENTS, salon.team.namespace, "poet-chat") is None
    await salon.train("1111")
    chat = await salon.serves("1111")
    assert chat["status"]["model"]["display"] == "s3://models/poet@sha256:1111"
    [pod] = await salon.pods()
    read = json.loads(pod["metadata"]["annotations"][ANNOTATION_CONFIG])
    assert read["spec"]["model"] == {"uri": "s3://models/poet"}
    assert json.loads(read["metadata"]["annotations"][ANNOTATION_INPUTS])["model"]["digest"] == "sha256:1111"


async def test_a_new_model_takes_over_when_it_is_ready_and_not_before(salon: Salon) -> None:
    await salon.train("1111")
    await salon.open(**FROM_POET)
    await salon.serves("1111")
    [old] = await salon.pods()
    salon.team.kubelet.answers = lambda pod: pod["metadata"]["name"] == old["metadata"]["name"]
    await salon.forget_training()
    chat = await salon.chat()
    assert ready(chat)["reason"] == "Serving", "a producer that is gone takes nothing with it"
    await salon.train("2222")
    chat = await salon.state("Updating")
    assert conditions(chat)["Ready"] == conditions(chat)["Reconciling"] == "True"
    assert chat["status"]["model"]["digest"] == "sha256:1111"
    assert old["metadata"]["name"] in {pod["metadata"]["name"] for pod in await salon.pods()}
    salon.team.kubelet.answers = lambda pod: True
    await salon.serves("2222")
    [new] = await salon.pods()
    assert new["metadata"]["name"] != old["metadata"]["name"]


async def test_made_anew_and_found_the_same_it_starts_no_pods(salon: Salon) -> None:
    await salon.train("1111")
    await salon.open(**FROM_POET)
    before = await salon.serves("1111")
    [pod] = await salon.pods()
    await salon.forget_training()
    await salon.train("1111")
    await salon.team.kube.merge(CHATS, await salon.chat(), {"metadata": {"annotations": {"example.org/looked": "at"}}})
    await salon.serves("1111")
    assert [each["metadata"]["name"] for each in await salon.pods()] == [pod["metadata"]["name"]]
    assert (await salon.chat())["status"]["model"] == before["status"]["model"]


async def test_a_new_model_that_never_gets_ready_leaves_the_old_one_serving(salon: Salon) -> None:
    await salon.train("1111")
    await salon.open(**FROM_POET)
    await salon.serves("1111")
    [old] = await salon.pods()
    bad = Outcome(
        ExitCode.DATA, Reason.INVALID_DATA, "model: the adapter has 65,000 rows, the base 32,000: merge it first"
    )
    salon.team.kubelet.crashes = lambda pod: None if pod["metadata"]["name"] == old["metadata"]["name"] else bad
    await salon.forget_training()
    await salon.train("2222")
    chat = await salon.state("UpdateFailed")
    assert conditions(chat)["Ready"] == conditions(chat)["Stalled"] == "True"
    assert ready(chat)["message"].startswith(
        "serves s3://models/poet@sha256:1111 on 1 of 1 pod, of before; the new pods do not become ready: model: the adapter has 65,000 "
        "rows, the base 32,000: merge it first (pod poet-chat-"
    )
    assert chat["status"]["failure"]["class"] == "DataError"
    assert chat["status"]["model"]["digest"] == "sha256:1111"
    await salon.event("UpdateFailed")
    salon.team.kubelet.crashes = lambda pod: None
    await salon.forget_training()
    await salon.train("3333")
    await salon.serves("3333")


async def test_with_one_gpu_a_new_model_that_never_gets_ready_makes_room_for_the_old_one(salon: Salon) -> None:
    """The old pod has to go before the new one can start."""
    await salon.train("1111")
    await salon.open(**FROM_POET, pod={"resources": {"limits": {"example.org/gpu": 1}}})
    await salon.serves("1111")
    bad = Outcome(ExitCode.MEMORY, Reason.OUT_OF_MEMORY, "the model needs 30 GB: quantize it")
    salon.team.kubelet.crashes = lambda pod: (
        bad if "sha256:2222" in pod["metadata"]["annotations"][ANNOTATION_CONFIG] else None
    )
    await salon.forget_training()
    await salon.train("2222")
    chat = await salon.until(
        lambda chat: (ready(chat)["reason"], ready(chat)["status"]) == ("UpdateFailed", "True"), "back to the old model"
    )
    assert conditions(chat)["Stalled"] == "True"
    assert ready(chat)["message"].startswith(
        "serves s3://models/poet@sha256:1111 on 1 of 1 pod; s3://models/poet@sha256:2222 is there and is not served: it did not become "
        "ready: the model needs 30 GB: quantize it (pod poet-chat-"
    )
    assert chat["status"]["model"]["digest"] == "sha256:1111"
    assert chat["status"]["newer"]["digest"] == "sha256:2222"
    await salon.forget_training()
    await salon.train("3333")
    chat = await salon.serves("3333")
    assert "newer" not in chat["status"]


async def test_manual_it_tells_of_a_new_model_and_serves_it_when_told(salon: Salon) -> None:
    await salon.train("1111")
    await salon.open(**FROM_POET, updatePolicy="Manual")
    await salon.serves("1111")
    await salon.forget_training()
    await salon.train("2222")
    chat = await salon.state("UpdateHeld")
    newer = chat["status"]["newer"]
    assert conditions(chat)["Ready"] == "True"
    assert conditions(chat)["Reconciling"] == conditions(chat)["Stalled"] == "False"
    assert newer["digest"] == "sha256:2222"
    assert ready(chat)["message"] == (
        "serves s3://models/poet@sha256:1111 on 1 of 1 pod; s3://models/poet@sha256:2222 is there and is not served: updatePolicy is Manual: "
        f"kubectl annotate chat poet literary-alpaca.io/accept={newer['update']} --overwrite serves it"
    )
    command = newer["message"].partition("kubectl ")[2].removesuffix(" serves it").split()
    salon.team.plane.kubectl(*command, "-n", salon.team.namespace)
    chat = await salon.serves("2222")
    assert "newer" not in chat["status"]


def exam(namespace: str) -> Object:
    return {
        "apiVersion": EXAMS.api_version,
        "kind": EXAMS.kind,
        "metadata": {"name": "exam", "namespace": namespace},
        "spec": {
            "models": [{"name": "poet", "model": {"from": {"kind": "SFTJob", "name": "poet"}}}],
            "prompts": {"preset": "zh"},
            "gates": [{"metric": "stopRate", "model": "poet", "min": 0.9}],
            "output": {"uri": "s3://reports/exam"},
        },
    }


def measured(digest: str) -> Outcome:
    read = {"models[0].model": {"uri": "s3://models/poet", "digest": f"sha256:{digest}"}}
    output = {"uri": "s3://reports/exam", "digest": "sha256:ab", "kind": "Report"}
    return Outcome(more={"output": output, "resolved_inputs": read})


async def test_a_gate_counts_for_the_very_model_that_it_measured(salon: Salon) -> None:
    team = salon.team
    team.kubelet.outcomes["exam"] = measured("1111")
    await salon.train("1111")
    await salon.open(**FROM_POET, gates=[{"from": {"kind": "EvaluationJob", "name": "exam"}}])
    chat = await salon.state("NotFound")
    assert ready(chat)["message"].startswith("gates[0].from names EvaluationJob exam, which does not exist")
    await team.kube.create(EXAMS, exam(team.namespace))
    await salon.serves("1111")
    await salon.forget_training()
    await salon.train("2222")
    chat = await salon.state("UpdateHeld")
    assert (
        "is not served: gates[0]: EvaluationJob exam measured sha256:1111 of SFTJob poet, which has made sha256:2222 since: delete "
        "EvaluationJob exam and create it anew, so that it measures that"
    ) in ready(chat)["message"]
    team.kubelet.outcomes["exam"] = Outcome(ExitCode.SPEC, Reason.GATE_FAILED, "poet: stopRate is 0.4, below 0.9")
    team.plane.kubectl("delete", "evaluationjob", "exam", "-n", team.namespace)
    await team.kube.create(EXAMS, exam(team.namespace))
    chat = await salon.until(
        lambda chat: "GateFailed: poet: stopRate is 0.4, below 0.9" in ready(chat)["message"], "held by the gate"
    )
    assert ready(chat)["reason"] == "UpdateHeld"
    assert chat["status"]["model"]["digest"] == "sha256:1111"
    team.kubelet.outcomes["exam"] = measured("2222")
    team.plane.kubectl("delete", "evaluationjob", "exam", "-n", team.namespace)
    await team.kube.create(EXAMS, exam(team.namespace))
    await salon.serves("2222")


async def test_a_model_whose_gate_failed_is_never_served(salon: Salon) -> None:
    team = salon.team
    team.kubelet.outcomes["exam"] = Outcome(ExitCode.SPEC, Reason.GATE_FAILED, "poet: stopRate is 0.4, below 0.9")
    await salon.train("1111")
    await team.kube.create(EXAMS, exam(team.namespace))
    await salon.open(**FROM_POET, gates=[{"from": {"kind": "EvaluationJob", "name": "exam"}}])
    chat = await salon.state("ProducerFailed")
    assert conditions(chat)["Ready"] == conditions(chat)["InputsReady"] == "False"
    assert conditions(chat)["Stalled"] == "True"
    assert "GateFailed: poet: stopRate is 0.4, below 0.9" in ready(chat)["message"]
    assert await team.kube.get(DEPLOYMENTS, team.namespace, "poet-chat") is None


async def test_kubectl_scale_and_an_autoscaler_of_the_deployment_are_respected(salon: Salon) -> None:
    team = salon.team
    await salon.open()
    await salon.state("Serving")
    team.plane.kubectl("scale", "chat", "poet", "--replicas=2", "-n", team.namespace)
    await salon.until(lambda chat: chat["status"].get("replicasDisplay") == "2/2", "two pods")
    assert (await salon.found(SERVICES))["spec"]["sessionAffinity"] == "ClientIP"
    scale = await team.kube.read(CHATS.path(team.namespace, "poet", "scale"))
    assert scale is not None
    assert (scale["spec"]["replicas"], scale["status"]["replicas"]) == (2, 2)
    assert scale["status"]["selector"] == "literary-alpaca.io/kind=ChatDeployment,literary-alpaca.io/name=poet"
    team.plane.kubectl("scale", "deployment", "poet-chat", "--replicas=3", "-n", team.namespace)
    await salon.until(lambda chat: chat["status"].get("replicasDisplay") == "3/3", "three pods")
    await salon.set(systemPrompt="你是诗人。")  # rolled out, with the pods that the autoscaler wants
    await salon.until(
        lambda chat: (
            chat["status"]["observedGeneration"] == chat["metadata"]["generation"]
            and ready(chat)["reason"] == "Serving"
        ),
        "rolled out",
    )
    assert (await salon.found(DEPLOYMENTS))["spec"]["replicas"] == 3
    team.plane.kubectl("scale", "chat", "poet", "--replicas=0", "-n", team.namespace)
    chat = await salon.state("ScaledToZero")
    assert conditions(chat)["Suspended"] == "True"
    assert ready(chat)["message"] == "no pods are wanted (spec.replicas is 0): kubectl scale chat poet --replicas=1"


async def test_what_others_change_or_delete_is_put_right_and_what_they_add_stays(salon: Salon) -> None:
    team = salon.team
    await salon.open(podDisruptionBudget={"minAvailable": 1})
    await salon.state("Serving")
    namespace = ["-n", team.namespace]
    team.plane.kubectl("delete", "service", "poet-chat", *namespace)
    team.plane.kubectl("annotate", "deployment", "poet-chat", "example.org/team=poetry", *namespace)
    patch = {"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 60}}}}
    team.plane.kubectl("patch", "deployment", "poet-chat", "-p", json.dumps(patch), *namespace)

    async def is_right() -> bool:
        service = await team.kube.get(SERVICES, team.namespace, "poet-chat")
        spec = (await salon.found(DEPLOYMENTS))["spec"]["template"]["spec"]
        return service is not None and spec["terminationGracePeriodSeconds"] == 600

    async with asyncio.timeout(60):
        while not await is_right():  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    deployment = await salon.found(DEPLOYMENTS)
    assert deployment["metadata"]["annotations"]["example.org/team"] == "poetry"
    assert await team.kube.get(BUDGETS, team.namespace, "poet-chat") is not None
    await salon.set(podDisruptionBudget=None)
    async with asyncio.timeout(60):
        while await team.kube.get(BUDGETS, team.namespace, "poet-chat"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


async def test_a_field_that_the_spec_loses_is_taken_from_the_pods(salon: Salon) -> None:
    await salon.open(pod={"nodeSelector": {"kubernetes.io/os": "linux"}, "labels": {"team": "poetry"}})
    await salon.until(lambda chat: bool(chat["status"].get("url")), "made")
    assert "nodeSelector" in (await salon.found(DEPLOYMENTS))["spec"]["template"]["spec"]
    await salon.set(pod={"nodeSelector": None, "labels": None})
    async with asyncio.timeout(60):
        while "nodeSelector" in (await salon.found(DEPLOYMENTS))["spec"]["template"]["spec"]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    template = (await salon.found(DEPLOYMENTS))["spec"]["template"]
    assert "team" not in template["metadata"]["labels"]


async def test_adapters_come_and_go_in_the_pods_that_serve(salon: Salon) -> None:
    """By their names, and by the labels of the jobs that make them."""
    ode, haiku = ({"name": name, "uri": f"s3://adapters/{name}"} for name in ("ode", "haiku"))
    await salon.open(adapters=[ode])
    await salon.state("Serving")
    [first] = await salon.told("ode")
    template = (await salon.found(DEPLOYMENTS))["spec"]["template"]
    await salon.set(adapters=[ode, haiku])
    await salon.told("ode", "haiku")
    await salon.set(adapters=[], adapterSelector={"matchLabels": {"team": "poetry"}})
    await salon.told()

    read = {"model": {"uri": "s3://models/poet", "digest": "sha256:1111"}}
    adapter = {"uri": "s3://adapters/ballad", "digest": "sha256:2222", "kind": "LoRAAdapter"}
    salon.team.kubelet.outcomes["ballad"] = Outcome(more={"output": adapter, "resolvedInputs": read})
    ballad = sft_job(salon.team.namespace, "ballad", model={"uri": "s3://models/poet"})
    ballad["metadata"]["labels"] = {"team": "poetry"}
    await salon.team.kube.create(SFTJOBS, ballad)
    await salon.team.state("ballad", "Succeeded")
    [pod] = await salon.told("ballad")
    chat = await salon.until(
        lambda chat: "adapterSelector[ballad]" in chat["status"]["resolvedInputs"], "telling of what it took"
    )
    assert chat["status"]["resolvedInputs"]["adapterSelector[ballad]"]["digest"] == "sha256:2222"
    await salon.team.kube.delete(SFTJOBS, await salon.team.job("ballad"))
    [last] = await salon.told()
    assert first["metadata"]["uid"] == pod["metadata"]["uid"] == last["metadata"]["uid"]
    assert (await salon.found(DEPLOYMENTS))["spec"]["template"] == template

    # A pod that is made later has what its plan was made with, and is told the rest at once.
    await salon.set(replicas=2)
    assert len(await salon.told(pods=2)) == 2


async def test_without_a_gateway_api_everything_but_the_route_is_served(salon: Salon) -> None:
    await salon.open(httpRoute={"parentRefs": [{"name": "web"}], "hostnames": ["chat.example.org"]})
    chat = await salon.until(
        lambda chat: ready(chat).get("reason") == "RouteNotSupported" and ready(chat)["status"] == "True",
        "served without",
    )
    assert ready(chat)["message"].endswith(
        "the cluster has no HTTPRoute of gateway.networking.k8s.io/v1: install the Gateway API, or remove httpRoute"
    )
    assert conditions(chat)["Stalled"] == "True"


async def test_a_route_that_is_not_supported_keeps_nothing_from_being_removed(salon: Salon) -> None:
    route = {"parentRefs": [{"name": "web"}], "hostnames": ["chat.example.org"]}
    await salon.open(httpRoute=route, podDisruptionBudget={"minAvailable": 1})
    await salon.until(lambda chat: ready(chat).get("reason") == "RouteNotSupported", "told of the route")
    assert (await salon.found(BUDGETS))["spec"]["minAvailable"] == 1
    await salon.set(podDisruptionBudget=None)
    async with asyncio.timeout(60):
        while await salon.team.kube.get(BUDGETS, salon.team.namespace, "poet-chat"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)


@pytest.fixture
def gateway_api(plane: ControlPlane) -> Iterator[None]:
    """The kind as the API server sees it; its whole schema is nothing to us."""
    schema = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {"name": "v1", "served": True, "storage": True, "schema": {"openAPIV3Schema": schema}}
    group = "gateway.networking.k8s.io"
    crd = {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {
            "name": f"httproutes.{group}",
            "annotations": {"api-approved.kubernetes.io": "unapproved, of a test"},
        },
        "spec": {
            "group": group,
            "scope": "Namespaced",
            "names": {
                "kind": "HTTPRoute",
                "plural": "httproutes",
                "singular": "httproute",
                "listKind": "HTTPRouteList",
            },
            "versions": [version],
        },
    }
    plane.create(crd)
    plane.kubectl("wait", "--for=condition=Established", "crd", f"httproutes.{group}")
    yield
    plane.kubectl("delete", "crd", f"httproutes.{group}")


@pytest.mark.usefixtures("gateway_api")
async def test_with_a_gateway_api_there_is_a_route_for_as_long_as_the_spec_has_one(salon: Salon) -> None:
    team = salon.team
    await salon.open(httpRoute={"parentRefs": [{"name": "web"}], "hostnames": ["chat.example.org"]})
    chat = await salon.state("Serving")
    assert chat["status"]["url"] == "https://chat.example.org"
    route = await salon.found(ROUTES)
    assert route["spec"]["hostnames"] == ["chat.example.org"]
    await salon.set(httpRoute=None)
    async with asyncio.timeout(60):
        while await team.kube.get(ROUTES, team.namespace, "poet-chat"):  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    chat = await salon.state("Serving")
    assert chat["status"]["url"] == f"http://poet-chat.{team.namespace}.svc:7860"


async def test_a_page_in_pods_of_its_own_is_there_before_the_engine_and_without_it(salon: Salon) -> None:
    salon.team.kubelet.answers = is_page
    await salon.open(page={"replicas": 2}, podDisruptionBudget={"minAvailable": 1})
    chat = await salon.page_says("Serving")
    assert page_of(chat)["message"] == "the page answers on 2 of 2 pods"
    assert ready(chat)["status"] == "False"
    namespace, status = salon.team.namespace, chat["status"]
    assert status["url"] == f"http://poet-chat-page.{namespace}.svc:7860"
    assert status["apiUrl"] == f"http://poet-chat.{namespace}.svc:8000/v1"
    assert (len(await salon.pods()), len(await salon.pages())) == (1, 2)
    selector = salon.team.kube.list(PODS, namespace, labels=status["selector"])
    assert [pod["metadata"]["name"] async for pod in selector] == [
        pod["metadata"]["name"] for pod in await salon.pods()
    ], "an autoscaler counts pods of the engine"

    salon.team.kubelet.answers = lambda pod: True
    chat = await salon.state("Serving")
    assert chat["status"]["replicasDisplay"] == "1/1"
    await salon.set(replicas=0)
    chat = await salon.state("ScaledToZero")
    assert page_of(chat)["message"] == "the page answers on 2 of 2 pods"
    assert len(await salon.pages()) == 2


async def test_a_page_moves_out_and_in_again_and_is_reached_all_the_time(salon: Salon) -> None:
    kubelet = salon.team.kubelet
    await salon.open()
    await salon.state("Serving")
    [first] = await salon.pods()

    # Its own pods start, and until one answers nothing changes for the engine.
    kubelet.answers = lambda pod: not is_page(pod)
    await salon.set(page={"replicas": 1})
    chat = await salon.page_says("Pending", "False")
    assert page_of(chat)["message"].endswith("until then the engine's pods have the page")
    assert chat["status"]["url"] == f"http://poet-chat.{salon.team.namespace}.svc:7860"
    [same] = await salon.pods()
    assert same["metadata"]["uid"] == first["metadata"]["uid"]
    assert await salon.containers() == ["engine", "ui"]
    assert {port["port"] for port in (await salon.found(SERVICES))["spec"]["ports"]} == {7860, 8000}

    # One answers: the engine's pods are made anew without the page.
    kubelet.answers = lambda pod: True
    await salon.page_says("Serving")
    chat = await salon.until(
        lambda chat: (
            ready(chat).get("reason") == "Serving"
            and chat["status"]["url"] == f"http://poet-chat-page.{salon.team.namespace}.svc:7860"
            and chat["status"]["replicas"] == chat["status"]["updatedReplicas"] == 1
        ),
        "served without the page",
    )
    async with asyncio.timeout(60):
        while [one["metadata"]["uid"] for one in await salon.pods()] == [first["metadata"]["uid"]]:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert await salon.containers() == ["engine"]
    async with asyncio.timeout(60):
        while len((await salon.found(SERVICES))["spec"]["ports"]) > 1:  # noqa: ASYNC110
            await asyncio.sleep(0.1)
    assert [port["port"] for port in (await salon.found(SERVICES))["spec"]["ports"]] == [8000]

    # Back: pods of the engine that have the page load, and its own go when one of those answers.
    kubelet.answers = lambda pod: is_page(pod) or len(pod["spec"]["containers"]) == 1
    await salon.set(page=None)
    chat = await salon.state("Updating")
    assert page_of(chat) == {}
    assert await salon.containers() == ["engine", "ui"]
    assert (await salon.found(DEPLOYMENTS, "poet-chat-page"))["metadata"].get("deletionTimestamp") is None
    assert len(await salon.pages()) == 1
    assert chat["status"]["url"] == f"http://poet-chat-page.{salon.team.namespace}.svc:7860"
    kubelet.answers = lambda pod: True
    await salon.gone(DEPLOYMENTS, "poet-chat-page")
    for name in ("poet-chat-page", "poet-chat-pods"):
        await salon.gone(SERVICES, name)
    chat = await salon.state("Serving")
    assert chat["status"]["url"] == f"http://poet-chat.{salon.team.namespace}.svc:7860"
    assert {port["port"] for port in (await salon.found(SERVICES))["spec"]["ports"]} == {7860, 8000}

    # And once more, over what is on its way out.
    await salon.set(page={"replicas": 1})
    await salon.page_says("Serving")


async def test_a_page_that_crashes_is_told_and_the_engine_serves(salon: Salon) -> None:
    bad = Outcome(ExitCode.SPEC, Reason.INVALID_SPEC, "ALPACA_CHAT_PASSWORD is not set: put it into the Secret")
    salon.team.kubelet.crashes = lambda pod: bad if is_page(pod) else None
    await salon.open(page={"replicas": 1})
    chat = await salon.page_says("InvalidSpec", "False")
    assert page_of(chat)["message"].startswith(
        "ALPACA_CHAT_PASSWORD is not set: put it into the Secret (pod poet-chat-page-"
    )
    chat = await salon.state("Serving")
    assert page_of(chat)["status"] == "False"
    assert "InvalidSpec" in await salon.event("InvalidSpec")


async def test_pods_of_the_page_are_scaled_by_others_and_put_right(salon: Salon, running: OperatorProcess) -> None:
    team = salon.team
    await salon.open(page={"replicas": 1})
    await salon.page_says("Serving")
    await salon.state("Serving")
    team.plane.kubectl("scale", "deployment", "poet-chat-page", "--replicas=2", "-n", team.namespace)
    await salon.until(lambda chat: page_of(chat)["message"] == "the page answers on 2 of 2 pods", "of two pages")
    team.plane.kubectl("delete", "service", "poet-chat-page", "-n", team.namespace)
    await salon.set(page={"replicas": 3})
    await salon.until(lambda chat: page_of(chat)["message"] == "the page answers on 3 of 3 pods", "of three pages")
    assert (await salon.found(SERVICES, "poet-chat-page"))["spec"]["selector"] == {LABEL_PAGE: "poet"}
    team.plane.kubectl("delete", "chat", "poet", "-n", team.namespace)
    await salon.gone(DEPLOYMENTS, "poet-chat-page")
    await salon.gone(SERVICES, "poet-chat-pods")


async def test_a_deployment_of_somebody_else_is_left_alone(salon: Salon) -> None:
    team = salon.team
    team.plane.kubectl("create", "deployment", "poet-chat", "--image=example.org/other", "-n", team.namespace)
    await salon.open()
    chat = await salon.state("NameConflict")
    assert conditions(chat)["Stalled"] == "True"
    containers = (await salon.found(DEPLOYMENTS))["spec"]["template"]["spec"]["containers"]
    assert [each["image"] for each in containers] == ["example.org/other"]


async def test_pods_that_a_quota_refuses_are_told_of(salon: Salon) -> None:
    team = salon.team
    team.plane.kubectl("create", "quota", "small", "--hard=pods=0", "-n", team.namespace)
    await salon.open()
    chat = await salon.state("QuotaExceeded")
    assert ready(chat)["message"].startswith(
        "quota small has no room (requested: pods=1, used: pods=0, limited: pods=0)"
    )
    assert conditions(chat)["Reconciling"] == "True"


async def test_deleted_it_takes_everything_with_it(salon: Salon) -> None:
    team = salon.team
    await salon.open()
    await salon.state("Serving")
    team.plane.kubectl("delete", "chat", "poet", "-n", team.namespace)
    async with asyncio.timeout(60):
        while (  # noqa: ASYNC110
            await team.kube.get(DEPLOYMENTS, team.namespace, "poet-chat")
            or await team.kube.get(SERVICES, team.namespace, "poet-chat")
            or await salon.pods()
        ):
            await asyncio.sleep(0.1)


async def test_a_typo_in_what_is_handed_on_is_refused_by_its_name(salon: Salon) -> None:
    await salon.open(pod={"affinity": {"nodeAfinity": {}}})
    chat = await salon.state("InvalidSpec")
    assert conditions(chat)["Stalled"] == "True"
    assert "nodeAfinity" in ready(chat)["message"]


async def test_what_a_policy_makes_of_a_child_is_not_applied_again_and_again(
    salon: Salon, running: OperatorProcess
) -> None:
    """A cluster's policy has the last word on a Service; what the plan says of it was asked for once."""
    plane, namespace = salon.team.plane, salon.team.namespace
    plane.apply(*stubborn(namespace))
    try:
        probe = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "probe", "namespace": namespace}}
        probe["spec"] = {"ports": [{"port": 1}]}

        async def in_force() -> bool:
            await asyncio.to_thread(plane.apply, probe)
            found = await salon.found(SERVICES, "probe")
            await salon.team.kube.delete(SERVICES, found)
            return bool(found["spec"].get("publishNotReadyAddresses"))

        async with asyncio.timeout(60):
            while not await in_force():  # noqa: ASYNC110
                await asyncio.sleep(0.2)
        await salon.open(service={"annotations": {"example.org/who": "poet"}})
        await salon.state("Serving")
        assert (await salon.found(SERVICES))["metadata"]["annotations"]["example.org/who"] == "policy"
        await salon.team.alone(running)
        before = running.metric(APPLIED_SERVICES)
        for number in range(5):
            await salon.set(page={"title": f"Poet {number}"})
            await salon.state("Serving")
        assert running.metric(APPLIED_SERVICES) - before <= 1
    finally:
        kinds = ("mutatingadmissionpolicybinding", "mutatingadmissionpolicy")
        for kind in kinds:
            plane.kubectl("delete", "--ignore-not-found", kind, f"stubborn-{namespace}")


APPLIED_SERVICES = 'alpaca_api_writes_total{resource="services",verb="apply"}'


def stubborn(namespace: str) -> list[Object]:
    """A policy that writes over what a Service of the namespace asks for."""
    name = f"stubborn-{namespace}"
    mutation = (
        'Object{metadata: Object.metadata{annotations: {"example.org/who": "policy"}}, '
        "spec: Object.spec{publishNotReadyAddresses: true}}"
    )
    api = "admissionregistration.k8s.io/v1"
    return [
        {
            "apiVersion": api,
            "kind": "MutatingAdmissionPolicy",
            "metadata": {"name": name},
            "spec": {
                "failurePolicy": "Fail",
                "reinvocationPolicy": "Never",
                "matchConstraints": {
                    "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
                    "resourceRules": [
                        {
                            "apiGroups": [""],
                            "apiVersions": ["v1"],
                            "resources": ["services"],
                            "operations": ["CREATE", "UPDATE"],
                        }
                    ],
                },
                "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": mutation}}],
            },
        },
        {
            "apiVersion": api,
            "kind": "MutatingAdmissionPolicyBinding",
            "metadata": {"name": name},
            "spec": {"policyName": name},
        },
    ]
