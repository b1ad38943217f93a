"""Questions: the set that ships with the project, and files as users have them."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from alpaca_operator.api.evaluation import Prompts
from workloads.errors import DataError, SpecError
from workloads.evaluation import questions
from workloads.evaluation.questions import Question

ZH = Prompts(preset="zh")


def own(path: Path, **settings: object) -> list[Question]:
    return questions.load(Prompts.model_validate({"file": {"uri": str(path)}, **settings}), path)


def test_the_preset_has_sixty_questions_and_more_in_eight_categories() -> None:
    found = questions.load(ZH, None)
    assert len(found) >= 60
    categories = Counter(question.category for question in found)
    assert len(categories) == 8
    assert min(categories.values()) >= 6
    assert len({question.text for question in found}) == len(found)
    assert sum(question.reference is not None for question in found) > len(found) / 2
    rows = (questions.PRESETS / "zh.jsonl").read_text(encoding="utf-8").splitlines()
    assert {key for row in rows for key in json.loads(row)} == {"category", "question", "reference"}


def test_a_limit_takes_evenly_from_the_categories_in_their_order() -> None:
    found = questions.load(ZH.model_copy(update={"limit": 12}), None)
    counts = Counter(question.category for question in found)
    assert sorted(counts.values()) == [1, 1, 1, 1, 2, 2, 2, 2]
    everything = questions.load(ZH, None)
    assert [question for question in everything if question in found] == found


def test_only_the_categories_that_are_named_are_asked() -> None:
    found = questions.load(ZH.model_copy(update={"categories": ["数学"]}), None)
    assert {question.category for question in found} == {"数学"}


def test_a_category_that_there_is_not_is_refused_with_those_there_are() -> None:
    with pytest.raises(SpecError) as refused:
        questions.load(ZH.model_copy(update={"categories": ["数字"]}), None)
    assert str(refused.value) == (
        "prompts.categories: there is no '数字': did you mean 数学? There are 文学, 逻辑推理, 数学, 编程, 常识, 写作, 翻译与文言, 安全与角色"
    )


ASKED = [("山有多高？", "地理", "很高。"), ("水有多深？", questions.OTHER, None)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param(
            "q.jsonl",
            '{"question": "山有多高？", "category": "地理", "reference": "很高。"}\n{"question": "水有多深？"}\n'.encode(),
            id="JSON lines",
        ),
        pytest.param(
            "q.csv", "问题,类别,参考答案\n山有多高？,地理,很高。\n水有多深？,,\n".encode("gb18030"), id="CSV in GB18030"
        ),
        pytest.param(
            "q.md",
            "# 题目\n\n| question | category | reference |\n|---|:--:|---|\n| 山有多高？ | 地理 | 很高。 |\n| 水有多深？ | | |\n\n正文\n".encode(),
            id="a Markdown table",
        ),
    ],
)
def test_files_of_the_users_own(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    found = own(tmp_path / name)
    assert [(question.text, question.category, question.reference) for question in found] == ASKED
    assert [question.text for question in own(tmp_path)] == [text for text, _, _ in ASKED], "a folder holds such files"


def test_the_tables_of_llama_chinese_are_read(tmp_path: Path) -> None:
    path = tmp_path / "eval.md"
    path.write_text(
        "| 一级分类 | 二级分类 | 问题 | 答案 |\n| --- | --- | --- | --- |\n"
        '| 代码 | 解释 | 这段代码做什么？\\nx = a \\| b\\nprint(x) | It prints\\n| b.</s>" |\n'
        "| 常识 | 自然 | 求 $\\nabla f$。<br>写出步骤。 | 好的 |\n",
        encoding="utf-8",
    )
    assert own(path) == [
        Question("这段代码做什么？\nx = a | b\nprint(x)", "代码", None, f"{path}, line 3"),
        Question("求 $\\nabla f$。\n写出步骤。", "常识", None, f"{path}, line 4"),
    ]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param(
            "q.jsonl",
            '{"text": "山有多高？"}\n',
            "{file}, line 1: no question: a row needs `question` (or 问题), and has text",
            id="no such column",
        ),
        pytest.param(
            "q.jsonl",
            '{"question": "山？"}\n{"question": "  "}\n',
            "{file}, line 2: the question is empty: mend or remove this line",
            id="an empty question",
        ),
        pytest.param(
            "q.jsonl",
            '{"question": ["山？"]}\n',
            "{file}, line 1: question is list, not text: mend this line",
            id="a question that is no text",
        ),
        pytest.param(
            "q.md",
            "| 甲 | 乙 |\n|--|--|\n| 1 | 2 |\n",
            "{file}: no table with a column `question` or 问题: name its columns so",
            id="a table of something else",
        ),
        pytest.param(
            "q.csv",
            "question,category\n",
            "prompts.file: {file} holds no question: it needs rows with `question`, or a Markdown table with 问题",
            id="a file without rows",
        ),
    ],
)
def test_what_is_no_question_is_refused_with_its_place(name: str, content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    with pytest.raises(DataError) as refused:
        own(path)
    assert str(refused.value) == message.format(file=path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        pytest.param(
            "own.csv", "question,category\n山有多高？,地理\n,\n水有多深？,\n,\n", id="empty lines of a spreadsheet"
        ),
        pytest.param(
            "own.md", "| question | category |\n| - | :-: |\n| 山有多高？ | 地理 |\n| 水有多深？ | |\n", id="one dash"
        ),
        pytest.param(
            "own.md",
            "| question | category |\n|---|---|\n| 山有多高？ | 地理 |\n| --- | --- |\n| 水有多深？ | |\n",
            id="a rule of dashes within the table",
        ),
    ],
)
def test_files_as_editors_leave_them_lose_no_question(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    asked = [question.text for question in own(path)]
    assert asked == ["山有多高？", "水有多深？"]
