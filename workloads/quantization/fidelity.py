"""How a quantized model, and the one it was made from, do on the measured rows: perplexity of both, and whether answers still end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workloads.data.conversations import Example
from workloads.evaluation import intervals
from workloads.evaluation.intervals import Interval
from workloads.evaluation.perplexity import Score


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

    def intervals(self) -> dict[str, Interval]:
        """Of perplexity, loss, token accuracy and stop rate, by their metrics' names."""
        found = self.score.intervals()
        if self.stop_rate is not None:
            found["stopRate"] = Interval(*intervals.wilson(self.stop_rate, self.answers), self.answers, "answers")
        return found


def questions(rows: Sequence[Example], count: int, positions: int) -> list[list[int]]:
    """The first question of each row, up to its answer, for the first ``count`` rows; one that leaves no position for an answer is
    passed over."""
    found = [row.ids[: int(row.loss_mask.argmax())].tolist() for row in rows]
    return [question for question in found if len(question) < positions][:count]
