"""vLLM is told of adapters as a list says, while it answers: which come and go, which are refused, and what it is told when it starts anew."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.chats.traffic import parse
from tests.workloads import tiny
from tests.workloads.engine_process import PATIENCE, ROOT, manifest
from tests.workloads.serving.engine.test_loading import adapter
from tests.workloads.serving.front.standin import Vllm
from workloads.errors import SpecError
from workloads.runtime.http import Server, listen
from workloads.serving import adapter_list
from workloads.serving.front.application import Front, Worn, _Renaming, application
from workloads.serving.front.live_adapters import LiveAdapters
from workloads.serving.front.service import client, front_of, generation_of
from workloads.system.environment import Environment

# PEFT asks transformers by a name that is going to be removed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
QUESTION = [{"role": "user", "content": "问"}]
DIGEST = "sha256:" + "0" * 64


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, adapters on it, and some that do not fit; not to be written to."""
    folder = tmp_path_factory.mktemp("made")
    tiny.write_model(folder / "base", hidden=64)
    adapter(folder / "base", folder / "first")
    (folder / "first" / "generation_config.json").write_text('{"temperature": 0.9}', encoding="utf-8")
    adapter(folder / "base", folder / "second")
    adapter(folder / "base", folder / "deep", rank=16)
    wide = tiny.write_model(folder / "wide base", hidden=64, vocab_size=320)
    adapter(wide, folder / "extended", modules_to_save=["embed_tokens", "lm_head"])
    adapter(tiny.write_model(folder / "narrow base", hidden=32), folder / "narrow")
    return folder


@pytest.fixture
def vllm() -> Iterator[Vllm]:
    started = Vllm(updates=True)
    yield started
    started.goes_on.set()
    started.end()


class Desk:
    """A front that follows a list, in this process, before a vLLM in a thread."""

    def __init__(self, made: Path, folder: Path, vllm: Vllm) -> None:
        self.made, self.path, self.vllm = made, folder / "list.json", vllm
        self.said: list[str] = []
        spec = {"model": {"uri": str(made / "base")}, "template": "FromModel", "engine": "vLLM"}
        self._job = ChatDeployment.model_validate(manifest("poet", **spec))
        self._environment = Environment.read({"ALPACA_CACHE": str(folder / "cache")})
        self.list()

    def list(self, **uris: str) -> None:
        """Adapters by their names, each a folder of those that are made, or a whole URI."""
        listed = [{"name": name, "uri": self.uri(uri)} for name, uri in uris.items()]
        self.path.with_suffix(".new").write_text(json.dumps({"adapters": listed}), encoding="utf-8")
        os.replace(self.path.with_suffix(".new"), self.path)

    def uri(self, uri: str) -> str:
        return uri if "://" in uri or uri.startswith("/") else str(self.made / uri)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Desk]:
        listener = listen(in_pod=False, port=0, variable="port")
        self.front = Front("poet", client(self.vllm.url), generation=generation_of(self._job, self._environment))
        live = LiveAdapters(self._job, self._environment, self.path, self.front, self.said.append)
        server = Server(application(self.front), 1, lifespan="on")
        answering = asyncio.create_task(server.serve(sockets=[listener]))
        self._following = asyncio.create_task(live.follow())
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            async with httpx.AsyncClient(base_url=address, timeout=PATIENCE) as self.client:
                yield self
        finally:
            await self.look_away()
            server.should_exit = True
            await answering

    async def look_away(self) -> None:
        """The list is followed no more, nor what vLLM has."""
        self._following.cancel()
        with suppress(asyncio.CancelledError):
            await self._following

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE):
            while True:
                if holds():
                    return
                await asyncio.sleep(0.01)

    async def there(self, *names: str) -> None:
        await self.until(lambda: set(self.front.adapters) == set(names) and not self.front.coming)

    async def says(self, *parts: str) -> str:
        found: list[str] = []

        def heard() -> bool:
            found.extend(line for line in self.said if all(part in line for part in parts))
            return bool(found)

        await self.until(heard)
        return found[0]

    async def ask(self, model: str = "poet", **fields: Any) -> httpx.Response:
        body = {"model": model, "messages": QUESTION, **fields}
        return await self.client.post("/v1/chat/completions", json=body)

    async def answer(self, model: str) -> str:
        told = (await self.ask(model)).json()
        assert told["model"] == model
        return str(told["choices"][0]["message"]["content"])

    async def names(self) -> list[str]:
        return [each["id"] for each in (await self.client.get("/v1/models")).json()["data"]]

    async def figures(self) -> Any:
        """As the operator reads them."""
        return parse((await self.client.get("/metrics")).content)


