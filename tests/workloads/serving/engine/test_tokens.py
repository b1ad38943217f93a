"""Texts and conversations in tokens, over the API."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from alpaca_operator.api.chat import ChatDeployment
from tests.workloads.engine_process import manifest
from workloads.serving.engine import loading
from workloads.serving.engine.server import Engine, application
from workloads.system.environment import Environment

MESSAGES = [{"role": "user", "content": "山</s>水"}]


@pytest.fixture(scope="module")
def engine(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    job = ChatDeployment.model_validate(manifest("poet", model={"uri": str(shelf / "base")}, systemPrompt="你是诗人。"))
    made = Engine(("poet",))
    environment = Environment.read({"ALPACA_CACHE": str(tmp_path_factory.mktemp("cache"))})
    made.models = loading.load(job, environment, made.metrics, lambda message: None)
    yield made
    made.models["poet"].scheduler.close()


async def asked(engine: Engine, path: str, status: int = 200, **fields: Any) -> dict[str, Any]:
    transport = httpx.ASGITransport(application(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=120) as http:
        response = await http.post(path, json=fields)
    assert response.status_code == status, response.text
    return dict(response.json())


async def test_a_text_is_what_a_completion_of_it_reads(engine: Engine) -> None:
    told = await asked(engine, "/tokenize", prompt="山</s>水", return_token_strs=True)
    usage = (await asked(engine, "/v1/completions", model="poet", prompt="山</s>水", max_tokens=1))["usage"]
    assert told["count"] == len(told["tokens"]) == len(told["token_strs"]) == usage["prompt_tokens"]
    assert told["max_model_len"] == engine.models["poet"].context
    assert engine.models["poet"].template.tokenizer.eos_token_id not in told["tokens"], "what a user writes is text"
    bare = await asked(engine, "/tokenize", model="poet", prompt="山</s>水", add_special_tokens=False)
    begins = engine.models["poet"].begins
    assert told["tokens"] == [*([] if begins is None else [begins]), *bare["tokens"]]
    assert bare["token_strs"] is None


async def test_a_conversation_is_what_its_answer_goes_on_from(engine: Engine) -> None:
    told = await asked(engine, "/tokenize", messages=MESSAGES)
    fields = {"model": "poet", "messages": MESSAGES, "max_tokens": 1}
    usage = (await asked(engine, "/v1/chat/completions", **fields))["usage"]
    assert told["count"] == usage["prompt_tokens"]
    system = {"role": "system", "content": "你是诗人。"}
    assert told["tokens"] == engine.models["poet"].template.prompt([system, *MESSAGES])


async def test_a_text_that_is_too_long_to_be_asked_is_counted_and_one_beyond_all_reason_is_not(engine: Engine) -> None:
    assert (await asked(engine, "/tokenize", prompt="山水" * 600))["count"] > engine.models["poet"].context
    error = (await asked(engine, "/tokenize", 400, messages=[{"role": "user", "content": "山" * 100_000}]))["error"]
    assert error["code"] == "context_length_exceeded"


async def test_tokens_are_a_text_again(engine: Engine) -> None:
    tokens = (await asked(engine, "/tokenize", prompt="赵先生喜欢 山水", add_special_tokens=False))["tokens"]
    assert await asked(engine, "/detokenize", tokens=tokens) == {"prompt": "赵先生喜欢 山水"}


@pytest.mark.parametrize(
    ("path", "fields", "status", "message"),
    [
        pytest.param("/tokenize", {}, 400, "Send either 'prompt' or 'messages': one of them is what is tokenized.", id="nothing"),
        pytest.param("/tokenize", {"prompt": "a", "messages": MESSAGES}, 400, "Send either 'prompt' or 'messages': one of them is what is tokenized.", id="both"),
        pytest.param("/tokenize", {"prompt": "a", "model": "gpt-4"}, 404, "The model 'gpt-4' does not exist; this server has poet.", id="another model"),
        pytest.param("/detokenize", {"tokens": [1, 999]}, 400, "Invalid value for 'tokens[1]': 999 is no token of this model, which has 256.", id="no token"),
        pytest.param("/v1/embeddings", {"model": "poet", "input": "a"}, 501, "this server writes answers and makes no embeddings: ask a server with a model for embeddings, such as bge or e5", id="embeddings"),
    ],
)  # fmt: skip
async def test_what_cannot_be_told_is_said(
    engine: Engine, path: str, fields: dict[str, Any], status: int, message: str
) -> None:
    assert (await asked(engine, path, status, **fields))["error"]["message"] == message
