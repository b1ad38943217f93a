"""What the API server leaves out is read as what it means."""

from __future__ import annotations

import pytest

from alpaca_operator.cluster.objects import (
    ObjectCondition,
    Pod,
    Terminated,
    Waiting,
    condition,
    controller_of,
    true_condition,
)
from tests.operator.pods import at, ended, job, pod, running, waiting

DONE = job(condition="Complete", reason="CompletionsReached", when=90)


class TestConditions:
    def test_one_that_holds(self) -> None:
        found = ObjectCondition("Complete", "True", "CompletionsReached", "", at(90))
        assert condition(DONE, "Complete") == found
        assert true_condition(DONE, "Complete") == found

    @pytest.mark.parametrize(
        "obj",
        [
            pytest.param(DONE, id="others are there"),
            pytest.param({"status": {"conditions": None}}, id="none is there"),
            pytest.param({}, id="there is no status"),
            pytest.param(None, id="there is no object"),
        ],
    )
    def test_one_that_is_absent_is_unknown(self, obj: dict[str, object] | None) -> None:
        assert condition(obj, "Failed") == ObjectCondition("Failed", "Unknown")
        assert true_condition(obj, "Failed") is None


class TestContainers:
    def test_one_that_ended(self) -> None:
        read = Pod(ended(65, says="row 7", finished=60))
        assert read.terminated == [Terminated(65, "Error", "row 7", at(60))]
        assert (read.phase, read.is_over, read.is_running) == ("Failed", True, False)

    def test_one_that_waits(self) -> None:
        (container,) = Pod(waiting("ErrImagePull", "no such host")).containers
        assert container.waiting == Waiting("ErrImagePull", "no such host")
        assert container.terminated is None

    def test_one_that_runs(self) -> None:
        (container,) = Pod(running()).containers
        assert (container.waiting, container.terminated, container.ready) == (None, None, False)

    def test_those_that_prepare_come_first(self) -> None:
        read = Pod(pod(status={"initContainerStatuses": [{"name": "a"}], "containerStatuses": [{"name": "b"}]}))
        assert [one.name for one in read.all_containers] == ["a", "b"]
        assert [one.name for one in read.containers] == ["b"]

    def test_one_that_was_started_again_as_it_ended_last(self) -> None:
        states = [
            {"name": "page", "ready": True, "lastState": {"terminated": {"exitCode": 1}}},
            {"name": "engine", "state": {"running": {}}, "lastState": {"terminated": {"exitCode": 137}}},
        ]
        read = Pod(pod(phase="Running", status={"containerStatuses": states})).at_last_end()
        assert read is not None
        assert ([one.name for one in read.containers], read.terminated) == (["engine"], [Terminated(137)])
        assert Pod(running()).at_last_end() is None


def test_a_pod_that_is_new_has_neither_node_nor_addresses_nor_containers() -> None:
    bare = Pod({"metadata": {"name": "poet"}})
    assert (bare.node, bare.ip, bare.host_ip, bare.phase, bare.containers) == ("", "", None, "", [])
    assert (bare.controller_uid, bare.deletion_timestamp, bare.claims) == (None, None, [])


def test_an_owner_that_is_no_controller_is_none() -> None:
    assert controller_of({"metadata": {"ownerReferences": [{"kind": "SFTJob", "uid": "a"}]}}) is None
    assert Pod(pod(of="uid-job")).controller_uid == "uid-job"
