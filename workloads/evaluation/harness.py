"""Tasks of lm-evaluation-harness, run on a model that is in memory already."""

from __future__ import annotations

import contextlib
import difflib
import importlib.util
import json
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api import contract
from alpaca_operator.api.evaluation import Task
from workloads.errors import InputError, SpecError
from workloads.evaluation import intervals
from workloads.evaluation.intervals import Interval
from workloads.evaluation.metrics import is_share
from workloads.models import dynamic_positions, libraries
from workloads.models.model_request import context_length
from workloads.system.describe import first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SEED = 1234
"""Of the draw of few-shot examples: the harness's own default, so that its published figures are comparable."""
RESAMPLES = 100
"""By which the harness finds the standard error of a metric that is no mean."""
PLACES = ("HF_HOME", "HF_DATASETS_CACHE")
"""Variables by which a user says where data sets are kept."""


@dataclass(frozen=True)
class LoadedTask:
    """A task or group of tasks of the spec, with its data."""

    task: Task
    entries: dict[str, Any]
    """As `TaskManager.load` gives it: `tasks`, `groups` and `group_map`."""

    @property
    def metrics(self) -> list[str]:
        """Names that the report will have, the group's own first."""
        names = []
        for name, group in self.entries["groups"].items():
            for aggregate in group.aggregate_metric_list or ():
                names += [_name(name, aggregate.metric, filtered) for filtered in aggregate.filter_list or ["none"]]
        for name, task in self.entries["tasks"].items():
            filters = [each.name for each in getattr(task, "_filters", ())] or ["none"]
            names += [_name(name, metric, filtered) for metric in task.aggregation() for filtered in filters]
        return list(dict.fromkeys(names))


@dataclass
class TaskResult:
    """What one model made of a task. The names of fields are those of the checkpoint's file."""

    metrics: dict[str, float]
    """By the names in `LoadedTask.metrics`."""
    errors: dict[str, float] = field(default_factory=dict)
    """Standard errors, of those metrics of which the harness knows one."""
    counts: dict[str, int] = field(default_factory=dict)
    """Questions that each metric is of."""
    questions: int = 0
    """Of all its parts together."""
    samples: list[str] = field(default_factory=list)
    """Every question with what was made of it, each as a line of JSON."""

    def intervals(self) -> dict[str, Interval]:
        """Of the metrics whose standard error is known."""
        found = {}
        for name, error in self.errors.items():
            value, count = self.metrics[name], self.counts[name]
            if not (math.isfinite(error) and math.isfinite(value)) or count < 2:
                continue
            is_of_trials = is_share(name) and 0 <= value <= 1
            edges = intervals.share(value, error, count) if is_of_trials else intervals.student(value, error, count)
            found[name] = Interval(*edges, count, "questions")
        return found


def keep_data_in(cache: Path) -> None:
    """Let data sets that tasks download be kept on the job's cache volume, where it has one and the user names no other place.

    Read by `datasets` when it is imported.
    """
    if os.environ.get(contract.ENV_CACHE) and not any(os.environ.get(name) for name in PLACES):
        os.environ["HF_DATASETS_CACHE"] = str(cache / "datasets-of-tasks")


def load(tasks: Sequence[Task], folder: Path | None) -> list[LoadedTask]:
    """The tasks with their data. ``folder`` holds the user's own, whose relative paths start there.

    Raises SpecError for a name that there is not, InputError for data that cannot be had.
    """
    if not tasks:
        return []
    if importlib.util.find_spec("lm_eval") is None:
        raise SpecError("spec.tasks needs the package lm-eval, which is not installed: install it, or remove tasks")
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    with contextlib.chdir(folder) if folder else contextlib.nullcontext():
        found = [_load(task, f"spec.tasks[{number}].name {task.name}", folder) for number, task in enumerate(tasks)]
    seen: dict[str, str] = {}
    for one in found:
        for name in one.entries["tasks"]:
            if name in seen:
                raise SpecError(
                    f"spec.tasks: {name} is part of {seen[name]} and of {one.task.name}: remove one of them"
                )
            seen[name] = one.task.name
    return found


def _load(task: Task, label: str, folder: Path | None) -> LoadedTask:
    try:
        found = _manager(task.name, folder, label).load([task.name])
    except OSError as error:  # of `datasets` too: offline, not there, not allowed
        raise InputError(
            f"{label}: its data cannot be had ({first_line(error)}): make the hub reachable, put the data into the cache, or keep a "
            "task with local data in taskFiles"
        ) from error
    except (SpecError, MemoryError):
        raise
    except Exception as error:  # whatever a task's YAML and Python can do wrong
        raise SpecError(
            f"{label}: it cannot be set up ({type(error).__name__}: {first_line(error)}): mend taskFiles"
        ) from error
    if not found["tasks"]:
        raise SpecError(f"{label} holds no task: name another")
    for name, one in found["tasks"].items():
        if task.num_fewshot:
            if one.get_config("num_fewshot") == 0:
                raise SpecError(
                    f"{label.replace('.name', '.numFewshot')}: it is {task.num_fewshot}, and {name} allows no examples: leave it out, or name "
                    "the tasks that allow them"
                )
            one.set_config(key="num_fewshot", value=task.num_fewshot)
        elif task.num_fewshot == 0:
            one.set_config(key="num_fewshot", value=0)
        one.set_fewshot_seed(seed=SEED)
    return LoadedTask(task, found)


