"""A model with everything that an answer of it needs: defaults, limits, template, and the scheduler that writes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from workloads.data import tokenize
from workloads.data.chat_templates.template import Template
from workloads.models.sampling import Controls
from workloads.serving import defaults
from workloads.serving.engine import conversation, refusals, schema, text
from workloads.serving.engine.answer import Answer
from workloads.serving.engine.conversation import Prompt, Room
from workloads.serving.engine.infilling import Infilling
from workloads.serving.engine.likelihood import Likelihoods
from workloads.serving.engine.logprobs import TextLogprobs
from workloads.serving.engine.queueing import AnswerQueue
from workloads.serving.engine.schema import ChatRequest, CompletionRequest, Request
from workloads.serving.engine.text import Pieces, Writer
from workloads.serving.engine.tools import dialect
from workloads.serving.engine.tools.calls import CallReader
from workloads.serving.engine.tools.dialect import Dialect, Language
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


@dataclass(frozen=True)
class Asked:
    """An answer that a request wants, and what it goes on from."""

    prompt: Prompt
    answer: Answer


@dataclass
class ServedModel:
    """One model, by the name that requests call it."""

    name: str
    kind: str
    digest: str
    template: Template
    defaults: Defaults
    scheduler: AnswerQueue
    context: int
    """Positions that prompt and answer share."""
    max_input_tokens: int
    timeout_seconds: float
    ends: frozenset[int]
    """Tokens that end an answer."""
    begins: int | None
    """The token that texts outside of a conversation begin with."""
    adapter: int | None = None
    """Place of the adapter that makes it, where several are beside each other on one base."""
    users: int = field(default=0, init=False)
    """Requests that are answered by it, or are about to be; counted in the event loop."""
    pieces: Pieces = field(init=False)
    language: Language = field(init=False)

    def __post_init__(self) -> None:
        tokenizer = self.template.tokenizer
        self.pieces = Pieces(tokenizer)
        self._room = Room(self.max_input_tokens, text.longest_token(tokenizer))
        self._control = frozenset({*self.template.hidden.values(), *tokenizer.all_special_ids})
        spelled = {mark for mark in self.template.hidden if not mark.isalnum() and len(mark.strip()) > 2}
        self._spelled_ends = tuple(mark for mark in spelled if self.template.hidden[mark] in self.template.stop_ids)
        self._hidden = tuple(spelled)
        self.language = Language(self.template, self.pieces, self._control, self.ends)
        self._rows = tokenize.rows_of(tokenizer)
        self._infilling = Infilling.of(self.template)

    @contextmanager
    def used(self) -> Iterator[None]:
        """A request keeps it until this is left: an adapter that is removed goes with the last that does."""
        self.users += 1
        try:
            yield
        finally:
            self.users -= 1

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
                "generation": defaults.told(vars(self.defaults)),
                "systemPrompt": self.defaults.system_prompt,
                "tools": "template" if self.language.has_tools else "prompt",
            },
        }

    def ask(self, request: ChatRequest | CompletionRequest) -> list[Asked]:
        """The answers to a request, not begun: to each prompt as many as it wants candidates. Slow for a long text: it belongs on a thread.
        Raises Refusal for one that cannot be answered."""
        if isinstance(request, ChatRequest):
            prompts = [self._conversation(request)]
        else:
            single = len(request.prompts) == 1
            prompts = [
                self._continued(each, "prompt" if single else f"prompt[{number}]", request.suffix)
                for number, each in enumerate(request.prompts)
            ]
        return [
            Asked(prompt, self._answer(request, prompt, number))
            for prompt in prompts
            for number in range(request.candidates)
        ]

    def reader(self, request: Request) -> CallReader | None:
        """What reads the calls of tools in an answer to ``request``; None where it can have none."""
        return Dialect.of(self.language, request).reader() if isinstance(request, ChatRequest) else None

    def text_of(self, prompt: Prompt) -> str:
        """As it was given, or as its tokens are read."""
        if prompt.text is not None:
            return prompt.text
        return str(self.template.tokenizer.decode(prompt.ids, skip_special_tokens=True))

    def text_logprobs(self, echoed: Prompt | None) -> TextLogprobs:
        """For an answer to a text, behind the prompt where that is echoed."""
        unseen = 0
        if echoed is not None:
            said = b"".join(self.pieces.of(number) for number in echoed.ids if number not in self._control)
            unseen = int(said.startswith(b" ") and not self.text_of(echoed).startswith(" "))
        return TextLogprobs(self.pieces, self._control, unseen)

    def tokens_of(self, text: str | None, messages: Sequence[schema.Message] | None, begins: bool | None) -> list[int]:
        """What the model would read of a text or a conversation, also where it is longer than can be asked. ``begins``: whether the token
        that texts begin with stands before. Raises Refusal for one that has no room by its characters alone."""
        said = self._said(messages) if messages is not None else []
        length = len(text or "") + sum(map(conversation.length, said))
        if length > self._room.characters:
            tokens = -(-length // self._room.characters_per_token)
            raise conversation.too_long(tokens, self._room, "prompt" if text is not None else "messages", at_least=True)
        ids = self.template.encode_text(text) if text is not None else conversation.encoded(self.language, said)
        goes_before = (text is not None) if begins is None else begins
        return [*([self.begins] if goes_before and self.begins is not None else []), *ids]

    def check_tokens(self, ids: Sequence[int], param: str) -> None:
        """Raises Refusal for what is no token."""
        for at, number in enumerate(ids):
            self._check_token(number, f"{param}[{at}]")

    def _said(self, messages: Sequence[schema.Message]) -> list[dict[str, Any]]:
        """What the template writes: with the deployment's system prompt, where there is none."""
        said = dialect.said(messages)
        if self.defaults.system_prompt and said[0]["role"] != "system":
            said.insert(0, {"role": "system", "content": self.defaults.system_prompt})
        return said

    def _conversation(self, request: ChatRequest) -> Prompt:
        asked = Dialect.of(self.language, request)
        conversation.check_tools(asked.tools, self._room)
        prompt = conversation.of_messages(asked, self._said(request.messages), self._room)
        if not prompt.ids:
            raise conversation.nothing("messages")
        return prompt

    def _continued(self, prompt: str | list[int], param: str, suffix: str | None = None) -> Prompt:
        if suffix and isinstance(prompt, str):
            if self._infilling is None:
                raise refusals.no_infilling()
            return conversation.of_gap(self._infilling, prompt, suffix, self._room, begins=self.begins, param=param)
        if isinstance(prompt, str):
            return conversation.of_text(self.template, prompt, self._room, begins=self.begins, param=param)
        self.check_tokens(prompt, param)
        return conversation.of_ids(prompt, self._room, param=param)

    def _answer(self, request: ChatRequest | CompletionRequest, prompt: Prompt, number: int) -> Answer:
        """The ``number``-th of those to this prompt."""
        asked = Dialect.of(self.language, request) if isinstance(request, ChatRequest) else None
        words = self._spelled_ends if asked is None else (*self.template.next_turn[1], *self._spelled_ends)
        frame = self.template.frame if asked else None
        stops = request.stops if asked and asked.is_bound else (*request.stops, *words)
        shown = asked.hidden_tokens if asked else {}
        fills = self._infilling if isinstance(request, CompletionRequest) and request.suffix else None
        ends = frozenset() if request.ignore_eos else self.ends | (fills.ends if fills else frozenset())
        echoes = isinstance(request, CompletionRequest) and bool(request.echo)
        # Of several the best is known by its likelihood, also where nobody asked to be told.
        notes = request.top is not None or request.candidates > request.choices
        return Answer(
            prompt=prompt.ids,
            adapter=self.adapter,
            controls=self._controls(request, len(prompt.ids), number),
            writer=Writer(
                self.pieces,
                self._control - frozenset(shown.values()),
                frame,
                stops,
                [mark for mark in self._hidden if mark not in shown],
                begun=asked is not None and asked.request.goes_on,
            ),
            constraint=asked.constraint(self.template.frame) if asked else None,
            ends=ends.union(request.stop_token_ids or ()),
            timeout=self.timeout_seconds,
            likelihoods=Likelihoods(request.top or 0, of_prompt=echoes and request.top is not None) if notes else None,
        )

    def _check_token(self, number: int, param: str) -> None:
        if number >= self._rows:
            raise Refusal(
                400,
                f"Invalid value for '{param}': {number} is no token of this model, which has {self._rows}.",
                "invalid_value",
                param,
            )

    def _controls(self, request: Request, prompt_tokens: int, number: int) -> Controls:
        """Of the ``number``-th answer to a prompt: where a seed is given each has one of its own, the first the one given."""

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
        for token in request.logit_bias or ():
            self._check_token(int(token), "logit_bias")
        return Controls(
            temperature=given(request.temperature, self.defaults.temperature),
            top_p=given(request.top_p, self.defaults.top_p),
            top_k=max(0, given(request.top_k, self.defaults.top_k)),
            repetition_penalty=given(request.repetition_penalty, self.defaults.repetition_penalty),
            frequency_penalty=given(request.frequency_penalty, 0.0),
            presence_penalty=given(request.presence_penalty, 0.0),
            max_tokens=max(1, min(longest, self.context - prompt_tokens)),
            seed=None if request.seed is None else request.seed + number,
            min_p=given(request.min_p, 0.0),
            logit_bias=tuple(sorted((int(token), bias) for token, bias in (request.logit_bias or {}).items())),
        )
