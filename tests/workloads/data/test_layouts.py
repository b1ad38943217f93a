"""Files of every kind to conversations, and what is said of those that are damaged."""

from __future__ import annotations

import csv
import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from alpaca_operator.api.conversations import DataSource
from workloads.data.bad_rows import BadRows
from workloads.data.layouts import LAYOUTS, join_segments, parse_human_assistant
from workloads.data.rows import Reading, read
from workloads.errors import DataError, SpecError


def turns(*texts: str, system: str | None = None) -> tuple[dict[str, str], ...]:
    """Messages, user first, by turns."""
    spoken = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    return tuple([{"role": "system", "content": system}] if system else []) + tuple(spoken)


def conversations(path: Path, reading: Reading | None = None, **source: Any) -> list[tuple[dict[str, str], ...]]:
    return [row.messages for row in read([(DataSource(uri="x", **source), path)], reading or Reading())]


def refused(path: Path, error: type[Exception] = DataError, **source: Any) -> str:
    with pytest.raises(error) as refusal:
        conversations(path, **source)
    return str(refusal.value).replace(f"{path.parent}/", "")


def lines(*records: Any) -> str:
    return "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def csv_of(*rows: dict[str, str]) -> str:
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


Q, A = "床前明月光？", "疑是地上霜。"
RECORDS = {
    "Messages": {"messages": [{"role": "user", "content": Q}, {"role": "assistant", "content": A}]},
    "ShareGPT": {"id": "1", "conversations": [{"from": "human", "value": Q}, {"from": "gpt", "value": A}]},
    "HumanAssistantText": {"text": f"<s>Human: {Q}\n</s><s>Assistant: {A}\n</s>"},
    "Alpaca": {"instruction": Q, "input": "", "output": A},
    "InputTarget": {"input": Q, "target": A},
    "Math23K": {"id": "1", "original_text": Q, "segmented_text": "床前 明月光 ？", "equation": A, "ans": ""},
    "LCCC": {"dialog": ["床前 明月光 ？", "疑 是 地上 霜 。"]},
}


# Layouts


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_detected_and_read(name: str, tmp_path: Path) -> None:
    reading = Reading()
    assert conversations(write(tmp_path / "rows.jsonl", lines(RECORDS[name])), reading) == [turns(Q, A)]
    assert f"rows.jsonl: {name} (by " in reading.files[0]


@pytest.mark.parametrize("name", LAYOUTS)
def test_each_layout_is_read_when_named(name: str, tmp_path: Path) -> None:
    reading = Reading()
    assert conversations(write(tmp_path / "rows.jsonl", lines(RECORDS[name])), reading, format=name) == [turns(Q, A)]
    assert reading.files == [f"{tmp_path / 'rows.jsonl'}: {name} (named in the spec), utf-8"]


TEXT = {
    "one turn": ("<s>Human: q\n</s><s>Assistant: a\n</s>", turns("q", "a"), {}),
    "several turns": (
        "<s>Human: q\n</s><s>Assistant: a\n</s><s>Human: r\n</s><s>Assistant: b\n</s>", turns("q", "a", "r", "b"), {},
    ),
    "a system prompt": ("<s>System: s\n</s><s>Human: q\n</s><s>Assistant: a\n</s>", turns("q", "a", system="s"), {}),
    "line breaks and spaces of the content stay": (
        "<s>Human:  q\n\n</s><s>Assistant: a \n  b\n\n</s>", turns(" q\n", "a \n  b\n"), {},
    ),
    "no line break before the close": (
        "<s>Human: q</s><s>Assistant: a</s>", turns("q", "a"), {"turns without a line break before </s>": 2},
    ),
    "the last close is missing": ("<s>Human: q\n</s><s>Assistant: a\n", turns("q", "a"), {"turns without </s>": 1}),
    "every close is missing": ("<s>Human: q\n<s>Assistant: a", turns("q", "a"), {"turns without </s>": 2}),
    "white space between turns": ("<s>Human: q\n</s>\n<s>Assistant: a\n</s>\n", turns("q", "a"), {}),
    "a close that is doubled, a start that nothing follows": (
        "<s>Human: q\n</s></s><s>Assistant: a\n</s>\n<s>", turns("q", "a"), {},
    ),
    "an answer without <s>": ("<s>Human: q\n</s>Assistant: a\n</s>", turns("q", "a"), {"turns without <s>": 1}),
    "no <s> at all": ("Human: q\nAssistant: a\n", turns("q", "a"), {"turns without <s>": 1, "turns without </s>": 2}),
    "no space after the speaker": (
        "<s>Human:q\n</s><s>Assistant:a\n</s>", turns("q", "a"), {"turns without a space after the speaker": 2},
    ),
    "Windows line ends": ("<s>Human: q\r\nr\r\n</s><s>Assistant: a\r\n</s>", turns("q\nr", "a"), {"Windows line ends": 1}),
    "speakers named in the content are content": (
        "<s>Human: was heißt\nHuman: ?\n</s><s>Assistant: Assistant: b\n</s>", turns("was heißt\nHuman: ?", "Assistant: b"), {},
    ),
    "a question alone": ("<s>Human: q\n</s>", turns("q"), {}),
    "nothing": ("", (), {}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("text", "messages", "repaired"), [pytest.param(*case, id=name) for name, case in TEXT.items()]
)
def test_human_assistant_text(tmp_path: Path, text: str, messages, repaired: dict[str, int]) -> None:
    path = write(tmp_path / "rows.csv", csv_of(RECORDS["HumanAssistantText"], {"text": text}))
    reading = Reading()
    assert conversations(path, reading)[1:] == [messages]
    assert reading.repaired == repaired


CONTENT = st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=40).filter(
    lambda text: not any(mark in text for mark in ("<s>", "</s>"))
)


