"""``engine: LlamaCpp``: a GGUF file that a QuantizeJob wrote answers as the model that it was made of."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.workloads import literature, parrot, tiny
from tests.workloads.engine_process import Engine, manifest
from tests.workloads.quantization.test_gguf import gguf_job, write_model
from tests.workloads.quantized import done, run, teach

QUESTIONS = [row["instruction"] for row in tiny.rows(8, seed=5)]


@pytest.fixture(scope="module")
def place(sentencepiece_folder: Path, tmp_path_factory: pytest.TempPathFactory, llama) -> Path:
    """A folder with `tuned`, which answers `tiny.rows`, and `out`, what a job made of it; `parrot-gguf` never stops."""
    folder = tmp_path_factory.mktemp("llama-cpp")
    teach(write_model(folder / "tuned", sentencepiece_folder))
    line = [llama.convert_tokens_to_ids(piece) for piece in ("▁", "明", "月")]
    last = llama(":", add_special_tokens=False).input_ids[-1]
    parrot.write(folder / "parrot", llama, [line, [last, *line]])
    tiny.write_rows(folder / "rows.json", 40)
    for name, output in (("tuned", "out"), ("parrot", "parrot-gguf")):
        job = gguf_job(model={"uri": name}, gguf={"type": "F16"}, evaluation={"answers": 0}, output={"uri": output})
        done(run(folder, job))
    return folder


@pytest.fixture(scope="module")
def engine(place: Path) -> Iterator[Engine]:
    chat = manifest(
        "poet",
        model={"uri": "out"},
        template="FromModel",
        engine="LlamaCpp",
        compareWith={"name": "parrot", "model": {"uri": "parrot-gguf"}},
        generation={"temperature": 0, "repetitionPenalty": 1, "maxNewTokens": 48},
        limits={"maxBatch": 8},
    )
    started = Engine(place, chat)
    yield started.ready()
    started.stop()
    assert started.end() == 0, started.errors
    assert started.last_word["message"] == "stopped as asked"


@pytest.fixture
def client(engine: Engine) -> openai.OpenAI:
    return openai.OpenAI(base_url=engine.url, api_key="unused", max_retries=0)


def asked(question: str, **fields: Any) -> dict[str, Any]:
    return {"model": "poet", "messages": [{"role": "user", "content": question}], **fields}


def by_transformers(folder: Path, question: str) -> str:
    """The likeliest answer of the original."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt = f"<s>Human: {question}\n</s><s>Assistant:"
    ids = tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
    answer = model.generate(ids, do_sample=False, max_new_tokens=48)[0, ids.shape[1] :]
    return str(tokenizer.decode(answer, skip_special_tokens=True)).strip()


def test_it_answers_as_the_model_that_the_file_was_made_of(place: Path, client: openai.OpenAI) -> None:
    for question in QUESTIONS[:3]:
        answer = client.chat.completions.create(**asked(question)).choices[0]
        assert answer.message.content == by_transformers(place / "tuned", question)
        assert answer.message.content
        assert "喜欢" in answer.message.content
        assert answer.finish_reason == "stop"


def test_what_is_served_is_told(client: openai.OpenAI, place: Path) -> None:
    model, other = client.models.list().data
    assert other.id == "parrot"
    told = model.model_dump()["alpaca"]
    artifact = json.loads((place / "out" / "artifact.json").read_text(encoding="utf-8"))
    assert (model.id, told["kind"], told["digest"]) == ("poet", "GGUFModel", artifact["digest"])
    assert told["contextLength"] == 512


def test_an_answer_is_held_to_a_form(client: openai.OpenAI) -> None:
    schema = {"type": "object", "properties": {"who": {"enum": ["赵", "钱"]}}, "required": ["who"]}
    exact = {"name": "who", "strict": True, "schema": {**schema, "additionalProperties": False}}
    form = {"type": "json_schema", "json_schema": exact}
    answer = client.chat.completions.create(**asked("谁？", response_format=form, max_tokens=400)).choices[0]
    assert json.loads(answer.message.content or "")["who"] in ("赵", "钱")
    assert answer.finish_reason == "stop"


