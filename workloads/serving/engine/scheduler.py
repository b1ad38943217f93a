"""Answers of a model of transformers: one pass reads a piece of waiting prompts and adds a token to every answer.

What the model remembers of each is in ``conversations.py``; rows are apart in a pass (``rows.py``, ``attention.py``).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from workloads.errors import OutOfMemory
from workloads.runtime import exits
from workloads.serving.engine import refusals
from workloads.serving.engine.answer import Answer
from workloads.serving.engine.attention import Part, Pass
from workloads.serving.engine.conversations import Conversations
from workloads.serving.engine.queueing import AnswerQueue, Watcher
from workloads.serving.engine.rows import Group, Row
from workloads.serving.engine.turns import LARGER, Piece, shares
from workloads.serving.refusal import Refusal

PROMPT_PIECE = {"cpu": 32, "cuda": 256}
"""Prompt tokens read in one pass. Who comes meanwhile waits for its end, and so do the answers in progress for their next token: it is as
many as a device is busy with, and no more, but where a larger one keeps nobody waiting (`turns.Piece`)."""


class Scheduler(AnswerQueue):
    """Answers for one model."""

    def __init__(
        self,
        model: Any,
        *,
        max_batch: int,
        max_queue: int,
        positions: int,
        vocabulary_size: int | None = None,
        before: Callable[[], None] = lambda: None,
        watcher: Watcher | None = None,
        piece: int | None = None,
        remembers: bool = True,
        wear: Callable[[int | None], None] = lambda adapter: None,
    ) -> None:
        """``model``: made ready by `attention.prepare`. ``positions``: tokens of conversation that there is memory for.
        ``vocabulary_size``: ids that stand for something; a head may have more rows. ``before``: called before each prompt. ``piece``:
        prompt tokens in a pass, whatever it takes. ``remembers``: as of `Conversations`. ``wear``: puts an adapter on the model, by
        its place, or none, as it begins."""
        unused = () if vocabulary_size is None else slice(vocabulary_size, None)
        super().__init__(max_batch=max_batch, max_queue=max_queue, device=model.device, unused=unused, watcher=watcher)
        self._model = model
        self._before, self._wear = before, wear
        self._worn: int | None = None
        self._rows = Conversations(positions, remembers=remembers)
        least = PROMPT_PIECE[self._device.type]
        self._piece = Piece(piece, piece) if piece else Piece(least, LARGER * least)

    @property
    def positions(self) -> int:
        """Tokens of conversation that there is memory for."""
        return self._rows.positions

    def changed(self, positions: int, without: int | None = None) -> None:
        """Adapters were put on the model or taken from it, in `between_steps`: it wears none, and has memory for so many tokens more, or
        fewer. ``without``: the place of one that is gone, with what was read by it."""
        self._worn = None
        self._rows.positions += positions
        if without is not None:
            self._rows.forget(without)

    def _has_room(self, answer: Answer) -> bool:
        """One that had to make room is let in as soon as it need not do so again."""
        needed = answer.most if answer.written else answer.length
        return self._rows.has_room(needed, answer.most)

    def _begin(self, answer: Answer) -> None:
        self._before()
        answer.row = self._rows.begin(
            answer.prompt + answer.written, answer.most, answer.adapter, anew=answer.notes_prompt
        )
        if not answer.written:
            answer.reused = answer.row.length
            self._watcher.reused_tokens(answer.reused)

    def _step(self) -> None:
        """One pass for each adapter that the model has to wear."""
        while not self._rows.grow():
            self._put_back(self._running[-1])
        answers = {answer.row: answer for answer in self._running if answer.row}
        reading = [answer for row, answer in answers.items() if not row.group]
        unseen = [answer.unseen for answer in reading]
        pieces = shares(unseen, self._piece.size(unseen, alone=len(answers) == 1))
        parts = [
            Part(answer.row, answer.next_tokens(count))
            for answer, count in zip(reading, pieces, strict=True)
            if answer.row and count
        ]
        groups = list(self._rows.groups)
        began = time.monotonic()
        for adapter in dict.fromkeys([group.adapter for group in groups] + [part.row.adapter for part in parts]):
            if adapter != self._worn:
                self._wear(adapter)
                self._worn = adapter
            self._pass(
                answers,
                [group for group in groups if group.adapter == adapter],
                [part for part in parts if part.row.adapter == adapter],
            )
        if parts:
            self._piece.note(sum(pieces), time.monotonic() - began)

    def _pass(self, answers: dict[Row, Answer], groups: list[Group], read: list[Part]) -> None:
        newest = {row: answers[row].written[-1] for group in groups for row in group}
        last = {part.row for part in read if len(part.tokens) == answers[part.row].unseen}
        noting = {part.row for part in read if answers[part.row].notes_prompt}
        rows, logits, behind = Pass(groups, newest, read, self._device).run(self._model, newest.keys() | last, noting)
        for row, found in behind.items():
            answers[row].note_prompt(found)
        if prompts := sum(len(part.tokens) for part in read if not answers[part.row].written):
            self._watcher.prompt_tokens(prompts)
        for row in rows:
            if row in last:
                self._rows.join(row)
        if rows:
            self._choose(logits, [answers[row] for row in rows])

    def _put_back(self, answer: Answer) -> None:
        """Let an answer wait until there is memory for all of it; it goes on where it was."""
        assert answer.row is not None
        self._rows.drop(answer.row)
        answer.row = None
        with self._lock:
            self._running.remove(answer)
            self._waiting.appendleft(answer)

    def _end(self, answer: Answer) -> None:
        assert answer.row is not None
        self._rows.end(answer.row)
        answer.row = None

    def _forget_all(self) -> None:
        self._rows = self._rows.emptied()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _refusal_of(self, error: Exception) -> Refusal:
        if not isinstance(exits.explain(error), OutOfMemory):
            return super()._refusal_of(error)
        # With one answer less it may do; what was kept of those that are over goes anyway.
        fewer = self._rows.in_use * max(1, self.running - 1) // max(1, self.running)
        self._rows.positions = min(self._rows.positions, fewer) or self._rows.positions
        return refusals.failed(
            "the engine ran out of memory: fewer answers are written at a time from now on, try again",
            503,
            "out_of_memory",
        )
