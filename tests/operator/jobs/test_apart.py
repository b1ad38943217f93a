"""Several pods that share the work of one job and go on each for themselves: one that is lost is replaced, the first settles the end."""

from __future__ import annotations

from typing import Any

from alpaca_operator.api import KINDS
from alpaca_operator.api.contract import LABEL_INDEX, Termination
from alpaca_operator.api.status import Reason, unseen
from alpaca_operator.jobs import status
from alpaca_operator.outcomes.verdict import Desired
from tests.api.minimal import MINIMAL
from tests.operator.cases import STARTED, observed, prior, ready, true
from tests.operator.pods import JOB_UID, at, ended, job, pod, running, stopped

Object = dict[str, Any]

BAD_ROW = Termination(reason=Reason.INVALID_DATA, exit_code=65, message="web/6.jsonl, line 1: not JSON")
STOPPED = Termination(reason=Reason.INTERRUPTED, exit_code=75, message="stopped: run again to go on")


def resource(before: Object | None = None, nodes: int = 2, **spec: Any) -> Any:
    metadata = {"name": "poet", "namespace": "poetry", "uid": "uid-poet", "generation": 2}
    fields = {**MINIMAL["DatasetJob"], "parallelism": {"nodes": nodes}, **spec}
    made = {"kind": "DatasetJob", "metadata": metadata, "spec": fields, "status": before or unseen()}
    return KINDS["DatasetJob"].model_validate(made)


def child(condition: str = "", reason: str = "", nodes: int = 2, **more: Any) -> Object:
    spec = {"completions": nodes, "parallelism": nodes, "completionMode": "Indexed", "backoffLimit": 3}
    return job(condition=condition, reason=reason, spec=spec, **more)


def of_index(obj: Object, index: int, number: int = 1) -> Object:
    metadata = {
        **obj["metadata"],
        "name": f"poet-dataset-{index}-{number}",
        "uid": f"uid-{index}-{number}",
        "labels": {LABEL_INDEX: str(index)},
        "ownerReferences": [{"kind": "Job", "name": "poet-dataset", "uid": JOB_UID, "controller": True}],
    }
    return {**obj, "metadata": metadata}


def told(*pods: Object, before: Object | None = None, of: Object | None = None, nodes: int = 2) -> Object:
    made = resource(before or prior(STARTED, "Running"), nodes)
    return status.compute(made, observed(*pods, child=of or child(nodes=nodes)), None)


def test_all_work():
    after = told(of_index(running(), 0), of_index(running(), 1))
    assert (ready(after)["reason"], ready(after)["message"]) == (
        "Running",
        "pod poet-dataset-0-1 runs on node n1, 1 more with it",
    )
    assert after["nodes"]["total"] == 2


def test_one_is_replaced_and_the_other_goes_on():
    lost = of_index(ended(70, says=Termination(reason=Reason.WORKLOAD_ERROR, message="boom")), 1)
    after = told(of_index(running(), 0), lost, of_index(pod(), 1, 2))
    assert (ready(after)["reason"], ready(after)["message"]) == (
        "Running",
        "pod poet-dataset-0-1 runs on node n1; 1 of 2 pods starts",
    )
    assert after["restarts"] == {"user": 1, "infra": 0, "total": 1}
    assert [attempt["pod"] for attempt in after["attempts"]] == ["poet-dataset-1-1"]


def test_the_second_is_done_before_the_first():
    after = told(of_index(running(), 0), of_index(ended(0), 1))
    assert ready(after)["message"] == "pod poet-dataset-0-1 runs on node n1"
    assert "Complete" not in true(after)


def test_the_first_settles_it():
    done = Termination(reason=Reason.SUCCEEDED, message="published", step=7, total_steps=7)
    pods = (of_index(ended(0, says=done), 0), of_index(running(), 1))
    after = told(*pods)
    assert ready(after)["reason"] == "Succeeded"
    assert status.desired(resource(after), observed(*pods, child=child())) is Desired.UNCHANGED


def test_bad_data_of_one_ends_all_and_is_what_is_told():
    """The Job controller stops the others; that they stopped is no restart, and no reason."""
    bad = of_index(ended(65, says=BAD_ROW, finished=60), 1)
    other = stopped(of_index(ended(75, says=STOPPED, finished=95), 0), 91)
    after = told(bad, other, of=child("FailureTarget", "PodFailurePolicy"))
    assert (ready(after)["reason"], true(after)) == ("InvalidData", {"Failed", "Stalled"})
    assert after["failure"]["message"].startswith("web/6.jsonl, line 1: not JSON")
    assert after["restarts"]["total"] == 0
    assert [attempt["pod"] for attempt in after["attempts"]] == ["poet-dataset-1-1"]


def test_a_job_that_somebody_deleted_is_made_again_as_a_job():
    made = resource(prior(STARTED, "Running"))
    after = status.compute(made, observed(), None)
    assert ready(after)["message"].startswith("its Job was deleted by someone else and is made again")
    assert at(0) == after["startTime"]
