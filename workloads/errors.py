"""The ways a workload ends badly: each with its exit code, its reason, and a line that says what to do."""

from __future__ import annotations

from collections.abc import Mapping

from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.status import Reason


class WorkloadError(Exception):
    """A failure with a known cause. ``str(error)`` is one line for the user: the field or file, the value found, the remedy."""

    exit_code = ExitCode.INTERNAL
    reason = Reason.WORKLOAD_ERROR
    metrics: dict[str, float | None] | None = None
    """What was measured all the same."""


class SpecError(WorkloadError):
    """The spec cannot be honoured; the message names the field."""

    exit_code = ExitCode.SPEC
    reason = Reason.INVALID_SPEC


class OutputExists(SpecError):
    """Another artifact lies at the output."""

    reason = Reason.OUTPUT_EXISTS


class DiskFull(SpecError):
    """A volume has no room left. The next run would fill it again, unless somebody makes room: it is not tried again by itself."""

    reason = Reason.DISK_FULL


class GateFailed(SpecError):
    """A bound of the spec is broken by what was measured; the message has the values and the bounds, ``metrics`` all that was measured."""

    reason = Reason.GATE_FAILED

    def __init__(self, message: str, metrics: Mapping[str, float | None] | None = None) -> None:
        super().__init__(message)
        self.metrics = dict(metrics or {}) or None


class LossDiverged(SpecError):
    """The loss became NaN or infinite."""

    reason = Reason.LOSS_DIVERGED


class DataError(WorkloadError):
    """Data cannot be used; the message names file and row."""

    exit_code = ExitCode.DATA
    reason = Reason.INVALID_DATA


class InputError(WorkloadError):
    """An input is missing or unreadable; the message names its field and where it was looked for."""

    exit_code = ExitCode.INPUT
    reason = Reason.INPUT_NOT_FOUND


class OutOfMemory(WorkloadError):
    """The device or the container has too little memory."""

    exit_code = ExitCode.MEMORY
    reason = Reason.OUT_OF_MEMORY


class Hung(WorkloadError):
    """No step for too long."""

    exit_code = ExitCode.HUNG
    reason = Reason.HUNG


class Interrupted(WorkloadError):
    """Stopped on request, after a checkpoint; run again to go on."""

    exit_code = ExitCode.INTERRUPTED
    reason = Reason.INTERRUPTED


class Superseded(Interrupted):
    """Another run of the job took over; this one, lost for a while, may change nothing any more."""
