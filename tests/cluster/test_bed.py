"""The bed itself: what every other test on it takes for granted."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from tests.cluster.bed import binaries, cgroups, debian, images
from tests.cluster.bed.cache import BedError, NotBuilt
from tests.cluster.bed.cluster import Cluster, Manifest, until
from tests.cluster.bed.controlplane import ControlPlane
from tests.cluster.bed.node import Bed

SERVE = "import http.server as h; h.HTTPServer(('', 8000), h.SimpleHTTPRequestHandler).serve_forever()"
FETCH = """
import sys, time, urllib.request
for attempt in range(100):
    try:
        sys.exit(print(urllib.request.urlopen(sys.argv[1], timeout=2).read().decode().splitlines()[0]))
    except OSError as error:
        time.sleep(0.1)
sys.exit(f"{sys.argv[1]}: {error}")
"""


def pod(name: str, *command: str, claims: Mapping[str, str] = MappingProxyType({}), **container: Any) -> Manifest:
    """One that the restricted Pod Security level lets in; `claims` are mount paths by claim."""
    volumes: dict[str, Manifest] = {name: {"persistentVolumeClaim": {"claimName": name}} for name in claims}
    volumes["tmp"] = {"emptyDir": {}}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 1,
            "securityContext": {"runAsNonRoot": True, "runAsUser": 1000, "seccompProfile": {"type": "RuntimeDefault"}},
            "volumes": [{"name": name, **volume} for name, volume in volumes.items()],
            "containers": [
                {
                    "name": "main",
                    "image": "bed.local/base:1",
                    "command": ["python3", "-c", *command],
                    "volumeMounts": [{"name": name, "mountPath": claims.get(name, "/tmp")} for name in volumes],
                    "securityContext": {
                        "allowPrivilegeEscalation": False,
                        "readOnlyRootFilesystem": True,
                        "capabilities": {"drop": ["ALL"]},
                    },
                    **container,
                }
            ],
        },
    }


def finished(cluster: Cluster, name: str, namespace: str) -> Manifest:
    """The pod once it has ended, however it did."""

    def ended() -> Manifest | None:
        found = cluster.get("pod", name, "-n", namespace)
        return found if found["status"]["phase"] in ("Succeeded", "Failed") else None

    found = until(ended, f"pod {namespace}/{name} to end", 300)
    assert found
    return found


@pytest.mark.cluster
def test_a_restricted_pod_reads_and_writes_a_claim(bed: Bed) -> None:
    with bed.namespace("bed-claim") as namespace:
        folder = bed.volume(namespace, "models")
        (folder / "question").write_text("2 * 21")
        copy = "open('/models/answer', 'w').write(str(eval(open('/models/question').read())))"
        bed.apply(pod("reader", copy, claims={"models": "/models"}), namespace=namespace)
        assert finished(bed, "reader", namespace)["status"]["phase"] == "Succeeded"
        assert (folder / "answer").read_text() == "42"


@pytest.mark.cluster
def test_a_service_answers_by_its_name_and_to_the_host(bed: Bed) -> None:
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "web"}, "ports": [{"port": 80, "targetPort": 8000}]},
    }
    with bed.namespace("bed-service") as namespace:
        client = pod("client", FETCH, f"http://web.{namespace}.svc.cluster.local/passwd")
        bed.apply(pod("web", SERVE, workingDir="/etc"), service, client, namespace=namespace)
        assert finished(bed, "client", namespace)["status"]["phase"] == "Succeeded", bed.logs("client", namespace)
        assert bed.logs("client", namespace) == "root:x:0:0:root:/root:/bin/sh\n"
        address = bed.get("service", "web", "-n", namespace)["spec"]["clusterIP"]
        answer = subprocess.run(
            ["python3", "-c", FETCH, f"http://{address}/group"], check=False, capture_output=True, text=True
        )
        assert answer.stdout == "root:x:0:\n", answer.stderr


@pytest.mark.cluster
def test_a_pod_outlives_the_kubelet_and_the_api_server_and_not_its_eviction(bed: Bed) -> None:
    with bed.namespace("bed-restarts") as namespace:
        bed.apply(pod("web", SERVE), namespace=namespace)
        bed.wait("pod/web", "condition=Ready", namespace)
        started = bed.get("pod", "web", "-n", namespace)["status"]["containerStatuses"][0]["state"]["running"][
            "startedAt"
        ]
        bed.restart_kubelet()
        bed.restart_apiserver()
        status = bed.get("pod", "web", "-n", namespace)["status"]
        assert status["containerStatuses"][0]["state"]["running"]["startedAt"] == started
        bed.evict("web", namespace)
        bed.wait("pod/web", "delete", namespace)


@pytest.mark.cluster
def test_a_pod_that_asks_for_gpus_runs_where_the_node_says_it_has_some(bed: Bed) -> None:
    bed.fake_gpus(8)
    with bed.namespace("bed-gpus") as namespace:
        bed.apply(pod("trainer", "", resources={"limits": {"nvidia.com/gpu": "4"}}), namespace=namespace)
        assert finished(bed, "trainer", namespace)["status"]["phase"] == "Succeeded"


FIND = """
import socket, time
for attempt in range(100):
    try:
        raise SystemExit(print(socket.gethostbyname("ring-node-0-0.ring")))
    except OSError:
        time.sleep(0.1)
