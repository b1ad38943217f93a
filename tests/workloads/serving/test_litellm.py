"""LiteLLM, through which agents and gateways ask, against the engine's process."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterator
from types import ModuleType
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from tests.workloads import callers
from tests.workloads.callers import ANSWER, CLOCK, WEATHER
from tests.workloads.engine_process import Engine, manifest

KEY = "sk-alpaca"
CALL = ("weather", {"city": "北京"})
TWO_CALLS = [CALL, ("clock", {"zone": 8})]


@pytest.fixture(scope="module")
def litellm() -> ModuleType:
    """Imported here, for it takes seconds; it would ask a website for prices, unless it is told not to."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        return importlib.import_module("litellm")


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, llama: Any) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("litellm")
    callers.write(folder, llama)
    told = {"name": "told", "model": {"uri": "told"}, "template": "HumanAssistant"}
    generation = {"temperature": 0, "maxNewTokens": 800}
    chat = manifest("agent", model={"uri": "agent"}, template="FromModel", compareWith=told, generation=generation)
    started = Engine(folder, chat, ALPACA_API_KEY=KEY)
    yield started.ready()
    started.close()


@pytest.fixture
def place(engine: Engine) -> dict[str, Any]:
    return {"api_base": engine.url, "api_key": KEY, "max_retries": 0}


def asked(model: str, **fields: Any) -> dict[str, Any]:
    return {"model": f"openai/{model}", "messages": [{"role": "user", "content": "天气？"}], **fields}


def calls_of(message: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]


async def test_an_answer_comes_whole_as_a_stream_and_awaited(litellm: Any, place: dict[str, Any]) -> None:
    whole = litellm.completion(**asked("agent"), **place)
    assert whole.choices[0].message.content.startswith("看看。")
    assert whole.choices[0].finish_reason == "stop"
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens > 0
    chunks = list(litellm.completion(**asked("agent"), **place, stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == whole.choices[0].message.content
    awaited = await litellm.acompletion(**asked("agent"), **place)
    assert awaited.choices[0].message.content == whole.choices[0].message.content


def test_tools_go_the_whole_round(litellm: Any, place: dict[str, Any]) -> None:
    fields = asked("agent", tools=[WEATHER])
    first = litellm.completion(**fields, **place).choices[0]
    assert (first.message.content, calls_of(first.message), first.finish_reason) == ("看看。", [CALL], "tool_calls")
    result = {"role": "tool", "tool_call_id": first.message.tool_calls[0].id, "content": "晴"}
    fields["messages"] += [first.message.model_dump(exclude_none=True), result]
    assert litellm.completion(**fields, **place).choices[0].message.content == ANSWER


def test_parallel_calls_are_put_together_from_a_stream(litellm: Any, place: dict[str, Any]) -> None:
    fields = asked("told", tools=[WEATHER, CLOCK], tool_choice="required", parallel_tool_calls=True)
    chunks = list(litellm.completion(**fields, **place, stream=True))
    built = litellm.stream_chunk_builder(chunks, messages=fields["messages"])
    assert calls_of(built.choices[0].message) == TWO_CALLS
    assert built.choices[0].finish_reason == "tool_calls"


class Day(BaseModel):
    """A day's weather."""

    city: Literal["北京", "上海"]
    degrees: int = Field(ge=0, le=40)
    rain: bool


def test_an_answer_has_the_form_of_a_type(litellm: Any, place: dict[str, Any]) -> None:
    answer = litellm.completion(**asked("told", response_format=Day), **place).choices[0].message.content
    assert Day.model_validate_json(answer) == Day(city="上海", degrees=21, rain=True)


def test_a_text_is_gone_on_with(litellm: Any, place: dict[str, Any]) -> None:
    done = litellm.text_completion(model="text-completion-openai/told", prompt="{", max_tokens=4, **place)
    assert done.choices[0].text == "".join(callers.DAY)
    chunks = litellm.text_completion(
        model="text-completion-openai/told", prompt="{", max_tokens=4, stream=True, **place
    )
    assert "".join(chunk.choices[0].text or "" for chunk in chunks) == done.choices[0].text


@pytest.mark.parametrize(
    ("fields", "error", "told"),
    [
        pytest.param({"temperature": 5}, "BadRequestError", "Invalid value for 'temperature'", id="a value"),
        pytest.param({"model": "openai/gpt-4"}, "NotFoundError", "this server has agent and told", id="a model"),
        pytest.param({"api_key": "wrong"}, "AuthenticationError", "Incorrect API key provided.", id="a key"),
    ],
)
def test_a_refusal_is_the_error_of_its_kind(
    litellm: Any, place: dict[str, Any], fields: dict[str, Any], error: str, told: str
) -> None:
    with pytest.raises(getattr(litellm, error), match=told):
        litellm.completion(**{**asked("agent"), **place, **fields})
