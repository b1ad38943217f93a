"""From rows to examples: turns put in order, encoded with their loss mask, and what is too long for a sequence split, cut or dropped."""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from alpaca_operator.api.conversations import SFTDataset
from workloads.data.chat_templates.loss_mask import Encoded
from workloads.data.chat_templates.template import Template
from workloads.data.report import Report
from workloads.data.rows import Row
from workloads.data.turns import Message, Messages
from workloads.errors import DataError

BATCH_ROWS, BATCH_CHARACTERS = 512, 1 << 20
"""Encoded at a time: enough to keep all cores busy, little enough to hold."""


class Example(NamedTuple):
    """Part or whole of a conversation that fits a sequence."""

    ids: npt.NDArray[np.int32]
    loss_mask: npt.NDArray[np.bool_]
    """Tokens that are trained."""
    conversation: int
    """The same for all parts of a conversation, and for conversations that are equal: they stay on one side of a validation split."""
    row: int = 0
    """The number of the conversation among those that were read: the same for all parts of it."""


def prepare(
    rows: Iterable[Row],
    template: Template,
    dataset: SFTDataset,
    sequence_length: int,
    report: Report,
    *,
    seed: int = 0,
    on_progress: Callable[[Report], None] = lambda report: None,
) -> Iterator[Example]:
    """Examples of at most ``sequence_length`` tokens, each ending in a trained end mark; what is left out is counted in ``report``.

    ``seed`` shapes the number that a conversation gets. ``on_progress`` is called after each batch. Raises DataError for a row that does
    not fit the template.
    """
    strict = _needs_alternating_turns(template)
    everything = dataset.train_on_prompt
    count = 0
    for batch in _batches(rows):
        kept = [
            (row, conversation)
            for row in batch
            if (conversation := normalize_turns(row, dataset.system_prompt, strict, report)) is not None
        ]
        for row, conversation, encoded in _encode_all(template, kept, everything, report):
            number, count = conversation.number(seed), count + 1
            for part in split_overlong(
                conversation, encoded, template, dataset.overlong, sequence_length, report, row, everything
            ):
                ids, mask = part.ids, part.loss_mask.copy()
                mask[:1] = False  # nothing comes before the first token that could foretell it
                if not mask.any():
                    report.dropped["with nothing to train on"] += 1
                    continue
                end = int(np.flatnonzero(mask)[-1]) + 1
                if part.spans and end <= part.spans[-1][0]:  # the last answers have weight 0
                    ids, mask = ids[:end], mask[:end]
                report.tokens += len(ids)
                yield Example(ids, mask, number, count)
        on_progress(report)


def texts(rows: Iterable[Row], template: Template, dataset: SFTDataset, report: Report) -> Iterator[str]:
    """The whole text of each conversation that `prepare` would make examples of, as the template writes it."""
    strict = _needs_alternating_turns(template)
    for row in rows:
        conversation = normalize_turns(row, dataset.system_prompt, strict, report)
        if conversation is None:
            continue
        try:
            yield template.rendered_whole(conversation.messages(), conversation.tools)[0]
        except ValueError as error:
            report.bad.take(row.where, str(error), error)


@dataclass(frozen=True)
class _Conversation:
    """Turns that can be parted: each exchange ends in an answer."""

    system: tuple[Message, ...]
    exchanges: tuple[tuple[Message, ...], ...]
    tools: tuple[dict[str, Any], ...] = ()

    def messages(self, first: int = 0, last: int | None = None) -> Messages:
        return [*self.system, *(message for exchange in self.exchanges[first:last] for message in exchange)]

    def number(self, seed: int) -> int:
        """Depends on the content and the seed alone."""
        said: Any = [self.messages(), self.tools] if self.tools else self.messages()
        content = json.dumps(said, sort_keys=True).encode()
        return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=str(seed).encode()).digest(), "big")


