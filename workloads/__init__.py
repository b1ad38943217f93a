"""What runs in the pods and on a laptop: ``python -m workloads.<noun> FILE``."""

from __future__ import annotations

import os
import signal
from types import FrameType

INTERRUPTED = 75
"""ExitCode.INTERRUPTED; importing it takes the time that this is about."""


def leave(number: int, frame: FrameType | None) -> None:
    os._exit(INTERRUPTED)


if os.getpid() == 1:
    # The kernel drops a signal for which process 1 of a container has no handler. Until Stop listens, imports take seconds, and
    # a pod told to stop in that time would train on until it is killed, after ten minutes of grace. There is nothing to save yet.
    signal.signal(signal.SIGTERM, leave)
