"""Every failure and every wait that users meet, with the line that they read."""

from __future__ import annotations

import json
from datetime import timedelta

import pytest

from alpaca_operator import diagnosis
from alpaca_operator.api.contract import CONTAINER, Termination
from alpaca_operator.api.status import Reason
from alpaca_operator.diagnosis import Refusal, diagnose
from tests.operator.pods import START, at, ended, placed, pod, running, unplaced, waiting

LONG_AFTER = START + timedelta(hours=1)


def word(reason: Reason, code: int, message: str, **more) -> Termination:
    return Termination(reason=reason, exit_code=code, message=message, **more)


GPU = {"limits": {"nvidia.com/gpu": 8, "memory": "64Gi"}}
TRACEBACK = """Traceback (most recent call last):
  File "/opt/venv/lib/python3.11/site-packages/workloads/sft.py", line 1, in <module>
    import missing
ModuleNotFoundError: No module named 'missing'
"""

ENDED = [
    pytest.param(
        ended(
            66,
            says=word(
                Reason.INPUT_NOT_FOUND,
                66,
                "model.uri pvc://models/lama: /mnt/models/lama does not exist: correct the path",
            ),
        ),
        ("UserError", "InputNotFound", 66, False),
        "model.uri pvc://models/lama: /mnt/models/lama does not exist: correct the path (pod poet-sft-a, exit 66)",
        id="a model path that is missing",
    ),
    pytest.param(
        ended(
            65,
            says=word(
                Reason.INVALID_DATA, 65, "poems.jsonl, row 7: no assistant turn: add an answer or drop the row", rank=0
            ),
        ),
        ("DataError", "InvalidData", 65, False),
        "poems.jsonl, row 7: no assistant turn: add an answer or drop the row (pod poet-sft-a, exit 65)",
        id="a bad row is told with its file and number",
    ),
    pytest.param(
        ended(64, says=word(Reason.LOSS_DIVERGED, 64, "the loss is NaN at step 31: lower training.learningRate")),
        ("UserError", "LossDiverged", 64, False),
        "the loss is NaN at step 31: lower training.learningRate (pod poet-sft-a, exit 64)",
        id="a loss that diverged keeps its own reason beside exit 64",
    ),
    pytest.param(
        ended(
            64,
            says=word(
                Reason.GATE_FAILED,
                64,
                "perplexity rose by 14.81%, from 30.2543 to 34.7343, and maxPerplexityIncrease 0.1 allows 10.00%",
            ),
        ),
        ("UserError", "GateFailed", 64, False),
        "perplexity rose by 14.81%, from 30.2543 to 34.7343, and maxPerplexityIncrease 0.1 allows 10.00% (pod poet-sft-a, exit 64)",
        id="a broken gate is told with its figures and its bound",
    ),
    pytest.param(
        ended(
            64,
            says=word(
                Reason.OUTPUT_EXISTS,
                64,
                "pvc://models/poet holds another artifact: set output.overwrite, or another uri",
            ),
        ),
        ("UserError", "OutputExists", 64, False),
        "pvc://models/poet holds another artifact: set output.overwrite, or another uri (pod poet-sft-a, exit 64)",
        id="an output that is taken",
    ),
    pytest.param(
        ended(
            71, says=word(Reason.OUT_OF_MEMORY, 71, "CUDA out of memory at step 3: lower training.batchSizePerDevice")
        ),
        ("OutOfMemory", "OutOfMemory", 71, False),
        "CUDA out of memory at step 3: lower training.batchSizePerDevice (pod poet-sft-a, exit 71)",
        id="a GPU out of memory is not tried again",
    ),
    pytest.param(
        ended(137, reason="OOMKilled", resources={"limits": {"memory": "16Gi"}}),
        ("OutOfMemory", "OutOfMemory", 137, False),
        "out of memory at the limit of 16Gi: raise pod.resources.limits.memory (it includes /dev/shm), or make the batch smaller "
        "(pod poet-sft-a, exit 137)",
        id="killed for memory is not tried again",
    ),
    pytest.param(
        ended(137, reason="OOMKilled"),
        ("OutOfMemory", "OutOfMemory", 137, False),
        "the node ran out of memory: set pod.resources.requests.memory and limits.memory to what the job needs (pod poet-sft-a, exit 137)",
        id="killed for memory without a limit of its own",
    ),
    pytest.param(
        ended(72, says=word(Reason.HUNG, 72, "no step for 1800 s: the stacks are in the log", rank=3)),
        ("Hung", "Hung", 72, True),
        "no step for 1800 s: the stacks are in the log (pod poet-sft-a, exit 72)",
        id="hung is tried again",
    ),
    pytest.param(
        ended(75, says=word(Reason.INTERRUPTED, 75, "stopped after saving a checkpoint at step 40")),
        ("Infrastructure", "Interrupted", 75, True),
        "stopped after saving a checkpoint at step 40 (pod poet-sft-a, exit 75)",
        id="a pod that somebody deleted",
    ),
    pytest.param(
        ended(70, says=word(Reason.WORKLOAD_ERROR, 70, "KeyError: 'q_proj'")),
        ("Internal", "WorkloadError", 70, True),
        "KeyError: 'q_proj' (pod poet-sft-a, exit 70)",
        id="an error of ours or of a library",
    ),
    pytest.param(
        ended(65),
        ("DataError", "InvalidData", 65, False),
        "the data cannot be used: see kubectl logs -n poetry poet-sft-a (pod poet-sft-a, exit 65)",
        id="an exit code of the contract without a word",
    ),
    pytest.param(
        ended(1, says=TRACEBACK),
        ("Internal", "WorkloadError", 1, True),
        "ModuleNotFoundError: No module named 'missing': see kubectl logs -n poetry poet-sft-a (pod poet-sft-a, exit 1)",
        id="of a traceback at the end of a log, the exception",
    ),
    pytest.param(
        ended(70, says='{"level": "info", "step": 4}\n{"time": "…", "message": "cannot write  the\\nadapter"}\n'),
        ("Internal", "WorkloadError", 70, True),
        "cannot write the adapter (pod poet-sft-a, exit 70)",
        id="of JSON lines at the end of a log, the last message, on one line",
    ),
    pytest.param(
        ended(65, says='{"reason": "InvalidData", "exitCode": 65, "message": "cut off in the mid'),
        ("DataError", "InvalidData", 65, False),
        '{"reason": "InvalidData", "exitCode": 65, "message": "cut off in the mid (pod poet-sft-a, exit 65)',
        id="a last word that was cut off is shown as it is",
    ),
    pytest.param(
        ended(65, says='{"reason": "NotInventedYet", "exitCode": 65, "message": "too new"}'),
        ("DataError", "InvalidData", 65, False),
        "too new (pod poet-sft-a, exit 65)",
        id="a last word by a newer workload still gives its message",
    ),
    pytest.param(
        ended(1, says="\x1b[31m" + "长" * 5000 + "\x1b[0m"),
        ("Internal", "WorkloadError", 1, True),
        "长" * 999 + "… (pod poet-sft-a, exit 1)",
        id="an endless line is cut, and loses its colours",
    ),
    pytest.param(
        ended(1),
        ("Internal", "WorkloadError", 1, True),
        "the workload failed without a word: see kubectl logs -n poetry poet-sft-a (pod poet-sft-a, exit 1)",
        id="silence",
    ),
    pytest.param(
        ended(139),
        ("Internal", "WorkloadError", 139, True),
        "ended by SIGSEGV: a library crashed: see kubectl logs -n poetry poet-sft-a (pod poet-sft-a, exit 139)",
        id="a crash in a library",
    ),
    pytest.param(
        ended(137),
        ("Internal", "WorkloadError", 137, True),
        "ended by SIGKILL: it was killed, or did not stop within pod.terminationGracePeriodSeconds (pod poet-sft-a, exit 137)",
        id="killed, and not for memory",
    ),
    pytest.param(
        ended(
            128,
            reason="StartError",
            says='failed to create containerd task: exec: "python": executable file not found in $PATH: unknown',
        ),
        ("UserError", "ContainerNotCreated", 128, True),
        'failed to create containerd task: exec: "python": executable file not found in $PATH: unknown: pod.image must be one of this '
        "project's images, or built from one (pod poet-sft-a, exit 128)",
        id="an image that is not ours",
    ),
    pytest.param(
        ended(
            1,
            says="/usr/bin/python: Error while finding module specification for 'workloads.sft' (ModuleNotFoundError: No module named 'workloads')",
        ),
        ("UserError", "ContainerNotCreated", 1, True),
        "/usr/bin/python: Error while finding module specification for 'workloads.sft' (ModuleNotFoundError: No module named 'workloads'): "
        "pod.image must be one of this project's images, or built from one (pod poet-sft-a, exit 1)",
        id="an image with a Python that is not ours",
    ),
    pytest.param(
        ended(75, says="step 39\nstep 40\n"),
        ("Infrastructure", "Interrupted", 75, True),
        "stopped from outside after saving a checkpoint: see kubectl logs -n poetry poet-sft-a (pod poet-sft-a, exit 75)",
        id="what a stopped pod logged last is no reason",
    ),
    pytest.param(
        ended(75, disrupted="EvictionByEvictionAPI"),
        ("Infrastructure", "Disrupted", 75, True),
        "evicted from node n1, as when a node is drained; a checkpoint was saved (pod poet-sft-a, exit 75)",
        id="a drained node is nobody's mistake",
    ),
    pytest.param(
        ended(137, disrupted="PreemptionByScheduler"),
        ("Infrastructure", "Disrupted", 137, True),
        "preempted on node n1 by a pod of higher priority; a pod.priorityClassName may prevent that (pod poet-sft-a, exit 137)",
        id="a pod preempted before it could save",
    ),
    pytest.param(
        ended(65, disrupted="DeletionByTaintManager", says=word(Reason.INVALID_DATA, 65, "half a file")),
        ("Infrastructure", "Disrupted", 65, True),
        "removed from node n1, which got a taint that the pod does not tolerate or lost contact (pod poet-sft-a, exit 65)",
        id="a disrupted pod may end with any exit code",
    ),
    pytest.param(
        pod(
            phase="Failed",
            status={
                "conditions": [
                    {
                        "type": "DisruptionTarget",
                        "status": "True",
                        "reason": "DeletionByPodGC",
                        "lastTransitionTime": at(300),
                    }
                ]
            },
        ),
        ("Infrastructure", "Disrupted", None, True),
        "lost with node n1 (pod poet-sft-a)",
        id="a pod lost with its node has no exit code",
    ),
    pytest.param(
        ended(
            137,
            disrupted="TerminationByKubelet",
            status={
                "reason": "Evicted",
                "message": "The node was low on resource: memory. Threshold quantity: 100Mi, available: 88Mi.",
            },
        ),
        ("Infrastructure", "Disrupted", 137, True),
        "ended by the kubelet of node n1: The node was low on resource: memory. Threshold quantity: 100Mi, available: 88Mi; set "
        "pod.resources.requests to what the job needs, so that it gets a node with room (pod poet-sft-a, exit 137)",
        id="a node under pressure",
    ),
    pytest.param(
        ended(
            137,
            status={
                "reason": "Evicted",
                "message": "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi.",
            },
        ),
        ("UserError", "Disrupted", 137, True),
        "Pod ephemeral local storage usage exceeds the total limit of containers 1Gi: raise ephemeral-storage in pod.resources.limits, or "
        "set cache.claimName so that downloads go to a volume (pod poet-sft-a, exit 137)",
        id="evicted by the limit that it set itself",
    ),
]


