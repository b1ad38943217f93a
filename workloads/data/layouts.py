"""Records to conversations: one way of reading per layout of a row.

The layout is named by the spec or decided by the columns of the file's first records; a record becomes messages, or the reason why it
cannot.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from alpaca_operator.api.conversations import DataSource
from workloads.data.bad_rows import BadRows
from workloads.data.files import Record, Unusable, files_of, open_records
from workloads.data.supervision import ROW, check_preferences, is_trained
from workloads.data.turns import REASONING, Message, Messages, list_of, text_of, tools_of, turns_of
from workloads.errors import DataError, SpecError
from workloads.system.describe import shown


@dataclass(frozen=True, slots=True)
class Row:
    """A conversation and where it was read."""

    file: str
    number: int
    messages: tuple[Message, ...]
    unit: str = "row"
    """What ``number`` counts: the lines of a text file, or the rows of others, from 1."""
    tools: tuple[dict[str, Any], ...] = ()
    """Those that the conversation may call, in OpenAI's form."""

    @property
    def where(self) -> str:
        """For messages: ``train.csv, line 12``."""
        return f"{self.file}, {self.unit} {self.number}"


@dataclass
class Reading:
    """What was decided and mended while reading."""

    files: list[str] = field(default_factory=list)
    """A sentence per file: the layout, how it was chosen, the encoding."""
    not_read: list[str] = field(default_factory=list)
    """What folders hold besides, a sentence per reason."""
    read: int = 0
    repaired: Counter[str] = field(default_factory=Counter)
    bad: BadRows = field(default_factory=BadRows)
    """What becomes of rows that cannot be used, and what became of them."""


@dataclass(frozen=True)
class Layout:
    """One way to write conversations in rows."""

    columns: tuple[str, ...]
    """Names that ``columns`` in the spec may map, those a row must have first."""
    required: int
    matches: Callable[[Record], bool]
    convert: Callable[[Record, Counter[str]], Messages]
    """Raises ValueError with the reason why a row cannot be used."""


def read(sources: Sequence[tuple[DataSource, Path]], reading: Reading, part: str = "train") -> Iterator[Row]:
    """Every conversation of every source, in order. Raises DataError naming file, row, reason and remedy for the first bad one, or for the
    one after as many as ``reading.bad`` passes over.

    ``part`` is what the rows are for: of a folder that holds several splits of a data set, ``train`` does not read the test set.
    """
    for source, path in sources:
        chosen = files_of(path, part)
        reading.not_read += chosen.lines()
        for file in chosen.files:
            yield from _read_file(source, file, reading, part)


def _read_file(source: DataSource, path: Path, reading: Reading, part: str) -> Iterator[Row]:
    unit, encoding, records = open_records(path, part)
    first = list(islice(records, LOOKED_AT))
    file = shown(path)
    if not first:
        reading.files.append(f"{file}: no rows")
        return
    converter = Converter.decided(
        source.format, source.columns, [record for _, record in first], file, reading.repaired
    )
    if converter.layout is not None:
        reading.files.append(
            f"{file}: {converter.name} ({converter.why})"
            + (f", {encoding}" if encoding else "")
            + (f"; not read: {converter.unread}" if converter.unread else "")
        )
    for number, record in chain(first, records):
        where = f"{file}, {unit} {number}"
        if isinstance(record, Unusable):
            reading.bad.take(where, record.reason)
            continue
        try:
            messages, tools = converter.convert(record, unit)
        except ValueError as error:
            reading.bad.take(where, str(error), error)
        else:
            reading.read += 1
            yield Row(file, number, messages, unit, tools)


Turns = tuple[tuple[Message, ...], tuple[dict[str, Any], ...]]
"""The messages of a conversation, and the tools that it may call."""


