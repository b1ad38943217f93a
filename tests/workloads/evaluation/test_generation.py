"""Answers in batches: those that each question gets alone, ended where the turn ends, without a trace of the format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from alpaca_operator.api.generation import Decoding
from tests.workloads import tiny
from workloads.data import tokenizer_io
from workloads.data.chat_templates import loading
from workloads.data.chat_templates.template import Template
from workloads.evaluation import generation
from workloads.evaluation.generation import Answer
from workloads.models import libraries

libraries.quiet()

GREEDY = Decoding(temperature=0, repetition_penalty=1, max_new_tokens=24)
QUESTIONS = [row["instruction"] for row in tiny.rows(8)] + [
    "他？",
    "赵先生喜欢山，钱先生喜欢水，孙先生喜欢云，李先生喜欢月，周先生喜欢松。" * 3 + "王先生喜欢什么？",
]


@pytest.fixture(scope="module")
def template(shelf: Path) -> Template:
    return loading.load("HumanAssistant", None, tokenizer_io.load_tokenizer(shelf / "base"))


@pytest.fixture(scope="module")
def poet(shelf: Path, template: Template) -> Any:
    """A tiny Llama that has learnt eight answers by heart, and where they end."""
    from transformers import AutoModelForCausalLM

    llama = AutoModelForCausalLM.from_pretrained(shelf / "base")
    encoded = [
        template.encode(
            [{"role": "user", "content": row["instruction"]}, {"role": "assistant", "content": row["output"]}]
        )
        for row in tiny.rows(8)
    ]
    width = max(len(row.ids) for row in encoded)
    ids = torch.full((len(encoded), width), 3)
    labels = torch.full((len(encoded), width), -100)
    for number, row in enumerate(encoded):
        ids[number, : len(row.ids)] = torch.tensor(row.ids)
        labels[number, : len(row.ids)] = torch.where(torch.tensor(row.loss_mask), torch.tensor(row.ids).long(), -100)
    optimizer = torch.optim.AdamW(llama.parameters(), lr=1e-2)
    for _ in range(80):
        llama(input_ids=ids, labels=labels, use_cache=False).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    llama.generation_config.repetition_penalty = 5.0  # as a model's own settings may have it: they must have no say
    llama.generation_config.max_length = 3
    return llama.eval()


def answered(
    llama: Any, template: Template, decoding: Decoding, batch_size: int, questions: list[str] = QUESTIONS
) -> list[Answer]:
    prompts = [template.prompt([{"role": "user", "content": question}]) for question in questions]
    found = dict(generation.answers(llama, template, prompts, decoding, batch_size=batch_size))
    return [found[number] for number in range(len(questions))]


def test_what_was_learnt_is_answered_and_ended(poet: Any, template: Template) -> None:
    found = answered(poet, template, Decoding(temperature=0, repetition_penalty=1, max_new_tokens=64), 4, QUESTIONS[:8])
    assert [answer.text for answer in found] == [row["output"] for row in tiny.rows(8)]
    assert all(answer.stopped for answer in found)


@pytest.mark.parametrize(
    "decoding",
    [
        pytest.param(GREEDY, id="the likeliest token each time"),
        pytest.param(GREEDY.model_copy(update={"repetition_penalty": 1.3}), id="with a penalty on repetition"),
        pytest.param(Decoding(temperature=1.0, max_new_tokens=24), id="drawn from the likeliest"),
        pytest.param(Decoding(temperature=1.5, top_k=0, top_p=1, max_new_tokens=24), id="drawn from all"),
    ],
)
def test_a_batch_of_mixed_lengths_gives_what_each_question_gets_alone(
    decoding: Decoding, poet: Any, template: Template
) -> None:
    alone = answered(poet, template, decoding, 1)
    assert answered(poet, template, decoding, 4) == alone
    assert answered(poet, template, decoding, 10) == alone
    assert list(reversed(answered(poet, template, decoding, 10, QUESTIONS[::-1]))) == alone
    assert len({answer.tokens for answer in alone}) > 1, "rows of a batch end at different times"


def test_a_seed_gives_the_same_draw_and_another_seed_another(poet: Any, template: Template) -> None:
    prompts = [template.prompt([{"role": "user", "content": question}]) for question in QUESTIONS]
    decoding = Decoding(temperature=1.2, max_new_tokens=24)

    def drawn(seed: int) -> dict[int, Answer]:
        return dict(generation.answers(poet, template, prompts, decoding, seed=seed))

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


def test_an_answer_ends_where_positions_do(poet: Any, template: Template) -> None:
    question = "山石" * 240
    while (room := 512 - len(template.prompt([{"role": "user", "content": question}]))) > 12:
        question += "山"
    assert room > 0
    short, long = answered(poet, template, GREEDY, 2, ["他？", question])
    assert long.tokens <= room
    assert short == answered(poet, template, GREEDY, 1, ["他？"])[0]


def test_a_turn_that_was_taken_ends_at_its_own_length_beside_longer_answers(poet: Any, template: Template) -> None:
    """The user's name is no token of its own: only the text tells that the row is over, and padding follows."""
    found = answered(poet, template, GREEDY, 1)
    words = template.next_turn[1]
    assert words
    ids = template.tokenizer(f" 山水。\n{words[0]} 还有", add_special_tokens=False)["input_ids"]
    turn = generation._EndOfTurn(template, 2, [24, 24], lambda: None)
    pad = template.tokenizer.pad_token_id
    ended = 0
    for length in range(1, 25):
        short = [*ids, *[pad] * 24][:length]
        rows = [[1, 1, *short], [1, 1, *[ids[1]] * length]]
        over = turn(torch.tensor(rows), None).tolist()
        ended = ended or (length if over[0] else 0)
        assert over[1] == (length == 24)
    assert 0 < ended <= len(ids)
    assert turn.lengths == [ended, 24]
    assert all(answer.tokens <= 24 for answer in found)


