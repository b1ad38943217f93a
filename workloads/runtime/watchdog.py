"""Ends a run that makes no step any more, with the stacks of all threads in the log."""

from __future__ import annotations

import ctypes
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from alpaca_operator.api.contract import ExitCode

LAST_RESORT_SECONDS = 30
"""How long after the timeout the C library ends the process, when no Python code can run."""


LOOK_SECONDS = 5.0
"""How often it is looked whether bytes move."""
MOVING = 256 * 1024
"""Bytes a second that count as work: less than any volume gives, more than a process that hangs is asked for its metrics."""


def bytes_moved() -> int:
    """Bytes that this process has read and written so far, files mapped into memory included; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return 0
    counts = dict(line.split(": ") for line in lines)
    return sum(int(counts.get(name, 0)) for name in ("rchar", "wchar", "read_bytes"))


class Watchdog:
    """Counts the time since the last beat in a thread of its own.

    Bytes that move are a beat too: a library that reads a large model from a slow volume, or writes a checkpoint to it, says nothing meanwhile.

    After ``timeout`` seconds the stacks of all threads go to stderr, the last words are said, and the process exits with 72, whatever the main thread is doing. A C function that never gives the interpreter lock back would
    keep that thread from running too; a timer in the C library then prints the stacks and exits 72 half a minute later.
    """

    def __init__(self, timeout: float, last_resort_after: float = LAST_RESORT_SECONDS) -> None:
        self._timeout = timeout
        self._last_resort_after = last_resort_after
        self._last_words: Callable[[float], None] = lambda silence: None
        self._last_beat = time.monotonic()
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._last_resort: LastResort = _TimerExit() if _TimerExit.is_available() else _TracebackExit()
        self._armed_at = 0.0
        self._rests = False

    def start(self, last_words: Callable[[float], None]) -> None:
        """Watch from now on; ``last_words`` is given the seconds of silence."""
        self._last_words = last_words
        self._thread.start()
        self.heartbeat()

    def heartbeat(self) -> None:
        """Something moved. Cheap enough for every step and every chunk of a file."""
        if self._rests:
            return
        self._last_beat = time.monotonic()
        if self._last_beat - self._armed_at >= 1.0 and self._thread.is_alive():
            self._armed_at = self._last_beat
            self._last_resort.arm(self._timeout + self._last_resort_after)

    @contextmanager
    def resting(self) -> Iterator[None]:
        """Nothing is counted in this block, in which others keep watch over themselves. No timer is running either, which a process that
        is forked meanwhile could not stop."""
        self._rests = True
        self._last_resort.disarm()
        try:
            yield
        finally:
            self._rests = False
            self._armed_at = 0.0
            self.heartbeat()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()
        self._last_resort.disarm()
        self._last_resort.close()

    def _watch(self) -> None:
        looks = max(0.05, min(LOOK_SECONDS, self._timeout / 4))
        moved = bytes_moved()
        while not self._stopped.wait(max(0.05, min(looks, self._last_beat + self._timeout - time.monotonic()))):
            now, before, moved = time.monotonic(), moved, bytes_moved()
            if moved - before >= MOVING * looks:
                self.heartbeat()
            silence = now - self._last_beat
            if self._rests:
                self._last_beat = now
            elif silence >= self._timeout:
                faulthandler.dump_traceback(file=sys.__stderr__ or 2, all_threads=True)
                try:
                    self._last_words(silence)
                finally:
                    os._exit(ExitCode.HUNG)


class LastResort(Protocol):
    """Ends the process without the interpreter's help."""

    def arm(self, seconds: float) -> None: ...

    def disarm(self) -> None: ...

    def close(self) -> None: ...


class _TracebackExit:
    """faulthandler's own thread, which needs no interpreter lock; it exits with 1, as it cannot be told another code."""

    def arm(self, seconds: float) -> None:
        faulthandler.dump_traceback_later(seconds, exit=True, file=sys.__stderr__ or 2)

    def disarm(self) -> None:
        faulthandler.cancel_dump_traceback_later()

    def close(self) -> None:
        """Nothing is held."""


class _TimeSpec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("nanoseconds", ctypes.c_long))


class _TimerSpec(ctypes.Structure):
    _fields_ = (("interval", _TimeSpec), ("value", _TimeSpec))


class _SignalEvent(ctypes.Structure):
    """glibc's ``struct sigevent``; see sigevent(3type)."""

    _fields_ = (
        ("value", ctypes.c_void_p),
        ("signal_number", ctypes.c_int),
        ("notify", ctypes.c_int),
        ("function", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("padding", ctypes.c_char * 32),
    )


class _TimerExit:
    """A POSIX timer whose notification is the C function ``_exit`` with 72 as its argument; faulthandler prints the stacks before."""

    SIGEV_THREAD = 2
    CLOCK_MONOTONIC = 1

    @classmethod
    def is_available(cls) -> bool:
        """Only Linux lays the event out as below; before glibc 2.34 the timers were in a library of their own."""
        return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "timer_create")

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)
        event = _SignalEvent(
            value=int(ExitCode.HUNG),
            notify=self.SIGEV_THREAD,
            function=ctypes.cast(self._libc._exit, ctypes.c_void_p),
        )
        self._timer = ctypes.c_void_p()
        if self._libc.timer_create(self.CLOCK_MONOTONIC, ctypes.byref(event), ctypes.byref(self._timer)) != 0:
            raise OSError(ctypes.get_errno(), "timer_create")

    def arm(self, seconds: float) -> None:
        faulthandler.dump_traceback_later(seconds - 1, file=sys.__stderr__ or 2)
        self._set(seconds)

    def disarm(self) -> None:
        faulthandler.cancel_dump_traceback_later()
        self._set(0)

    def close(self) -> None:
        self._libc.timer_delete(self._timer)

    def _set(self, seconds: float) -> None:
        whole = int(seconds)
        spec = _TimerSpec(value=_TimeSpec(whole, int((seconds - whole) * 1e9)))
        self._libc.timer_settime(self._timer, 0, ctypes.byref(spec), None)
