"""From files with conversations to token sequences on disk: read, filter, encode, fit, split, pack; made once, then found in the cache.

Sequences are kept as Arrow files that are mapped into memory, so that neither preparing nor training holds a large set at once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from array import array
from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import datasets
import numpy as np
import pyarrow as pa
import tokenizers

from alpaca_operator.api.sft import DataSource, SFTDataset, SFTSpec
from workloads.data.chat_templates.loading import Encoded, Template
from workloads.data.layouts import Messages, Reading, Row, read
from workloads.errors import DataError
from workloads.system import atomic

PREPARATION = 1
"""Raised whenever the same rows would be prepared otherwise, so that older caches are left alone."""
IGNORED = -100
"""Label of a token that no loss is taken of (PyTorch's cross_entropy)."""
BATCH_ROWS, BATCH_CHARACTERS = 512, 1 << 20
"""Encoded at a time: enough to keep all cores busy, little enough to hold."""
SEQUENCES_WRITTEN = 256
TELL_SECONDS = 15.0
FILES_TOLD = 20


class ResolvedInput(Protocol):
    """An input as the runtime hands it over."""

    @property
    def path(self) -> Path: ...
    @property
    def digest(self) -> str: ...


class Example(NamedTuple):
    """Part or whole of a conversation that fits a sequence."""

    ids: np.ndarray
    loss_mask: np.ndarray
    conversation: int
    """The same for all parts of a conversation, and for conversations that are equal: they stay on one side of a validation split."""


@dataclass
class Report(Reading):
    """What became of the rows, in numbers that add up."""

    dropped: Counter[str] = field(default_factory=Counter)
    """Conversations left out, by reason."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Turns left out of conversations that stayed, by reason."""
    split: int = 0
    """Conversations cut into several examples."""
    truncated: int = 0
    """Conversations that lost their oldest turns."""
    examples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    sequences: int = 0
    """What the training steps are counted in."""
    sequence_length: int = 0
    packed: bool = False

    @property
    def masked_share(self) -> float:
        """Share of the tokens that no loss is taken of."""
        return 1 - self.trained_tokens / self.tokens if self.tokens else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For the artifact and the model card."""
        return {
            "files": self.files,
            "read": self.read,
            "repaired": dict(self.repaired),
            "dropped": dict(self.dropped),
            "leftOut": dict(self.left_out),
            "split": self.split,
            "truncated": self.truncated,
            "examples": self.examples,
            "tokens": self.tokens,
            "trainedTokens": self.trained_tokens,
            "maskedShare": round(self.masked_share, 4),
            "sequences": self.sequences,
            "sequenceLength": self.sequence_length,
            "packed": self.packed,
        }

    def lines(self) -> list[str]:
        """For the log, one fact a line."""
        length = self.sequence_length
        found = self.files[:FILES_TOLD]
        if len(self.files) > FILES_TOLD:
            found.append(f"and {len(self.files) - FILES_TOLD:,} files more")
        found.append(f"{self.read:,} conversations read")
        found += [f"repaired: {count:,} {what}" for what, count in sorted(self.repaired.items())]
        found += [
            f"dropped: {count:,} {_many(count, 'conversation')} {why}" for why, count in sorted(self.dropped.items())
        ]
        found += [f"left out: {count:,} {_many(count, 'turn')} {why}" for why, count in sorted(self.left_out.items())]
        if self.split:
            found.append(
                f"split: {self.split:,} {_many(self.split, 'conversation')} longer than {length} tokens, between turns"
            )
        if self.truncated:
            found.append(
                f"truncated: {self.truncated:,} {_many(self.truncated, 'conversation')} longer than {length} tokens lost the oldest turns"
            )
        found.append(f"{self.examples:,} examples, {self.tokens:,} tokens, {self.masked_share:.1%} of them masked")
        if self.packed and self.sequences:
            found.append(
                f"packed into {self.sequences:,} sequences of at most {length} tokens ({self.tokens / self.sequences / length:.0%} full): "
                f"{self.examples / self.sequences:.1f} times fewer steps an epoch than with packing off"
            )
        return found


@dataclass(frozen=True)
class Prepared:
    """What a job trains on: columns ``input_ids``, ``labels`` (IGNORED where no loss is taken) and ``seq_lengths``.

    A sequence holds one example, or several when packed; ``seq_lengths`` are theirs. The first label of each example is IGNORED: the
    token before it belongs to its neighbour.
    """

    train: datasets.Dataset
    validation: datasets.Dataset | None
    report: dict[str, Any]
    """``train``, and ``validation`` where there is one, as `Report.as_dict` gives them; ``lines`` for the log."""


def datasets_for(
    spec: SFTSpec,
    inputs: Mapping[str, ResolvedInput],
    template: Template,
    cache: Path,
    seed: int,
    *,
    log: Callable[[str], None] = print,
    heartbeat: Callable[[], None] = lambda: None,
) -> Prepared:
    """Tokenised sequences of ``spec.dataset``: made once and kept in ``cache``, found there by every later run of the same.

    Several processes may call this at once: one prepares, the others wait. ``heartbeat`` is called while work goes on. Raises DataError
    for a row that cannot be used, and where no example is left.
    """
    folder = cache / "datasets" / _key(spec, inputs, template, seed)
    with atomic.file_lock(folder, heartbeat):
        prepared = _load(folder)
        if prepared is not None:
            log(f"data: found prepared in {folder}")
        else:
            partial = folder.with_suffix(".partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir(parents=True)
            _prepare_into(partial, spec, inputs, template, seed, _Teller(log, heartbeat))
            shutil.rmtree(folder, ignore_errors=True)
            atomic.sync_tree(partial)
            partial.rename(folder)
            prepared = _load(folder)
            assert prepared is not None, f"{folder} was just written"
    for line in prepared.report["lines"]:
        log(f"data: {line}")
    return prepared


class _Teller:
    """Says how far a long preparation is."""

    def __init__(self, log: Callable[[str], None], heartbeat: Callable[[], None]) -> None:
        self.log, self.heartbeat, self.told = log, heartbeat, time.monotonic()

    def __call__(self, report: Report) -> None:
        self.heartbeat()
        if time.monotonic() - self.told > TELL_SECONDS:
            self.told = time.monotonic()
            self.log(f"data: {report.read:,} conversations read, {report.tokens:,} tokens")


def _prepare_into(
    folder: Path, spec: SFTSpec, inputs: Mapping[str, ResolvedInput], template: Template, seed: int, tell: _Teller
) -> None:
    """Fills ``folder`` with train.arrow, validation.arrow and, last, report.json."""
    dataset, length = spec.dataset, spec.training.sequence_length
    reports: dict[str, Report] = {}
    lines: list[str] = []
    parts = {"train": dataset.train} | ({"validation": dataset.validation} if dataset.validation else {})
    for part, sources in parts.items():
        report = reports[part] = Report(sequence_length=length, packed=dataset.packing)
        located = [(source, inputs[f"dataset.{part}[{index}]"].path) for index, source in enumerate(sources)]
        with _Spool(folder / f"{part}.tokens") as spool:
            for example in prepare(
                read(located, report, part), template, dataset, length, report, seed=seed, tell=tell
            ):
                spool.add(example)
            if not len(spool):
                raise DataError(_nothing_left(part, report))
            chosen = np.arange(len(spool))
            if part == "train" and not dataset.validation and dataset.validation_split:
                held_out = held_out_of(spool.conversations, dataset.validation_split)
                if held_out.any():
                    aside = reports["validation"] = Report(sequence_length=length, packed=dataset.packing)
                    _write(folder / "validation.arrow", spool, chosen[held_out], aside, tell)
                    chosen = chosen[~held_out]
                else:
                    lines.append("no validation: too few different conversations to set any aside")
            _write(folder / f"{part}.arrow", spool, chosen, report, tell)
    for part, report in reports.items():
        lines += [f"{part}: {line}" for line in (report.lines() if report.read else report.lines()[1:])]
    record = {part: report.as_dict() for part, report in reports.items()}
    sizes = {path.name: path.stat().st_size for path in folder.glob("*.arrow")}
    (folder / "report.json").write_text(
        json.dumps({"report": record | {"lines": lines}, "sizes": sizes}, ensure_ascii=False)
    )


def _nothing_left(part: str, report: Report) -> str:
    if not report.read:
        return f"dataset.{part}: no rows in {len(report.files)} {_many(len(report.files), 'file')}: check the uri"
    why = "; ".join(f"{count:,} {reason}" for reason, count in report.dropped.most_common(3))
    return (
        f"dataset.{part}: no example is left of {report.read:,} {_many(report.read, 'conversation')} ({why}): "
        "check format and columns, or raise training.sequenceLength"
    )


# Conversations to examples


def prepare(
    rows: Iterable[Row],
    template: Template,
    dataset: SFTDataset,
    sequence_length: int,
    report: Report,
    *,
    seed: int = 0,
    tell: Callable[[Report], None] = lambda report: None,
) -> Iterator[Example]:
    """Examples of at most ``sequence_length`` tokens, each ending in a trained end mark; what is left out is counted in ``report``."""
    strict = _needs_turns(template)
    for batch in _batches(rows):
        kept = [
            (row, conversation)
            for row in batch
            if (conversation := normalize_turns(row.messages, dataset.system_prompt, strict, report)) is not None
        ]
        for (row, conversation), encoded in zip(kept, _encode(template, kept), strict=True):
            number = conversation.number(seed)
            for part in split_overlong(conversation, encoded, template, dataset.overlong, sequence_length, report, row):
                ids, mask = part.ids, part.loss_mask.copy()
                if dataset.train_on_prompt:
                    mask[:] = True
                mask[:1] = False  # nothing comes before the first token that could foretell it
                if not mask.any():
                    report.dropped["with nothing to train on"] += 1
                    continue
                end = int(np.flatnonzero(mask)[-1]) + 1
                if part.spans and end <= part.spans[-1][0]:  # the last answers have weight 0
                    ids, mask = ids[:end], mask[:end]
                report.tokens += len(ids)
                yield Example(ids, mask, number)
        tell(report)


@dataclass(frozen=True)
class _Conversation:
    """Turns that can be parted: each exchange ends in an answer."""

    system: tuple[dict[str, str], ...]
    exchanges: tuple[tuple[dict[str, str], ...], ...]

    def messages(self, first: int = 0, last: int | None = None) -> Messages:
        return [*self.system, *(message for exchange in self.exchanges[first:last] for message in exchange)]

    def number(self, seed: int) -> int:
        """Depends on the content and the seed alone."""
        content = json.dumps(self.messages(), sort_keys=True).encode()
        return int.from_bytes(hashlib.blake2b(content, digest_size=8, key=str(seed).encode()).digest(), "big")


def _needs_turns(template: Template) -> bool:
    """Whether the template refuses two messages of one speaker in a row."""
    question, answer = {"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}
    try:
        template.render([question, question, answer])
    except ValueError:
        return True
    return False


def normalize_turns(
    messages: Sequence[dict[str, str]], system_prompt: str | None, strict: bool, report: Report
) -> _Conversation | None:
    """The conversation as it will be trained on, or None with the reason counted."""
    if not any(message["role"] == "assistant" for message in messages):
        report.dropped["without an assistant turn"] += 1
        return None
    at = next((index for index, message in enumerate(messages) if message["role"] != "system"), 0)
    system, turns = list(messages[:at]), list(messages[at:])
    if strict:
        turns = _by_turns(turns, report)
    exchanges: list[tuple[dict[str, str], ...]] = []
    current: list[dict[str, str]] = []
    for message in turns:
        current.append(message)
        if message["role"] == "assistant":
            asked = [other["content"] for other in current[:-1] if other["role"] == "user"]
            if not message["content"].strip():
                report.left_out["with an empty answer"] += 1
            elif asked and not any(text.strip() for text in asked):
                report.left_out["with an empty question"] += 1
            else:
                exchanges.append(tuple(current))
            current = []
    if any(message["role"] == "user" for message in current):
        report.repaired["questions without an answer at the end, left out"] += 1
    while exchanges and all(
        message.get("weight") == "0" for message in exchanges[-1] if message["role"] == "assistant"
    ):
        exchanges.pop()  # an example ends in an answer that is trained
    if not exchanges:
        report.dropped["with nothing to train on"] += 1
        return None
    if system_prompt and not any(message["role"] == "system" for message in messages):
        system = [{"role": "system", "content": system_prompt}]
    return _Conversation(tuple(message for message in system if message["content"].strip()), tuple(exchanges))


def _by_turns(turns: list[dict[str, str]], report: Report) -> list[dict[str, str]]:
    """For templates that know only question and answer by turns."""
    while turns and turns[0]["role"] == "assistant":
        report.left_out["before the first question"] += 1
        turns = turns[1:]
    joined: list[dict[str, str]] = []
    for message in turns:
        if joined and joined[-1]["role"] == message["role"]:
            report.repaired["messages in a row by one speaker, joined"] += 1
            joined[-1] = message | {"content": joined[-1]["content"] + "\n" + message["content"]}
        else:
            joined.append(message)
    return joined


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


def _encode(template: Template, kept: list[tuple[Row, _Conversation]]) -> list[Encoded]:
    try:
        return [
            _weighted(encoded, conversation.messages())
            for (_, conversation), encoded in zip(
                kept, template.encode_batch([conversation.messages() for _, conversation in kept]), strict=True
            )
        ]
    except ValueError:
        return [_encode_one(template, conversation.messages(), row) for row, conversation in kept]


def _encode_one(template: Template, messages: Messages, row: Row) -> Encoded:
    try:
        return _weighted(template.encode(messages), messages)
    except ValueError as error:
        raise DataError(
            f"{row.where}: does not fit template {template.name}: {error}: mend or remove this {row.unit}"
        ) from error


def _weighted(encoded: Encoded, messages: Messages) -> Encoded:
    """Answers of weight 0 are not trained."""
    answers = [message for message in messages if message["role"] == "assistant"]
    if not any(message.get("weight") == "0" for message in answers) or len(answers) != len(encoded.spans):
        return encoded
    mask = encoded.loss_mask.copy()
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
            last, part = _longest(conversation, ends, first, template, limit, row)
            left_out += part is None
            parts += [part] if part is not None else []
            first = last
        report.split += len(parts) > 1
    else:
        last = count
        while last and not parts:
            part = _newest(conversation, ends, last, template, limit, row)
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


def _longest(
    conversation: _Conversation, ends: list[int], first: int, template: Template, limit: int, row: Row
) -> tuple[int, Encoded | None]:
    """As many exchanges from ``first`` on as fit, and the one after them; None where not even one does."""
    start = ends[first - 1] if first else 0
    budget = limit
    last = len(ends)
    while True:
        fitting = bisect_left(ends, start + budget + 1, lo=first)
        last = max(first + 1, min(last, fitting))
        part = _encode_one(template, conversation.messages(first, last), row)
        excess = len(part.ids) - limit
        if excess <= 0:
            return last, part
        if last == first + 1:
            return last, None
        budget, last = budget - excess, last - 1


def _newest(
    conversation: _Conversation, ends: list[int], last: int, template: Template, limit: int, row: Row
) -> Encoded | None:
    """As many exchanges before ``last`` as fit; None where not even one does."""
    first = 0
    while first < last:
        part = _encode_one(template, conversation.messages(first, last), row)
        excess = len(part.ids) - limit
        if excess <= 0:
            return part
        start = ends[first - 1] if first else 0
        # The first exchange after which what is too much has gone, but one at least.
        first = max(first + 1, min(bisect_left(ends, start + excess) + 1, last - 1))
        if first == last:
            return None
    return None


# Examples on disk


class _Spool:
    """Examples in two flat files, read back in any order."""

    def __init__(self, path: Path) -> None:
        self._paths = (path, path.with_suffix(".mask"))
        self._lengths = array("q")
        self._conversations = array("Q")

    def __enter__(self) -> _Spool:
        self._ids, self._masks = (path.open("w+b") for path in self._paths)
        return self

    def __exit__(self, *_: object) -> None:
        self._ids.close()
        self._masks.close()
        for path in self._paths:
            path.unlink()

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, example: Example) -> None:
        self._ids.write(example.ids.tobytes())
        self._masks.write(example.loss_mask.tobytes())
        self._lengths.append(len(example.ids))
        self._conversations.append(example.conversation)

    @property
    def lengths(self) -> np.ndarray:
        return np.asarray(self._lengths, dtype=np.int64)

    @property
    def conversations(self) -> np.ndarray:
        return np.asarray(self._conversations, dtype=np.uint64)

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Ids and masks of all examples end to end, and where each begins."""
        self._ids.flush()
        self._masks.flush()
        ids = np.memmap(self._paths[0], dtype=np.int32, mode="r")
        masks = np.memmap(self._paths[1], dtype=bool, mode="r")
        return ids, masks, np.concatenate([[0], np.cumsum(self.lengths)])


def held_out_of(conversations: np.ndarray, share: float) -> np.ndarray:
    """Which examples are set aside: those of the ``share`` of different conversations with the lowest numbers.

    A conversation keeps its side when others are added or removed, but for those at the border. At least one is set aside and one
    kept, where there are two.
    """
    numbers = np.unique(conversations)
    count = min(max(1, round(len(numbers) * share)), len(numbers) - 1)
    return conversations < numbers[count] if count else np.zeros(len(conversations), dtype=bool)


def best_fit(lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Indices of the examples that share a sequence: best-fit decreasing, each in the fullest sequence that still has room.

    No example is cut. Sequences come in the order of their first example, examples in their own order.
    """
    sequences: list[list[int]] = []
    by_room: dict[int, list[int]] = {}
    rooms: list[int] = []  # the keys of by_room, ascending
    for index in np.argsort(-lengths, kind="stable").tolist():
        length = int(lengths[index])
        at = bisect_left(rooms, length)
        if at == len(rooms):
            room, number = capacity, len(sequences)
            sequences.append([])
        else:
            room = rooms[at]
            number = by_room[room].pop()
            if not by_room[room]:
                del by_room[room], rooms[at]
        sequences[number].append(index)
        left = room - length
        if left:
            if left not in by_room:
                by_room[left] = []
                insort(rooms, left)
            by_room[left].append(number)
    return sorted((sorted(sequence) for sequence in sequences), key=lambda sequence: sequence[0])


def _write(path: Path, spool: _Spool, chosen: np.ndarray, report: Report, tell: _Teller) -> None:
    """The chosen examples as sequences, one each or packed; completes ``report``."""
    ids, masks, starts = spool.arrays()
    lengths = spool.lengths[chosen]
    groups = best_fit(lengths, report.sequence_length) if report.packed else [[index] for index in range(len(chosen))]
    kind = pa.list_(pa.int32())
    schema = pa.schema([("input_ids", kind), ("labels", kind), ("seq_lengths", kind)])
    trained = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as writer:
        for begin in range(0, len(groups), SEQUENCES_WRITTEN):
            batch = groups[begin : begin + SEQUENCES_WRITTEN]
            members = chosen[[index for group in batch for index in group]]
            pieces = [slice(starts[member], starts[member + 1]) for member in members]
            tokens = np.concatenate([ids[piece] for piece in pieces])
            mask = np.concatenate([masks[piece] for piece in pieces])
            trained += int(mask.sum())
            each = spool.lengths[members]
            counts = np.array([len(group) for group in batch])
            bounds = np.concatenate([[0], np.cumsum(counts)])
            offsets = np.concatenate([[0], np.cumsum(each)])[bounds].astype(np.int32)
            columns = [
                pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens)),
                pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.where(mask, tokens, IGNORED).astype(np.int32))),
                pa.ListArray.from_arrays(pa.array(bounds.astype(np.int32)), pa.array(each.astype(np.int32))),
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
            tell(report)
    report.examples, report.tokens, report.trained_tokens = len(chosen), int(lengths.sum()), trained
    report.sequences = len(groups)


# The cache


def _key(spec: SFTSpec, inputs: Mapping[str, ResolvedInput], template: Template, seed: int) -> str:
    dataset = spec.dataset

    def described(part: str, sources: Sequence[DataSource]) -> list[Any]:
        return [
            [inputs[f"dataset.{part}[{index}]"].digest, source.format, source.columns]
            for index, source in enumerate(sources)
        ]

    material = [
        PREPARATION,
        tokenizers.__version__,
        described("train", dataset.train),
        described("validation", dataset.validation),
        dataset.model_dump(mode="json", exclude={"train", "validation"}),
        spec.training.sequence_length,
        seed,
        template.name,
        template.digest,
    ]
    return hashlib.sha256(json.dumps(material, sort_keys=True).encode()).hexdigest()[:32]


def _load(folder: Path) -> Prepared | None:
    """What lies there, or None unless it is whole."""
    try:
        record = json.loads((folder / "report.json").read_text())
        whole = all((folder / name).stat().st_size == size for name, size in record["sizes"].items())
    except (OSError, ValueError, KeyError):
        return None
    if not whole:
        return None
    parts = {Path(name).stem: datasets.Dataset.from_file(str(folder / name)) for name in record["sizes"]}
    return Prepared(parts["train"], parts.get("validation"), record["report"])


def _many(count: int, noun: str) -> str:
    return noun if count == 1 else noun + "s"
