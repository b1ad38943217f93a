"""The layouts in which conversations are written in rows: how each is known, and what its columns become."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from workloads.data.files import Record
from workloads.data.turns import Messages, list_of, text_of, turns_of


@dataclass(frozen=True)
class Layout:
    """One way to write conversations in rows."""

    columns: tuple[str, ...]
    """Names that ``columns`` in the spec may map, those a row must have first."""
    required: int
    matches: Callable[[Record], bool]
    convert: Callable[[Record, Counter[str]], Messages]
    """Raises ValueError with the reason why a row cannot be used."""


class MissingColumn(ValueError):
    """A row lacks a column that its layout needs."""


def _need(record: Record, name: str) -> Any:
    if not isinstance(record, dict) or name not in record:
        raise MissingColumn(f"column {name}")
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


def is_turns(column: str, key: str) -> Callable[[Record], bool]:
    """Whether ``column`` of a row is a list of turns, or one as JSON, that have ``key``."""

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
    "Messages": Layout(("messages",), 1, is_turns("messages", "role"), _messages),
    "ShareGPT": Layout(("conversations", "system"), 1, is_turns("conversations", "from"), _sharegpt),
    "HumanAssistantText": Layout(("text",), 1, _is_text, _human_assistant),
    "Alpaca": Layout(("instruction", "output", "input", "system", "history"), 2, _has("instruction", "output"), _alpaca),
    "InputTarget": Layout(("input", "target"), 2, _has("input", "target"), _input_target),
    "Math23K": Layout(("equation", "original_text", "segmented_text", "ans"), 2, lambda record: _has("original_text", "equation")(record) or _has("segmented_text", "equation")(record), _math23k),
    "LCCC": Layout(("dialog",), 1, lambda record: (isinstance(record, list) and all(isinstance(x, str) for x in record)) or _has("dialog")(record), _lccc),
}  # fmt: skip
"""In the order in which `Auto` tries them."""
