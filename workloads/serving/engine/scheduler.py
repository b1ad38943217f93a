"""The queue, and the thread that writes all answers together: one step reads a piece of waiting prompts and adds a token to every answer.

Answers join and leave between steps, so a short one never waits for a long one. Who else is answered changes nothing about an answer:
rows of the cache are apart (``slots.py``), and so are choices (``models/sampling.py``).
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from transformers.cache_utils import DynamicCache

from workloads.errors import OutOfMemory
from workloads.models.sampling import Controls, Sampler, choose
from workloads.runtime import exits
from workloads.serving.engine import refusals
from workloads.serving.engine.slots import Slots
from workloads.serving.engine.stream import Ending, Stream
from workloads.serving.engine.text import Writer
from workloads.serving.refusal import Refusal

log = logging.getLogger(__name__)

PROMPT_PIECE = 512
"""Prompt tokens read between two tokens of the answers in progress: so long a pause of theirs is hardly seen, and a GPU is busy."""
FAILURES = 3
"""Steps in a row that fail before the engine counts as dead: a GPU that was lost fails every one."""
NOT_A_NUMBER = -1


@dataclass(eq=False)
class Answer:
    """A request from the queue to its end."""

    prompt: list[int]
    controls: Controls
    writer: Writer
    ends: frozenset[int]
    """Tokens that end it."""
    timeout: float
    """Seconds from its arrival after which it is given up."""
    arrived_at: float = field(default_factory=time.monotonic)
    stream: Stream = field(init=False, repr=False)
    """Where it comes out; set by `Scheduler.submit`."""
    cancelled: bool = False
    """Its reader has left."""
    tokens: int = 0
    sampler: Sampler | None = None
    last: int = 0
    """Its newest token, which the model has not seen yet."""

    @property
    def reserved(self) -> int:
        """Positions that it may come to need."""
        return len(self.prompt) + self.controls.max_tokens


@dataclass(eq=False)
class Reading:
    """A prompt that is being read, piece by piece, in a cache of its own."""

    answer: Answer
    cache: DynamicCache = field(default_factory=DynamicCache)
    done: int = 0

    @property
    def held(self) -> int:
        """Positions that it takes until it has a row, once it is begun."""
        return len(self.answer.prompt) if self.done else 0


class Watcher(Protocol):
    """Who counts what happens; the metrics do. All of it is called in the scheduler's thread."""

    def first_token(self, seconds: float) -> None: ...

    def prompt_tokens(self, count: int) -> None: ...

    def completion_tokens(self, count: int) -> None: ...


