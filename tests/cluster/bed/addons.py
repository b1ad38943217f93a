"""What some tests want installed beside the cluster, from the same kind of pinned modules as the cluster itself."""

from __future__ import annotations

import re
from typing import Any

import yaml

from tests.cluster.bed import binaries
from tests.cluster.bed.cluster import until
from tests.cluster.bed.images import Image, Layer
from tests.cluster.bed.node import Bed

JOBSET_IMAGE = "bed.local/jobset:1"
KUEUE_IMAGE = "bed.local/kueue:1"
KUEUE_PROBE = {
    "apiVersion": "kueue.x-k8s.io/v1beta2",
    "kind": "ResourceFlavor",
    "metadata": {"name": "probe"},
}
JOBSET_PROBE = {
    "apiVersion": "jobset.x-k8s.io/v1alpha2",
    "kind": "JobSet",
    "metadata": {"name": "probe", "namespace": "default"},
    "spec": {
        "replicatedJobs": [
            {
                "name": "a",
                "template": {
                    "spec": {
                        "template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "a"}]}},
                    }
                },
            }
        ]
    },
}


def install_jobset(bed: Bed) -> None:
    """JobSet as its authors install it, webhooks and all. Returns when a JobSet would be let in; does nothing a second time."""
    if bed.kubectl("get", "deployment", "jobset-controller-manager", "-n", "jobset-system", "--ignore-not-found"):
        return
    (folder,) = binaries.ensure(["jobset"])
    program = Layer({"manager": (folder / "jobset").read_bytes()})
    bed.load(Image("jobset", JOBSET_IMAGE, (program,), {"User": "65532:65532", "WorkingDir": "/"}))
    manifests = bed.kubectl("kustomize", str(folder / "config" / "default"))
    manifests = re.sub(r"image: \S+/jobset:\S+", f"image: {JOBSET_IMAGE}", manifests)
    # Its requests are for a cluster of many; here they would keep tests' pods from being scheduled.
    manifests = manifests.replace("cpu: 500m", "cpu: 10m")
    # Its first readiness probe is before its certificate is there, and the next would be ten seconds later.
    manifests = re.sub(
        r"initialDelaySeconds: 5\n( +)periodSeconds: 10", r"initialDelaySeconds: 1\n\1periodSeconds: 1", manifests
    )
    bed.kubectl("apply", "--server-side", "-f", "-", input=manifests)
    bed.wait("deployment/jobset-controller-manager", "condition=Available", "jobset-system")
    until(lambda: bed.create(JOBSET_PROBE, flags=["--dry-run=server"]), "JobSet's webhooks to answer")


def install_kueue(bed: Bed) -> None:
    """Kueue as its authors install it, webhooks and all. Returns when a queue would be let in; does nothing a second time."""
    if bed.kubectl("get", "deployment", "kueue-controller-manager", "-n", "kueue-system", "--ignore-not-found"):
        return
    (folder,) = binaries.ensure(["kueue"])
    program = Layer({"manager": (folder / "kueue").read_bytes()})
    bed.load(Image("kueue", KUEUE_IMAGE, (program,), {"User": "65532:65532", "WorkingDir": "/"}))
    made = yaml.safe_load_all(bed.kubectl("kustomize", str(folder / "config" / "default")))
    manifests = [_on_one_node(manifest) for manifest in made if manifest["kind"] != "APIService"]
    bed.kubectl("apply", "--server-side", "-f", "-", input=yaml.safe_dump_all(manifests))
    bed.wait("deployment/kueue-controller-manager", "condition=Available", "kueue-system")
    until(lambda: bed.create(KUEUE_PROBE, flags=["--dry-run=server"]), "Kueue's webhooks to answer")


def remove_kueue(bed: Bed) -> None:
    """What of it stands between others and the API server; its types stay."""
    for kind in ("mutating", "validating"):
        bed.kubectl("delete", f"{kind}webhookconfiguration", f"kueue-{kind}-webhook-configuration", check=False)
    bed.kubectl("delete", "namespace", "kueue-system", "--wait=false", check=False)


def _on_one_node(manifest: dict[str, Any]) -> dict[str, Any]:
    """Without its aggregated API of who waits where, which the bed's API server has no aggregator for; ready as soon as it is."""
    if manifest["kind"] != "Deployment":
        return manifest
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    container.update(image=KUEUE_IMAGE, imagePullPolicy="IfNotPresent")
    # Its requests are for a cluster of many; here they would keep tests' pods from being scheduled.
    container["resources"] = {"requests": {"cpu": "10m"}}
    container["readinessProbe"] |= {"initialDelaySeconds": 1, "periodSeconds": 1}
    return manifest