@dataclass(frozen=True)
class Converter:
    """How the rows of a file become conversations."""

    name: str
    columns: dict[str, str]
    why: str
    """How the layout was chosen."""
    layout: Layout | None
    """None where no row says which: all are unusable."""
    file: str
    repaired: Counter[str]
    unread: str = ""
    """Columns with something in them that no part of a conversation is taken from."""

    @classmethod
    def decided(
        cls,
        name: str,
        columns: dict[str, str],
        first: Sequence[Record],
        file: str,
        repaired: Counter[str],
        field: str = "dataset columns",
    ) -> Converter:
        """By the spec, or by the ``first`` records of the file. ``field`` is what the spec calls ``columns``.

        Raises SpecError for columns that the layout does not have, DataError for those that the file does not have and for rows of no layout.
        """
        columns, why = dict(columns), "named in the spec"
        parsed = [record for record in first if not isinstance(record, Unusable)]
        _check_mapped(columns, parsed, field)
        if name == "Auto" and parsed:
            name, columns, why = _detect(parsed, columns, file)
        layout = LAYOUTS.get(name)
        if layout is None:
            return cls(name, columns, why, None, file, repaired)
        _check_columns(columns, name, layout, field)
        return cls(name, columns, why, layout, file, repaired, _unread(parsed, columns, layout))

    def convert(self, record: Record, unit: str) -> Turns:
        """The conversation of a row. Raises ValueError with reason and remedy for one that cannot be used."""
        if self.layout is None:
            raise DataError(f"{self.file}: none of its first {LOOKED_AT} rows can be read: name its layout in format")
        try:
            return _row_of(_rename(record, self.columns), self.layout, self.repaired)
        except _MissingColumn as error:
            reason = f"no {error} for format {self.name}; columns found: {_columns(record)}"
            raise ValueError(f"{reason}: set format, or columns to the file's own names") from error
        except ValueError as error:
            raise ValueError(f"{error}: mend or remove this {unit}") from error

    def rest(self, record: Record) -> dict[str, Any]:
        """What a row has besides its conversation."""
        if not isinstance(record, dict) or self.layout is None:
            return {}
        read = {*self.layout.columns, *self.columns.values(), "tools", "functions", _thought(record)}
        return {name: value for name, value in record.items() if name not in read}


def _row_of(record: Record, layout: Layout, repaired: Counter[str]) -> Turns:
    """Messages and tools of a record. Raises ValueError with the reason why it cannot be used."""
    if not isinstance(record, dict):
        return tuple(_clean(message, repaired) for message in layout.convert(record, repaired)), ()
    check_preferences({name: value for name, value in record.items() if name not in layout.columns})
    messages = layout.convert(record, repaired)
    answers = [message for message in messages if message["role"] == "assistant"]
    if (thought := record.get(_thought(record))) is not None:
        if not answers or any("reasoning_content" in answer for answer in answers):
            raise ValueError("a column of reasoning beside answers that have their own: keep one")
        answers[-1]["reasoning_content"] = thought
    if is_trained({name: value for name, value in record.items() if name not in layout.columns}, ROW) is False:
        for answer in answers:
            answer["weight"] = "0"
    return tuple(_clean(message, repaired) for message in messages), tools_of(record)


def _thought(record: dict[str, Any]) -> str | None:
    """The column of a row in which its reasoning is."""
    return next((name for name in REASONING if isinstance(text := record.get(name), str) and text.strip()), None)


LOOKED_AT = 64
"""First rows of a file by which its layout is decided: the very first may be empty."""


class _MissingColumn(ValueError):
    """A row lacks a column that its layout needs."""


# Which layout


def _detect(records: list[Record], columns: dict[str, str], file: str) -> tuple[str, dict[str, str], str]:
    """Layout, column mapping, and how it was chosen: by the first record that tells."""
    for record in records:
        try:
            renamed = _rename(record, columns)
        except _MissingColumn:  # this row alone lacks it
            continue
        for name, layout in LAYOUTS.items():
            if layout.matches(renamed):
                return name, columns, f"by {_why(renamed, layout)}"
        if isinstance(record, dict) and not columns:
            pairs = [(question, answer) for question, answer in PAIRS if question in record and answer in record]
            if len(pairs) > 1:
                either = " or ".join(f"{{instruction: {question}, output: {answer}}}" for question, answer in pairs)
                raise DataError(f"{file}: several of its columns can be question and answer: set columns to {either}")
            for question, answer in pairs:
                return (
                    "Alpaca",
                    {"instruction": question, "output": answer},
                    f"{question} as instruction, {answer} as output",
                )
            for column in TURN_COLUMNS:
                if _is_turns(column, "role")(record):
                    return "Messages", {"messages": column}, f"{column} as messages"
    known = "; ".join(f"{name}: {', '.join(layout.columns[: layout.required])}" for name, layout in LAYOUTS.items())
    raise DataError(
        f"{file}: no known layout fits its columns: {_columns(records[0])}. Name the layout in format and map its columns, such as "
        f"columns: {{instruction: 问题, output: 答案}}. Layouts: {known}"
    )


