"""Conversations as documents: rows in any layout that SFTJob reads become messages, which rules clean and which are compared by their questions."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import date, time
from decimal import Decimal
from itertools import chain, islice
from typing import Any

from alpaca_operator.api.dataset import ConversationRows, RawSource
from workloads.curation import reading
from workloads.curation.reading import Item, Raw
from workloads.curation.shares import RawFile
from workloads.data.converter import LOOKED_AT, Converter
from workloads.data.corpus import Tally
from workloads.data.files import Unusable
from workloads.data.turns import READ
from workloads.system.describe import shown

Row = dict[str, Any]
"""``messages``; ``tools`` where there are; and in ``row`` what the row had besides."""
SPOKEN = ("system", "user", "assistant")
"""Whose messages are cleaned. What a tool gave is left as it came."""
COLUMNS = {"Messages": "messages", "ShareGPT": "conversations"}
"""Where the layouts keep their turns whose turns may have more parts than are read."""
TEXTS = ("content", "reasoning_content")
"""The parts of a message that are text."""


def conversations(file: RawFile, source: RawSource, tally: Tally) -> Iterator[Item]:
    """The conversations of a file. Raises SpecError, DataError and InputError as SFTJob's reader does."""
    asked = source.conversations or ConversationRows()
    records = reading.records(file, source, tally)
    first = list(islice(records if file.span is None else _from_its_beginning(file, source), LOOKED_AT))
    if not first:
        return
    repaired: Counter[str] = Counter()
    path, field = shown(file.path), f"{file.field}.conversations.columns"
    converter = Converter.decided(asked.format, asked.columns, [record for _, record in first], path, repaired, field)
    if file.span is None or file.span[0] == 0:
        tally.note(f"files were read as {converter.name}, {converter.why}", path)
    for place, record in chain(first, records) if file.span is None else records:
        if isinstance(record, Unusable):
            yield place, record.reason
            continue
        if unread := _unread_parts(record, converter):
            tally.note(f"turns had parts that are not read, and left out: {', '.join(unread)}", f"{path}, {place}")
        yield _item(place, record, converter)
    for what, count in repaired.items():
        tally.note(f"{what}, mended", path, count)


def _from_its_beginning(file: RawFile, source: RawSource) -> Iterator[tuple[str, Any]]:
    """The rows of a file of which a piece is read: all its pieces have one layout."""
    return reading.records(replace(file, span=None), source, Tally())


def _item(place: str, record: Any, converter: Converter) -> Item:
    try:
        messages, tools = converter.convert(record, place.partition(" ")[0])
    except ValueError as error:
        return place, str(error)
    row: Row = {"messages": list(messages)}
    if tools:
        row["tools"] = list(tools)
    try:
        if rest := converter.rest(record):
            row["row"] = json.loads(json.dumps(rest, ensure_ascii=False, default=_written))
        json.dumps(row, ensure_ascii=False).encode()
    except (TypeError, ValueError) as error:
        return place, f"a column cannot be written as JSON ({error}): remove it, or write it as text"
    return Raw(place, said(row), row)


def _written(value: Any) -> str:
    """What Parquet has and JSON has not. Raises TypeError for anything else."""
    if isinstance(value, date | time):
        return value.isoformat()
    if isinstance(value, Decimal):
        return str(value)
    raise TypeError(f"a value is a {type(value).__name__}")


def _unread_parts(record: Any, converter: Converter) -> list[str]:
    """Names in the turns of a row that no message has."""
    if converter.name not in ("Messages", "ShareGPT") or not isinstance(record, dict):
        return []
    turns = record.get(converter.columns.get(COLUMNS[converter.name], COLUMNS[converter.name]))
    if not isinstance(turns, list):
        return []
    return sorted({str(name) for turn in turns if isinstance(turn, dict) for name in turn if name not in READ})


def said(row: Mapping[str, Any]) -> str:
    """All that is said and thought in a conversation, a line a message at least: what filters measure, and what is counted."""
    return "\n".join(message[part] for message in row["messages"] for part in TEXTS if part in message)


def question(row: Mapping[str, Any]) -> str:
    """What a conversation asks, in all its turns, under its system prompt: two that ask the same are duplicates, whatever the answers."""
    asked = [message["content"] for message in row["messages"] if message["role"] in ("system", "user")]
    is_asked = any(message["role"] == "user" and message["content"].strip() for message in row["messages"])
    return "\n".join(asked) if is_asked else said(row)


def compared(document: Any) -> str:
    """The part of a document that says whether two are alike: of a conversation its question."""
    row = document.metadata.get("row")
    return str(document.text) if row is None else question(row)


def applied(rule: Callable[[str], str | None], row: Row) -> Row | None:
    """A conversation of which every message went through a rule; None where the rule leaves one out, and so the whole."""
    messages = []
    for message in row["messages"]:
        cleaned = dict(message)
        for part in TEXTS:
            if part in message and message["role"] in SPOKEN:
                after = rule(message[part])
                if after is None:
                    return None
                cleaned[part] = after
        messages.append(cleaned)
    return {**row, "messages": messages}


def has_answer(row: Mapping[str, Any]) -> bool:
    """Whether there is anything to learn."""
    return any(
        message["role"] == "assistant"
        and (message.get("tool_calls") or any(message.get(part, "").strip() for part in TEXTS))
        for message in row["messages"]
    )
