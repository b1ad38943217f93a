"""The queue, and the thread that works it off: what an engine's scheduler is, whatever computes the tokens.

Answers join and leave between steps, so a short one never waits for a long one. Who else is answered changes nothing about an answer: what a
model remembers of each is apart, and so are choices (``models/sampling.py``).
"""

from __future__ import annotations

import logging
import threading
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, Protocol

import torch

from workloads.models.sampling import Sampler, choose
from workloads.serving.engine import refusals
from workloads.serving.engine.answer import Answer
from workloads.serving.engine.stream import Ending, Stream
from workloads.serving.engine.turns import next_in
from workloads.serving.refusal import Refusal

log = logging.getLogger(__name__)

FAILURES = 3
"""Steps in a row that fail before the engine counts as dead: a GPU that was lost fails every one."""
NOT_A_NUMBER = -1


class Watcher(Protocol):
    """Who counts what happens; the metrics do. All of it is called in the queue's thread."""

    def first_token(self, seconds: float) -> None: ...

    def prompt_tokens(self, count: int) -> None: ...

    def reused_tokens(self, count: int) -> None: ...

    def completion_tokens(self, count: int) -> None: ...


class NullWatcher:
    """Counts nothing."""

    def first_token(self, seconds: float) -> None:
        pass

    def prompt_tokens(self, count: int) -> None:
        pass

    def reused_tokens(self, count: int) -> None:
        pass

    def completion_tokens(self, count: int) -> None:
        pass


