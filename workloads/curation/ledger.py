"""What became of documents, counted by source so that it adds up, with examples that are drawn alike however the work was shared out."""

from __future__ import annotations

import bisect
import hashlib
import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")

EXAMPLES = 20
"""Kept for each rule and each reason, over all processes."""
EXCERPT = 400
"""Characters of an example."""
AROUND = 60
"""Characters that an example of a change shows before and after it."""

EXCERPTS, EXCERPT_CHARACTERS = 1000, 1000
"""Of the documents of each source, as they are read and as they are kept: from these it is seen what is frequent in them."""
TOGETHER = 8000
"""Excerpts of all sources: where there are many, each has fewer."""
SPARE = 4
"""So many times its part of these each share of a source keeps, as shares may have many documents or few."""

READ, KEPT, VALIDATION, REPEATED = "read", "kept", "validation", "repeated"


@dataclass
class Amount:
    """Documents, and the characters and bytes (of UTF-8) in them."""

    documents: int = 0
    characters: int = 0
    bytes: int = 0

    def add(self, documents: int, characters: int, size: int) -> None:
        self.documents += documents
        self.characters += characters
        self.bytes += size

    def as_dict(self) -> dict[str, int]:
        return {"documents": self.documents, "characters": self.characters, "bytes": self.bytes}


@dataclass
class Ledger:
    """The counts of one share of the work, or of several together."""

    seed: int = 0
    amounts: dict[tuple[str, str, str], Amount] = field(default_factory=lambda: defaultdict(Amount))
    """By source, by what happened (``read``, ``kept``, ``validation``, ``repeated``, ``dropped``, ``changed``) and by reason or rule. Of ``changed`` it is what the
    rule took out, which is negative where it put in more."""
    samples: dict[tuple[str, str], list[tuple[int, dict[str, str]]]] = field(default_factory=lambda: defaultdict(list))
    """The examples of a happening and a reason, each with the number that it was drawn by."""
    spread: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    """Documents that are kept, by source, by what was measured (``length``: bits of the number of characters; ``chinese``: tenths of the share
    of Chinese characters) and by its value."""
    excerpts: dict[tuple[str, str], list[tuple[int, str]]] = field(default_factory=lambda: defaultdict(list))
    """Beginnings of documents of a source as they were ``read`` or ``kept``, each with the number that it was drawn by."""
    most: Mapping[str, int] = field(default_factory=dict)
    """Of each source, how many of its excerpts one share keeps."""
    notes: dict[str, list[Any]] = field(default_factory=dict)
    """What was mended or passed over in files: how often, and where first."""

    def count(self, source: str, what: str, reason: str, text: str, size: int | None = None) -> None:
        """A document as it is at this moment."""
        self.amounts[source, what, reason].add(1, len(text), size_of(text) if size is None else size)

    def dropped(self, source: str, reason: str, document: str, text: str, size: int | None = None) -> None:
        """A document that goes no further."""
        self.count(source, "dropped", reason, text, size)
        self._sample("dropped", reason, document, lambda: {"text": text[:EXCERPT]})

    def changed(self, source: str, rule: str, document: str, before: str, after: str) -> None:
        """A rule found something in a document."""
        lost = size_of(before) - size_of(after)
        self.amounts[source, "changed", rule].add(1, len(before) - len(after), lost)
        self._sample("changed", rule, document, lambda: _difference(before, after))

    def excerpt(self, source: str, what: str, document: str, text: str) -> None:
        """A document of which the beginning may be drawn."""
        most = self.most.get(source, EXCERPTS)
        _draw(self.excerpts[source, what], most, drawn(self.seed, what, document), lambda: text[:EXCERPT_CHARACTERS])

    def note(self, sentence: str, where: str, count: int = 1) -> None:
        entry = self.notes.setdefault(sentence, [0, where])
        entry[0] += count

    def _sample(self, what: str, reason: str, document: str, example: Any) -> None:
        number = drawn(self.seed, what, reason, document)
        _draw(self.samples[what, reason], EXAMPLES, number, lambda: {"document": document, **example()})

    def merge(self, other: Ledger) -> None:
        """Take over what another one counted."""
        for key, amount in other.amounts.items():
            self.amounts[key].add(amount.documents, amount.characters, amount.bytes)
        for reason, found in other.samples.items():
            self.samples[reason] = heapq.nsmallest(EXAMPLES, [*self.samples[reason], *found], key=lambda one: one[0])
        for place, texts in other.excerpts.items():
            self.excerpts[place] = heapq.nsmallest(EXCERPTS, [*self.excerpts[place], *texts], key=lambda one: one[0])
        self.spread.update(other.spread)
        for sentence, (count, where) in other.notes.items():
            self.note(sentence, where, count)

    def total(self, what: str, reason: str | None = None) -> Amount:
        """Over all sources."""
        found = Amount()
        for (_, happened, why), amount in self.amounts.items():
            if happened == what and reason in (None, why):
                found.add(amount.documents, amount.characters, amount.bytes)
        return found

    def as_json(self) -> dict[str, Any]:
        return {
            "seed": self.seed,
            "amounts": [[*key, *amount.as_dict().values()] for key, amount in sorted(self.amounts.items())],
            "samples": [[*key, found] for key, found in sorted(self.samples.items())],
            "excerpts": [[*key, found] for key, found in sorted(self.excerpts.items())],
            "spread": [[*key, count] for key, count in sorted(self.spread.items())],
            "notes": self.notes,
        }

    @classmethod
    def of_json(cls, value: dict[str, Any]) -> Ledger:
        ledger = cls(seed=value["seed"], notes=value["notes"])
        for source, what, reason, *amount in value["amounts"]:
            ledger.amounts[source, what, reason] = Amount(*amount)
        for source, measure, bucket, count in value["spread"]:
            ledger.spread[source, measure, bucket] = count
        for what, reason, found in value["samples"]:
            ledger.samples[what, reason] = [(number, example) for number, example in found]
        for source, what, texts in value["excerpts"]:
            ledger.excerpts[source, what] = [(number, text) for number, text in texts]
        return ledger


