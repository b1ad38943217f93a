"""One answer, from its request to its end."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import torch

from workloads.models.sampling import Controls, Sampler
from workloads.serving.engine.likelihood import Likelihoods
from workloads.serving.engine.rows import Row
from workloads.serving.engine.stream import Stream
from workloads.serving.engine.text import Writer
from workloads.serving.engine.tools.constraint import Constraint


@dataclass(eq=False)
class Answer:
    """What is asked, and how far it is answered."""

    prompt: list[int]
    controls: Controls
    writer: Writer
    ends: frozenset[int]
    """Tokens that end it."""
    timeout: float
    """Seconds from its arrival after which it is given up."""
    constraint: Constraint | None = None
    """What it may say."""
    likelihoods: Likelihoods | None = None
    """Where it is noted how likely its tokens were, if somebody wants to know."""
    arrived_at: float = field(default_factory=time.monotonic)
    stream: Stream = field(init=False, repr=False)
    """Where it comes out; set by `AnswerQueue.submit`."""
    cancelled: bool = False
    """Its reader has left."""
    key: str = ""
    """Who asks. Of those who wait it is the turn of who has the fewest answers in progress."""
    adapter: int | None = None
    """Place of the adapter that the model wears for it."""
    written: list[int] = field(default_factory=list)
    """Its tokens so far."""
    reused: int = 0
    """Tokens of the prompt that were not read, as a row knew them already."""
    sampler: Sampler | None = None
    row: Row | None = None
    """What the model has seen of it; None while it waits."""

    @property
    def tokens(self) -> int:
        return len(self.written)

    @property
    def notes_prompt(self) -> bool:
        """Every position of the prompt counts, not the last alone."""
        return self.likelihoods is not None and self.likelihoods.of_prompt

    @property
    def most(self) -> int:
        """Positions that it may come to need."""
        return len(self.prompt) + self.controls.max_tokens

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.written)

    @property
    def unseen(self) -> int:
        """Tokens that the model has not seen yet: one of an answer that is being written."""
        return self.length - (self.row.length if self.row else 0)

    def next_tokens(self, count: int) -> list[int]:
        """So many of those."""
        start = self.length - self.unseen
        if start >= len(self.prompt):
            return self.written[start - len(self.prompt) :][:count]
        return (self.prompt[start : start + count] + self.written)[:count]

    def note_prompt(self, logits: torch.Tensor) -> None:
        """How likely the prompt's tokens were, by the logits (positions, vocabulary) behind those that its row learnt last."""
        assert self.row is not None
        assert self.likelihoods is not None
        self.likelihoods.read(self.row.length - len(logits), logits, self.prompt)
