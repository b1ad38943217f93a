"""`workloads.quantization.report` and `report_files`: gates at their edges, and what the report says in each of its forms."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpaca_operator.api.quantize import QuantizeJob
from workloads.data.conversations import Example
from workloads.data.report import Report as RowReport
from workloads.evaluation.likeness import NOTHING, Likeness
from workloads.evaluation.perplexity import Score
from workloads.quantization import report_files
from workloads.quantization.calibration import CalibrationRows
from workloads.quantization.error_heatmap import draw
from workloads.quantization.fidelity import ModelScores
from workloads.quantization.gptq import QuantizedLayer
from workloads.quantization.report import Report, warnings
from workloads.storage.sources import Input, Inputs

LAYERS = [
    QuantizedLayer(0, "mlp.down_proj", 2e-6, 0.05),
    QuantizedLayer(0, "self_attn.q_proj", 1e-5, 0.07),
    QuantizedLayer(1, "mlp.down_proj", None, 0.05),
    QuantizedLayer(1, "self_attn.q_proj", 3e-4, 0.05),
]


ALIKE = Likeness.of_row(1000, 900, 12.0)


def measured(perplexity: float, stops: float | None = 1.0) -> ModelScores:
    return ModelScores(
        Score(nats=math.log(perplexity) * 100, tokens=100, correct=40, rows=3), 0 if stops is None else 8, stops
    )


def report(
    before: float = 10.0,
    after: float = 11.0,
    stops: float | None = 0.75,
    fidelity: Likeness = ALIKE,
    **spec: Any,
) -> Report:
    job = QuantizeJob.model_validate(
        {
            "metadata": {"name": "poet-4bit"},
            "kind": "QuantizeJob",
            "spec": {
                "model": {"uri": "pvc://models/<poet>"},
                "calibration": {"train": [{"uri": "rows.json"}]},
                "output": {"uri": "pvc://models/poet-4bit"},
                **spec,
            },
        }
    )
    row = Example(np.arange(5, dtype=np.int32), np.array([False, True, True, True, True]), 1)
    counted = RowReport(sequence_length=128)
    counted.files = ["/here/rows.json: Alpaca"]
    counted.dropped["shorter than 16 tokens"] = 4
    return Report(
        job=job,
        inputs=Inputs(
            {
                "model": Input("pvc://models/<poet>", Path("/here/poet"), "sha256:11"),
                "calibration.train[0]": Input("rows.json", Path("/here/rows.json"), "sha256:22"),
            }
        ),
        rows=CalibrationRows([row, row], [row], {"calibration": counted}),
        before=measured(before, None if stops is None else 1.0),
        after=measured(after, stops) if after == after else ModelScores(Score(nats=math.nan, tokens=100), 0, stops),
        fidelity=fidelity,
        layers=LAYERS,
        bytes_before=4000,
        bytes_after=1000,
        minutes=3.21,
        peak_bytes=2 * 2**30,
        peak_gpu_bytes=None,
    )


@pytest.mark.parametrize(
    ("figures", "spec"),
    [
        pytest.param({}, {}, id="no gate"),
        pytest.param(
            {"before": 10.0, "after": 11.0}, {"maxPerplexityIncrease": 0.1}, id="an increase at the very edge"
        ),
        pytest.param({"before": 7.3, "after": 7.3}, {"maxPerplexityIncrease": 0}, id="no increase, and none allowed"),
        pytest.param({"before": 7.3, "after": 7.1}, {"maxPerplexityIncrease": 0}, id="better than before"),
        pytest.param({"stops": 0.75}, {"minStopRate": 0.75}, id="a stop rate at the very edge"),
        pytest.param({}, {"minTokenAgreement": 0.9}, id="an agreement at the very edge"),
        pytest.param({}, {"maxMeanDivergence": 0.012}, id="a divergence at the very edge"),
    ],
)
def test_what_keeps_its_bounds_passes(figures: dict[str, float], spec: dict[str, float]) -> None:
    assert report(**figures, **spec).broken == []


@pytest.mark.parametrize(
    ("figures", "spec", "told"),
    [
        pytest.param(
            {"after": 11.01},
            {"maxPerplexityIncrease": 0.1},
            "perplexity rose by 10.10%, from 10.0000 to 11.0100, and maxPerplexityIncrease 0.1 allows 10.00%",
            id="an increase beyond the edge",
        ),
        pytest.param(
            {"stops": 0.5},
            {"minStopRate": 0.75},
            "50.0% of the answers ended by themselves (before: 100.0%), and minStopRate 0.75 asks for 75.0%",
            id="answers that do not end",
        ),
        pytest.param(
            {"stops": None},
            {"minStopRate": 0},
            "no question was short enough to be asked (before: –), and minStopRate 0 asks for 0.0%",
            id="nothing could be asked",
        ),
        pytest.param(
            {},
            {"minTokenAgreement": 0.91},
            "the likeliest token is the original's at 90.00% of the positions, and minTokenAgreement 0.91 asks for 91.00%",
            id="an agreement below the edge",
        ),
        pytest.param(
            {},
            {"maxMeanDivergence": 0.01},
            "the mean divergence from the original is 0.012 nats a token, and maxMeanDivergence allows 0.01",
            id="a divergence beyond the edge",
        ),
        pytest.param(
            {"fidelity": NOTHING},
            {"minTokenAgreement": 0},
            "the likeliest token is the original's at nan% of the positions, and minTokenAgreement 0 asks for 0.00%",
            id="an agreement that is no number passes no gate",
        ),
        pytest.param(
            {"fidelity": Likeness.of_row(10, 5, math.nan)},
            {"maxMeanDivergence": 9},
            "the mean divergence from the original is nan nats a token, and maxMeanDivergence allows 9",
            id="nor does such a divergence",
        ),
        pytest.param(
            {"after": math.nan}, {}, "perplexity after quantization is nan (before: 10.0000)", id="no number, no gate"
        ),
        pytest.param(
            {"after": math.inf}, {}, "perplexity after quantization is inf (before: 10.0000)", id="infinite, no gate"
        ),
    ],
)
def test_a_broken_bound_is_told_with_its_value(figures: dict[str, Any], spec: dict[str, float], told: str) -> None:
    assert report(**figures, **spec).broken == [told]


def test_report_json_has_every_figure_and_no_path_of_this_machine() -> None:
    found = report(maxPerplexityIncrease=0.2).as_dict()
    assert found["metrics"] == {
        "perplexityBefore": pytest.approx(10),
        "perplexity": pytest.approx(11),
        "perplexityIncrease": pytest.approx(0.1),
        "evalLoss": pytest.approx(math.log(11)),
        "tokenAccuracyBefore": 0.4,
        "tokenAccuracy": 0.4,
        "tokenAgreement": 0.9,
        "meanDivergence": 0.012,
        "stopRateBefore": 1.0,
        "stopRate": 0.75,
        "bytesBefore": 4000.0,
        "bytesAfter": 1000.0,
        "calibrationRows": 2.0,
        "calibrationTokens": 10.0,
        "quantizeMinutes": 3.21,
        "peakMemoryBytes": 2.0 * 2**30,
    }
    assert {key: found[key] for key in ("bits", "groupSize", "order", "gates", "broken")} == {
        "bits": 4,
        "groupSize": 128,
        "order": "by activation within groups (actGroupAware)",
        "gates": {
            "maxPerplexityIncrease": 0.2,
            "minStopRate": None,
            "minTokenAgreement": None,
            "maxMeanDivergence": None,
        },
        "broken": [],
    }
    assert found["calibration"]["dropped"] == {"shorter than 16 tokens": 4}
    assert "/here" not in json.dumps(found)
    assert found["layers"][2] == {"block": 1, "name": "mlp.down_proj", "error": None, "damping": 0.05}


def test_how_sure_the_figures_are_stands_beside_them(tmp_path: Path) -> None:
    """Of 8 answers, 6 of which ended: Wilson's 40.9 % to 92.9 % (Newcombe 1998 has the formula)."""
    fidelity = sum(
        (Likeness.of_row(100, 90 + number % 3, 1.0 + number % 2, 2.0 + number) for number in range(8)), NOTHING
    )
    made = report(fidelity=fidelity, minStopRate=0.7, maxMeanDivergence=0.05, maxPerplexityIncrease=0.2)
    assert made.broken == []
    assert made.undecided == [
        "8 answers do not decide minStopRate 0.7: of all, stopRate may be 40.9% to 92.9% (95 %): measure more"
    ]
    found = made.as_dict()
    assert found["undecided"] == made.undecided
    assert found["intervals"]["stopRate"] == pytest.approx([0.409, 0.929], abs=1e-3)
    low, high = found["intervals"]["perplexityIncrease"]
    assert low < math.exp(sum(2.0 + number for number in range(8)) / 800) - 1 < high < 0.1
    report_files.write(made, tmp_path)
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| stopRate | 8 answers | 40.9% – 92.9% |" in markdown
    assert f"- {made.undecided[0]}\n" in markdown
    assert made.undecided[0] in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_what_is_no_number_is_null_in_the_metrics() -> None:
    found = report(after=math.nan).metrics()
    assert (found["perplexity"], found["perplexityIncrease"]) == (None, None)