@pytest.mark.parametrize(("broken", "known", "message"), ENDED)
def test_a_pod_that_ended(broken, known, message):
    found = diagnose(broken, LONG_AFTER)
    assert found.message == message
    assert (found.failure_class, found.reason, found.exit_code, found.retried) == known
    assert found.ended
    assert (found.pod, found.uid) == ("poet-sft-a", "uid-poet-sft-a")
    assert found.finished_at == (at(60) if found.exit_code is not None else at(300))


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
    found = diagnose(stuck, LONG_AFTER)
    assert found.message == message
    assert (found.failure_class, found.reason) == known
    assert not found.ended
    assert not found.retried


@pytest.mark.parametrize(
    "healthy",
    [
        pytest.param(pod(), id="just made"),
        pytest.param(waiting("ContainerCreating"), id="its image is being pulled"),
        pytest.param(waiting("PodInitializing"), id="a sidecar comes first"),
        pytest.param(placed(ready="True"), id="a pull that takes an hour"),
        pytest.param(placed(ready="False", when=3590), id="its volumes are being mounted"),
        pytest.param(unplaced("waiting for the gate", reason="SchedulingGated"), id="held by a scheduling gate"),
        pytest.param(running(), id="running"),
        pytest.param(running(metadata={"deletionTimestamp": at(3599)}), id="within its grace period"),
        pytest.param(ended(0), id="ended well"),
        pytest.param(ended(0, disrupted="EvictionByEvictionAPI"), id="ended well although its node was being drained"),
        pytest.param(ended(0, metadata={"deletionTimestamp": at(1)}), id="ended well and not yet gone"),
    ],
)
def test_a_pod_without_trouble(healthy):
    assert diagnose(healthy, LONG_AFTER) is None


