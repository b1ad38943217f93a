"""Models measured side by side: ``python -m workloads.evaluate evaluation-job.yaml``.

Every field of EvaluationJob can be given or overridden as an option (``--prompts.limit 8``); ``--help`` lists them.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.evaluation import EvaluationJob, EvaluationSpec
from workloads.errors import DataError, GateFailed, Interrupted, OutOfMemory, SpecError
from workloads.evaluation import gates, harness, questions
from workloads.evaluation.plan import Plan
from workloads.runtime import command, exits
from workloads.runtime.runtime import Metrics, Runtime

if TYPE_CHECKING:
    from workloads.evaluation.candidates import Candidate
    from workloads.evaluation.meter import Meter
    from workloads.evaluation.result import Measured, State

TOLD_METRICS = 64
"""Metrics that a status holds."""


def run(job: EvaluationJob, runtime: Runtime) -> Metrics:
    """Look at everything, measure one model after the other, write the report, judge."""
    spec = job.spec
    gates.look(spec)
    asked = questions.load(spec.prompts, _file(spec, runtime)) if spec.prompts else []
    runtime.progress.update(stage="Preparing")
    if spec.tasks:
        harness.keep_data_in(runtime.cache)  # before anything imports `datasets`

    from workloads.evaluation import candidates as models

    candidates = [models.look(spec, runtime, number) for number in range(len(spec.models))]
    runtime.stop.check()
    plan = _plan(spec, runtime, candidates, asked)

    state = _measure(plan, runtime, candidates)
    return _publish(job, runtime, plan, candidates, state)


def _file(spec: EvaluationSpec, runtime: Runtime) -> Path | None:
    assert spec.prompts is not None
    return runtime.inputs["prompts.file"].path if spec.prompts.file else None


def _plan(spec: EvaluationSpec, runtime: Runtime, candidates: list[Candidate], asked: list[questions.Question]) -> Plan:
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
    gates.look(spec, [metric for one in loaded for metric in one.metrics])
    return Plan(spec, asked, prompts, rows, loaded)


def _prompts(spec: EvaluationSpec, candidate: Candidate, asked: list[questions.Question]) -> list[list[int]]:
    """Ids that the model continues with its answers. Raises SpecError or DataError for a question that cannot be put to it."""
    assert candidate.template is not None
    system = questions.system_prompt(spec)
    first = [{"role": "system", "content": system}] if system else []
    context = candidate.looked.context
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


def _measure(plan: Plan, runtime: Runtime, candidates: list[Candidate]) -> State:
    """Every model loaded in its turn; what an earlier run has found is not measured again."""
    from workloads.evaluation.meter import Meter
    from workloads.evaluation.result import State
    from workloads.system import memory

    kept = runtime.checkpoints.newest()
    state = State.read(kept) if kept else State()
    meter = Meter(runtime, state, plan.units, len(candidates))
    for candidate in candidates:
        found = state.of(candidate.name)
        for part, count in (("rows", found.score.rows), ("answers", len(found.answers)), ("tasks", len(found.tasks))):
            meter.skip(part, count)
    if kept:
        runtime.progress.log(f"going on behind {kept.parent.name}/{kept.name}")
    for candidate in candidates:
        found = state.of(candidate.name)
        if (found.score.rows, len(found.answers), len(found.tasks)) == tuple(plan.units.values()):
            continue
        runtime.progress.update(stage="Loading")
        peak = memory.Peak()
        meter.heartbeat()
        with ExitStack() as stack:
            try:
                with runtime.stop.interruptible():
                    loaded = stack.enter_context(candidate.loaded())
            except Interrupted:
                meter.save()
                raise meter.interrupted() from None
            found.how = loaded.how
            runtime.progress.log(
                f"{candidate.name}: {candidate.uri}, "
                + ", ".join(f"{key} {value}" for key, value in loaded.how.items())
            )
            for note in loaded.notes:
                runtime.progress.log(f"{candidate.name}: {note}")
            with _memory_told(candidate):
                _measure_one(plan, candidate, loaded.model, found, meter)
            found.peak_bytes, found.gpu_peak_bytes = max(found.peak_bytes, peak.resident()), peak.gpu()
        meter.save()
    return state


@contextmanager
def _memory_told(candidate: Candidate) -> Iterator[None]:
    """Running out of memory is told with the fields of this kind that take less."""
    try:
        yield
    except Exception as error:
        if not isinstance(exits.explain(error), OutOfMemory):
            raise
        raise OutOfMemory(
            f"out of memory while {candidate.name} was measured: lower generation.batchSize, dataset.sequenceLength or "
            "generation.maxNewTokens, set load.bits to 8 or 4 on the model, or ask for more memory in pod.resources.limits"
        ) from error


def _measure_one(plan: Plan, candidate: Candidate, loaded: Any, found: Measured, meter: Meter) -> None:
    """Rows, then answers, then tasks; ``found`` is filled as they come."""
    from workloads.evaluation import generation, perplexity

    tokenizer, folder = candidate.looked.tokenizer, candidate.looked.base.folder
    size = plan.spec.generation.batch_size
    if plan.rows is not None and candidate.template is not None:
        rows = plan.rows.by_model[candidate.name]
        with meter.part("rows", found.seconds, "Evaluating") as count:

            def done(so_far: perplexity.Score) -> None:
                passed = so_far.rows - found.score.rows
                found.score = so_far
                count(passed)

            perplexity.score(
                loaded,
                rows,
                pad=tokenizer.pad_token_id,
                batch_size=size,
                size=perplexity.AnswerBytes(tokenizer, folder, candidate.template),
                heartbeat=meter.heartbeat,
                done=done,
                so_far=found.score,
            )
    if plan.asked and candidate.template is not None:
        left = [number for number in range(len(plan.asked)) if number not in found.answers]
        with meter.part("answers", found.seconds, "Answering") as count:
            for at, answer in generation.answers(
                loaded,
                candidate.template,
                [plan.prompts[candidate.name][number] for number in left],
                plan.spec.generation,
                batch_size=size,
                seed=plan.spec.generation.seed,
                heartbeat=meter.heartbeat,
            ):
                found.answers[left[at]] = answer
                count(1)
    if plan.tasks:
        with meter.part("tasks", found.seconds, "Evaluating") as count:
            for place, one in enumerate(plan.tasks):
                if place not in found.tasks:
                    found.tasks[place] = harness.run(one, loaded, tokenizer, size, meter.heartbeat)
                    count(1)


def _publish(job: EvaluationJob, runtime: Runtime, plan: Plan, candidates: list[Candidate], state: State) -> Metrics:
    """The report at the output; or beside it, where a gate is broken."""
    from workloads.evaluation.report import build
    from workloads.evaluation.report_files import write

    report = build(job, runtime.inputs, plan, candidates, state)
    for line in report.lines():
        runtime.progress.log(line)
    metrics = report.told(TOLD_METRICS)
    runtime.progress.update(resolved_policy={candidate.name: state.of(candidate.name).how for candidate in candidates})
    with runtime.output("Report", metrics) as folder:
        write(report, folder)
        broken = [sentence for verdict in report.verdicts if (sentence := verdict.broken)]
        if broken:
            where = runtime.reject(folder)
            raise GateFailed(f"{'; '.join(broken)}: nothing is published, the report is at {where}", metrics)
    return metrics


if __name__ == "__main__":
    sys.exit(command.main(EvaluationJob, run))