class AnswerQueue(ABC):
    """Answers for one model. An engine says what it has room for, gives an answer its place and takes that back, and computes a step, in which
    it hands the logits behind each answer to `_choose`. All of these are called in the queue's own thread."""

    def __init__(
        self,
        *,
        max_batch: int,
        max_queue: int,
        device: torch.device,
        unused: slice | Sequence[int] = (),
        watcher: Watcher | None = None,
    ) -> None:
        """``unused``: ids that stand for nothing."""
        self._max_batch, self._max_queue = max_batch, max_queue
        self._device = device
        self._unused = unused if isinstance(unused, slice) else torch.tensor(list(unused), dtype=torch.long)
        self._watcher: Watcher = watcher or NullWatcher()
        self._lock = threading.Condition()
        self._waiting: deque[Answer] = deque()
        self._running: list[Answer] = []
        """Those that have a place, in the order in which they came to it."""
        self._between: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._news: list[tuple[Stream, str, Ending | Refusal | None]] = []
        self._closed = False
        self._failures = 0
        self._step_began: float | None = None
        self._seconds_per_answer = 1.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    @abstractmethod
    def _has_room(self, answer: Answer) -> bool:
        """Whether ``answer`` may be let in beside those that are."""

    @abstractmethod
    def _begin(self, answer: Answer) -> None:
        """Give it its place."""

    @abstractmethod
    def _step(self) -> None:
        """The next token of every answer, and a piece of the prompts that are read."""

    @abstractmethod
    def _end(self, answer: Answer) -> None:
        """Take its place back."""

    @abstractmethod
    def _forget_all(self) -> None:
        """Take back every place; nothing is known of them any more."""

    def _refusal_of(self, error: Exception) -> Refusal:
        """What answers are told whose step failed."""
        return refusals.failed(f"the engine failed ({type(error).__name__}): its log says more")

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread; answers that are still there are given up."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._thread.join()

    def between_steps(self, act: Callable[[], None]) -> Future[None]:
        """Let the queue's thread do something to the model while it computes nothing; what that raises is the future's. Answers go on
        behind it."""
        future: Future[None] = Future()
        with self._lock:
            if self._closed:
                future.cancel()
                return future
            self._between.append((act, future))
            self._lock.notify_all()
        return future

    @property
    def max_batch(self) -> int:
        """Answers written at the same time."""
        return self._max_batch

    @property
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running)

    def idle_within(self, seconds: float) -> bool:
        """Wait until every answer has come to its end; False when time is over before."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._has_work, max(0.0, seconds))

    @property
    def _has_work(self) -> bool:
        return bool(self._waiting or self._running)

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
        # A place that is free counts: requests that come together are not refused before the thread looked at them.
        free = self._max_batch - len(self._running)
        if len(self._waiting) >= self._max_queue + free:
            rounds = 1 + len(self._waiting) // self._max_batch
            raise refusals.queue_full(len(self._waiting), max(1, min(60, round(rounds * self._seconds_per_answer))))

    def _run(self) -> None:
        with torch.inference_mode():
            while self._await_work():
                self._step_began = time.monotonic()
                try:
                    self._drop_the_gone()
                    self._act_between()  # behind it: nobody answers with what they take away
                    self._let_in()
                    self._step()
                    self._failures = 0
                except Exception as error:  # noqa: BLE001 - whatever a step dies of, its answers are told and the next ones are tried
                    self._fail_all(error)
                self._step_began = None
                self._deliver()
        with self._lock:
            there = [*self._running, *self._waiting]
            self._waiting.clear()
            for _, future in self._between:
                future.cancel()
        self._give_up(there, refusals.draining())
        self._deliver()

    def _await_work(self) -> bool:
        """Wait until there is something to do. False once closed."""
        with self._lock:
            while not (self._closed or self._has_work or self._between):
                self._lock.notify_all()  # those who wait for this moment
                self._lock.wait()
            return not self._closed

    def _act_between(self) -> None:
        while self._between:
            act, future = self._between.popleft()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                act()
            except Exception as error:  # noqa: BLE001 - it is told to whoever asked for it
                future.set_exception(error)
            else:
                future.set_result(None)

    def _drop_the_gone(self) -> None:
        """Those whose reader left, or whose time is over."""
        now = time.monotonic()

        def gone(answer: Answer) -> bool:
            if answer.arrived_at + answer.timeout <= now and not answer.cancelled:
                self._tell(answer, "", refusals.timed_out(answer.timeout))
                return True
            return answer.cancelled

        with self._lock:
            self._waiting = deque(answer for answer in self._waiting if not gone(answer))
        for answer in list(self._running):
            if gone(answer):
                self._leave(answer)

    def _let_in(self) -> None:
        """Give a place to those that there is room for."""
        while True:
            with self._lock:
                answer = None if self._closed else self._next()
                if answer is None:
                    return
                self._waiting.remove(answer)
                self._running.append(answer)
            self._begin(answer)

    def _next(self) -> Answer | None:
        """Whose turn it is, if there is room."""
        if not self._waiting or len(self._running) >= self._max_batch:
            return None
        answer = next_in(self._waiting, self._running)
        return answer if self._has_room(answer) else None

    def _choose(self, logits: torch.Tensor, answers: Sequence[Answer]) -> None:
        """Choose for ``answers``, whose logits (answers, vocabulary) these are, and let those that came to their end leave."""
        noting = {answer: scores.clone() for answer, scores in zip(answers, logits, strict=True) if answer.likelihoods}
        logits[:, self._unused] = float("-inf")
        broken = logits.isnan().any(-1)
        for answer, scores in zip(answers, logits, strict=True):
            if answer.constraint is not None:
                answer.constraint.narrow(scores)
        samplers = [self._sampler(answer) for answer in answers]
        # Drawing from what is no number would take a GPU's whole context down, so it is done on zeros and not looked at.
        drawn = choose(samplers, logits.nan_to_num(neginf=float("-inf")))
        for answer, token in zip(answers, torch.where(broken, NOT_A_NUMBER, drawn).tolist(), strict=True):
            if answer.likelihoods is not None and token != NOT_A_NUMBER:
                answer.likelihoods.write(noting[answer], token)
            self._take(answer, token)
        self._watcher.completion_tokens(len(answers))

    def _sampler(self, answer: Answer) -> Sampler:
        if answer.sampler is None:
            answer.sampler = Sampler(answer.controls, answer.prompt, self._device)
        return answer.sampler

    def _take(self, answer: Answer, token: int) -> None:
        if token == NOT_A_NUMBER:
            self._tell(answer, "", refusals.not_a_number())
            self._leave(answer)
            return
        if answer.constraint is not None and answer.constraint.problem is not None:
            self._tell(answer, "", refusals.out_of_grammar(answer.constraint.problem))
            self._leave(answer)
            return
        if not answer.written:
            self._watcher.first_token(time.monotonic() - answer.arrived_at)
        answer.written.append(token)
        self._sampler(answer).note(token)
        text = "" if token in answer.ends else answer.writer.feed(token)
        is_whole = token not in answer.ends and answer.constraint is not None and answer.constraint.take(token)
        if token in answer.ends or answer.writer.stopped or is_whole:
            ending = Ending("stop", answer.tokens)
        elif answer.tokens >= answer.controls.max_tokens:
            ending = Ending("length", answer.tokens)
        else:
            if text:
                self._tell(answer, text)
            return
        self._tell(answer, text + answer.writer.end(), ending)
        self._seconds_per_answer += 0.2 * (time.monotonic() - answer.arrived_at - self._seconds_per_answer)
        self._leave(answer)

    def _leave(self, answer: Answer) -> None:
        self._end(answer)
        with self._lock:
            self._running.remove(answer)

    def _fail_all(self, error: Exception) -> None:
        """A step failed: nothing is known of the answers in progress any more. Those waiting are tried."""
        self._failures += 1
        log.exception("a step of %d answers failed", self.running)
        self._give_up(list(self._running), self._refusal_of(error))

    def _give_up(self, answers: Sequence[Answer], refusal: Refusal) -> None:
        with self._lock:
            self._running = []
        self._forget_all()
        for answer in answers:
            self._tell(answer, "", refusal)

    def _tell(self, answer: Answer, text: str, ending: Ending | Refusal | None = None) -> None:
        self._news.append((answer.stream, text, ending))

    def _deliver(self) -> None:
        """Hand everything of this step over at once: waking the event loop costs more than a token."""
        news, self._news = self._news, []
        by_loop: dict[Any, list[tuple[Stream, str, Ending | Refusal | None]]] = {}
        for entry in news:
            by_loop.setdefault(entry[0].loop, []).append(entry)
        for loop, entries in by_loop.items():
            if not loop.is_closed():
                loop.call_soon_threadsafe(_put, entries)


def _put(entries: list[tuple[Stream, str, Ending | Refusal | None]]) -> None:
    for stream, text, ending in entries:
        stream.put(text, ending)