def excerpts_of(shares: Iterable[Collection[str]]) -> dict[str, int]:
    """How many excerpts of each source a share keeps, by the sources of each share: together they are enough, and none has many more."""
    counts = Counter(source for sources in shares for source in set(sources))
    each = min(EXCERPTS, -(-TOGETHER // max(1, len(counts))))
    return {source: min(each, -(-SPARE * each // count)) for source, count in counts.items()}


def _draw(kept: list[tuple[int, T]], most: int, number: int, made: Callable[[], T]) -> None:
    """Of all documents those with the smallest numbers: a draw that does not depend on who counts which of them."""
    if len(kept) < most or number < kept[-1][0]:
        bisect.insort(kept, (number, made()), key=lambda entry: entry[0])
        del kept[most:]


def size_of(text: str) -> int:
    """Bytes of a text in UTF-8."""
    return len(text) if text.isascii() else len(text.encode())


def drawn(seed: int, *parts: str) -> int:
    """A number of 63 bits that stands for ``parts``, another one under each seed."""
    content = hashlib.blake2b("\0".join(parts).encode(), digest_size=8, key=seed.to_bytes(8, "little"))
    return int.from_bytes(content.digest(), "little") >> 1


def _difference(before: str, after: str) -> dict[str, str]:
    """The first place where the two differ, up to the last: what was there, what is there now, and what stands around it."""
    start = 0
    limit = min(len(before), len(after))
    while start < limit and before[start] == after[start]:
        start += 1
    end = 0
    while end < limit - start and before[-1 - end] == after[-1 - end]:
        end += 1
    return {
        "before": before[max(0, start - AROUND) : start],
        "removed": before[start : len(before) - end][:EXCERPT],
        "added": after[start : len(after) - end][:EXCERPT],
        "after": before[len(before) - end : len(before) - end + AROUND] if end else "",
    }
