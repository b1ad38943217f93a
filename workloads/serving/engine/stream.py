"""An answer between the thread that writes it and the event loop that sends it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Literal

from workloads.serving.refusal import Refusal


@dataclass(frozen=True)
class Ending:
    """How an answer ended."""

    reason: Literal["stop", "length"]
    """OpenAI's `finish_reason`: by itself or at a stop string, or for want of room."""
    tokens: int
    """Tokens written, the one that ended it included."""


class Stream:
    """Text as it comes. A reader that is slow gets several tokens' text at once: nothing piles up but text."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._texts: list[str] = []
        self._news = asyncio.Event()
        self._ending: Ending | Refusal | None = None

    @property
    def loop(self) -> asyncio.AbstractEventLoop:
        return self._loop

    def put(self, text: str, ending: Ending | Refusal | None = None) -> None:
        """In the loop's own thread: more text, and how the answer ended if it has."""
        if text:
            self._texts.append(text)
        self._ending = self._ending or ending
        if text or ending:
            self._news.set()

    async def texts(self, idle_seconds: float | None = None) -> AsyncIterator[str]:
        """Every text, joined as far as it is there. Raises the Refusal of an answer that failed. An empty text says that nothing came
        for ``idle_seconds``."""
        while True:
            try:
                async with asyncio.timeout(idle_seconds):
                    await self._news.wait()
            except TimeoutError:
                yield ""
                continue
            self._news.clear()
            text, self._texts = "".join(self._texts), []
            if text:
                yield text
            if isinstance(self._ending, Refusal):
                raise self._ending
            if self._ending is not None and not self._texts:
                return

    async def whole(self) -> str:
        return "".join([text async for text in self.texts()])

    @property
    def ending(self) -> Ending:
        """Known once ``texts`` came to its end."""
        assert isinstance(self._ending, Ending)
        return self._ending