@pytest.fixture
def desk(made: Path, tmp_path: Path, vllm: Vllm, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(adapter_list, "LOOK_SECONDS", 0.02)
    return Desk(made, tmp_path, vllm)


async def test_adapters_come_and_go_each_a_model_by_its_name(desk: Desk, vllm: Vllm) -> None:
    desk.list(haiku="first")
    async with desk.serving():
        await desk.there("haiku")
        assert await desk.names() == ["poet", "haiku"]
        assert [await desk.answer(name) for name in ("poet", "haiku")] == ["疑是地上霜", "first"]
        desk.list(haiku="first", ode="second")
        await desk.there("haiku", "ode")
        assert await desk.answer("ode") == "second"
        base, haiku, ode = (await desk.client.get("/v1/models")).json()["data"]
        assert (base["parent"], haiku["parent"], ode["parent"]) == (None, "poet", "poet")
        assert (haiku["root"], haiku["alpaca"]["contextLength"]) == (str(desk.made / "first"), 4096)
        assert (await desk.client.get("/v1/models/haiku")).json() == haiku
        assert (await desk.figures()).digests == {
            name: entry["alpaca"]["digest"] for name, entry in (("haiku", haiku), ("ode", ode))
        }
        desk.list(ode="second")
        await desk.there("ode")
        gone = await desk.ask("haiku")
        assert (gone.status_code, gone.json()["error"]["message"]) == (
            404,
            "The model 'haiku' does not exist; this server has poet and ode.",
        )
        await desk.says("adapter haiku is dropped")
        assert list(vllm.loras.values()) == [str(desk.made / "second")]
        assert set((await desk.figures()).digests) == {"ode"}
        assert (await desk.figures()).queued == 0, "vLLM's own are told beside"


async def test_each_is_asked_as_its_own_folder_says_and_a_stream_has_the_name_that_was_asked(desk: Desk) -> None:
    desk.list(haiku="first", ode="second")
    async with desk.serving():
        await desk.there("haiku", "ode")
        for name in ("haiku", "ode"):
            async with desk.client.stream(
                "POST", "/v1/chat/completions", json={"model": name, "messages": QUESTION, "stream": True}
            ) as stream:
                told = (await stream.aread()).decode()
            events = [
                json.loads(line.removeprefix("data: ")) for line in told.splitlines() if line.startswith("data: {")
            ]
            assert {event["model"] for event in events} == {name}
            assert told.rstrip().endswith("data: [DONE]")
        assert [asked["temperature"] for asked in desk.vllm.asked] == [0.9, 0.3]
        assert all("@" in asked["model"] for asked in desk.vllm.asked)
        await desk.client.post("/v1/completions", json={"model": "haiku", "prompt": "山"})
        assert desk.vllm.asked[-1]["model"].startswith("haiku@")


async def test_one_that_is_exchanged_is_asked_until_the_new_one_is_there_and_ends_what_it_answers(
    desk: Desk, vllm: Vllm
) -> None:
    """To a question that the one before has answered already: what vLLM remembers of it must not be the new one's."""
    desk.list(haiku="first")
    async with desk.serving():
        await desk.there("haiku")
        assert await desk.answer("haiku") == "first"
        vllm.goes_on.clear()
        body = {"model": "haiku", "messages": [*QUESTION, *QUESTION], "stream": True}
        async with desk.client.stream("POST", "/v1/chat/completions", json=body) as stream:
            lines = stream.aiter_lines()
            await anext(lines)
            (before,) = desk.front.adapters.values()
            desk.list(haiku="second")
            while desk.front.adapters["haiku"] is before:
                assert (await desk.client.get("/v1/models/haiku")).status_code == 200, "it is never nobody's"
            await desk.says("adapter haiku answers", "second")
            assert len(vllm.loras) == 2, "the one before answers still"
            vllm.goes_on.set()
            rest = [line async for line in lines]
        assert "data: [DONE]" in rest
        assert any('"rst"' in line for line in rest), "and is itself to the end"
        await desk.says("adapter haiku is dropped")
        assert await desk.answer("haiku") == "second"
        assert list(vllm.loras.values()) == [str(desk.made / "second")]
        desk.list(haiku="narrow")
        await desk.says("adapter haiku is refused")
        assert await desk.answer("haiku") == "second", "what is served goes on"


REFUSED = [
    pytest.param("extended", "embeddings or other weights of its own, as with an extended vocabulary", "merge first"),
    pytest.param("narrow", "has the shape", "name the base that the adapter was made from"),
    pytest.param("nowhere", "does not exist", "nowhere"),
    pytest.param("base", "has no adapter_config.json", "base"),
    pytest.param("s3://models/ode", "vLLM reads adapters from pvc:// alone", "set engine to Transformers"),
    pytest.param("deep", "LoRA rank 16 is greater than max_lora_rank 8", "merge it first"),
]


@pytest.mark.parametrize(("uri", "what", "remedy"), REFUSED, ids=lambda value: value.replace(" ", "-").replace("/", ""))
async def test_what_does_not_fit_is_refused_by_name_and_the_others_are_served(
    desk: Desk, uri: str, what: str, remedy: str
) -> None:
    desk.list(odd=uri, haiku="first")
    async with desk.serving():
        line = await desk.says("adapter odd is refused", what, remedy)
        assert f"spec.adapters[odd] {desk.uri(uri)}" in line or f"spec.adapters[odd].uri: {desk.uri(uri)}" in line
        assert "@" not in line, "by the name that the list has"
        await desk.there("haiku")
        assert await desk.answer("haiku") == "first"
        assert (await desk.client.get("/health")).status_code == 200
        told = (await desk.figures()).adapters_refused
        assert list(told) == ["odd"]
        assert told["odd"][:60] in line
        assert (await desk.ask("odd")).status_code == 404
        desk.list(haiku="first")
        await desk.until(lambda: not desk.front.coming and "odd" not in desk.front.figures().decode())


async def test_one_that_is_another_than_its_job_made_is_refused(desk: Desk) -> None:
    listed = {"name": "haiku", "uri": desk.uri("first"), "digest": DIGEST}
    desk.path.write_text(json.dumps({"adapters": [listed]}), encoding="utf-8")
    async with desk.serving():
        assert "was replaced or damaged" in await desk.says("adapter haiku is refused")


async def test_one_by_the_name_of_the_deployment_is_refused(desk: Desk) -> None:
    desk.list(poet="first")
    async with desk.serving():
        await desk.says("adapter poet is refused: adapter poet has the name of a model that is served: give it another")
        assert await desk.answer("poet") == "疑是地上霜"


async def test_what_is_put_there_later_is_served_then(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(adapter_list, "RETRY_SECONDS", 0.0)
    desk.list(haiku=str(tmp_path / "late"))
    async with desk.serving():
        await desk.says("adapter haiku is refused")
        shutil.copytree(desk.made / "first", tmp_path / "copied")
        (tmp_path / "copied").rename(tmp_path / "late")
        await desk.there("haiku")
        assert (await desk.figures()).adapters_refused == {}


async def test_a_list_that_cannot_be_read_changes_nothing(desk: Desk) -> None:
    desk.list(haiku="first")
    async with desk.serving():
        await desk.there("haiku")
        desk.path.write_text('{"adapters": [', encoding="utf-8")
        await desk.says("the list of adapters cannot be read")
        assert await desk.names() == ["poet", "haiku"]
        desk.list()
        await desk.there()


async def test_vllm_that_starts_anew_is_told_again(desk: Desk, vllm: Vllm) -> None:
    desk.list(haiku="first", ode="second")
    async with desk.serving():
        await desk.there("haiku", "ode")
        told = sorted(vllm.told)
        await asyncio.to_thread(vllm.restart)
        await desk.says("vLLM has started anew, without adapter haiku: it is told of it again")
        await desk.there("haiku", "ode")
        assert sorted(vllm.told) == sorted([*told, *told])
        assert [await desk.answer(name) for name in ("haiku", "ode")] == ["first", "second"]
        assert set((await desk.figures()).digests) == {"haiku", "ode"}


async def test_until_vllm_is_there_adapters_are_said_to_come_and_the_pod_is_not_ready(desk: Desk, vllm: Vllm) -> None:
    """Whatever starts first; and a name that vLLM lost since the last look is no stranger."""
    await asyncio.to_thread(vllm.end)
    desk.list(haiku="first")
    async with desk.serving():
        for response in (await desk.ask("haiku"), await desk.client.get("/v1/models/haiku")):
            assert (response.status_code, response.json()["error"]["code"]) == (503, "model_loading")
            assert response.headers["retry-after"]
        assert (await desk.ask("ode")).status_code == 404
        assert (await desk.client.get("/health")).status_code == 503
        await asyncio.to_thread(vllm.start, int(vllm.url.rpartition(":")[2]))
        await desk.there("haiku")
        assert (await desk.client.get("/health")).json() == {"status": "ready"}
        assert await desk.answer("haiku") == "first"


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(PlainTextResponse("<html>starting</html>"), id="no JSON"),
        pytest.param(JSONResponse({"models": []}), id="another list"),
        pytest.param(JSONResponse({"data": ["poet"]}), id="names alone"),
        pytest.param(Response(b"[]", headers={"content-encoding": "gzip"}), id="what cannot be decoded"),
    ],
)
async def test_what_is_no_list_of_models_is_told_and_asked_for_again(desk: Desk, vllm: Vllm, answer: Response) -> None:
    vllm.garbled = answer
    desk.list(haiku="first")
    async with desk.serving():
        await desk.says("lists no models as vLLM does")
        told = await desk.client.get("/v1/models")
        assert told.status_code == 502
        assert told.json()["error"]["message"].startswith(f"what answers at {vllm.url}")
        vllm.garbled = None
        await desk.there("haiku")
        assert await desk.answer("haiku") == "first"
        assert len([line for line in desk.said if "lists no models" in line]) == 1


