"""Loss, perplexity, bits per byte: against sums made by hand, however rows are batched and whatever the vocabulary."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.workloads import tiny
from workloads.data import conversations
from workloads.data.chat_templates import loading
from workloads.data.chat_templates.template import Template
from workloads.data.report import Report
from workloads.data.rows import Row
from workloads.evaluation import perplexity
from workloads.evaluation.perplexity import Score
from workloads.models import libraries

libraries.quiet()

CONVERSATIONS = [
    [("user", "《江雪》是谁写的？"), ("assistant", "是柳宗元写的。")],
    [("system", "只用一句话回答。"), ("user", "山在哪里？"), ("assistant", "在云的那边 ☁️，\n再走三里。")],
    [("user", "第一问？"), ("assistant", "好。"), ("user", "第二问？"), ("assistant", "Yes, of course: 2 + 2 = 4.")],
    [("user", "写出标记。"), ("assistant", "</s> 是结束标记，<|im_end|> 也是。")],
]


def prepared(template: Template, talks: list[Any] = CONVERSATIONS) -> list[conversations.Example]:
    from alpaca_operator.api.conversations import SFTDataset

    rows = [
        Row("rows.jsonl", number, tuple({"role": role, "content": text} for role, text in turns))
        for number, turns in enumerate(talks)
    ]
    dataset = SFTDataset.model_validate({"train": [{"uri": "x"}]})
    return list(conversations.prepare(rows, template, dataset, 512, Report()))


@pytest.fixture(scope="module")
def llama_model(shelf: Path) -> Any:
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(shelf / "base").eval()


@pytest.fixture(scope="module")
def rows(shelf: Path) -> list[conversations.Example]:
    from workloads.data import tokenizer_io

    template = loading.load("HumanAssistant", None, tokenizer_io.load_tokenizer(shelf / "base"))
    made = [[("user", row["instruction"]), ("assistant", row["output"])] for row in tiny.rows(24, seed=5)]
    return prepared(template, made)


def by_hand(model: Any, rows: list[conversations.Example]) -> tuple[float, int, int]:
    """Nats, tokens and correct guesses, a row at a time, from the logits of every position."""
    import torch

    nats, tokens, correct = 0.0, 0, 0
    for row in rows:
        ids = torch.tensor(row.ids[None].astype("int64"))
        with torch.inference_mode():
            logs = model(input_ids=ids).logits[0].log_softmax(-1)
        for at in range(1, len(row.ids)):
            if row.loss_mask[at]:
                nats -= float(logs[at - 1, ids[0, at]])
                tokens += 1
                correct += int(logs[at - 1].argmax() == ids[0, at])
    return nats, tokens, correct


@pytest.mark.parametrize("batch_size", [1, 5, 64])
def test_the_loss_is_the_sum_over_all_tokens_of_answers_however_rows_are_batched(
    batch_size: int, llama_model: Any, rows: list[conversations.Example]
) -> None:
    nats, tokens, correct = by_hand(llama_model, rows)
    told: list[Score] = []
    score = perplexity.score(llama_model, rows, pad=3, batch_size=batch_size, done=told.append)
    assert (score.tokens, score.correct, score.rows, score.bytes) == (tokens, correct, 24, 0)
    assert score.nats == pytest.approx(nats, rel=1e-5)
    assert score.perplexity == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    assert score.accuracy == correct / tokens
    assert told[-1] == score
    middle = told[len(told) // 2]
    assert perplexity.score(llama_model, rows, pad=3, batch_size=batch_size, so_far=middle) == score, "gone on from"


def test_a_head_of_zeros_foretells_nothing(llama_model: Any, rows: list[conversations.Example]) -> None:
    import copy

    import torch

    empty = copy.deepcopy(llama_model)
    torch.nn.init.zeros_(empty.get_output_embeddings().weight)
    score = perplexity.score(empty, rows, pad=3)
    assert score.perplexity == pytest.approx(empty.config.vocab_size, rel=1e-5)
    assert score.correct == sum(int((row.ids[1:][row.loss_mask[1:]] == 0).sum()) for row in rows)
    assert score.accuracy < 0.05


def test_rows_of_a_dynamic_model_are_stretched_by_their_own_length(shelf: Path) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from alpaca_operator.api.sources import RopeScaling
    from workloads.data import tokenizer_io
    from workloads.models import rope

    template = loading.load("HumanAssistant", None, tokenizer_io.load_tokenizer(shelf / "base"))
    talks = [[("user", "问"), ("assistant", text)] for text in ("山水" * 45, "云", "松石" * 40, "月在山前" * 6)]
    rows = prepared(template, talks)
    config = AutoConfig.from_pretrained(shelf / "base", max_position_embeddings=32)
    rope.apply(config, RopeScaling(type="dynamic", factor=8))

    def fresh() -> Any:
        model = AutoModelForCausalLM.from_pretrained(shelf / "base", config=config).eval()
        for layer in model.model.layers:  # weights as small as those of a new model hardly see positions
            layer.self_attn.q_proj.weight.data *= 40
            layer.self_attn.k_proj.weight.data *= 40
        return model

    alone = sum((Score(*by_hand(fresh(), [row])) for row in rows), Score())
    score = perplexity.score(fresh(), rows, pad=3, batch_size=4)
    assert {len(row.ids) > 32 for row in rows} == {True, False}
    assert (score.tokens, score.correct) == (alone.tokens, alone.correct)
    assert score.nats == pytest.approx(alone.nats, rel=1e-5)


def test_rows_of_one_length_share_a_batch_and_a_batch_has_a_bound_of_logits(rows: list[conversations.Example]) -> None:
    found = list(perplexity.batches(rows, batch_size=8, scored=90))
    assert sorted(id(row) for batch in found for row in batch) == sorted(map(id, rows))
    lengths = [len(row.ids) for batch in found for row in batch]
    assert lengths == sorted(lengths, reverse=True)
    assert all(len(batch) <= 8 for batch in found)
    assert all(len(batch) == 1 or sum(int(row.loss_mask.sum()) for row in batch) <= 90 for batch in found)
    assert [len(batch) for batch in perplexity.batches(rows, 8, scored=1)] == [1] * 24


@pytest.mark.parametrize(
    ("fixture", "name"),
    [
        pytest.param("llama", "HumanAssistant", id="sentencepiece with white space around the answer"),
        pytest.param("llama", "Llama2", id="sentencepiece in Llama-2's format"),
        pytest.param("not_legacy", "HumanAssistant", id="sentencepiece without the dummy prefix inside"),
        pytest.param("byte_level", "Llama3", id="bytes in Llama-3's format"),
        pytest.param("byte_level", "ChatML", id="bytes in ChatML"),
    ],
)
def test_the_bytes_are_those_of_the_answers_whatever_the_vocabulary_and_the_format(
    fixture: str, name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    tokenizer = request.getfixturevalue(fixture)
    template = loading.load(name, None, tokenizer)
    size = perplexity.AnswerBytes(tokenizer, tmp_path, template)
    expected = [sum(len(text.encode()) for role, text in turns if role == "assistant") for turns in CONVERSATIONS]
    assert [size.of(row) for row in prepared(template)] == expected


def test_scores_of_parts_add_up() -> None:
    parts = [Score(1.5, 3, 1, 10, 1), Score(2.5, 5, 4, 22, 2)]
    whole = sum(parts, Score())
    assert whole == Score(4.0, 8, 5, 32, 3)
    assert whole.metrics() == {
        "evalLoss": 0.5,
        "perplexity": pytest.approx(math.exp(0.5)),
        "tokenAccuracy": 5 / 8,
        "evalTokens": 8.0,
        "bitsPerByte": pytest.approx(4.0 / math.log(2) / 32),
    }


def test_intervals_are_those_of_rows_drawn_again_and_again() -> None:
    """Against the bootstrap: tokens of one row are alike, so that rows are drawn."""
    import numpy as np

    random = np.random.default_rng(3)
    tokens = random.integers(5, 60, 200)
    ease = random.normal(1.2, 0.4, 200).clip(0.1)
    rows = [
        (float(each * count), int(count), round(count * math.exp(-each)), int(3 * count))
        for each, count in zip(ease, tokens, strict=True)
    ]
    found = sum((Score.of_row(*row) for row in rows), Score()).intervals()
    drawn = np.array(rows)[random.integers(0, 200, (4000, 200))].sum(1)
    expected = {
        "evalLoss": drawn[:, 0] / drawn[:, 1],
        "perplexity": np.exp(drawn[:, 0] / drawn[:, 1]),
        "tokenAccuracy": drawn[:, 2] / drawn[:, 1],
        "bitsPerByte": drawn[:, 0] / math.log(2) / drawn[:, 3],
    }
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        low, high = np.quantile(values, [0.025, 0.975])
        width = high - low
        assert (found[name].low, found[name].high) == pytest.approx((low, high), abs=0.15 * width), name
        assert (found[name].count, found[name].unit) == (200, "rows")


def test_an_accuracy_of_all_is_as_sure_as_its_rows_are_many_and_not_its_tokens() -> None:
    found = sum((Score.of_row(0.0, 100, 100, 0) for _ in range(16)), Score()).intervals()["tokenAccuracy"]
    assert (found.low, found.high) == (pytest.approx(16 / (16 + 1.95996**2), abs=1e-5), 1.0)
    assert Score.of_row(3.0, 4, 1, 0).intervals().keys() == {"tokenAccuracy"}, "of one row a loss has no spread"
    assert not Score().intervals()


@pytest.mark.parametrize(
    ("score", "loss", "value"),
    [
        pytest.param(Score(math.nan, 3), math.nan, math.nan, id="a loss that is no number stays none"),
        pytest.param(Score(), math.nan, math.nan, id="of no tokens there is no loss"),
        pytest.param(Score(3000.0, 3), 1000.0, math.inf, id="a perplexity too large for a float is infinite"),
    ],
)
def test_what_is_no_number_is_not_hidden(score: Score, loss: float, value: float) -> None:
    assert score.loss == pytest.approx(loss, nan_ok=True)
    assert score.perplexity == pytest.approx(value, nan_ok=True)