@settings(deadline=None)
@given(pairs=st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=4))
def test_any_well_formed_text_is_read_without_loss(pairs: list[tuple[str, str]]) -> None:
    reading = Reading()
    text = "".join(f"<s>Human: {q}\n</s><s>Assistant: {a}\n</s>" for q, a in pairs)
    read_back = parse_human_assistant(text, reading.repaired)
    assert [message["content"] for message in read_back] == [part for pair in pairs for part in pair]
    assert not reading.repaired


def test_a_row_of_three_hundred_kilobytes_is_read(tmp_path: Path) -> None:
    long = "明月光，" * 25_000
    rows = [{"text": f"<s>Human: {long}\n</s><s>Assistant: {number}\n</s>"} for number in range(3)]
    assert conversations(write(tmp_path / "rows.csv", csv_of(*rows))) == [
        turns(long, str(number)) for number in range(3)
    ]


ROWS = {
    "Alpaca joins instruction and input": ({"instruction": "译", "input": "moon", "output": "月"}, turns("译\nmoon", "月")),
    "Alpaca's null input is none": ({"instruction": "问", "input": None, "output": "答"}, turns("问", "答")),
    "Alpaca with a system prompt and history": (
        {"system": "s", "history": [["q", "a"]], "instruction": "r", "output": "b"}, turns("q", "a", "r", "b", system="s"),
    ),
    "Alpaca's list of outputs goes on by turns": ({"instruction": "q", "output": ["a", "r", "b"]}, turns("q", "a", "r", "b")),
    "Alpaca's output as a number": ({"instruction": "1+1", "output": 2}, turns("1+1", "2")),
    "question and answer": ({"question": "q", "answer": "a"}, turns("q", "a")),
    "prompt and completion": ({"prompt": "q", "completion": "a"}, turns("q", "a")),
    "问题 and 答案": ({"问题": "q", "答案": "a"}, turns("q", "a")),
    "ShareGPT with a system prompt": (
        {"system": "s", "conversations": [{"from": "user", "value": "q"}, {"from": "chatgpt", "value": "a"}]},
        turns("q", "a", system="s"),
    ),
    "conversations of role and content": (
        {"conversations": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}, turns("q", "a"),
    ),
    "OpenAI's text parts": (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "q"}]}, {"role": "assistant", "content": "a"}]},
        turns("q", "a"),
    ),
    "OpenAI's developer is the system": (
        {"messages": [{"role": "developer", "content": "s"}, *turns("q", "a")]}, turns("q", "a", system="s"),
    ),
    "OpenAI's weight of an answer": (
        {"messages": [*turns("q"), {"role": "assistant", "content": "a", "weight": 0}, *turns("r", "b")]},
        (*turns("q"), {"role": "assistant", "content": "a", "weight": "0"}, *turns("r", "b")),
    ),
    "an input already in the format is not trained": (
        {"input": "<s>Human: q\n</s><s>Assistant: a\n</s><s>Human: r\n</s><s>Assistant:", "target": " b\n</s>"},
        (*turns("q"), {"role": "assistant", "content": "a", "weight": "0"}, *turns("r", "b")),
    ),
    "an input in the format without <s>": ({"input": "Human: q\nAssistant:", "target": " a"}, turns("q", "a")),
    "a target in the format": ({"input": "<s>Human: q\n</s>", "target": "<s>Assistant: a\n</s>"}, turns("q", "a")),
    "LCCC as lists": (["火锅 我 在 重庆 吃 过", "哈哈 ， 好 吃 吗 ？", "用 iPhone 15 拍 了"], turns("火锅我在重庆吃过", "哈哈，好吃吗？", "用 iPhone 15 拍了")),
    "Math23K with an answer": (
        {"original_text": "2加3是多少？", "segmented_text": "2 加 3 是 多少 ？", "equation": "x=2+3", "ans": "5"}, turns("2加3是多少？", "x=2+3\n答案：5"),
    ),
    "an answer that is a JSON list is text": (
        {"instruction": "q", "output": '["北京", "上海"]'}, turns("q", '["北京", "上海"]'),
    ),
    "an answer that is JSON turns is text": (
        {"instruction": "q", "output": '[{"role": "user", "content": "x"}]'}, turns("q", '[{"role": "user", "content": "x"}]'),
    ),
    "NaN is nothing": ({"instruction": "q", "input": float("nan"), "output": "a", "history": float("nan")}, turns("q", "a")),
    "an answer of NaN is none": ({"instruction": "q", "output": float("nan")}, turns("q", "")),
    "a turn of NaN is none": (
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": float("nan")}]}, turns("q", ""),
    ),
    "train: false on an answer": (
        {"messages": [*turns("q"), {"role": "assistant", "content": "a", "train": False}, *turns("r", "b")]},
        (*turns("q"), {"role": "assistant", "content": "a", "weight": "0"}, *turns("r", "b")),
    ),
    "loss of ms-swift, and a question that is not trained": (
        {"messages": [{"role": "user", "content": "q", "loss": False}, {"role": "assistant", "content": "a", "loss": 0.0}, *turns("r", "b")]},
        (*turns("q"), {"role": "assistant", "content": "a", "weight": "0"}, *turns("r", "b")),
    ),
    "an answer that may be trained": (
        {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "train": 1, "weight": 1.0}]}, turns("q", "a"),
    ),
    "a row that is not trained": (
        {"instruction": "q", "output": "a", "train": False}, (*turns("q"), {"role": "assistant", "content": "a", "weight": "0"}),
    ),
    "a column of words about training": ({"instruction": "q", "output": "a", "train": "part A", "label": "poetry"}, turns("q", "a")),
    "Math23K with segments alone": ({"segmented_text": "小明 有 3 个", "equation": "x=3", "ans": 3}, turns("小明有 3 个", "x=3\n答案：3")),
}  # fmt: skip


