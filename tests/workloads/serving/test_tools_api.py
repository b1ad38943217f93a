"""Tools and formats of answers, asked of the engine's process by OpenAI's and LangChain's clients."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

import openai
import pytest
from langchain_core.messages import HumanMessage, ToolMessage
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, Field

from tests.workloads import callers
from tests.workloads.callers import ANSWER, CLOCK, WEATHER
from tests.workloads.engine_process import Engine, manifest

KEY = "sk-alpaca"
CALL = ("weather", {"city": "北京"})
TWO_CALLS = [CALL, ("clock", {"zone": 8})]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, llama: Any) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("callers")
    callers.write(folder, llama)
    chat = manifest(
        "agent",
        model={"uri": "agent"},
        template="FromModel",
        compareWith={"name": "told", "model": {"uri": "told"}, "template": "HumanAssistant"},
        generation={"temperature": 0, "maxNewTokens": 800},
    )
    started = Engine(folder, chat, ALPACA_API_KEY=KEY)
    yield started.ready()
    started.close()


@pytest.fixture
def client(engine: Engine) -> openai.OpenAI:
    return openai.OpenAI(base_url=engine.url, api_key=KEY, max_retries=0)


def asked(model: str = "agent", **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": "天气？"}], **fields}


def calls_of(message: Any) -> list[tuple[str, Any]]:
    return [(call.function.name, json.loads(call.function.arguments)) for call in message.tool_calls or ()]


def test_models_say_how_they_know_of_tools(client: openai.OpenAI) -> None:
    known = {model.id: model.model_extra["alpaca"]["tools"] for model in client.models.list()}
    assert known == {"agent": "template", "told": "prompt"}


@pytest.mark.parametrize(
    ("model", "content", "expected"),
    [("agent", "看看。", [CALL]), ("told", None, TWO_CALLS)],
    ids=["by its template", "by a prompt"],
)
def test_an_answer_calls_tools_and_so_does_its_stream(
    client: openai.OpenAI, model: str, content: str | None, expected: list[Any]
) -> None:
    fields = asked(model, tools=[WEATHER, CLOCK])
    whole = client.chat.completions.create(**fields).choices[0]
    assert (whole.message.content, calls_of(whole.message)) == (content, expected)
    assert whole.finish_reason == "tool_calls"
    assert len({call.id for call in whole.message.tool_calls}) == len(expected)
    with client.chat.completions.stream(**fields) as stream:
        done = stream.get_final_completion().choices[0]
    assert (done.message.content or None, calls_of(done.message), done.finish_reason) == (
        content,
        expected,
        "tool_calls",
    )


def test_deltas_are_those_of_openai(client: openai.OpenAI) -> None:
    chunks = list(client.chat.completions.create(**asked("told", tools=[WEATHER, CLOCK]), stream=True))
    deltas = [chunk.choices[0].delta for chunk in chunks]
    assert deltas[0].role == "assistant"
    parts = [part for delta in deltas for part in delta.tool_calls or ()]
    first = [part for part in parts if part.id]
    assert [(part.index, part.type, part.function.name, part.function.arguments) for part in first] == [
        (0, "function", "weather", ""),
        (1, "function", "clock", ""),
    ]
    rest = [part for part in parts if not part.id]
    assert all(part.type is None and part.function.name is None for part in rest)
    assert "".join(part.function.arguments for part in rest if part.index == 0) == '{"city": "北京"}'
    assert chunks[-1].choices[0].finish_reason == "tool_calls"


async def test_the_whole_round_with_what_the_tool_gave(engine: Engine) -> None:
    client = openai.AsyncOpenAI(base_url=engine.url, api_key=KEY, max_retries=0)
    fields = asked(tools=[WEATHER])
    message = (await client.chat.completions.create(**fields)).choices[0].message
    result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "晴"}
    fields["messages"] += [message.model_dump(exclude_none=True), result]
    answer = (await client.chat.completions.create(**fields)).choices[0]
    assert (answer.message.content, answer.message.tool_calls, answer.finish_reason) == (ANSWER, None, "stop")
    await client.close()


@pytest.mark.parametrize(
    ("choice", "parallel", "expected", "reason"),
    [
        pytest.param("none", True, [], "stop", id="none"),
        pytest.param("required", True, TWO_CALLS, "tool_calls", id="required"),
        pytest.param("required", False, [CALL], "tool_calls", id="one at a time"),
        pytest.param({"type": "function", "function": {"name": "weather"}}, False, [CALL], "stop", id="a function that is named"),
        pytest.param({"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"type": "function", "function": {"name": "weather"}}]}}, False, [CALL], "tool_calls", id="one of those that are allowed"),
    ],
)  # fmt: skip
def test_the_choice_of_a_tool_is_obeyed(
    client: openai.OpenAI, choice: Any, parallel: bool, expected: list[Any], reason: str
) -> None:
    fields = asked("told", tools=[WEATHER, CLOCK], tool_choice=choice, parallel_tool_calls=parallel)
    answer = client.chat.completions.create(**fields).choices[0]
    assert (calls_of(answer.message), answer.finish_reason) == (expected, reason)


def test_a_named_function_is_called_though_the_model_would_call_another(client: openai.OpenAI) -> None:
    bounded = {
        "type": "object",
        "properties": {"zone": {"enum": [1]}},
        "required": ["zone"],
        "additionalProperties": False,
    }
    clock = {"type": "function", "function": {"name": "clock", "parameters": bounded}}
    choice = {"type": "function", "function": {"name": "clock"}}
    answer = client.chat.completions.create(
        **asked(tools=[WEATHER, clock], tool_choice=choice, parallel_tool_calls=False)
    ).choices[0]
    assert calls_of(answer.message) == [("clock", {"zone": 1})]


class Day(BaseModel):
    """A day's weather."""

    city: Literal["北京", "上海"]
    degrees: int = Field(ge=0, le=40)
    rain: bool


