"""Gaps in texts, as models for code read and fill them."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import sentencepiece
from tokenizers import AddedToken

from alpaca_operator.api.chat import ChatDeployment
from tests.workloads import parrot
from tests.workloads.engine_process import manifest
from workloads.data.chat_templates.loading import load
from workloads.serving.engine import loading
from workloads.serving.engine.infilling import FAMILIES, Infilling
from workloads.serving.engine.server import Engine, application
from workloads.system.environment import Environment

CODE_LLAMA, *BYTE_LEVEL = FAMILIES
TEXTS = [
    ("山有", "水。"),
    ("山有 ", " 水。\n"),
    ("赵先生", "\n\n喜欢"),
    ("", "水"),
    ("def f():\n    return ", "\n\nf(1)"),
    ("</s>", "▁<MID>"),
]
SPELLED = TEXTS[-1]
"""What spells control tokens is text."""


def with_marks(tokenizer: Any, marks: Any) -> Any:
    made = copy.deepcopy(tokenizer)
    made.add_tokens([AddedToken(mark, normalized=False, special=True) for mark in marks.all], special_tokens=True)
    return made


@pytest.mark.parametrize("name", ["llama", "not_legacy"])
def test_code_llama_reads_a_gap_as_its_authors_do(
    name: str, request: pytest.FixtureRequest, sentencepiece_folder: Path
) -> None:
    """They encode with sentencepiece, and the text behind the gap after a sign that they take off again."""
    tokenizer = with_marks(request.getfixturevalue(name), CODE_LLAMA)
    pieces = sentencepiece.SentencePieceProcessor(str(sentencepiece_folder / "tokenizer.model"))
    sign = len(pieces.encode("☺"))
    found = Infilling.of(load("HumanAssistant", None, tokenizer))
    assert found is not None
    before_mark, behind_mark, middle_mark, over = tokenizer.convert_tokens_to_ids(CODE_LLAMA.all)
    for before, behind in TEXTS:
        expected = [before_mark, *pieces.encode(before), behind_mark, *pieces.encode(f"☺{behind}")[sign:], middle_mark]
        assert found.ids(before, behind) == expected, (before, behind)
    assert over in found.ends


@pytest.mark.parametrize("marks", BYTE_LEVEL, ids=lambda marks: marks.middle)
def test_others_read_it_as_one_text_with_marks(marks: Any, byte_level: Any) -> None:
    tokenizer = with_marks(byte_level, marks)
    found = Infilling.of(
        load("FromModel", None, tokenizer) if tokenizer.chat_template else load("ChatML", None, tokenizer)
    )
    assert found is not None
    for before, behind in TEXTS[:-1]:
        text = f"{marks.before}{before}{marks.behind}{behind}{marks.middle}"
        assert found.ids(before, behind) == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert found.ends.issuperset(tokenizer.convert_tokens_to_ids(marks.ends))


WORDS = ["喜", "欢"]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, llama: Any) -> Iterator[Engine]:
    """`coder`, which fills every gap in the same words, and `poet`, which knows of none."""
    folder = tmp_path_factory.mktemp("coder")
    tokenizer = with_marks(llama, CODE_LLAMA)
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in WORDS])
    line = tokenizer.convert_tokens_to_ids([CODE_LLAMA.middle, *WORDS, *CODE_LLAMA.ends])
    parrot.write(folder / "coder", tokenizer, [line])
    parrot.write(folder / "poet", llama, [llama.convert_tokens_to_ids(["▁", "明"])])
    other = {"name": "poet", "model": {"uri": str(folder / "poet")}, "template": "HumanAssistant"}
    spec = {
        "generation": {"temperature": 0, "repetitionPenalty": 1, "maxNewTokens": 12},
        "limits": {"maxInputTokens": 40},
    }
    job = ChatDeployment.model_validate(
        manifest("coder", model={"uri": str(folder / "coder")}, compareWith=other, **spec)
    )
    made = Engine(("coder", "poet"))
    environment = Environment.read({"ALPACA_CACHE": str(folder / "cache")})
    made.models = loading.load(job, environment, made.metrics, lambda message: None)
    yield made
    for scheduler in made.schedulers:
        scheduler.close()


async def asked(engine: Engine, **fields: Any) -> httpx.Response:
    transport = httpx.ASGITransport(application(engine))
    async with httpx.AsyncClient(transport=transport, base_url="http://engine", timeout=120) as http:
        return await http.post("/v1/completions", json={"model": "coder", "prompt": "赵先生", **fields})


async def test_a_gap_is_filled_up_to_the_token_that_says_so(engine: Engine) -> None:
    body = (await asked(engine, suffix="水。")).json()
    (choice,) = body["choices"]
    assert (choice["text"], choice["finish_reason"]) == ("喜欢", "stop")
    served = engine.models["coder"]
    found = Infilling.of(served.template)
    assert found is not None
    assert body["usage"]["prompt_tokens"] == len(found.ids("赵先生", "水。")) + (served.begins is not None)
    two = (await asked(engine, prompt=["赵", "钱"], suffix="水。", stream=True)).text
    assert two.count('"finish_reason":"stop"') == 2


async def test_an_empty_suffix_is_none(engine: Engine) -> None:
    first, second = (await asked(engine, suffix="", max_tokens=1)).json(), (await asked(engine, max_tokens=1)).json()
    assert first["usage"]["prompt_tokens"] == second["usage"]["prompt_tokens"]


@pytest.mark.parametrize(
    ("fields", "param", "told"),
    [
        pytest.param({"model": "poet", "suffix": "水"}, "suffix", "Unsupported value: 'suffix' is not served by this model, whose tokenizer has no tokens for a gap in a text (such as <|fim_prefix|>): leave it out, or ask a model for code that has them.", id="by a model without such tokens"),
        pytest.param({"suffix": "水" * 60}, "prompt", "This server takes at most 40 tokens of input, and the prompt has 72: shorten it.", id="where it is too long"),
        pytest.param({"suffix": "水" * 60_000}, "prompt", "This server takes at most 40 tokens of input, and the prompt has at least", id="where it need not be tokenized to be too long"),
    ],
)  # fmt: skip
async def test_a_gap_is_refused(engine: Engine, fields: dict[str, Any], param: str, told: str) -> None:
    answer = await asked(engine, **fields)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, param)
    assert error["message"].startswith(told)