class NullWatcher:
    """Counts nothing."""

    def first_token(self, seconds: float) -> None:
        pass

    def prompt_tokens(self, count: int) -> None:
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
        piece: int = PROMPT_PIECE,
    ) -> None:
        """``positions``: tokens of conversation that there is memory for. ``vocabulary_size``: ids that stand for something; a head may
        have more rows. ``before``: called before each prompt."""
        self._model = model
        self._vocabulary_size = vocabulary_size
        self._before = before
        self._device: torch.device = model.device
        self._dtype: torch.dtype = model.dtype
        self._max_batch, self._max_queue = max_batch, max_queue
        self._positions = positions
        self._watcher: Watcher = watcher or NullWatcher()
        self._piece = piece
        self._lock = threading.Condition()
        self._waiting: deque[Answer] = deque()
        self._reading: list[Reading] = []
        self._running: list[Answer] = []
        self._slots = Slots()
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
    def queued(self) -> int:
        return len(self._waiting)

    @property
    def running(self) -> int:
        return len(self._running) + len(self._reading)

    def idle_within(self, seconds: float) -> bool:
        """Wait until every answer has come to its end; False when time is over before."""
        with self._lock:
            return self._lock.wait_for(lambda: not self._has_work, max(0.0, seconds))

    @property
    def _has_work(self) -> bool:
        return bool(self._waiting or self._reading or self._running)

    @property
    def is_dead(self) -> bool:
        """No step works any more, or the thread is gone."""
        return self._failures >= FAILURES or not (self._thread.is_alive() or self._closed)

    def silent_for(self) -> float:
        """Seconds that the present step has taken; 0 between steps."""
        began = self._step_began
        return 0.0 if began is None else time.monotonic() - began

    def submit(self, answer: Answer) -> Stream:
        """Put a request in the queue; called by the event loop that reads the answer. Raises Refusal when it is full."""
        answer.stream = Stream()
        with self._lock:
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
        free = self._max_batch - len(self._running) - len(self._reading)
        if len(self._waiting) >= self._max_queue + free:
            rounds = 1 + len(self._waiting) // self._max_batch
            raise refusals.queue_full(len(self._waiting), max(1, min(60, round(rounds * self._seconds_per_answer))))

    def _run(self) -> None:
        with torch.inference_mode():
            while self._await_work():
                self._step_began = time.monotonic()
                try:
                    self._drop_the_gone()
                    self._read_prompts()
                    self._write_tokens()
                    self._failures = 0
                except Exception as error:  # noqa: BLE001 - whatever a step dies of, its answers are told and the next ones are tried
                    self._fail_all(error)
                self._step_began = None
                self._deliver()
        with self._lock:
            there = [*self._running, *(reading.answer for reading in self._reading), *self._waiting]
            self._waiting.clear()
        self._give_up(there, refusals.draining())
        self._deliver()

    def _await_work(self) -> bool:
        """Wait until there is something to do, and take in what there is room for. False once closed."""
        with self._lock:
            while not (self._closed or self._has_work):
                self._lock.notify_all()  # those who wait for this moment
                self._lock.wait()
            while not self._closed and self._waiting and self._has_room(self._waiting[0]):
                self._reading.append(Reading(self._waiting.popleft()))
            return not self._closed

    def _has_room(self, answer: Answer) -> bool:
        """Rows of the cache are as long as the longest: so many positions have to fit. One whose prompt is read has no row yet, and its
        prompt takes no more than a row will."""
        present = [*self._running, *(reading.answer for reading in self._reading)]
        if not present:
            return True
        longest = max(answer.reserved, *(other.reserved for other in present))
        return len(present) < self._max_batch and (len(present) + 1) * longest <= self._positions

    @property
    def _left_for_rows(self) -> int:
        """Positions that the rows may hold: what is read of a prompt is held beside them."""
        return self._positions - (self._reading[0].held if self._reading else 0)

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
        self._reading = [reading for reading in self._reading if not gone(reading.answer)]
        for row in reversed(range(len(self._running))):
            if gone(self._running[row]):
                self._leave(row)

    def _read_prompts(self) -> None:
        """A piece of the prompts that came first; one that is read through gets its first token and a row."""
        left = self._piece
        while left > 0 and self._reading:
            reading = self._reading[0]
            answer = reading.answer
            if not reading.done:
                self._before()
                self._slots.make_room(self._positions - len(answer.prompt))
            piece = answer.prompt[reading.done : reading.done + left]
            ids = torch.tensor([piece], dtype=torch.long, device=self._device)
            positions = torch.arange(reading.done, reading.done + len(piece), device=self._device)[None]
            logits = self._model(
                input_ids=ids, position_ids=positions, past_key_values=reading.cache, use_cache=True, logits_to_keep=1
            ).logits[:, -1]
            reading.done += len(piece)
            left -= len(piece)
            self._watcher.prompt_tokens(len(piece))
            if reading.done < len(answer.prompt):
                return
            self._reading.pop(0)
            answer.sampler = Sampler(answer.controls, answer.prompt, self._device)
            self._slots.join(reading.cache, self._left_for_rows)
            self._running.append(answer)
            self._choose(logits, [len(self._running) - 1])

    def _write_tokens(self) -> None:
        """The next token of every answer."""
        if not self._running:
            return
        ids = torch.tensor([[answer.last] for answer in self._running], dtype=torch.long, device=self._device)
        logits = self._model(
            input_ids=ids, use_cache=True, **self._slots.step(self._device, self._dtype, self._left_for_rows)
        ).logits[:, -1]
        self._slots.advance()
        self._choose(logits, list(range(len(self._running))))

    def _choose(self, logits: torch.Tensor, rows: list[int]) -> None:
        """Choose for ``rows``, whose logits these are, and let those that came to their end leave."""
        if self._vocabulary_size is not None:
            logits[:, self._vocabulary_size :] = float("-inf")
        samplers = [sampler for row in rows if (sampler := self._running[row].sampler)]
        # Drawing from what is no number would take a GPU's whole context down, so it is done on zeros and not looked at.
        tokens = torch.where(logits.isnan().any(-1), NOT_A_NUMBER, choose(samplers, logits.nan_to_num())).tolist()
        for row, token in sorted(zip(rows, tokens, strict=True), reverse=True):
            self._take(row, token)
        self._watcher.completion_tokens(len(rows))

    def _take(self, row: int, token: int) -> None:
        answer = self._running[row]
        assert answer.sampler is not None
        if token == NOT_A_NUMBER:
            self._news.append((answer.stream, "", _not_a_number()))
            self._leave(row)
            return
        if not answer.tokens:
            self._watcher.first_token(time.monotonic() - answer.arrived_at)
        answer.tokens += 1
        answer.last = token
        answer.sampler.note(token)
        text = "" if token in answer.ends else answer.writer.feed(token)
        if token in answer.ends or answer.writer.stopped:
            ending = Ending("stop", answer.tokens)
        elif answer.tokens >= answer.controls.max_tokens:
            ending = Ending("length", answer.tokens)
        else:
            if text:
                self._news.append((answer.stream, text, None))
            return
        self._news.append((answer.stream, text + answer.writer.end(), ending))
        self._seconds_per_answer += 0.2 * (time.monotonic() - answer.arrived_at - self._seconds_per_answer)
        self._leave(row)

    def _leave(self, row: int) -> None:
        self._slots.leave(row)
        last = self._running.pop()
        if row < len(self._running):
            self._running[row] = last

    def _fail_all(self, error: Exception) -> None:
        """A step failed: nothing is known of the rows any more. Those waiting are tried."""
        self._failures += 1
        log.exception("a step of %d answers failed", self.running)
        if isinstance(exits.explain(error), OutOfMemory):
            positions = max((answer.reserved for answer in self._running), default=self._positions) * max(
                1, len(self._running) - 1
            )
            self._positions = min(self._positions, positions)
            refusal = refusals.failed(
                "the engine ran out of memory: fewer answers are written at a time from now on, try again",
                503,
                "out_of_memory",
            )
        else:
            refusal = refusals.failed(f"the engine failed ({type(error).__name__}): its log says more")
        self._give_up([*self._running, *(reading.answer for reading in self._reading)], refusal)
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _give_up(self, answers: list[Answer], refusal: Refusal) -> None:
        self._running, self._reading, self._slots = [], [], Slots()
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


def _not_a_number() -> Refusal:
    return refusals.failed(
        "the model computed no number (NaN): its weights are damaged, or too large for float16; load it in another precision"
    )
