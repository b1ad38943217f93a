"""What pushes an output runs beside the job, without its GPUs, with the credentials of each place apart."""

from __future__ import annotations

import json
from typing import Any

from alpaca_operator.api.contract import ANNOTATION_CONFIG, ANNOTATION_PUSHES, LABEL_PUSHER, LABEL_UID
from alpaca_operator.api.sft import SFTJob
from alpaca_operator.api.status import OutputStatus, Status
from alpaca_operator.plan import PLANNERS
from alpaca_operator.plan.pusher import pusher
from tests.plan.build import SETTINGS, sft_job

PLACES = [
    {"uri": "hf://poets/poet", "secretRef": {"name": "hub"}},
    {"uri": "hf://others/poet", "secretRef": {"name": "theirs"}, "private": False},
]


def made(**spec: Any) -> SFTJob:
    job = sft_job(publish=PLACES, **spec)
    return job.model_copy(update={"status": Status(output=OutputStatus(uri="pvc://models/poet", digest="sha256:1"))})


def container(job: SFTJob, *places: int) -> dict[str, Any]:
    found: dict[str, Any] = pusher(job, places, SETTINGS)["spec"]["template"]["spec"]["containers"][0]
    return found


def test_it_pushes_what_the_job_has_made_to_the_places_that_are_due():
    found = container(made(), 1)
    assert found["command"] == ["python", "-m", "workloads.publish", "/etc/alpaca/job.json"]
    told = {one["name"]: one.get("value") for one in found["env"]}
    assert (told["ALPACA_PUSH"], told["ALPACA_PUSH_DIGEST"]) == ("1", "sha256:1")


def test_each_place_has_the_keys_of_its_own_secret():
    assert container(made(), 0, 1)["envFrom"] == [
        {"prefix": "ALPACA_PLACE_0_", "secretRef": {"name": "hub"}},
        {"prefix": "ALPACA_PLACE_1_", "secretRef": {"name": "theirs"}},
    ]


def test_it_asks_for_no_gpu():
    gpus = {"resources": {"limits": {"nvidia.com/gpu": 8}}, "resourceClaims": [{"name": "gpu"}]}
    found = pusher(made(pod=gpus), [0], SETTINGS)["spec"]["template"]["spec"]
    assert found["containers"][0]["resources"] == {
        "requests": {"cpu": "1", "memory": "1Gi"},
        "limits": {"memory": "4Gi"},
    }
    assert "resourceClaims" not in found


def test_the_pod_that_makes_the_model_knows_no_places_and_no_credentials_of_theirs():
    [child] = PLANNERS["SFTJob"](made(), {}, SETTINGS).manifests
    template = child["spec"]["template"]
    assert "publish" not in json.loads(template["metadata"]["annotations"][ANNOTATION_CONFIG])["spec"]
    assert "envFrom" not in template["spec"]["containers"][0]


def test_it_is_told_from_the_child_and_what_it_pushes_from_another_push():
    job = made()
    [child] = PLANNERS["SFTJob"](job, {}, SETTINGS).manifests
    found = pusher(job, [0, 1], SETTINGS)
    assert found["metadata"]["name"] == f"{child['metadata']['name']}-pub"
    assert found["metadata"]["labels"] == {**child["metadata"]["labels"], LABEL_PUSHER: "true"}
    labels = found["spec"]["template"]["metadata"]["labels"]
    assert (labels[LABEL_UID], labels[LABEL_PUSHER]) == ("uid-poet", "true")
    words = found["metadata"]["annotations"][ANNOTATION_PUSHES].split()
    remade = job.model_copy(update={"status": Status(output=OutputStatus(uri="pvc://models/poet", digest="sha256:2"))})
    others = pusher(remade, [0, 1], SETTINGS)["metadata"]["annotations"][ANNOTATION_PUSHES].split()
    assert len({*words, *others}) == 4