def test_a_pod_is_known_to_have_ended_by_its_container_before_its_phase_says_so():
    broken = ended(65, says=word(Reason.INVALID_DATA, 65, "row 7"))
    broken["status"]["phase"] = "Running"
    found = diagnose(broken, START)
    assert (found.ended, found.message) == (True, "row 7 (pod poet-sft-a, exit 65)")


def test_a_sidecar_that_failed_does_not_end_a_pod_that_still_trains():
    busy = running()
    busy["status"]["containerStatuses"].append({"name": "proxy", "state": {"terminated": {"exitCode": 1}}})
    assert diagnose(busy, START) is None


def test_the_root_cause_is_the_most_telling_exit_and_then_the_earliest():
    def state(code: int, finished: float) -> dict:
        return {"exitCode": code, "finishedAt": at(finished)}

    collateral, first, second = state(1, 3), state(65, 5), state(65, 4)
    assert diagnosis.root_cause([collateral, first, second]) == second
    assert diagnosis.root_cause([state(75, 1), collateral, state(70, 9)]) == state(70, 9)
    assert diagnosis.root_cause([]) is None


def test_the_workload_is_to_blame_before_a_sidecar_that_only_lost_it():
    broken = ended(65, says=word(Reason.INVALID_DATA, 65, "row 7"), finished=60)
    sidecar = {"name": "proxy", "state": {"terminated": {"exitCode": 1, "finishedAt": at(59)}}}
    broken["status"]["containerStatuses"].insert(0, sidecar)
    assert diagnose(broken, START).message == "row 7 (pod poet-sft-a, exit 65)"