def test_an_answer_is_parsed_into_a_type(client: openai.OpenAI) -> None:
    done = client.chat.completions.parse(**asked("told"), response_format=Day).choices[0]
    assert isinstance(done.message.parsed, Day)
    assert done.finish_reason == "stop"
    with client.chat.completions.stream(**asked("told"), response_format=Day) as stream:
        assert stream.get_final_completion().choices[0].message.parsed == done.message.parsed


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        pytest.param({"response_format": {"type": "json_schema", "json_schema": {"name": "day", "strict": True, "schema": {"not": {}}}}}, "response_format", "Invalid schema for response_format 'day': Unimplemented keys: [\"not\"].", id="a schema that cannot be held to"),
        pytest.param({"response_format": {"type": "json_schema"}}, "response_format", "Invalid value for 'response_format': input should have json_schema, as its type is json_schema, got {\"type\": \"json_schema\"}.", id="a schema that is missing"),
        pytest.param({"tools": [CLOCK, {"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"type": "x"}}}}}]}, "tools[1].function.parameters", "Invalid schema for function 'f': Invalid type: x.", id="a function's schema"),
        pytest.param({"tools": [{"type": "web_search"}]}, "tools[0].type", "Invalid value for 'tools[0].type': input should be 'function', got \"web_search\".", id="a tool of another kind"),
        pytest.param({"tools": [CLOCK], "tool_choice": {"type": "function", "function": {"name": "x"}}}, "tool_choice", "Invalid value for 'tool_choice': x is not one of the tools: clock.", id="a function that there is not"),
        pytest.param({"tool_choice": "required"}, "tool_choice", "Invalid value for 'tool_choice': it wants a call, and there are no tools.", id="a call of nothing"),
        pytest.param({"tool_choice": "perhaps"}, "tool_choice", "Invalid value for 'tool_choice': input should be 'none', 'auto', 'required' or a function that is named, got \"perhaps\".", id="a choice that is none"),
        pytest.param({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages[0].tool_call_id", "Invalid value for 'messages[0].tool_call_id': no assistant's message before it has a call of that id in its tool_calls.", id="a result of nothing"),
        pytest.param({"messages": [{"role": "assistant", "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": "[1"}}]}]}, "messages[0].tool_calls[0].function.arguments", "Invalid value for 'messages[0].tool_calls[0].function.arguments': arguments are the text of a JSON object.", id="arguments that are no object"),
        pytest.param({"messages": [{"role": "user", "content": "x"}], "continue_final_message": True}, "continue_final_message", "Invalid value for 'continue_final_message': the last message has to be an assistant's, with text that can be gone on with.", id="nothing to go on with"),
    ],
)  # fmt: skip
def test_what_cannot_be_obeyed_is_named(client: openai.OpenAI, fields: dict[str, Any], param: str, told: str) -> None:
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked() | {"extra_body": fields})
    assert (refused.value.param, refused.value.body["message"]) == (param, told)  # type: ignore[index]


def test_an_answer_goes_on_with_what_was_begun(client: openai.OpenAI) -> None:
    begun = [*asked()["messages"], {"role": "assistant", "content": '看看。\n<tool_call>{"name": "weather'}]
    body = {"continue_final_message": True, "add_generation_prompt": False}
    fields = asked() | {"messages": begun, "extra_body": body}
    assert client.chat.completions.create(**fields).choices[0].message.content == (
        '", "arguments": {"city": "北京"}}</tool_call>'
    )


@tool
def weather(city: str) -> str:
    """The weather of a city."""
    return f"{city}：晴"


def langchain(engine: Engine, model: str) -> ChatOpenAI:
    return ChatOpenAI(model=model, base_url=engine.url, api_key=KEY, temperature=0, max_retries=0)  # type: ignore[arg-type]


