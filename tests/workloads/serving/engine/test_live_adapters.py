"""Adapters are put on a model and taken from it between two steps: which answers hold what, what is refused, and what it takes of memory."""

from __future__ import annotations

import asyncio
import json
import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.chat import ChatDeployment
from tests.workloads import tiny
from tests.workloads.engine_process import PATIENCE, manifest
from tests.workloads.serving.engine.test_loading import QUESTION, adapter
from workloads.models import inference
from workloads.serving import adapter_list
from workloads.serving.engine import loading
from workloads.serving.engine.live_adapters import LiveAdapters
from workloads.serving.engine.metrics import Metrics
from workloads.serving.engine.schema import ChatRequest
from workloads.serving.engine.served_model import ServedModel
from workloads.serving.engine.server import Engine
from workloads.serving.refusal import Refusal
from workloads.system.environment import Environment

# PEFT asks transformers by a name that is going to be removed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, adapters on it, and some that do not fit; not to be written to."""
    folder = tmp_path_factory.mktemp("made")
    tiny.write_model(folder / "base", hidden=64)
    adapter(folder / "base", folder / "first")
    adapter(folder / "base", folder / "second", use_dora=True, lora_alpha=32)
    wide = tiny.write_model(folder / "wide base", hidden=64, vocab_size=320)
    adapter(wide, folder / "extended", modules_to_save=["embed_tokens", "lm_head"])
    adapter(tiny.write_model(folder / "narrow base", hidden=32), folder / "narrow")
    return folder


class Steps:
    """A model that makes a step when it is let."""

    def __init__(self, model: Any) -> None:
        self._model, self.device = model, model.device
        self._permits = threading.Semaphore(0)

    def let(self) -> None:
        self._permits.release()

    def __call__(self, **inputs: Any) -> Any:
        assert self._permits.acquire(timeout=PATIENCE)
        return self._model(**inputs)