async def test_a_pod_is_ready_with_what_is_on_its_list(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter_list, "LOOK_SECONDS", 3600.0)
    desk.list(haiku="first")
    async with desk.serving():
        told = await desk.client.get("/health")
        assert (told.status_code, told.json()["message"]) == (503, "vLLM is told of haiku")


async def test_what_vllm_lost_since_the_last_look_is_said_to_come(desk: Desk, vllm: Vllm) -> None:
    desk.list(haiku="first")
    async with desk.serving():
        await desk.there("haiku")
        await desk.look_away()
        await asyncio.to_thread(vllm.restart)
        told = await desk.ask("haiku")
        assert (told.status_code, told.json()["error"]["code"]) == (503, "model_loading")
        assert told.json()["error"]["message"].startswith("haiku is being loaded (vLLM has started anew")


async def test_one_that_stands_here_anew_takes_over_what_vllm_has(desk: Desk, vllm: Vllm) -> None:
    desk.list(haiku="first", ode="second")
    async with desk.serving():
        await desk.there("haiku", "ode")
    desk.list(haiku="first")
    loads = vllm.told.copy()
    async with desk.serving():
        await desk.there("haiku")
        await desk.says("adapter ode is dropped")
        assert await desk.answer("haiku") == "first"
    assert [kind for kind, _ in vllm.told[len(loads) :]] == ["unload"]


