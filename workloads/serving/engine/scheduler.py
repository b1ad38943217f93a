"""The queue, and the thread that writes all answers together: one pass reads a piece of waiting prompts and adds a token to every answer.

Answers join and leave between passes, so a short one never waits for a long one. Who else is answered changes nothing about an answer:
rows are apart (``rows.py``, ``attention.py``), and so are choices (``models/sampling.py``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

import torch

from workloads.errors import OutOfMemory
from workloads.models.sampling import Sampler, choose
from workloads.runtime import exits
from workloads.serving.engine import refusals
from workloads.serving.engine.answer import Answer
from workloads.serving.engine.attention import Part, Pass
from workloads.serving.engine.conversations import Conversations
from workloads.serving.engine.rows import Group, Row
from workloads.serving.engine.stream import Ending, Stream
from workloads.serving.engine.turns import next_in, shares
from workloads.serving.refusal import Refusal

log = logging.getLogger(__name__)

PROMPT_PIECE = {"cpu": 32, "cuda": 256}
"""Prompt tokens read in one pass. Who comes meanwhile waits for its end, and so do the answers in progress for their next token: it is as
many as a device is busy with, and no more."""
FAILURES = 3
"""Steps in a row that fail before the engine counts as dead: a GPU that was lost fails every one."""
NOT_A_NUMBER = -1


class Watcher(Protocol):
    """Who counts what happens; the metrics do. All of it is called in the scheduler's thread."""

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


