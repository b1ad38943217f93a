"""What looks for room asks for what a missing node would, and takes nothing else."""

from __future__ import annotations

from alpaca_operator.api.contract import LABEL_SCOUT, LABEL_UID
from alpaca_operator.api.status import NodesStatus, Status
from alpaca_operator.plan.jobset import several_pods
from alpaca_operator.plan.pod import template
from alpaca_operator.plan.scout import scout
from tests.plan.build import SETTINGS, sft_job

POD = {
    "resources": {"limits": {"nvidia.com/gpu": "8"}, "requests": {"cpu": "16"}},
    "nodeSelector": {"pool": "a100"},
    "tolerations": [{"key": "gpu", "operator": "Exists"}],
    "priorityClassName": "patient",
    "schedulerName": "volcano",
    "terminationGracePeriodSeconds": 120,
    "annotations": {"team": "poets"},
}
QUEUE = {"kueue.x-k8s.io/queue-name": "gpus", "kueue.x-k8s.io/priority-class": "low"}


def of_two():
    job = sft_job(parallelism={"nodes": 5, "minNodes": 1}, pod=POD, metadata={"labels": QUEUE})
    nodes = NodesStatus(ready=2, total=2, display="2/2")
    return job.model_copy(update={"status": Status(nodes=nodes)})


def test_it_asks_for_as_many_pods_as_are_missing_where_the_others_run():
    job = of_two()
    found = scout(job, SETTINGS)
    assert (found["spec"]["parallelism"], found["spec"]["completions"]) == (3, 3)
    asked, wanted = found["spec"]["template"]["spec"], template(job, SETTINGS)["spec"]
    apart = {"containers", "terminationGracePeriodSeconds"}
    assert {name: value for name, value in asked.items() if name not in apart} == {
        name: value for name, value in wanted.items() if name not in apart
    }
    [container], [workload] = asked["containers"], wanted["containers"]
    assert (container["resources"], container["image"]) == (workload["resources"], workload["image"])
    assert not {"env", "envFrom", "volumeMounts", "ports"} & container.keys()


def test_it_stands_in_the_same_queue_and_is_told_from_the_child():
    job = of_two()
    found, child = scout(job, SETTINGS), several_pods(job, template(job, SETTINGS))
    assert found["metadata"]["name"] == f"{child['metadata']['name']}-scout"
    assert found["metadata"]["labels"] == {**child["metadata"]["labels"], LABEL_SCOUT: "true"}
    assert found["metadata"]["ownerReferences"] == child["metadata"]["ownerReferences"]
    labels = found["spec"]["template"]["metadata"]["labels"]
    assert QUEUE.items() <= labels.items()
    assert (labels[LABEL_UID], labels[LABEL_SCOUT]) == ("uid-poet", "true")
    assert found["spec"]["template"]["metadata"]["annotations"] == {"team": "poets"}


def test_it_ends_by_itself_and_at_once():
    spec = scout(of_two(), SETTINGS)["spec"]
    assert (spec["activeDeadlineSeconds"], spec["backoffLimit"]) == (180, 0)
    assert spec["template"]["spec"]["terminationGracePeriodSeconds"] == 1
