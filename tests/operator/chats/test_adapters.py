"""Adapters that come and go while pods serve: which pods are told, and what the status says of what they tell."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from alpaca_operator.api.contract import ANNOTATION_ADAPTERS, AdapterList, ListedAdapter
from alpaca_operator.chats import adapters, status
from alpaca_operator.outcomes.observed import Observed, Sample
from tests.operator.cases import ready
from tests.operator.chats.test_status import chat, deployment, observed, pod
from tests.operator.pods import START

Object = dict[str, Any]
BOTH = AdapterList(
    adapters=[ListedAdapter(name="poet", uri="s3://models/poet"), ListedAdapter(name="sage", uri="s3://models/sage")]
).to_json()


def child(listed: str | None = BOTH) -> Object:
    made = deployment()
    made["metadata"]["annotations"] |= {ANNOTATION_ADAPTERS: listed} if listed else {}
    return made


def knowing(listed: str | None, **more: Any) -> Object:
    made = pod(**more)
    made["metadata"]["annotations"] = {ANNOTATION_ADAPTERS: listed} if listed else {}
    return made


def telling(*samples: Sample, passed_over: tuple[str, ...] = (), listed: str | None = BOTH) -> Observed:
    found = observed(knowing(listed), child=child(listed), passed_over=passed_over)
    return replace(found, traffic=tuple((sample, START) for sample in samples))


class TestPodsAreTold:
    def told(self, *pods: Object, **more: Any) -> list[str]:
        return [found.name for found, _ in adapters.retold(observed(*pods, child=child(**more)))]

    def test_of_another_list(self):
        (found, patch), *_ = adapters.retold(observed(knowing('{"adapters":[]}'), child=child()))
        assert (found.name, patch) == ("poet-chat-a", {"metadata": {"annotations": {ANNOTATION_ADAPTERS: BOTH}}})

    def test_once(self):
        assert self.told(knowing(BOTH)) == []

    def test_unless_they_are_of_an_earlier_plan_or_go(self):
        going = knowing(None)
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        assert self.told(knowing(None, revision="old"), going, knowing(None, phase="Failed")) == []

    def test_not_where_adapters_are_a_part_of_the_model(self):
        assert self.told(knowing(None), listed=None) == []


ALL = Sample(digests={"poet-base": "sha256:0", "poet": "sha256:1", "sage": "sha256:2"})
WIDE = "spec.adapters[sage] s3://models/sage brings embeddings: merge first"


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        pytest.param(telling(ALL), ("True", "Serving", "poet, sage answer"), id="all answer"),
        pytest.param(
            telling(ALL, Sample(digests={"poet": "sha256:1"})),
            ("False", "Pending", "sage: pods load what is new on the list"),
            id="one pod loads one of them",
        ),
        pytest.param(
            telling(), ("False", "Pending", "poet, sage: pods load what is new on the list"), id="no pod tells anything"
        ),
        pytest.param(
            telling(Sample(digests={"poet": "sha256:1"}, adapters_refused={"sage": WIDE})),
            ("False", "AdapterRefused", f"sage: {WIDE}"),
            id="one is refused",
        ),
        pytest.param(
            telling(ALL, passed_over=("SFTJob ode was trained on another",)),
            ("False", "AdapterRefused", "SFTJob ode was trained on another"),
            id="one is not taken",
        ),
        pytest.param(telling(ALL, listed='{"adapters":[]}'), None, id="there are none"),
        pytest.param(telling(ALL, listed=None), None, id="they are a part of the model"),
    ],
)
def test_the_condition(seen: Observed, told: tuple[str, str, str] | None) -> None:
    after = status.compute(chat(), seen, None)
    found = [one for one in after["conditions"] if one["type"] == "AdaptersLoaded"]
    assert [(one["status"], one["reason"], one["message"]) for one in found] == ([told] if told else [])


@pytest.mark.parametrize(
    ("seen", "state"),
    [
        pytest.param(telling(), "True", id="the pods were not asked yet"),
        pytest.param(telling(listed='{"adapters":[{"name":"ode","uri":"s3://ode"}]}'), "False", id="of another list"),
        pytest.param(telling(Sample(digests={"poet": "sha256:1"})), "False", id="one has gone since"),
        pytest.param(replace(telling(), pods=()), "False", id="no pod is there"),
    ],
)
def test_an_operator_that_was_just_started_says_what_the_last_one_said(seen: Observed, state: str) -> None:
    before = status.compute(chat(), telling(ALL), None)
    after = status.compute(chat(before), seen, None)
    [found] = [one["status"] for one in after["conditions"] if one["type"] == "AdaptersLoaded"]
    assert found == state


def test_what_is_refused_stands_in_the_line_that_people_read_and_the_others_are_served():
    seen = telling(Sample(digests={"poet": "sha256:1"}, adapters_refused={"sage": WIDE, "gone": "it is on no list"}))
    line = ready(status.compute(chat(), seen, None))
    assert (line["status"], line["reason"]) == ("True", "Serving")
    assert line["message"].endswith(f"on 1 of 1 pod; adapter sage is not served: {WIDE}")
