"""What process 1 of a container does with SIGTERM until the run listens. Standard library only: it is there before anything else is imported."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 75
"""ExitCode.INTERRUPTED; importing it takes the time that this is about."""


def leave(number: int, frame: FrameType | None) -> None:
    """Handler that ends the process at once: there is nothing to save yet."""
    os._exit(INTERRUPTED)


def obey_sigterm() -> None:
    """In process 1 alone: the kernel drops a signal for which process 1 of a container has no handler. Until Stop listens, imports take
    seconds, and a pod told to stop in that time would train on until it is killed, after ten minutes of grace."""
    if os.getpid() == 1:
        signal.signal(signal.SIGTERM, leave)
