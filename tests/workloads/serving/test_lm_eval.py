"""lm-evaluation-harness over the API has the figures that it has in the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.evaluation import Task
from tests.workloads import evaluated
from tests.workloads.engine_process import manifest
from workloads.evaluation import harness
from workloads.models import libraries
from workloads.runtime.http import Server, listen
from workloads.serving.engine import loading
from workloads.serving.engine.served_model import ServedModel
from workloads.serving.engine.server import Engine, application
from workloads.system.environment import Environment

libraries.quiet()
PAIRS = [
    ("第3问：赵先生喜欢什么？", "他喜欢山。"),
    ("他喜欢", "水云月"),
    ("a ", "b"),
    ("", "他喜欢山水。"),
    ("山" * 40, "云" * 9),
]


@dataclass
class Served:
    """An engine on a port of its own."""

    url: str
    folder: Path
    model: ServedModel


@pytest.fixture(scope="module")
def served(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("served")
    generation = {"repetitionPenalty": 1}
    job = ChatDeployment.model_validate(manifest("poet", model={"uri": str(shelf / "base")}, generation=generation))
    engine = Engine(("poet",))
    environment = Environment.read({"ALPACA_CACHE": str(folder / "cache")})
    engine.models = loading.load(job, environment, engine.metrics, lambda message: None)
    listener = listen(in_pod=False, port=0, variable="port")
    server = Server(application(engine), graceful_seconds=1)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])))
    thread.start()
    yield Served(f"http://127.0.0.1:{listener.getsockname()[1]}", shelf / "base", engine.models["poet"])
    server.should_exit = True
    thread.join()
    engine.models["poet"].scheduler.close()


def over_the_api(served: Served, **arguments: Any) -> Any:
    from lm_eval.models.openai_completions import LocalCompletionsAPI

    return LocalCompletionsAPI(
        base_url=f"{served.url}/v1/completions",
        model="poet",
        tokenizer=str(served.folder),
        **{"tokenizer_backend": "huggingface", "batch_size": 4, "max_length": 128, **arguments},
    )


def in_process(served: Served) -> Any:
    from lm_eval.models.huggingface import HFLM

    model: Any = served.model.scheduler._model
    return HFLM(pretrained=model, tokenizer=served.model.template.tokenizer, batch_size=1, max_length=127)


def instances(kind: str, *arguments: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(kind, {}, each, number) for number, each in enumerate(arguments)]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param({}, id="as tokens, four at a time"),
        pytest.param({"num_concurrent": 3, "batch_size": 1}, id="as tokens, three requests at a time"),
    ],
)
def test_likelihoods_are_those_of_the_process(served: Served, arguments: dict[str, Any]) -> None:
    api, here = over_the_api(served, **arguments), in_process(served)
    asked = instances("loglikelihood", *PAIRS)
    found, wanted = api.loglikelihood(asked), here.loglikelihood(asked)
    assert [logprob for logprob, _ in found] == pytest.approx([logprob for logprob, _ in wanted], abs=1e-3)
    assert [bool(greedy) for _, greedy in found] == [bool(greedy) for _, greedy in wanted]
    (best,) = here.generate_until(instances("generate_until", ("山", {"until": [], "max_gen_toks": 3})))
    ((_, greedy),) = api.loglikelihood(instances("loglikelihood", ("山", best)))
    assert greedy == here.loglikelihood(instances("loglikelihood", ("山", best)))[0][1]


def test_texts_longer_than_the_window_have_the_same_likelihood(served: Served) -> None:
    asked = instances("loglikelihood_rolling", ("赵先生喜欢山水云月。" * 40,), ("山",))
    found = over_the_api(served).loglikelihood_rolling(asked)
    assert found == pytest.approx(in_process(served).loglikelihood_rolling(asked), rel=1e-4)


def test_a_task_has_the_same_metrics(served: Served, tmp_path: Path) -> None:
    from lm_eval.evaluator import evaluate

    evaluated.write_task(tmp_path / "tasks", metric_list=[{"metric": "acc"}, {"metric": "acc_norm"}])
    (loaded,) = harness.load([Task(name="likes")], tmp_path / "tasks")
    model: Any = served.model.scheduler._model
    wanted = harness.run(loaded, model, served.model.template.tokenizer, 2, lambda: None).metrics
    told: Any = evaluate(over_the_api(served), loaded.entries, bootstrap_iters=0, log_samples=False)
    assert {name: told["results"]["likes"][f"{name.partition('/')[2]},none"] for name in wanted} == wanted
    assert wanted.keys() == {"likes/acc", "likes/acc_norm"}


def test_what_a_model_writes_in_a_task_is_the_same(served: Served) -> None:
    settings = {"until": ["。"], "max_gen_toks": 12, "do_sample": False}
    asked = instances("generate_until", *((text, settings) for text in ("山", "赵先生", "第3问：他喜欢")))
    found = over_the_api(served).generate_until(asked)
    wanted = in_process(served).generate_until(asked)
    assert [text.partition("。")[0].strip() for text in found] == [text.strip() for text in wanted]
    assert len(set(found)) > 1
