"""What a user of kubectl expects of any resource."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.cluster.bed.cache import BedError
from tests.cluster.bed.cluster import until
from tests.cluster.team import Team, ready, sft_job

pytestmark = pytest.mark.cluster

UNPLACEABLE = {"pod": {"resources": {"limits": {"nvidia.com/gpu": 64}}}}
"""A pod that is made, and never started."""

WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "a field that does not exist": (
        {"training": {"learningrate": 1e-4}},
        'strict decoding error: unknown field "spec.training.learningrate"',
    ),
    "a value that is none of those allowed": (
        {"method": "Lora"},
        'spec.method: Unsupported value: "Lora": supported values: "LoRA", "QLoRA", "Full"',
    ),
    "a number out of bounds": (
        {"training": {"epochs": 0}},
        'The SFTJob "poet" is invalid: spec.training.epochs: Invalid value: 0: spec.training.epochs in body should be greater than 0',
    ),
    "a required field that is missing": ({"output": None}, "spec.output: Required value"),
    "fields that exclude each other": (
        {"method": "Full", "merge": True},
        "merge has nothing to merge with method Full: remove merge, the output is a whole model already",
    ),
    "a hub as output": (
        {"output": {"uri": "hf://me/poet"}},
        "output.uri cannot be hf://, ms:// or oci://: write to pvc://, s3:// or a path, and name the other in publish, which pushes from there",
    ),
}


@pytest.mark.parametrize("mistake", WRONG)
def test_a_wrong_file_is_answered_at_once_with_what_to_do(shared: Team, mistake: str) -> None:
    spec, answer = WRONG[mistake]
    with pytest.raises(BedError) as refused:
        shared.start("poet", **spec)
    assert answer in " ".join(str(refused.value).split())
    assert shared.jobs() == []


def test_a_name_that_leaves_no_room_for_its_pods_is_refused(shared: Team) -> None:
    with pytest.raises(BedError, match="50 characters"):
        shared.start("p" * 51)


def test_every_field_is_explained(shared: Team) -> None:
    explained = " ".join(shared.kubectl("explain", "sftjob.spec.training.learningRate").split())
    assert "FIELD: learningRate <number>" in explained
    assert "Peak learning rate. 1e-4 suits LoRA; use about 2e-5 with `method: Full`." in explained
    assert "FIELDS:" in shared.kubectl("explain", "sftj.spec.training")
    assert "kstatus read these" in " ".join(shared.kubectl("explain", "sftjob.status.conditions").split())


def test_a_job_is_found_by_its_short_name_and_its_category(mine: Team) -> None:
    mine.start("poet", suspend=True)
    assert mine.kubectl("get", "sftj", "-o", "name") == "sftjob.literary-alpaca.io/poet\n"
    assert mine.kubectl("get", "alpaca", "-o", "name") == "sftjob.literary-alpaca.io/poet\n"


def test_the_spec_of_a_job_stays_and_what_may_change_changes(mine: Team) -> None:
    mine.start("poet", suspend=True)
    with pytest.raises(BedError, match="field is immutable: to change training, create a job with a new name"):
        mine.set("poet", training={"epochs": 5})
    mine.set("poet", ttlSecondsAfterFinished=60, activeDeadlineSeconds=3600)
    again = mine.apply(sft_job("poet", suspend=True))
    assert again in ("sftjob.literary-alpaca.io/poet configured\n", "sftjob.literary-alpaca.io/poet unchanged\n")


def test_describe_tells_the_state_and_the_events(mine: Team) -> None:
    mine.start("poet", **UNPLACEABLE)
    message = ready(mine.state("poet", "Unschedulable"))["message"]
    until(lambda: mine.events("poet"), "the event")
    described = " ".join(mine.kubectl("describe", "sftjob", "poet").split())
    assert message in described
    assert "Warning Unschedulable" in described
    assert "literary-alpaca.io/operator" in described


def test_waiting_for_a_job_that_cannot_start_ends_with_the_users_patience(mine: Team) -> None:
    mine.start("poet", **UNPLACEABLE)
    with pytest.raises(BedError, match="timed out waiting for the condition on sftjobs/poet"):
        mine.kubectl("wait", "sftjob/poet", "--for=condition=Complete", "--timeout=2s")


@pytest.mark.parametrize("how", ["background", "foreground", "orphan"])
def test_a_deleted_job_takes_its_pods_along_unless_they_are_to_stay(mine: Team, how: str) -> None:
    mine.start("poet", **UNPLACEABLE)
    mine.state("poet", "Unschedulable")
    mine.kubectl("delete", "sftjob", "poet", f"--cascade={how}", "--timeout=60s")
    assert mine.jobs() == []
    left = mine.kubectl("get", "jobs,pods", "-o", "name")
    if how == "background":
        until(lambda: not mine.kubectl("get", "jobs,pods", "-o", "name"), "its children to go")
    elif how == "foreground":
        assert left == "", "they are gone first"
    else:
        assert "job.batch/poet-sft" in left
        mine.start("poet", **UNPLACEABLE)
        job = mine.state("poet", "NameConflict", seconds=60)
        assert "poet-sft" in ready(job)["message"]


def test_the_rights_of_a_namespace_are_those_for_its_jobs(mine: Team) -> None:
    """`edit` and `view` are the roles that every cluster has."""
    for role in ("edit", "view"):
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": role}}
        binding = {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "RoleBinding",
            "metadata": {"name": role},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role},
            "subjects": [{"kind": "ServiceAccount", "name": role, "namespace": mine.namespace}],
        }
        mine.apply(account, binding)

    def may(role: str, verb: str) -> str:
        user = f"--as=system:serviceaccount:{mine.namespace}:{role}"
        return mine.kubectl("auth", "can-i", verb, "sftjobs", user, check=False).strip()

    until(lambda: may("edit", "create") == "yes", "the aggregated roles")
    assert {verb: (may("edit", verb), may("view", verb)) for verb in ("get", "create", "delete")} == {
        "get": ("yes", "yes"),
        "create": ("yes", "no"),
        "delete": ("yes", "no"),
    }
    assert json.loads(mine.kubectl("get", "sftjobs", "-o", "json"))["items"] == []
