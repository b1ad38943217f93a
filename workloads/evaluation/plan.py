"""What an evaluation measures on every model: rows, questions and tasks, made ready once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from alpaca_operator.api.evaluation import EvaluationSpec
from workloads.evaluation.questions import Question

if TYPE_CHECKING:
    from workloads.evaluation.harness import LoadedTask
    from workloads.evaluation.held_out import Rows


@dataclass(frozen=True)
class Plan:
    """What is measured on every model."""

    spec: EvaluationSpec
    questions: list[Question]
    prompts: dict[str, list[list[int]]]
    """The questions in each model's tokens."""
    rows: Rows | None
    tasks: list[LoadedTask]
    """Those of lm-evaluation-harness, their data loaded."""

    @property
    def units(self) -> dict[str, int]:
        """How many of each part a model has."""
        rows = len(next(iter(self.rows.by_model.values()))) if self.rows else 0
        return {"rows": rows, "answers": len(self.questions), "tasks": len(self.tasks)}
