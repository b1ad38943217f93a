"""Before vLLM: what the spec says holds for its API as for ours, and nobody reaches more of it than they should."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from alpaca_operator.api.chat import ChatDeployment
from tests.workloads.engine_process import manifest
from tests.workloads.serving.front.standin import Vllm, serve
from workloads.errors import SpecError
from workloads.serving.front.application import Front, application
from workloads.serving.front.service import client, front_of
from workloads.serving.page.models import Models
from workloads.serving.page.settings import Api, Settings
from workloads.system.environment import Environment

QUESTION = [{"role": "user", "content": "问"}]
GENERATION = {"temperature": 0.5, "top_p": 0.8, "top_k": 7, "repetition_penalty": 1.2, "max_new_tokens": 90}


@pytest.fixture
def vllm() -> Iterator[Vllm]:
    made = Vllm()
    yield made
    made.goes_on.set()
    made.end()


@pytest.fixture
def before(vllm: Vllm) -> Iterator[Callable[..., str]]:
    """Puts a front before vLLM; gives its address."""
    ends = []

    def put(url: str = vllm.url, **settings: Any) -> str:
        address, end = serve(application(Front("poet", client(url), **settings)))
        ends.append(end)
        return address

    yield put
    for end in ends:
        end()


def asked(address: str, path: str = "chat/completions", **fields: Any) -> httpx.Response:
    body = {"messages": QUESTION, **fields} if path.startswith("chat") else fields
    return httpx.post(f"{address}/v1/{path}", json={"model": "poet", **body}, timeout=60)


def test_the_tuned_model_is_listed_and_told_of_as_ours_is(before: Callable[..., str]) -> None:
    address = before(generation=GENERATION, system_prompt="你是诗人。")
    (entry,) = httpx.get(f"{address}/v1/models").json()["data"]
    assert (entry["id"], entry["parent"]) == ("poet", "poet-base")
    assert entry["alpaca"] == {
        "kind": "vLLM",
        "contextLength": 4096,
        "generation": {"temperature": 0.5, "topP": 0.8, "topK": 7, "repetitionPenalty": 1.2, "maxNewTokens": 90},
        "systemPrompt": "你是诗人。",
    }
    assert httpx.get(f"{address}/v1/models/poet").json() == entry
    assert httpx.get(f"{address}/v1/models/poet-base").status_code == 404
    refused = asked(address, model="poet-base")
    assert (refused.status_code, refused.json()["error"]["code"]) == (404, "model_not_found")


async def test_the_page_asks_the_tuned_model_as_the_spec_says(before: Callable[..., str]) -> None:
    address = await asyncio.to_thread(before, generation=GENERATION, system_prompt="你是诗人。")
    models = Models(Settings("poet", (Api(f"{address}/v1"),)))
    try:
        (model,) = (await models.look()).models
    finally:
        await models.close()
    assert (model.name, model.context_length, model.system_prompt) == ("poet", 4096, "你是诗人。")
    assert model.defaults.model_dump() == GENERATION


def test_generation_holds_where_a_request_does_not_say(vllm: Vllm, before: Callable[..., str]) -> None:
    address = before(generation=GENERATION)
    assert asked(address, temperature=0, top_p=None).is_success
    assert asked(address, "completions", prompt="山").is_success
    assert asked(address, "responses", input="山").is_success
    sampling = {name: value for name, value in GENERATION.items() if name != "max_new_tokens"}
    assert vllm.asked == [
        {"model": "poet", "messages": QUESTION, **sampling, "temperature": 0},
        {"model": "poet", "prompt": "山", **sampling},
        {"model": "poet", "input": "山", "temperature": 0.5, "top_p": 0.8},
    ]


def test_the_system_prompt_stands_before_conversations_that_bring_none(vllm: Vllm, before: Callable[..., str]) -> None:
    address = before(system_prompt="你是诗人。")
    own = [{"role": "developer", "content": "你是狗。"}, *QUESTION]
    asked(address)
    asked(address, messages=own)
    asked(address, "completions", prompt="山")
    asked(address, "responses", input="山")
    asked(address, "responses", input="山", instructions="你是狗。")
    system = {"role": "system", "content": "你是诗人。"}
    assert [body.get("messages") for body in vllm.asked] == [[system, *QUESTION], own, None, None, None]
    assert [body.get("instructions") for body in vllm.asked[3:]] == ["你是诗人。", "你是狗。"]


def test_answers_and_refusals_come_as_vllm_gives_them(before: Callable[..., str]) -> None:
    fields: Any = {"model": "poet", "messages": QUESTION}
    with openai.OpenAI(base_url=f"{before()}/v1", api_key="none", max_retries=0) as client_of_openai:
        chat = client_of_openai.chat.completions
        assert chat.create(**fields).choices[0].message.content == "疑是地上霜"
        chunks = list(chat.create(**fields, stream=True))
        assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "疑是地上霜"
        with pytest.raises(openai.BadRequestError, match="temperature must be in") as refused:
            chat.create(**fields, temperature=9)
    assert refused.value.param == "temperature"


WEATHER = {"type": "function", "function": {"name": "weather", "parameters": {"type": "object"}}}


def test_tools_are_vllms_to_call(vllm: Vllm, before: Callable[..., str]) -> None:
    vllm.parser = "hermes"
    fields: Any = {"model": "poet", "messages": QUESTION, "tools": [WEATHER]}
    with openai.OpenAI(base_url=f"{before()}/v1", api_key="none", max_retries=0) as client_of_openai:
        chat = client_of_openai.chat.completions
        (choice,) = chat.create(**fields).choices
        assert (choice.finish_reason, choice.message.tool_calls[0].function.name) == ("tool_calls", "weather")
        with chat.stream(**fields) as stream:
            done = stream.get_final_completion().choices[0]
    assert (done.finish_reason, done.message.tool_calls[0].function.arguments) == ("tool_calls", '{"city": "北京"}')


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        pytest.param({}, 400, id="the model's choice, where nothing is said"),
        pytest.param({"tool_choice": "auto"}, 400, id="the model's choice"),
        pytest.param({"tool_choice": "required"}, 200, id="any"),
        pytest.param({"tool_choice": {"type": "function", "function": {"name": "weather"}}}, 200, id="one by name"),
        pytest.param({"tool_choice": "none"}, 200, id="none"),
    ],
)
def test_where_calls_are_not_found_in_free_answers_it_is_said_what_to_set(
    vllm: Vllm, before: Callable[..., str], fields: dict[str, Any], status: int
) -> None:
    answer = asked(before(may_call=False), tools=[WEATHER], **fields)
    assert (answer.status_code, len(vllm.asked)) == (status, int(status == 200))
    if status == 400:
        error = answer.json()["error"]
        assert (error["param"], error["code"]) == ("tool_choice", "unsupported_parameter")
        assert "set spec.vllm.toolCallParser" in error["message"]
    assert asked(before(), tools=[WEATHER]).status_code == 400, "as vLLM refuses it itself"


def test_a_stream_comes_as_it_is_written_and_vllm_hears_who_leaves(vllm: Vllm, before: Callable[..., str]) -> None:
    vllm.goes_on.clear()
    body = {"model": "poet", "messages": QUESTION, "stream": True}
    with httpx.stream("POST", f"{before()}/v1/chat/completions", json=body, timeout=60) as stream:
        lines = stream.iter_lines()
        while "\\u7591\\u662f" not in next(lines):
            pass
        assert not vllm.left.is_set()
    assert vllm.left.wait(60)


def test_one_who_leaves_before_the_answer_is_whole_is_not_answered_on(vllm: Vllm, before: Callable[..., str]) -> None:
    vllm.goes_on.clear()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{before()}/v1/chat/completions",
            json={"model": "poet", "messages": QUESTION},
            timeout=httpx.Timeout(60, read=0.5),
        )
    assert vllm.left.wait(60)


def test_no_more_wait_than_the_spec_lets(vllm: Vllm, before: Callable[..., str]) -> None:
    address = before(most=1)
    vllm.goes_on.clear()
    body = {"model": "poet", "messages": QUESTION, "stream": True}
    with httpx.stream("POST", f"{address}/v1/chat/completions", json=body, timeout=60) as stream:
        lines = stream.iter_lines()
        next(lines)
        refused = asked(address)
        assert (refused.status_code, refused.json()["error"]["code"]) == (429, "queue_full")
        assert refused.headers["retry-after"]
        vllm.goes_on.set()
        assert "data: [DONE]" in list(lines)
    assert asked(address).is_success


def test_an_answer_that_takes_too_long_is_cut_off_and_says_so(vllm: Vllm, before: Callable[..., str]) -> None:
    address = before(seconds=0.5)
    vllm.goes_on.clear()
    refused = asked(address)
    assert (refused.status_code, refused.json()["error"]["code"]) == (408, "request_timeout")
    assert vllm.left.wait(60)
    vllm.left.clear()
    streamed = asked(address, stream=True)
    assert streamed.status_code == 200
    assert "request_timeout" in streamed.text
    assert "[DONE]" not in streamed.text
    assert vllm.left.wait(60)


def test_while_vllm_loads_it_is_said(vllm: Vllm, before: Callable[..., str]) -> None:
    address = before("http://127.0.0.1:9")
    assert httpx.get(f"{address}/health").status_code == 503
    assert httpx.get(f"{address}/livez").status_code == 200
    for response in (asked(address), httpx.get(f"{address}/v1/models")):
        assert (response.status_code, response.json()["error"]["code"]) == (503, "model_loading")


@pytest.mark.parametrize(
    ("method", "path", "headers", "status"),
    [
        pytest.param("POST", "/v1/load_lora_adapter", {}, 404, id="vLLM's own settings"),
        pytest.param("GET", "/docs", {}, 404, id="its pages"),
        pytest.param("POST", "/v1/chat/completions", {"Origin": "https://evil.example"}, 403, id="a page from elsewhere"),
    ],
)  # fmt: skip
def test_no_more_of_vllm_is_reached_than_should_be(
    before: Callable[..., str], method: str, path: str, headers: dict[str, str], status: int
) -> None:
    assert httpx.request(method, before() + path, headers=headers).status_code == status


def test_a_body_beyond_all_reason_is_refused(vllm: Vllm, before: Callable[..., str]) -> None:
    assert httpx.post(f"{before()}/v1/chat/completions", content=b" " * 5 * 2**20).status_code == 413
    assert vllm.asked == []


def test_the_key_is_asked_for_before_anything_else(vllm: Vllm, before: Callable[..., str]) -> None:
    address = before(key="sk-alpaca")
    assert asked(address).status_code == 401
    assert httpx.get(f"{address}/v1/models", headers={"Authorization": "Bearer sk-alpaca"}).is_success
    assert "vllm:num_requests_waiting" in httpx.get(f"{address}/metrics").text
    assert httpx.get(f"{address}/health").json() == {"status": "ready"}
    assert vllm.asked == []


class TestOfASpec:
    def front(self, folder: Path, **spec: Any) -> Front:
        job = ChatDeployment.model_validate(manifest("poet", template="FromModel", engine="vLLM", **spec))
        return front_of(job, {"ALPACA_API_KEY": "key\n"}, Environment.read({"ALPACA_CACHE": str(folder)}))

    def test_everything_that_it_says(self, tmp_path: Path) -> None:
        found = self.front(
            tmp_path,
            model={"uri": "hf://me/poet"},
            generation={"temperature": 0.7},
            systemPrompt="你是诗人。",
            vllm={"toolCallParser": "None"},
            limits={"maxBatch": 3, "maxQueue": 4, "requestTimeoutSeconds": 5},
        )
        assert (found.generation, found.system_prompt) == ({"temperature": 0.7}, "你是诗人。")
        assert (found.key, found.most, found.seconds, found.may_call) == ("key", 7, 5, False)

    def test_the_models_own_generation_where_its_folder_is_at_hand(self, tmp_path: Path) -> None:
        (tmp_path / "generation_config.json").write_text('{"temperature": 0.9, "top_k": 11}')
        found = self.front(tmp_path, model={"uri": str(tmp_path)}, generation={"topK": 5})
        assert found.generation == {
            "temperature": 0.9, "top_p": 0.95, "top_k": 5, "repetition_penalty": 1.1, "max_new_tokens": 512,
        }  # fmt: skip

    def test_another_engine_is_refused(self, tmp_path: Path) -> None:
        job = ChatDeployment.model_validate(manifest("poet"))
        with pytest.raises(SpecError, match=r"^engine Auto answers its API itself"):
            front_of(job, {}, Environment.read({"ALPACA_CACHE": str(tmp_path)}))