def _why(record: Record, layout: Layout) -> str:
    if not isinstance(record, dict):
        return "its lists of utterances"
    present = [name for name in layout.columns if name in record]
    return f"column{'s' if len(present) > 1 else ''} {', '.join(present)}"


PAIRS = (
    ("instruction", "response"), ("prompt", "response"), ("prompt", "completion"), ("prompt", "output"), ("prompt", "answer"),
    ("question", "answer"), ("question", "response"), ("query", "response"), ("query", "answer"), ("问题", "答案"), ("问题", "回答"),
    ("问", "答"), ("指令", "输出"),
)  # fmt: skip
"""Columns that can only mean a question and its answer."""


TURN_COLUMNS = ("conversations", "conversation", "dialogue", "chat")
"""Other names of a list of ``role`` and ``content``."""


def _columns(record: Record) -> str:
    if isinstance(record, dict):
        return ", ".join(map(str, record))[:500] or "none"
    return f"none (a row is a {type(record).__name__})"


def _check_columns(columns: dict[str, str], name: str, layout: Layout, field: str) -> None:
    unknown = [column for column in columns if column not in layout.columns]
    if unknown:
        raise SpecError(
            f"{field}: {', '.join(unknown)} is no column of {name}: it has {', '.join(layout.columns)}, "
            "and each maps to the name in your file"
        )


ELSEWHERE = ("id", "tools", "functions", *REASONING)
"""Columns that any layout may have beside its own."""


def _unread(records: Sequence[Record], columns: dict[str, str], layout: Layout) -> str:
    """Columns with something in them that no part of a conversation is taken from."""
    read = {*layout.columns, *columns.values(), *ELSEWHERE}
    found = {
        name: None
        for record in records
        if isinstance(record, dict)
        for name, value in record.items()
        if value not in (None, "")
    }
    return ", ".join(str(name) for name in found if name not in read)[:200]


def _check_mapped(columns: dict[str, str], records: Sequence[Record], field: str) -> None:
    there = dict.fromkeys(name for record in records if isinstance(record, dict) for name in record)
    missing = [own for own in columns.values() if own not in there]
    if missing and there:
        raise DataError(
            f"{field}: no column {', '.join(missing)} in the file, which has {', '.join(map(str, there))[:500]}"
        )


def _rename(record: Record, columns: dict[str, str]) -> Record:
    if not columns or not isinstance(record, dict):
        return record
    missing = [own for own in columns.values() if own not in record]
    if missing:
        raise _MissingColumn(f"column {', '.join(missing)}, which columns names")
    taken = set(columns.values())
    return {key: value for key, value in record.items() if key not in taken and key not in columns} | {
        name: record[own] for name, own in columns.items()
    }


def _clean(value: Any, repaired: Counter[str]) -> Any:
    """Line ends of Windows become those of text, wherever in a message; what cannot be encoded is refused."""
    if isinstance(value, dict):
        return {name: _clean(part, repaired) for name, part in value.items()}
    if isinstance(value, list):
        return [_clean(part, repaired) for part in value]
    if not isinstance(value, str):
        return value
    if "\r" in value:
        value = value.replace("\r\n", "\n").replace("\r", "\n")
        repaired["Windows line ends"] += 1
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"half a character (\\u{ord(value[error.start]):04x}) at character {error.start + 1} of a message"
        ) from error
    return value


def _need(record: Record, name: str) -> Any:
    if not isinstance(record, dict) or name not in record:
        raise _MissingColumn(f"column {name}")
    return record[name]


def _has(*names: str) -> Callable[[Record], bool]:
    return lambda record: isinstance(record, dict) and all(name in record for name in names)


