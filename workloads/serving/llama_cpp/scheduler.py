"""Answers of a GGUF file: one pass of llama.cpp adds a token to every answer and reads a piece of the prompts that wait."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from workloads.serving.engine.answer import Answer
from workloads.serving.engine.queueing import AnswerQueue, Watcher
from workloads.serving.llama_cpp.context import AT_ONCE, Placed


class Memory(Protocol):
    """What holds the conversations: `Context`."""

    def passed(self, tokens: Sequence[Placed]) -> torch.Tensor: ...

    def forget(self, row: int) -> None: ...

    def forget_all(self) -> None: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class Row:
    """The place of an answer in llama.cpp's memory."""

    answer: Answer
    number: int
    read: int = 0
    """Tokens of the prompt that llama.cpp has seen."""

    @property
    def is_read(self) -> bool:
        return self.read == len(self.answer.prompt)


class LlamaCppScheduler(AnswerQueue):
    """Answers for one file."""

    def __init__(
        self,
        memory: Memory,
        *,
        max_batch: int,
        max_queue: int,
        positions: int,
        unused: Sequence[int] = (),
        watcher: Watcher | None = None,
    ) -> None:
        """``positions``: tokens of conversation that ``memory`` holds. ``unused``: ids that stand for nothing."""
        super().__init__(
            max_batch=max_batch, max_queue=max_queue, device=torch.device("cpu"), unused=unused, watcher=watcher
        )
        self._memory, self._positions = memory, positions
        self._rows: dict[Answer, Row] = {}
        """Those that came first are first."""

    def close(self) -> None:
        """And give back the memory."""
        super().close()
        self._memory.close()

    def _has_room(self, answer: Answer) -> bool:
        """For what may come of it: what is there grows, and nothing can be put back."""
        return sum(one.most for one in self._running) + answer.most <= self._positions

    def _begin(self, answer: Answer) -> None:
        taken = {row.number for row in self._rows.values()}
        self._rows[answer] = Row(answer, next(number for number in range(self._max_batch) if number not in taken))

    def _end(self, answer: Answer) -> None:
        self._memory.forget(self._rows.pop(answer).number)

    def _forget_all(self) -> None:
        self._rows.clear()
        self._memory.forget_all()

    def _step(self) -> None:
        """A token of every answer, and of the prompts that came first what still fits into the pass."""
        placed: list[Placed] = []
        asking: list[tuple[Row, int]] = []
        for row in self._rows.values():
            if row.is_read:
                asking.append((row, 1))
                placed.append(Placed(row.answer.written[-1], row.answer.length - 1, row.number, True))
        for row in [row for row in self._rows.values() if not row.is_read]:
            part = self._part(row, AT_ONCE - len(placed))
            placed += part
            if wanted := sum(token.asks for token in part):
                asking.append((row, wanted))
        if placed:
            self._note_and_choose(self._memory.passed(placed), asking)

    def _part(self, row: Row, room: int) -> list[Placed]:
        """So much of a prompt as goes into this pass. What follows its last token is wanted, and what follows all where that is told."""
        answer, first = row.answer, row.read
        piece = answer.prompt[first : first + room]
        row.read += len(piece)
        self._watcher.prompt_tokens(len(piece))
        last = len(answer.prompt) - 1
        return [
            Placed(token, at, row.number, answer.notes_prompt or at == last)
            for at, token in enumerate(piece, start=first)
        ]

    def _note_and_choose(self, logits: torch.Tensor, asking: Sequence[tuple[Row, int]]) -> None:
        """``asking``: whose logits these are, one row after the other, and how many of each. The last of a row's are chosen by, once its prompt
        is read."""
        ready: list[Answer] = []
        ends: list[int] = []
        end = 0
        for row, count in asking:
            end += count
            likelihoods = row.answer.likelihoods
            if likelihoods is not None and row.answer.notes_prompt and not row.answer.written:
                likelihoods.read(row.read - count, logits[end - count : end], row.answer.prompt)
            if row.is_read:
                ready.append(row.answer)
                ends.append(end - 1)
        if ready:
            self._choose(logits[ends], ready)
