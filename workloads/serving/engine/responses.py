"""Answers in the shapes of OpenAI's API: whole, or as a stream of events."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TYPE_CHECKING, Any

from workloads.serving.engine import logprobs
from workloads.serving.engine.choices import Choices, Piece
from workloads.serving.engine.logprobs import TextLogprobs
from workloads.serving.engine.schema import ChatRequest, CompletionRequest
from workloads.serving.engine.stream import Ending
from workloads.serving.refusal import Refusal

if TYPE_CHECKING:  # they bring torch: the port is open before that is imported
    from workloads.serving.engine.likelihood import Likelihood
    from workloads.serving.engine.served_model import Asked, ServedModel
    from workloads.serving.engine.tools.calls import CallReader

KEEP_ALIVE_SECONDS = 15.0
"""A stream in which nothing happens gets a comment this often: proxies close silent connections."""
LINE_ENDS = {ord(character): f"\\u{ord(character):04x}" for character in "\x85\u2028\u2029"}
"""Unicode's line ends, at which some clients break an event in two."""


@dataclass
class Written:
    """What there is of one answer."""

    asked: Asked
    offsets: TextLogprobs
    calls: CallReader | None = None
    """What finds calls of tools in it."""
    texts: list[str] = field(default_factory=list)
    ending: Ending | None = None
    is_echoed: bool = False
    told: int = 0
    """Tokens of the answer whose likelihoods were told."""

    @property
    def average(self) -> float:
        """Likelihood of its tokens, by which the best is known."""
        noted = self.asked.answer.likelihoods
        assert noted is not None
        return fmean(each.logprob for each in noted.answer)


