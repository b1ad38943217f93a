"""The JobSet: what its failure policy makes of a Job's last message, and how its pods know who they are."""

from __future__ import annotations

import re

import pytest

from alpaca_operator.api import KINDS
from alpaca_operator.api.resource import API_VERSION, NODES_NAME_LIMIT
from alpaca_operator.api.status import NodesStatus, Restarts, Status
from alpaca_operator.plan import PLANNERS
from alpaca_operator.plan.jobset import failure_rules, pod_failure_rules, several_pods
from tests.api.minimal import MINIMAL
from tests.plan.build import ENDS, SETTINGS, first_match, sft_job


def planned(**more):
    plan = PLANNERS["SFTJob"](sft_job(parallelism={"nodes": 3}, **more), {}, SETTINGS)
    assert plan.refusal is None
    return {manifest["kind"]: manifest for manifest in plan.manifests}


def message(code: int | None, index: int) -> str:
    """As the Job controller writes it (Kubernetes 1.37, pkg/controller/job/pod_failure_policy.go)."""
    if code is None:
        return (
            f"Pod poetry/poet-sft-node-0-1-abcde has condition DisruptionTarget matching FailJob rule at index {index}"
        )
    return f"Container workload for pod poetry/poet-sft-node-0-1-abcde failed with exit code {code} matching FailJob rule at index {index}"


def becomes(code: int, *, disrupted: bool = False) -> str:
    """What the set does after a pod ended so: the Job's first rule that matches, then the set's."""
    matching = first_match(rules := pod_failure_rules(), code, disrupted=disrupted)
    if matching is None:
        reason, said = "BackoffLimitExceeded", "Job has reached the specified backoff limit"
    else:
        reason, said = "PodFailurePolicy", message(None if "onPodConditions" in rules[matching] else code, matching)
    for rule in failure_rules():
        patterns = rule.get("onJobFailureMessagePatterns", [""])
        if reason in rule["onJobFailureReasons"] and any(re.search(pattern, said) for pattern in patterns):
            return str(rule["action"])
    return "RestartJobSet"


OF_SET = {"FailJob": "FailJobSet", "Count": "RestartJobSet", "Ignore": "RestartJobSetAndIgnoreMaxRestarts"}
"""What means to several pods the same as to one."""


@pytest.mark.parametrize(("code", "disrupted", "of_job"), ENDS)
def test_what_an_exit_means_to_the_set(code, disrupted, of_job):
    assert becomes(code, disrupted=disrupted) == OF_SET[of_job]


def test_a_code_within_another_is_none():
    """`6` and `640` are no 64."""
    (futile,) = [rule for rule in failure_rules() if rule["name"] == "futile"]
    said = message(64, 2).replace("code 64", "code 640")
    assert not any(re.search(pattern, said) for pattern in futile["onJobFailureMessagePatterns"])


def test_the_host_name_of_node_0_fits_the_label_that_jobset_writes_it_in():
    name = "a" * NODES_NAME_LIMIT
    for kind in ("SFTJob", "PretrainJob"):
        spec = {**MINIMAL[kind], "parallelism": {"nodes": 1024}, "pod": {"image": "registry.example/train:1"}}
        job = KINDS[kind].model_validate(
            {
                "apiVersion": API_VERSION,
                "kind": kind,
                "metadata": {"name": name, "namespace": "poetry", "uid": "5f0c6a4e-0000"},
                "spec": spec,
            }
        )
        manifests = {one["kind"]: one for one in PLANNERS[kind](job, {}, SETTINGS).manifests}
        made = manifests["JobSet"]
        host = f"{made['metadata']['name']}-node-0-0.{made['spec']['network']['subdomain']}"
        pod = f"{made['metadata']['name']}-node-0-1023-abcde"
        assert len(host) <= 63
        assert len(pod) <= 63


@pytest.mark.parametrize("name", ["a" * (NODES_NAME_LIMIT + 1), "3-poets", "po.et"])
def test_a_name_that_is_none_of_a_host_is_refused(name):
    with pytest.raises(ValueError, match=r"metadata\.name of a job of several nodes becomes the name of hosts"):
        sft_job(metadata={"name": name}, parallelism={"nodes": 2})
    sft_job(metadata={"name": name}, parallelism={"nodes": 1})


def test_restarts_that_are_used_up_are_not_given_again():
    used = Status(restarts=Restarts(user=2, infra=5, total=7))
    job = sft_job(parallelism={"nodes": 3}).model_copy(update={"status": used})
    made = several_pods(job, {"metadata": {}, "spec": {}})
    assert made["spec"]["failurePolicy"]["maxRestarts"] == 1


def test_only_its_own_pods_reach_a_run_but_for_its_progress():
    policy, made = planned()["NetworkPolicy"], planned()["JobSet"]
    template = made["spec"]["replicatedJobs"][0]["template"]["spec"]["template"]
    selected = policy["spec"]["podSelector"]["matchLabels"]
    assert selected.items() <= template["metadata"]["labels"].items()
    assert list(selected.values()) == [made["metadata"]["labels"]["literary-alpaca.io/uid"]]
    among, progress = policy["spec"]["ingress"]
    assert among == {"from": [{"podSelector": {"matchLabels": selected}}]}
    assert progress == {"ports": [{"port": 8085, "protocol": "TCP"}]}


def test_what_kueue_reads_stands_on_the_set_and_its_pods_and_not_on_the_job_between():
    labels = {"kueue.x-k8s.io/queue-name": "gpus"}
    made = planned(metadata={"labels": labels})["JobSet"]
    job = made["spec"]["replicatedJobs"][0]["template"]
    assert labels.items() <= made["metadata"]["labels"].items()
    assert labels.items() <= job["spec"]["template"]["metadata"]["labels"].items()
    assert not labels.keys() & job["metadata"]["labels"].keys()


def test_with_fewer_nodes_it_is_a_smaller_set_whose_pods_are_told_so():
    job = sft_job(parallelism={"nodes": 4, "minNodes": 2}, metadata={"name": "poet"})
    fewer = job.model_copy(update={"status": Status(nodes=NodesStatus(ready=2, total=2, display="2/2"))})
    for made, size, told in ((job, 4, None), (fewer, 2, "2")):
        [jobset] = [one for one in PLANNERS["SFTJob"](made, {}, SETTINGS).manifests if one["kind"] == "JobSet"]
        spec = jobset["spec"]["replicatedJobs"][0]["template"]["spec"]
        assert (spec["parallelism"], spec["completions"]) == (size, size)
        env = spec["template"]["spec"]["containers"][0]["env"]
        assert next((one["value"] for one in env if one["name"] == "ALPACA_NODES"), None) == told
