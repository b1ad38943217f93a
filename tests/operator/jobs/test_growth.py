"""A job that goes on with fewer nodes than it asks for grows when there is room, and looks for it without being in anybody's way."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from alpaca_operator.api.contract import LABEL_SCOUT
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.objects import Pod
from alpaca_operator.exits import Refused
from alpaca_operator.jobs import growth, status
from alpaca_operator.outcomes.observed import Observed, Scout
from alpaca_operator.outcomes.verdict import Desired
from tests.operator.cases import CHECKPOINT, STARTED, TRAINING, prior, ready, resource
from tests.operator.jobs.test_several import jobset, looked, up
from tests.operator.pods import at, job, pod, unplaced

Object = dict[str, Any]

FEWER = {"nodes": 4, "minNodes": 2, "rescaleAfterSeconds": 300}
TWO = {"nodes": {"ready": 2, "total": 2, "display": "2/2"}, **STARTED}
PLACED = {"type": "PodScheduled", "status": "True"}


def looks(*pods: Object, missing: int = 2, began: float = 400, **more: Any) -> Scout:
    """The scout, with these pods."""
    raw = job(started=at(began), **{"spec": {"parallelism": missing, "activeDeadlineSeconds": 660}, **more})
    raw["metadata"] |= {"name": "poet-sft-scout", "uid": "uid-scout", "labels": {LABEL_SCOUT: "true"}}
    return Scout(raw, tuple(map(Pod, pods)))


def found(name: str) -> Object:
    return pod(name, of="uid-scout", status={"conditions": [PLACED]})


def without_room() -> Object:
    return unplaced("0/2 nodes are available: 2 Insufficient nvidia.com/gpu.")


def unjudged() -> Object:
    return pod("late", of="uid-scout", spec={"nodeName": ""})


def seen(scout: Scout | None = None, *, after: float = 410, size: int = 2, **more: Any) -> Observed:
    pods = [up(index) for index in range(size)]
    given: Object = {"child": jobset(nodes=size), "progress": TRAINING, **more}
    return replace(looked(*pods, after=after, **given), scout=scout)


def poet(before: Object | None = None, passes: int = 3, **spec: Any) -> Any:
    given = {"parallelism": FEWER, "training": {"gradientAccumulation": passes}, **spec}
    return resource(before or prior(TWO, "Running"), **given)


def test_that_it_waits_for_room_is_told():
    after = status.compute(poet(), seen(), None)
    assert ready(after)["message"].endswith("1 more with it (2 of 4 nodes: waits for room for more)")


@pytest.mark.parametrize(
    ("changed", "wanted"),
    [
        pytest.param({"after": 299}, Desired.UNCHANGED, id="not before it has run as long as it waited"),
        pytest.param({"after": 300}, Desired.PRESENT, id="then one looks"),
        pytest.param({"size": 4}, Desired.UNCHANGED, id="not with all nodes"),
        pytest.param({"child": jobset(nodes=3)}, Desired.UNCHANGED, id="not before all of its pods run"),
        pytest.param(
            {"child": jobset(nodes=2, spec={"suspend": True})}, Desired.UNCHANGED, id="not while a queue holds it"
        ),
        pytest.param({"child": jobset(nodes=2, deletionTimestamp=at(1))}, Desired.UNCHANGED, id="not while it stops"),
        pytest.param({"child": jobset("Completed", nodes=2)}, Desired.UNCHANGED, id="not at its end"),
    ],
)
def test_when_one_looks_for_room(changed, wanted):
    assert growth.scouting(poet(), seen(**changed)) is wanted


def test_it_is_looked_at_again_when_it_is_time():
    assert status.requeue_after(poet(), seen(after=299)).total_seconds() == 1
    assert status.requeue_after(poet(), seen(looks(unjudged(), unjudged()), after=459)).total_seconds() == 1
    over = looks(condition="Failed", when=460)
    assert status.requeue_after(poet(), seen(over, after=759)).total_seconds() == 1


def test_with_how_many_it_goes_on_is_not_forgotten_while_a_pod_is_refused():
    refusal = Refused(Reason.QUOTA_EXCEEDED, "exceeded quota: gpus")
    after = status.compute(poet(), looked(up(0), child=jobset(nodes=2), refusal=refusal), None)
    assert ready(after)["reason"] == "QuotaExceeded"
    assert after["nodes"] == {"ready": 1, "total": 2, "display": "1/2"}


def test_who_may_not_go_on_with_fewer_never_looks():
    alone = resource(prior(TWO, "Running"), parallelism={"nodes": 4})
    assert growth.scouting(alone, seen()) is Desired.UNCHANGED
    assert status.requeue_after(alone, seen(after=50)) is None


@pytest.mark.parametrize(
    ("scout", "after", "wanted"),
    [
        pytest.param(looks(without_room(), without_room()), 459, Desired.UNCHANGED, id="it looks"),
        pytest.param(looks(without_room(), without_room()), 460, Desired.STOPPED, id="for a minute"),
        pytest.param(looks(found("a"), without_room()), 460, Desired.STOPPED, id="half of it is let go of again"),
        pytest.param(
            looks(spec={"suspend": True, "parallelism": 2}), 4000, Desired.UNCHANGED, id="in a queue it may wait"
        ),
        pytest.param(looks(condition="Failed", when=460), 759, Desired.UNCHANGED, id="then it is left alone"),
        pytest.param(looks(condition="Failed", when=460), 760, Desired.ABSENT, id="until the next"),
        pytest.param(looks(missing=1), 410, Desired.ABSENT, id="it looks for what is missing no more"),
    ],
)
def test_how_long_it_looks(scout, after, wanted):
    job = poet(passes=2)  # three nodes cannot share eight passes
    assert growth.scouting(job, seen(scout, after=after)) is wanted


def test_with_room_it_says_so_then_stops_then_goes_on_with_all_and_lets_the_scout_go_last():
    scout = looks(found("a"), found("b"))
    before = prior({**TWO, "checkpoint": CHECKPOINT.model_dump()}, "Running")
    after = status.compute(poet(before), seen(scout), None)
    assert status.desired(poet(before), seen(scout)) is Desired.PRESENT, "the status says so first"
    assert (ready(after)["reason"], ready(after)["message"]) == (
        "Stopping",
        "there is room for 4 nodes: JobSet poet-sft grows, which is made anew with them, and continues from the checkpoint at step 40",
    )
    assert after["nodes"] == {"ready": 2, "total": 4, "display": "2/4", "grown": 1}
    told = poet(after)
    assert status.desired(told, seen(scout)) is Desired.ABSENT
    going = seen(scout, after=470, child=jobset(nodes=2, deletionTimestamp=at(420)))
    assert growth.scouting(told, going) is Desired.UNCHANGED, "what it has found is kept"
    assert status.compute(told, going, None)["nodes"] == after["nodes"]
    gone = replace(going, child=None, pods=(), family=frozenset())
    assert (status.desired(told, gone), growth.scouting(told, gone)) == (Desired.PRESENT, Desired.UNCHANGED)
    assert told.size == 4
    assert status.compute(told, gone, None)["nodes"]["grown"] == 1
    again = seen(scout, child=jobset(nodes=4), size=0)
    assert growth.scouting(told, again) is Desired.ABSENT
    assert status.compute(told, again, None)["restarts"]["total"] == 0


@pytest.mark.parametrize(
    ("pods", "passes", "size"),
    [
        pytest.param([found("a"), found("b")], 3, 4, id="for all"),
        pytest.param([found("a"), without_room()], 3, 3, id="for one more, and three share twelve passes"),
        pytest.param([found("a"), without_room()], 2, 2, id="for one more, and three cannot share eight"),
        pytest.param([found("a"), unjudged()], 3, 2, id="nobody knows yet"),
        pytest.param([found("a")], 3, 2, id="they are not all made yet"),
        pytest.param([without_room(), without_room()], 3, 2, id="for none"),
    ],
)
def test_how_far_it_grows(pods, passes, size):
    after = status.compute(poet(passes=passes), seen(looks(*pods)), None)
    assert after["nodes"]["total"] == size


def test_what_an_ended_scout_had_found_is_no_room():
    ended = looks(found("a"), found("b"), condition="Failed", when=405)
    assert status.compute(poet(), seen(ended), None)["nodes"]["total"] == 2


def test_each_time_that_it_has_grown_it_waits_twice_as_long():
    before = prior({**TWO, "nodes": {**TWO["nodes"], "grown": 2}}, "Running")
    assert growth.scouting(poet(before), seen(after=1199)) is Desired.UNCHANGED
    assert growth.scouting(poet(before), seen(after=1200)) is Desired.PRESENT
    assert status.compute(poet(before), seen(), None)["nodes"]["grown"] == 2


@pytest.mark.parametrize(
    "job",
    [
        pytest.param(poet(suspend=True), id="held"),
        pytest.param(poet(prior({**TWO, "completionTime": at(400)}, "Succeeded")), id="at its end"),
    ],
)
def test_without_the_job_no_scout(job):
    assert growth.scouting(job, seen(looks(found("a"), found("b")))) is Desired.ABSENT
    assert growth.scouting(job, seen()) is Desired.UNCHANGED
