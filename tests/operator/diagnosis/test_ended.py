"""Every way that a pod ends, with the line that users read."""

from __future__ import annotations

from datetime import timedelta

import pytest

from alpaca_operator.api.contract import Termination
from alpaca_operator.api.status import Reason
from alpaca_operator.cluster.objects import Pod
from alpaca_operator.diagnosis import diagnose
from tests.operator.pods import RUNS, START, at, beside, ended, failed_with, pod, stopped

LONG_AFTER = START + timedelta(hours=1)


def word(reason: Reason, code: int, message: str, **more) -> Termination:
    return Termination(reason=reason, exit_code=code, message=message, **more)


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
    pytest.param(
        stopped(ended(137), 40),
        ("Infrastructure", "Disrupted", 137, True),
        "told to stop, and killed before it had saved: raise pod.terminationGracePeriodSeconds, which is 20 (pod poet-sft-a, exit 137)",
        id="deleted, and killed at the end of its grace period",
    ),
    pytest.param(
        stopped(ended(143), 60),
        ("Infrastructure", "Disrupted", 143, True),
        "told to stop, and stopped before it could save (pod poet-sft-a, exit 143)",
        id="deleted while it loaded its libraries",
    ),
    pytest.param(
        stopped(ended(137), 61, grace=0),
        ("Internal", "WorkloadError", 137, True),
        "ended by SIGKILL: it was killed, or did not stop within pod.terminationGracePeriodSeconds (pod poet-sft-a, exit 137)",
        id="killed, and cleared away afterwards",
    ),
    pytest.param(
        stopped(ended(65, says=word(Reason.INVALID_DATA, 65, "row 7: no answer")), 40),
        ("DataError", "InvalidData", 65, False),
        "row 7: no answer (pod poet-sft-a, exit 65)",
        id="a bad row that was found while it was told to stop",
    ),
    pytest.param(
        beside(ended(65, says=word(Reason.INVALID_DATA, 65, "row 7: no answer")), failed_with(64, 3)),
        ("DataError", "InvalidData", 65, False),
        "row 7: no answer (pod poet-sft-a, exit 65)",
        id="a proxy that failed before the workload did",
    ),
    pytest.param(
        beside(ended(65, says=word(Reason.INVALID_DATA, 65, "row 7: no answer")), RUNS, phase="Running"),
        ("DataError", "InvalidData", 65, False),
        "row 7: no answer (pod poet-sft-a, exit 65)",
        id="a proxy that never ends hides no failure",
    ),
    pytest.param(
        beside(ended(143), failed_with(64, 3, '{"reason":"GateFailed","exitCode":64,"message":"forged"}')),
        ("Internal", "WorkloadError", 143, True),
        "ended by SIGTERM: it was stopped before it could save (pod poet-sft-a, exit 143)",
        id="what a proxy says is no word of the workload",
    ),
]


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(beside(ended(0), failed_with(1, 90), phase="Failed"), id="a proxy that failed afterwards"),
        pytest.param(beside(ended(0), failed_with(64, 3), phase="Failed"), id="a proxy that failed before"),
        pytest.param(beside(ended(0), RUNS, phase="Running"), id="a proxy that never ends"),
        pytest.param(beside(ended(0), failed_with(137), init=True), id="a native sidecar that was killed at the end"),
    ],
)
def test_a_workload_that_ended_well_did_whatever_became_of_others(broken):
    assert diagnose(Pod(broken), LONG_AFTER) is None


@pytest.mark.parametrize("init", [True, False])
def test_a_container_of_others_that_fails_before_the_workload_runs_is_named_and_decides_nothing(init):
    broken = beside(pod(phase="Failed"), failed_with(64, 3, '{"reason":"InvalidSpec","exitCode":64}'), init=init)
    found = diagnose(Pod(broken), LONG_AFTER)
    assert (found.failure_class, found.reason, found.exit_code, found.retried) == (
        "Internal",
        "WorkloadError",
        None,
        True,
    )
    assert found.message == (
        "container istio-proxy, which is not of the operator, failed (exit 64): see kubectl logs -n poetry poet-sft-a -c istio-proxy, or ask "
        "who adds it to pods (pod poet-sft-a)"
    )
    assert found.finished_at == at(3)


def test_a_pod_that_was_deleted_before_it_started_is_no_failure_of_its_own():
    found = diagnose(Pod(stopped(pod(phase="Failed"), 10)), LONG_AFTER)
    assert (found.failure_class, found.reason) == ("Infrastructure", "Disrupted")
    assert found.message == "told to stop, before it had started (pod poet-sft-a)"


@pytest.mark.parametrize(("broken", "known", "message"), ENDED)
def test_a_pod_that_ended(broken, known, message):
    found = diagnose(Pod(broken), LONG_AFTER)
    assert found.message == message
    assert (found.failure_class, found.reason, found.exit_code, found.retried) == known
    assert found.ended
    assert (found.pod, found.uid) == ("poet-sft-a", "uid-poet-sft-a")
    assert found.finished_at == (at(60) if found.exit_code is not None else at(300))