async def test_streams_at_once_are_the_answers_of_each_alone(engine: Engine) -> None:
    client = openai.AsyncOpenAI(base_url=engine.url, api_key="unused", max_retries=0)

    async def answer(number: int, temperature: float) -> str:
        fields = asked(QUESTIONS[number], temperature=temperature, seed=number)
        stream = await client.chat.completions.create(**fields, stream=True)
        return "".join([chunk.choices[0].delta.content or "" async for chunk in stream])

    for temperature in (0, 0.9):
        together = await asyncio.gather(*(answer(number, temperature) for number in range(8)))
        assert together == [await answer(number, temperature) for number in range(8)]
        assert all(together)
    await client.close()


def test_a_long_prompt_is_read_in_pieces_beside_an_answer(client: openai.OpenAI) -> None:
    """More tokens than a pass takes; what is written meanwhile, and by whom, changes nothing."""
    long = asked("他喜欢水。" * 400, max_tokens=9) | {"model": "parrot"}
    alone = client.chat.completions.create(**long)
    assert alone.usage is not None
    assert alone.usage.prompt_tokens > 512
    with client.chat.completions.create(**asked("山", max_tokens=3000) | {"model": "parrot"}, stream=True) as stream:
        next(iter(stream))
        assert client.chat.completions.create(**long).choices == alone.choices
    assert "明月" in str(alone.choices[0].message.content)