def _manager(name: str, folder: Path | None, label: str) -> Any:
    """One that knows the task. Reading all fifteen thousand of the harness takes ten seconds, so the likely folder is tried first."""
    import lm_eval.tasks
    from lm_eval.tasks import TaskManager

    home = Path(lm_eval.tasks.__file__).parent
    likely = sorted(path for path in home.iterdir() if path.is_dir() and name.startswith(path.name))
    for places in ([folder] if folder else [], likely):
        if places:
            manager = TaskManager(include_path=[str(place) for place in places], include_defaults=False)
            if name in manager.all_tasks:
                return manager
    manager = TaskManager(include_path=str(folder) if folder else None)
    if name not in manager.all_tasks:
        close = difflib.get_close_matches(name, manager.all_tasks, n=3)
        hint = f": did you mean {' or '.join(close)}?" if close else ""
        raise SpecError(f"{label} is neither in taskFiles nor among the harness's{hint}")
    return manager


def run(
    loaded: LoadedTask,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    heartbeat: Callable[[], None],
) -> TaskResult:
    """What the model makes of it. ``heartbeat`` is called with every batch, and may raise, to stop."""
    from lm_eval.evaluator import evaluate
    from lm_eval.models.huggingface import HFLM

    alone = dynamic_positions.changes_with_length(model)

    def begin() -> None:
        heartbeat()
        if alone:
            dynamic_positions.start_anew(model)

    class HeartbeatLM(HFLM):  # type: ignore[misc]
        """Gives a heartbeat with every batch, and draws no bars of its own."""

        def loglikelihood(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood(requests, disable_tqdm=disable_tqdm)

        def loglikelihood_rolling(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().loglikelihood_rolling(requests, disable_tqdm=disable_tqdm)

        def generate_until(self, requests: Any, disable_tqdm: bool = True) -> Any:
            return super().generate_until(requests, disable_tqdm=disable_tqdm)

        def _model_call(self, *args: Any, **kwargs: Any) -> Any:
            begin()
            return super()._model_call(*args, **kwargs)

        def _model_generate(self, *args: Any, **kwargs: Any) -> Any:
            begin()
            return super()._model_generate(*args, **kwargs)

    with _neutral(model, tokenizer), _in_this_process(), libraries.silenced():
        results = evaluate(
            HeartbeatLM(
                pretrained=model,
                tokenizer=tokenizer,
                batch_size=1 if alone else batch_size,
                max_length=context_length(model.config.to_dict()) if alone else None,
            ),
            loaded.entries,
            limit=loaded.task.limit,
            bootstrap_iters=RESAMPLES,
            log_samples=True,
        )
    return _result(loaded, results)


def _result(loaded: LoadedTask, results: Mapping[str, Any]) -> TaskResult:
    """From the harness's own form: ``acc,none`` and ``acc_stderr,none`` by task and group."""
    metrics, errors, counts = {}, {}, {}
    for name, figures in {**results["results"], **results.get("groups", {})}.items():
        for key, value in figures.items():
            metric, _, filtered = key.partition(",")
            if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            full = _name(name, metric, filtered)
            metrics[full] = float(value)
            error, count = figures.get(f"{metric}_stderr,{filtered}"), figures.get("sample_len")
            if isinstance(error, int | float) and count:
                errors[full], counts[full] = float(error), int(count)
    ordered = {name: metrics[name] for name in [*loaded.metrics, *metrics] if name in metrics}
    samples = [_sample(name, one) for name, several in results.get("samples", {}).items() for one in several]
    asked = sum(int(results["results"][name]["sample_len"]) for name in loaded.entries["tasks"])
    return TaskResult(ordered, errors, counts, asked, samples)


def _sample(task: str, found: Mapping[str, Any]) -> str:
    """A question as a line of JSON. Of several requests with the same prompt, as those of a choice, the prompt is told once."""
    arguments = [list(one) for one in found["arguments"]]
    prompt = arguments[0][0]
    asked: dict[str, Any] = {"requests": arguments}
    if all(len(one) == 2 and one[0] == prompt for one in arguments):
        asked = {"prompt": prompt, "requests": [one[1] for one in arguments]}
    content = {
        "task": task,
        "id": found["doc_id"],
        "filter": found["filter"],
        "row": found["doc"],
        **asked,
        "answers": found["filtered_resps"],
        "target": found["target"],
        "metrics": {name: found[name] for name in found["metrics"]},
    }
    return json.dumps(_as_json(content), ensure_ascii=False)


def _as_json(value: Any) -> Any:
    """What JSON has: of a number that is none null, of what it does not know the text."""
    if isinstance(value, Mapping):
        return {str(name): _as_json(each) for name, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_as_json(each) for each in value]
    value = value.item() if hasattr(value, "item") and getattr(value, "size", 1) == 1 else value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, str | int | bool) else str(value)


@contextlib.contextmanager
def _in_this_process() -> Iterator[None]:
    """The harness would share resampling among forks of this process, which holds a model."""
    before = os.environ.get("DISABLE_MULTIPROC")
    os.environ["DISABLE_MULTIPROC"] = "1"
    try:
        yield
    finally:
        del os.environ["DISABLE_MULTIPROC"]
        if before is not None:
            os.environ["DISABLE_MULTIPROC"] = before


@contextlib.contextmanager
def _neutral(model: Any, tokenizer: Any) -> Iterator[None]:
    """The model without sampling settings of its own, such as a repetition penalty, which would shape what it writes in a task; and what
    the harness changes for itself put back."""
    from transformers import GenerationConfig

    side, pad, own = tokenizer.padding_side, tokenizer.pad_token, model.generation_config
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=own.eos_token_id if own is not None else tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    try:
        yield
    finally:
        tokenizer.padding_side, tokenizer.pad_token, model.generation_config = side, pad, own


def _name(task: str, metric: str, filtered: str) -> str:
    return f"{task}/{metric}" if filtered == "none" else f"{task}/{metric},{filtered}"
