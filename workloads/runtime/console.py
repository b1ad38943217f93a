"""What a process writes where: standard output belongs to the run (a bar for people on a terminal, JSON lines in a pod or a pipe), and all that
libraries say goes to standard error."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import logging
import os
import sys
from collections.abc import Iterator

from workloads.runtime.progress import Bar, Display, JsonLines
from workloads.system.environment import QUIET, TELEMETRY_OFF


def prepare_process() -> None:
    """Settle what libraries read once, at import: no telemetry, no progress bars of theirs, logs to stderr."""
    for name, value in (TELEMETRY_OFF | QUIET).items():
        os.environ.setdefault(name, value)
    faulthandler.enable(file=sys.__stderr__ or 2)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)


@contextlib.contextmanager
def display(in_pod: bool) -> Iterator[Display]:
    """The display for where standard output goes to.

    With JSON lines, whatever libraries print, Python or C, goes to stderr meanwhile: a line in between would break who parses them.
    """
    if sys.stdout.isatty() and not in_pod:
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]  # not every terminal has every character
        yield Bar(sys.stdout)
        return
    sys.stdout.flush()
    if _is_file_descriptor_1():
        lines = os.fdopen(os.dup(1), "w", encoding="utf-8", errors="backslashreplace")
        os.dup2(2, 1)
        try:
            yield JsonLines(lines)
        finally:
            sys.stdout.flush()
            os.dup2(lines.fileno(), 1)
            with contextlib.suppress(OSError):
                lines.close()
    else:
        stream = sys.stdout
        with contextlib.redirect_stdout(sys.stderr):
            yield JsonLines(stream)


def _is_file_descriptor_1() -> bool:
    try:
        return sys.stdout.fileno() == 1
    except (io.UnsupportedOperation, AttributeError):
        return False