@pytest.mark.parametrize(("record", "messages"), [pytest.param(*case, id=name) for name, case in ROWS.items()])
def test_rows(tmp_path: Path, record: Any, messages) -> None:
    assert conversations(write(tmp_path / "rows.jsonl", lines(record))) == [messages]


CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "北京"}}}
TOOLS = ({"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}},)
REASONING_AND_TOOLS = {
    "what was thought": (
        {"messages": [*turns("q"), {"role": "assistant", "content": "a", "reasoning_content": "hm"}]},
        (*turns("q"), {"role": "assistant", "content": "a", "reasoning_content": "hm"}), (),
    ),
    "what was thought, in a column of its own": (
        {"question": "q", "reasoning": "hm", "answer": "a"},
        (*turns("q"), {"role": "assistant", "content": "a", "reasoning_content": "hm"}), (),
    ),
    "OpenAI's calls": (
        {
            "messages": [
                *turns("q"),
                {"role": "assistant", "content": None, "tool_calls": [{"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}}]},
                {"role": "tool", "tool_call_id": "1", "content": "20"},
                {"role": "assistant", "content": "a"},
            ],
            "tools": list(TOOLS),
        },
        (
            *turns("q"), {"role": "assistant", "content": "", "tool_calls": [{"id": "1", **CALL}]},
            {"role": "tool", "content": "20", "tool_call_id": "1"}, {"role": "assistant", "content": "a"},
        ), TOOLS,
    ),
    "ShareGPT's calls": (
        {
            "conversations": [
                {"from": "human", "value": "q"},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "北京"}}'},
                {"from": "observation", "value": "20"},
                {"from": "gpt", "value": "a"},
            ],
            "tools": json.dumps([TOOLS[0]["function"]]),
        },
        (
            *turns("q"), {"role": "assistant", "content": "", "tool_calls": [CALL]}, {"role": "tool", "content": "20"},
            {"role": "assistant", "content": "a"},
        ), TOOLS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("make", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize(
    ("record", "messages", "tools"), [pytest.param(*case, id=name) for name, case in REASONING_AND_TOOLS.items()]
)
def test_reasoning_and_tools_are_read(tmp_path: Path, record: Any, messages, tools, make: str) -> None:
    path = tmp_path / make
    path = parquet(path, [record]) if make.endswith("parquet") else write(path, lines(record))
    [row] = read([(DataSource(uri="x"), path)], Reading())
    assert (row.messages, row.tools) == (messages, tools)


def test_nan_of_pandas_in_parquet_is_nothing(tmp_path: Path) -> None:
    rows = [
        {"instruction": "q", "input": float("nan"), "output": "a"},
        {"instruction": "r", "input": None, "output": "b"},
    ]
    assert conversations(parquet(tmp_path / "rows.parquet", rows)) == [turns("q", "a"), turns("r", "b")]


def test_arguments_in_parquet_have_no_names_of_other_rows(tmp_path: Path) -> None:
    def row(arguments: dict[str, str]) -> dict[str, Any]:
        call = {"type": "function", "function": {"name": "weather", "arguments": arguments}}
        return {"messages": [*turns("q"), {"role": "assistant", "content": "", "tool_calls": [call]}]}

    found = conversations(parquet(tmp_path / "rows.parquet", [row({"city": "x"}), row({"day": "y"})]))
    assert [messages[1]["tool_calls"][0]["function"]["arguments"] for messages in found] == [
        {"city": "x"},
        {"day": "y"},
    ]


@pytest.mark.parametrize(("cells", "messages"), [
    pytest.param("你好,,你好！,[]", turns("你好", "你好！"), id="an empty list"),
    pytest.param("你好,,你好！,", turns("你好", "你好！"), id="nothing"),
    pytest.param('再见,,再见！,"[[""你好"", ""你好！""]]"', turns("你好", "你好！", "再见", "再见！"), id="a pair"),
])  # fmt: skip
def test_history_in_a_csv(tmp_path: Path, cells: str, messages) -> None:
    assert conversations(write(tmp_path / "rows.csv", f"instruction,input,output,history\n{cells}\n")) == [messages]


@pytest.mark.parametrize("first", ["sep=;\r\n", '"sep=;"\n', "\ufeffsep=;\r\n"])
def test_the_line_by_which_excel_names_the_separator(tmp_path: Path, first: str) -> None:
    path = write(tmp_path / "rows.csv", first + "instruction;output\r\n谁，还是,谁？;他的老朋友。\r\n")
    [row] = read([(DataSource(uri="x"), path)], Reading())
    assert (row.messages, row.number) == (turns("谁，还是,谁？", "他的老朋友。"), 3)


def test_a_column_without_a_name_is_none_while_it_is_empty(tmp_path: Path) -> None:
    assert conversations(write(tmp_path / "rows.csv", "instruction,output,,\nq,a,,\n")) == [turns("q", "a")]


def test_columns_that_are_not_read_are_told(tmp_path: Path) -> None:
    reading = Reading()
    conversations(
        write(tmp_path / "rows.jsonl", lines({"id": 1, "instruction": "q", "output": "a", "mood": "sad"})), reading
    )
    assert reading.files == [
        f"{tmp_path / 'rows.jsonl'}: Alpaca (by columns instruction, output), utf-8; not read: mood"
    ]


def test_an_empty_first_row_does_not_hide_the_layout(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", csv_of({"text": ""}, RECORDS["HumanAssistantText"]))
    assert conversations(path) == [(), turns(Q, A)]


def test_columns_are_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", csv_of({"题": "q", "解": "a", "output": "not this"}))
    reading = Reading()
    assert conversations(path, reading, columns={"instruction": "题", "output": "解"}) == [turns("q", "a")]
    assert "Alpaca (by columns instruction, output)" in reading.files[0]


def test_lists_in_a_csv_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", csv_of({"messages": json.dumps(RECORDS["Messages"]["messages"])}))
    assert conversations(path) == [turns(Q, A)]


@pytest.mark.parametrize(("segmented", "joined"), [
    ("今天 天气 不错 。", "今天天气不错。"), ("我 爱 NBA 球星", "我爱 NBA 球星"), ("hello world", "hello world"), ("“ 你好 ” ， 他 说", "“你好”，他说"),
])  # fmt: skip
def test_segments_are_joined_between_chinese_characters(segmented: str, joined: str) -> None:
    assert join_segments(segmented) == joined


# Files


def saved(path: Path, records: list[dict[str, Any]], splits: tuple[str, ...] = ()) -> Path:
    import datasets

    rows = datasets.Dataset.from_list(records)
    (datasets.DatasetDict(dict.fromkeys(splits, rows)) if splits else rows).save_to_disk(str(path))
    return path


def parquet(path: Path, records: list[dict[str, Any]]) -> Path:
    import pyarrow
    from pyarrow import parquet as pq

    pq.write_table(pyarrow.Table.from_pylist(records), path)
    return path


TWO = [RECORDS["Messages"], {"messages": [*turns("q", "a", "r", "b")]}]
FILES = {
    "JSONL": lambda d: write(d / "rows.jsonl", lines(*TWO)),
    "JSONL with blank lines": lambda d: write(d / "rows.jsonl", "\n" + lines(*TWO).replace("\n", "\n\n")),
    "JSONL named .json": lambda d: write(d / "rows.json", lines(*TWO)),
    "an array": lambda d: write(d / "rows.json", json.dumps(TWO, ensure_ascii=False)),
    "an indented array": lambda d: write(d / "rows.json", json.dumps(TWO, ensure_ascii=False, indent=2)),
    "objects one after another": lambda d: write(d / "rows.json", "\n".join(json.dumps(row, indent=1) for row in TWO)),
    "an object that holds the rows": lambda d: write(d / "rows.json", json.dumps({"version": 1, "data": TWO})),
    "gzipped JSONL": lambda d: write(d / "rows.jsonl.gz", gzip.compress(lines(*TWO).encode())),
    "a gzipped array": lambda d: write(d / "rows.json.gz", gzip.compress(json.dumps(TWO).encode())),
    "no suffix": lambda d: write(d / "rows", lines(*TWO)),
    "Parquet": lambda d: parquet(d / "rows.parquet", TWO),
    "a saved data set": lambda d: saved(d / "rows", TWO),
    "saved splits, the train one": lambda d: saved(d / "rows", TWO, ("test", "train")),
    "a folder": lambda d: folder(d / "rows", "a.jsonl", "b.jsonl"),
    "a folder with other files": lambda d: folder(d / "rows", "a.jsonl", "deep/b.jsonl", others=["README.md", ".hidden/c.jsonl", "dataset_infos.json"]),
}  # fmt: skip


def folder(path: Path, *names: str, others: list[str] | None = None) -> Path:
    for name, row in zip(names, TWO, strict=True):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        write(path / name, lines(row))
    for name in others or []:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        write(path / name, "[]")
    return path


@pytest.mark.parametrize("make", [pytest.param(make, id=name) for name, make in FILES.items()])
def test_each_kind_of_file_gives_the_same_rows(tmp_path: Path, make) -> None:
    assert conversations(make(tmp_path)) == [turns(Q, A), turns("q", "a", "r", "b")]


def test_tab_and_semicolon_separate_too(tmp_path: Path) -> None:
    assert conversations(write(tmp_path / "a.tsv", "instruction\toutput\nq, r\ta\n")) == [turns("q, r", "a")]
    assert conversations(write(tmp_path / "b.csv", "instruction;output\nq, r;a\n")) == [turns("q, r", "a")]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "gb18030", "big5", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("suffix", ["csv", "jsonl"])
def test_any_encoding_is_read(tmp_path: Path, encoding: str, suffix: str) -> None:
    question, answer = "請問這首詩的作者是誰？它寫的是什麼？", "這首詩的作者是李白，寫的是他在夜裡想念家鄉。"
    row = {"instruction": question, "output": answer}
    text = csv_of(row) if suffix == "csv" else lines(row)
    mark = b"\xff\xfe" if encoding == "utf-16-le" else b""
    assert conversations(write(tmp_path / f"rows.{suffix}", mark + text.encode(encoding))) == [turns(question, answer)]


# Damage


def test_the_row_is_counted_as_a_person_counts(tmp_path: Path) -> None:
    """Lines of a CSV, also after values with line breaks; the header is line 1."""
    path = write(tmp_path / "rows.csv", csv_of({"text": TEXT["one turn"][0]}, {"text": TEXT["several turns"][0]}))
    numbers = [(row.number, row.unit) for row in read([(DataSource(uri="x"), path)], Reading())]
    assert numbers == [(2, "line"), (5, "line")]


DAMAGE = {
    "a line that is no JSON": (
        "rows.jsonl", lines(TWO[0]) + '{"messages": [}\n',
        "rows.jsonl, line 2: not JSON (Expecting value at character 15): mend or remove this line",
    ),
    "a number beyond all bounds": (
        "rows.jsonl", lines(TWO[0]) + '{"messages": ' + "1" * 5000 + "}\n",
        "rows.jsonl, line 2: not usable JSON (Exceeds the limit (4300 digits) for integer string conversion: value has 5000 digits; use "
        "sys.set_int_max_str_digits() to increase the limit): mend or remove this line",
    ),
    "rows after the array": (
        "rows.json", lines([{"instruction": "q", "output": "a"}]) * 2,
        "rows.json, row 2: the array ends before line 2, which goes on with '[{\"instruction\": \"q\"': where two files were joined, keep them "
        "as two files of a folder, or write one array",
    ),
    "text after the array": (
        "rows.json", lines([{"instruction": "q", "output": "a"}]) + ", x",
        "rows.json, row 2: the array ends before line 2, which goes on with ', x': where two files were joined, keep them as two files of a "
        "folder, or write one array",
    ),
    "rows in two places": (
        "rows.json", json.dumps({"data": TWO, "rows": TWO}),
        "rows.json: rows could be its data or its rows: keep one of them in the file",
    ),
    "a name that stands twice": (
        "rows.jsonl", '{"instruction": "q", "output": "a", "output": "b"}\n{"instruction": "q", "output": "a"}\n',
        "rows.jsonl, line 1: not usable JSON (the name 'output' stands twice in one object, and only one of its values could be read): mend or "
        "remove this line",
    ),
    "a name that stands twice in an array": (
        "rows.json", '[{"instruction": "q", "output": "a", "output": "b"}]',
        "rows.json, row 1: not usable JSON (the name 'output' stands twice in one object, and only one of its values could be read): mend or "
        "remove this row",
    ),
    "a column that stands twice": (
        "rows.csv", "instruction,output, output\nq,a,b\n", "rows.csv, line 1: the column 'output' stands twice: rename or remove one of them",
    ),
    "a number that is none": (
        "rows.jsonl", '{"instruction": "q", "output": Infinity}\n{"instruction": "q", "output": "a"}\n',
        "rows.jsonl, line 1: not usable JSON (Infinity is no JSON): mend or remove this line",
    ),
    "a number beyond all": (
        "rows.jsonl", '{"instruction": "q", "output": 1e999}\n', "rows.jsonl, line 1: output 1 is infinite, not text: mend or remove this line",
    ),
    "a value without a column": (
        "rows.csv", "instruction,output,\nq,a,b\n",
        "rows.csv, line 2: a value in a column that has no name: name it in the header, or remove the value",
    ),
    "KTO": (
        "rows.jsonl", lines({"prompt": "q", "completion": "a", "label": False}),
        "rows.jsonl, line 1: its column label is false: such rows, as KTO has them, mark bad answers, which fine-tuning would train as good "
        "ones: keep the rows of good answers, without the column label: mend or remove this line",
    ),
    "KTO in a CSV": (
        "rows.csv", "prompt,completion,label\nq,a,True\n",
        "rows.csv, line 2: its column label is true: such rows, as KTO has them, mark bad answers, which fine-tuning would train as good ones: "
        "keep the rows of good answers, without the column label: mend or remove this line",
    ),
    "DPO beside a conversation": (
        "rows.jsonl", lines({"messages": turns("q", "a"), "rejected_response": "b"}),
        "rows.jsonl, line 1: its column rejected_response is one of preferences (DPO), where every row has a bad answer beside the good one: "
        "keep the questions with their good answers alone: mend or remove this line",
    ),
    "a mask that says too little": (
        "rows.jsonl", lines({"messages": [*turns("q"), {"role": "assistant", "content": "a", "mask": 1}]}),
        "rows.jsonl, line 1: message 2 has mask: 1, which is not known: say train: true or train: false there, or remove it: mend or remove this "
        "line",
    ),
    "half a weight": (
        "rows.jsonl", lines({"instruction": "q", "output": "a", "weight": 0.5}),
        "rows.jsonl, line 1: the row has weight: 0.5, which is not known: say train: true or train: false there, or remove it: mend or remove "
        "this line",
    ),
    "a question to be trained": (
        "rows.jsonl", lines({"messages": [{"role": "user", "content": "q", "train": True}, *turns("q", "a")[1:]]}),
        "rows.jsonl, line 1: message 1 is from 'user' and asks to be trained: only answers are: mend or remove this line",
    ),
    "words about training that disagree": (
        "rows.jsonl", lines({"messages": [*turns("q"), {"role": "assistant", "content": "a", "loss": True, "weight": 0}]}),
        "rows.jsonl, line 1: message 2 says of its training loss: True, weight: False: mend or remove this line",
    ),
    "two pairs of columns": (
        "rows.jsonl", lines({"question": "q", "answer": "a", "response": "b"}),
        "rows.jsonl: several of its columns can be question and answer: set columns to {instruction: question, output: answer} or {instruction: "
        "question, output: response}",
    ),
    "history that is no JSON": (
        "rows.csv", "instruction,output,history\nq,a,\"[['x', 'y']]\"\n",
        "rows.csv, line 2: history is text, and not JSON: mend or remove this line",
    ),
    "a call that is no JSON": (
        "rows.jsonl", lines({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "weather()"}]}),
        "rows.jsonl, line 1: message 2 is a call of a tool, and not JSON: mend or remove this line",
    ),
    "OpenAI's old calls": (
        "rows.jsonl", lines({"messages": [*turns("q"), {"role": "assistant", "content": "", "function_call": {"name": "f"}}]}),
        "rows.jsonl, line 1: message 2 has function_call, which is not read: write it as content or tool_calls, or remove it: mend or remove "
        "this line",
    ),
    "a message without content": (
        "rows.jsonl", lines(TWO[0], {"messages": [{"role": "user"}]}),
        "rows.jsonl, line 2: message 1 has no role and content: mend or remove this line",
    ),
    "a role that is not known": (
        "rows.jsonl", lines({"messages": [{"role": "narrator", "content": "x"}]}),
        "rows.jsonl, line 1: message 1 is from 'narrator'; known are user, assistant, system, developer, human, tool, function, observation, "
        "ipython, tool_response, tool_results, function_call, tool_call: mend or remove this line",
    ),
    "messages that are no list": (
        "rows.jsonl", lines(TWO[0], {"messages": 5}), "rows.jsonl, line 2: the conversation is int, not a list: mend or remove this line",
    ),
    "a picture": (
        "rows.jsonl", lines({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}),
        "rows.jsonl, line 1: message 1 holds more than text: image_url: mend or remove this line",
    ),
    "half a character": (
        "rows.jsonl", lines(TWO[0]) + '{"messages": [{"role": "user", "content": "a\\ud83d"}]}\n',
        "rows.jsonl, line 2: half a character (\\ud83d) at character 2 of a message: mend or remove this line",
    ),
    "a column that a later row lacks": (
        "rows.jsonl", lines({"instruction": "q", "output": "a"}, {"instruction": "q"}),
        "rows.jsonl, line 2: no column output for format Alpaca; columns found: instruction: set format, or columns to the file's own names",
    ),
    "an array with a broken object": (
        "rows.json", '[\n{"instruction": "q", "output": "a"},\n{"instruction": "q" "output": "a"},\n' + '{"x": 1},\n' * 9 + "{}]",
        "rows.json, row 2: not JSON (Expecting ',' delimiter at line 3): mend the file from there",
    ),
    "an array that is not closed": (
        "rows.json", '[\n{"instruction": "q", "output": "a"}\n', "rows.json, row 2: not JSON (the array is not closed): mend the file from there",
    ),
    "a line with too many values": (
        "rows.csv", "instruction,output\nq,a\nwell, hello,a\n",
        "rows.csv, line 3: 3 values where the header names 2 (instruction, output): put values with commas or line breaks in double quotes",
    ),
    "a quote that is not closed": (
        "rows.csv", 'instruction,output\nq,a\n"q,a\nq,a\n',
        "rows.csv, line 3: not CSV (unexpected end of data): a quote is not closed, or one inside a value is not doubled; mend this row",
    ),
    "text before the first speaker": (
        "rows.csv", csv_of({"text": TEXT["one turn"][0]}, {"text": "hello <s>Human: q\n</s>"}),
        "rows.csv, line 5: text before the first speaker: 'hello': mend or remove this line",
    ),
    "damaged UTF-8": (
        "rows.jsonl", lines(*[TWO[0]] * 3).encode() + b'{"messages": "\xe6\x98"}\n',
        "rows.jsonl, line 4: the bytes e6 98 are not utf-8, as the rest of the file is: save the file as UTF-8",
    ),
    "a gzip stream cut short": (
        "rows.jsonl.gz", gzip.compress(lines(*TWO).encode())[:-9],
        "rows.jsonl.gz: the gzip stream is damaged (Compressed file ended before the end-of-stream marker was reached): copy the file again",
    ),
    "no Parquet": (
        "rows.parquet", b"PAR1 nothing",
        "rows.parquet: cannot be read as Parquet after row 0: Parquet magic bytes not found in footer. Either the file is corrupted or this is not "
        "a parquet file.: copy the file again",
    ),
    "no data file": (
        "notes.md", "# Notes\n",
        "notes.md: neither its name nor its content is that of a data file (.arrow, .csv, .feather, .json, .jsonl, .ndjson, .parquet, .tsv): convert "
        "it to one of these",
    ),
    "columns that nothing fits": (
        "rows.csv", "title,body\nx,y\n",
        "rows.csv: no known layout fits its columns: title, body. Name the layout in format and map its columns, such as columns: "
        "{instruction: 问题, output: 答案}. Layouts: Messages: messages; ShareGPT: conversations; HumanAssistantText: text; Alpaca: instruction, "
        "output; InputTarget: input, target; Math23K: equation, original_text; LCCC: dialog",
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "content", "message"), [pytest.param(*case, id=name) for name, case in DAMAGE.items()]
)
def test_damage_is_told_with_file_place_reason_and_remedy(
    tmp_path: Path, name: str, content: str | bytes, message: str
) -> None:
    assert refused(write(tmp_path / name, content)) == message


def test_a_column_of_parquet_that_stands_twice_is_refused(tmp_path: Path) -> None:
    import pyarrow
    from pyarrow import parquet as pq

    table = pyarrow.table([["q"], ["a"], ["b"]], names=["instruction", "output", "output"])
    pq.write_table(table, tmp_path / "rows.parquet")
    assert refused(tmp_path / "rows.parquet") == (
        "rows.parquet, row 1: the column 'output' stands twice: rename or remove one of them"
    )


def test_an_object_that_holds_splits_gives_the_one_asked_for(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.json", json.dumps({"train": TWO[:1], "test": TWO[1:]}))
    assert conversations(path) == [turns(Q, A)]
    found = read([(DataSource(uri="x"), path)], Reading(), "validation")
    assert [row.messages for row in found] == [turns("q", "a", "r", "b")]


def test_bad_rows_are_passed_over_and_counted(tmp_path: Path) -> None:
    bad = lines({"messages": [{"role": "x", "content": "q"}]}, {"messages": [{"role": "y", "content": "q"}]}) + "{\n"
    path = write(tmp_path / "rows.jsonl", lines(TWO[0]) + bad + lines(TWO[0]))
    reading = Reading(bad=BadRows(limit=3))
    assert conversations(path, reading) == [turns(Q, A), turns(Q, A)]
    assert sorted(reading.bad.counted.values()) == [1, 2]
    assert (
        reading.bad.lines()[0]
        .replace(f"{tmp_path}/", "")
        .startswith("bad rows passed over: 2 (first: rows.jsonl, line 2: message 1 is from 'x'; known are ")
    )
    with pytest.raises(DataError) as refusal:
        conversations(path, Reading(bad=BadRows(limit=2)))
    assert str(refusal.value).startswith(f"{path}, line 4: not JSON (")
    assert str(refusal.value).endswith(" (row 3 that cannot be used, and maxBadRows is 2)")


def test_a_line_of_a_csv_with_too_many_values_is_passed_over(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "instruction,output\nq,a\nwell, hello,a\nr,b\n")
    assert conversations(path, Reading(bad=BadRows(limit=1))) == [turns("q", "a"), turns("r", "b")]


def test_a_mapped_column_must_exist(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "a,b\n1,2\n")
    assert refused(path, columns={"instruction": "问"}) == "dataset columns: no column 问 in the file, which has a, b"


def test_a_row_without_a_mapped_column_is_a_bad_row(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.jsonl", lines({"问": "q", "答": "a"}, {"答": "b"}))
    columns = {"instruction": "问", "output": "答"}
    assert refused(path, columns=columns) == (
        "rows.jsonl, line 2: no column 问, which columns names for format Alpaca; columns found: 答: set format, or columns to the file's own names"
    )
    found = read([(DataSource(uri="x", columns=columns), path)], Reading(bad=BadRows(limit=1)))
    assert [row.messages for row in found] == [turns("q", "a")]


def test_only_columns_of_the_layout_are_mapped(tmp_path: Path) -> None:
    path = write(tmp_path / "rows.csv", "a,b\n1,2\n")
    assert refused(path, SpecError, format="Alpaca", columns={"question": "a"}) == (
        "dataset columns: question is no column of Alpaca: it has instruction, output, input, system, history, and each maps to the name in "
        "your file"
    )


def test_saved_splits_without_a_train_one_must_be_named(tmp_path: Path) -> None:
    path = saved(tmp_path / "rows", TWO, ("a", "b"))
    assert refused(path) == f"rows: saved with the splits a, b: name one of them in uri, such as {path / 'a'}".replace(
        f"{tmp_path}/", ""
    )