HEADER = re.compile(r"(?:(?:<s>)+\s*|(?<=</s>)\s*)(Human|Assistant|System)[:：]")
BARE_HEADER = re.compile(r"^(Human|Assistant|System)[:：]", re.MULTILINE)
"""In rows that have no ``<s>`` at all, a speaker's name begins a line."""
CLOSE = re.compile(r"(\n?)</s>(?:</s>|<s>|\s)*\Z")
"""The end of a turn, once or more often."""
SPEAKERS = {"Human": "user", "Assistant": "assistant", "System": "system"}


def _human_assistant(record: Record, repaired: Counter[str]) -> Messages:
    """``<s>Human: q\\n</s><s>Assistant: a\\n</s>``, any number of turns; what is missing around a turn is mended and counted."""
    return parse_human_assistant(text_of(_need(record, "text"), "text"), repaired)


def parse_human_assistant(text: str, repaired: Counter[str]) -> Messages:
    """The turns of a text in the format. Well formed, rendering them with the HumanAssistant template gives the same text again."""
    if "\r\n" in text:
        text = text.replace("\r\n", "\n")
        repaired["Windows line ends"] += 1
    headers = list(HEADER.finditer(text))
    if not headers:
        headers = list(BARE_HEADER.finditer(text))
        if headers:
            repaired["turns without <s>"] += 1
    if headers and (before := text[: headers[0].start()].strip()):
        raise ValueError(f"text before the first speaker: {before[:40]!r}")
    messages = []
    ends = [following.start() for following in headers[1:]] + [len(text)]
    for header, end in zip(headers, ends, strict=False):
        if not header[0].startswith("<s>") and header.re is HEADER:
            repaired["turns without <s>"] += 1
        messages.append({"role": SPEAKERS[header[1]], "content": _turn(text[header.end() : end], repaired)})
    return messages


def _turn(body: str, repaired: Counter[str]) -> str:
    if body.startswith(" "):
        body = body[1:]
    else:
        repaired["turns without a space after the speaker"] += 1
    close = CLOSE.search(body)
    if close is None:
        repaired["turns without </s>"] += 1
        return body.removesuffix("\n")
    if not close[1]:
        repaired["turns without a line break before </s>"] += 1
    return body[: close.start()]


