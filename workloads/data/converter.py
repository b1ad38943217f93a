"""Rows to conversations: the layout of a file is named by the spec or decided by the columns of its first records; a record becomes
messages, or the reason why it cannot."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from workloads.data.files import Record, Unusable
from workloads.data.layouts import LAYOUTS, Layout, MissingColumn, is_turns
from workloads.data.supervision import ROW, check_preferences, is_trained
from workloads.data.turns import REASONING, Message, tools_of
from workloads.errors import DataError, SpecError

LOOKED_AT = 64
"""First rows of a file by which its layout is decided: the very first may be empty."""
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
        except MissingColumn as error:
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


def _detect(records: list[Record], columns: dict[str, str], file: str) -> tuple[str, dict[str, str], str]:
    """Layout, column mapping, and how it was chosen: by the first record that tells."""
    for record in records:
        try:
            renamed = _rename(record, columns)
        except MissingColumn:  # this row alone lacks it
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
                if is_turns(column, "role")(record):
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
        raise MissingColumn(f"column {', '.join(missing)}, which columns names")
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