def test_how_likely_tokens_were_is_told_as_the_original_has_it(client: openai.OpenAI, place: Path) -> None:
    """Those of the prompt too, which makes llama.cpp tell of every position."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(place / "tuned")
    model = AutoModelForCausalLM.from_pretrained(place / "tuned", dtype=torch.float32)
    ids = tokenizer(f"<s>Human: {QUESTIONS[0]}\n</s><s>Assistant:", add_special_tokens=False)["input_ids"]
    with torch.no_grad():
        chances = model(torch.tensor([ids])).logits[0].log_softmax(-1)
    expected = [float(chances[at, token]) for at, token in enumerate(ids[1:])]
    done = client.completions.create(model="poet", prompt=ids, echo=True, logprobs=1, max_tokens=2, temperature=0)
    told = done.choices[0].logprobs
    assert told is not None
    assert told.token_logprobs is not None
    assert told.token_logprobs[0] is None
    assert told.token_logprobs[1 : len(ids)] == pytest.approx(expected, abs=0.05)
    assert told.token_logprobs[len(ids)] == pytest.approx(float(chances[-1].max()), abs=0.05)


def test_an_answer_keeps_to_a_form(client: openai.OpenAI) -> None:
    form: Any = {
        "type": "json_schema",
        "json_schema": {
            "name": "likes",
            "schema": {
                "type": "object",
                "properties": {"water": {"type": "boolean"}},
                "required": ["water"],
                "additionalProperties": False,
            },
        },
    }
    done = client.chat.completions.create(**asked(QUESTIONS[0], max_tokens=250), response_format=form)
    assert done.choices[0].finish_reason == "stop", done.choices[0].message.content
    assert json.loads(str(done.choices[0].message.content)).keys() == {"water"}


def test_several_answers_are_written_together(client: openai.OpenAI) -> None:
    several = client.chat.completions.create(**asked(QUESTIONS[0], n=3, temperature=0.9, seed=5))
    texts = [choice.message.content for choice in several.choices]
    assert len(texts) == 3
    assert texts[0] == client.chat.completions.create(
        **asked(QUESTIONS[0], temperature=0.9, seed=5)
    ).choices[0].message.content  # fmt: skip


def test_one_who_leaves_is_not_answered_on(engine: Engine, client: openai.OpenAI) -> None:
    before = engine.metric('alpaca_chat_requests_total{outcome="cancelled"}')
    endless = asked("山", max_tokens=3000) | {"model": "parrot"}
    stream = client.chat.completions.create(**endless, stream=True)
    next(iter(stream))
    engine.until("alpaca_chat_running", 1)
    stream.close()
    engine.until("alpaca_chat_running", 0)
    engine.until('alpaca_chat_requests_total{outcome="cancelled"}', before + 1)


@pytest.mark.parametrize("kind", ["pieces", "bytes"])
def test_the_tokenizer_of_the_file_is_the_models_own(
    kind: str, sentencepiece_folder: Path, byte_level_folder: Path, tmp_path: Path
) -> None:
    from workloads.data.tokenizer_io import load_tokenizer
    from workloads.serving.llama_cpp import gguf_file, tokenizer

    folder, template = {"pieces": (sentencepiece_folder, "HumanAssistant"), "bytes": (byte_level_folder, "ChatML")}[
        kind
    ]
    write_model(tmp_path / "tuned", folder, rows=5)
    tiny.write_rows(tmp_path / "rows.json", 20)
    done(run(tmp_path, gguf_job(template=template, evaluation={"answers": 0})))
    theirs = load_tokenizer(tmp_path / "tuned")
    file = gguf_file.read(tmp_path / "out", "spec.model out")
    ours = tokenizer.of(file)
    texts = [*literature.chinese(60, 4), *literature.english(60, 4), "a  b\n\n\tc 12345 …… 🙂", ""]
    for special in (False, True):
        for text in texts:
            ids = ours(text, add_special_tokens=special)["input_ids"]
            assert ids == theirs(text, add_special_tokens=special)["input_ids"], text
            assert ours.decode(ids) == theirs.decode(ids)
    assert (ours.bos_token, ours.eos_token_id) == (theirs.bos_token, file.metadata["tokenizer.ggml.eos_token_id"])
    assert tokenizer.unused(file) == list(range(len(theirs), len(theirs) + 5))


def refusal(folder: Path, **spec: Any) -> str:
    from alpaca_operator.api.chat import ChatDeployment
    from workloads.errors import WorkloadError
    from workloads.serving.engine import loading as engine_loading
    from workloads.serving.engine.metrics import Metrics
    from workloads.serving.llama_cpp import loading
    from workloads.system.environment import Environment

    chat = ChatDeployment.model_validate(manifest(template="FromModel", **spec))
    load = loading.load if chat.spec.engine == "LlamaCpp" else engine_loading.load
    with pytest.raises(WorkloadError) as refused:
        load(chat, Environment.read({"ALPACA_CACHE": str(folder / "cache")}), Metrics(), lambda line: None)
    return str(refused.value)


def test_a_file_that_another_engine_reads_is_named(place: Path, tmp_path: Path) -> None:
    out = place / "out"
    assert refusal(tmp_path, model={"uri": str(out)}) == (
        f"spec.model {out}: model.gguf is read by llama.cpp alone: set engine to LlamaCpp"
    )


def test_a_folder_without_a_file_or_with_two_is_refused(place: Path, tmp_path: Path) -> None:
    tuned = place / "tuned"
    assert refusal(tmp_path, model={"uri": str(tuned)}, engine="LlamaCpp").startswith(
        f"spec.model {tuned}: {tuned} has no .gguf file; it holds "
    )
    two = tmp_path / "two"
    two.mkdir()
    for name in ("a.gguf", "b.gguf"):
        (two / name).symlink_to(place / "out" / "model.gguf")
    assert refusal(tmp_path, model={"uri": str(two)}, engine="LlamaCpp") == (
        f"spec.model {two}: {two} holds a.gguf, b.gguf: leave one model in it, or name a folder with one"
    )
    (two / "b.gguf").unlink()
    (two / "a.gguf").unlink()
    (two / "a.gguf").write_bytes((place / "out" / "model.gguf").read_bytes()[:2000])
    assert "is no GGUF file, or cut short" in refusal(tmp_path, model={"uri": str(two)}, engine="LlamaCpp")
