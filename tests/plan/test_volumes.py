"""Claims are found wherever the spec names them, mounted once, and read-only unless something is written."""

from __future__ import annotations

import pytest

from alpaca_operator.plan import volumes
from tests.plan.build import sft_job


@pytest.mark.parametrize(
    ("job", "claims"),
    [
        pytest.param(
            sft_job(), {"models": True, "data": False}, id="a claim with the output beside an input is written to"
        ),
        pytest.param(
            sft_job(output={"uri": "pvc://results/poet"}),
            {"models": False, "data": False, "results": True},
            id="inputs alone are read",
        ),
        pytest.param(
            sft_job(output={"uri": "s3://bucket/poet"}, cache={"claimName": "data"}),
            {"models": False, "data": True},
            id="a cache beside an input is written to",
        ),
        pytest.param(
            sft_job(
                adapter={"uri": "pvc://adapters/a"},
                templateFile={"uri": "pvc://templates/a.jinja"},
                dataset={
                    "train": [{"uri": "pvc://one/a"}, {"uri": "pvc://two/b"}, {"uri": "hf://org/set"}],
                    "validation": [{"uri": "pvc://three"}],
                },
            ),
            {"models": True, "adapters": False, "one": False, "two": False, "three": False, "templates": False},
            id="every field that has a source is looked at",
        ),
        pytest.param(
            sft_job(
                model={"uri": "hf://org/base"}, dataset={"train": [{"uri": "file:///rows"}]}, output={"uri": "s3://a/b"}
            ),
            {},
            id="other places need no claim",
        ),
    ],
)
def test_claims(job, claims):
    assert volumes.claims(job.spec) == claims
    mounted = {mount["mountPath"]: not mount["readOnly"] for mount in volumes.mounts(job) if "claim" in mount["name"]}
    assert mounted == {f"/mnt/{claim}": written for claim, written in claims.items()}


def test_every_mount_has_its_volume_and_every_volume_its_mount():
    job = sft_job(cache={"claimName": "cache"}, pod={"volumes": [{"name": "own", "mountPath": "/own", "emptyDir": {}}]})
    assert [volume["name"] for volume in volumes.volumes(job)] == [mount["name"] for mount in volumes.mounts(job)]


def test_a_volume_of_the_user_takes_the_place_of_ours():
    job = sft_job(pod={"volumes": [{"name": "disk", "mountPath": "/dev/shm/", "emptyDir": {}}]})
    names = [mount["name"] for mount in volumes.mounts(job)]
    assert "disk" in names
    assert "alpaca-shm" not in names
    assert names == [volume["name"] for volume in volumes.volumes(job)]


def test_the_fields_of_a_mount_reach_the_mount_and_those_of_a_volume_the_volume():
    mount = {"mountPath": "/ref", "readOnly": True, "subPath": "tiny", "mountPropagation": "None"}
    source = {"persistentVolumeClaim": {"claimName": "models", "readOnly": True}}
    job = sft_job(pod={"volumes": [{"name": "ref", **mount, **source}]})
    assert volumes.volumes(job)[-1] == {"name": "ref", **source}
    assert volumes.mounts(job)[-1] == {"name": "ref", **mount}
