"""What a run of the other kinds hands to the libraries."""

from __future__ import annotations

import hashlib
import shutil
from collections import Counter
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

from tests.honoured.desk import Desk, Reached
from workloads import dataset, evaluate, merge, quantize, tokenizer
from workloads.data import corpus
from workloads.evaluation import gates


def dataset_run(job: Any, desk: Desk, scratch: Path) -> list[Any]:
    """The corpus itself, with its report, and how many processes were to make it."""
    from workloads.curation import make
    from workloads.curation.crew import Crew

    processes: list[int] = []

    def crew(count: int) -> Crew:
        processes.append(count)
        return Crew(1)

    shutil.rmtree(scratch, ignore_errors=True)
    with patch.object(make, "Crew", crew):
        dataset.run(job, desk.runtime(job, scratch))
    files = sorted(path for path in (scratch / "out").rglob("*") if path.is_file())
    return [processes, [(path.name, hashlib.sha256(path.read_bytes()).hexdigest()) for path in files]]


def tokenizer_run(job: Any, desk: Desk, scratch: Path) -> list[Any]:
    """What is trained on and with which settings, how large the result may become, and what it is compared with."""
    seen: list[Any] = []

    def train(files: Any, settings: Any, tally: Any, tell: Any) -> Any:
        seen.append(sum(map(len, corpus.texts(files, tally))))
        seen.append([(file.path.name, file.format, file.encoding, file.column) for file in files])
        seen.append(settings)
        raise Reached

    with (
        patch.object(tokenizer, "train", train),
        patch.object(tokenizer.extend, "must_have_room", lambda base, size: seen.append(size)),
        patch.object(tokenizer.checks, "encoder", lambda *given: seen.append(given)),
    ):
        try:
            tokenizer.run(job, desk.runtime(job, scratch))
        except Reached:
            return seen
    raise AssertionError("nothing was trained")


def merge_run(job: Any, desk: Desk, scratch: Path) -> list[Any]:
    """What is merged into what, with which factor, and how it is written and judged."""
    from workloads.models import merge_lora

    with patch.object(merge_lora, "merge", side_effect=Reached) as merged, suppress(Reached):
        merge.run(job, desk.runtime(job, scratch))
    base, steps, target, *others = merged.call_args.args
    told = (target.dtype, target.shard_size, target.limit)
    scales = [str(vars(step.adapter)) for step in steps]
    return [base.folder.name, str(getattr(base, "rope_scaling", None)), scales, told, str(others[1:])]


class Settings:
    """Stands for GPTQModel's own, which takes ten seconds to import."""

    def __init__(self, **given: Any) -> None:
        self.given = {name: value for name, value in given.items() if "offload" not in name}


def quantize_run(job: Any, desk: Desk, scratch: Path) -> list[Any]:
    """The settings, the rows, the model's folder, the questions, and what the gates say of a result that lost a little."""
    from workloads.evaluation.likeness import Likeness
    from workloads.models import inference
    from workloads.quantization import fidelity, gptq, measure, prepare
    from workloads.quantization.gguf.likeness import TokenLikeness
    from workloads.quantization.report import Report

    spec, runtime = job.spec, desk.runtime(job, scratch)
    if spec.format == "GGUF":
        return [_gguf_type(job, runtime), TokenLikeness(4, 3, "", ()).broken(spec.gguf.min_equal_rows)]
    base = quantize._check(job, runtime)
    with patch.dict("sys.modules", {"gptqmodel": SimpleNamespace(QuantizeConfig=Settings)}):
        settings = gptq.settings(spec, scratch).given
    ready = prepare.prepare(job, runtime, base)
    config = (ready.source / "config.json").read_text(encoding="utf-8")
    found = [
        settings,
        [[row.ids.tolist() for row in part] for part in (ready.rows.calibration, ready.rows.evaluation)],
        config,
    ]
    asked: list[Any] = []

    def answers(model: Any, template: Any, prompts: Any, decoding: Any, **_: Any) -> Any:
        asked.append([[*map(len, prompts)], str(decoding)])
        return iter(())

    loaded = SimpleNamespace(model=None, context=512)
    with (
        patch.object(inference, "load", lambda request: loaded),
        patch("workloads.evaluation.generation.answers", answers),
    ):
        measure.measure(spec, runtime, ready, ready.source, lambda *_: (MagicMock(), None))
    score = SimpleNamespace(perplexity=10.0)
    report = MagicMock(
        increase=0.1,
        job=job,
        before=fidelity.ModelScores(score, 4, 1.0),
        after=fidelity.ModelScores(SimpleNamespace(perplexity=11.0), 4, 0.5),
        fidelity=Likeness.of_row(10, 5, 1.0),
    )  # type: ignore[arg-type]
    found += [asked, Report._perplexity_gate(report) is None, Report._stop_rate_gate(report) is None]
    found += [Report._agreement_gate(report) is None, Report._divergence_gate(report) is None]
    return found


