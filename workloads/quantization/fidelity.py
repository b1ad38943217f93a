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

import torch

from workloads.data.conversations import Example
from workloads.evaluation import perplexity
from workloads.evaluation.perplexity import Score
from workloads.models.likeliest import likeliest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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
        head = torch.load(self._head, map_location=model.get_output_embeddings().weight.device, weights_only=True)
        divergence, same, count = 0.0, 0, 0

        def beside(hidden: torch.Tensor, logits: torch.Tensor) -> None:
            nonlocal divergence, same, count
            original = self._read(file, hidden.shape).to(hidden.device)
            for start in range(0, len(hidden), CHUNK):
                part = slice(start, start + CHUNK)
                then = torch.nn.functional.linear(original[part], head["weight"], head["bias"]).float()
                before, now = then.log_softmax(-1), logits[part].float().log_softmax(-1)
                divergence += float((before.exp() * (before - now)).sum(dtype=torch.float64))
                same += int((likeliest(then) == likeliest(logits[part])).sum())
                count += len(then)

        with self._path.open("rb") as file, _heard(model, beside):
            score = perplexity.score(model, rows, pad=pad, heartbeat=heartbeat)
        return score, Fidelity(same / count, divergence / count)

    def _read(self, file: BinaryIO, shape: torch.Size) -> torch.Tensor:
        kept = bytearray(file.read(shape.numel() * self._dtype.itemsize))
        return torch.frombuffer(kept, dtype=self._dtype).view(shape)


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
