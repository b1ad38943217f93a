"""The learning rate of every step."""

from __future__ import annotations

import itertools
import warnings
from pathlib import Path

import pytest
import torch

from alpaca_operator.api.sft import SFTJob
from tests.workloads.runs import job
from workloads.models import libraries

libraries.quiet()

from workloads.training import arguments, schedule  # noqa: E402 - once the optional libraries are hidden
from workloads.training.auto import Policy  # noqa: E402

POLICY = Policy("fp32", "float32", None, "sdpa", "None", "adamw_torch", "None", 0)
SCHEDULERS = ("cosine", "linear", "constant", "constant_with_warmup", "cosine_with_min_lr")


def rates(scheduler: str, warmup: float, steps: int) -> list[float]:
    """Learning rate of each step, as a share of the peak."""
    training = {"scheduler": scheduler, "learningRate": 1.0}
    if scheduler != "constant":  # which has none, and refuses to be given one
        training["warmupRatio"] = warmup
    settings = arguments.of(SFTJob.model_validate(job(training=training)).spec, POLICY, Path("scratch"), None)
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    found = schedule.of(settings, optimizer, steps)
    used = []
    for _ in range(steps):
        used.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        found.step()
    return used


@pytest.mark.parametrize(
    ("scheduler", "warmup", "expected"),
    [
        pytest.param("cosine", 0.03, [1.0], id="the only step is at the peak"),
        pytest.param("cosine", 0.0, [1.0, 0.75, 0.25], id="a cosine ends one step after the last"),
        pytest.param("cosine", 0.5, [0.5, 1.0, 0.75, 0.25], id="a warm-up ends at the peak"),
        pytest.param("linear", 0.25, [1.0, 0.75, 0.5, 0.25], id="a line ends one step after the last"),
        pytest.param("linear", 0.9, [0.5, 1.0], id="a run that is all warm-up"),
        pytest.param("constant", 0.03, [1.0, 1.0], id="constant has no warm-up"),
        pytest.param("constant_with_warmup", 0.5, [0.5, 1.0, 1.0, 1.0], id="constant after a warm-up"),
        pytest.param("cosine_with_min_lr", 0.0, [1.0, 0.775, 0.325], id="a tenth of the peak is the least"),
    ],
)
def test_the_schedule_is(scheduler: str, warmup: float, expected: list[float]) -> None:
    assert rates(scheduler, warmup, len(expected)) == pytest.approx(expected)


def test_no_step_is_made_at_a_learning_rate_of_0() -> None:
    cases = list(itertools.product(SCHEDULERS, (0.0, 0.03, 0.5, 0.99), (1, 2, 3, 7, 40)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        zeros = [case for case in cases if min(rates(*case)) <= 0]
    assert zeros == []
