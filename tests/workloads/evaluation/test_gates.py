"""Gates: what passes at the edge, what never passes, and metrics that there will not be."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

from alpaca_operator.api.evaluation import EvaluationSpec, Gate
from workloads.errors import SpecError
from workloads.evaluation import gates
from workloads.evaluation.gates import Verdict
from workloads.evaluation.intervals import Interval, wilson


def spec(**settings: Any) -> EvaluationSpec:
    return EvaluationSpec.model_validate(
        {
            "models": [{"name": "poet", "model": {"uri": "poet"}}],
            "prompts": {"preset": "zh"},
            "output": {"uri": "out"},
            **settings,
        }
    )


@pytest.mark.parametrize(
    ("bounds", "value", "broken"),
    [
        pytest.param({"min": 0.5}, 0.5, None, id="the smallest value that passes"),
        pytest.param({"max": 12.0}, 12.0, None, id="the largest value that passes"),
        pytest.param({"min": 0.1, "max": 0.2}, 0.15, None, id="between two bounds"),
        pytest.param({"min": 0.5}, 0.25, "stopRate of poet is 0.25, below min 0.5", id="below"),
        pytest.param({"max": 12.0}, 13.5, "stopRate of poet is 13.5, above max 12", id="above"),
        pytest.param(
            {"min": 0.5},
            0.5 - 1e-12,
            "stopRate of poet is 0.499999999999, below min 0.5",
            id="a hair below is told with all its digits",
        ),
        pytest.param(
            {"max": 9.0}, math.inf, "stopRate of poet is infinite, with a bound of max 9", id="infinity has no bound"
        ),
        pytest.param(
            {"min": 9.0},
            math.inf,
            "stopRate of poet is infinite, with a bound of min 9",
            id="infinity passes no minimum",
        ),
        pytest.param(
            {"min": 0.0, "max": 9.0},
            math.nan,
            "stopRate of poet is not a number, with a bound of min 0 and max 9",
            id="NaN never passes",
        ),
        pytest.param(
            {"max": 9.0}, None, "stopRate of poet is missing, with a bound of max 9", id="nor does what is missing"
        ),
    ],
)
def test_a_bound(bounds: dict[str, float], value: float | None, broken: str | None) -> None:
    assert Verdict(Gate(metric="stopRate", model="poet", **bounds), value).broken == broken


@pytest.mark.parametrize(
    ("bounds", "share", "answers", "sentence"),
    [
        pytest.param(
            {"min": 0.9},
            15 / 16,
            16,
            "16 answers do not decide stopRate of poet: it is 93.8 % on them, and of all it may be 71.7 % to 98.9 % (95 %), min 0.9 among it: "
            "measure more",
            id="a passed gate that a few answers do not decide",
        ),
        pytest.param(
            {"min": 1.0},
            1.0,
            1,
            "1 answer does not decide stopRate of poet: it is 100.0 % on them, and of all it may be 20.7 % to 100.0 % (95 %), min 1 among it: "
            "measure more",
            id="one answer never decides that all end",
        ),
        pytest.param(
            {"max": 0.5},
            9 / 16,
            16,
            "16 answers do not decide stopRate of poet: it is 56.2 % on them, and of all it may be 33.2 % to 76.9 % (95 %), max 0.5 among it: "
            "measure more",
            id="nor a broken one",
        ),
        pytest.param({"min": 0.9}, 980 / 1000, 1000, None, id="a thousand decide it"),
        pytest.param({"min": 0.0}, 0.0, 4, None, id="a bound that every share keeps is decided"),
        pytest.param({"min": 0.9}, 0.1, 16, None, id="what is far off is decided by few"),
    ],
)
def test_a_gate_that_too_few_answers_decide_says_so(
    bounds: dict[str, float], share: float, answers: int, sentence: str | None
) -> None:
    interval = Interval(*wilson(share, answers), answers, "answers")
    assert Verdict(Gate(metric="stopRate", model="poet", **bounds), share, interval).undecided == sentence


@pytest.mark.parametrize(
    ("metric", "settings", "message"),
    [
        pytest.param(
            "stoprate",
            {},
            "spec.gates[0].metric: stoprate will not be in the report: did you mean stopRate? There will be stopRate, repetitionRate, "
            "chineseShare, answerTokens, answerCharacters, emptyRate, answerTokensPerSecond, peakMemoryBytes, weightBytes",
            id="a slip of the pen",
        ),
        pytest.param(
            "perplexity",
            {},
            "spec.gates[0].metric: perplexity is measured on dataset, which the spec does not have: add it",
            id="a metric of rows without rows",
        ),
        pytest.param(
            "stopRate",
            {"prompts": None, "dataset": {"validation": [{"uri": "rows"}]}},
            "spec.gates[0].metric: stopRate is measured on prompts, which the spec does not have: add it",
            id="a metric of answers without questions",
        ),
        pytest.param(
            "cmmlu/acc",
            {},
            "spec.gates[0].metric: cmmlu/acc will not be in the report: There will be stopRate, repetitionRate, chineseShare, answerTokens, "
            "answerCharacters, emptyRate, answerTokensPerSecond, peakMemoryBytes, weightBytes",
            id="a metric of a task without tasks",
        ),
    ],
)
def test_a_metric_that_there_will_not_be_is_refused_before_anything_is_loaded(
    metric: str, settings: dict[str, Any], message: str
) -> None:
    with pytest.raises(SpecError) as refused:
        gates.check(spec(gates=[{"metric": metric, "model": "poet", "max": 1}], **settings))
    assert str(refused.value) == message


@pytest.mark.parametrize("bound", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("name", ["min", "max"])
def test_a_bound_that_is_no_number_is_refused_with_the_spec(name: str, bound: float) -> None:
    with pytest.raises(ValidationError) as refused:
        spec(gates=[{"metric": "stopRate", "model": "poet", name: bound}])
    (error,) = refused.value.errors()
    assert (error["type"], error["loc"], error["msg"]) == (
        "finite_number",
        ("gates", 0, name),
        "Input should be a finite number",
    )


def test_metrics_of_tasks_are_known_once_the_tasks_are() -> None:
    asked = spec(gates=[{"metric": "poem/acc", "model": "poet", "min": 1}], tasks=[{"name": "poem"}], prompts=None)
    gates.check(asked)
    gates.check(asked, ["poem/acc", "poem/acc_norm"])
    with pytest.raises(SpecError) as refused:
        gates.check(asked, ["poem/exact_match"])
    assert str(refused.value) == (
        "spec.gates[0].metric: poem/acc will not be in the report: did you mean poem/exact_match? There will be poem/exact_match, peakMemoryBytes, weightBytes"
    )
