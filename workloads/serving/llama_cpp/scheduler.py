"""The queue, and the thread that writes all answers together: one pass of llama.cpp adds a token to every answer and reads a piece of the
prompts that wait."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from workloads.models.sampling import Sampler, choose
from workloads.serving.engine import refusals
from workloads.serving.engine.answer import Answer
from workloads.serving.engine.scheduler import FAILURES, NullWatcher, Watcher
from workloads.serving.engine.stream import Ending, Stream
from workloads.serving.engine.turns import next_in
from workloads.serving.llama_cpp.context import AT_ONCE, Placed
from workloads.serving.refusal import Refusal

log = logging.getLogger(__name__)


class Memory(Protocol):
    """What holds the conversations: `Context`."""

    def passed(self, tokens: Sequence[Placed]) -> torch.Tensor: ...

    def forget(self, row: int) -> None: ...

    def forget_all(self) -> None: ...

    def close(self) -> None: ...


@dataclass(eq=False)
class Row:
    """An answer that has its place in llama.cpp's memory."""

    answer: Answer
    number: int
    read: int = 0
    """Tokens of the prompt that llama.cpp has seen."""

    @property
    def is_read(self) -> bool:
        return self.read == len(self.answer.prompt)


class LlamaCppScheduler:
    """Answers for one file; to the server what `engine.scheduler.Scheduler` is."""

    def __init__(
        self,
        memory: Memory,
        *,
        max_batch: int,
        max_queue: int,
        positions: int,
        unused: Sequence[int] = (),
        watcher: Watcher | None = None,
    ) -> None:
        """``positions``: tokens of conversation that ``memory`` holds. ``unused``: ids that stand for nothing."""
        self._memory = memory
        self._max_batch, self._max_queue, self._positions = max_batch, max_queue, positions
        self._unused = torch.tensor(list(unused), dtype=torch.long)
        self._watcher: Watcher = watcher or NullWatcher()
        self._lock = threading.Condition()
        self._waiting: deque[Answer] = deque()
        self._rows: list[Row] = []
        """Those that came first are first."""
        self._closed = False
        self._failures = 0
        self._step_began: float | None = None
        self._seconds_per_answer = 1.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread and give back the memory; answers that are still there are given up."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._thread.join()
        self._memory.close()

    @property
    def max_batch(self) -> int:
        """Answers written at the same time."""
        return self._max_batch

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._rows)

    def idle_within(self, seconds: float) -> bool:
        """Wait until every answer has come to its end; False when time is over before."""
        with self._lock:
            return self._lock.wait_for(lambda: not (self._waiting or self._rows), max(0.0, seconds))

    @property
    def is_dead(self) -> bool:
        """No step works any more, or the thread is gone."""
        return self._failures >= FAILURES or not (self._thread.is_alive() or self._closed)

    def silent_for(self) -> float:
        """Seconds that the present step has taken; 0 between steps."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def submit(self, answer: Answer, *, is_further: bool = False) -> Stream:
        """Put a request in the queue; called by the event loop that reads the answer. Raises Refusal when it is full, but for a further
        answer of a request that was let in."""
        answer.stream = Stream()
        with self._lock:
            if self._closed:
                raise refusals.draining()
            if not is_further:
                self._refuse_when_full()
            self._waiting.append(answer)
            self._lock.notify_all()
        return answer.stream

    def refuse_when_full(self) -> None:
        """Raises Refusal when a request would be refused now, before work is put into it."""
        with self._lock:
            self._refuse_when_full()

    def _refuse_when_full(self) -> None:
        if self._closed:
            raise refusals.draining()
        free = self._max_batch - len(self._rows)
        if len(self._waiting) >= self._max_queue + free:
            rounds = 1 + len(self._waiting) // self._max_batch
            raise refusals.queue_full(len(self._waiting), max(1, min(60, round(rounds * self._seconds_per_answer))))

    def _run(self) -> None:
        with torch.inference_mode():
            while self._await_work():
                self._step_began = time.monotonic()
                try:
                    self._drop_the_gone()
                    self._step()
                    self._failures = 0
                except Exception as error:  # noqa: BLE001 - whatever a step dies of, its answers are told and the next ones are tried
                    self._fail_all(error)
                self._step_began = None
        with self._lock:
            there = [*(row.answer for row in self._rows), *self._waiting]
            self._rows, self._waiting = [], deque()
        for answer in there:
            _tell(answer, "", refusals.draining())

    def _await_work(self) -> bool:
        """Wait until there is something to do, and take in what there is room for. False once closed."""
        with self._lock:
            while not (self._closed or self._waiting or self._rows):
                self._lock.notify_all()  # those who wait for this moment
                self._lock.wait()
            while not self._closed and (answer := self._next()):
                taken = {row.number for row in self._rows}
                free = next(number for number in range(self._max_batch) if number not in taken)
                self._waiting.remove(answer)
                self._rows.append(Row(answer, free))
            return not self._closed

    def _next(self) -> Answer | None:
        """Whose turn it is, where there is room for what may come of it."""
        if not self._waiting or len(self._rows) >= self._max_batch:
            return None
        answer = next_in(self._waiting, [row.answer for row in self._rows])
        reserved = sum(row.answer.most for row in self._rows)
        return answer if reserved + answer.most <= self._positions else None

    def _drop_the_gone(self) -> None:
        """Those whose reader left, or whose time is over."""
        now = time.monotonic()

        def gone(answer: Answer) -> bool:
            if answer.arrived_at + answer.timeout <= now and not answer.cancelled:
                _tell(answer, "", refusals.timed_out(answer.timeout))
                return True
            return answer.cancelled

        with self._lock:
            self._waiting = deque(answer for answer in self._waiting if not gone(answer))
        for row in [row for row in self._rows if gone(row.answer)]:
            self._leave(row)

    def _step(self) -> None:
        """A token of every answer, and of the prompts that came first what still fits into the pass."""
        placed: list[Placed] = []
        asking: list[tuple[Row, int]] = []
        for row in self._rows:
            if row.is_read:
                asking.append((row, 1))
                placed.append(Placed(row.answer.written[-1], row.answer.length - 1, row.number, True))
        for row in [row for row in self._rows if not row.is_read]:
            part = self._part(row, AT_ONCE - len(placed))
            placed += part
            if wanted := sum(token.asks for token in part):
                asking.append((row, wanted))
        if placed:
            self._choose(self._memory.passed(placed), asking)

    def _part(self, row: Row, room: int) -> list[Placed]:
        """So much of a prompt as goes into this pass. What follows its last token is wanted, and what follows all where that is told."""
        answer, first = row.answer, row.read
        piece = answer.prompt[first : first + room]
        row.read += len(piece)
        self._watcher.prompt_tokens(len(piece))
        last = len(answer.prompt) - 1
        return [
            Placed(token, at, row.number, answer.notes_prompt or at == last)
            for at, token in enumerate(piece, start=first)
        ]

    def _choose(self, logits: torch.Tensor, asking: Sequence[tuple[Row, int]]) -> None:
        """``asking``: whose logits these are, one row after the other, and how many of each. The last of a row's are chosen by, once its prompt
        is read."""
        ready: list[Row] = []
        ends: list[int] = []
        end = 0
        for row, count in asking:
            end += count
            likelihoods = row.answer.likelihoods
            if likelihoods is not None and row.answer.notes_prompt and not row.answer.written:
                likelihoods.read(row.read - count, logits[end - count : end], row.answer.prompt)
            if row.is_read:
                ready.append(row)
                ends.append(end - 1)
        if not ready:
            return
        scores = logits[ends]
        before = scores.clone()
        broken = scores.isnan().any(-1).tolist()
        scores[:, self._unused] = float("-inf")
        for row, own in zip(ready, scores, strict=True):
            if row.answer.constraint is not None:
                row.answer.constraint.narrow(own)
        tokens = choose([_sampler(row.answer) for row in ready], scores.nan_to_num(neginf=float("-inf"))).tolist()
        for row, token, is_broken, own in zip(ready, tokens, broken, before, strict=True):
            if is_broken:
                _tell(row.answer, "", refusals.not_a_number())
                self._leave(row)
                continue
            if row.answer.likelihoods is not None:
                row.answer.likelihoods.write(own, token)
            self._take(row, token)
        self._watcher.completion_tokens(len(ready))

    def _take(self, row: Row, token: int) -> None:
        answer = row.answer
        if answer.constraint is not None and answer.constraint.problem is not None:
            _tell(answer, "", refusals.out_of_grammar(answer.constraint.problem))
            self._leave(row)
            return
        if not answer.written:
            self._watcher.first_token(time.monotonic() - answer.arrived_at)
        answer.written.append(token)
        _sampler(answer).note(token)
        text = "" if token in answer.ends else answer.writer.feed(token)
        is_whole = token not in answer.ends and answer.constraint is not None and answer.constraint.take(token)
        if token in answer.ends or answer.writer.stopped or is_whole:
            ending = Ending("stop", answer.tokens)
        elif answer.tokens >= answer.controls.max_tokens:
            ending = Ending("length", answer.tokens)
        else:
            if text:
                _tell(answer, text)
            return
        _tell(answer, text + answer.writer.end(), ending)
        self._seconds_per_answer += 0.2 * (time.monotonic() - answer.arrived_at - self._seconds_per_answer)
        self._leave(row)

    def _leave(self, row: Row) -> None:
        self._memory.forget(row.number)
        with self._lock:
            self._rows.remove(row)

    def _fail_all(self, error: Exception) -> None:
        """A step failed: nothing is known of the rows any more. Those waiting are tried."""
        self._failures += 1
        log.exception("a step of %d answers failed", len(self._rows))
        with self._lock:
            rows, self._rows = self._rows, []
        for row in rows:
            _tell(row.answer, "", refusals.failed(f"the engine failed ({type(error).__name__}): its log says more"))
        self._memory.forget_all()


def _sampler(answer: Answer) -> Sampler:
    if answer.sampler is None:
        answer.sampler = Sampler(answer.controls, answer.prompt, torch.device("cpu"))
    return answer.sampler


def _tell(answer: Answer, text: str, ending: Ending | Refusal | None = None) -> None:
    """Hand text over to the loop that reads the answer."""
    loop = answer.stream.loop
    if not loop.is_closed():
        loop.call_soon_threadsafe(answer.stream.put, text, ending)
