"""A conversation, as the browser keeps it and as a model is asked."""

from __future__ import annotations

import time
import uuid
from typing import Any, Literal

from pydantic import Field, ValidationError

from alpaca_operator.api.contract import Wire

TITLE_LENGTH = 40

State = Literal["writing", "done", "stopped", "cut", "failed"]


class Answer(Wire):
    """What one model said to one question."""

    model: str
    text: str = ""
    state: State = "writing"
    """`cut` ended at the longest answer; `failed` has a `problem`."""
    problem: str = ""
    """Key of translations.PROBLEMS."""
    detail: str = ""
    """What the server said about the problem."""
    dropped: int = 0
    """Messages at the beginning that no longer fitted."""


class Turn(Wire):
    """A question, and an answer of each model that was asked."""

    question: str
    answers: list[Answer] = Field(default_factory=list, max_length=8, fail_fast=True)


class Conversation(Wire):
    """Frozen as everything on the wire: each change is a new one, and the browser sees it whole."""

    id: str = Field(default_factory=lambda: uuid.uuid4().hex)
    title: str = ""
    updated_at: float = Field(default_factory=time.time)
    turns: list[Turn] = Field(default_factory=list, fail_fast=True)

    @classmethod
    def read(cls, value: Any) -> Conversation:
        """What the browser sent; a new one for anything that is none. What was being written when the page was left was stopped."""
        try:
            read = cls.model_validate(value)
        except ValidationError:
            return cls()
        turns = [turn.model_copy(update={"answers": [_left(answer) for answer in turn.answers]}) for turn in read.turns]
        return read.model_copy(update={"turns": turns})

    def to_browser(self) -> dict[str, Any]:
        return self.model_dump(by_alias=True)

    def asked(self, question: str) -> Conversation:
        return self._with([*self.turns, Turn(question=question)])

    def without_last_answer(self) -> Conversation:
        """The last question, unanswered again."""
        return self._with([*self.turns[:-1], self.turns[-1].model_copy(update={"answers": []})])

    def answered(self, answers: list[Answer]) -> Conversation:
        """With these answers to the last question."""
        return self._with([*self.turns[:-1], self.turns[-1].model_copy(update={"answers": answers})])

    def _with(self, turns: list[Turn]) -> Conversation:
        title = " ".join(turns[0].question.split())[:TITLE_LENGTH] if turns else ""
        return self.model_copy(update={"turns": turns, "title": title, "updated_at": time.time()})

    def messages(self, model: str, history_turns: int, system: str | None) -> list[dict[str, str]]:
        """What ``model`` is asked: the system prompt, the last ``history_turns`` turns that were answered, the question.

        In turns that it did not answer, the answer of another model stands in.
        """
        found = [(turn.question, _said(turn, model)) for turn in self.turns[:-1]]
        kept = [(question, said) for question, said in found if said]
        messages = [] if system is None else [{"role": "system", "content": system}]
        for question, said in kept[len(kept) - history_turns :] if history_turns else []:
            messages += [{"role": "user", "content": question}, {"role": "assistant", "content": said}]
        return [*messages, {"role": "user", "content": self.turns[-1].question}]


def _left(answer: Answer) -> Answer:
    return answer.model_copy(update={"state": "stopped"}) if answer.state == "writing" else answer


def _said(turn: Turn, model: str) -> str:
    own = [answer.text for answer in turn.answers if answer.model == model]
    return next((text for text in [*own, *(answer.text for answer in turn.answers)] if text.strip()), "")
