"""Tasks of lm-evaluation-harness: those that can be run, by the metrics that there will be, and those that cannot."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.evaluation import Task
from tests.workloads import evaluated, tiny
from workloads.errors import InputError, Interrupted, SpecError, WorkloadError
from workloads.evaluation import harness
from workloads.models import libraries

libraries.quiet()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Of the user's tasks, on a machine that reaches no hub."""
    import datasets
    import huggingface_hub

    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    return tmp_path / "tasks"


def test_a_task_of_the_users_own_is_run_and_its_metrics_are_known_before(folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from workloads.data import tokenizer_io

    evaluated.write_task(folder, fewshot_split="validation")
    (loaded,) = harness.load([Task(name="likes", num_fewshot=1, limit=4)], folder)
    assert loaded.metrics == ["likes/acc"]
    tiny.write_model(tmp_path / "base")
    tokenizer = tokenizer_io.load_tokenizer(tmp_path / "base")
    llama = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    beats: list[int] = []

    def measured(batch_size: int) -> harness.TaskResult:
        return harness.run(loaded, llama, tokenizer, batch_size, lambda: beats.append(1))

    found = measured(2)
    assert found.metrics.keys() == {"likes/acc"}
    assert found.metrics["likes/acc"] in (0, 0.25, 0.5, 0.75, 1)
    assert len(beats) >= 4, "four questions of two answers, in batches of two"
    again = measured(8)
    assert again.metrics == found.metrics, "the same for the next model, and for other batches"
    right = [json.loads(line)["metrics"]["acc"] for line in found.samples]
    assert sum(right) / 4 == found.metrics["likes/acc"]
    spread = math.sqrt(sum((one - sum(right) / 4) ** 2 for one in right) / 3 / 4)
    assert found.errors == {"likes/acc": pytest.approx(spread)}, "as of the mean of the four that were kept"
    assert found.counts == {"likes/acc": 4}
    interval = found.intervals()["likes/acc"]
    assert (interval.count, interval.unit) == (4, "questions")
    assert 0 <= interval.low < interval.high <= 1
    sample = json.loads(found.samples[0])
    assert sample["prompt"].endswith(f"Human: {evaluated.QUESTIONS[0]['question']}\nAssistant:")
    assert sample["requests"] == [f" {sample['row']['good']}", f" {sample['row']['bad']}"]
    assert [len(answer) for answer in sample["answers"]] == [2, 2], "log probability, and whether it was the likeliest"
    assert (tokenizer.padding_side, tokenizer.pad_token) == ("right", "<pad>")


def test_examples_for_a_task_that_allows_none_are_refused(folder: Path) -> None:
    evaluated.write_task(folder, num_fewshot=0)
    (loaded,) = harness.load([Task(name="likes", num_fewshot=0)], folder)
    assert loaded.metrics == ["likes/acc"]
    with pytest.raises(SpecError) as refusal:
        harness.load([Task(name="likes", num_fewshot=2)], folder)
    assert str(refusal.value) == (
        "spec.tasks[0].numFewshot likes: it is 2, and likes allows no examples: leave it out, or name the tasks that allow them"
    )


def test_what_a_model_writes_in_a_task_is_not_shaped_by_its_own_settings_and_can_be_stopped(
    folder: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    from workloads.data import tokenizer_io

    evaluated.write_task(
        folder,
        output_type="generate_until",
        doc_to_choice=None,
        doc_to_target="{{good}}",
        generation_kwargs={"until": ["。"], "max_gen_toks": 16, "do_sample": False},
        metric_list=[{"metric": "exact_match", "aggregation": "mean", "higher_is_better": True}],
    )
    (loaded,) = harness.load([Task(name="likes", limit=2)], folder)
    assert loaded.metrics == ["likes/exact_match"]
    tiny.write_model(tmp_path / "base")
    tokenizer = tokenizer_io.load_tokenizer(tmp_path / "base")
    llama = AutoModelForCausalLM.from_pretrained(tmp_path / "base").eval()
    llama.generation_config.repetition_penalty = 1.5
    seen: list[Any] = []
    generate = llama.generate

    def watched(**kwargs: Any) -> Any:
        seen.append(llama.generation_config.repetition_penalty)
        return generate(**kwargs)

    llama.generate = watched
    assert harness.run(loaded, llama, tokenizer, 2, lambda: None).metrics.keys() == {"likes/exact_match"}
    assert set(seen) == {None}
    assert llama.generation_config.repetition_penalty == 1.5

    def stop() -> None:
        raise Interrupted("stopped")

    with pytest.raises(Interrupted):
        harness.run(loaded, llama, tokenizer, 2, stop)


def test_a_group_has_metrics_of_its_own_and_of_its_tasks(folder: Path) -> None:
    evaluated.write_task(folder)
    (folder / "group.yaml").write_text(
        '{"group": "people", "task": ["likes"], "aggregate_metric_list": [{"metric": "acc", "weight_by_size": true}]}'
    )
    (loaded,) = harness.load([Task(name="people")], folder)
    assert loaded.metrics == ["people/acc", "likes/acc"]
    with pytest.raises(SpecError, match=r"^spec\.tasks: likes is part of people and of likes: remove one of them$"):
        harness.load([Task(name="people"), Task(name="likes")], folder)


@pytest.mark.parametrize(
    ("name", "changes", "kind", "message"),
    [
        pytest.param(
            "cmmlu",
            {},
            InputError,
            "spec.tasks[0].name cmmlu: its data cannot be had (Couldn't reach 'haonan-li/cmmlu' on the Hub (OfflineModeIsEnabled)): make the "
            "hub reachable, put the data into the cache, or keep a task with local data in taskFiles",
            id="data that cannot be had",
        ),
        pytest.param(
            "likes",
            {"dataset_kwargs": {"data_files": {"validation": "nothing.jsonl"}}},
            InputError,
            "spec.tasks[0].name likes: its data cannot be had (Unable to find '{folder}/nothing.jsonl'): make the hub reachable, put "
            "the data into the cache, or keep a task with local data in taskFiles",
            id="data of its own that is not there",
        ),
        pytest.param(
            "likes",
            {"output_type": "telepathy"},
            SpecError,
            "spec.tasks[0].name likes: it cannot be set up (ValueError: Got invalid output_type 'telepathy', must be in "
            "'loglikelihood,multiple_choice,loglikelihood_rolling,generate_until'): mend taskFiles",
            id="a task that cannot be set up",
        ),
    ],
)
def test_a_task_that_cannot_be_run_is_told(
    name: str, changes: dict[str, Any], kind: type[WorkloadError], message: str, folder: Path
) -> None:
    evaluated.write_task(folder, **changes)
    with pytest.raises(kind) as refused:
        harness.load([Task(name=name)], folder)
    assert str(refused.value) == message.format(folder=folder)