def _gguf_type(job: Any, runtime: Any) -> list[Any]:
    """What the writer, and llama.cpp after it, are asked for."""
    from workloads.quantization.gguf import convert, llama_cpp, model_file, vocabulary

    base = convert.check(job, runtime)
    runtime.checkpoints.own.mkdir(parents=True, exist_ok=True)
    with (
        patch.object(model_file, "write", side_effect=lambda path, *_: path.touch()) as written,
        patch.object(llama_cpp, "quantize") as made,
        patch.object(vocabulary, "of"),
    ):
        convert._write(job, runtime, base, MagicMock(), MagicMock(), runtime.checkpoints.own / "made")
    return [written.call_args.args[4], made.call_args and made.call_args.args[2]]


TASKS = ("first", "second")
"""What the tasks of the specs under test are called."""


def evaluate_run(job: Any, desk: Desk, scratch: Path) -> list[Any]:
    """What each model is asked and scored on, how it is held and answers, which tasks it gets, and what the gates say."""
    from workloads.evaluation import candidates, endpoints, generation, harness, likeness, measuring, perplexity

    seen: list[Any] = []

    @contextmanager
    def loaded(candidate: Any) -> Any:
        request = candidate.inspected.request
        seen.append(
            [candidate.name, request.uri, request.adapters, candidate.inspected.options.bits, request.rope_scaling]
        )
        yield SimpleNamespace(model=MagicMock(), how={}, notes=[])

    def answers(model: Any, template: Any, prompts: Any, decoding: Any, **given: Any) -> Any:
        how = {
            name: getattr(decoding, name)
            for name in ("temperature", "top_p", "top_k", "repetition_penalty", "max_new_tokens")
        }
        seen.append([prompts, how, given["batch_size"], given["seed"]])
        return iter(())

    def score(model: Any, rows: Any, **given: Any) -> Any:
        seen.append([[row.ids.tolist() for row in rows], given["batch_size"]])

    def found(field: str, endpoint: Any, request: Any, environ: Any) -> Any:
        seen.append([field, endpoint.url, endpoint.model, request])
        return SimpleNamespace(
            uri=endpoint.url, replies=lambda asked, *_, **given: seen.append([asked, given["at_once"]]) or ()
        )

    class FakeTask:
        """A task of the harness that takes any number of examples."""

        def get_config(self, key: str) -> Any:
            return None

        def set_config(self, key: str, value: Any) -> None:
            seen.append((key, value))

        def set_fewshot_seed(self, seed: int) -> None:
            seen.append(seed)

        def aggregation(self) -> list[str]:
            return ["acc"]

    def manager(name: str, folder: Path | None, label: str) -> Any:
        seen.append([name, folder])
        return SimpleNamespace(load=lambda names: {"tasks": {name: FakeTask()}, "groups": {}, "group_map": {}})

    with ExitStack() as stack:
        for place, name, stand_in in [
            (candidates.Candidate, "loaded", loaded),
            (generation, "answers", answers),
            (perplexity, "score", score),
            (perplexity, "AnswerBytes", MagicMock()),
            (harness, "_manager", manager),
            (evaluate, "_publish", lambda *_: {}),
            (endpoints, "find", found),
            (likeness, "Reference", MagicMock()),
            (measuring, "_judge", lambda plan, name, *_: seen.append([name, plan.spec.judge.against])),
        ]:
            stack.enter_context(patch.object(place, name, stand_in))
        limits = stack.enter_context(
            patch("lm_eval.evaluator.evaluate", return_value={"results": {name: {"sample_len": 1} for name in TASKS}})
        )
        stack.enter_context(patch("lm_eval.models.huggingface.HFLM", SimpleNamespace))
        stack.enter_context(patch.object(harness, "_neutral", MagicMock()))
        runtime = desk.runtime(job, scratch)
        runtime.checkpoints.write = MagicMock()
        with patch("workloads.evaluation.measuring.EvaluationTracker", MagicMock()):
            evaluate.run(job, runtime)
    seen.append([call.kwargs.get("limit") for call in limits.call_args_list])
    judged = {model.name: {gate.metric: 0.5 for gate in job.spec.gates} for model in job.spec.models}
    seen.append(
        [
            [verdict.gate.model, verdict.gate.metric, verdict.broken]
            for verdict in gates.judge(job.spec.gates, judged, {name: {} for name in judged})
        ]
    )
    return seen