class Scheduler:
    """Answers for one model."""

    def __init__(
        self,
        model: Any,
        *,
        max_batch: int,
        max_queue: int,
        positions: int,
        vocabulary_size: int | None = None,
        before: Callable[[], None] = lambda: None,
        watcher: Watcher | None = None,
        piece: int | None = None,
        remembers: bool = True,
        wear: Callable[[int | None], None] = lambda adapter: None,
    ) -> None:
        """``model``: made ready by `attention.prepare`. ``positions``: tokens of conversation that there is memory for.
        ``vocabulary_size``: ids that stand for something; a head may have more rows. ``before``: called before each prompt. ``piece``:
        prompt tokens in a pass. ``remembers``: as of `Conversations`. ``wear``: puts an adapter on the model, by
        its place, or none, as it begins."""
        self._model = model
        self._vocabulary_size = vocabulary_size
        self._before, self._wear = before, wear
        self._worn: int | None = None
        self._device: torch.device = model.device
        self._max_batch, self._max_queue = max_batch, max_queue
        self._rows = Conversations(positions, remembers=remembers)
        self._watcher: Watcher = watcher or NullWatcher()
        self._piece = piece or PROMPT_PIECE[self._device.type]
        self._lock = threading.Condition()
        self._waiting: deque[Answer] = deque()
        self._running: list[Answer] = []
        """Those that have a row, in the order in which they came to it."""
        self._news: list[tuple[Stream, str, Ending | Refusal | None]] = []
        self._closed = False
        self._failures = 0
        self._step_began: float | None = None
        self._seconds_per_answer = 1.0
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """End the thread; answers that are still there are given up."""
        with self._lock:
            self._closed = True
            self._lock.notify_all()
        self._thread.join()

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
        # A row that is free counts as a place: requests that come together are not refused before the thread looked at them.
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
                    self._let_in()
                    self._advance()
                    self._failures = 0
                except Exception as error:  # noqa: BLE001 - whatever a step dies of, its answers are told and the next ones are tried
                    self._fail_all(error)
                self._step_began = None
                self._deliver()
        with self._lock:
            there = [*self._running, *self._waiting]
            self._waiting.clear()
        self._give_up(there, refusals.draining())
        self._deliver()

    def _await_work(self) -> bool:
        """Wait until there is something to do. False once closed."""
        with self._lock:
            while not (self._closed or self._has_work):
                self._lock.notify_all()  # those who wait for this moment
                self._lock.wait()
            return not self._closed

    def _let_in(self) -> None:
        """Give a row to those that there is room for."""
        while True:
            with self._lock:
                answer = None if self._closed else self._next()
                if answer is None:
                    return
                self._waiting.remove(answer)
                self._running.append(answer)
            self._before()
            answer.row = self._rows.begin(
                answer.prompt + answer.written, answer.most, answer.adapter, anew=answer.notes_prompt
            )
            if not answer.written:
                answer.reused = answer.row.length
                self._watcher.reused_tokens(answer.reused)

    def _next(self) -> Answer | None:
        """Who is let in now. One that had to make room is as soon as it need not do so again."""
        if not self._waiting or len(self._running) >= self._max_batch:
            return None
        answer = next_in(self._waiting, self._running)
        needed = answer.most if answer.written else answer.length
        return answer if self._rows.has_room(needed, answer.most) else None

    def _drop_the_gone(self) -> None:
        """Those whose reader left, or whose time is over."""
        now = time.monotonic()

        def gone(answer: Answer) -> bool:
            if answer.arrived_at + answer.timeout <= now and not answer.cancelled:
                self._news.append((answer.stream, "", refusals.timed_out(answer.timeout)))
                return True
            return answer.cancelled

        with self._lock:
            self._waiting = deque(answer for answer in self._waiting if not gone(answer))
        for answer in list(self._running):
            if gone(answer):
                self._leave(answer)

    def _advance(self) -> None:
        """The next token of every answer, and a piece of the texts that are read: one pass for each adapter that the model has to wear."""
        while not self._rows.grow():
            self._put_back(self._running[-1])
        answers = {answer.row: answer for answer in self._running if answer.row}
        reading = [answer for row, answer in answers.items() if not row.group]
        pieces = shares([answer.unseen for answer in reading], self._piece)
        parts = [
            Part(answer.row, answer.next_tokens(count))
            for answer, count in zip(reading, pieces, strict=True)
            if answer.row and count
        ]
        groups = list(self._rows.groups)
        for adapter in dict.fromkeys([group.adapter for group in groups] + [part.row.adapter for part in parts]):
            if adapter != self._worn:
                self._wear(adapter)
                self._worn = adapter
            self._pass(
                answers,
                [group for group in groups if group.adapter == adapter],
                [part for part in parts if part.row.adapter == adapter],
            )

    def _pass(self, answers: dict[Row, Answer], groups: list[Group], read: list[Part]) -> None:
        newest = {row: answers[row].written[-1] for group in groups for row in group}
        last = {part.row for part in read if len(part.tokens) == answers[part.row].unseen}
        noting = {part.row for part in read if answers[part.row].notes_prompt}
        rows, logits, behind = Pass(groups, newest, read, self._device).run(self._model, newest.keys() | last, noting)
        for row, found in behind.items():
            answers[row].note_prompt(found)
        if prompts := sum(len(part.tokens) for part in read if not answers[part.row].written):
            self._watcher.prompt_tokens(prompts)
        for row in rows:
            if row in last:
                self._rows.join(row)
        if rows:
            self._choose(logits, [answers[row] for row in rows])

    def _put_back(self, answer: Answer) -> None:
        """Let an answer wait until there is memory for all of it; it goes on where it was."""
        assert answer.row is not None
        self._rows.drop(answer.row)
        answer.row = None
        with self._lock:
            self._running.remove(answer)
            self._waiting.appendleft(answer)

    def _choose(self, logits: torch.Tensor, answers: list[Answer]) -> None:
        """Choose for ``answers``, whose logits these are, and let those that came to their end leave."""
        noting = {answer: scores.clone() for answer, scores in zip(answers, logits, strict=True) if answer.likelihoods}
        if self._vocabulary_size is not None:
            logits[:, self._vocabulary_size :] = float("-inf")
        for answer, scores in zip(answers, logits, strict=True):
            if answer.constraint is not None:
                answer.constraint.narrow(scores)
        samplers = [self._sampler(answer) for answer in answers]
        # Drawing from what is no number would take a GPU's whole context down, so it is done on zeros and not looked at.
        tokens = torch.where(logits.isnan().any(-1), NOT_A_NUMBER, choose(samplers, logits.nan_to_num())).tolist()
        for answer, token in zip(answers, tokens, strict=True):
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
            self._news.append((answer.stream, "", refusals.not_a_number()))
            self._leave(answer)
            return
        if answer.constraint is not None and answer.constraint.problem is not None:
            self._news.append((answer.stream, "", refusals.out_of_grammar(answer.constraint.problem)))
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
                self._news.append((answer.stream, text, None))
            return
        self._news.append((answer.stream, text + answer.writer.end(), ending))
        self._seconds_per_answer += 0.2 * (time.monotonic() - answer.arrived_at - self._seconds_per_answer)
        self._leave(answer)

    def _leave(self, answer: Answer) -> None:
        assert answer.row is not None
        self._rows.end(answer.row)
        answer.row = None
        self._running.remove(answer)

    def _fail_all(self, error: Exception) -> None:
        """A step failed: nothing is known of the rows any more. Those waiting are tried."""
        self._failures += 1
        log.exception("a step of %d answers failed", self.running)
        if isinstance(exits.explain(error), OutOfMemory):
            # With one answer less it may do; what was kept of those that are over goes anyway.
            fewer = self._rows.in_use * max(1, self.running - 1) // max(1, self.running)
            self._rows.positions = min(self._rows.positions, fewer) or self._rows.positions
            refusal = refusals.failed(
                "the engine ran out of memory: fewer answers are written at a time from now on, try again",
                503,
                "out_of_memory",
            )
        else:
            refusal = refusals.failed(f"the engine failed ({type(error).__name__}): its log says more")
        self._give_up(list(self._running), refusal)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _give_up(self, answers: list[Answer], refusal: Refusal) -> None:
        self._running, self._rows = [], self._rows.emptied()
        self._news += [(answer.stream, "", refusal) for answer in answers]

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