async def test_what_vllm_does_not_drop_is_said_once_and_tried_again(
    desk: Desk, vllm: Vllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.list(haiku="first")
    vllm.keeps = True
    async with desk.serving():
        await desk.there("haiku")
        desk.list()
        line = await desk.says("adapter haiku stays in vLLM, which does not drop it: Failed to remove lora adapter")
        assert (await desk.ask("haiku")).status_code == 404
        desk.list(haiku="first")
        await desk.there("haiku")
        assert await desk.answer("haiku") == "first"
        assert desk.said.count(line) == 1
        monkeypatch.setattr(adapter_list, "RETRY_SECONDS", 0.0)
        vllm.keeps = False
        desk.list()
        await desk.there()


@pytest.mark.parametrize("size", [1, 2, 7, 1000])
def test_a_name_is_told_as_it_was_asked_however_an_answer_is_cut(size: int) -> None:
    worn = Worn("haiku", "haiku@0123", DIGEST, "/mnt/models/haiku")
    theirs = b'{"model":"haiku@0123","text":"\\"haiku@0123\\" \\"haiku@","of":{"model": "haiku@0123"}} "haiku@01'
    renaming = _Renaming(worn)
    told = b"".join(renaming.next(theirs[place : place + size]) for place in range(0, len(theirs), size))
    expected = b'{"model":"haiku","text":"\\"haiku@0123\\" \\"haiku@","of":{"model": "haiku"}} "haiku@01'
    assert told + renaming.rest() == expected
    assert _Renaming(None).next(theirs) == theirs


def test_adapters_with_names_need_a_list(tmp_path: Path) -> None:
    named = [{"uri": "pvc://models/lora", "name": "haiku"}]
    job = ChatDeployment.model_validate(manifest("poet", template="FromModel", engine="vLLM", adapters=named))
    with pytest.raises(SpecError, match="name a file with the list in ALPACA_ADAPTERS"):
        front_of(job, {}, Environment.read({"ALPACA_CACHE": str(tmp_path)}))


@pytest.mark.drill
def test_a_process_before_vllm_keeps_it_as_the_list_says(made: Path, tmp_path: Path, vllm: Vllm) -> None:
    """As the pod runs it: added, exchanged, refused and removed, and told again after a start of vLLM's anew."""
    desk = Desk(made, tmp_path, vllm)
    desk.list(haiku="first")
    chat = manifest("poet", model={"uri": str(made / "base")}, template="FromModel", engine="vLLM")
    (tmp_path / "chat.json").write_text(json.dumps(chat), encoding="utf-8")
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ALPACA_")},
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "operator"))),
        "ALPACA_CACHE": str(tmp_path / "cache"),
        "ALPACA_ENGINE_PORT": "0",
        "ALPACA_VLLM_URL": vllm.url,
        "ALPACA_ADAPTERS": str(desk.path),
    }
    log = tmp_path / "log"

    def until(holds: Callable[[], bool]) -> None:
        limit = time.monotonic() + PATIENCE
        while not holds():
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < limit, log.read_text()
            time.sleep(0.05)

    def get(path: str) -> httpx.Response:
        return httpx.get(url.removesuffix("/v1") + path, timeout=PATIENCE)

    def answers(name: str, text: str) -> bool:
        body = {"model": name, "messages": QUESTION}
        told = httpx.post(f"{url}/chat/completions", json=body, timeout=PATIENCE)
        return told.status_code == 200 and told.json()["choices"][0]["message"]["content"] == text

    command = [sys.executable, "-m", "workloads.chat_api", "chat.json"]
    with log.open("w") as err, subprocess.Popen(command, cwd=tmp_path, env=variables, stderr=err) as process:
        try:
            until(lambda: " at http" in log.read_text())
            url = next(line for line in log.read_text().splitlines() if " at http" in line).split(" at ")[1].strip()
            until(lambda: get("/health").status_code == 200)
            assert answers("haiku", "first"), "it is ready with what is on its list"
            desk.list(haiku="first", ode="second", odd="extended")
            until(lambda: answers("ode", "second"))
            until(lambda: "odd" in parse(get("/metrics").content).adapters_refused)
            desk.list(haiku="second", ode="second")
            until(lambda: answers("haiku", "second"))
            vllm.restart()
            until(lambda: answers("haiku", "second") and answers("ode", "second"))
            desk.list(ode="second")
            until(lambda: [name.partition("@")[0] for name in vllm.loras] == ["ode"])
            listed = get("/v1/models").json()["data"]
            assert [(each["id"], each["parent"]) for each in listed] == [("poet", None), ("ode", "poet")]
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE) == 0
        finally:
            process.kill()