raise SystemExit("no address of the first pod in 10 s")
"""


@pytest.mark.cluster
def test_the_pods_of_a_jobset_find_each_other(jobset: Bed) -> None:
    template = {"spec": pod("", FIND)["spec"]}
    nodes = {
        "name": "node",
        "template": {"spec": {"parallelism": 2, "completions": 2, "backoffLimit": 0, "template": template}},
    }
    ring = {
        "apiVersion": "jobset.x-k8s.io/v1alpha2",
        "kind": "JobSet",
        "metadata": {"name": "ring"},
        "spec": {"replicatedJobs": [nodes]},
    }
    with jobset.namespace("bed-jobset") as namespace:
        jobset.apply(ring, namespace=namespace)
        jobset.wait("jobset/ring", "condition=Completed", namespace)


@pytest.mark.cluster
def test_a_privileged_pod_is_refused_in_a_restricted_namespace(cluster: Cluster) -> None:
    with cluster.namespace("bed-security") as namespace:
        privileged = pod("root", "", securityContext={"privileged": True})
        with pytest.raises(BedError, match='violates PodSecurity "restricted'):
            cluster.apply(privileged, namespace=namespace)


INSIDE = """
import importlib.metadata, json, os, sys
import alpaca_operator, workloads
from {0} import {1}
print(json.dumps([sys.prefix, os.getuid(), importlib.metadata.version("literary-alpaca"), workloads.__file__]))
"""


@pytest.mark.cluster
@pytest.mark.parametrize(
    ("role", "library"),
    [
        ("operator", "kopf.on"),
        ("train", "torch.nn"),
        ("quantize", "gptqmodel.GPTQModel"),
        ("chat", "gradio.Blocks"),
    ],
)
def test_an_image_runs_the_checkout_on_what_the_lock_names(bed: Bed, role: str, library: str) -> None:
    with bed.namespace(f"bed-image-{role}") as namespace:
        script = INSIDE.format(*library.split("."))
        running = pod(role, image=bed.images[role], command=["python", "-c", script])
        del running["spec"]["securityContext"][
            "runAsUser"
        ]  # the image's own is a number, so the kubelet can tell it from root
        bed.apply(running, namespace=namespace)
        assert finished(bed, role, namespace)["status"]["phase"] == "Succeeded", bed.logs(role, namespace)
        version = images.project()["project"]["version"]
        site = "/opt/venv/lib/python3.11/site-packages/workloads/__init__.py"
        assert json.loads(bed.logs(role, namespace).splitlines()[-1]) == ["/opt/venv", 65532, version, site]


@pytest.mark.cluster
def test_the_last_stage_is_read_as_buildah_reads_it(bed: Bed) -> None:
    """The train image's configuration is read from its Containerfile without building it."""
    built = images.operator().config
    read = images.last_stage(images.containerfile("operator").read_text())
    assert {name: built[name] for name in read} == read


def traces(bed: Bed) -> dict[str, list[str]]:
    """What of a bed can be seen on the host."""
    processes = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if str(bed.folder) in words:
            processes.append(words)
    routes = json.loads(subprocess.run(["ip", "-json", "route"], check=True, capture_output=True).stdout)
    return {
        "processes": processes,
        "mounts": [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(bed.folder) in line],
        "links": [link.name for link in Path("/sys/class/net").iterdir() if link.name == bed.tag],
        "routes": [route["dst"] for route in routes if route.get("dev") == bed.tag],
        "cgroups": [str(folder) for folder in cgroups.left(bed.tag)],
        "files": [str(bed.folder)] if bed.folder.exists() else [],
    }


@pytest.mark.cluster
def test_a_second_bed_runs_beside_the_first_and_leaves_nothing(bed: Bed) -> None:
    settings = {
        name: Path("/proc/sys", name).read_text()
        for name in ("vm/overcommit_memory", "kernel/panic", "kernel/panic_on_oops")
    }
    with Bed.temporary(roles=["base"]) as second:
        assert second.subnets != bed.subnets
        with second.namespace("a") as namespace:
            second.apply(pod("web", SERVE), namespace=namespace)
            second.wait("pod/web", "condition=Ready", namespace)
        running = traces(second)
        assert running.pop("mounts") == []
        assert all(running.values()), running
    assert not any(traces(second).values()), traces(second)
    assert settings == {name: Path("/proc/sys", name).read_text() for name in settings}


@pytest.mark.parametrize(
    ("wanted", "missing"),
    [
        pytest.param(lambda: binaries.ensure(binaries.CONTROL_PLANE), r"etcd-v\S+, kubernetes-v\S+", id="programs"),
        pytest.param(debian.browser, "browser-[0-9a-f]+", id="a browser"),
        pytest.param(images.pause, r"pause-1-\S+", id="an image"),
    ],
)
def test_a_test_builds_nothing_and_names_the_command_that_does(
    wanted: Callable[[], object], missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with pytest.raises(NotBuilt, match=f": {missing}; build it first, once: make test-programs$"):
        wanted()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.controlplane
def test_an_api_server_comes_back_with_its_data() -> None:
    with ControlPlane.temporary() as plane, plane.namespace("kept") as namespace:
        plane.apply(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"x": "y"}},
            namespace=namespace,
        )
        plane.stop_apiserver()
        with pytest.raises(BedError, match="refused"):
            plane.raw("/readyz")
        plane.start_apiserver()
        assert plane.get("configmap", "a", "-n", namespace)["data"] == {"x": "y"}
