"""What a resumed run has to know besides the Trainer's own state."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from workloads.runtime.distributed import DistributedContext

STATE_FILE = "run_state.json"
LOG_WINDOW = ("loss_sum", "correct", "targets")
"""Fields of ResumeState that each process has for itself."""


@dataclass
class ResumeState:
    """What a resumed run needs besides the Trainer's own state."""

    loss_sum: float = 0.0
    """Sum of this process's losses since the last logged step."""
    last_logged: int = 0
    correct: int = 0
    targets: int = 0
    """Its trained tokens since the last logged step, and those of them that the model guessed."""
    seconds: float | None = 0.0
    """Spent in the steps so far, over all runs; None where a run of a version before did not count."""
    tokens: int = 0
    """Tokens seen by all processes, over all runs, padding not counted."""
    best_loss: float | None = None
    best_step: int | None = None
    best_folder: str | None = None
    """Checkpoint of the best evaluation, relative to the folder of all checkpoints."""
    evaluations_without_gain: int = 0
    before: dict[str, float] | None = None
    """What an evaluation before the first step found, where one was asked for."""
    moved: bool = False
    """A weight is another than before the first step."""
    evaluation_due: bool = False
    """The stop came before this step's evaluation was through."""

    @classmethod
    def read(cls, checkpoint: Path, distributed: DistributedContext) -> ResumeState:
        saved = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
        saved.setdefault("moved", True)  # in a checkpoint of a version that did not look
        saved.setdefault("seconds", None)
        window = {name: saved.pop(name) for name in LOG_WINDOW}
        return cls(**saved, **_own_part(window, distributed))

    def write(self, checkpoint: Path, windows: list[dict[str, Any]]) -> None:
        """``windows``: the fields named in LOG_WINDOW, of each process."""
        whole = asdict(self) | {name: [window[name] for window in windows] for name in LOG_WINDOW}
        (checkpoint / STATE_FILE).write_text(json.dumps(whole, indent=1) + "\n", encoding="utf-8")


def processes_of(checkpoint: Path) -> int:
    """How many processes made it."""
    saved = json.loads((checkpoint / STATE_FILE).read_text(encoding="utf-8"))
    return len(saved[LOG_WINDOW[0]])


def _own_part(window: dict[str, list[Any]], distributed: DistributedContext) -> dict[str, Any]:
    """This process's part of what all had counted; of another number of processes, so that the mean and the sums stay what they were."""
    if len(window["loss_sum"]) == distributed.count:
        return {name: values[distributed.rank] for name, values in window.items()}
    counts = {name: sum(window[name]) if distributed.is_main else 0 for name in ("correct", "targets")}
    return {"loss_sum": sum(window["loss_sum"]) / len(window["loss_sum"]), **counts}
