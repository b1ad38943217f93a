"""How well a model foretells text: loss, perplexity, bits per byte and token accuracy over rows that SFT would train on.

Perplexity is told per token, so it means something between models of one vocabulary only. Bits per byte counts the bytes of the
answers themselves, whatever tokens and white space a model's format makes of them: it compares any two models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.data import tokenize
from workloads.data.collator import IGNORED, Collator
from workloads.evaluation import intervals
from workloads.evaluation.intervals import Interval
from workloads.models import dynamic_positions, likeliest

if TYPE_CHECKING:
    from pathlib import Path

    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from workloads.data.chat_templates.template import Template
    from workloads.data.conversations import Example

LOGITS = 1 << 27
"""Logits that a batch may have (float32: half a gigabyte). A row that has more by itself is a batch of its own."""


PAIRS = (
    ("nats", "nats"),
    ("nats", "tokens"),
    ("tokens", "tokens"),
    ("nats", "bytes"),
    ("bytes", "bytes"),
    ("correct", "correct"),
    ("correct", "tokens"),
)


@dataclass(frozen=True)
class Score:
    """What was found, as sums: scores of parts add up to the score of the whole."""

    nats: float = 0.0
    """Minus the sum of the log probabilities of the tokens."""
    tokens: int = 0
    """Of the assistant's text, end marks included."""
    correct: int = 0
    """Of them those that the model held for the likeliest; of several equally likely ones that is the first."""
    bytes: int = 0
    """Of the assistant's text in UTF-8; 0 where nobody asked for them."""
    rows: int = 0
    products: tuple[float, ...] = (0.0,) * len(PAIRS)
    """Sums over rows of the products of two of these, as `PAIRS` orders them: what the rows differ by."""

    @classmethod
    def of_row(cls, nats: float, tokens: int, correct: int, size: int) -> Score:
        """Of one row."""
        figures = {"nats": nats, "tokens": tokens, "correct": correct, "bytes": size}
        return cls(nats, tokens, correct, size, 1, tuple(float(figures[one] * figures[two]) for one, two in PAIRS))

    def __add__(self, other: Score) -> Score:
        return Score(
            self.nats + other.nats,
            self.tokens + other.tokens,
            self.correct + other.correct,
            self.bytes + other.bytes,
            self.rows + other.rows,
            tuple(one + two for one, two in zip(self.products, other.products, strict=True)),
        )

    @property
    def loss(self) -> float:
        """Nats per token; NaN without tokens."""
        return self.nats / self.tokens if self.tokens else math.nan

    @property
    def perplexity(self) -> float:
        """e to the loss; infinite where that is no number of ours any more."""
        return _exponential(self.loss)

    @property
    def bits_per_byte(self) -> float:
        """NaN without bytes."""
        return self.nats / math.log(2) / self.bytes if self.bytes else math.nan

    @property
    def accuracy(self) -> float:
        """Share of the tokens that were the likeliest; NaN without tokens."""
        return self.correct / self.tokens if self.tokens else math.nan

    def metrics(self) -> dict[str, float]:
        """By the names of reports and gates; NaN and infinity stay what they are."""
        found = {
            "evalLoss": self.loss,
            "perplexity": self.perplexity,
            "tokenAccuracy": self.accuracy,
            "evalTokens": float(self.tokens),
        }
        return found | ({"bitsPerByte": self.bits_per_byte} if self.bytes else {})

    def intervals(self) -> dict[str, Interval]:
        """Of the metrics, over rows; none of a loss that is no number, nor of a single row's loss."""
        found: dict[str, tuple[float, float]] = {}
        if self.tokens:
            found["tokenAccuracy"] = intervals.share(self.accuracy, self._error("correct", "tokens"), self.rows)
        error = self._error("nats", "tokens")
        if error is not None and math.isfinite(self.loss):
            low, high = intervals.student(self.loss, error, self.rows)
            found["evalLoss"] = max(0.0, low), high
            found["perplexity"] = _exponential(max(0.0, low)), _exponential(high)
        error = self._error("nats", "bytes")
        if error is not None and math.isfinite(self.loss):
            low, high = intervals.student(self.bits_per_byte, error / math.log(2), self.rows)
            found["bitsPerByte"] = max(0.0, low), high
        return {name: Interval(*edges, self.rows, "rows") for name, edges in found.items()}

    def _error(self, above: str, below: str) -> float | None:
        """The standard error of the ratio of two sums."""
        of = dict(zip(PAIRS, self.products, strict=True))
        products = of[above, above], of[above, below], of[below, below]
        return intervals.error_of_ratio(getattr(self, above), getattr(self, below), products, self.rows)


