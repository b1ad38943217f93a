"""Models measured side by side: ``python -m workloads.evaluate evaluation-job.yaml``.

Every field of EvaluationJob can be given or overridden as an option (``--prompts.limit 8``); ``--help`` lists them.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from alpaca_operator.api.evaluation import EvaluationJob, EvaluationSpec
from workloads.errors import DataError, GateFailed, SpecError
from workloads.evaluation import gates, harness, questions
from workloads.evaluation.questions import Question
from workloads.runtime import command
from workloads.runtime.runtime import Metrics, Runtime
from workloads.storage.room import in_words

if TYPE_CHECKING:
    from workloads.evaluation.candidates import AnyCandidate, Candidate
    from workloads.evaluation.endpoints import Asker
    from workloads.evaluation.plan import Plan
    from workloads.evaluation.result import EvaluationResult

STATUS_METRICS = 64
"""Metrics that a status holds."""
REPORT_BYTES = 1 << 20
"""About as much as a report takes."""
FLOAT_BYTES = 4


def run(job: EvaluationJob, runtime: Runtime) -> Metrics:
    """Look at everything, measure one model after the other, let answers be compared, write the report, judge."""
    spec = job.spec
    gates.check(spec)
    if spec.prompts and spec.prompts.held_out is None:
        asked = questions.load(spec.prompts, _file(spec, runtime), runtime.progress.log)
    else:
        asked = []  # those of conversations take time to read
    runtime.progress.update(stage="Preparing")
    if spec.tasks:
        harness.keep_data_in(runtime.cache)  # before anything imports `datasets`

    from workloads.evaluation import candidates as models
    from workloads.evaluation.measuring import measure

    candidates = [models.prepare(spec, runtime, number) for number in range(len(spec.models))]
    judge = _judge(spec)
    runtime.stop.check()
    plan = _plan(spec, runtime, candidates, asked, judge)

    measured = measure(plan, runtime, candidates)
    return _publish(job, runtime, plan, candidates, measured)


def _file(spec: EvaluationSpec, runtime: Runtime) -> Path | None:
    assert spec.prompts is not None
    return runtime.inputs["prompts.file"].path if spec.prompts.file else None


def _judge(spec: EvaluationSpec) -> Asker | None:
    from workloads.evaluation import endpoints, judging

    if spec.judge is None:
        return None
    return endpoints.find("judge.endpoint", spec.judge.endpoint, judging.request_of(spec.judge), os.environ)


def _plan(
    spec: EvaluationSpec,
    runtime: Runtime,
    candidates: list[AnyCandidate],
    asked: list[Question],
    judge: Asker | None,
) -> Plan:
    """Everything in tokens, before any weights are read: what cannot be measured costs nothing."""
    from workloads.evaluation import held_out
    from workloads.evaluation.candidates import Candidate
    from workloads.evaluation.plan import Plan

    def heartbeat() -> None:
        runtime.progress.heartbeat()
        runtime.stop.check()

    rows = None
    loaded_here = [candidate for candidate in candidates if isinstance(candidate, Candidate)]
    templates = {candidate.name: candidate.template for candidate in loaded_here if candidate.template is not None}
    if spec.dataset is not None and templates:
        rows = held_out.prepare(spec.dataset, runtime.inputs, templates, heartbeat=heartbeat)
        for line in rows.lines:
            runtime.progress.log(f"data: {line}")
    if spec.prompts is not None and spec.prompts.held_out is not None and spec.dataset is not None:
        found = held_out.questions(
            spec.dataset, runtime.inputs, spec.prompts.held_out, heartbeat=heartbeat, log=runtime.progress.log
        )
        asked = questions.load(spec.prompts, None, runtime.progress.log, found)
    prompts = {candidate.name: _prompts(spec, candidate, asked) for candidate in loaded_here} if asked else {}
    with runtime.stop.interruptible():  # the data of a task may have to be downloaded
        tasks = harness.load(spec.tasks, runtime.inputs["taskFiles"].path if spec.task_files else None)
    plan = Plan(spec, asked, prompts, rows, tasks, judge)
    gates.check(spec, [metric for one in tasks for metric in one.metrics], plan.gaps())
    _must_hold_the_original(plan, runtime, loaded_here)
    return plan


def _must_hold_the_original(plan: Plan, runtime: Runtime, candidates: list[Candidate]) -> None:
    """Raises SpecError where the volume of the output is too small for what is kept of the original."""
    if not plan.compared or plan.rows is None:
        return
    original = next(candidate for candidate in candidates if candidate.name == plan.spec.original)
    config = original.inspected.base.config
    scored = sum(int(row.loss_mask.sum()) for row in plan.rows.by_model[original.name])
    size = (scored + int(config["vocab_size"])) * int(config["hidden_size"]) * FLOAT_BYTES
    written = f"what {original.name} foretells, {in_words(size)}"
    runtime.must_have_room(
        result=REPORT_BYTES,
        checkpoints=size,
        written=written,
        remedy="lower dataset.samples, or name another output.uri",
    )


def _prompts(spec: EvaluationSpec, candidate: Candidate, asked: list[Question]) -> list[list[int]]:
    """Ids that the model continues with its answers. Raises SpecError or DataError for a question that cannot be put to it."""
    assert candidate.template is not None
    system = questions.system_prompt(spec)
    context = candidate.inspected.context
    found = []
    for question in asked:
        try:
            prompt = candidate.template.prompt(question.messages(system))
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


def _publish(
    job: EvaluationJob, runtime: Runtime, plan: Plan, candidates: list[AnyCandidate], measured: EvaluationResult
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
