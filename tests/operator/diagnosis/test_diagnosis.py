"""Which pods have ended, which of their containers is to blame, and when time alone changes that."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from alpaca_operator import diagnosis
from alpaca_operator.api.contract import CONTAINER, Termination
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster import objects
from alpaca_operator.cluster.objects import Pod, Terminated
from alpaca_operator.diagnosis import diagnose
from alpaca_operator.diagnosis.pod import root_cause
from tests.operator.pods import START, at, ended, placed, pod, running, unplaced, waiting

LONG_AFTER = START + timedelta(hours=1)


def word(reason: Reason, code: int, message: str, **more) -> Termination:
    return Termination(reason=reason, exit_code=code, message=message, **more)


@pytest.mark.parametrize(
    "healthy",
    [
        pytest.param(pod(), id="just made"),
        pytest.param(waiting("ContainerCreating"), id="its image is being pulled"),
        pytest.param(waiting("PodInitializing"), id="a sidecar comes first"),
        pytest.param(placed(ready="True"), id="a pull that takes an hour"),
        pytest.param(placed(ready="False", when=3590), id="its volumes are being mounted"),
        pytest.param(unplaced("waiting for the gate", reason="SchedulingGated"), id="held by a scheduling gate"),
        pytest.param(running(), id="running"),
        pytest.param(running(metadata={"deletionTimestamp": at(3599)}), id="within its grace period"),
        pytest.param(ended(0), id="ended well"),
        pytest.param(ended(0, disrupted="EvictionByEvictionAPI"), id="ended well although its node was being drained"),
        pytest.param(ended(0, metadata={"deletionTimestamp": at(1)}), id="ended well and not yet gone"),
    ],
)
def test_a_pod_without_trouble(healthy):
    assert diagnose(Pod(healthy), LONG_AFTER) is None


def test_a_pod_is_known_to_have_ended_by_its_container_before_its_phase_says_so():
    broken = ended(65, says=word(Reason.INVALID_DATA, 65, "row 7"))
    broken["status"]["phase"] = "Running"
    found = diagnose(Pod(broken), START)
    assert (found.ended, found.message) == (True, "row 7 (pod poet-sft-a, exit 65)")


def test_a_sidecar_that_failed_does_not_end_a_pod_that_still_trains():
    busy = running()
    busy["status"]["containerStatuses"].append({"name": "proxy", "state": {"terminated": {"exitCode": 1}}})
    assert diagnose(Pod(busy), START) is None


def test_the_root_cause_is_the_most_telling_exit_and_then_the_earliest():
    def state(code: int, finished: float) -> Terminated:
        return Terminated(code, finished_at=at(finished))

    collateral, first, second = state(1, 3), state(65, 5), state(65, 4)
    assert root_cause([collateral, first, second]) == second
    assert root_cause([state(75, 1), collateral, state(70, 9)]) == state(70, 9)
    assert root_cause([]) is None


def test_the_workload_is_to_blame_before_a_sidecar_that_only_lost_it():
    broken = ended(65, says=word(Reason.INVALID_DATA, 65, "row 7"), finished=60)
    sidecar = {"name": "proxy", "state": {"terminated": {"exitCode": 1, "finishedAt": at(59)}}}
    broken["status"]["containerStatuses"].insert(0, sidecar)
    assert diagnose(Pod(broken), START).message == "row 7 (pod poet-sft-a, exit 65)"


def test_the_last_word_is_kept_whole():
    said = word(Reason.LOSS_DIVERGED, 64, "NaN", step=31, metrics={"loss": float("nan")}, rank=1)
    found = diagnose(Pod(ended(64, says=said)), START)
    assert found.termination.step == 31
    assert found.termination.metrics == {"loss": None}
    assert found.rank == 1


def test_the_contract_of_a_last_word_is_what_the_pods_above_say():
    message = ended(65, says=word(Reason.INVALID_DATA, 65, "row 7"))["status"]["containerStatuses"][0]["state"][
        "terminated"
    ]["message"]
    assert json.loads(message) == {"reason": "InvalidData", "exitCode": 65, "message": "row 7"}
    assert CONTAINER == "workload"


@pytest.mark.parametrize(
    ("waits", "then"),
    [
        pytest.param(placed(ready="False", when=10), at(130), id="until patience with its volumes ends"),
        pytest.param(running(metadata={"deletionTimestamp": at(600)}), at(660), id="until its node counts as silent"),
        pytest.param(placed(ready="True"), None, id="a pull takes as long as it takes"),
        pytest.param(running(), None, id="running"),
        pytest.param(ended(65, metadata={"deletionTimestamp": at(600)}), None, id="ended"),
        pytest.param(ended(0, metadata={"deletionTimestamp": at(600)}), None, id="ended well"),
    ],
)
def test_when_time_alone_changes_a_diagnosis(waits, then):
    assert diagnosis.changes_at(Pod(waits), START) == (objects.parse_time(then) if then else None)
    if then:
        assert diagnose(Pod(waits), objects.parse_time(then)) != diagnose(Pod(waits), START)
        assert diagnosis.changes_at(Pod(waits), objects.parse_time(then)) is None