@pytest.fixture(scope="module")
def stretched(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of 512 positions that dynamic NTK stretches to 1024."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from alpaca_operator.api.sources import RopeScaling
    from workloads.models import rope

    config = AutoConfig.from_pretrained(shelf / "base")
    rope.apply(config, RopeScaling(type="dynamic", factor=2))
    return AutoModelForCausalLM.from_pretrained(shelf / "base", config=config).eval()


def test_a_question_beyond_the_first_positions_of_a_dynamic_model_is_answered_as_alone(
    stretched: Any, template: Template, shelf: Path
) -> None:
    from transformers import AutoModelForCausalLM

    questions = ["山水" * 300, "他？", "山石" * 250]
    decoding = Decoding(temperature=0, repetition_penalty=1, max_new_tokens=8)
    together = answered(stretched, template, decoding, 8, questions)
    assert [answer.tokens for answer in together] == [8, 8, 8]
    for question, answer in zip(questions, together, strict=True):
        fresh = AutoModelForCausalLM.from_pretrained(shelf / "base", config=stretched.config).eval()
        ids = template.prompt([{"role": "user", "content": question}])
        with torch.inference_mode():
            out = fresh.generate(
                torch.tensor([ids]),
                attention_mask=torch.ones(1, len(ids), dtype=torch.long),
                do_sample=False,
                max_new_tokens=8,
                pad_token_id=3,
            )
        assert generation._answer(template, out[0, len(ids) :].tolist(), 8, {*template.stop_ids}) == answer


def test_a_stop_request_ends_a_batch_at_the_next_token(poet: Any, template: Template) -> None:
    beats = []

    def heartbeat() -> None:
        beats.append(1)
        if len(beats) == 3:
            raise KeyboardInterrupt

    prompts = [template.prompt([{"role": "user", "content": "他？"}])]
    with pytest.raises(KeyboardInterrupt):
        list(generation.answers(poet, template, prompts, GREEDY, heartbeat=heartbeat))
    assert len(beats) == 3


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        pytest.param(" 山水。\n</s>", ("山水。", "Stopped"), id="an end mark ends it, and its white space goes"),
        pytest.param(" 山水。\nHuman: 还有呢？", ("山水。", "TookTheTurn"), id="the user's part is cut off"),
        pytest.param(
            " 山水。\n<s>Human: 还", ("山水。", "TookTheTurn"), id="the token that begins a turn is no end mark"
        ),
        pytest.param(" 山水", ("山水", "Cut"), id="the limit cuts it"),
        pytest.param("</s>", ("", "Stopped"), id="an empty answer is an answer"),
        pytest.param(" 山<pad>水<unk>。</s></s>", ("山 水 。", "Stopped"), id="control tokens are never shown"),
    ],
)
def test_an_answer_is_cleaned(written: str, expected: tuple[str, str], template: Template) -> None:
    tokenizer = template.tokenizer
    ids = tokenizer(written, add_special_tokens=False)["input_ids"]
    answer = generation._answer(template, ids, len(ids), {*template.stop_ids})
    assert (answer.text, answer.ending) == expected


def test_half_a_character_at_the_limit_is_not_shown(byte_level_folder: Path) -> None:
    tokenizer = tokenizer_io.load_tokenizer(byte_level_folder)
    template = loading.load("ChatML", None, tokenizer)
    ids = tokenizer("山𠮷", add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(ids[:-1]) == "山\ufffd", json.dumps(ids)
    assert generation._answer(template, ids[:-1], 100, {*template.stop_ids}).text == "山"


def test_a_format_of_single_questions_has_no_next_turn(shelf: Path, tmp_path: Path) -> None:
    (tmp_path / "one.jinja").write_text(
        "{%- if messages | length > 2 %}{{ raise_exception('one question only') }}{%- endif %}{%- for message in messages %}"
        "{%- if message.role == 'user' %}{{ 'Q: ' + message.content + ' A:' }}{%- else %}{% generation %}{{ message.content + eos_token }}"
        "{% endgeneration %}{%- endif %}{%- endfor %}",
        encoding="utf-8",
    )
    template = loading.load("FromModel", tmp_path / "one.jinja", tokenizer_io.load_tokenizer(shelf / "base"))
    assert template.next_turn == ((), ())
