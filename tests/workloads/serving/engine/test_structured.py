"""Answers that are held to a form beside answers that are not: the same words where the model keeps to the form by itself."""

from __future__ import annotations

import asyncio
import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from alpaca_operator.api.chat import ChatDeployment
from tests.workloads import engine_process, parrot
from tests.workloads.serving.engine.answers import answer, started
from workloads.data.chat_templates.loading import load
from workloads.data.tokenizer_io import load_tokenizer
from workloads.serving.engine import loading
from workloads.serving.engine.answer import Answer
from workloads.serving.engine.server import Engine, application
from workloads.serving.engine.text import Pieces, Writer
from workloads.serving.engine.tools import trial
from workloads.serving.engine.tools.constraint import Vocabulary
from workloads.serving.refusal import Refusal
from workloads.system.environment import Environment

WORDS = [' {\n  "city": "', "北京", '",\n  "days": 3\n}', "\n"]
SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
FORMATS = {
    "any object": {"type": "json_object"},
    "a schema": {"type": "json_schema", "json_schema": {"name": "day", "schema": SCHEMA, "strict": True}},
    "a schema that is not strict": {"type": "json_schema", "json_schema": {"name": "day", "schema": SCHEMA}},
}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, llama: Any) -> Iterator[Engine]:
    """Over a model that says JSON, whatever it is asked."""
    folder = tmp_path_factory.mktemp("structured")
    tokenizer = copy.deepcopy(llama)
    tokenizer.add_tokens(WORDS[:-1])
    template = load("HumanAssistant", None, tokenizer)
    last = template.prompt([{"role": "user", "content": "问"}])[-1]
    ids = tokenizer.convert_tokens_to_ids([*WORDS[:-1], "<0x0A>"])
    parrot.write(folder / "base", tokenizer, [[last, *ids, tokenizer.eos_token_id]])
    job = ChatDeployment.model_validate(
        engine_process.manifest(model={"uri": str(folder / "base")}, generation={"temperature": 0})
    )
    opened = Engine(("tiny",))
    environment = Environment.read({"ALPACA_CACHE": str(folder / "cache")})
    opened.models = loading.load(job, environment, opened.metrics, lambda message: None)
    yield opened
    opened.models["tiny"].scheduler.close()


async def said(engine: Engine, **fields: Any) -> tuple[str, str, int]:
    """Text, why it ended and what it counts; the stream has to agree."""
    body = {"model": "tiny", "messages": [{"role": "user", "content": "天气？"}], **fields}
    transport = httpx.ASGITransport(application(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60) as http:
        whole = (await http.post("/v1/chat/completions", json=body)).json()
        streamed = await http.post("/v1/chat/completions", json={**body, "stream": True})
    events = [json.loads(line[6:]) for line in streamed.text.split("\n\n") if line.startswith("data: {")]
    choice = whole["choices"][0]
    text = choice["message"]["content"]
    assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == text
    return text, choice["finish_reason"], whole["usage"]["prompt_tokens"]


@pytest.mark.parametrize("form", FORMATS)
async def test_what_a_model_says_within_the_form_stays_the_same(engine: Engine, form: str) -> None:
    free = await said(engine)
    assert await said(engine, response_format=FORMATS[form]) == free
    assert json.loads(free[0]) == {"city": "北京", "days": 3}


async def test_what_it_would_say_beyond_the_form_is_another_word(engine: Engine) -> None:
    only = copy.deepcopy(FORMATS["a schema"])
    only["json_schema"]["schema"]["properties"]["city"] = {"enum": ["上海"]}  # type: ignore[index]
    text, reason, _ = await said(engine, response_format=only)
    assert (json.loads(text)["city"], reason) == ("上海", "stop")


async def test_words_that_end_an_answer_do_not_end_one_in_its_form(engine: Engine) -> None:
    name = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"const": "Human: </s>"}}}
    assert (await said(engine, response_format=name))[:2] == ('"Human: "', "stop")


async def test_a_schema_that_would_be_put_together_for_minutes_is_refused_by_its_field(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trial, "SECONDS", 1)
    schema = {"allOf": [{"type": "string", "pattern": f".*{letter}.*"} for letter in "abcdefghijklmnopqrst"]}
    body = {
        "model": "tiny",
        "messages": [{"role": "user", "content": "天气？"}],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}},
    }
    transport = httpx.ASGITransport(application(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=60) as http:
        told = await http.post("/v1/chat/completions", json=body)
    assert (told.status_code, told.json()["error"]["param"]) == (400, "response_format")
    assert told.json()["error"]["message"] == (
        "The tools and response_format together are too much to hold an answer to: its patterns take more than 1 s of a processor to be put "
        "together: use fewer of pattern and patternProperties"
    )


@pytest.fixture(scope="module")
def vocabulary(shelf: Path) -> Vocabulary:
    tokenizer = load_tokenizer(shelf / "base")
    return Vocabulary(Pieces(tokenizer), frozenset(tokenizer.all_special_ids), {tokenizer.eos_token_id})


GRAMMAR = "start: /[山水云]{1,4}/"


async def test_held_and_free_answers_side_by_side_are_those_of_each_alone(
    model: Any, vocabulary: Vocabulary, shelf: Path, prompts: list[list[int]]
) -> None:
    pieces = Pieces(load_tokenizer(shelf / "base"))

    def asked(number: int) -> Answer:
        made = answer(prompts[number], temperature=0.9, seed=number, ends=frozenset({2}))
        if number % 2:
            made.constraint = vocabulary.constraint(GRAMMAR)
            made.writer = Writer(pieces)
        return made

    async def written(numbers: list[int]) -> list[str]:
        scheduler = started(model)
        streams = [scheduler.submit(asked(number)) for number in numbers]
        texts = list(await asyncio.gather(*(stream.whole() for stream in streams)))
        scheduler.close()
        return texts

    together = await written(list(range(8)))
    assert together == [(await written([number]))[0] for number in range(8)]
    for text in together[1::2]:
        assert text
        assert set(text) <= set("山水云")


class Fails:
    """A constraint that comes to its end at the third token."""

    problem: str | None = None

    def __init__(self) -> None:
        self.taken = 0

    def narrow(self, scores: torch.Tensor) -> None:
        if self.taken == 2:
            self.problem = "too complex"

    def take(self, token: int) -> bool:
        self.taken += 1
        return False


async def test_an_answer_that_cannot_be_held_is_told_so_and_no_other_is(model: Any, prompts: list[list[int]]) -> None:
    scheduler = started(model)
    broken = answer(prompts[0])
    broken.constraint = Fails()  # type: ignore[assignment]
    first, second = scheduler.submit(broken), scheduler.submit(answer(prompts[5]))
    with pytest.raises(Refusal) as refused:
        await first.whole()
    assert (refused.value.status, refused.value.code) == (400, "grammar_failed")
    assert refused.value.message.endswith("any further: too complex")
    assert await second.whole()
    scheduler.close()
