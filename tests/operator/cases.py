"""Resources, what is seen of them, and what pods say: what the tests of verdicts and status share."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from alpaca_operator.api import SFTJob
from alpaca_operator.api.contract import Checkpoint, Progress, Published, Termination
from alpaca_operator.api.status import Reason, unseen
from alpaca_operator.cluster.objects import Pod
from alpaca_operator.outcomes.observed import Observed
from tests.operator.pods import START, at, ended

QUEUE = {"kueue.x-k8s.io/queue-name": "gpus"}
CHECKPOINT = Checkpoint(uri="pvc://models/poet.checkpoints/run-a/checkpoint-40", step=40)
TRAINING = Progress(
    stage="Training", step=1200, total_steps=5000, loss=2.34567, eta_seconds=7530, checkpoint=CHECKPOINT
)
OUTPUT = Published(uri="pvc://models/poet", digest="sha256:ab", kind="LoRAAdapter")
DONE = Termination(
    reason=Reason.SUCCEEDED,
    message="published",
    step=5000,
    total_steps=5000,
    loss=1.5,
    metrics={"evalLoss": 1.25, "perplexity": float("inf")},
    resolved_policy={"precision": "bf16"},
    resolved_inputs={"model": {"uri": "pvc://models/base", "digest": "sha256:cd"}},
    output=OUTPUT,
)


HANG = Termination(reason=Reason.HUNG, exit_code=72, message="no step for 1800 s", checkpoint=CHECKPOINT)
BAD_ROW = Termination(reason=Reason.INVALID_DATA, exit_code=65, message="poems.jsonl, row 7: no answer: drop the row")
EVICTED = {
    "pod": "poet-sft-a",
    "uid": "uid-poet-sft-a",
    "class": "Infrastructure",
    "reason": "Disrupted",
    "exitCode": 75,
    "finishedAt": at(60),
    "message": "evicted (pod poet-sft-a, exit 75)",
}
STARTED = {"startTime": at(0)}


def resource(
    before: dict[str, Any] | None = None, *, labels: dict[str, str] | None = None, going: bool = False, **spec: Any
) -> SFTJob:
    metadata = {"name": "poet", "namespace": "poetry", "uid": "uid-poet", "generation": 2, "labels": labels or {}}
    if going:
        metadata["deletionTimestamp"] = at(0)
    return SFTJob.model_validate(
        {
            "apiVersion": "literary-alpaca.io/v1alpha1",
            "kind": "SFTJob",
            "metadata": metadata,
            "spec": {
                "model": {"uri": "pvc://models/base"},
                "dataset": {"train": [{"uri": "pvc://data/poems.jsonl"}]},
                "output": {"uri": "pvc://models/poet"},
                **spec,
            },
            "status": before or unseen(),
        }
    )


def observed(*pods: dict[str, Any], child: dict[str, Any] | None = None, after: float = 100, **more: Any) -> Observed:
    return Observed(now=START + timedelta(seconds=after), child=child, pods=tuple(map(Pod, pods)), **more)


def ready(written: dict[str, Any]) -> dict[str, Any]:
    return next(one for one in written["conditions"] if one["type"] == "Ready")


def true(written: dict[str, Any]) -> set[str]:
    return {one["type"] for one in written["conditions"] if one["status"] == "True" and one["type"] != "InputsReady"}


def prior(before: dict[str, Any], reason: str = "", **more: Any) -> dict[str, Any]:
    """A status as it was: with these fields, and Ready=False for this reason."""
    conditions = (
        [{"type": "Ready", "status": "False", "reason": reason, "message": "", "lastTransitionTime": at(0)}]
        if reason
        else []
    )
    return {"observedGeneration": 2, "conditions": conditions, **before, **more}


def crashed(name: str, finished: float, code: int = 70, **more: Any) -> dict[str, Any]:
    return ended(
        code,
        name,
        finished=finished,
        made=finished - 10,
        says=Termination(reason=Reason.WORKLOAD_ERROR, message="boom"),
        **more,
    )
