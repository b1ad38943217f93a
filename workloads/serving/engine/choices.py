"""All answers to one request, which may ask for hundreds, written side by side."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from workloads.serving.engine.stream import Ending, Stream

if TYPE_CHECKING:  # it brings torch: the port is open before that is imported
    from workloads.serving.engine.answer import Answer
    from workloads.serving.engine.queueing import AnswerQueue


@dataclass(frozen=True)
class Piece:
    """More of one answer."""

    number: int
    text: str
    ending: Ending | None = None
    """With the last piece, which has no text."""


class Choices:
    """The answers of a request, from the queue to their ends.

    As many are in the engine as it writes at a time, and one that waits; the next joins when one is done, behind what others asked
    meanwhile. Only the first may find the queue full: a request that was let in is answered whole, or cut off by its time.
    """

    def __init__(self, scheduler: AnswerQueue, answers: Sequence[Answer]) -> None:
        """Raises Refusal when the queue is full."""
        self._scheduler, self._answers = scheduler, answers
        self._first = scheduler.submit(answers[0])

    def give_up(self) -> None:
        """Nobody reads them any more. Harmless for those that are over."""
        for answer in self._answers:
            answer.cancelled = True

    async def pieces(self, idle_seconds: float | None = None) -> AsyncIterator[Piece | None]:
        """Every piece of every answer as it comes. Raises the Refusal of the first answer that failed. None says that nothing came for
        ``idle_seconds``."""
        news: asyncio.Queue[Piece | Exception] = asyncio.Queue(maxsize=len(self._answers))
        places = asyncio.Semaphore(self._scheduler.max_batch + 1)

        async def follow(number: int) -> None:
            async with places:
                try:
                    stream = self._submitted(number)
                    async for text in stream.texts():
                        await news.put(Piece(number, text))
                    await news.put(Piece(number, "", stream.ending))
                except Exception as error:  # noqa: BLE001 - it is raised again where it is waited for
                    await news.put(error)

        following = [asyncio.create_task(follow(number)) for number in range(len(self._answers))]
        left = len(following)
        try:
            while left:
                try:
                    async with asyncio.timeout(idle_seconds):
                        piece = await news.get()
                except TimeoutError:
                    yield None
                    continue
                if isinstance(piece, Exception):
                    raise piece
                left -= piece.ending is not None
                yield piece
        finally:
            for task in following:
                task.cancel()

    def _submitted(self, number: int) -> Stream:
        return self._scheduler.submit(self._answers[number], is_further=True) if number else self._first
