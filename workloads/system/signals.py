"""SIGTERM and SIGINT: a request to stop at the next step, save, and leave."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from workloads.errors import Interrupted
from workloads.system.early_exit import leave

RESERVE = 0.1
"""Share of the grace period kept back for the last words after the save."""

SIGINT_EXIT = 128 + signal.SIGINT
"""What a shell expects of a program that Ctrl-C ended."""


NOTHING_YET = "stopped before the first step: run again to start"


class Stop:
    """Whether the run was asked to stop, and by when it must have saved."""

    def __init__(
        self,
        grace_seconds: float,
        signals: Sequence[signal.Signals] = (signal.SIGTERM, signal.SIGINT),
        above: Stop | None = None,
    ) -> None:
        """``above`` is the one of the chain that this run is a step of: what the step may finish in spite of the signal, the chain may not
        go on from."""
        self._signals = signals
        self._above = above
        self._grace_seconds = grace_seconds
        self._interrupt_message: str | None = None
        self._process = os.getpid()
        self.requested = False
        """A signal came: finish the step, save a checkpoint, raise Interrupted."""
        self.deadline = math.inf
        """``time.monotonic()`` by which the save must be done; infinite until a signal comes."""

    def check(self) -> None:
        """Raises Interrupted if a stop was requested. For work before the first step, where there is nothing to save."""
        self._refuse(NOTHING_YET)

    @contextmanager
    def interruptible(self, message: str = NOTHING_YET) -> Iterator[None]:
        """Within this block nothing is worth finishing: a signal raises Interrupted, saying ``message``, wherever the main thread is."""
        self._refuse(message)
        self._interrupt_message = message
        try:
            yield
        finally:
            self._interrupt_message = None
        self._refuse(message)

    def _refuse(self, message: str) -> None:
        if self.requested:
            raise Interrupted(message)

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals, and give them back afterwards. Signals reach the main thread only, so elsewhere this does nothing."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        before = {number: signal.signal(number, self._on_signal) for number in self._signals}
        try:
            yield
        finally:
            for number, handler in before.items():
                # What process 1 does before it listens is over: the result may be published, and must not end as interrupted.
                signal.signal(number, signal.SIG_DFL if handler is leave else handler)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            # A worker that was forked with our handlers: Ctrl-C is its parent's affair, SIGTERM comes from its parent.
            if number == signal.SIGTERM:
                os._exit(128 + number)
            return
        if self.requested and number == signal.SIGINT:
            _write_now("\nstopped at once; the newest complete checkpoint is kept\n")
            os._exit(SIGINT_EXIT)
        if not self.requested:
            self.requested = True
            if self._above is not None:
                self._above.requested = True
            self.deadline = time.monotonic() + self._grace_seconds * (1 - RESERVE)
            if number == signal.SIGINT:
                _write_now("\nstopping after this step; press Ctrl-C again to stop at once\n")
        if self._interrupt_message is not None:
            message, self._interrupt_message = self._interrupt_message, None
            raise Interrupted(message)


def _write_now(text: str) -> None:
    """Past Python's streams: the signal may have come in the middle of a write to one of them."""
    os.write(2, text.encode())
