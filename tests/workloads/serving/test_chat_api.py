"""The engine's process, asked by the clients that people use: OpenAI's own, LangChain's, and those who leave."""

from __future__ import annotations

import asyncio
import io
import re
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
import torch
from langchain_openai import ChatOpenAI

from tests.workloads import parrot
from tests.workloads.engine_process import ROOT, Engine, manifest

KEY = "sk-alpaca"
QUESTIONS = ["山", "第7问：赵先生喜欢什么？" * 4, "他喜欢水。", "0123", "云" * 50, "月", "松石" * 9, "hello"]


@pytest.fixture(scope="module")
def engine(shelf: Path, tmp_path_factory: pytest.TempPathFactory, llama) -> Iterator[Engine]:
    """Two models: `poet`, random, and `parrot`, which never stops."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "base").symlink_to(shelf / "base")
    line = [llama.convert_tokens_to_ids(piece) for piece in ("▁", "明", "月")]
    parrot.write(folder / "parrot", llama, [line], max_position_embeddings=30_000)
    other = {"name": "parrot", "model": {"uri": "parrot"}, "template": "HumanAssistant"}
    chat = manifest("poet", compareWith=other, generation={"temperature": 0, "maxNewTokens": 24})
    started = Engine(folder, chat, ALPACA_API_KEY=KEY)
    yield started.ready()
    started.close()


@pytest.fixture
def client(engine: Engine) -> openai.OpenAI:
    return openai.OpenAI(base_url=engine.url, api_key=KEY, max_retries=0)


def asked(question: str, **fields: Any) -> dict[str, Any]:
    return {"model": "poet", "messages": [{"role": "user", "content": question}], **fields}


def test_an_answer_and_its_stream_are_the_same(client: openai.OpenAI) -> None:
    whole = client.chat.completions.create(**asked("山"))
    chunks = list(client.chat.completions.create(**asked("山"), stream=True, stream_options={"include_usage": True}))
    assert whole.choices[0].message.content
    texts = [chunk.choices[0].delta.content or "" for chunk in chunks[:-1]]
    assert "".join(texts) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert whole.usage is not None
    assert chunks[-1].usage is not None
    known = {"prompt_tokens_details"}  # asked once more, the question is remembered
    assert chunks[-1].choices == []
    assert chunks[-1].usage.model_dump(exclude=known) == whole.usage.model_dump(exclude=known)
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens == whole.usage.prompt_tokens - 1
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + whole.usage.completion_tokens


async def test_eight_streams_at_once_are_the_answers_of_each_alone(engine: Engine) -> None:
    client = openai.AsyncOpenAI(base_url=engine.url, api_key=KEY, max_retries=0)

    async def answer(number: int, temperature: float) -> str:
        fields = asked(QUESTIONS[number], temperature=temperature, seed=number)
        stream = await client.chat.completions.create(**fields, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    for temperature in (0, 0.9):
        together = await asyncio.gather(*(answer(number, temperature) for number in range(8)))
        assert len(set(together)) > 4
        assert together == [await answer(number, temperature) for number in range(8)]
    await client.close()


def test_texts_are_completed_and_models_listed(client: openai.OpenAI) -> None:
    assert [model.id for model in client.models.list()] == ["poet", "parrot"]
    assert client.models.retrieve("parrot").owned_by == "literary-alpaca"
    done = client.completions.create(model="parrot", prompt="", max_tokens=4)
    assert (done.choices[0].finish_reason, done.choices[0].text) == ("length", "")
    chunks = client.completions.create(model="poet", prompt="他", max_tokens=4, stream=True)
    assert "".join(chunk.choices[0].text for chunk in chunks) == (
        client.completions.create(model="poet", prompt="他", max_tokens=4).choices[0].text
    )


def test_errors_are_those_that_the_client_knows(client: openai.OpenAI, engine: Engine) -> None:
    stranger = openai.OpenAI(base_url=engine.url, api_key="wrong", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match=re.escape("Incorrect API key provided.")):
        stranger.chat.completions.create(**asked("山"))
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(**asked("山") | {"model": "gpt-4"})
    assert missing.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked("山", temperature=5))
    assert (refused.value.code, refused.value.param) == ("invalid_value", "temperature")
    with pytest.raises(openai.BadRequestError) as refused:
        client.chat.completions.create(**asked("问a山b" * 25_000) | {"model": "parrot"})
    assert refused.value.code == "context_length_exceeded"


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        pytest.param("chat/completions", {"temperature": 1e-45}, id="so cold that scores become infinite"),
        pytest.param("completions", {"prompt": "", "messages": None}, id="nothing to go on from"),
    ],
)
def test_no_request_breaks_the_answer_of_another(
    engine: Engine, client: openai.OpenAI, path: str, fields: dict[str, Any]
) -> None:
    """A step that fails fails for all, and the third of them ends the pod."""
    with client.chat.completions.create(**endless() | {"max_tokens": 3000}, stream=True) as stream:
        next(stream)
        head = {"Authorization": f"Bearer {KEY}"}
        for _ in range(4):
            body = {**endless(), "max_tokens": 4, **fields}
            assert httpx.post(f"{engine.url}/{path}", json=body, headers=head, timeout=60).status_code < 500
        assert list(stream)[-1].choices[0].finish_reason == "length"
    assert httpx.get(f"{engine.root}/livez").status_code == 200


def endless() -> dict[str, Any]:
    return asked("山", max_tokens=20_000, temperature=0) | {"model": "parrot"}


def test_one_who_leaves_a_stream_is_not_answered_on(client: openai.OpenAI, engine: Engine) -> None:
    before = engine.metric('alpaca_chat_requests_total{outcome="cancelled"}')
    stream = client.chat.completions.create(**endless(), stream=True)
    next(iter(stream))
    engine.until("alpaca_chat_running", 1)
    stream.close()
    engine.until("alpaca_chat_running", 0)
    engine.until('alpaca_chat_requests_total{outcome="cancelled"}', before + 1)


def test_one_who_leaves_before_the_answer_is_whole_is_not_answered_on(engine: Engine) -> None:
    before = engine.metric('alpaca_chat_requests_total{outcome="cancelled"}')
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{engine.url}/chat/completions",
            json=endless(),
            headers={"Authorization": f"Bearer {KEY}"},
            timeout=httpx.Timeout(60, read=0.5),
        )
    engine.until("alpaca_chat_running", 0)
    engine.until('alpaca_chat_requests_total{outcome="cancelled"}', before + 1)


def test_langchain_asks_and_is_answered(client: openai.OpenAI, engine: Engine) -> None:
    poet = ChatOpenAI(model="poet", base_url=engine.url, api_key=KEY, temperature=0, max_retries=0)  # type: ignore[arg-type]
    answer = poet.invoke("山")
    assert answer.content == client.chat.completions.create(**asked("山")).choices[0].message.content
    assert "".join(str(chunk.content) for chunk in poet.stream("山")) == answer.content
    assert poet.batch(["山", "山"])[1].content == answer.content
    with pytest.raises(openai.BadRequestError):
        poet.invoke("山", temperature=5)


@pytest.fixture(scope="module")
def literate(tmp_path_factory: pytest.TempPathFactory, llama: Any) -> Iterator[Engine]:
    """A `poet` that is random too, whose vocabulary can spell whatever an example asks for."""
    from transformers import LlamaConfig, LlamaForCausalLM

    folder = tmp_path_factory.mktemp("literate")
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(llama), max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, **sizes)
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder / "base")
    llama.save_pretrained(folder / "base")
    started = Engine(folder, manifest("poet", generation={"temperature": 0, "maxNewTokens": 24}), ALPACA_API_KEY=KEY)
    yield started.ready()
    started.close()


BLOCKS = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "langchain.md").read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("number", range(6))
def test_what_the_page_on_clients_shows_runs(literate: Engine, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    assert len(BLOCKS) == 6
    monkeypatch.setenv("OPENAI_BASE_URL", literate.url)
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    out = io.StringIO()
    with redirect_stdout(out):
        exec(compile(BLOCKS[number], "docs/langchain.md", "exec", dont_inherit=True), {})
    assert out.getvalue().strip()
