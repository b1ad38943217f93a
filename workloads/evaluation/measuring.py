"""The measurements themselves: one model after the other in memory, or asked where it is served, and then the judge."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from workloads.errors import Interrupted, OutOfMemory, WorkloadError
from workloads.evaluation import endpoints, harness, judging
from workloads.evaluation.candidates import AnyCandidate, Candidate, RemoteCandidate
from workloads.evaluation.plan import Plan
from workloads.evaluation.result import EvaluationResult, ModelResult
from workloads.evaluation.tracker import EvaluationTracker
from workloads.runtime import exits
from workloads.runtime.runtime import Runtime

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from workloads.evaluation.generation import Ending
    from workloads.evaluation.perplexity import Score

FINISHED: dict[str, Ending] = {"stop": "Stopped", "length": "Cut"}
"""How an API says that an answer ended; whatever else it says, it has kept the rest back."""


def measure(plan: Plan, runtime: Runtime, candidates: Sequence[AnyCandidate]) -> EvaluationResult:
    """Every model in its turn, the original first; what an earlier run has measured is not measured again."""
    kept = runtime.checkpoints.newest()
    measured = EvaluationResult.read(kept) if kept else EvaluationResult()
    original = plan.spec.original
    if any(measured.of(name).score.rows < len(rows) for name, rows in _compared_rows(plan)) and original:
        measured.of(original).forget_rows()  # of what it foretold nothing is left but its score
    tracker = EvaluationTracker(runtime, measured, plan.total(candidates))
    for candidate in candidates:
        for part, count in measured.of(candidate.name).counts.items():
            tracker.skip(part, count)
    tracker.skip("judgements", sum(len(measured.of(name).judgements) for name in plan.judged))
    if kept:
        runtime.progress.log(f"going on behind {kept.parent.name}/{kept.name}")
    for candidate in sorted(candidates, key=lambda candidate: candidate.name != original):
        result = measured.of(candidate.name)
        if result.counts == plan.units(candidate):
            continue
        if isinstance(candidate, RemoteCandidate):
            _ask(plan, candidate, result, tracker)
        else:
            _load_and_measure(plan, runtime, candidate, result, tracker)
        tracker.save()
    for name in plan.judged:
        _judge(plan, name, measured, tracker)
    return measured


def _compared_rows(plan: Plan) -> list[tuple[str, Sequence[Any]]]:
    return [(name, plan.rows.by_model[name]) for name in plan.compared] if plan.rows else []


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
        with explaining_out_of_memory(candidate):
            _measure_rows(plan, runtime, candidate, loaded.model, result, tracker)
            _measure_answers(plan, candidate, loaded.model, result, tracker)
            _measure_tasks(plan, candidate, loaded.model, result, tracker)
        result.peak_bytes, result.gpu_peak_bytes = max(result.peak_bytes, peak.resident()), peak.gpu()


@contextmanager
def explaining_out_of_memory(candidate: Candidate) -> Iterator[None]:
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
    plan: Plan,
    runtime: Runtime,
    candidate: Candidate,
    model: PreTrainedModel,
    result: ModelResult,
    tracker: EvaluationTracker,
) -> None:
    from workloads.evaluation import perplexity

    if plan.rows is None or candidate.template is None:
        return
    tokenizer, folder = candidate.inspected.tokenizer, candidate.inspected.base.folder
    rows = plan.rows.by_model[candidate.name]
    if result.score.rows == len(rows):
        return
    with (
        tracker.part("rows", result.seconds, "Evaluating") as count,
        _beside_the_original(plan, runtime, candidate, model, result) as likeness,
    ):

        def done(so_far: Score) -> None:
            passed = so_far.rows - result.score.rows
            result.score = so_far
            if likeness is not None:
                result.likeness = likeness()
            count(passed)

        perplexity.score(
            model,
            rows,
            pad=tokenizer.pad_token_id,
            batch_size=plan.spec.generation.batch_size,
            size=perplexity.AnswerBytes(tokenizer, folder, candidate.template),
            heartbeat=tracker.heartbeat,
            done=done,
            so_far=result.score,
        )


@contextmanager
def _beside_the_original(
    plan: Plan, runtime: Runtime, candidate: Candidate, model: PreTrainedModel, result: ModelResult
) -> Iterator[Any]:
    """Within this block the original is recorded, and the others are held against it: then what is given tells how alike they are so far."""
    compared = plan.compared
    if not compared or candidate.name not in (plan.spec.original, *compared):
        yield None
        return
    assert plan.rows is not None
    from workloads.evaluation.likeness import Reference

    reference = Reference(runtime.checkpoints.own / "reference")
    if candidate.name == plan.spec.original:
        runtime.checkpoints.own.mkdir(parents=True, exist_ok=True)
        with reference.recording(model, f"spec.original {candidate.name}"):
            yield None
        return
    before = result.likeness
    with reference.comparing(model, plan.rows.by_model[candidate.name], passed=result.score.rows) as beside:
        yield lambda: before + beside.likeness


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


def _ask(plan: Plan, candidate: RemoteCandidate, result: ModelResult, tracker: EvaluationTracker) -> None:
    """The questions put to a model that is served elsewhere."""
    from workloads.evaluation.generation import Answer

    how = plan.spec.generation
    left = [number for number in range(len(plan.questions)) if number not in result.answers]
    with tracker.part("answers", result.seconds, "Answering") as count, _keeping(tracker):
        for at, reply in candidate.asker.replies(
            [plan.questions[number].messages(plan.system_prompt) for number in left],
            endpoints.request_of(how, how.seed),
            at_once=how.batch_size,
            heartbeat=tracker.heartbeat,
        ):
            ending = FINISHED.get(reply.finish_reason, "Withheld")
            result.answers[left[at]] = Answer(reply.text.strip(), reply.tokens, ending)
            count(1)


@contextmanager
def _keeping(tracker: EvaluationTracker) -> Iterator[None]:
    """What was paid for is kept where a server refuses to go on; a stop has kept it already."""
    try:
        yield
    except Interrupted:
        raise
    except WorkloadError:
        tracker.save()
        raise


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


def _judge(plan: Plan, name: str, measured: EvaluationResult, tracker: EvaluationTracker) -> None:
    """The answers of a model compared with those that the spec names."""
    spec = plan.spec
    assert spec.judge is not None
    assert plan.judge is not None
    result, other = measured.of(name), measured.of(spec.judge.against)
    left = [number for number in range(len(plan.questions)) if number not in result.judgements]
    if not left:
        return
    pairs = [(plan.questions[number], result.answers[number].text, other.answers[number].text) for number in left]
    with tracker.part("judgements", result.seconds, "Evaluating") as count, _keeping(tracker):
        for at, judgement in judging.judgements(
            plan.judge,
            spec.judge,
            pairs,
            plan.system_prompt,
            at_once=spec.generation.batch_size,
            heartbeat=tracker.heartbeat,
        ):
            result.judgements[left[at]] = judgement
            count(1)
    tracker.save()
