"""Questions on their way: every model asked at the same time, each answer growing as it comes, and one way to stop them."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

from workloads.serving.page.models import Controls, Model, error_message

REFRESH_SECONDS = 0.08
"""The page is sent what is new so often at most. Faster is not seen, and each time costs every open page some work."""


QUIET_SECONDS = 15.0
"""So often at least it is sent something: proxies end connections on which nothing moves, and a queue may be long."""

State = Literal["writing", "done", "stopped", "cut", "failed"]


@dataclass(frozen=True)
class Answer:
    """What one model says to one question."""

    model: str
    text: str = ""
    state: State = "writing"
    """`cut` ended at the longest answer; `failed` has a `problem`."""
    problem: str = ""
    """Key of translations.PROBLEMS."""
    detail: str = ""
    """What the server said about the problem."""
    over: int = 0
    """Tokens by which the question is too long, where the server tells."""
    dropped: int = 0
    """Messages at the beginning that no longer fitted."""
    read: int = 0
    """Tokens of the conversation."""
    tokens: int = 0
    """Tokens of the answer."""
    seconds: float = 0
    """From its first word to its end."""

    def news(self, before: Answer | None) -> dict[str, Any]:
        """What has changed since: of the text its new end, as `more`."""
        old = asdict(before) if before else {"text": ""}
        new = asdict(self)
        changed = {name: value for name, value in new.items() if name != "text" and old.get(name) != value}
        more = new["text"][len(old["text"]) :]
        return {**changed, "more": more} if more else changed


@dataclass(frozen=True)
class Inquiry:
    """One model, and what it is asked."""

    model: Model
    messages: list[dict[str, str]]
    controls: Controls
    is_ours: bool
    continues: bool = False
    """The last message is the answer's beginning, which the model goes on from."""

    def request(self) -> dict[str, Any]:
        """For OpenAI's client. Where the engine is not ours, fields of ours are only sent where they ask for something."""
        extra: dict[str, Any] = {
            "top_k": self.controls.top_k,
            "repetition_penalty": self.controls.repetition_penalty,
        }
        if not self.is_ours:
            before = self.model.defaults.model_dump()
            extra = {name: value for name, value in extra.items() if value != before[name]}
        if self.continues:
            extra |= {"continue_final_message": True, "add_generation_prompt": False}
        return {
            "model": self.model.name,
            "messages": self.messages,
            "temperature": self.controls.temperature,
            "top_p": self.controls.top_p,
            "max_tokens": self.controls.max_new_tokens,
            "stream": True,
            "stream_options": {"include_usage": True},
            "extra_body": extra,
        }


class Run:
    """The answers to one question, while they are being written."""

    def __init__(self, inquiries: Sequence[Inquiry]) -> None:
        self._inquiries = inquiries
        self.answers = [Answer(inquiry.model.name) for inquiry in inquiries]
        self._news = asyncio.Event()

    async def growing(self) -> AsyncGenerator[list[Answer], None]:
        """The answers at first, each time that there is more of them, and once more when all are at their end.

        Leaving the iteration closes the streams as well, by which the engine is told: a user who pressed stop, or closed the page, is not
        written for.
        """
        tasks = [asyncio.create_task(self._write(number)) for number in range(len(self._inquiries))]
        try:
            yield list(self.answers)
            while not all(task.done() for task in tasks):
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), QUIET_SECONDS)
                self._news.clear()
                yield list(self.answers)
                await asyncio.wait(tasks, timeout=REFRESH_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        yield list(self.answers)

    def _update(self, number: int, **changes: Any) -> None:
        self.answers[number] = replace(self.answers[number], **changes)
        self._news.set()

    async def _write(self, number: int) -> None:
        """Never raises but when cancelled: a failure becomes part of the answer."""
        inquiry = self._inquiries[number]
        begun, ended, since = False, "", 0.0
        try:
            async with await inquiry.model.client.chat.completions.create(**inquiry.request()) as stream:
                async for chunk in stream:
                    begun = True
                    if dropped := (getattr(chunk, "alpaca", None) or {}).get("droppedMessages"):
                        self._update(number, dropped=int(dropped))
                    for choice in chunk.choices[:1]:
                        ended = choice.finish_reason or ended
                        if choice.delta.content:
                            since = since or time.monotonic()
                            self._update(number, text=self.answers[number].text + choice.delta.content)
                    if chunk.usage and since:
                        seconds = round(time.monotonic() - since, 3)
                        self._update(
                            number,
                            read=chunk.usage.prompt_tokens, tokens=chunk.usage.completion_tokens, seconds=seconds,
                        )  # fmt: skip
        except APIError as error:
            is_cut_off = begun and isinstance(error, APIConnectionError) and not isinstance(error, APITimeoutError)
            self._fail(number, "broken" if is_cut_off else problem(error), error_message(error) if error.body else "")
        except Exception as error:  # noqa: BLE001 - httpx's own, of a version that the client decides: a stream that broke off
            self._fail(number, "broken", f"{type(error).__name__}: {error}"[:200])
        else:
            if not ended:
                self._fail(number, "broken", "")
            else:
                self._update(number, state="cut" if ended == "length" else "done")

    def _fail(self, number: int, found: str, detail: str) -> None:
        over = excess(detail) if found == "long" else 0
        self._update(number, state="failed", problem=found, detail=detail, over=over)


BY_CODE = {
    "queue_full": "full",
    "model_loading": "loading",
    "shutting_down": "draining",
    "request_timeout": "slow",
    "context_length_exceeded": "long",
}
BY_STATUS = {401: "refused", 403: "refused", 404: "missing", 408: "slow", 413: "long", 429: "full", 503: "loading"}


def problem(error: APIError) -> str:
    """The key of translations.PROBLEMS that says it best."""
    if isinstance(error, APITimeoutError):
        return "slow"
    if isinstance(error, APIConnectionError):
        return "unreachable"
    if error.code in BY_CODE:
        return BY_CODE[error.code]
    if excess(error_message(error)):  # vLLM has no code for it
        return "long"
    if isinstance(error, APIStatusError):
        return BY_STATUS.get(error.status_code, "rejected" if error.status_code < 500 else "error")
    return "error"  # in the middle of a stream, as an event


LONG = (
    re.compile(r"at most (\d+) tokens of input, and .* (?:at least )?(\d+):"),  # ours
    re.compile(
        r"maximum context length is (\d+) tokens.*?(?:requested|contains at least|has) (\d+)", re.DOTALL
    ),  # vLLM, OpenAI
    re.compile(r"prompt \(length (?P<had>\d+)\) .*maximum model length of (?P<room>\d+)"),
)


def excess(message: str) -> int:
    """By how many tokens a conversation is too long, in the words of a server; 0 where these are about something else."""
    for pattern in LONG:
        if found := pattern.search(message):
            named = found.groupdict()
            room, had = (named["room"], named["had"]) if named else found.groups()
            return max(0, int(had) - int(room))
    return 0