class Desk:
    """An engine that follows a list, in this process."""

    def __init__(self, made: Path, folder: Path) -> None:
        self.made, self.path = made, folder / "list.json"
        self.list()
        job = ChatDeployment.model_validate(manifest(model={"uri": str(made / "base")}))
        environment = Environment.read({"ALPACA_CACHE": str(folder / "cache")})
        self.engine = Engine(("tiny",))
        self.said: list[str] = []
        self.live = LiveAdapters(job, environment, self.path, self.engine, self.said.append)

    def list(self, **uris: str) -> None:
        """Adapters by their names, each a folder of those that are made."""
        listed = [{"name": name, "uri": str(self.made / uri)} for name, uri in uris.items()]
        self.path.write_text(json.dumps({"adapters": listed}), encoding="utf-8")

    def load(self) -> Desk:
        self.engine.models = self.live.load(self.engine.metrics, self.said.append)
        return self

    @asynccontextmanager
    async def following(self) -> AsyncIterator[Desk]:
        task = asyncio.create_task(self.live.follow())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def until(self, holds: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
        async with asyncio.timeout(PATIENCE):
            while not holds():
                meanwhile()
                await asyncio.sleep(0.02)

    async def there(self, *names: str) -> None:
        await self.until(lambda: set(self.engine.models) == {"tiny", *names})

    async def says(self, *parts: str) -> str:
        found: list[str] = []

        def heard() -> bool:
            found.extend(line for line in self.said if all(part in line for part in parts))
            return bool(found)

        await self.until(heard)
        return found[0]

    @property
    def scheduler(self) -> Any:
        return self.engine.models["tiny"].scheduler

    def refused(self) -> dict[str, str]:
        """As the operator reads it."""
        from alpaca_operator.chats.traffic import parse

        return dict(parse(self.engine.metrics.text()).adapters_refused)


@pytest.fixture
def desk(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Desk]:
    monkeypatch.setattr(adapter_list, "LOOK_SECONDS", 0.02)
    opened = Desk(made, tmp_path)
    yield opened
    for scheduler in opened.engine.schedulers:
        scheduler.close()


async def answer(served: ServedModel, tokens: int = 16) -> str:
    wanted: dict[str, Any] = {"temperature": 0, "repetition_penalty": 1, "max_tokens": tokens, "ignore_eos": True}
    (one,) = served.ask(ChatRequest(model=served.name, messages=QUESTION, **wanted))
    with served.used():
        return await served.scheduler.submit(one.answer).whole()


@pytest.fixture(scope="module")
def expected(made: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What an engine answers that was started with both adapters."""
    named = [{"uri": str(made / "first"), "name": "poet"}, {"uri": str(made / "second"), "name": "sage"}]
    job = ChatDeployment.model_validate(manifest(model={"uri": str(made / "base")}, adapters=named))
    environment = Environment.read({"ALPACA_CACHE": str(tmp_path_factory.mktemp("cache"))})
    served = loading.load(job, environment, Metrics(), lambda line: None)

    async def all_of_them() -> dict[str, str]:
        return {name: await answer(each, 40) for name, each in served.items()}

    try:
        return asyncio.run(all_of_them())
    finally:
        served["tiny"].scheduler.close()


async def test_one_comes_and_goes_while_another_is_answered_and_ends_what_it_answers(
    desk: Desk, expected: dict[str, str]
) -> None:
    assert len(set(expected.values())) == 3
    async with desk.load().following():
        steps = desk.scheduler._model = Steps(desk.scheduler._model)

        def go_on_for_them() -> None:
            if desk.scheduler._between:
                steps.let()

        of_base = asyncio.create_task(answer(desk.engine.models["tiny"], 40))
        await desk.until(lambda: desk.scheduler.running == 1)
        desk.list(poet="first", sage="second")
        await desk.until(lambda: {"poet", "sage"} <= desk.engine.models.keys(), go_on_for_them)
        assert desk.scheduler.running == 1, "they came while an answer was written"
        poet = desk.engine.models["poet"]
        of_poet = asyncio.create_task(answer(poet, 40))
        await desk.until(lambda: desk.scheduler.running == 2, steps.let)
        desk.list(sage="second")
        await desk.until(lambda: "poet" not in desk.engine.models)
        with pytest.raises(Refusal, match="'poet' does not exist; this server has tiny and sage"):
            desk.engine.find("poet")
        assert poet.users == 1, "it went while it answered"
        of_sage = asyncio.create_task(answer(desk.engine.models["sage"], 40))
        answers = asyncio.gather(of_base, of_poet, of_sage)
        await desk.until(answers.done, steps.let)
        assert await answers == [expected["tiny"], expected["poet"], expected["sage"]]
        await desk.says("adapter poet is dropped")
        assert set(desk.live._base.found.model.peft_config) == {"adapter1"}
        assert {row.adapter for row in desk.scheduler._rows.over} == {None, 1}


async def test_all_may_go_and_come_again(desk: Desk, expected: dict[str, str]) -> None:
    desk.list(poet="first", sage="second")
    async with desk.load().following():
        assert set(desk.engine.models) == {"tiny", "poet", "sage"}
        positions = desk.scheduler.positions
        desk.list()
        await desk.says("adapter poet is dropped")
        await desk.says("adapter sage is dropped")
        assert not desk.live._base.found.model.peft_config
        assert await answer(desk.engine.models["tiny"], 40) == expected["tiny"]
        desk.list(sage="second")
        await desk.there("sage")
        assert await answer(desk.engine.models["sage"], 40) == expected["sage"]
        assert await answer(desk.engine.models["tiny"], 40) == expected["tiny"]
        assert desk.scheduler.positions < positions, "what it takes is not for conversations"
        desk.list()
        await desk.there()
        await desk.until(lambda: desk.scheduler.positions == positions)


async def test_one_under_the_same_name_takes_over(desk: Desk, expected: dict[str, str]) -> None:
    desk.list(poet="second")
    async with desk.load().following():
        assert await answer(desk.engine.models["poet"], 40) == expected["sage"]
        before = desk.engine.models["poet"]
        desk.list(poet="first")
        await desk.until(lambda: desk.engine.models["poet"] is not before)
        assert await answer(desk.engine.models["poet"], 40) == expected["poet"]
        desk.list(poet="extended")
        await desk.until(lambda: "poet" in desk.refused())
        assert await answer(desk.engine.models["poet"], 40) == expected["poet"], "what is served goes on"


REFUSED = [
    pytest.param("extended", "embeddings or other weights of its own, as with an extended vocabulary", "merge first"),
    pytest.param("narrow", "has the shape", "name the base that the adapter was made from"),
    pytest.param("nowhere", "does not exist", "nowhere"),
    pytest.param("base", "has no adapter_config.json", "base"),
]


@pytest.mark.parametrize(("uri", "what", "remedy"), REFUSED, ids=lambda value: value.replace(" ", "-"))
async def test_what_does_not_fit_is_refused_by_name_and_the_others_are_served(
    desk: Desk, expected: dict[str, str], uri: str, what: str, remedy: str
) -> None:
    """At the start, and while it serves."""
    desk.list(poet="first", odd=uri)
    async with desk.load().following():
        assert desk.engine.state == "ready"
        assert set(desk.engine.models) == {"tiny", "poet"}
        at_start = await desk.says("adapter odd is refused", what, remedy)
        await desk.until(lambda: "odd" in desk.refused())
        assert desk.refused()["odd"][:40] in at_start
        desk.list(poet="first")
        await desk.until(lambda: not desk.refused())
        desk.said.clear()
        desk.list(odd=uri, sage="second")
        await desk.there("sage")
        assert await desk.says("adapter odd is refused", what, remedy) == at_start
        assert await answer(desk.engine.models["sage"], 40) == expected["sage"]


async def test_one_that_cannot_be_put_on_leaves_the_model_as_it_was(
    desk: Desk, expected: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also the first, for which PEFT rebuilds the model."""
    import peft

    def breaks(self: Any, *args: Any, **options: Any) -> None:
        raise RuntimeError("CUDA out of memory")

    async with desk.load().following():
        with monkeypatch.context() as patched:
            patched.setattr(peft.peft_model, "set_peft_model_state_dict", breaks)
            desk.list(poet="first")
            line = await desk.says("adapter poet is refused")
        assert "does not fit in memory beside what is served: remove another adapter" in line
        assert not any("lora" in name for name, _ in desk.live._base.found.model.named_modules())
        assert await answer(desk.engine.models["tiny"], 40) == expected["tiny"]
        desk.list(poet="first", sage="second")
        await desk.until(lambda: "sage" in desk.engine.models)
        assert await answer(desk.engine.models["sage"], 40) == expected["sage"]


async def test_without_room_it_is_refused_by_name(desk: Desk) -> None:
    async with desk.load().following():
        served = desk.engine.models["tiny"]
        desk.scheduler._rows.positions = served.context
        desk.list(poet="first")
        line = await desk.says("adapter poet is refused")
        assert "and one may have 512" in line
        assert "remove another adapter, raise pod.resources.limits, or set load.bits" in line
        assert desk.scheduler.positions == served.context


async def test_one_that_lies_elsewhere_now_or_is_another_is_refused(desk: Desk) -> None:
    async with desk.load().following():
        listed = {"name": "poet", "uri": str(desk.made / "first"), "digest": "sha256:" + "0" * 64}
        desk.path.write_text(json.dumps({"adapters": [listed]}), encoding="utf-8")
        assert "was replaced or damaged" in await desk.says("adapter poet is refused")


async def test_what_is_put_there_later_is_served_then(
    desk: Desk, expected: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_list, "RETRY_SECONDS", 0.0)
    async with desk.load().following():
        late = {"name": "poet", "uri": str(tmp_path / "late")}
        desk.path.write_text(json.dumps({"adapters": [late]}), encoding="utf-8")
        await desk.says("adapter poet is refused")
        shutil.copytree(desk.made / "first", tmp_path / "copied")
        (tmp_path / "copied").rename(tmp_path / "late")
        await desk.there("poet")
        assert desk.refused() == {}
        assert await answer(desk.engine.models["poet"], 40) == expected["poet"]


async def test_a_list_that_cannot_be_read_changes_nothing(desk: Desk) -> None:
    desk.list(poet="first")
    async with desk.load().following():
        desk.path.write_text('{"adapters": [', encoding="utf-8")
        await desk.says("the list of adapters cannot be read")
        assert set(desk.engine.models) == {"tiny", "poet"}
        desk.list()
        await desk.there()


def test_one_by_the_name_of_the_deployment_is_refused(desk: Desk) -> None:
    desk.list(tiny="first")
    desk.load()
    line = "adapter tiny is refused: adapter tiny has the name of a model that is served: give it another"
    assert line in desk.said
    assert desk.engine.models["tiny"].kind == "Model"


def test_until_it_is_loaded_it_is_said_to_come(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []

    def looks(inspected: Any) -> Any:
        with pytest.raises(Refusal) as refused:
            desk.engine.find("poet")
        seen.append(refused.value.code)
        return found(inspected)

    found = inference.load_inspected
    monkeypatch.setattr(inference, "load_inspected", looks)
    desk.list(poet="first")
    desk.load()
    assert seen == ["model_loading"]
    assert adapter_list.LOOK_SECONDS <= 1
