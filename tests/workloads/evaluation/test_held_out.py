"""Held-out rows: the same answers for every model, the same draw in any order."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alpaca_operator.api.evaluation import HeldOut
from tests.workloads import tiny
from workloads.data.chat_templates import loading
from workloads.data.chat_templates.template import Template
from workloads.data.rows import Row
from workloads.errors import DataError
from workloads.evaluation import held_out
from workloads.evaluation.questions import Question
from workloads.models import libraries
from workloads.storage.sources import Input, Inputs

libraries.quiet()


def named(name: str, tokenizer: object) -> Template:
    return loading.load(name, None, tokenizer)  # type: ignore[arg-type]


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Two turns in a row by one speaker in the second, which Llama-2's format knows not."""
    conversations = [
        [("user", "山？"), ("assistant", "高。"), ("user", "水？"), ("assistant", "深。")],
        [("user", "山？"), ("user", "水？"), ("assistant", "高，深。")],
        [("user", "长问？" * 8), ("assistant", "长答。" * 8), ("user", "还有？"), ("assistant", "没有。")],
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "\n".join(
            json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}, ensure_ascii=False)
            for turns in conversations
        ),
        encoding="utf-8",
    )
    return path


def prepared(path: Path, found: dict[str, Template], **settings: object) -> held_out.Rows:
    spec = HeldOut.model_validate({"validation": [{"uri": "pvc://data/rows.jsonl"}], **settings})
    return held_out.prepare(
        spec, Inputs({"dataset.validation[0]": Input("pvc://data/rows.jsonl", path, "sha256:0")}), found
    )


def asked(path: Path, count: int, **settings: object) -> list[Question]:
    spec = HeldOut.model_validate({"validation": [{"uri": "pvc://data/rows.jsonl"}], **settings})
    inputs = Inputs({"dataset.validation[0]": Input("pvc://data/rows.jsonl", path, "sha256:0")})
    return held_out.questions(spec, inputs, count)


def test_conversations_are_asked_up_to_their_last_answer(rows: Path) -> None:
    found = asked(rows, 9)
    assert [(question.text, question.reference, len(question.before)) for question in found] == [
        ("水？", "深。", 2),
        ("水？", "高，深。", 1),
        ("还有？", "没有。", 2),
    ]
    assert found[0].messages("你是诗人。") == [
        {"role": "system", "content": "你是诗人。"},
        {"role": "user", "content": "山？"},
        {"role": "assistant", "content": "高。"},
        {"role": "user", "content": "水？"},
    ]
    (one,) = asked(rows, 1, systemPrompt="答得短。")
    assert one.messages("你是诗人。")[0] == {"role": "system", "content": "答得短。"}, "that of the rows stays"
    assert [one.text for one in asked(rows, 1)] == [one.text]
    assert {question.wording for question in found} == {"深。", "高，深。", "没有。"}


def test_conversations_that_hold_more_than_text_are_not_asked(tmp_path: Path) -> None:
    call = {"type": "function", "function": {"name": "look", "arguments": {}}}
    talks = [
        [{"role": "user", "content": "看。"}, {"role": "assistant", "content": "", "tool_calls": [call]}],
        [{"role": "assistant", "content": "你好。"}],
    ]
    lines = (json.dumps({"messages": talk}, ensure_ascii=False) for talk in talks)
    (tmp_path / "rows.jsonl").write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(DataError) as told:
        asked(tmp_path / "rows.jsonl", 2)
    assert str(told.value) == (
        "prompts.heldOut: of 2 conversations of dataset.validation none ends in an answer to a question in text: ask by prompts.file"
    )


def test_conversations_that_a_format_reads_otherwise_are_left_out_for_all(rows: Path, llama: object) -> None:
    found = prepared(rows, {"human": named("HumanAssistant", llama), "llama2": named("Llama2", llama)})
    assert {name: len(examples) for name, examples in found.by_model.items()} == {"human": 2, "llama2": 2}
    assert found.left_out == 1
    scored = {
        name: [bytes_of.of(row) for row in found.by_model[name]]
        for name, bytes_of in (
            (name, held_out_bytes(named(format_, llama)))
            for name, format_ in (("human", "HumanAssistant"), ("llama2", "Llama2"))
        )
    }
    assert scored["human"] == scored["llama2"], "the same answers, to the byte"


def held_out_bytes(template: Template) -> object:
    from workloads.evaluation.perplexity import AnswerBytes

    return AnswerBytes(template.tokenizer, Path(), template)


def test_a_turn_that_one_vocabulary_makes_too_long_is_scored_for_none(
    rows: Path, llama: object, byte_level: object
) -> None:
    whole = prepared(rows, {"long": named("HumanAssistant", llama), "short": named("ChatML", byte_level)})
    lengths = {name: max(len(row.ids) for row in examples) for name, examples in whole.by_model.items()}
    assert len(set(lengths.values())) == 2
    limit = min(lengths.values())  # one of them can hold all, the other not even the long turn
    found = prepared(
        rows, {"long": named("HumanAssistant", llama), "short": named("ChatML", byte_level)}, sequenceLength=limit
    )
    conversations = {name: {row.conversation for row in examples} for name, examples in found.by_model.items()}
    assert conversations["long"] == conversations["short"]
    assert len(conversations["long"]) == 2
    assert found.left_out == 1


def test_a_draw_is_the_same_in_any_order_and_keeps_the_order() -> None:
    rows = [
        Row(
            "rows.json",
            number,
            ({"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}),
        )
        for number, row in enumerate(tiny.rows(40))
    ]
    chosen = held_out.drawn(iter(rows), 7)
    assert len(chosen) == 7
    assert [row.number for row in chosen] == sorted(row.number for row in chosen)
    assert held_out.drawn(iter(rows[::-1]), 7) == chosen[::-1]
    assert {row.number for row in held_out.drawn(iter(rows), 6)} < {row.number for row in chosen}, (
        "a smaller draw is part of it"
    )
    assert len(held_out.drawn(iter(rows[:3]), 7)) == 3


def test_a_set_without_rows_is_refused(tmp_path: Path, llama: object) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text("", encoding="utf-8")
    with pytest.raises(DataError, match=r"^dataset\.validation: no rows in 1 file: check the uri$"):
        prepared(path, {"human": named("HumanAssistant", llama)})


def test_the_log_names_sources_as_the_spec_does(rows: Path, llama: object) -> None:
    found = prepared(rows, {"human": named("HumanAssistant", llama)})
    assert found.lines == (
        "pvc://data/rows.jsonl: Messages (by column messages), utf-8",
        "3 conversations read",
        f"human: 3 rows, {sum(int(row.loss_mask.sum()) for row in found.by_model['human'])} tokens of answers",
    )
