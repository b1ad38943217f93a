"""What the status says of a page in pods of its own, and where it is reached."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from alpaca_operator import events
from alpaca_operator.api.contract import LABEL_REVISION, Termination
from alpaca_operator.api.status import Reason
from alpaca_operator.chats import status
from alpaca_operator.cluster.objects import Pod
from alpaca_operator.outcomes.observed import Observed, PageApart
from tests.operator.cases import ready
from tests.operator.chats.test_status import LATE, SERVICE, chat, deployment, observed, pod
from tests.operator.pods import at

Object = dict[str, Any]
NO_PAGE: Any = object()


def apart(*pods: Object, replicas: int = 1, condition: Object | None = None) -> PageApart:
    raw = {
        "kind": "Deployment",
        "metadata": {"name": "poet-chat-page", "namespace": "poetry", "generation": 1},
        "spec": {"replicas": replicas, "template": {"metadata": {"labels": {LABEL_REVISION: "new"}}}},
        "status": {"conditions": [condition] if condition else []},
    }
    return PageApart(raw, tuple(map(Pod, pods)))


def page(name: str = "poet-chat-page-a", revision: str = "new", *, host: str = "10.0.0.9", **more: Any) -> Object:
    """A pod of the page alone."""
    made = pod(name, revision, **more)
    made["spec"]["containers"] = [{"name": "ui", "resources": {}}]
    made["status"]["hostIP"] = host
    for one in made["status"]["containerStatuses"]:
        one["name"] = "ui"
    return made


def engine(*, with_page: bool = False, **more: Any) -> Object:
    made = pod(**more)
    made["spec"]["containers"] += [{"name": "ui", "resources": {}}] if with_page else []
    return made


def unpullable() -> Object:
    waiting = {"waiting": {"reason": "ImagePullBackOff", "message": "manifest unknown"}}
    return page("poet-chat-page-b", answers=False, phase="Pending", state=waiting, image="registry.example/page:2")


def crashing() -> Object:
    says = Termination(
        reason=Reason.INVALID_SPEC, exit_code=64, message="ALPACA_CHAT_PASSWORD is not set: put it there"
    )
    ended = {"exitCode": 64, "reason": "Error", "finishedAt": at(50), "message": says.to_json()}
    state = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}
    return page("poet-chat-page-b", answers=False, state=state, lastState={"terminated": ended}, restartCount=3)


def condition(cluster: Observed, **spec: Any) -> tuple[str, str, str] | None:
    written = status.compute(chat(page={"replicas": 2}, **spec), cluster, None)
    found = next((one for one in written["conditions"] if one["type"] == "PageAvailable"), None)
    return (found["status"], found["reason"], found["message"]) if found else None


def seen(pages: PageApart | None, *pods: Object) -> Observed:
    return replace(observed(*pods, child=deployment()), page=pages)


REFUSED = {
    "type": "ReplicaFailure",
    "status": "True",
    "reason": "FailedCreate",
    "message": 'pods "poet-chat-page-x" is forbidden: exceeded quota: small, requested: pods=1, used: pods=2, limited: pods=2',
}


@pytest.mark.parametrize(
    ("cluster", "said"),
    [
        pytest.param(seen(None), ("False", "Pending", "waits for its pods to start"), id="nothing is there yet"),
        pytest.param(
            seen(apart(page(answers=False))), ("False", "Pending", "waits for its pods to start"), id="it starts"
        ),
        pytest.param(seen(apart(page())), ("True", "Serving", "the page answers on 1 of 1 pod"), id="it answers"),
        pytest.param(
            seen(apart(page(), page("b", answers=False), replicas=2)),
            ("True", "Degraded", "the page answers on 1 of 2 pods: others start"),
            id="one of two answers",
        ),
        pytest.param(
            seen(apart(page(revision="old"), crashing())),
            (
                "True",
                "Degraded",
                "the page answers on 1 of 1 pod: ALPACA_CHAT_PASSWORD is not set: put it there (pod poet-chat-page-b, exit 64)",
            ),
            id="a new one crashes, and the old one answers",
        ),
        pytest.param(
            seen(apart(crashing())),
            (
                "False",
                "InvalidSpec",
                "ALPACA_CHAT_PASSWORD is not set: put it there (pod poet-chat-page-b, exit 64)",
            ),
            id="it crashes",
        ),
        pytest.param(
            seen(apart(condition=REFUSED)),
            (
                "False",
                "QuotaExceeded",
                "quota small has no room (requested: pods=1, used: pods=2, limited: pods=2): lower page.resources, wait for other jobs to end, or ask for a larger quota",
            ),
            id="a quota has no room for it",
        ),
        pytest.param(
            seen(apart(page(answers=False), condition=LATE)),
            (
                "False",
                "DeadlineExceeded",
                "not ready for ten minutes: see kubectl logs -n poetry of poet-chat-page-a",
            ),
            id="it does not come up, and nobody knows why",
        ),
    ],
)
def test_a_situation(cluster: Observed, said: tuple[str, str, str]) -> None:
    assert condition(cluster) == said


def test_an_image_that_cannot_be_pulled_is_told_with_who_has_the_page_meanwhile() -> None:
    cluster = seen(apart(unpullable()), engine(with_page=True))
    told = condition(cluster)
    assert told is not None
    assert told[:2] == ("False", "ImageNotPullable")
    assert told[2].startswith("image registry.example/page:2 cannot be pulled")
    assert told[2].endswith("; until then the engine's pods have the page")
    assert not str((condition(seen(apart(unpullable()), engine())) or "")[2]).endswith("have the page")


def test_no_node_for_it_is_told_by_its_own_fields() -> None:
    lost = page(answers=False, phase="Pending")
    message = "0/3 nodes are available: 3 node(s) had untolerated taint {web: only}."
    lost["spec"]["nodeName"] = ""
    lost["status"] = {
        "phase": "Pending",
        "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}],
    }
    told = condition(seen(apart(lost)))
    assert told is not None
    assert told[:2] == ("False", "Unschedulable")
    assert "add the taint to page.tolerations" in told[2]


def test_ready_is_the_engines() -> None:
    asks = {"page": {"replicas": 1}}
    for pods, reason in (((pod(),), "Serving"), ((pod(answers=False),), "Starting")):
        for pages in (apart(page()), apart(crashing())):
            assert ready(status.compute(chat(**asks), seen(pages, *pods), None))["reason"] == reason


def test_it_says_nothing_of_a_page_in_the_engines_pods() -> None:
    written = status.compute(chat(), observed(pod(), child=deployment()), None)
    assert "PageAvailable" not in {one["type"] for one in written["conditions"]}


def test_one_that_is_broken_is_told_by_an_event_once() -> None:
    def written(pages: PageApart) -> Object:
        return status.compute(chat(page={"replicas": 1}), seen(pages, pod()), None)

    starts, broken, fine = written(apart()), written(apart(crashing())), written(apart(page()))
    note = events.of_page(starts, broken)
    assert note is not None
    assert (note.type, note.reason) == ("Warning", "InvalidSpec")
    assert events.of_page(broken, broken) is events.of_page({}, starts) is events.of_page(starts, fine) is None


def only(service: Object, *ports: int, **more: Any) -> Object:
    kept = [port for port in SERVICE["spec"]["ports"] if port["port"] in ports]
    return {**service, "spec": {**service["spec"], "ports": kept, **more}}


class TestAddresses:
    OF_PAGE = only({**SERVICE, "metadata": {"name": "poet-chat-page", "namespace": "poetry"}}, 7860)
    OF_PODS = only({**SERVICE, "metadata": {"name": "poet-chat-pods", "namespace": "poetry"}}, 8000)

    def told(self, pages: PageApart | None, *services: Object, **spec: Any) -> tuple[str, str]:
        cluster = replace(seen(pages, pod()), other_children=services)
        written = status.compute(chat(page={"replicas": 1}, **spec), cluster, None)
        return written["url"], written["apiUrl"]

    @pytest.mark.parametrize("answers", [True, False])
    def test_lead_to_the_page_and_to_the_engine(self, answers: bool) -> None:
        for order in ((0, 1, 2), (2, 1, 0)):
            services = [(only(SERVICE, 8000), self.OF_PAGE, self.OF_PODS)[number] for number in order]
            assert self.told(apart(page(answers=answers)), *services) == (
                "http://poet-chat-page.poetry.svc:7860",
                "http://poet-chat.poetry.svc:8000/v1",
            )

    def test_lead_to_the_engines_pods_while_these_have_the_page_and_its_own_do_not_answer(self) -> None:
        found = self.told(apart(page(answers=False)), SERVICE, self.OF_PAGE, self.OF_PODS)
        assert found == ("http://poet-chat.poetry.svc:7860", "http://poet-chat.poetry.svc:8000/v1")
        found = self.told(apart(page()), SERVICE, self.OF_PAGE, self.OF_PODS)
        assert found[0] == "http://poet-chat-page.poetry.svc:7860"

    def test_of_nodes_are_those_of_their_pods(self) -> None:
        services = (only(SERVICE, 8000, type="NodePort"), only(self.OF_PAGE, 7860, type="NodePort"))
        assert self.told(apart(page()), *services) == ("http://10.0.0.9:30786", "http://10.0.0.7:30800/v1")
