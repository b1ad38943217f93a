"""Questions on their way: every model asked at the same time, each answer growing as it comes, and one way to stop them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import Any

from openai import APIConnectionError, APIError, APIStatusError, APITimeoutError

from workloads.serving.page.conversation import Answer
from workloads.serving.page.models import Controls, Model, error_message

REFRESH_SECONDS = 0.08
"""The page is sent what is new so often at most. Faster is not seen, and each time costs every open page some work."""


@dataclass(frozen=True)
class Inquiry:
    """One model, and what it is asked."""

    model: Model
    messages: list[dict[str, str]]
    controls: Controls
    is_ours: bool

    def request(self) -> dict[str, Any]:
        """For OpenAI's client. Where the engine is not ours, fields of ours are only sent where they ask for something."""
        extra: dict[str, Any] = {
            "top_k": self.controls.top_k,
            "repetition_penalty": self.controls.repetition_penalty,
        }
        if not self.is_ours:
            before = self.model.defaults.model_dump()
            extra = {name: value for name, value in extra.items() if value != before[name]}
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
        self.answers = [Answer(model=inquiry.model.name) for inquiry in inquiries]
        self._news = asyncio.Event()
        self._stopped = asyncio.Event()

    def stop(self) -> None:
        """What is there stays; the engine is told by the connections closing."""
        self._stopped.set()
        self._news.set()

    async def growing(self) -> AsyncIterator[list[Answer]]:
        """The answers each time that there is more of them, and once more when all are at their end.

        Leaving the iteration closes the streams as well: a user who closed the page is not written for.
        """
        tasks = [asyncio.create_task(self._write(number)) for number in range(len(self._inquiries))]
        try:
            while not (self._stopped.is_set() or all(task.done() for task in tasks)):
                await self._news.wait()
                self._news.clear()
                yield list(self.answers)
                await asyncio.wait(tasks, timeout=REFRESH_SECONDS)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        for number, answer in enumerate(self.answers):
            if answer.state == "writing":
                self._update(number, state="stopped")
        yield list(self.answers)

    def _update(self, number: int, **changes: Any) -> None:
        self.answers[number] = self.answers[number].model_copy(update=changes)
        self._news.set()

    async def _write(self, number: int) -> None:
        """Never raises but when cancelled: a failure becomes part of the answer."""
        inquiry = self._inquiries[number]
        begun, ended = False, ""
        try:
            async with await inquiry.model.client.chat.completions.create(**inquiry.request()) as stream:
                async for chunk in stream:
                    begun = True
                    if dropped := (getattr(chunk, "alpaca", None) or {}).get("droppedMessages"):
                        self._update(number, dropped=int(dropped))
                    for choice in chunk.choices[:1]:
                        ended = choice.finish_reason or ended
                        if choice.delta.content:
                            self._update(number, text=self.answers[number].text + choice.delta.content)
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
        self._update(number, state="failed", problem=found, detail=detail)


BY_CODE = {"queue_full": "full", "model_loading": "loading", "shutting_down": "draining", "request_timeout": "slow"}
BY_STATUS = {401: "refused", 403: "refused", 404: "missing", 408: "slow", 413: "long", 429: "full", 503: "loading"}


def problem(error: APIError) -> str:
    """The key of translations.PROBLEMS that says it best."""
    if isinstance(error, APITimeoutError):
        return "slow"
    if isinstance(error, APIConnectionError):
        return "unreachable"
    if error.code in BY_CODE:
        return BY_CODE[error.code]
    if isinstance(error, APIStatusError):
        return BY_STATUS.get(error.status_code, "rejected" if error.status_code < 500 else "error")
    return "error"  # in the middle of a stream, as an event
