"""Models measured side by side: ``python -m workloads.evaluate evaluation-job.yaml``.

Every field of EvaluationJob can be given or overridden as an option (``--prompts.limit 8``); ``--help`` lists them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from alpaca_operator.api.evaluation import EvaluationJob, EvaluationSpec
from workloads.errors import DataError, GateFailed, Interrupted, OutOfMemory, SpecError
from workloads.evaluation import gates, harness, questions
from workloads.evaluation.plan import Plan
from workloads.evaluation.questions import Question
from workloads.runtime import command, exits
from workloads.runtime.runtime import Metrics, Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from workloads.evaluation.candidates import Candidate
    from workloads.evaluation.result import EvaluationResult, ModelResult
    from workloads.evaluation.tracker import EvaluationTracker

STATUS_METRICS = 64
"""Metrics that a status holds."""


def run(job: EvaluationJob, runtime: Runtime) -> Metrics:
    """Look at everything, measure one model after the other, write the report, judge."""
    spec = job.spec
    gates.check(spec)
    asked = questions.load(spec.prompts, _file(spec, runtime), runtime.progress.log) if spec.prompts else []
    runtime.progress.update(stage="Preparing")
    if spec.tasks:
        harness.keep_data_in(runtime.cache)  # before anything imports `datasets`

    from workloads.evaluation import candidates as models

    candidates = [models.prepare(spec, runtime, number) for number in range(len(spec.models))]
    runtime.stop.check()
    plan = _plan(spec, runtime, candidates, asked)

    measured = _measure(plan, runtime, candidates)
    return _publish(job, runtime, plan, candidates, measured)


def _file(spec: EvaluationSpec, runtime: Runtime) -> Path | None:
    assert spec.prompts is not None
    return runtime.inputs["prompts.file"].path if spec.prompts.file else None


def _plan(spec: EvaluationSpec, runtime: Runtime, candidates: list[Candidate], asked: list[Question]) -> Plan:
    """Everything in tokens, before any weights are read: what cannot be measured costs nothing."""
    from workloads.evaluation import held_out

    def heartbeat() -> None:
        runtime.progress.heartbeat()
        runtime.stop.check()

    rows = None
    if spec.dataset is not None:
        templates = {candidate.name: candidate.template for candidate in candidates if candidate.template is not None}
        rows = held_out.prepare(spec.dataset, runtime.inputs, templates, heartbeat=heartbeat)
        for line in rows.lines:
            runtime.progress.log(f"data: {line}")
    prompts = {candidate.name: _prompts(spec, candidate, asked) for candidate in candidates} if asked else {}
    with runtime.stop.interruptible():  # the data of a task may have to be downloaded
        loaded = harness.load(spec.tasks, runtime.inputs["taskFiles"].path if spec.task_files else None)
    gates.check(spec, [metric for one in loaded for metric in one.metrics])
    return Plan(spec, asked, prompts, rows, loaded)


def _prompts(spec: EvaluationSpec, candidate: Candidate, asked: list[Question]) -> list[list[int]]:
    """Ids that the model continues with its answers. Raises SpecError or DataError for a question that cannot be put to it."""
    assert candidate.template is not None
    system = questions.system_prompt(spec)
    first = [{"role": "system", "content": system}] if system else []
    context = candidate.inspected.context
    found = []
    for question in asked:
        try:
            prompt = candidate.template.prompt([*first, {"role": "user", "content": question.text}])
        except ValueError as error:
            raise SpecError(
                f"{question.where}: template {candidate.template.name} of {candidate.name} cannot ask it ({error}): remove the system prompt, "
                "or name another template"
            ) from error
        if len(prompt) >= context:
            raise DataError(
                f"{question.where}: the question has {len(prompt)} tokens for {candidate.name}, which has {context} positions: shorten it, or "
                "leave it out"
            )
        found.append(prompt)
    return found


def _measure(plan: Plan, runtime: Runtime, candidates: list[Candidate]) -> EvaluationResult:
    """Every model loaded in its turn; what an earlier run has measured is not measured again."""
    from workloads.evaluation.result import EvaluationResult
    from workloads.evaluation.tracker import EvaluationTracker

    kept = runtime.checkpoints.newest()
    measured = EvaluationResult.read(kept) if kept else EvaluationResult()
    tracker = EvaluationTracker(runtime, measured, plan.units, len(candidates))
    for candidate in candidates:
        for part, count in measured.of(candidate.name).counts.items():
            tracker.skip(part, count)
    if kept:
        runtime.progress.log(f"going on behind {kept.parent.name}/{kept.name}")
    for candidate in candidates:
        result = measured.of(candidate.name)
        if result.counts != plan.units:
            _load_and_measure(plan, runtime, candidate, result, tracker)
            tracker.save()
    return measured


def _load_and_measure(
    plan: Plan, runtime: Runtime, candidate: Candidate, result: ModelResult, tracker: EvaluationTracker
) -> None:
    """One model in memory, and out of it again; ``result`` is filled as its parts are measured."""
    from workloads.system import memory

    runtime.progress.update(stage="Loading")
    peak = memory.Peak()
    tracker.heartbeat()
    with ExitStack() as stack:
        try:
            with runtime.stop.interruptible():
                loaded = stack.enter_context(candidate.loaded())
        except Interrupted:
            tracker.save()
            raise tracker.interrupted() from None
        result.how = loaded.how
        settings = ", ".join(f"{key} {value}" for key, value in loaded.how.items())
        runtime.progress.log(f"{candidate.name}: {candidate.uri}, {settings}")
        for note in loaded.notes:
            runtime.progress.log(f"{candidate.name}: {note}")
        with _explaining_out_of_memory(candidate):
            _measure_rows(plan, candidate, loaded.model, result, tracker)
            _measure_answers(plan, candidate, loaded.model, result, tracker)
            _measure_tasks(plan, candidate, loaded.model, result, tracker)
        result.peak_bytes, result.gpu_peak_bytes = max(result.peak_bytes, peak.resident()), peak.gpu()


@contextmanager
def _explaining_out_of_memory(candidate: Candidate) -> Iterator[None]:
    """Running out of memory names the fields of this kind that take less."""
    try:
        yield
    except Exception as error:
        if not isinstance(exits.explain(error), OutOfMemory):
            raise
        raise OutOfMemory(
            f"out of memory while {candidate.name} was measured: lower generation.batchSize, dataset.sequenceLength or "
            "generation.maxNewTokens, set load.bits to 8 or 4 on the model, or ask for more memory in pod.resources.limits"
        ) from error


def _measure_rows(
    plan: Plan, candidate: Candidate, model: PreTrainedModel, result: ModelResult, tracker: EvaluationTracker
) -> None:
    from workloads.evaluation import perplexity

    if plan.rows is None or candidate.template is None:
        return
    tokenizer, folder = candidate.inspected.tokenizer, candidate.inspected.base.folder
    with tracker.part("rows", result.seconds, "Evaluating") as count:

        def done(so_far: perplexity.Score) -> None:
            passed = so_far.rows - result.score.rows
            result.score = so_far
            count(passed)

        perplexity.score(
            model,
            plan.rows.by_model[candidate.name],
            pad=tokenizer.pad_token_id,
            batch_size=plan.spec.generation.batch_size,
            size=perplexity.AnswerBytes(tokenizer, folder, candidate.template),
            heartbeat=tracker.heartbeat,
            done=done,
            so_far=result.score,
        )


def _measure_answers(
    plan: Plan, candidate: Candidate, model: PreTrainedModel, result: ModelResult, tracker: EvaluationTracker
) -> None:
    from workloads.evaluation import generation

    if not plan.questions or candidate.template is None:
        return
    left = [number for number in range(len(plan.questions)) if number not in result.answers]
    with tracker.part("answers", result.seconds, "Answering") as count:
        for at, answer in generation.answers(
            model,
            candidate.template,
            [plan.prompts[candidate.name][number] for number in left],
            plan.spec.generation,
            batch_size=plan.spec.generation.batch_size,
            seed=plan.spec.generation.seed,
            heartbeat=tracker.heartbeat,
        ):
            result.answers[left[at]] = answer
            count(1)


def _measure_tasks(
    plan: Plan, candidate: Candidate, model: PreTrainedModel, result: ModelResult, tracker: EvaluationTracker
) -> None:
    if not plan.tasks:
        return
    with tracker.part("tasks", result.seconds, "Evaluating") as count:
        for place, task in enumerate(plan.tasks):
            if place not in result.tasks:
                result.tasks[place] = harness.run(
                    task, model, candidate.inspected.tokenizer, plan.spec.generation.batch_size, tracker.heartbeat
                )
                count(1)


def _publish(
    job: EvaluationJob, runtime: Runtime, plan: Plan, candidates: list[Candidate], measured: EvaluationResult
) -> Metrics:
    """The report at the output; or beside it, where a gate is broken."""
    from workloads.evaluation.report import build
    from workloads.evaluation.report_files import write

    report = build(job, runtime.inputs, plan, candidates, measured)
    for line in report.lines():
        runtime.progress.log(line)
    metrics = report.status_metrics(STATUS_METRICS)
    runtime.progress.update(
        resolved_policy={candidate.name: measured.of(candidate.name).how for candidate in candidates}
    )
    with runtime.output("Report", metrics) as folder:
        write(report, folder)
        broken = [sentence for verdict in report.verdicts if (sentence := verdict.broken)]
        if broken:
            where = runtime.reject(folder)
            raise GateFailed(f"{'; '.join(broken)}: nothing is published, the report is at {where}", metrics)
    return metrics


if __name__ == "__main__":
    sys.exit(command.main(EvaluationJob, run))