class Response:
    """What a request gets."""

    def __init__(self, served: ServedModel, request: ChatRequest | CompletionRequest, asked: Sequence[Asked]) -> None:
        self._served, self._request = served, request
        self._written = [Written(each, self._offsets(each), served.reader(request)) for each in asked]
        self._is_chat = isinstance(request, ChatRequest)
        self._echoes = isinstance(request, CompletionRequest) and bool(request.echo)
        self._writes = not isinstance(request, CompletionRequest) or request.writes
        self._head = {
            "id": f"{'chatcmpl' if self._is_chat else 'cmpl'}-{uuid.uuid4().hex}",
            "object": "chat.completion" if self._is_chat else "text_completion",
            "created": int(time.time()),
            "model": served.name,
        }

    async def whole(self, choices: Choices) -> dict[str, Any]:
        """One body, when all is written. Raises Refusal."""
        async for piece in choices.pieces():
            if piece is not None:
                written = self._written[piece.number]
                written.texts.append(piece.text)
                written.ending = piece.ending
        bodies = [self._choice(index, written) for index, written in enumerate(self._best())]
        return {**self._head, "choices": bodies, "usage": self._usage(), **self._extra()}

    async def events(self, choices: Choices) -> AsyncIterator[str]:
        """Server-sent events as they come. Raises Refusal."""
        if self._is_chat:
            for index in range(len(self._written)):
                yield self._chunk(index, {"role": "assistant", "content": ""})
        async for piece in choices.pieces(KEEP_ALIVE_SECONDS):
            if piece is None:
                yield ": waiting\n\n"
                continue
            written = self._written[piece.number]
            for delta in self._deltas(written, piece):
                yield self._chunk(piece.number, delta, self._logprobs(written))
            if piece.ending is not None:
                written.ending = piece.ending
                yield self._chunk(piece.number, {}, self._logprobs(written), self._reason(written))
        if self._request.wants_usage:
            yield event({**self._chunk_head, "choices": [], "usage": self._usage(), **self._extra()})
        yield "data: [DONE]\n\n"

    def failure(self, refusal: Refusal) -> str:
        """The event with which a stream ends that broke off."""
        return event(refusal.body())

    def _best(self) -> list[Written]:
        """Of the answers to each prompt those that are sent, the likeliest first where more were written."""
        candidates, wanted = self._request.candidates, self._request.choices
        if candidates == wanted:
            return self._written
        groups = [self._written[start : start + candidates] for start in range(0, len(self._written), candidates)]
        return [one for group in groups for one in sorted(group, key=lambda one: one.average, reverse=True)[:wanted]]

    def _choice(self, index: int, written: Written) -> dict[str, Any]:
        assert written.ending is not None
        text = self._echo(written) + ("".join(written.texts) if self._writes else "")
        said = {"content": text} if written.calls is None else written.calls.whole(text)
        content = {"message": {"role": "assistant", **said, "refusal": None}} if self._is_chat else {"text": text}
        return {
            "index": index,
            **content,
            "logprobs": self._logprobs(written),
            "finish_reason": self._reason(written),
        }

    def _deltas(self, written: Written, piece: Piece) -> list[dict[str, Any]]:
        """What a piece adds to an answer, as a stream tells it."""
        if written.calls is not None:
            return [*written.calls.feed(piece.text), *(written.calls.end() if piece.ending else ())]
        text = self._echo(written) + (piece.text if self._writes else "")
        return [{"content": text}] if text else []

    def _reason(self, written: Written) -> str:
        assert written.ending is not None
        if not self._writes:
            return "length"
        return written.ending.reason if written.calls is None else written.calls.reason(written.ending.reason)

    def _echo(self, written: Written) -> str:
        """The prompt, once."""
        if not self._echoes or written.is_echoed:
            return ""
        written.is_echoed = True
        return self._served.text_of(written.asked.prompt)

    def _logprobs(self, written: Written) -> dict[str, Any] | None:
        """Of what was not told yet; the prompt's first, where it is echoed."""
        noted = written.asked.answer.likelihoods
        if self._request.top is None or noted is None:
            return None
        start, written.told = written.told, len(noted.answer)
        new = noted.answer[start : written.told] if self._writes else []
        if self._is_chat:
            ends = written.asked.answer.ends
            return logprobs.of_chat((each for each in new if each.token not in ends), self._served.pieces)
        entries: list[tuple[int, Likelihood | None]] = []
        if self._echoes and start == 0:
            entries += zip(written.asked.prompt.ids, [None, *noted.prompt], strict=True)
        return written.offsets.take([*entries, *((each.token, each) for each in new)])

    def _offsets(self, asked: Asked) -> TextLogprobs:
        echoed = isinstance(self._request, CompletionRequest) and self._request.echo
        return self._served.text_logprobs(asked.prompt if echoed else None)

    @property
    def _chunk_head(self) -> dict[str, Any]:
        return self._head | ({"object": "chat.completion.chunk"} if self._is_chat else {})

    def _chunk(
        self, index: int, delta: dict[str, Any], noted: dict[str, Any] | None = None, reason: str | None = None
    ) -> str:
        content: dict[str, Any] = {"delta": delta} if self._is_chat else {"text": delta.get("content", "")}
        choice = {"index": index, **content, "logprobs": noted, "finish_reason": reason}
        return event({**self._chunk_head, "choices": [choice]})

    def _usage(self) -> dict[str, Any]:
        """Every prompt counts once, and every answer that was written."""
        firsts = [written.asked for written in self._written[:: self._request.candidates]]
        prompt = sum(len(each.prompt.ids) for each in firsts)
        cached = sum(each.answer.reused for each in firsts)
        completion = sum(written.ending.tokens for written in self._written if written.ending and self._writes)
        return {
            "prompt_tokens": prompt,
            "completion_tokens": completion,
            "total_tokens": prompt + completion,
            "prompt_tokens_details": {"cached_tokens": cached},
        }

    def _extra(self) -> dict[str, Any]:
        """What OpenAI's API does not know: clients pass it over or show it."""
        dropped = self._written[0].asked.prompt.dropped
        return {"alpaca": {"droppedMessages": dropped}} if dropped else {}


def event(content: dict[str, Any]) -> str:
    """As server-sent events have it."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return f"data: {text.translate(LINE_ENDS)}\n\n"
