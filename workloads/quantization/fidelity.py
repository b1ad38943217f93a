"""How close a quantized model is to the one it was made from: perplexity of both, agreement, divergence, and whether answers still end.

Of the original only its output head and the last hidden states are kept, at the positions whose next token counts: they give its
logits again when the quantized model is measured, and the two models are never in memory together. The head is the original's own,
so that a head which was lost or changed on the way shows.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from workloads.data.conversations import Example
from workloads.evaluation import perplexity
from workloads.evaluation.perplexity import Score
from workloads.models.likeliest import hits, likeliest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LogitsOf = Callable[[Sequence[int], npt.NDArray[np.bool_]], npt.NDArray[np.float32]]

CHUNK = 256
"""Positions that are compared at once: 32 MB of logits for a vocabulary of 32,000."""


@dataclass(frozen=True)
class Fidelity:
    """Of a model to the original."""

    agreement: float
    """Share of the positions where the likeliest token is the same."""
    divergence: float
    """Mean Kullback-Leibler divergence from the original's distribution, in nats a token."""

    def __str__(self) -> str:
        return f"the same likeliest token at {self.agreement:.1%} of the positions, mean divergence {self.divergence:.4f} nats"


@dataclass(frozen=True)
class ModelScores:
    """Of one model."""

    score: Score
    answers: int
    """Questions that were answered."""
    stop_rate: float | None
    """Share of the answers that ended by themselves; None where nothing was asked."""

    def __str__(self) -> str:
        text = f"perplexity {self.score.perplexity:.4f} over {self.score.tokens:,} tokens"
        if self.stop_rate is None:
            return text
        return f"{text}, {self.stop_rate:.0%} of {self.answers} answers ended by themselves"


class Reference:
    """The output head of the original and its last hidden states, in files."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._head = path.with_name(f"{path.name}-head.pt")
        self._dtype = torch.float32

    def record(
        self, model: PreTrainedModel, rows: Sequence[Example], pad: int, heartbeat: Callable[[], None]
    ) -> tuple[Score, None]:
        """Score the original, and keep what `compare` needs."""

        def keep(hidden: torch.Tensor, _: torch.Tensor) -> None:
            self._dtype = hidden.dtype
            hidden.cpu().contiguous().view(torch.uint8).numpy().tofile(file)

        head = model.get_output_embeddings()
        torch.save({"weight": head.weight.detach(), "bias": head.bias}, self._head)
        with self._path.open("wb") as file, _heard(model, keep):
            return perplexity.score(model, rows, pad=pad, heartbeat=heartbeat), None

    def compare(
        self, model: PreTrainedModel, rows: Sequence[Example], pad: int, heartbeat: Callable[[], None]
    ) -> tuple[Score, Fidelity]:
        """Score the quantized model on the same rows, beside the original."""
        with self._beside(model.get_output_embeddings().weight.device) as original:
            with _heard(model, lambda _, logits: original.compare(logits)):
                score = perplexity.score(model, rows, pad=pad, heartbeat=heartbeat)
            return score, original.fidelity

    def compare_logits(self, logits_of: LogitsOf, rows: Sequence[Example]) -> tuple[Score, Fidelity]:
        """Score what gives the logits of a row, beside the original. ``logits_of``: of token ids, at the positions of a mask."""
        total = perplexity.NOTHING
        with self._beside(torch.device("cpu")) as original:
            for row in perplexity.in_order(rows, original.vocabulary):
                labels = torch.from_numpy(row.ids[1:][row.loss_mask[1:]]).long()
                logits = torch.from_numpy(logits_of(row.ids.tolist(), np.append(row.loss_mask[1:], False)))
                original.compare(logits)
                nats = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double().sum()
                total += Score.of_row(float(nats), len(labels), int(hits(logits, labels).sum()), 0)
            return total, original.fidelity

    @contextmanager
    def _beside(self, device: torch.device) -> Iterator[_Original]:
        head = torch.load(self._head, map_location=device, weights_only=True)
        with self._path.open("rb") as file:
            yield _Original(head, file, self._dtype)


class _Original:
    """What the original foretold, position by position in the order in which it was recorded."""

    def __init__(self, head: dict[str, Any], file: BinaryIO, dtype: torch.dtype) -> None:
        self._head = head
        self._file = file
        self._dtype = dtype
        self._divergence, self._same, self._count = 0.0, 0, 0

    @property
    def vocabulary(self) -> int:
        """Tokens that it knows."""
        return len(self._head["weight"])

    def compare(self, logits: torch.Tensor) -> None:
        """Of the next positions, as (positions, vocabulary)."""
        weight = self._head["weight"]
        original = self._read(len(logits), weight.shape[1]).to(logits.device)
        for start in range(0, len(logits), CHUNK):
            part = slice(start, start + CHUNK)
            then = torch.nn.functional.linear(original[part], weight, self._head["bias"]).float()
            before, now = then.log_softmax(-1), logits[part].float().log_softmax(-1)
            self._divergence += float((before.exp() * (before - now)).sum(dtype=torch.float64))
            self._same += int((likeliest(then) == likeliest(logits[part])).sum())
            self._count += len(then)

    @property
    def fidelity(self) -> Fidelity:
        """Over all positions so far."""
        return Fidelity(self._same / self._count, self._divergence / self._count)

    def _read(self, count: int, width: int) -> torch.Tensor:
        kept = bytearray(self._file.read(count * width * self._dtype.itemsize))
        return torch.frombuffer(kept, dtype=self._dtype).view(count, width)


@contextmanager
def _heard(model: PreTrainedModel, listen: Callable[[torch.Tensor, torch.Tensor], None]) -> Iterator[None]:
    """Within this block, ``listen`` gets what goes into the output head, as (positions, width), and what comes out of it."""

    def hook(module: Any, inputs: tuple[torch.Tensor, ...], logits: torch.Tensor) -> None:
        listen(inputs[0].flatten(0, -2), logits.flatten(0, -2))

    handle = model.get_output_embeddings().register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def questions(rows: Sequence[Example], count: int, positions: int) -> list[list[int]]:
    """The first question of each row, up to its answer, for the first ``count`` rows; one that leaves no position for an answer is
    passed over."""
    found = [row.ids[: int(row.loss_mask.argmax())].tolist() for row in rows]
    return [question for question in found if len(question) < positions][:count]
