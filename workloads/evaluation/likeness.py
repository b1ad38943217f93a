"""How close a model is to another, the original that it was made from: agreement and divergence, and what its text costs more.

Of the original only its output head and the last hidden states are kept, at the positions whose next token counts: they give its
logits again when the other model is measured, and the two models are never in memory together. The head is the original's own,
so that a head which was lost or changed on the way shows.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import numpy.typing as npt
import torch

from workloads.data.conversations import Example
from workloads.errors import SpecError
from workloads.evaluation import intervals, perplexity
from workloads.evaluation.intervals import Interval
from workloads.evaluation.perplexity import Score
from workloads.models.likeliest import hits, likeliest

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LogitsOf = Callable[[Sequence[int], npt.NDArray[np.bool_]], npt.NDArray[np.float32]]

CHUNK = 256
"""Positions that are compared at once: 32 MB of logits for a vocabulary of 32,000."""
PAIRS = (
    ("same", "same"),
    ("same", "tokens"),
    ("tokens", "tokens"),
    ("apart", "apart"),
    ("apart", "tokens"),
    ("lost", "lost"),
    ("lost", "tokens"),
)


@dataclass(frozen=True)
class Likeness:
    """To the original, as sums: those of parts add up to those of the whole."""

    rows: int = 0
    tokens: int = 0
    same: int = 0
    """Positions where the likeliest token is the original's."""
    apart: float = 0.0
    """Sum of the Kullback-Leibler divergences from the original's distributions, in nats."""
    lost: float = 0.0
    """Nats that the text costs more than by the original."""
    products: tuple[float, ...] = (0.0,) * len(PAIRS)
    """Sums over rows of the products of two of these, as `PAIRS` orders them: what the rows differ by."""

    @classmethod
    def of_row(cls, tokens: int, same: int, apart: float, lost: float = 0.0) -> Likeness:
        """Of one row."""
        figures = {"tokens": tokens, "same": same, "apart": apart, "lost": lost}
        return cls(1, tokens, same, apart, lost, tuple(float(figures[one] * figures[two]) for one, two in PAIRS))

    def __add__(self, other: Likeness) -> Likeness:
        return Likeness(
            self.rows + other.rows,
            self.tokens + other.tokens,
            self.same + other.same,
            self.apart + other.apart,
            self.lost + other.lost,
            tuple(one + two for one, two in zip(self.products, other.products, strict=True)),
        )

    def __str__(self) -> str:
        return f"the same likeliest token at {self.agreement:.1%} of the positions, mean divergence {self.divergence:.4f} nats"

    @property
    def agreement(self) -> float:
        """Share of the positions where the likeliest token is the same; NaN without any."""
        return self.same / self.tokens if self.tokens else math.nan

    @property
    def divergence(self) -> float:
        """Mean Kullback-Leibler divergence from the original's distribution, in nats a token; NaN without any."""
        return self.apart / self.tokens if self.tokens else math.nan

    def metrics(self) -> dict[str, float]:
        """By the names of reports and gates."""
        return {"tokenAgreement": self.agreement, "meanDivergence": self.divergence}

    def intervals(self) -> dict[str, Interval]:
        """Of the metrics, and of `perplexityIncrease`, over rows: the increase is of both models on the same rows, which makes it far surer
        than the two perplexities are. None of what is no number."""
        found: dict[str, tuple[float, float]] = {}
        if self.tokens:
            found["tokenAgreement"] = intervals.share(self.agreement, self._error("same"), self.rows)
        error = self._error("apart")
        if error is not None and math.isfinite(error):
            low, high = intervals.student(self.divergence, error, self.rows)
            found["meanDivergence"] = max(0.0, low), high
        error = self._error("lost")
        if error is not None and math.isfinite(error):
            low, high = intervals.student(self.lost / self.tokens, error, self.rows)
            found["perplexityIncrease"] = math.expm1(min(low, 700)), math.expm1(min(high, 700))
        return {name: Interval(*edges, self.rows, "rows") for name, edges in found.items()}

    def _error(self, figure: str) -> float | None:
        """The standard error of the figure a token."""
        of = dict(zip(PAIRS, self.products, strict=True))
        products = of[figure, figure], of[figure, "tokens"], of["tokens", "tokens"]
        return intervals.error_of_ratio(getattr(self, figure), self.tokens, products, self.rows)