def test_the_last_word_is_kept_whole():
    said = word(Reason.LOSS_DIVERGED, 64, "NaN", step=31, metrics={"loss": float("nan")}, rank=1)
    found = diagnose(ended(64, says=said), START)
    assert found.last_word.step == 31
    assert found.last_word.metrics == {"loss": None}
    assert found.rank == 1


REFUSED = [
    pytest.param(
        403,
        'pods "poet-sft-x" is forbidden: exceeded quota: gpus, requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=0, '
        "limited: requests.nvidia.com/gpu=4",
        Refusal(
            Reason.QUOTA_EXCEEDED,
            "quota gpus has no room (requested: requests.nvidia.com/gpu=8, used: requests.nvidia.com/gpu=0, limited: "
            "requests.nvidia.com/gpu=4): lower pod.resources, wait for other jobs to end, or ask for a larger quota",
        ),
        id="a quota without room",
    ),
    pytest.param(
        403,
        'pods "poet-sft-x" is forbidden: failed quota: memory: must specify limits.memory for: workload',
        Refusal(Reason.QUOTA_EXCEEDED, "quota memory counts limits.memory for: workload: set them in pod.resources"),
        id="a quota that wants a limit",
    ),
    pytest.param(
        422,
        "Error creating: pods \"poet-sft-x\" is forbidden: ValidatingAdmissionPolicy 'images' with binding 'all' denied request: images "
        "must come from registry.example",
        Refusal(
            Reason.ADMISSION_REFUSED,
            "admission policy images refuses the pod: images must come from registry.example: change pod in a job of another name, or ask "
            "who set the policy",
        ),
        id="an admission policy",
    ),
    pytest.param(
        400,
        'admission webhook "check.example" denied the request: no',
        Refusal(
            Reason.ADMISSION_REFUSED,
            "admission policy check.example refuses the pod: no: change pod in a job of another name, or ask who set the policy",
        ),
        id="a webhook",
    ),
    pytest.param(
        403,
        'pods "poet-sft-x" is forbidden: violates PodSecurity "restricted:latest": restricted volume types (volume "data" uses restricted '
        'volume type "hostPath")',
        Refusal(
            Reason.ADMISSION_REFUSED,
            'PodSecurity refuses the pod: "restricted:latest": restricted volume types (volume "data" uses restricted volume type '
            '"hostPath"): change pod in a job of another name, or ask who set the policy',
        ),
        id="Pod Security",
    ),
    pytest.param(
        403,
        'pods "poet-sft-x" is forbidden: no PriorityClass with name high was found',
        Refusal(
            Reason.ADMISSION_REFUSED,
            'the API server refuses the pod: pods "poet-sft-x" is forbidden: no PriorityClass with name high was found: make what it asks '
            "for, or change pod in a job of another name",
        ),
        id="something that the pod names and nobody made",
    ),
    pytest.param(
        403,
        'jobs.batch is forbidden: User "system:serviceaccount:a:b" cannot create resource "jobs" in API group "batch" in the namespace "c"',
        Refusal(
            Reason.ADMISSION_REFUSED,
            'the operator has no right to create it (jobs.batch is forbidden: User "system:serviceaccount:a:b" cannot create resource '
            '"jobs" in API group "batch" in the namespace "c"): apply manifests/rbac',
        ),
        id="rights that the operator lacks",
    ),
    pytest.param(
        422,
        'Job.batch "poet-sft" is invalid: spec.template.spec.volumes[5].name: Duplicate value: "disk"',
        Refusal(
            Reason.INVALID_SPEC,
            'the API server refuses the pod: Job.batch "poet-sft" is invalid: spec.template.spec.volumes[5].name: Duplicate value: "disk": '
            "correct pod in a job of another name",
        ),
        id="a piece of pod spec that is no piece of pod spec",
    ),
    pytest.param(
        409,
        'jobs.batch "poet-sft" already exists',
        Refusal(
            Reason.NAME_CONFLICT,
            'its child\'s name is taken (jobs.batch "poet-sft" already exists, and belongs to something else): delete that, or use a job '
            "of another name",
        ),
        id="a name that is taken",
    ),
]


