"""What an evaluation measures on every model: rows, questions and tasks, made ready once."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from alpaca_operator.api.evaluation import EvaluationSpec
from workloads.evaluation import gaps, questions
from workloads.evaluation.gaps import Gap
from workloads.evaluation.questions import Question

if TYPE_CHECKING:
    from workloads.data.conversations import Example
    from workloads.evaluation.candidates import AnyCandidate
    from workloads.evaluation.endpoints import Asker
    from workloads.evaluation.harness import LoadedTask
    from workloads.evaluation.held_out import Rows


@dataclass(frozen=True)
class Plan:
    """What is measured on every model."""

    spec: EvaluationSpec
    questions: list[Question]
    prompts: dict[str, list[list[int]]]
    """The questions in the tokens of each model that is loaded here."""
    rows: Rows | None
    tasks: list[LoadedTask]
    """Those of lm-evaluation-harness, their data loaded."""
    judge: Asker | None = None
    """Who compares answers."""

    def units(self, candidate: AnyCandidate) -> dict[str, int]:
        """How many of each part a model has; compare `ModelResult.counts`."""
        if candidate.kind == "Endpoint":
            return {"rows": 0, "answers": len(self.questions), "tasks": 0}
        rows = len(next(iter(self.rows.by_model.values()))) if self.rows else 0
        return {"rows": rows, "answers": len(self.questions), "tasks": len(self.tasks)}

    def total(self, candidates: Sequence[AnyCandidate]) -> dict[str, int]:
        """Units of all parts of all models."""
        counts = [self.units(candidate) for candidate in candidates]
        found = {part: sum(count[part] for count in counts) for part in ("rows", "answers", "tasks")}
        return found | {"judgements": len(self.questions) * len(self.judged)}

    @property
    def judged(self) -> list[str]:
        """Models whose answers are compared with those of another."""
        judge = self.spec.judge
        return [model.name for model in self.spec.models if judge and model.name != judge.against]

    @property
    def compared(self) -> list[str]:
        """Models that are held against the original, position by position: those that read the rows in the same tokens."""
        original = self.spec.original
        if original is None or self.rows is None:
            return []
        own = self.rows.by_model[original]
        return [name for name, rows in self.rows.by_model.items() if name != original and _are_alike(own, rows)]

    @property
    def system_prompt(self) -> str | None:
        """What is said before every question that has no system prompt of its own."""
        return questions.system_prompt(self.spec)

    def gaps(self) -> dict[str, list[Gap]]:
        """What is not measured of which model."""
        spec, of_tasks = self.spec, list(itertools.chain.from_iterable(one.metrics for one in self.tasks))
        found: dict[str, list[Gap]] = {model.name: [] for model in spec.models}
        compared = self.compared
        for model in spec.models:
            if model.endpoint is not None:
                found[model.name].append(gaps.of_endpoint(of_tasks))
            elif spec.original is not None and model.name not in compared:
                found[model.name].append(gaps.ITSELF if model.name == spec.original else gaps.OTHER_TOKENS)
            if spec.judge is not None and model.name == spec.judge.against:
                found[model.name].append(gaps.BASELINE)
            if not any(question.wording for question in self.questions):
                found[model.name].append(gaps.NO_REFERENCES)
        return found


def _are_alike(ours: Sequence[Example], theirs: Sequence[Example]) -> bool:
    return len(ours) == len(theirs) and all(
        np.array_equal(one.ids, other.ids) and np.array_equal(one.loss_mask, other.loss_mask)
        for one, other in zip(ours, theirs, strict=True)
    )
