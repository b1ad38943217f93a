"""What a diagnosis says."""

from __future__ import annotations

from dataclasses import dataclass

from alpaca_operator.api.contract import NEVER_RETRIED, Termination
from alpaca_operator.api.status import FailureClass, Reason


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What is wrong with a pod: why it ended, or what it waits for."""

    failure_class: FailureClass
    reason: Reason
    message: str
    ended: bool = True
    exit_code: int | None = None
    rank: int | None = None
    termination: Termination | None = None
    pod: str = ""
    uid: str = ""
    finished_at: str | None = None

    @property
    def retried(self) -> bool:
        """Whether another pod may do better."""
        if self.failure_class == "Infrastructure":
            return self.ended  # whatever the exit code of a pod that was killed
        return self.ended and self.reason is not Reason.OUT_OF_MEMORY and self.exit_code not in NEVER_RETRIED
