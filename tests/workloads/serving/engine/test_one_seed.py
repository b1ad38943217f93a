"""One seed gives one answer, whether a user asks in the chat or an evaluation does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.generation import Decoding
from tests.workloads import tiny
from tests.workloads.engine_process import manifest
from workloads.evaluation import generation
from workloads.serving.engine import loading
from workloads.serving.engine.metrics import Metrics
from workloads.serving.engine.schema import ChatRequest
from workloads.system.environment import Environment

QUESTIONS = [row["instruction"] for row in tiny.rows(6)] + ["他？", "赵先生喜欢山，钱先生喜欢水，孙先生喜欢云。" * 3]


@pytest.mark.parametrize(
    "decoding",
    [
        pytest.param(Decoding(temperature=0, repetition_penalty=1, max_new_tokens=20), id="the likeliest"),
        pytest.param(Decoding(temperature=0.8, max_new_tokens=20), id="drawn by the defaults of a chat"),
        pytest.param(
            Decoding(temperature=1.5, top_k=0, top_p=1, repetition_penalty=1, max_new_tokens=20), id="drawn from all"
        ),
    ],
)
def test_one_seed_one_answer_in_chat_and_evaluation(decoding: Decoding, shelf: Path, tmp_path: Path) -> None:
    job = ChatDeployment.model_validate(manifest(model={"uri": str(shelf / "base")}))
    environment = Environment.read({"ALPACA_CACHE": str(tmp_path / "cache")})
    (served,) = loading.load(job, environment, Metrics(), lambda _: None).values()
    prompts = [served.template.prompt([{"role": "user", "content": question}]) for question in QUESTIONS]

    async def asked(seed: int) -> list[str]:
        async def one(question: str) -> str:
            request = ChatRequest(
                model="tiny",
                messages=[{"role": "user", "content": question}],  # type: ignore[list-item]
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                top_k=decoding.top_k,
                repetition_penalty=decoding.repetition_penalty,
                max_tokens=decoding.max_new_tokens,
                seed=seed,
            )
            (asked,) = served.ask(request)
            return await served.scheduler.submit(asked.answer).whole()

        return list(await asyncio.gather(*map(one, QUESTIONS)))

    def evaluated(seed: int) -> list[str]:
        model: Any = served.scheduler._model
        found = dict(generation.answers(model, served.template, prompts, decoding, batch_size=3, seed=seed))
        return [found[number].text for number in range(len(QUESTIONS))]

    try:
        chats = {seed: [text.strip() for text in asyncio.run(asked(seed))] for seed in (7, 8)}
    finally:
        served.scheduler.close()
    assert {seed: evaluated(seed) for seed in (7, 8)} == chats
    assert (chats[7] == chats[8]) == (decoding.temperature == 0)