def test_langchains_tools_go_the_whole_round(engine: Engine) -> None:
    agent = langchain(engine, "agent").bind_tools([weather])
    messages: list[Any] = [HumanMessage("天气？")]
    for _ in range(3):
        messages.append(agent.invoke(messages))
        if not messages[-1].tool_calls:
            break
        messages += [weather.invoke(call) for call in messages[-1].tool_calls]
    assert [type(message).__name__ for message in messages] == ["HumanMessage", "AIMessage", "ToolMessage", "AIMessage"]
    assert isinstance(messages[2], ToolMessage)
    assert (messages[2].content, messages[3].content) == ("北京：晴", ANSWER)
    streamed = None
    for chunk in agent.stream("天气？"):
        streamed = chunk if streamed is None else streamed + chunk
    assert [(call["name"], call["args"]) for call in streamed.tool_calls] == [CALL]  # type: ignore[union-attr]


@pytest.mark.parametrize("method", ["json_schema", "function_calling"])
def test_langchains_structured_output_comes_in_batches(engine: Engine, method: Any) -> None:
    structured = langchain(engine, "told").with_structured_output(Day, method=method)
    days = structured.batch(["山", "水"])
    assert all(isinstance(day, Day) for day in days)


FLAT = [{"type": "function", **tool["function"]} for tool in (WEATHER, CLOCK)]


def items_of(response: Any) -> list[Any]:
    return [
        (item.name, json.loads(item.arguments)) if item.type == "function_call" else item.content[0].text
        for item in response.output
    ]


def test_responses_go_the_whole_round(client: openai.OpenAI) -> None:
    first = client.responses.create(model="agent", input="天气？", instructions="你是助手。", tools=FLAT, store=False)
    assert items_of(first) == ["看看。", CALL]
    assert (first.status, first.store, first.instructions) == ("completed", False, "你是助手。")
    assert first.usage.total_tokens == first.usage.input_tokens + first.usage.output_tokens > 0
    result = {"type": "function_call_output", "call_id": first.output[1].call_id, "output": "晴"}
    said = [{"role": "user", "content": [{"type": "input_text", "text": "天气？"}]}]
    said += [item.model_dump(exclude_none=True) for item in first.output]
    second = client.responses.create(model="agent", input=[*said, result], tools=FLAT)
    assert (second.output_text, [item.type for item in second.output]) == (ANSWER, ["message"])


def test_a_responses_stream_opens_fills_and_closes_its_items(client: openai.OpenAI) -> None:
    events = list(client.responses.create(model="agent", input="天气？", tools=FLAT, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type.removeprefix("response.") for event in events]
    assert [kind for at, kind in enumerate(kinds) if kinds[at - 1 : at] != [kind]] == [
        "created", "in_progress",
        "output_item.added", "content_part.added", "output_text.delta", "output_text.done", "content_part.done", "output_item.done",
        "output_item.added", "function_call_arguments.delta", "function_call_arguments.done", "output_item.done",
        "completed",
    ]  # fmt: skip
    deltas = [event.delta for event in events if event.type == "response.function_call_arguments.delta"]
    done = events[-1].response
    assert "".join(deltas) == done.output[1].arguments
    assert items_of(done) == ["看看。", CALL]
    with client.responses.stream(model="agent", input="天气？", tools=FLAT) as stream:
        assert items_of(stream.get_final_response()) == ["看看。", CALL]


def test_a_response_is_parsed_cut_and_refused_in_its_own_words(client: openai.OpenAI, engine: Engine) -> None:
    parsed = client.responses.parse(model="told", input="天气？", text_format=Day)
    assert isinstance(parsed.output_parsed, Day)
    cut = client.responses.create(model="told", input="天气？", max_output_tokens=3)
    assert (cut.status, cut.incomplete_details.reason, cut.output[0].status) == (
        "incomplete",
        "max_output_tokens",
        "incomplete",
    )
    for fields, param in (
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"input": "问" * 500_000}, "input"),
        ({"input": [{"role": "user"}]}, "input[0].content"),
        ({"input": [{"type": "function_call_output", "call_id": "x", "output": "y"}]}, "input[0].tool_call_id"),
        ({"tools": [{**FLAT[0], "parameters": {"type": "nope"}}]}, "tools[0].parameters"),
        ({"text": {"format": {"type": "json_schema", "name": "x", "schema": {"type": "nope"}}}}, "text.format"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.responses.create(**{"model": "told", "input": "天气？", **fields})
        assert refused.value.param == param
    answer = langchain(engine, "agent").bind_tools([weather])
    answer.bound.use_responses_api = True
    assert [(call["name"], call["args"]) for call in answer.invoke("天气？").tool_calls] == [CALL]
