"""A model with everything that an answer of it needs: defaults, limits, template, and the scheduler that writes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from workloads.data.chat_templates.template import Template
from workloads.models.sampling import Controls
from workloads.serving.engine import conversation, text
from workloads.serving.engine.answer import Answer
from workloads.serving.engine.conversation import Prompt, Room
from workloads.serving.engine.scheduler import Scheduler
from workloads.serving.engine.schema import ChatRequest, CompletionRequest, Request
from workloads.serving.engine.text import Pieces, Writer
from workloads.serving.refusal import Refusal

CREATED = int(time.time())


@dataclass(frozen=True)
class Defaults:
    """What holds where a request does not say."""

    temperature: float
    top_p: float
    top_k: int
    repetition_penalty: float
    max_new_tokens: int
    system_prompt: str | None = None


@dataclass
class ServedModel:
    """One model, by the name that requests call it."""

    name: str
    kind: str
    digest: str
    template: Template
    defaults: Defaults
    scheduler: Scheduler
    context: int
    """Positions that prompt and answer share."""
    max_input_tokens: int
    timeout_seconds: float
    ends: frozenset[int]
    """Tokens that end an answer."""
    begins: int | None
    """The token that texts outside of a conversation begin with."""
    pieces: Pieces = field(init=False)

    def __post_init__(self) -> None:
        tokenizer = self.template.tokenizer
        self.pieces = Pieces(tokenizer)
        self._room = Room(self.max_input_tokens, text.longest_token(tokenizer))
        self._control = frozenset({*self.template.hidden.values(), *tokenizer.all_special_ids})
        spelled = {mark for mark in self.template.hidden if not mark.isalnum() and len(mark.strip()) > 2}
        self._spelled_ends = tuple(mark for mark in spelled if self.template.hidden[mark] in self.template.stop_ids)
        self._hidden = tuple(spelled)

    def entry(self) -> dict[str, Any]:
        """As `/v1/models` lists it."""
        return {
            "id": self.name,
            "object": "model",
            "created": CREATED,
            "owned_by": "literary-alpaca",
            "alpaca": {
                "kind": self.kind,
                "digest": self.digest,
                "contextLength": self.context,
                "maxInputTokens": self.max_input_tokens,
                "generation": {
                    "temperature": self.defaults.temperature,
                    "topP": self.defaults.top_p,
                    "topK": self.defaults.top_k,
                    "repetitionPenalty": self.defaults.repetition_penalty,
                    "maxNewTokens": self.defaults.max_new_tokens,
                },
                "systemPrompt": self.defaults.system_prompt,
            },
        }

    def ask(self, request: ChatRequest | CompletionRequest) -> tuple[Answer, Prompt]:
        """The answer to a request, not begun. Slow for a long text: it belongs on a thread. Raises Refusal for one that cannot be answered."""
        stops = request.stops
        if isinstance(request, ChatRequest):
            messages = [message.plain() for message in request.messages]
            if self.defaults.system_prompt and messages[0]["role"] != "system":
                messages.insert(0, {"role": "system", "content": self.defaults.system_prompt})
            prompt = conversation.of_messages(self.template, messages, self._room)
            words = self.template.next_turn[1]
            frame = self.template.frame
        else:
            prompt = conversation.of_text(self.template, request.text, self._room, begins=self.begins)
            words, frame = (), None
        if not prompt.ids:
            raise conversation.nothing("messages" if isinstance(request, ChatRequest) else "prompt")
        return (
            Answer(
                prompt=prompt.ids,
                controls=self._controls(request, len(prompt.ids)),
                writer=Writer(self.pieces, self._control, frame, (*stops, *words, *self._spelled_ends), self._hidden),
                ends=self.ends,
                timeout=self.timeout_seconds,
            ),
            prompt,
        )

    def _controls(self, request: Request, prompt_tokens: int) -> Controls:
        def given(value: Any, default: Any) -> Any:
            return default if value is None else value

        longest = given(request.longest, self.defaults.max_new_tokens)
        if longest > self.context and request.longest is not None:
            raise Refusal(
                400,
                f"max_tokens is too large: {longest}. This model has {self.context} positions for prompt and answer together.",
                "invalid_value",
                "max_tokens",
            )
        return Controls(
            temperature=given(request.temperature, self.defaults.temperature),
            top_p=given(request.top_p, self.defaults.top_p),
            top_k=max(0, given(request.top_k, self.defaults.top_k)),
            repetition_penalty=given(request.repetition_penalty, self.defaults.repetition_penalty),
            frequency_penalty=given(request.frequency_penalty, 0.0),
            presence_penalty=given(request.presence_penalty, 0.0),
            max_tokens=max(1, min(longest, self.context - prompt_tokens)),
            seed=request.seed,
        )
