"""SFTJob becomes one Job, or a refusal that says why not. The Job itself: tests/golden/sft-job.yaml."""

from __future__ import annotations

from alpaca_operator.plan import PLANNERS, Plan
from tests.plan.build import SETTINGS, sft_job


def test_one_job_with_one_pod():
    plan = PLANNERS["SFTJob"](sft_job(), {}, SETTINGS)
    assert [(child["kind"], child["metadata"]["name"]) for child in plan.manifests] == [("Job", "poet-sft")]
    assert plan.refusal is None


def test_a_job_that_cannot_run_has_no_children():
    plan = PLANNERS["SFTJob"](sft_job(output={"uri": "./poet"}), {}, SETTINGS)
    assert plan == Plan(manifests=(), refusal=plan.refusal)
    assert plan.refusal is not None
