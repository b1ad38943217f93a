"""The last word of a pod is heard without what this side does not understand: the rest must not be lost with it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from alpaca_operator.api.contract import Published, Termination
from alpaca_operator.api.status import Reason

WORD: dict[str, Any] = {
    "reason": "Succeeded",
    "message": "published",
    "step": 5,
    "metrics": {"evalLoss": 1.5},
    "output": {"uri": "pvc://models/poet", "digest": "sha256:ab", "kind": "Model"},
}
WHOLE = Termination(
    reason=Reason.SUCCEEDED,
    message="published",
    step=5,
    metrics={"evalLoss": 1.5},
    output=Published(uri="pvc://models/poet", digest="sha256:ab", kind="Model"),
)


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        pytest.param({}, {}, id="all of it"),
        pytest.param({"novel": {"a": 1}}, {}, id="a field that a newer workload adds"),
        pytest.param({"reason": "Distilled"}, {"reason": None}, id="a reason that a newer workload has"),
        pytest.param({"step": 2**63}, {"step": None}, id="a step beyond what the API server takes"),
        pytest.param({"step": -1}, {"step": None}, id="a step before the first"),
        pytest.param({"metrics": {"evalLoss": 1.5, "note": "good"}}, {}, id="a metric that is no number"),
        pytest.param(
            {"metrics": {f"m{n}": 1 for n in range(65)}}, {"metrics": None}, id="more metrics than a status holds"
        ),
        pytest.param(
            {"output": {**WORD["output"], "kind": "Distillate"}},
            {"output": Published(uri="pvc://models/poet", digest="sha256:ab")},
            id="an output of a kind that a newer workload makes",
        ),
        pytest.param({"output": {"digest": "sha256:ab"}}, {"output": None}, id="an output without a place"),
        pytest.param({"output": {**WORD["output"], "digest": "x" * 1025}}, {"output": None}, id="an endless digest"),
        pytest.param(
            {"resolvedInputs": {"model": {"digest": "sha256:cd"}}}, {"resolved_inputs": {}}, id="an input from nowhere"
        ),
        pytest.param({"rank": "first"}, {}, id="a rank in words"),
    ],
)
def test_what_cannot_be_read_is_left_out(change: dict[str, Any], lost: dict[str, Any]) -> None:
    assert Termination.hear(json.dumps({**WORD, **change})) == WHOLE.model_copy(update=lost)


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="nothing"),
        pytest.param("Traceback (most recent call last):", id="the end of a log"),
        pytest.param('{"level":"info","message":"saved"}', id="a line of a log"),
        pytest.param("[1]", id="another shape"),
        pytest.param("[" * 4000, id="brackets"),
        pytest.param(json.dumps(WORD)[:-2], id="half of it"),
    ],
)
def test_what_is_no_last_word_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        Termination.hear(text)
