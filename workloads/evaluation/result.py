"""What an evaluation has found so far, on disk: a run that was stopped goes on behind it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from workloads.evaluation.generation import Answer
from workloads.evaluation.harness import TaskResult
from workloads.evaluation.judging import Judgement
from workloads.evaluation.likeness import NOTHING, Likeness
from workloads.evaluation.perplexity import Score

FILE = "evaluation.json"


@dataclass
class ModelResult:
    """What was measured of one model. The names of fields are those of the file."""

    score: Score = field(default_factory=Score)
    """Of the held-out rows that are through."""
    likeness: Likeness = NOTHING
    """To the original, on these rows."""
    answers: dict[int, Answer] = field(default_factory=dict)
    """By the number of the question."""
    tasks: dict[int, TaskResult] = field(default_factory=dict)
    """Those that are through, by their place in the spec."""
    judgements: dict[int, Judgement] = field(default_factory=dict)
    """Of its answers beside another model's, by the number of the question."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Spent on each of these, over all runs, without loading."""
    peak_bytes: int = 0
    """Most memory that the process held while the model was loaded."""
    gpu_peak_bytes: int | None = None
    how: dict[str, Any] = field(default_factory=dict)
    """How it was held: weights, precision, attention, device."""

    @property
    def counts(self) -> dict[str, int]:
        """How many of each part are through; compare `Plan.units`."""
        return {"rows": self.score.rows, "answers": len(self.answers), "tasks": len(self.tasks)}

    def forget_rows(self) -> None:
        """They are scored again."""
        self.score, self.likeness = Score(), NOTHING


@dataclass
class EvaluationResult:
    """What was measured of all models, by name."""

    models: dict[str, ModelResult] = field(default_factory=dict)

    def of(self, name: str) -> ModelResult:
        return self.models.setdefault(name, ModelResult())

    def save(self, folder: Path) -> None:
        (folder / FILE).write_text(json.dumps(asdict(self), ensure_ascii=False), encoding="utf-8")

    @classmethod
    def read(cls, folder: Path) -> EvaluationResult:
        """What ``save`` wrote."""
        found = json.loads((folder / FILE).read_text(encoding="utf-8"))
        return cls({name: _read_model_result(one) for name, one in found["models"].items()})


def _read_model_result(found: dict[str, Any]) -> ModelResult:
    return ModelResult(
        **found
        | {
            "score": _read_score(found["score"]),
            "likeness": _read_likeness(found.get("likeness")),
            "judgements": {int(number): Judgement(**one) for number, one in found.get("judgements", {}).items()},
            "answers": {int(number): Answer(**answer) for number, answer in found["answers"].items()},
            # Those that a version before ran without their errors are run again.
            "tasks": {
                int(place): TaskResult(**result) for place, result in found["tasks"].items() if "metrics" in result
            },
        }
    )


def _read_likeness(found: dict[str, Any] | None) -> Likeness:
    return Likeness(**found | {"products": tuple(found["products"])}) if found else NOTHING


def _read_score(found: dict[str, Any]) -> Score:
    """Rows that a version before scored without their spread are scored again."""
    return Score(**found | {"products": tuple(found["products"])}) if "products" in found else Score()