NOTHING = Likeness()


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
        with self.recording(model, "model"):
            return perplexity.score(model, rows, pad=pad, heartbeat=heartbeat), None

    def compare(
        self, model: PreTrainedModel, rows: Sequence[Example], pad: int, heartbeat: Callable[[], None]
    ) -> tuple[Score, Likeness]:
        """Score the other model on the same rows, beside the original."""
        with self.comparing(model, rows) as original:
            score = perplexity.score(model, rows, pad=pad, heartbeat=heartbeat)
            return score, original.likeness

    def compare_logits(self, logits_of: LogitsOf, rows: Sequence[Example]) -> tuple[Score, Likeness]:
        """Score what gives the logits of a row, beside the original. ``logits_of``: of token ids, at the positions of a mask."""
        total = perplexity.NOTHING
        with self._beside(torch.device("cpu"), rows) as original:
            for row in perplexity.in_order(rows, original.vocabulary):
                labels = torch.from_numpy(row.ids[1:][row.loss_mask[1:]]).long()
                logits = torch.from_numpy(logits_of(row.ids.tolist(), np.append(row.loss_mask[1:], False)))
                original.compare(logits)
                nats = torch.nn.functional.cross_entropy(logits, labels, reduction="none").double().sum()
                total += Score.of_row(float(nats), len(labels), int(hits(logits, labels).sum()), 0)
            return total, original.likeness

    @contextmanager
    def recording(self, model: PreTrainedModel, label: str) -> Iterator[None]:
        """Within this block, what goes into the output head is kept. Raises SpecError for a model whose logits are more than its head makes of
        it, adapters on the head for one; ``label`` names it."""
        head = model.get_output_embeddings()
        weight, bias = head.weight.detach(), head.bias
        checked = False

        def keep(hidden: torch.Tensor, logits: torch.Tensor) -> None:
            nonlocal checked
            if not checked:
                again, there = torch.nn.functional.linear(hidden[:CHUNK], weight, bias).float(), logits[:CHUNK].float()
                rounding = 0.02 * float(there.nan_to_num().abs().max())
                if not torch.allclose(again, there, rtol=0.0, atol=rounding, equal_nan=True):
                    raise SpecError(
                        f"{label} changes its output head while it runs, so that nothing can be held against it: name the merged model"
                    )
                checked = True
            self._dtype = hidden.dtype
            hidden.cpu().contiguous().view(torch.uint8).numpy().tofile(file)

        torch.save({"weight": weight, "bias": bias}, self._head)
        with self._path.open("wb") as file, _heard(model, keep):
            yield

    @contextmanager
    def comparing(self, model: PreTrainedModel, rows: Sequence[Example], passed: int = 0) -> Iterator[Beside]:
        """Within this block, what the model makes of ``rows`` is held against the original, from row ``passed`` in the order of scoring on."""
        device = model.get_output_embeddings().weight.device
        with (
            self._beside(device, rows, passed) as original,
            _heard(model, lambda _, logits: original.compare(logits)),
        ):
            yield original

    @contextmanager
    def _beside(self, device: torch.device, rows: Sequence[Example], passed: int = 0) -> Iterator[Beside]:
        head = torch.load(self._head, map_location=device, weights_only=True)
        labels = [row.ids[1:][row.loss_mask[1:]] for row in perplexity.in_order(rows, len(head["weight"]))]
        with self._path.open("rb") as file:
            file.seek(sum(map(len, labels[:passed])) * head["weight"].shape[1] * self._dtype.itemsize)
            yield Beside(head, file, self._dtype, labels[passed:])


class Beside:
    """What the original foretold, position by position in the order in which it was recorded."""

    def __init__(
        self, head: dict[str, Any], file: BinaryIO, dtype: torch.dtype, labels: Sequence[npt.NDArray[np.int32]]
    ) -> None:
        """``labels``: of each row that is still to come, the tokens that count."""
        self._head = head
        self._file = file
        self._dtype = dtype
        self._labels = iter(labels)
        self.likeness = NOTHING
        """To the original, over the rows so far."""

    @property
    def vocabulary(self) -> int:
        """Tokens that it knows."""
        return len(self._head["weight"])

    def compare(self, logits: torch.Tensor) -> None:
        """Of the next rows, all their positions, as (positions, vocabulary)."""
        rows: list[npt.NDArray[np.int32]] = []
        while sum(map(len, rows)) < len(logits):
            rows.append(next(self._labels))
        labels = torch.from_numpy(np.concatenate(rows)).long().to(logits.device)
        weight = self._head["weight"]
        original = self._read(len(logits), weight.shape[1]).to(logits.device)
        found = []
        for start in range(0, len(logits), CHUNK):
            part = slice(start, start + CHUNK)
            then = torch.nn.functional.linear(original[part], weight, self._head["bias"]).float()
            before, now = then.log_softmax(-1), logits[part].float().log_softmax(-1)
            apart = (before.exp() * (before - now)).sum(-1, dtype=torch.float64)
            lost = (before - now).gather(-1, labels[part, None])[:, 0].double()
            same = (likeliest(then) == likeliest(logits[part])).double()
            found.append(torch.stack([same, apart, lost]).cpu())
        for of_row in torch.split(torch.cat(found, dim=1), [len(row) for row in rows], dim=1):
            same_tokens, apart_nats, lost_nats = of_row.sum(-1).tolist()
            self.likeness += Likeness.of_row(of_row.shape[1], round(same_tokens), apart_nats, lost_nats)

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
