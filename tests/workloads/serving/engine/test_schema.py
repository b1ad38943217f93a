"""Request bodies: what is read, what is passed over, and the words for what is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workloads.serving.engine.reading import read
from workloads.serving.engine.responses_request import ResponsesRequest
from workloads.serving.engine.schema import ChatRequest, CompletionRequest
from workloads.serving.engine.tools.dialect import said
from workloads.serving.refusal import Refusal

LEAST = {"model": "m", "messages": [{"role": "user", "content": "问"}]}


def chat(**fields: Any) -> ChatRequest:
    return read(ChatRequest, json.dumps({**LEAST, **fields}).encode())


def completion(**fields: Any) -> CompletionRequest:
    return read(CompletionRequest, json.dumps({"model": "m", "prompt": "a", **fields}).encode())


def refused(body: bytes | dict[str, Any]) -> tuple[int, str | None, str | None, str]:
    with pytest.raises(Refusal) as found:
        read(ChatRequest, body if isinstance(body, bytes) else json.dumps({**LEAST, **body}).encode())
    return found.value.status, found.value.code, found.value.param, found.value.message


@pytest.mark.parametrize(
    ("body", "code", "param", "message"),
    [
        pytest.param(
            b"{", "invalid_json", None,
            "We could not parse the JSON body of your request: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)",
            id="what is no JSON",
        ),
        pytest.param(b'{"temperature": NaN}', "invalid_json", None, "We could not parse the JSON body of your request: NaN is not JSON", id="a number that is none"),
        pytest.param(b"[1]", "invalid_json", None, "The body of a request is a JSON object, not [1].", id="a list"),
        pytest.param(b"{}", "missing_required_parameter", "model", "Missing required parameter: 'model'.", id="nothing"),
        pytest.param({"temperature": "hot"}, "invalid_type", "temperature", "Invalid type for 'temperature': input should be a valid number, got \"hot\".", id="a word for a number"),
        pytest.param({"temperature": 2.5}, "invalid_value", "temperature", "Invalid value for 'temperature': input should be less than or equal to 2, got 2.5.", id="a number out of bounds"),
        pytest.param({"max_tokens": 0}, "invalid_value", "max_tokens", "Invalid value for 'max_tokens': input should be greater than or equal to 1, got 0.", id="no tokens"),
        pytest.param({"stop": ["a"] * 17}, "invalid_value", "stop", 'Invalid value for \'stop\': list should have at most 16 items after validation, not 17, got ["a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a", "a",….', id="too many stops"),
        pytest.param({"messages": [{"role": "critic", "content": "x"}]}, "invalid_value", "messages[0].role", "Invalid value for 'messages[0].role': input should be 'system', 'developer', 'user', 'assistant' or 'tool', got \"critic\".", id="a speaker that nobody knows"),
        pytest.param({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "invalid_value", "messages[0].content[0].type", "Invalid value for 'messages[0].content[0].type': input should be 'text', got \"image_url\".", id="a picture"),
        pytest.param({"messages": [{"role": "user"}]}, "missing_required_parameter", "messages[0].content", "Missing required parameter: 'messages[0].content'.", id="a message without content"),
        pytest.param({"n": 129}, "invalid_value", "n", "Invalid value for 'n': input should be less than or equal to 128, got 129.", id="too many answers"),
        pytest.param({"top_logprobs": 3}, "invalid_value", "top_logprobs", "Invalid value for 'top_logprobs': it is 3, and logprobs is not true: set logprobs, or leave it out.", id="the likeliest without likelihoods"),
        pytest.param({"logit_bias": {"hi": 1}}, "invalid_value", "logit_bias", "Invalid value for 'logit_bias': keys should be token ids in figures, got {\"hi\": 1}.", id="a bias for a word"),
        pytest.param({"best_of": 2}, "unsupported_parameter", "best_of", "Unsupported value: 'best_of' is not served by this model; leave it out.", id="the best of several conversations"),
        pytest.param({"tools": [{}]}, "missing_required_parameter", "tools[0].type", "Missing required parameter: 'tools[0].type'.", id="a tool that is none"),
        pytest.param({"functions": [{}]}, "unsupported_parameter", "functions", "Unsupported value: 'functions' is not served by this model; leave it out.", id="tools as they were before tools"),
        pytest.param({"stream_options": {"continuous_usage_stats": True}}, "invalid_value", "stream_options.continuous_usage_stats", "Invalid value for 'stream_options.continuous_usage_stats': input should be False, got true.", id="figures with every piece"),
        pytest.param({"top_a": 1}, "unknown_parameter", "top_a", "Unknown parameter: 'top_a'.", id="a field that nobody knows"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(body: Any, code: str, param: str | None, message: str) -> None:
    assert refused(body) == (400, code, param, message)


def test_what_asks_for_nothing_is_passed_over() -> None:
    asked = chat(
        n=1, logprobs=0, top_logprobs=0, logit_bias={}, best_of=1, echo=False, suffix="", tools=[], tool_choice="auto", response_format={"type": "text"}, user="u", metadata={"a": "b"},
        store=False, service_tier="auto", parallel_tool_calls=True, temperature=None, stop=None, audio=None,
    )  # fmt: skip
    assert asked.temperature is None
    assert asked.stops == ()


def test_a_client_of_fastchat_or_vllm_runs_unchanged() -> None:
    asked = chat(
        n=1, best_of=1, use_beam_search=False, ignore_eos=False, top_k=-1, min_p=0.0, length_penalty=1, skip_special_tokens=True,
        session_id="x", stop_token_ids=[], chat_template_kwargs={},
    )  # fmt: skip
    assert asked.top_k == -1
    for name, value in (
        ("use_beam_search", True),
        ("prompt_logprobs", 1),
        ("documents", [{}]),
    ):
        assert refused({name: value})[1:3] == ("unsupported_parameter", name)


def test_what_vllm_takes_as_its_own_default_asks_for_nothing() -> None:
    chat(
        add_special_tokens=False, include_reasoning=True, return_tokens_as_token_ids=False, mm_processor_kwargs={}, vllm_xargs={},
        logits_processors=[], stream_options={"include_usage": True, "continuous_usage_stats": False},
    )  # fmt: skip
    completion(add_special_tokens=True, top_p=0)
    for name, value in (("add_special_tokens", True), ("include_reasoning", False), ("vllm_xargs", {"a": 1})):
        assert refused({name: value})[1:3] == ("unsupported_parameter", name)


def test_that_an_assistant_would_not_answer_is_something_it_said() -> None:
    parts = [{"type": "text", "text": "不，"}, {"type": "refusal", "refusal": "不行。"}]
    turns = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": parts},
        {"role": "user", "content": "b"},
    ]
    assert chat(messages=turns).messages[1].text == "不，不行。"
    assert refused({"messages": [{"role": "user", "content": parts}]})[2] == "messages[0].content[1].type"
    body = {"model": "m", "input": [{"role": "user", "content": "a"}, {"role": "assistant", "content": parts}]}
    assert read(ResponsesRequest, json.dumps(body).encode()).as_chat().messages[1].text == "不，不行。"


def test_what_refers_to_an_earlier_item_is_told_to_send_it() -> None:
    body = {"model": "m", "input": [{"role": "user", "content": "a"}, {"type": "item_reference", "id": "msg_1"}]}
    with pytest.raises(Refusal) as found:
        read(ResponsesRequest, json.dumps(body).encode())
    assert (found.value.status, found.value.param) == (400, "input[1]")
    assert found.value.message == (
        "Invalid value for 'input[1]': nothing is kept here that could be referred to: send the item itself, as clients do with store set to "
        'false, got {"type": "item_reference", "id": "msg_1"}.'
    )


def test_an_assistant_that_only_calls_tools_need_not_say_anything() -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": ""}}
    asked = chat(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}])
    assert said(asked.messages)[1] == {
        "role": "assistant",
        "content": "",
        "tool_calls": [{"id": "1", "type": "function", "function": {"name": "f", "arguments": {}}}],
    }


def test_variables_of_a_template_are_read_and_none_that_is_the_prompts_own() -> None:
    assert chat(chat_template_kwargs={"budget": 5, "style": "short"}, enable_thinking=False).variables == {
        "enable_thinking": False,
        "budget": 5,
        "style": "short",
    }
    assert completion(chat_template_kwargs={"a": True}).variables == {"a": True}
    assert refused({"chat_template_kwargs": {"messages": "x"}})[1:] == (
        "invalid_value",
        "chat_template_kwargs",
        "Invalid value for 'chat_template_kwargs': messages is a part of every conversation's prompt, and not to be set.",
    )
    assert refused({"chat_template_kwargs": {"a": [1]}})[1] == "invalid_type"


def test_an_assistant_may_have_said_nothing_and_nobody_else() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}, {"role": "user", "content": "b"}]
    assert chat(messages=turns).messages[1].plain() == {"role": "assistant", "content": ""}
    assert refused({"messages": [{"role": "user", "content": None}]})[1:] == (
        "invalid_type", "messages[0].content", "Invalid type for 'messages[0].content': input should be a valid string, got null.",
    )  # fmt: skip


@pytest.mark.parametrize("depth", [600, 900, 100_000])
def test_nesting_without_end_is_refused(depth: int) -> None:
    nested = b"[" * depth + b"]" * depth
    assert refused(b'{"model": "m", "messages": [], "metadata": ' + nested + b"}") == (
        400,
        "invalid_json",
        None,
        "We could not parse the JSON body of your request: it is nested too deeply",
    )


def test_content_in_parts_is_joined_and_a_developer_is_the_system() -> None:
    parts = [{"type": "text", "text": "一"}, {"type": "text", "text": "二"}]
    asked = chat(messages=[{"role": "developer", "content": "三"}, {"role": "user", "content": parts, "name": "x"}])
    assert [message.plain() for message in asked.messages] == [
        {"role": "system", "content": "三"},
        {"role": "user", "content": "一二"},
    ]


def test_half_a_character_becomes_the_replacement_character() -> None:
    body = b'{"model": "m", "messages": [{"role": "user", "content": "\\ud83d!\\ud83d\\udc4d"}]}'
    assert read(ChatRequest, body).messages[0].content == "\ufffd!👍"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-32-be"])
def test_half_a_character_that_is_no_escape_becomes_the_same(encoding: str) -> None:
    body = '{"model": "m", "messages": [{"role": "user", "content": "a\ud83d"}]}'.encode(encoding, "surrogatepass")
    assert read(ChatRequest, body).messages[0].content == "a\ufffd"


def test_half_a_character_in_a_name_is_told_of_in_words_that_can_be_sent() -> None:
    assert refused(b'{"model": "m", "messages": [{"role": "user", "content": "x"}], "\\ud800": 1}') == (
        400,
        "unknown_parameter",
        "\ufffd",
        "Unknown parameter: '\ufffd'.",
    )
    assert refused(b'{"model": "m", "messages": {"\\ud800": 1}}')[3].endswith('got {"\ufffd": 1}.')


def test_half_a_character_in_what_a_model_called_is_the_replacement_character() -> None:
    """A grammar lets a model write one, and its client sends the call back."""
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": '{"a\\udc4d": ["\\ud83d"]}'}}
    asked = chat(messages=[{"role": "user", "content": "a"}, {"role": "assistant", "tool_calls": [call]}])
    assert said(asked.messages)[1]["tool_calls"][0]["function"]["arguments"] == {"a\ufffd": ["\ufffd"]}


@pytest.mark.parametrize(("field", "most"), [("logit_bias", 1024), ("chat_template_kwargs", 64)])
def test_too_many_values_are_counted_before_any_is_found_wrong(field: str, most: int) -> None:
    """Of each wrong one as many errors are made as it has alternatives: of those that a body may hold, for 3 s."""
    told = refused({field: {str(number): [] for number in range(most + 1)}})
    assert told[1:3] == ("invalid_value", field)
    assert told[3].startswith(
        f"Invalid value for '{field}': dictionary should have at most {most} items after validation, not {most + 1}, got "
    )


def test_fields_that_nobody_knows_are_told_of_before_any_other_is_looked_at() -> None:
    """A hundred thousand of them would be made fields of an object first, while nobody else is answered."""
    assert refused({"messages": [], "top_a": 1})[1:3] == ("unknown_parameter", "top_a")


def test_a_name_of_a_million_characters_is_not_sent_back() -> None:
    told = refused({"model": "m", "messages": [{"role": "user", "content": "x"}], "y" * 1_000_000: 1})
    assert told[2:] == ("y" * 80 + "…", f"Unknown parameter: '{'y' * 80}…'.")


def test_the_newer_name_of_the_longest_answer_wins() -> None:
    assert chat(max_tokens=5, max_completion_tokens=7).longest == 7
    assert chat(max_tokens=5).longest == 5


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        pytest.param("a", ["a"], id="a text"),
        pytest.param(["a", ""], ["a", ""], id="texts"),
        pytest.param([5, 6], [[5, 6]], id="the tokens of one"),
        pytest.param([[5, 6], [7]], [[5, 6], [7]], id="the tokens of several"),
    ],
)
def test_a_prompt_may_be_several_and_tokens(prompt: Any, prompts: Any) -> None:
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize(
    ("fields", "param", "message"),
    [
        pytest.param({"prompt": [5, "a"]}, "prompt[1]", "Invalid type for 'prompt[1]': input should be a valid integer, got \"a\".", id="a text among tokens"),
        pytest.param({"prompt": ["a", 5]}, "prompt[1]", "Invalid type for 'prompt[1]': input should be a valid string, got 5.", id="a token among texts"),
        pytest.param({"prompt": [[5], []]}, "prompt[1]", "Invalid value for 'prompt[1]': list should have at least 1 item after validation, not 0, got [].", id="no tokens"),
        pytest.param({"prompt": []}, "prompt", "Invalid value for 'prompt': list should have at least 1 item after validation, not 0, got [].", id="no prompt"),
        pytest.param({"prompt": [True]}, "prompt[0]", "Invalid type for 'prompt[0]': input should be a valid string, got true.", id="neither text nor token"),
        pytest.param({"max_tokens": 0}, "max_tokens", "Invalid value for 'max_tokens': it is 0, and without echo that leaves nothing to send: set echo, or at least 1.", id="nothing to send"),
        pytest.param({"n": 3, "best_of": 2}, "best_of", "Invalid value for 'best_of': it is 2, and n asks for 3 of them: raise it.", id="more answers than are written"),
        pytest.param({"best_of": 2, "stream": True}, "best_of", "Invalid value for 'best_of': which answer is the best is known at their end, and stream wants them before: leave one out.", id="the best, before it is known"),
        pytest.param({"prompt": ["a"] * 1025, "n": 2}, "prompt", "Invalid value for 'prompt': 1025 prompts with 2 answers each are more than 2048: send them in parts.", id="more answers than a request may have"),
        pytest.param({"suffix": "b", "echo": True}, "suffix", "Invalid value for 'suffix': the answer stands before it, and echo asks for what stands before the answer: leave one out.", id="a gap and an echo"),
        pytest.param({"suffix": "b", "prompt": [5]}, "suffix", "Invalid value for 'suffix': it is a text, and prompt is a list of tokens: send the prompt as a text.", id="a gap behind tokens"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_text_is_named(fields: dict[str, Any], param: str, message: str) -> None:
    with pytest.raises(Refusal) as found:
        completion(**fields)
    assert (found.value.status, found.value.param, found.value.message) == (400, param, message)


def test_older_clients_ask_for_no_likelihoods_by_false() -> None:
    assert completion(logprobs=False, suffix="").top is None
    assert completion(logprobs=0).top == 0