def _needs_alternating_turns(template: Template) -> bool:
    """Whether the template refuses two messages of one speaker in a row."""
    question, answer = {"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}
    try:
        template.render([question, question, answer])
    except ValueError:
        return True
    return False


def normalize_turns(row: Row, system_prompt: str | None, strict: bool, report: Report) -> _Conversation | None:
    """The conversation as it will be trained on, or None with the reason counted."""
    messages = row.messages
    if not any(message["role"] == "assistant" for message in messages):
        report.dropped["without an assistant turn"] += 1
        return None
    at = next((index for index, message in enumerate(messages) if message["role"] != "system"), 0)
    system, turns = list(messages[:at]), list(messages[at:])
    exchanges = _exchanges(_alternate_turns(turns, report) if strict else turns, report)
    while exchanges and all(
        message.get("weight") == "0" for message in exchanges[-1] if message["role"] == "assistant"
    ):
        exchanges.pop()  # an example ends in an answer that is trained
    if not exchanges:
        report.dropped["with nothing to train on"] += 1
        return None
    if system_prompt and not any(message["role"] == "system" for message in messages):
        system = [{"role": "system", "content": system_prompt}]
    kept_system = tuple(message for message in system if message["content"].strip())
    return _Conversation(kept_system, tuple(exchanges), row.tools)


def _exchanges(turns: Sequence[Message], report: Report) -> list[tuple[Message, ...]]:
    """The turns up to each answer, without empty answers and questions. A call and what the tool gave belong to the answer after them."""
    exchanges: list[tuple[Message, ...]] = []
    current: list[Message] = []
    for number, message in enumerate(turns, start=1):
        current.append(message)
        called = message.get("tool_calls") and any(other["role"] == "tool" for other in turns[number : number + 1])
        if message["role"] == "assistant" and not called:
            questions = [other["content"] for other in current[:-1] if other["role"] == "user"]
            if (
                not any(message.get(part) for part in ("tool_calls", "reasoning_content"))
                and not message["content"].strip()
            ):
                report.left_out["with an empty answer"] += 1
            elif questions and not any(text.strip() for text in questions):
                report.left_out["with an empty question"] += 1
            else:
                exchanges.append(tuple(current))
            current = []
    if any(message["role"] == "tool" for message in current):
        report.repaired["calls without an answer at the end, left out"] += 1
    elif any(message["role"] == "user" for message in current):
        report.repaired["questions without an answer at the end, left out"] += 1
    return exchanges


def _alternate_turns(turns: list[Message], report: Report) -> list[Message]:
    """For templates that know only question and answer by turns."""
    while turns and turns[0]["role"] == "assistant":
        report.left_out["before the first question"] += 1
        turns = turns[1:]
    joined: list[Message] = []
    for message in turns:
        if joined and joined[-1]["role"] == message["role"] and _is_plain(joined[-1]) and _is_plain(message):
            report.repaired["messages in a row by one speaker, joined"] += 1
            # What one of them keeps from training is not trained with the other.
            joined[-1] = joined[-1] | message | {"content": joined[-1]["content"] + "\n" + message["content"]}
        else:
            joined.append(message)
    return joined


def _is_plain(message: Message) -> bool:
    return message["role"] != "tool" and not message.keys() & {"tool_calls", "reasoning_content"}


def _batches(rows: Iterable[Row]) -> Iterator[list[Row]]:
    batch: list[Row] = []
    characters = 0
    for row in rows:
        batch.append(row)
        characters += sum(len(message["content"]) for message in row.messages)
        if len(batch) >= BATCH_ROWS or characters >= BATCH_CHARACTERS:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _encode_all(
    template: Template, kept: list[tuple[Row, _Conversation]], everything: bool, report: Report
) -> Iterator[tuple[Row, _Conversation, Encoded]]:
    """Those that fit the template; what does not is a bad row."""
    found: Sequence[Encoded | None]
    try:
        found = template.encode_batch(
            [conversation.messages() for _, conversation in kept], [conversation.tools for _, conversation in kept]
        )
    except ValueError:
        found = [None] * len(kept)  # one of them, to be found
    for (row, conversation), encoded in zip(kept, found, strict=True):
        try:
            whole = encoded or template.encode(conversation.messages(), conversation.tools)
            yield row, conversation, _trained(whole, conversation.messages(), everything)
        except ValueError as error:
            reason = f"does not fit template {template.name}: {error}: mend or remove this {row.unit}"
            report.bad.take(row.where, reason, error)


def _encode_part(
    template: Template, conversation: _Conversation, first: int, last: int, row: Row, everything: bool
) -> Encoded:
    messages = conversation.messages(first, last)
    try:
        return _trained(template.encode(messages, conversation.tools), messages, everything)
    except ValueError as error:
        raise DataError(
            f"{row.where}: a part of it does not fit template {template.name}: {error}: shorten this {row.unit}, or set overlong to Drop"
        ) from error


def _trained(encoded: Encoded, messages: Messages, everything: bool) -> Encoded:
    """With the mask of what is trained: the answers, or ``everything``, but for answers of weight 0. Raises ValueError where those cannot
    be told from the rest."""
    answers = [message for message in messages if message["role"] == "assistant"]
    mask = np.ones_like(encoded.loss_mask) if everything else encoded.loss_mask
    if any(message.get("weight") == "0" for message in answers):
        if len(answers) != len(encoded.spans):
            raise ValueError("an answer is not to be trained, and the template does not mark the answers one by one")
        mask = mask.copy()
        for message, (first, last) in zip(answers, encoded.spans, strict=True):
            if message.get("weight") == "0":
                mask[first:last] = False
    return encoded._replace(loss_mask=mask)


def split_overlong(
    conversation: _Conversation,
    encoded: Encoded,
    template: Template,
    overlong: str,
    limit: int,
    report: Report,
    row: Row,
    everything: bool = False,
) -> list[Encoded]:
    """The conversation in parts of at most ``limit`` tokens."""
    if len(encoded.ids) <= limit:
        return [encoded]
    if overlong == "Drop":
        report.dropped[f"longer than {limit} tokens"] += 1
        return []
    ends = turn_ends(conversation, encoded)
    parts = []
    count = len(conversation.exchanges)
    left_out = 0
    if overlong == "Split":
        first = 0
        while first < count:
            last, part = _longest_from(conversation, ends, first, template, limit, row, everything)
            left_out += part is None
            parts += [part] if part is not None else []
            first = last
        report.split += len(parts) > 1
    else:
        last = count
        while last and not parts:
            part = _newest_before(conversation, ends, last, template, limit, row, everything)
            left_out += part is None
            parts += [part] if part is not None else []
            last -= 1
        report.truncated += bool(parts)
    if parts and left_out:
        report.left_out[f"longer than {limit} tokens by themselves"] += left_out
    elif not parts:
        report.dropped[f"longer than {limit} tokens in every turn"] += 1
    return parts


def turn_ends(conversation: _Conversation, encoded: Encoded) -> list[int]:
    """About where each exchange ends in the whole, in tokens; exact for templates that mark every answer."""
    answers = [sum(m["role"] == "assistant" for m in exchange) for exchange in conversation.exchanges]
    if sum(answers) == len(encoded.spans):
        return [encoded.spans[index - 1][1] for index in accumulate(answers)]
    characters = list(accumulate(sum(len(m["content"]) for m in exchange) for exchange in conversation.exchanges))
    return [len(encoded.ids) * end // characters[-1] for end in characters]


def _longest_from(
    conversation: _Conversation, ends: list[int], first: int, template: Template, limit: int, row: Row, everything: bool
) -> tuple[int, Encoded | None]:
    """As many exchanges from ``first`` on as fit, and the one after them; None where not even one does."""
    start = ends[first - 1] if first else 0
    budget = limit
    last = len(ends)
    while True:
        fitting = bisect_left(ends, start + budget + 1, lo=first)
        last = max(first + 1, min(last, fitting))
        part = _encode_part(template, conversation, first, last, row, everything)
        excess = len(part.ids) - limit
        if excess <= 0:
            return last, part
        if last == first + 1:
            return last, None
        budget, last = budget - excess, last - 1


def _newest_before(
    conversation: _Conversation, ends: list[int], last: int, template: Template, limit: int, row: Row, everything: bool
) -> Encoded | None:
    """As many exchanges before ``last`` as fit; None where not even one does."""
    first = 0
    while first < last:
        part = _encode_part(template, conversation, first, last, row, everything)
        excess = len(part.ids) - limit
        if excess <= 0:
            return part
        start = ends[first - 1] if first else 0
        # The first exchange after which what is too much has gone, but one at least.
        first = max(first + 1, min(bisect_left(ends, start + excess) + 1, last - 1))
        if first == last:
            return None
    return None
