"""How many processes train, and whether the pod has the GPUs for them."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from alpaca_operator.api.sft import SFTJob
from workloads.errors import WorkloadError
from workloads.runtime import gpus
from workloads.system.environment import Environment

GPUS = {"nvidia.com/gpu": 4}


@pytest.mark.parametrize(
    ("spec", "in_pod", "count"),
    [
        pytest.param({}, True, 1, id="one, where nothing is said"),
        pytest.param({"parallelism": {"processesPerNode": 3}}, True, 3, id="as many as the spec says"),
        pytest.param({"pod": {"resources": {"limits": GPUS}}}, True, 4, id="one for each GPU of the pod"),
        pytest.param({"pod": {"resources": {"limits": {"amd.com/gpu": "2"}}}}, True, 2, id="of any maker"),
        pytest.param({"pod": {"resources": {"limits": {"memory": "4Gi", "cpu": 8}}}}, True, 1, id="not for each processor"),
        pytest.param(
            {"parallelism": {"processesPerNode": 1}, "pod": {"resources": {"limits": GPUS}}}, True, 1, id="fewer than GPUs, if said"
        ),
        pytest.param(
            {"pod": {"resourceClaims": [{"name": "gpus", "resourceClaimName": "four"}]}}, True, 1, id="one with a claim, whose devices nobody counts"
        ),
        pytest.param({"pod": {"resources": {"limits": GPUS}}}, False, 1, id="one on a laptop without the pod's GPUs"),
        pytest.param({"parallelism": {"processesPerNode": 2}}, False, 2, id="two on a laptop without a GPU, if said"),
    ],
)  # fmt: skip
def test_the_number_of_processes(spec: dict[str, Any], in_pod: bool, count: int) -> None:
    assert gpus.processes(job(spec), Environment.read({"ALPACA_IN_POD": "1"} if in_pod else {})) == count


def job(spec: dict[str, Any]) -> SFTJob:
    required = {"model": {"uri": "m"}, "dataset": {"train": [{"uri": "d"}]}, "output": {"uri": "o"}}
    return SFTJob.model_validate({"metadata": {"name": "j"}, "spec": required | spec})


ONE_OF_FOUR = {"parallelism": {"processesPerNode": 1}}
LOOK = "see whether the node's driver works and is new enough for the image's CUDA 13.2, and whether the device plugin gives containers their GPUs"


@pytest.mark.parametrize(
    ("limits", "spec", "seen", "cuda", "message", "code"),
    [
        pytest.param({"nvidia.com/gpu": 4}, {}, 4, "13.2", "", 0, id="all that were asked for"),
        pytest.param({}, {"parallelism": {"processesPerNode": 2}}, 0, "13.2", "", 0, id="none, and none was asked for"),
        pytest.param({"nvidia.com/gpu": 0}, {}, 0, "13.2", "", 0, id="none, as was said"),
        pytest.param({"nvidia.com/gpu": 4}, ONE_OF_FOUR, 1, "13.2", "", 0, id="as many as are used"),
        pytest.param(
            {"nvidia.com/gpu": 1}, {}, 0, "13.2",
            f"spec.pod.resources.limits asks for 1 nvidia.com/gpu, and torch sees 0 in this pod: {LOOK}; the next pod may find another node",
            70, id="the only one is not there",
        ),
        pytest.param(
            {"nvidia.com/gpu": 4}, {}, 2, "13.2",
            f"spec.pod.resources.limits asks for 4 nvidia.com/gpu, and torch sees 2 in this pod: {LOOK}, or set parallelism.processesPerNode to 2; "
            "the next pod may find another node",
            70, id="some are not there",
        ),
        pytest.param(
            {"nvidia.com/gpu": 2}, {}, 0, None,
            "spec.pod.resources.limits asks for 2 nvidia.com/gpu, and torch 2.15.0 in the image is not built for CUDA: name another one in pod.image, "
            "or remove the limit",
            64, id="an image without CUDA",
        ),
        pytest.param(
            {"amd.com/gpu": 1}, {}, 0, "13.2",
            "spec.pod.resources.limits asks for 1 amd.com/gpu, and torch 2.15.0 in the image is not built for ROCm: name another one in pod.image, "
            "or remove the limit",
            64, id="an image for another maker's",
        ),
    ],
)  # fmt: skip
def test_a_pod_computes_on_the_gpus_that_it_asks_for_or_not_at_all(
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, int],
    spec: dict[str, Any],
    seen: int,
    cuda: str | None,
    message: str,
    code: int,
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: seen)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    monkeypatch.setattr(torch, "__version__", "2.15.0")
    one = job({"pod": {"resources": {"limits": limits}}, **spec})
    pod = {"ALPACA_IN_POD": "1"}

    def look(environ: dict[str, str]) -> tuple[str, int]:
        environment = Environment.read(environ)
        try:
            gpus.must_have_gpus(one, environment, gpus.processes(one, environment))
        except WorkloadError as error:
            return str(error), int(error.exit_code)
        return "", 0

    assert look(pod) == (message, code)
    assert look(pod | {"ALPACA_CPU_FOR_GPU": "1"}) == look({}) == ("", 0)
