"""What the server asks of whoever writes a model's answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from workloads.serving.engine.answer import Answer
    from workloads.serving.engine.stream import Stream


class AnswerQueue(Protocol):
    """A queue, and the thread that works it off: `Scheduler`, or another engine's."""

    def start(self) -> None: ...

    def close(self) -> None: ...

    @property
    def max_batch(self) -> int: ...

    @property
    def queued(self) -> int: ...

    @property
    def running(self) -> int: ...

    def idle_within(self, seconds: float) -> bool: ...

    @property
    def is_dead(self) -> bool: ...

    def silent_for(self) -> float: ...

    def submit(self, answer: Answer, *, is_further: bool = False) -> Stream: ...

    def refuse_when_full(self) -> None: ...
