"""A model's way from a job to a registry, on a real node: CNCF Distribution beside the pods, behind a password."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.contract import LABEL_NAME, LABEL_PUSHER
from tests.cluster.bed.cluster import Manifest, until
from tests.cluster.bed.node import Bed
from tests.cluster.team import PATIENCE, Team, condition, ready, sft_job
from tests.workloads.publication.distribution import PASSWORD, USER, Server, configured
from tests.workloads.publication.pushing import must_be_whole

pytestmark = [pytest.mark.cluster, pytest.mark.drill]

REGISTRY_PORT = 5000


@pytest.fixture(scope="module")
def server(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A registry that pods reach at the node's address, as they would one in the cluster's network."""
    server = Server(f"{bed.node_ip}:{REGISTRY_PORT}", asks_for_password=True)
    bed.spawn("registry", configured(tmp_path_factory.mktemp("registry"), server.address, asks_for_password=True))
    until(lambda: server.get("") == b"{}", "the registry to answer")
    yield server
    bed.kill("registry")


def secret(password: str) -> Manifest:
    login = {"REGISTRY_USERNAME": USER, "REGISTRY_PASSWORD": password, "REGISTRY_PLAIN_HTTP": "1"}
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "poets-login"}, "stringData": login}


def told(team: Team) -> dict[str, Any]:
    return condition(team.job("poet"), "Published")


def published(team: Team) -> Manifest:
    """The job once all its places have the model."""
    until(lambda: told(team).get("status") == "True", "poet to be published", PATIENCE, every=0.5)
    return team.job("poet")


def must_tell_what_lies_there(job: Manifest, place: str, server: Server, output: Path) -> None:
    """The status, the registry and the volume name one and the same model."""
    name, tag = place.removeprefix(f"oci://{server.address}/").split(":")
    files = server.files(name, tag)
    must_be_whole(files)
    made = json.loads((output / "artifact.json").read_text(encoding="utf-8"))
    manifest = server.get(f"{name}/manifests/{tag}")
    assert job["status"]["publications"] == [
        {"uri": place, "revision": f"sha256:{hashlib.sha256(manifest).hexdigest()}", "digest": made["digest"]}
    ]
    assert job["status"]["output"]["digest"] == made["digest"] == json.loads(files["artifact.json"])["digest"]
    weights = "adapter_model.safetensors"
    assert files[weights] == (output / weights).read_bytes()


def trained(team: Team) -> set[str]:
    """UIDs of the Jobs and pods that trained, not those that pushed."""
    jobs = team.bed.items("jobs.batch", "-n", team.namespace, "-l", f"{LABEL_NAME}=poet")
    return {
        child["metadata"]["uid"]
        for child in (*jobs, *team.pods("poet"))
        if LABEL_PUSHER not in child["metadata"]["labels"]
    }


@pytest.mark.timeout(1800)
def test_a_job_trains_pushes_and_tells_what_was_published(server: Server, mine: Team) -> None:
    place = f"oci://{server.address}/poets/poet:v1"
    mine.apply(secret(PASSWORD), sft_job("poet", publish=[{"uri": place, "secretRef": {"name": "poets-login"}}]))

    done = published(mine)

    assert ready(done)["reason"] == "Succeeded"
    must_tell_what_lies_there(done, place, server, mine.models / "poet")
    pods = {LABEL_PUSHER in pod["metadata"]["labels"]: pod for pod in mine.pods("poet")}
    assert "poets-login" in str(pods[True]["spec"])
    assert "poets-login" not in str(pods[False]["spec"]), "what trains has no password of where it goes"


@pytest.mark.timeout(1800)
def test_a_job_whose_only_news_is_publish_is_pushed_without_training(server: Server, mine: Team) -> None:
    """At first with a password that is none: the job stays complete, and goes on when that is mended."""
    mine.apply(sft_job("poet"))
    complete = mine.state("poet", "Succeeded")["status"]["completionTime"]
    before, artifact = trained(mine), (mine.models / "poet" / "artifact.json").read_bytes()
    assert len(before) == 2, "a Job and its pod"
    assert server.tags("poets/later") == []
    place = f"oci://{server.address}/poets/later:v1"
    later = sft_job("poet", publish=[{"uri": place, "secretRef": {"name": "poets-login"}}])
    mine.apply(secret("sunshine"), later)
    until(lambda: told(mine).get("reason") == "PublishRefused", "the push to be refused", PATIENCE, every=0.5)
    assert "check REGISTRY_USERNAME and REGISTRY_PASSWORD, which are set" in told(mine)["message"]
    assert ready(mine.job("poet"))["reason"] == "Succeeded"
    assert server.tags("poets/later") == []

    mine.apply(secret(PASSWORD))
    mine.kubectl("delete", "job", "poet-sft-pub")
    done = published(mine)

    must_tell_what_lies_there(done, place, server, mine.models / "poet")
    assert trained(mine) == before
    assert done["status"]["completionTime"] == complete
    assert (mine.models / "poet" / "artifact.json").read_bytes() == artifact