def chat_engine(chat: Any, desk: Desk, scratch: Path) -> list[Any]:
    """How the engine asks for its models, and how it answers."""
    from workloads.serving.engine import loading
    from workloads.serving.front.service import front_of
    from workloads.system.environment import Environment

    if chat.spec.engine == "vLLM":
        front = front_of(chat, {}, Environment.read({"ALPACA_CACHE": str(scratch)}))
        return [front.most, front.seconds, front.system_prompt, front.generation]
    seen: list[Any] = []
    model = MagicMock()
    model.device.type = "cpu"
    model.generation_config.eos_token_id = 2
    found = MagicMock(
        model=model,
        context=512,
        kind="Model",
        how={},
        notes=[],
        bytes_per_position=1,
        layers=Counter([model.device]),
        changes_with_length=False,
    )

    def template(name: str, path: Path | None, tokenizer: Any, **_: Any) -> Any:
        seen.append([name, path])
        one = MagicMock(stop_ids=[2], tokenizer=tokenizer, next_turn=[[2]])
        one.tokenizer.return_value = {"input_ids": [1]}
        return one

    def adapter(job: Any, spec: Any, inputs: Any, base: Any, name: str, field: str, source: Any) -> Any:
        seen.append([name, field])
        return MagicMock(**{"adapter.name": name})

    with (
        patch.object(loading.sources, "collect", lambda *_: desk.inputs(chat)),
        patch.object(loading.model_request, "inspect_request", lambda request: seen.append(request) or MagicMock()),
        patch.object(loading.loading, "load", template),
        patch.object(loading.inference, "load_inspected", lambda inspected: found),
        patch.object(loading, "configuration"),
        patch.object(loading, "prepare", adapter),
        patch.object(loading.LoadedBase, "worn", lambda base, place, prepared: SimpleNamespace(**vars(base.served))),
        patch.object(loading.tokenize, "rows_of", lambda tokenizer: 256),
        patch.object(loading, "ServedModel", lambda **given: SimpleNamespace(adapter=None, **given)),
        patch.object(loading, "Scheduler") as scheduler,
    ):
        environment = Environment.read({"ALPACA_CACHE": str(scratch)})
        served = loading.load(chat, environment, MagicMock(), lambda line: None)
    queues = [(call.kwargs["max_batch"], call.kwargs["max_queue"]) for call in scheduler.call_args_list]
    for one in served.values():
        seen.append([one.name, one.defaults, one.max_input_tokens, one.timeout_seconds])
    return [*seen, queues]


def chat_page(chat: Any) -> Any:
    """What the page knows, and by which names it is reached."""
    from workloads.serving.guard import addresses
    from workloads.serving.page.settings import Settings

    settings = Settings.read(chat, {"ALPACA_CHAT_USERNAME": "a", "ALPACA_CHAT_PASSWORD": "b"})
    return [settings, addresses.of(chat, {}, in_pod=True)]


def digest(value: Any) -> str:
    return hashlib.sha256(str(value).encode()).hexdigest()
