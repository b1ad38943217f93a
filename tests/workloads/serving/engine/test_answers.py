"""Several answers to one request, prompts as tokens, and how likely what was read and written is to the model."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from alpaca_operator.api.chat import ChatDeployment
from tests.workloads.engine_process import manifest
from workloads.serving.engine import loading
from workloads.serving.engine.server import Engine, application
from workloads.system.environment import Environment

TEXTS = ["赵先生喜欢", "他喜欢水。", "第7问：", "山", "云月", "hello"]


@pytest.fixture(scope="module")
def engine(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A random model that writes two answers at a time, and lets two wait."""
    spec = {
        "generation": {"temperature": 0, "repetitionPenalty": 1, "maxNewTokens": 12},
        "limits": {"maxBatch": 2, "maxQueue": 2},
    }
    job = ChatDeployment.model_validate(manifest("poet", model={"uri": str(shelf / "base")}, **spec))
    made = Engine(("poet",))
    environment = Environment.read({"ALPACA_CACHE": str(tmp_path_factory.mktemp("cache"))})
    made.models = loading.load(job, environment, made.metrics, lambda message: None)
    yield made
    made.models["poet"].scheduler.close()


@asynccontextmanager
async def client(engine: Engine) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(application(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=120) as opened:
        yield opened


async def asked(engine: Engine, path: str = "completions", status: int = 200, **fields: Any) -> dict[str, Any]:
    async with client(engine) as http:
        response = await http.post(f"/v1/{path}", json={"model": "poet", **fields})
    assert response.status_code == status, response.text
    return dict(response.json())


async def streamed(engine: Engine, path: str = "completions", **fields: Any) -> list[dict[str, Any]]:
    async with client(engine) as http:
        text = (await http.post(f"/v1/{path}", json={"model": "poet", "stream": True, **fields})).text
    events = text.strip().split("\n\n")
    assert events[-1] == "data: [DONE]"
    return [json.loads(event.removeprefix("data: ")) for event in events[:-1]]


def texts(body: dict[str, Any]) -> list[str]:
    assert [choice["index"] for choice in body["choices"]] == list(range(len(body["choices"])))
    return [choice["text"] for choice in body["choices"]]


def tokens(engine: Engine, text: str) -> list[int]:
    served = engine.models["poet"]
    return [*([] if served.begins is None else [served.begins]), *served.template.encode_text(text)]


def chances(engine: Engine, ids: list[int]) -> torch.Tensor:
    """Logarithms (positions, vocabulary) of one plain pass."""
    model = engine.models["poet"].scheduler._model
    with torch.inference_mode():
        return torch.log_softmax(model(torch.tensor([ids])).logits[0].float(), -1)


def busy(engine: Engine) -> None:
    """Waits until an answer waits for its place."""
    limit = time.monotonic() + 60
    while not engine.models["poet"].scheduler.queued:
        assert time.monotonic() < limit
        time.sleep(0.001)


class TestSeveral:
    async def test_prompts_are_answered_in_their_order_each_as_alone(self, engine: Engine) -> None:
        alone = [texts(await asked(engine, prompt=text))[0] for text in TEXTS]
        together = await asked(engine, prompt=TEXTS)
        assert texts(together) == alone
        assert len(set(alone)) > 3
        assert together["usage"]["prompt_tokens"] == sum(len(tokens(engine, text)) for text in TEXTS)
        chunks = await streamed(engine, prompt=TEXTS, stream_options={"include_usage": True})
        assert chunks.pop()["usage"] == together["usage"]
        joined = [""] * len(TEXTS)
        for (choice,) in (chunk["choices"] for chunk in chunks):
            joined[choice["index"]] += choice["text"]
        assert joined == alone
        ended = [chunk["choices"][0]["index"] for chunk in chunks if chunk["choices"][0]["finish_reason"]]
        assert sorted(ended) == list(range(len(TEXTS)))

    async def test_the_tokens_of_a_text_are_answered_as_the_text(self, engine: Engine) -> None:
        ids = [tokens(engine, text) for text in TEXTS]
        assert texts(await asked(engine, prompt=ids)) == texts(await asked(engine, prompt=TEXTS))
        assert texts(await asked(engine, prompt=ids[0])) == texts(await asked(engine, prompt=TEXTS[0]))

    async def test_several_answers_to_one_prompt_are_drawn_with_seeds_of_their_own(self, engine: Engine) -> None:
        fields = {"prompt": TEXTS[:2], "temperature": 1, "max_tokens": 8}
        found = texts(await asked(engine, n=3, seed=5, **fields))
        assert len(set(found)) > 3
        for number in range(3):
            alone = texts(await asked(engine, seed=5 + number, **fields))
            assert alone == [found[number], found[3 + number]]

    async def test_several_answers_to_a_conversation(self, engine: Engine) -> None:
        fields = {"messages": [{"role": "user", "content": "山"}], "temperature": 1, "seed": 3, "n": 3}
        whole = await asked(engine, "chat/completions", **fields)
        said = [choice["message"]["content"] for choice in whole["choices"]]
        assert len(set(said)) > 1
        joined, roles = [""] * 3, set()
        for (choice,) in (chunk["choices"] for chunk in await streamed(engine, "chat/completions", **fields)):
            joined[choice["index"]] += choice["delta"].get("content", "")
            roles |= {choice["index"]} if "role" in choice["delta"] else set()
        assert joined == said
        assert roles == {0, 1, 2}

    async def test_the_best_of_several_are_the_likeliest_by_their_average_token(self, engine: Engine) -> None:
        fields = {"prompt": "山", "temperature": 1.5, "seed": 1, "max_tokens": 6}
        every = (await asked(engine, n=6, logprobs=0, **fields))["choices"]

        def average(choice: dict[str, Any]) -> float:
            noted = choice["logprobs"]["token_logprobs"]
            return float(sum(noted) / len(noted))

        best = await asked(engine, n=2, best_of=6, **fields)
        wanted = sorted(every, key=average, reverse=True)[:2]
        assert texts(best) == [choice["text"] for choice in wanted]
        assert [choice["logprobs"] for choice in best["choices"]] == [None, None]
        assert best["usage"]["completion_tokens"] == sum(len(one["logprobs"]["tokens"]) for one in every)

    async def test_a_request_that_was_let_in_is_answered_whole_and_others_do_not_wait_for_all_of_it(
        self, engine: Engine
    ) -> None:
        many = asyncio.create_task(asked(engine, prompt=TEXTS * 4, max_tokens=40))
        await asyncio.to_thread(busy, engine)
        assert len(texts(await asked(engine, prompt="山", max_tokens=2))) == 1
        assert not many.done()
        assert len(texts(await many)) == 24

    async def test_a_request_that_finds_the_queue_full_is_refused_as_a_whole(self, engine: Engine) -> None:
        async with client(engine) as http:
            body = {"model": "poet", "prompt": TEXTS[:2], "max_tokens": 100}
            found = await asyncio.gather(*(http.post("/v1/completions", json=body) for _ in range(8)))
        statuses = [response.status_code for response in found]
        assert set(statuses) == {200, 429}
        assert statuses.count(200) >= 2

    async def test_one_who_leaves_is_not_answered_on_with_any_of_them(self, engine: Engine) -> None:
        scheduler = engine.models["poet"].scheduler
        many = asyncio.create_task(streamed(engine, prompt=TEXTS * 40, max_tokens=200))
        await asyncio.to_thread(busy, engine)
        many.cancel()
        assert await asyncio.to_thread(scheduler.idle_within, 60)
        await asyncio.sleep(0.05)
        assert scheduler.idle_within(0)

    @pytest.mark.parametrize(
        ("prompt", "param", "message"),
        [
            pytest.param([[1], [1, 70_000]], "prompt[1][1]", "Invalid value for 'prompt[1][1]': 70000 is no token of this model, which has 256.", id="no token"),
            pytest.param(["山", "山水" * 3000], "prompt[1]", "This server takes at most 500 tokens of input, and the prompt has at least 600: shorten it.", id="one that is too long"),
        ],
    )  # fmt: skip
    async def test_what_is_wrong_with_one_of_several_is_named(
        self, engine: Engine, prompt: Any, param: str, message: str
    ) -> None:
        error = (await asked(engine, status=400, prompt=prompt))["error"]
        assert (error["param"], error["message"]) == (param, message)


class TestLikelihoods:
    async def test_those_of_a_prompt_are_those_of_one_plain_pass(self, engine: Engine) -> None:
        text = "赵先生喜欢山水。hello"
        (choice,) = (await asked(engine, prompt=text, echo=True, max_tokens=4, logprobs=3))["choices"]
        noted = choice["logprobs"]
        served = engine.models["poet"]
        ids = [*tokens(engine, text), *(answered := noted["tokens"][len(tokens(engine, text)) :])]
        assert choice["text"].startswith(text)
        assert len(answered) == 4
        assert noted["token_logprobs"][0] is noted["top_logprobs"][0] is None
        by_name = {served.pieces.of(number).decode("utf-8", "replace"): number for number in range(256)}
        ids = [*tokens(engine, text), *(by_name[name] for name in answered)]
        expected = chances(engine, ids[:-1])
        for at, (token, logprob) in enumerate(zip(ids[1:], noted["token_logprobs"][1:], strict=True)):
            assert logprob == pytest.approx(float(expected[at, token]), abs=1e-4)
            best = expected[at].topk(3).values.tolist()
            assert sorted(noted["top_logprobs"][at + 1].values(), reverse=True)[:3] == pytest.approx(best, abs=1e-4)
            assert noted["top_logprobs"][at + 1][noted["tokens"][at + 1]] == logprob
        for start, end, name in zip(
            noted["text_offset"][1:], noted["text_offset"][2:], noted["tokens"][1:], strict=False
        ):
            assert choice["text"][start:end] == (name if start else name.removeprefix(" "))

    async def test_a_prompt_alone(self, engine: Engine) -> None:
        whole = await asked(engine, prompt=["山水", "云"], echo=True, max_tokens=0, logprobs=0)
        assert texts(whole) == ["山水", "云"]
        assert whole["usage"]["completion_tokens"] == 0
        for text, choice in zip(("山水", "云"), whole["choices"], strict=True):
            assert len(choice["logprobs"]["tokens"]) == len(tokens(engine, text))
        (echoed,) = texts(await asked(engine, prompt=tokens(engine, "山水"), echo=True, max_tokens=0))
        assert echoed == "山水"

    async def test_a_stream_tells_the_same(self, engine: Engine) -> None:
        fields = {"prompt": "赵先生", "echo": True, "logprobs": 2, "max_tokens": 6}
        (whole,) = (await asked(engine, **fields))["choices"]
        chunks = [chunk["choices"][0] for chunk in await streamed(engine, **fields)]
        assert "".join(chunk["text"] for chunk in chunks) == whole["text"]
        for name, wanted in whole["logprobs"].items():
            assert [each for chunk in chunks for each in chunk["logprobs"][name]] == wanted

    async def test_those_of_a_conversation(self, engine: Engine) -> None:
        messages = [{"role": "user", "content": "山"}]
        fields = {"messages": messages, "logprobs": True, "top_logprobs": 2, "max_tokens": 5}
        (choice,) = (await asked(engine, "chat/completions", **fields))["choices"]
        content = choice["logprobs"]["content"]
        ids = engine.models["poet"].template.prompt(messages)
        for each in content:
            expected = chances(engine, ids)[-1].topk(2)
            assert [told["logprob"] for told in each["top_logprobs"]] == pytest.approx(
                expected.values.tolist(), abs=1e-4
            )
            assert each["top_logprobs"][0] == {key: each[key] for key in ("token", "logprob", "bytes")}
            assert bytes(each["bytes"]).decode() == each["token"]
            ids = [*ids, int(expected.indices[0])]
        assert len(content) == 5
        chunks = [chunk["choices"][0] for chunk in await streamed(engine, "chat/completions", **fields)]
        told = [each for chunk in chunks if chunk["logprobs"] for each in chunk["logprobs"]["content"]]
        assert [each["token"] for each in told] == [each["token"] for each in content]
        # The beginning of the second is known from the first: its sums are rounded otherwise.
        assert [each["logprob"] for each in told] == pytest.approx([each["logprob"] for each in content], abs=1e-4)

    async def test_they_are_the_models_own_whatever_the_request_sets(self, engine: Engine) -> None:
        fields = {"prompt": "山", "logprobs": 1, "max_tokens": 1}
        (plain,) = (await asked(engine, **fields))["choices"]
        (hot,) = (await asked(engine, temperature=2, top_k=1, **fields))["choices"]
        assert hot == plain


class TestControls:
    async def test_a_bias_makes_a_token_certain_or_takes_it_away(self, engine: Engine) -> None:
        (likeliest,) = chances(engine, tokens(engine, "山"))[-1:].argmax(-1).tolist()
        fields = {"prompt": "山", "max_tokens": 3, "logprobs": 0}
        told = (await asked(engine, **fields))["choices"][0]["logprobs"]["tokens"]
        name = engine.models["poet"].pieces.of(likeliest).decode("utf-8", "replace")
        assert told[0] == name
        banned = (await asked(engine, logit_bias={str(likeliest): -100}, **fields))["choices"][0]["logprobs"]["tokens"]
        assert name not in banned
        wanted = (await asked(engine, logit_bias={"70": 100}, **fields))["choices"][0]["logprobs"]["tokens"]
        assert wanted == [engine.models["poet"].pieces.of(70).decode("utf-8", "replace")] * 3
        error = (await asked(engine, status=400, logit_bias={"256": 1}, **fields))["error"]
        assert error["message"] == "Invalid value for 'logit_bias': 256 is no token of this model, which has 256."

    async def test_min_p_keeps_what_is_about_as_likely_as_the_likeliest(self, engine: Engine) -> None:
        fields = {"prompt": "山", "max_tokens": 12}
        drawn = {**fields, "temperature": 1.5, "seed": 2, "top_p": 1, "top_k": 0}
        greedy = texts(await asked(engine, **fields))
        assert texts(await asked(engine, min_p=1, **drawn)) == greedy
        assert texts(await asked(engine, **drawn)) != greedy

    async def test_further_tokens_end_an_answer_and_none_where_its_end_is_ignored(self, engine: Engine) -> None:
        served = engine.models["poet"]
        fields = {"prompt": "山", "max_tokens": 4}
        ids = tokens(engine, "山")
        for _ in range(2):
            ids = [*ids, int(chances(engine, ids)[-1].argmax())]
        (choice,) = (await asked(engine, stop_token_ids=[ids[-1]], **fields))["choices"]
        assert choice["finish_reason"] == "stop"
        (end,) = served.template.stop_ids[-1:]
        always = {"logit_bias": {str(end): 100}, **fields}
        assert (await asked(engine, **always))["usage"]["completion_tokens"] == 1
        ignored = await asked(engine, ignore_eos=True, **always)
        assert ignored["usage"]["completion_tokens"] == 4