def _exponential(loss: float) -> float:
    return math.exp(loss) if not loss > 700 else math.inf


NOTHING = Score()


class AnswerBytes:
    """Counts the bytes of the answers in a row: not of its control tokens, nor of the white space that the format puts around them."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, folder: Path, template: Template) -> None:
        """``folder`` is where the tokenizer was loaded from. Raises DataError for a tokenizer without an end-of-text token."""
        self._size = tokenize.bytes_per_token(tokenizer, tokenize.TokenizerSpec.of(tokenizer, folder))
        self._size[list(template.hidden.values())] = 0
        self._frame = sum(len(text.encode()) for text in template.frame)

    def of(self, row: Example) -> int:
        """Bytes of the tokens that are scored."""
        begins = int(row.loss_mask[0]) + int(np.count_nonzero(row.loss_mask[1:] & ~row.loss_mask[:-1]))
        return int(self._size[row.ids[row.loss_mask]].sum()) - begins * self._frame


def score(
    model: PreTrainedModel,
    rows: Sequence[Example],
    *,
    pad: int,
    batch_size: int = 8,
    size: AnswerBytes | None = None,
    heartbeat: Callable[[], None] = lambda: None,
    done: Callable[[Score], None] = lambda so_far: None,
    so_far: Score = NOTHING,
) -> Score:
    """Of ``rows`` as `data.prepare` gives them. ``pad`` is any token.

    Rows are batched by length, which changes no result but the order of float additions; where positions depend on the length of the text
    every row is a batch of its own. ``heartbeat`` may raise, to stop; ``done`` is
    told the score after each batch, and given back as ``so_far`` it is gone on from.
    """
    total, passed = so_far, 0
    alone = dynamic_positions.changes_with_length(model)
    for batch in batches(rows, 1 if alone else batch_size, LOGITS // model.config.vocab_size):
        passed += len(batch)
        if passed <= so_far.rows:
            continue
        heartbeat()
        if alone:
            dynamic_positions.start_anew(model)
        for row, (nats, tokens, correct) in zip(batch, _of_batch(model, batch, pad), strict=True):
            total += Score.of_row(nats, tokens, correct, size.of(row) if size is not None else 0)
        done(total)
    return total


def in_order(rows: Sequence[Example], vocabulary: int, batch_size: int = 8) -> Iterator[Example]:
    """The rows in the order in which `score` passes them to a model with so many tokens."""
    return chain.from_iterable(batches(rows, batch_size, LOGITS // vocabulary))


def batches(rows: Sequence[Example], batch_size: int, scored: int) -> Iterator[list[Example]]:
    """Rows of like lengths together, the longest first: what memory is too small for is known at once.

    At most ``batch_size`` rows and ``scored`` scored tokens, but always a row.
    """
    batch: list[Example] = []
    budget = scored
    for row in sorted(rows, key=lambda row: -len(row.ids)):
        needs = int(row.loss_mask.sum())
        if batch and (len(batch) == batch_size or needs > budget):
            yield batch
            batch, budget = [], scored
        batch.append(row)
        budget -= needs
    if batch:
        yield batch


def _of_batch(model: Any, rows: Sequence[Example], pad: int) -> list[tuple[float, int, int]]:
    """Nats, tokens and hits of every row."""
    import torch

    batch = Collator(pad)(
        [
            {
                "input_ids": row.ids,
                "labels": np.where(row.loss_mask, row.ids, IGNORED),
                "seq_lengths": [len(row.ids)],
            }
            for row in rows
        ]
    )
    device = model.device
    labels = batch["labels"].to(device)
    with torch.inference_mode():
        # Only the logits of scored tokens are computed. Padding is on the right, where causal attention does not see it.
        logits = model(
            input_ids=batch["input_ids"].to(device), logits_to_keep=batch["logits_to_keep"].to(device), use_cache=False
        ).logits.reshape(len(labels), -1)
        nats = torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none").double()
        correct = likeliest.hits(logits, labels)
    counts = batch["logits_to_keep"].sum(-1).tolist()
    return [
        (float(of_nats.sum()), count, int(of_correct.sum()))
        for of_nats, of_correct, count in zip(
            torch.split(nats.cpu(), counts), torch.split(correct.cpu(), counts), counts, strict=True
        )
    ]