def test_gates_that_are_kept_are_told_with_their_values(tmp_path: Path) -> None:
    report_files.write(report(minTokenAgreement=0.85, maxMeanDivergence=0.05), tmp_path)
    page = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "90.00% of the positions, and 85.00% is asked for" in page
    assert "the mean divergence is 0.012 nats a token, and 0.05 is allowed" in page


def test_the_page_needs_no_other_file_and_shows_what_the_table_says(tmp_path: Path) -> None:
    made = report(after=12.0, maxPerplexityIncrease=0.1)
    report_files.write(made, tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "layer-error.svg",
        "report.html",
        "report.json",
        "report.md",
    ]
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert 'src="' not in page
    assert 'href="http' not in page
    assert "pvc://models/&lt;poet&gt;" in page
    assert '<p class="bad">The result was not published.</p>' in page
    markdown = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "| perplexity | 10 | 12 (+20.00%) |" in markdown
    assert "| rows left out | 4 shorter than 16 tokens |" in markdown
    assert "| 1.self_attn.q_proj | 0.0003 |" in markdown


def test_the_same_errors_are_the_same_picture() -> None:
    assert draw(LAYERS) == draw(LAYERS)


def test_layers_that_were_not_weighed_or_needed_damping_are_named() -> None:
    assert warnings(LAYERS, 0.05) == [
        "warning: 1 layer was rounded without weighing, as the rows gave too little to weigh by (1.mlp.down_proj): give more or longer rows",
        "1 layer needed more damping than dampPercent (0.self_attn.q_proj (0.07))",
    ]
