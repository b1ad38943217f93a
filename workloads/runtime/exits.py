"""How a run ends: any exception becomes one line with its remedy, an exit code, and the pod's termination message."""

from __future__ import annotations

import errno
import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from alpaca_operator.api import contract
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.status import Reason
from alpaca_operator.api.text import fitted
from workloads.errors import OutOfMemory, WorkloadError
from workloads.runtime import refusals
from workloads.runtime.places import NOWHERE, Places
from workloads.system.describe import first_line
from workloads.system.environment import termination_log

MEMORY_REMEDY = (
    "lower training.batchSizePerDevice (and raise gradientAccumulation alike) or training.sequenceLength, "
    "set training.gradientCheckpointing to Full, use method QLoRA, or ask for more memory in pod.resources.limits"
)

MEMORY_SIGNS = ("out of memory", "can't allocate memory", "cannot allocate memory", "cublas_status_alloc_failed")
"""What libraries say, in lower case, when they raise a plain RuntimeError for want of memory."""


def explain(error: BaseException, places: Places = NOWHERE) -> WorkloadError:
    """The failure in our own words. ``places`` is where the run reads and writes, by which it is told whose error one of the system's is."""
    for cause in _causes(error):
        if isinstance(cause, WorkloadError):
            return cause
        if _is_out_of_memory(cause):
            return OutOfMemory(f"out of memory ({first_line(cause)[:500]}): {MEMORY_REMEDY}")
        if (known := places.explain(cause) or refusals.explain(cause)) is not None:
            return known
    return WorkloadError(f"{type(error).__name__}: {first_line(error)[:500]} (the traceback is in the log)")


def failed(error: BaseException, progress: contract.Progress, places: Places = NOWHERE) -> contract.Termination:
    """The termination of a run that ``error`` ended; the traceback of an unexpected one goes to stderr."""
    told_whole = isinstance(error, WorkloadError) or any(map(places.explain, _causes(error)))
    if not told_whole:
        traceback.print_exception(error, file=sys.stderr)
    known = explain(error, places)
    return termination(known.reason, int(known.exit_code), str(known), progress, metrics=known.metrics)


def termination(
    reason: Reason, exit_code: int, message: str, progress: contract.Progress, **result: Any
) -> contract.Termination:
    """What becomes the termination message, with what ``progress`` knows; ``result`` are further fields of contract.Termination."""
    return contract.Termination(
        reason=reason,
        exit_code=exit_code,
        message=message.encode(errors="replace").decode(),  # half a character of damaged data is no JSON
        step=progress.step,
        total_steps=progress.total_steps,
        loss=progress.loss,
        checkpoint=progress.checkpoint,
        resolved_policy=progress.resolved_policy,
        **result,
    )


def write_termination(ending: contract.Termination, log: Path | None) -> None:
    """One line on stderr for a run that failed (one per problem of a spec), and the termination message where there is a kubelet to read it."""
    if ending.exit_code != ExitCode.OK:
        whose = f"rank {ending.rank}: " if ending.rank is not None else ""
        for line in ending.message.splitlines():
            print(f"{ending.reason}: {whose}{line}", file=sys.stderr, flush=True)
    if log is not None:
        try:
            log.write_text(shortened(ending), encoding="utf-8")
        except OSError as error:
            print(f"{log}: the termination message cannot be written: {error.strerror}", file=sys.stderr)


def exit_with(error: WorkloadError, environ: Mapping[str, str]) -> int:
    """End before a run began, because the spec or the environment cannot be read. Returns the exit code."""
    return refuse_to_start(error, environ).exit_code


def refuse_to_start(error: WorkloadError, environ: Mapping[str, str]) -> contract.Termination:
    """Write the termination of a run that never began, and return it: what `exit_with` does, for who has to know more than the exit code."""
    ending = termination(error.reason, int(error.exit_code), str(error), contract.Progress())
    write_termination(ending, termination_log(environ))
    return ending


def shortened(ending: contract.Termination, limit: int = contract.TERMINATION_LIMIT) -> str:
    """JSON of at most ``limit`` bytes: the kubelet cuts what is longer, and half an object says nothing.

    The message gives way first, down to what one line of kubectl shows, then the fields that the operator can do without.
    """
    message = ending.message.replace("\n", "; ")
    ending = ending.model_copy(update={"message": message})
    for dropped in (None, "resolved_inputs", "resolved_policy", "metrics", "checkpoint", "output"):
        if dropped is not None:
            ending = ending.model_copy(update={dropped: None})
        size = len(ending.to_json().encode())
        if size <= limit:
            return ending.to_json()
        spare = len(json.dumps(message, ensure_ascii=False).encode()) - (size - limit)
        if spare >= 512:
            return ending.model_copy(update={"message": fitted(message, spare - 8, size=_json_size)}).to_json()
    return ending.model_copy(update={"message": fitted(message, limit // 2, size=_json_size)}).to_json()


def _json_size(text: str) -> int:
    return len(json.dumps(text, ensure_ascii=False).encode()) - 2


def _causes(error: BaseException) -> Iterator[BaseException]:
    """The exception, then what it was raised from: libraries wrap an error of ours, or one of memory, in their own."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or (None if current.__suppress_context__ else current.__context__)


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in MEMORY_SIGNS)
