"""What a browser asks: a question with what was said before, and how it is to be answered. Nothing of it is kept here."""

from __future__ import annotations

from pydantic import Field, ValidationError

from alpaca_operator.api.contract import Wire

MODELS = 2
"""Models side by side; more would leave none enough room."""


class Said(Wire):
    """What one model answered."""

    model: str
    text: str


class Turn(Wire):
    """A question, and what was answered."""

    question: str
    answers: list[Said] = Field(default_factory=list, max_length=8, fail_fast=True)


class Chosen(Wire):
    """Settings that the user chose; what is absent follows the model."""

    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=0)
    repetition_penalty: float | None = Field(None, gt=0)
    max_new_tokens: int | None = Field(None, ge=1)
    system: str | None = None


class Asked(Wire):
    """The last turn has the question. Where it has answers as well, these were cut and are to be continued."""

    turns: list[Turn] = Field(min_length=1, fail_fast=True)
    models: list[str] = Field(default_factory=list, max_length=MODELS)
    """Whom to ask; none leaves it to the page."""
    chosen: Chosen = Field(default_factory=Chosen)

    def messages(self, model: str, system: str | None) -> list[dict[str, str]]:
        """What ``model`` is asked: the system prompt, the turns that were answered, the question, and what it has begun to say.

        In turns that it did not answer, the answer of another model stands in.
        """
        messages = [] if system is None else [{"role": "system", "content": system}]
        for turn in self.turns[:-1]:
            if said := _said(turn, model):
                messages += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": said}]
        messages.append({"role": "user", "content": self.turns[-1].question})
        if begun := self.begun(model):
            messages.append({"role": "assistant", "content": begun})
        return messages

    def begun(self, model: str) -> str:
        """What ``model`` has said so far to the question."""
        return next((said.text for said in self.turns[-1].answers if said.model == model), "")


def _said(turn: Turn, model: str) -> str:
    own = [said.text for said in turn.answers if said.model == model]
    return next((text for text in [*own, *(said.text for said in turn.answers)] if text.strip()), "")


def first_error(error: ValidationError) -> str:
    """Field and reason of the first, without what was sent."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where or 'body'}: {first['msg']}"[:400]
