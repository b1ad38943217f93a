"""`workloads.quantization.calibration`: which rows are drawn, which are set aside, and what becomes of the others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from alpaca_operator.api.quantize import QuantizeSpec
from tests.workloads import tiny
from workloads.data.chat_templates.template import Template
from workloads.quantization import calibration
from workloads.quantization.calibration import CalibrationRows


@dataclass(frozen=True)
class Found:
    path: Path
    digest: str = "sha256:0"


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Template:
    from workloads.data.chat_templates import loading
    from workloads.data.tokenizer_io import load_tokenizer

    folder = tmp_path_factory.mktemp("tokenizer")
    tiny.write_tokenizer(folder)
    return loading.load("HumanAssistant", None, load_tokenizer(folder))


def draw(
    template: Template, folder: Path, train: list[list[Any]], validation: list[Any] | None = None, **spec: Any
) -> CalibrationRows:
    """What is drawn of files with the rows of ``train``; ``spec`` is camelCase, its parts below calibration and evaluation."""
    inputs = {}
    sources: dict[str, list[dict[str, str]]] = {"calibration.train": [], "evaluation.validation": []}
    for field, files in (("calibration.train", train), ("evaluation.validation", [validation] if validation else [])):
        for number, rows in enumerate(files):
            path = folder / f"{field}.{number}.json"
            path.write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
            inputs[f"{field}[{number}]"] = Found(path)
            sources[field].append({"uri": path.name})
    typed = QuantizeSpec.model_validate(
        {
            "model": {"uri": "m"},
            "output": {"uri": "o"},
            "calibration": {
                "train": sources["calibration.train"],
                "sequenceLength": 128,
                **spec.get("calibration", {}),
            },
            "evaluation": {"validation": sources["evaluation.validation"], **spec.get("evaluation", {})},
        }
    )
    return calibration.draw(typed, inputs, template)


def texts(rows: list[Any], template: Template) -> list[str]:
    return [template.tokenizer.decode(row.ids) for row in rows]


def test_a_tenth_of_the_conversations_is_measured_on_and_none_is_in_both(template: Template, tmp_path: Path) -> None:
    found = draw(template, tmp_path, [tiny.rows(100)])
    assert (len(found.calibration), len(found.evaluation)) == (90, 10)
    assert not set(texts(found.calibration, template)) & set(texts(found.evaluation, template))


def test_seed_and_content_decide_what_is_drawn_whatever_the_order(template: Template, tmp_path: Path) -> None:
    rows = tiny.rows(100)
    wanted = {"calibration": {"samples": 20}}
    found = draw(template, tmp_path, [rows], **wanted)
    turned = draw(template, tmp_path, [rows[60:], rows[:60][::-1]], **wanted)
    assert found.digest == turned.digest
    assert len(found.calibration) == 20
    other = draw(template, tmp_path, [rows], calibration={"samples": 20, "seed": 7})
    assert other.digest != found.digest


def test_a_row_more_changes_one_row_of_the_draw_at_most(template: Template, tmp_path: Path) -> None:
    wanted = {"calibration": {"samples": 20}, "evaluation": {"samples": 5}}
    before = draw(template, tmp_path, [tiny.rows(100)], **wanted)
    after = draw(template, tmp_path, [[*tiny.rows(100), *tiny.rows(1, seed=9)]], **wanted)
    kept = set(texts(before.calibration, template)) & set(texts(after.calibration, template))
    assert len(kept) >= 19


def test_equal_conversations_are_drawn_once(template: Template, tmp_path: Path) -> None:
    found = draw(template, tmp_path, [tiny.rows(10), tiny.rows(10)])
    assert len(found.calibration) + len(found.evaluation) == 10
    assert found.dropped == {calibration.EQUAL: 10}


def test_short_rows_are_left_out_and_counted(template: Template, tmp_path: Path) -> None:
    short = [{"instruction": name, "output": "山"} for name in tiny.SURNAMES]
    found = draw(template, tmp_path, [[*tiny.rows(20), *short]], calibration={"minTokens": 25})
    assert found.dropped == {"shorter than 25 tokens": 10}
    assert min(len(row.ids) for row in (*found.calibration, *found.evaluation)) >= 25


def test_long_conversations_are_cut_between_turns_and_stay_on_one_side(template: Template, tmp_path: Path) -> None:
    turns = [
        {"role": role, "content": text}
        for row in tiny.rows(12, seed=3)
        for role, text in (("user", row["instruction"]), ("assistant", row["output"]))
    ]
    found = draw(template, tmp_path, [[{"messages": turns}], [{"messages": [*turns[2:], *turns[:2]]}]])
    assert found.reports["calibration"].split == 2
    assert max(len(row.ids) for row in found.calibration) <= 128
    assert len({row.conversation for row in found.calibration}) == 1
    assert len(found.calibration) > 1


def test_rows_that_are_measured_on_are_not_quantized_by(template: Template, tmp_path: Path) -> None:
    rows = tiny.rows(30)
    found = draw(template, tmp_path, [rows], rows[:4], evaluation={"samples": 3})
    assert len(found.evaluation) == 3
    assert len(found.calibration) == 27
    assert found.dropped == {calibration.MEASURED: 3}


def test_the_system_prompt_goes_before_each_row(template: Template, tmp_path: Path) -> None:
    found = draw(template, tmp_path, [tiny.rows(10)], calibration={"systemPrompt": "山水"})
    assert all("山水" in text for text in texts(found.calibration, template))


def test_what_was_drawn_is_told(template: Template, tmp_path: Path) -> None:
    found = draw(
        template, tmp_path, [[*tiny.rows(20), {"instruction": "问", "output": "山"}]], calibration={"minTokens": 25}
    )
    lines = found.lines()
    assert lines[1:3] == [
        "calibration: 21 conversations read",
        "calibration: dropped: 1 conversation shorter than 25 tokens",
    ]
    assert lines[-2:] == [
        f"calibration: 18 rows drawn, {found.tokens:,} tokens ({found.digest[:19]}…)",
        f"evaluation: 2 rows, loss over {sum(int(row.loss_mask.sum()) for row in found.evaluation):,} tokens",
    ]


def test_the_digest_is_of_ids_and_where_rows_end(template: Template, tmp_path: Path) -> None:
    found = draw(template, tmp_path, [tiny.rows(10)])
    first, *rest = found.calibration
    halves = [first._replace(ids=first.ids[:5]), first._replace(ids=first.ids[5:])]
    parted = CalibrationRows([*halves, *rest], found.evaluation, found.reports)
    assert np.array_equal(
        np.concatenate([row.ids for row in parted.calibration]), np.concatenate([row.ids for row in found.calibration])
    )
    assert parted.digest != found.digest