@pytest.mark.parametrize(("code", "message", "refusal"), REFUSED)
def test_a_refusal(code, message, refusal):
    assert diagnosis.refusal(code, message) == refusal


@pytest.mark.parametrize(
    ("code", "message"),
    [
        pytest.param(409, "the object has been modified", id="a write that crossed another"),
        pytest.param(429, "too many requests", id="an API server that is busy"),
        pytest.param(500, "etcdserver: leader changed", id="an outage"),
        pytest.param(
            403,
            "unable to create new content in namespace c because it is being terminated",
            id="a namespace that is going",
        ),
    ],
)
def test_what_is_not_for_the_user_to_mend(code, message):
    assert diagnosis.refusal(code, message) is None


def test_only_a_quota_passes_by_itself():
    assert [reason for reason in Reason if Refusal(reason, "").passes] == [Reason.QUOTA_EXCEEDED]


def test_the_contract_of_a_last_word_is_what_the_pods_above_say():
    message = ended(65, says=word(Reason.INVALID_DATA, 65, "row 7"))["status"]["containerStatuses"][0]["state"][
        "terminated"
    ]["message"]
    assert json.loads(message) == {"reason": "InvalidData", "exitCode": 65, "message": "row 7"}
    assert CONTAINER == "workload"


@pytest.mark.parametrize(
    ("waits", "then"),
    [
        pytest.param(placed(ready="False", when=10), at(130), id="until patience with its volumes ends"),
        pytest.param(running(metadata={"deletionTimestamp": at(600)}), at(660), id="until its node counts as silent"),
        pytest.param(placed(ready="True"), None, id="a pull takes as long as it takes"),
        pytest.param(running(), None, id="running"),
        pytest.param(ended(65, metadata={"deletionTimestamp": at(600)}), None, id="ended"),
        pytest.param(ended(0, metadata={"deletionTimestamp": at(600)}), None, id="ended well"),
    ],
)
def test_when_time_alone_changes_a_diagnosis(waits, then):
    assert diagnosis.changes_at(waits, START) == (diagnosis.instant(then) if then else None)
    if then:
        assert diagnose(waits, diagnosis.instant(then)) != diagnose(waits, START)
        assert diagnosis.changes_at(waits, diagnosis.instant(then)) is None
