"""Everything that a pod waits for, with the line that users read."""

from __future__ import annotations

from datetime import timedelta

import pytest

from alpaca_operator.cluster.objects import Pod
from alpaca_operator.diagnosis import diagnose
from tests.operator.pods import START, at, beside, failed_with, placed, running, unplaced, waiting

LONG_AFTER = START + timedelta(hours=1)


GPU = {"limits": {"nvidia.com/gpu": 8, "memory": "64Gi"}}


BACK_OFF = 'Back-off pulling image "{0}": ErrImagePull: failed to pull and unpack image "{0}": failed to resolve reference "{0}": {1}'
FIRST = 'failed to pull and unpack image "{0}": failed to resolve reference "{0}": {1}'
IMAGE = "registry.example/not-found/sft:1"


PENDING = [
    pytest.param(
        unplaced(
            '0/3 nodes are available: persistentvolumeclaim "models" not found. preemption: not eligible due to x'
        ),
        ("UserError", "VolumeNotReady"),
        "PersistentVolumeClaim models does not exist in namespace poetry: create it, or name another claim in pvc:// (pod poet-sft-a)",
        id="a claim that is missing",
    ),
    pytest.param(
        unplaced(
            "0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims. not found",
            claims=("models", "data"),
        ),
        ("UserError", "VolumeNotReady"),
        "a volume is not ready (0/1 nodes are available: pod has unbound immediate PersistentVolumeClaims): see kubectl describe pvc "
        "-n poetry for models, data (pod poet-sft-a)",
        id="a claim that is not bound",
    ),
    pytest.param(
        unplaced('0/1 nodes are available: persistentvolumeclaim "data" is being deleted.'),
        ("UserError", "VolumeNotReady"),
        "PersistentVolumeClaim data is being deleted: make it anew, or name another claim in pvc:// (pod poet-sft-a)",
        id="a claim that is being deleted",
    ),
    pytest.param(
        unplaced(
            "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. preemption: 0/1 nodes are available: 1 No preemption victims found.",
            resources=GPU,
        ),
        ("Infrastructure", "Unschedulable"),
        "no node fits a pod that asks for memory: 64Gi, nvidia.com/gpu: 8 (0/1 nodes are available: 1 Insufficient nvidia.com/gpu): lower "
        "pod.resources, wait for other pods to end, or add a node that has them (pod poet-sft-a)",
        id="a GPU that no node has",
    ),
    pytest.param(
        unplaced(
            "0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) didn't match Pod's node affinity/selector.",
            resources={"requests": {"cpu": "4"}},
        ),
        ("Infrastructure", "Unschedulable"),
        "no node fits a pod that asks for cpu: 4 (0/2 nodes are available: 1 node(s) had untolerated taint(s), 1 node(s) didn't match "
        "Pod's node affinity/selector): add the taint to pod.tolerations; correct pod.nodeSelector or pod.affinity (pod poet-sft-a)",
        id="nodes that the pod excludes or that exclude it",
    ),
    pytest.param(
        waiting("ErrImagePull", FIRST.format(IMAGE, f"{IMAGE}: not found"), image=IMAGE),
        ("UserError", "ImageNotPullable"),
        "image registry.example/not-found/sft:1 cannot be pulled: the registry has no such image: correct pod.image (pod poet-sft-a)",
        id="an image that does not exist",
    ),
    pytest.param(
        waiting("ImagePullBackOff", BACK_OFF.format(IMAGE, f"{IMAGE}: not found"), image=IMAGE),
        ("UserError", "ImageNotPullable"),
        "image registry.example/not-found/sft:1 cannot be pulled: the registry has no such image: correct pod.image (pod poet-sft-a)",
        id="the same image between two tries reads the same",
    ),
    pytest.param(
        waiting("ErrImagePull", FIRST.format(IMAGE, "pull access denied, authorization failed"), image=IMAGE),
        ("UserError", "ImageNotPullable"),
        "image registry.example/not-found/sft:1 cannot be pulled: the registry wants credentials: add a Secret to pod.imagePullSecrets "
        "(pod poet-sft-a)",
        id="a registry that wants credentials, and an image whose name says not-found",
    ),
    pytest.param(
        waiting("ErrImagePull", FIRST.format(IMAGE, "dial tcp: lookup registry.example: no such host"), image=IMAGE),
        ("UserError", "ImageNotPullable"),
        "image registry.example/not-found/sft:1 cannot be pulled: the registry cannot be reached from the node: check its name in pod.image, and the node's network (pod poet-sft-a)",
        id="a registry that cannot be reached",
    ),
    pytest.param(
        waiting(
            "InvalidImageName", 'Failed to apply default image tag "A:B:C": couldn\'t parse image name', image="A:B:C"
        ),
        ("UserError", "ImageNotPullable"),
        "image A:B:C cannot be pulled: that is not an image name: correct pod.image (pod poet-sft-a)",
        id="no image name at all",
    ),
    pytest.param(
        waiting(
            "ErrImageNeverPull", f'Container image "{IMAGE}" is not present with pull policy of Never', image=IMAGE
        ),
        ("UserError", "ImageNotPullable"),
        "image registry.example/not-found/sft:1 cannot be pulled: it is not on the node, and pod.imagePullPolicy is Never (pod poet-sft-a)",
        id="an image that may not be pulled",
    ),
    pytest.param(
        waiting("CreateContainerConfigError", 'secret "hub" not found'),
        ("UserError", "ContainerNotCreated"),
        'the container cannot be made: secret "hub" not found: create it: kubectl create secret generic hub -n poetry (pod poet-sft-a)',
        id="a Secret that is missing",
    ),
    pytest.param(
        waiting("CreateContainerConfigError", "couldn't find key token in Secret poetry/hub"),
        ("UserError", "ContainerNotCreated"),
        "the container cannot be made: couldn't find key token in Secret poetry/hub: add the key (pod poet-sft-a)",
        id="a key that is missing",
    ),
    pytest.param(
        waiting("CreateContainerError", "context deadline exceeded"),
        ("UserError", "ContainerNotCreated"),
        "the container cannot be made: context deadline exceeded: see kubectl describe pod -n poetry poet-sft-a (pod poet-sft-a)",
        id="a container runtime that cannot",
    ),
    pytest.param(
        beside(
            waiting("PodInitializing"), {"waiting": {"reason": "CrashLoopBackOff"}}, init=True, last=failed_with(64)
        ),
        ("Infrastructure", "ContainerNotCreated"),
        "container istio-proxy, which is not of the operator, fails again and again (exit 64), and the workload waits for it: see kubectl logs "
        "-n poetry poet-sft-a -c istio-proxy, or ask who adds it to pods (pod poet-sft-a)",
        id="a native sidecar that does not start",
    ),
    pytest.param(
        placed(ready="False"),
        ("UserError", "VolumeNotReady"),
        "a volume (or the network) of the pod is not ready on node n1 after 2 minutes: the events of kubectl describe pod -n poetry "
        "poet-sft-a say which (pod poet-sft-a)",
        id="a volume that cannot be mounted",
    ),
    pytest.param(
        running(metadata={"deletionTimestamp": at(600)}),
        ("Infrastructure", "Disrupted"),
        f"node n1 does not answer, the pod should have stopped at {at(600)}; where the node is gone for good, kubectl delete node n1 lets "
        "a new pod go on from the newest checkpoint (pod poet-sft-a)",
        id="a node that does not answer",
    ),
]


@pytest.mark.parametrize(("stuck", "known", "message"), PENDING)
def test_a_pod_that_waits(stuck, known, message):
    found = diagnose(Pod(stuck), LONG_AFTER)
    assert found.message == message
    assert (found.failure_class, found.reason) == known
    assert not found.ended
    assert not found.retried


def test_an_image_of_the_page_names_the_field_of_the_page():
    raw = waiting("ErrImagePull", FIRST.format(IMAGE, f"{IMAGE}: not found"), image=IMAGE)
    raw["status"]["containerStatuses"][0]["name"] = "ui"
    found = diagnose(Pod(raw), START)
    assert found is not None
    assert found.message.startswith(
        f"image {IMAGE} cannot be pulled: the registry has no such image: correct page.image"
    )
