"""The report of an evaluation: everything that was measured, as one content that all its files show."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.evaluation import EvaluationJob
from workloads.evaluation import answer_metrics, gates, judging
from workloads.evaluation.candidates import RemoteCandidate
from workloads.evaluation.gates import Verdict
from workloads.evaluation.intervals import Interval
from workloads.evaluation.metrics import (
    BETTER,
    OF_ANSWERS,
    OF_JUDGE,
    OF_MODELS,
    OF_ONE_VOCABULARY,
    OF_ORIGINAL,
    OF_REFERENCES,
    OF_ROWS,
    format_interval,
    format_value,
    names_of,
)
from workloads.runtime.runtime import Metrics
from workloads.storage.sources import Inputs

if TYPE_CHECKING:
    from workloads.evaluation.candidates import AnyCandidate
    from workloads.evaluation.plan import Plan
    from workloads.evaluation.questions import Question
    from workloads.evaluation.result import EvaluationResult, ModelResult

ENDINGS = {
    "Stopped": "ended by itself",
    "TookTheTurn": "went on with the user's part",
    "Cut": "cut at the limit",
    "Withheld": "kept back by its server",
}
BY_CATEGORY = (*OF_JUDGE, *OF_REFERENCES, "stopRate", "repetitionRate", "chineseShare", "answerTokens")
"""What is told of each category."""


@dataclass(frozen=True)
class Report:
    """What was found, ready to be written."""

    content: dict[str, Any]
    """As report.json has it."""
    metrics: dict[str, dict[str, float]]
    """By model, then by name, NaN and infinity as they are."""
    verdicts: list[Verdict]
    intervals: dict[str, dict[str, Interval]] = field(default_factory=dict)
    """Of those metrics that have one, by model, then by name."""
    samples: dict[str, list[str]] = field(default_factory=dict)
    """By model: every question of its tasks with what it made of it, each as a line of JSON."""

    def lines(self) -> list[str]:
        """For the log, a line a model, and one for each gate that too little was measured for."""
        return [
            f"{name}: "
            + ", ".join(
                f"{metric} {format_value(metric, metrics[metric])}" for metric in self.names if metric in metrics
            )
            for name, metrics in self.metrics.items()
        ] + [f"gate: {sentence}" for sentence in self.undecided]

    @property
    def undecided(self) -> list[str]:
        """What the gates say of too few answers."""
        return [sentence for verdict in self.verdicts if (sentence := verdict.undecided)]

    def interval(self, model: str, name: str) -> str:
        """As people read it; nothing where there is none."""
        found = self.intervals.get(model, {}).get(name)
        return format_interval(name, found.low, found.high) if found else ""

    @property
    def names(self) -> list[str]:
        """Metrics that some model has, the most telling first."""
        ordered = [*OF_ROWS, *OF_ORIGINAL, *OF_JUDGE, *OF_REFERENCES, *OF_ANSWERS]
        of_tasks = [name for metrics in self.metrics.values() for name in metrics if "/" in name]
        found = {name for metrics in self.metrics.values() for name in metrics}
        return [name for name in dict.fromkeys([*ordered, *of_tasks, *OF_MODELS]) if name in found]

    def best(self, name: str) -> set[str]:
        """Models whose value is the best, where there is one that can be said to be; none where all are equal."""
        values = {
            model: found[name] for model, found in self.metrics.items() if math.isfinite(found.get(name, math.nan))
        }
        better = BETTER.get(name) or (max if "/acc" in name else None)
        tokens = {self.metrics[model].get("evalTokens") for model in values}
        if better is None or len(set(values.values())) < 2 or (name in OF_ONE_VOCABULARY and len(tokens) > 1):
            return set()
        top = better(values.values())
        return {model for model, value in values.items() if value == top}

    def status_metrics(self, limit: int) -> Metrics:
        """At most ``limit`` of the metrics as ``model/metric``: those of gates first, then the most telling ones of every model."""
        wanted = [(verdict.gate.model, verdict.gate.metric) for verdict in self.verdicts]
        wanted += [(model, name) for name in self.names for model in self.metrics]
        chosen = [(model, name) for model, name in dict.fromkeys(wanted) if name in self.metrics[model]][:limit]
        return {f"{model}/{name}": _number(self.metrics[model][name]) for model, name in chosen}


def build(
    job: EvaluationJob, inputs: Inputs, plan: Plan, candidates: Sequence[AnyCandidate], measured: EvaluationResult
) -> Report:
    """From everything that was measured."""
    spec = job.spec
    metrics = {candidate.name: _metrics(plan, candidate, measured.of(candidate.name)) for candidate in candidates}
    intervals = {candidate.name: _intervals(plan, candidate, measured.of(candidate.name)) for candidate in candidates}
    gaps = plan.gaps()
    verdicts = gates.judge(spec.gates, metrics, intervals)
    there = names_of(spec, [name for one in plan.tasks for name in one.metrics])
    content: dict[str, Any] = {
        "name": job.metadata.name,
        "models": [
            {
                "name": candidate.name,
                "uri": candidate.uri,
                "digest": candidate.digest,
                "kind": candidate.kind,
                "adapters": list(candidate.adapters),
                "template": candidate.template.name if candidate.template else None,
                **measured.of(candidate.name).how,
                "metrics": {name: _number(value) for name, value in metrics[candidate.name].items()},
                "intervals": _edges(intervals[candidate.name]),
                "standardErrors": {
                    name: _number(error)
                    for task in measured.of(candidate.name).tasks.values()
                    for name, error in task.errors.items()
                },
                "measuredOn": _measured_on(plan, candidate, measured.of(candidate.name)),
                **_by_category(plan, measured.of(candidate.name)),
                "notMeasured": [
                    {
                        "metrics": [name for name in gap.metrics if name in there],
                        "why": gap.why,
                        "whyInChinese": gap.why_zh,
                    }
                    for gap in gaps[candidate.name]
                    if gap.is_told
                ],
                "seconds": {part: round(value, 2) for part, value in measured.of(candidate.name).seconds.items()},
            }
            for candidate in candidates
        ],
        "gates": [
            {
                **verdict.gate.model_dump(by_alias=True, exclude_none=True),
                "value": _number(verdict.value),
                "passed": verdict.broken is None,
                "undecided": verdict.undecided,
            }
            for verdict in verdicts
        ],
        "inputs": {field: {"uri": found.uri, "digest": found.digest} for field, found in inputs.items()},
    }
    if plan.rows is not None:
        content["heldOut"] = {"lines": list(plan.rows.lines), "leftOut": plan.rows.left_out}
    if plan.questions:
        content["systemPrompt"] = plan.system_prompt
        content["generation"] = spec.generation.model_dump(by_alias=True)
        content["questions"] = [
            {
                "category": question.category,
                "question": question.text,
                "before": list(question.before),
                "reference": question.reference,
                "answers": {
                    candidate.name: _answer(measured.of(candidate.name), number, question) for candidate in candidates
                },
            }
            for number, question in enumerate(plan.questions)
        ]
    if spec.judge is not None and plan.judge is not None:
        content["judge"] = {
            "uri": plan.judge.uri,
            "against": spec.judge.against,
            "sameInBothOrders": {
                name: _number(judging.in_one_voice(measured.of(name).judgements)) for name in plan.judged
            },
        }
    samples = {
        candidate.name: [line for task in measured.of(candidate.name).tasks.values() for line in task.samples]
        for candidate in candidates
    }
    return Report(content, metrics, verdicts, intervals, {name: lines for name, lines in samples.items() if lines})


def _metrics(plan: Plan, candidate: AnyCandidate, result: ModelResult) -> dict[str, float]:
    all_answers = [result.answers[number] for number in range(len(plan.questions))]
    metrics = result.score.metrics() if plan.rows is not None and candidate.kind != "Endpoint" else {}
    if candidate.name in plan.compared:
        metrics |= result.likeness.metrics()
    if candidate.name in plan.judged:
        metrics |= judging.metrics(result.judgements)
    if all_answers:
        metrics |= answer_metrics.metrics(all_answers, [question.wording for question in plan.questions])
        metrics["answerTokensPerSecond"] = sum(answer.tokens for answer in all_answers) / max(
            result.seconds.get("answers", 0.0), 1e-9
        )
    for of_task in result.tasks.values():
        metrics |= of_task.metrics
    if not isinstance(candidate, RemoteCandidate):
        metrics["peakMemoryBytes"] = float(result.gpu_peak_bytes or result.peak_bytes)
        metrics["weightBytes"] = float(candidate.weight_bytes)
    return metrics


def _intervals(plan: Plan, candidate: AnyCandidate, result: ModelResult) -> dict[str, Interval]:
    found = result.score.intervals() if plan.rows is not None else {}
    if candidate.name in plan.compared:
        found |= {name: one for name, one in result.likeness.intervals().items() if name in OF_ORIGINAL}
    if candidate.name in plan.judged:
        found |= judging.confidence(result.judgements)
    all_answers = [result.answers[number] for number in range(len(plan.questions))]
    found |= answer_metrics.confidence(all_answers, [question.wording for question in plan.questions])
    for of_task in result.tasks.values():
        found |= of_task.intervals()
    return found


def _measured_on(plan: Plan, candidate: AnyCandidate, result: ModelResult) -> dict[str, int]:
    """How much of everything the figures rest on."""
    found: dict[str, int] = {}
    if result.score.rows:
        found |= {"rows": result.score.rows, "rowTokens": result.score.tokens}
    if plan.questions:
        found |= {
            "answers": len(result.answers),
            "questionTokens": sum(map(len, plan.prompts.get(candidate.name, ()))),
            "answerTokens": sum(answer.tokens for answer in result.answers.values()),
            "references": sum(question.wording is not None for question in plan.questions),
        }
    if candidate.name in plan.judged:
        without = sum(one.outcome is None for one in result.judgements.values())
        found |= {"judgements": len(result.judgements), "withoutVerdict": without}
    found["taskQuestions"] = sum(task.questions for task in result.tasks.values())
    return {what: count for what, count in found.items() if count}


def _edges(intervals: Mapping[str, Interval]) -> dict[str, list[float | None]]:
    return {name: [_number(found.low), _number(found.high)] for name, found in intervals.items()}


def _by_category(plan: Plan, result: ModelResult) -> dict[str, dict[str, Any]]:
    """Figures of the answers, by category, with their intervals."""
    groups: dict[str, list[int]] = {}
    for number, question in enumerate(plan.questions):
        groups.setdefault(question.category, []).append(number)
    values: dict[str, dict[str, float | None]] = {}
    intervals: dict[str, dict[str, list[float | None]]] = {}
    for category, numbers in groups.items():
        answers = [result.answers[number] for number in numbers]
        wordings = [plan.questions[number].wording for number in numbers]
        judgements = {number: result.judgements[number] for number in numbers if number in result.judgements}
        figures = answer_metrics.metrics(answers, wordings) | (judging.metrics(judgements) if judgements else {})
        values[category] = {name: _number(value) for name, value in figures.items()}
        intervals[category] = _edges(answer_metrics.confidence(answers, wordings) | judging.confidence(judgements))
    return {"categories": values, "categoryIntervals": intervals}


def _answer(result: ModelResult, number: int, question: Question) -> dict[str, Any]:
    answer, judgement = result.answers[number], result.judgements.get(number)
    share = answer_metrics.chinese_share(answer.text)
    found: dict[str, Any] = {
        "text": answer.text,
        "tokens": answer.tokens,
        "ending": answer.ending,
        "chineseShare": None if share is None else round(share, 4),
        "repetition": round(answer_metrics.repetition(answer.text), 4),
    }
    if question.wording is not None:
        scores = answer_metrics.against(answer, question.wording)
        found["scores"] = {name: round(score, 4) for name, score in scores.items()}
    if judgement is not None:
        found["judgement"] = {"outcome": judgement.outcome, "first": judgement.first, "second": judgement.second}
    return found


def _number(value: float | None) -> float | None:
    """As JSON has it: six digits, and nothing for NaN and infinity."""
    return None if value is None or not math.isfinite(value) else float(f"{value:.6g}")


def of_category(model: Mapping[str, Any], category: str, name: str) -> tuple[str, str]:
    """A figure of a category and its interval, as people read them; of the model as `Report.content` has it."""
    edges = model["categoryIntervals"][category].get(name)
    around = format_interval(name, *edges) if edges and None not in edges else ""
    return format_value(name, model["categories"][category].get(name)), around


def format_bounds(verdict: Verdict) -> str:
    """``≥ 50.0 %``, ``≤ 12``, or both."""
    gate = verdict.gate
    given = ((sign, bound) for sign, bound in (("≥", gate.min), ("≤", gate.max)) if bound is not None)
    return ", ".join(f"{sign} {format_value(gate.metric, bound)}" for sign, bound in given)
