"""Conversations: rows of every layout become what SFTJob reads as the same, with nothing of a row lost, and are compared by their questions."""

from __future__ import annotations

import json
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.conversations import DataSource
from tests.workloads.curation.corpora import Made, run
from tests.workloads.literature import chinese
from workloads.data.rows import Reading, read
from workloads.errors import DataError, SpecError

TOOL = {"type": "function", "function": {"name": "search", "parameters": {"type": "object"}}}
CALL = {"id": "1", "type": "function", "function": {"name": "search", "arguments": {"q": "唐诗"}}}
ROWS: dict[str, Any] = {
    "messages.jsonl": {
        "messages": [
            {"role": "system", "content": "你是诗人。"},
            {"role": "user", "content": "谁写的？"},
            {"role": "assistant", "content": "", "tool_calls": [CALL]},
            {"role": "tool", "content": "王之涣", "tool_call_id": "1"},
            {"role": "assistant", "content": "王之涣。", "reasoning_content": "查过了。", "weight": 0},
            {"role": "user", "content": "谢谢"},
            {"role": "assistant", "content": "不客气。"},
        ],
        "tools": [TOOL],
        "id": 7,
        "lang": "zh",
    },
    "sharegpt.json": {
        "conversations": [{"from": "human", "value": "问\r\n行"}, {"from": "gpt", "value": "答"}],
        "model": "x",
    },
    "text.csv": {"text": "<s>Human: 白日依山尽的下一句？\n</s><s>Assistant: 黄河入海流。\n</s>", "source": "诗"},
    "alpaca.jsonl": {
        "instruction": "翻译",
        "input": "sun",
        "output": "太阳",
        "history": [["早", "早上好"]],
        "category": {"a": 1},
    },
    "target.csv": {"input": "一加一？", "target": "二"},
    "math.jsonl": {"original_text": "三加四？", "equation": "x=3+4", "ans": "7", "id": "23"},
    "lccc.json": {"dialog": ["你 好", "好 呀", "走 了"]},
    "untrained.jsonl": {"instruction": "不要学", "output": "坏", "train": False, "reasoning": "想"},
}