def _input_target(record: Record, repaired: Counter[str]) -> Messages:
    """A question and its answer; an ``input`` already in the Human/Assistant format keeps its turns, and only ``target`` is trained."""
    question, answer = text_of(_need(record, "input"), "input"), text_of(_need(record, "target"), "target")
    if not HEADER.search(question) and not BARE_HEADER.match(question):
        return [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    question = re.sub(r"(?:<s>)?Assistant[:：]\s*$", "", question)
    history = parse_human_assistant(question, repaired)
    target = re.sub(r"^\s*(?:<s>)?(?:Assistant[:：])?", "", answer, count=1)
    return [*(turn | {"weight": "0"} if turn["role"] == "assistant" else turn for turn in history),
            {"role": "assistant", "content": re.sub(r"\n?(?:</s>)?\s*$", "", target, count=1).removeprefix(" ")}]  # fmt: skip


def _alpaca(record: Record, repaired: Counter[str]) -> Messages:
    """``instruction``, ``input`` and ``output``; a list as output is the answer and what followed it, speakers by turns."""
    messages: Messages = []
    if system := text_of(record.get("system") if isinstance(record, dict) else None, "system"):
        messages.append({"role": "system", "content": system})
    for pair in _history(record.get("history") if isinstance(record, dict) else None):
        if not isinstance(pair, list | tuple) or len(pair) != 2:
            raise ValueError("history is not a list of [question, answer] pairs")
        messages += [
            {"role": "user", "content": text_of(pair[0], "history")},
            {"role": "assistant", "content": text_of(pair[1], "history")},
        ]
    parts = [text_of(_need(record, "instruction"), "instruction"), text_of(record.get("input"), "input")]
    messages.append({"role": "user", "content": "\n".join(part for part in parts if part.strip())})
    output = _need(record, "output")
    for index, turn in enumerate(output if isinstance(output, list) else [output]):
        messages.append({"role": ("assistant", "user")[index % 2], "content": text_of(turn, f"output {index + 1}")})
    return messages


def _history(value: Any) -> list[Any]:
    """Earlier pairs; a cell of a CSV holds them as JSON, or nothing."""
    return [] if value is None or value == "" else list_of(value, "history")


SHAREGPT_ROLES = {
    "human": "user", "user": "user", "gpt": "assistant", "assistant": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "bot": "assistant", "system": "system",
}  # fmt: skip


def _sharegpt(record: Record, repaired: Counter[str]) -> Messages:
    messages: Messages = []
    if system := text_of(record.get("system") if isinstance(record, dict) else None, "system"):
        messages.append({"role": "system", "content": system})
    return messages + turns_of(_need(record, "conversations"), "from", "value", SHAREGPT_ROLES)


MESSAGE_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system", "human": "user"}


def _messages(record: Record, repaired: Counter[str]) -> Messages:
    return turns_of(_need(record, "messages"), "role", "content", MESSAGE_ROLES)


CJK = r"[⺀-鿿가-힣豈-﫿︰-﹏＀-￯　-〿\U00020000-\U0003ffff‘-”…—·]"
SEGMENTED = re.compile(rf"(?<={CJK})[ \t]+(?={CJK})")


def join_segments(text: str) -> str:
    """Chinese that was cut into words, joined again; spaces beside Latin letters and digits stay."""
    return SEGMENTED.sub("", text.strip())


def _lccc(record: Record, repaired: Counter[str]) -> Messages:
    """Utterances of two speakers by turns, cut into words by spaces."""
    turns = record if isinstance(record, list) else _need(record, "dialog")
    if not isinstance(turns, list) or not all(isinstance(turn, str) for turn in turns):
        raise ValueError("the dialogue is not a list of utterances")
    return [
        {"role": ("user", "assistant")[index % 2], "content": join_segments(turn)} for index, turn in enumerate(turns)
    ]


def _math23k(record: Record, repaired: Counter[str]) -> Messages:
    """A problem, the equation as its solution, and the answer where the row has one."""
    question = text_of(record.get("original_text") if isinstance(record, dict) else None, "original_text")
    if not question.strip():
        question = join_segments(text_of(_need(record, "segmented_text"), "segmented_text"))
    equation = text_of(_need(record, "equation"), "equation").strip()
    answer = text_of(record.get("ans", record.get("answer")), "ans").strip()
    return [{"role": "user", "content": question.strip()},
            {"role": "assistant", "content": "\n".join(part for part in (equation, answer and f"答案：{answer}") if part)}]  # fmt: skip


def _is_text(record: Record) -> bool:
    text = record.get("text") if isinstance(record, dict) else None
    return isinstance(text, str) and bool(HEADER.search(text) or BARE_HEADER.search(text))


def _is_turns(column: str, key: str) -> Callable[[Record], bool]:
    def matches(record: Record) -> bool:
        turns = record.get(column) if isinstance(record, dict) else None
        if isinstance(turns, str) and turns.lstrip().startswith("["):
            try:
                turns = json.loads(turns)
            except ValueError:
                return False
        return isinstance(turns, list) and (not turns or (isinstance(turns[0], dict) and key in turns[0]))

    return matches


LAYOUTS: dict[str, Layout] = {
    "Messages": Layout(("messages",), 1, _is_turns("messages", "role"), _messages),
    "ShareGPT": Layout(("conversations", "system"), 1, _is_turns("conversations", "from"), _sharegpt),
    "HumanAssistantText": Layout(("text",), 1, _is_text, _human_assistant),
    "Alpaca": Layout(("instruction", "output", "input", "system", "history"), 2, _has("instruction", "output"), _alpaca),
    "InputTarget": Layout(("input", "target"), 2, _has("input", "target"), _input_target),
    "Math23K": Layout(("equation", "original_text", "segmented_text", "ans"), 2, lambda record: _has("original_text", "equation")(record) or _has("segmented_text", "equation")(record), _math23k),
    "LCCC": Layout(("dialog",), 1, lambda record: (isinstance(record, list) and all(isinstance(x, str) for x in record)) or _has("dialog")(record), _lccc),
}  # fmt: skip
"""In the order in which `Auto` tries them."""