def write(folder: Path, name: str, rows: list[Any]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    if name.endswith(".csv"):
        import csv

        with path.open("w", encoding="utf-8", newline="") as out:
            writer = csv.DictWriter(out, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    else:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        text = f"[{','.join(lines)}]" if name.endswith(".json") else "\n".join(lines)
        path.write_text(text, encoding="utf-8")
    return path


def sft(path: Path, part: str = "train") -> list[tuple[Any, Any]]:
    """What SFTJob reads there: messages and tools. A published output has its artifact.json, by which its report is known for one."""
    if path.is_dir():
        (path / "artifact.json").touch()
    reading = Reading()
    found = read([(DataSource(uri="pvc://a/b"), path)], reading, part)
    return sorted(((row.messages, row.tools) for row in found), key=str)


def talks(folder: Path, rows: list[dict[str, str]], name: str = "out", **spec: Any) -> Made:
    path = write(folder / "rows", "talks.jsonl", rows)
    return run(folder, name, content="Conversations", sources=[{"name": "talks", "uri": str(path)}], **spec)


def pair(question: str, answer: str) -> dict[str, str]:
    return {"instruction": question, "output": answer}


def asked(made: Made, part: str = "train") -> list[str]:
    return [row["messages"][0]["content"] for row in made.rows(part)]  # type: ignore[index]


@pytest.mark.parametrize("name", ROWS)
def test_sft_reads_of_the_output_what_it_reads_of_the_row(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "rows", name, [ROWS[name]])
    made = run(tmp_path, content="Conversations", sources=[{"uri": str(path)}], clean={"presets": []})
    assert sft(tmp_path / "out") == sft(path)
    (row,) = made.rows()
    rest: Any = row.get("row", {})
    own = {"messages.jsonl": {"id": 7, "lang": "zh"}, "sharegpt.json": {"model": "x"}, "text.csv": {"source": "诗"}}
    own |= {"alpaca.jsonl": {"category": {"a": 1}}, "math.jsonl": {"id": "23"}, "untrained.jsonl": {"train": False}}
    assert rest == own.get(name, {}), "what is no part of the conversation stays with the row"
    assert row["id"].startswith(f"{name}/{name}, ")


def test_a_corpus_of_conversations_goes_from_job_to_job(tmp_path: Path) -> None:
    """Several layouts in one folder, with a validation part that SFTJob finds by its name; other files are left out, and named."""
    for number in range(20):
        for name, row in ROWS.items():
            if name != "messages.jsonl":
                write(
                    tmp_path / "rows" / str(number),
                    name,
                    [{**row, "note": f"{number}"} if isinstance(row, dict) else row],
                )
    (tmp_path / "rows" / "README.txt").write_text("说明", encoding="utf-8")
    made = run(
        tmp_path,
        content="Conversations",
        sources=[{"name": "rows", "uri": str(tmp_path / "rows")}],
        split={"validationDocuments": 2},
    )
    assert made.dropped("duplicate of another document") == 19 * 7
    train, validation = sft(tmp_path / "out"), sft(tmp_path / "out", "validation")
    assert (len(train), len(validation)) == (5, 2)
    assert any("README.txt" in line and "conversations are rows" in line for line in made.said)
    assert {note["what"].partition(",")[0] for note in made.report["notes"]} >= {
        "files were read as Alpaca", "files were read as LCCC", "files were read as ShareGPT",
    }  # fmt: skip


def test_equal_and_nearly_equal_questions_are_duplicates_whatever_the_answers(tmp_path: Path) -> None:
    lines = chinese(400, seed=4)
    long = ["".join(lines[start : start + 12]) for start in range(0, 240, 12)]
    rows = [pair("你好", "你好。"), pair(" 你好", "您好！"), pair("再见", "你好。")]
    rows += [pair(text, "短") for text in long]
    rows += [pair(f"{text[:60]}又{text[60:]}", "一个长得多的回答，所以留下的是这一个。") for text in long[:5]]
    made = talks(tmp_path, rows, deduplicate={"near": {}})
    assert made.dropped("duplicate of another document") == 1
    assert made.dropped("nearly like another document") == 5
    kept = asked(made)
    assert kept[:2] == ["你好", "再见"]
    assert set(kept[2:]) == {*long[5:], *(f"{text[:60]}又{text[60:]}" for text in long[:5])}, "the longest stays"


def test_the_same_question_in_another_role_or_after_another_is_another(tmp_path: Path) -> None:
    one = {"messages": [{"role": "user", "content": "好吗"}, {"role": "assistant", "content": "好"}]}
    two = {"messages": [{"role": "system", "content": "你很忧愁。"}, *one["messages"]]}
    three = {
        "messages": [*one["messages"], {"role": "user", "content": "为何"}, {"role": "assistant", "content": "不知"}]
    }
    nobody = [{"messages": [{"role": "assistant", "content": text}]} for text in ("春眠", "不觉晓")]
    path = write(tmp_path, "a.jsonl", [one, two, three, *nobody])
    made = run(tmp_path, content="Conversations", sources=[{"uri": str(path)}])
    assert len(made.rows()) == 5


def test_every_message_is_cleaned_and_what_is_left_counted(tmp_path: Path) -> None:
    rows = [
        pair("问\u200b题", "答\u200b案\n扫描下方二维码，关注我们的公众号"),
        pair("只有广告", "扫描下方二维码，关注我们的公众号"),
        pair("含有禁词", "某某"),
        pair("短", "短"),
    ]
    made = talks(
        tmp_path,
        rows,
        clean={
            "presets": ["Characters", "Advertisements"],
            "rules": [{"name": "no", "pattern": "禁词", "action": "DropDocument"}],
        },
        filters={"minCharacters": 4},
    )
    assert sft(tmp_path / "out") == [
        (({"role": "user", "content": "问题"}, {"role": "assistant", "content": "答案"}), ())
    ]
    assert {reason: made.dropped(reason) for reason in made.report["dropped"]} == {
        "conversation without an answer": 1, "minCharacters": 1, "no": 1,
    }  # fmt: skip
    (source,) = made.report["sources"].values()
    ends = [source["train"], source["validation"], *source["dropped"].values()]
    assert sum(end["documents"] for end in ends) == source["read"]["documents"] == 4
    taken = sum(part["characters"] for part in source["removedByRules"].values())
    assert sum(end["characters"] for end in ends) + taken == source["read"]["characters"]


def test_conversations_are_decontaminated_compared_with_earlier_ones_and_mixed(tmp_path: Path) -> None:
    exam = "下列诗句中，哪一句出自唐代诗人王之涣的《登鹳雀楼》？请选出正确的一项。"
    (tmp_path / "exam.jsonl").write_text(json.dumps({"question": exam}, ensure_ascii=False), encoding="utf-8")
    write(
        tmp_path,
        "earlier.json",
        [{"conversations": [{"from": "human", "value": "旧的问题"}, {"from": "gpt", "value": "旧"}]}],
    )
    path = write(
        tmp_path, "new.jsonl", [pair(exam, "第一项"), pair("旧的问题", "新的回答"), pair("新的问题", "新的回答")]
    )
    made = run(
        tmp_path,
        content="Conversations",
        sources=[{"uri": str(path), "weight": 2}],
        deduplicate={"against": [{"uri": str(tmp_path / "earlier.json")}]},
        decontaminate={"against": [{"uri": str(tmp_path / "exam.jsonl")}]},
    )
    assert asked(made) == ["新的问题", "新的问题"]
    assert made.dropped("holds what is measured on") == made.dropped("duplicate of another document") == 1


def test_dates_and_decimals_of_parquet_are_kept_as_text(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet

    row = {**pair("问", "答"), "when": datetime(2020, 1, 2), "price": Decimal("1.50"), "n": 3}
    parquet.write_table(pyarrow.Table.from_pylist([row]), tmp_path / "a.parquet")
    made = run(tmp_path, content="Conversations", sources=[{"uri": str(tmp_path / "a.parquet")}])
    assert [row["row"] for row in made.rows()] == [{"when": "2020-01-02T00:00:00", "price": "1.50", "n": 3}]
    parquet.write_table(pyarrow.Table.from_pylist([{**row, "picture": b"\0"}]), tmp_path / "b.parquet")
    with pytest.raises(DataError, match=r"row 1: a column cannot be written as JSON \(a value is a bytes\): remove it"):
        run(tmp_path, content="Conversations", sources=[{"uri": str(tmp_path / "b.parquet")}])


def test_parts_of_turns_that_no_message_has_are_told(tmp_path: Path) -> None:
    turns = [{"from": "human", "value": "问", "time": 3}, {"from": "gpt", "value": "答", "markdown": {}}]
    path = write(tmp_path, "a.jsonl", [{"conversations": turns}])
    made = run(tmp_path, content="Conversations", sources=[{"uri": str(path)}])
    (note,) = [note for note in made.report["notes"] if note["what"].startswith("turns had parts")]
    assert note["what"] == "turns had parts that are not read, and left out: markdown, time"
    assert note["first"] == "a.jsonl, line 1"


def test_columns_and_format_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, "a.jsonl", [{"上": "问", "下": "答"}])
    named = {"format": "Alpaca", "columns": {"instruction": "上", "output": "下"}}
    made = run(tmp_path, content="Conversations", sources=[{"uri": str(path), "conversations": named}])
    assert asked(made) == ["问"]
    with pytest.raises(SpecError, match=r"sources\[0\]\.conversations\.columns: question is no column of Alpaca"):
        run(
            tmp_path,
            content="Conversations",
            sources=[{"uri": str(path), "conversations": {**named, "columns": {"question": "上"}}}],
        )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        pytest.param("a.txt", "问\n答", "no file of rows in it", id="text without rows"),
        pytest.param("a.jsonl", '{"a": 1}', "no known layout fits its columns: a", id="rows of no layout"),
        pytest.param("a.jsonl", '{"instruction": "问", "output": "答"}\n{"instruction": "问"}', "a.jsonl, line 2: no column output for format Alpaca", id="a row without an answer's column"),
        pytest.param("a.jsonl", '{"prompt": "问", "chosen": "好", "rejected": "坏", "instruction": "a", "output": "b"}', "one of preferences", id="preferences"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_is_refused(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        run(tmp_path, content="Conversations", sources=[{"uri": str(tmp_path / name)}])


def test_rows_that_cannot_be_used_are_passed_over_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [pair("问", "答"), {"instruction": "问"}, pair("half \ud83d", "答")]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    made = run(tmp_path, content="Conversations", sources=[{"uri": str(path)}], onBadRow="Skip")
    assert (asked(made), made.dropped("row that cannot be used")) == (["问"], 2)
