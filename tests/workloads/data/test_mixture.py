"""Sources weighed against each other: what is taken of each, how often it is trained on, and that nothing else moves."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from alpaca_operator.api.mixture import Share
from alpaca_operator.api.pretrain import PretrainSpec
from alpaca_operator.api.sft import SFTSpec
from tests.workloads.talks import turns
from workloads.data import document_shares, document_split, mixture, token_blocks
from workloads.data.chat_templates.loading import load
from workloads.data.prepared import Prepared, datasets_for
from workloads.data.tokenize import TokenizerSpec
from workloads.errors import SpecError
from workloads.storage.sources import Input, Inputs

MANY = 20_000
NUMBERS = np.random.default_rng(1).integers(0, 2**63, MANY).astype(np.uint64)


# What is drawn


@pytest.mark.parametrize("weight", [0.25, 1, 1.5, 3])
def test_rows_come_as_often_as_the_weight_says(weight: float) -> None:
    found = mixture.times(Share(weight=weight), NUMBERS, 42, "dataset.train[0]")
    assert set(found.tolist()) <= {int(weight), int(weight) + 1}
    assert abs(found.mean() - weight) < 0.02
    assert (found == mixture.times(Share(weight=weight), NUMBERS, 42, "dataset.train[0]")).all()
    if weight % 1:
        assert (found != mixture.times(Share(weight=weight), NUMBERS, 43, "dataset.train[0]")).any()


def test_caps_take_rows_by_what_they_say_and_not_by_where_they_stand() -> None:
    tokens = np.full(MANY, 7)
    few = mixture.taken(Share(max_rows=500), NUMBERS, tokens, 42, "dataset.train[0]") > 0
    assert few.sum() == 500
    order = np.random.default_rng(2).permutation(MANY)
    elsewhere = mixture.taken(Share(max_rows=500), NUMBERS[order], tokens, 42, "dataset.train[0]") > 0
    assert set(NUMBERS[few].tolist()) == set(NUMBERS[order][elsewhere].tolist())
    fewer = mixture.taken(Share(max_rows=100), NUMBERS, tokens, 42, "dataset.train[0]") > 0
    assert not (fewer & ~few).any(), "a lower cap takes some of the same"


def test_tokens_are_taken_up_to_the_cap() -> None:
    tokens = np.random.default_rng(3).integers(1, 100, MANY)
    whole = mixture.taken(Share(max_tokens=5000), NUMBERS, tokens, 42, "dataset.train[0]")
    assert 4900 < whole.sum() <= 5000
    assert ((whole == 0) | (whole == tokens)).all()
    cut = mixture.taken(Share(max_tokens=5000), NUMBERS, tokens, 42, "dataset.train[0]", cut=True)
    assert cut.sum() == 5000
    assert ((cut > 0) & (cut < tokens)).sum() <= 1


@pytest.mark.parametrize(
    ("share", "tokens", "message"),
    [
        pytest.param(
            {"maxTokens": 5},
            [9, 8],
            "dataset.train[1].maxTokens is 5, and none of its 2 rows has so few (the shortest has 8): raise it",
            id="no row has so few tokens",
        ),
        pytest.param(
            {"weight": 0.001},
            [9, 8],
            "dataset.train[1].weight is 0.001, and none of its 2 rows is drawn: raise it",
            id="none is drawn",
        ),
    ],
)
def test_what_takes_nothing_is_refused(share: dict[str, Any], tokens: list[int], message: str) -> None:
    made, numbers, field = Share.model_validate(share), NUMBERS[:2], "dataset.train[1]"
    with pytest.raises(SpecError) as refused:
        mixture.times(made, numbers[mixture.taken(made, numbers, np.array(tokens), 42, field) > 0], 42, field)
    assert str(refused.value) == message


@pytest.mark.parametrize("field", ["weight", "maxRows", "maxTokens"])
@pytest.mark.parametrize("value", [0, -1, float("nan"), "much"])
def test_what_is_no_amount_is_refused(field: str, value: Any) -> None:
    spec = {"model": {"uri": "m"}, "output": {"uri": "o"}, "dataset": {"train": [{"uri": "a", field: value}]}}
    with pytest.raises(ValidationError, match=rf"dataset\.train\.0\.{field}"):
        SFTSpec.model_validate(spec)


def test_a_stream_is_not_weighed() -> None:
    dataset = {"train": [{"uri": "a", "weight": 2}], "streaming": True}
    spec = {"model": {"uri": "m"}, "output": {"uri": "o"}, "dataset": dataset, "training": {"maxSteps": 3}}
    with pytest.raises(ValidationError, match="streaming reads each source once, from its start: remove weight"):
        PretrainSpec.model_validate(spec)


# Conversations

SIZES = {"a": 60, "b": 40}


@pytest.fixture
def prepare(llama: Any, tmp_path: Path) -> Callable[..., Prepared]:
    template = load("HumanAssistant", None, llama)
    inputs = {}
    for number, (name, size) in enumerate(SIZES.items()):
        path = tmp_path / f"{name}.jsonl"
        talks = [{"messages": turns(f"{name}{row}", name * (1 + row % 7))} for row in range(size)]
        path.write_text("".join(json.dumps(talk) + "\n" for talk in talks), encoding="utf-8")
        inputs[f"dataset.train[{number}]"] = Input(str(path), path, f"digest of {name}")

    def run(first: dict[str, Any], second: dict[str, Any], said: list[str] | None = None, **dataset: Any) -> Prepared:
        spec = SFTSpec.model_validate(
            {
                "model": {"uri": "m"},
                "output": {"uri": "o"},
                "training": {"sequenceLength": 64},
                "dataset": {"train": [{"uri": "a", **first}, {"uri": "b", **second}], **dataset},
            }
        )
        lines = [] if said is None else said
        return datasets_for(spec, inputs, template, tmp_path / "cache", 42, log=lines.append)

    return run


def talks_in(sequences: Any, llama: Any) -> Counter[str]:
    """How often each conversation stands there, by its question; fails where a sequence holds one twice."""
    found: Counter[str] = Counter()
    for row in sequences:
        start, here = 0, Counter[str]()
        for length in row["seq_lengths"]:
            text = llama.decode(row["input_ids"][start : start + length])
            here[text] += 1
            start += length
        assert max(here.values()) == 1
        found += here
    return found


def of(found: Counter[str], name: str) -> list[int]:
    return [count for text, count in found.items() if f"Human: {name}" in text]


def test_a_source_of_weight_2_stands_there_twice_and_one_of_a_half_by_half(prepare: Any, llama: Any) -> None:
    plain = prepare({}, {}, validationSplit=0.1)
    weighed = prepare({"weight": 2}, {"weight": 0.5}, validationSplit=0.1)
    assert weighed.validation.to_list() == plain.validation.to_list(), "validation knows no weights"
    before, after = talks_in(plain.train, llama), talks_in(weighed.train, llama)
    assert set(of(after, "a")) == {2}
    assert len(of(after, "a")) == len(of(before, "a"))
    assert set(of(after, "b")) == {1}
    assert 0 < len(of(after, "b")) < len(of(before, "b"))
    first, second = weighed.report["mixture"]
    assert (first["field"], first["there"], first["times"]) == ("dataset.train[0]", 60, 2.0)
    assert first["rows"] == sum(of(after, "a"))
    assert second["rows"] == len(of(after, "b"))
    assert first["tokens"] + second["tokens"] == sum(len(row["input_ids"]) for row in weighed.train)


def test_caps_are_kept_and_told_and_part_of_what_is_cached(prepare: Any, llama: Any) -> None:
    said: list[str] = []
    found = prepare({"maxRows": 10}, {"maxTokens": 100}, validationSplit=0)
    first, second = found.report["mixture"]
    assert first["rows"] == 10 == len(of(talks_in(found.train, llama), "a"))
    assert 80 < second["tokens"] <= 100
    prepare({"maxRows": 11}, {"maxTokens": 100}, said, validationSplit=0)
    assert not said[0].startswith("data: found prepared")
    again: list[str] = []
    assert (
        prepare({"maxRows": 10}, {"maxTokens": 100}, again, validationSplit=0).train.to_list() == found.train.to_list()
    )
    assert again[0].startswith("data: found prepared")


def test_an_evaluation_reads_no_more_than_it_may(prepare: Any) -> None:
    whole = prepare({}, {}, validationSplit=0.3)
    capped = prepare({}, {}, validationSplit=0.3, maxEvalTokens=80)
    assert 40 < sum(len(row["input_ids"]) for row in capped.validation) <= 80
    assert capped.train.to_list() == whole.train.to_list()
    with pytest.raises(SpecError, match=r"dataset\.maxEvalTokens is 1, and none of the \d+ validation rows has so few"):
        prepare({}, {}, validationSplit=0.3, maxEvalTokens=1)


# Text


def blocks(tmp_path: Path, recipe: TokenizerSpec, texts: list[list[str]], block: int = 16, **dataset: Any) -> Any:
    """Blocks of sources of which each is a list of documents; ``dataset`` may say of each source what it gives (``shares``)."""
    shares = dataset.pop("shares", [{}] * len(texts))
    inputs = Inputs()
    for number, documents in enumerate(texts):
        path = tmp_path / f"{number}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in documents), encoding="utf-8")
        inputs[f"dataset.train[{number}]"] = Input(str(path), path, f"digest of {number}")
    train = [{"uri": str(number), **share} for number, share in enumerate(shares)]
    spec = PretrainSpec.model_validate(
        {
            "model": {"uri": "m"},
            "output": {"uri": "o"},
            "dataset": {"train": train, **dataset},
            "training": {"blockSize": block},
        }
    )
    return token_blocks.prepare(spec, inputs, recipe, tmp_path / "cache", log=lambda _: None)


def flat(found: Any) -> list[int]:
    return [int(token) for number in range(len(found)) for token in found[number]["input_ids"]]


def documents_in(tokens: list[int], recipe: TokenizerSpec) -> Counter[tuple[int, ...]]:
    found: Counter[tuple[int, ...]] = Counter()
    held: list[int] = []
    for token in tokens:
        held.append(token)
        if token == recipe.eos:
            found[tuple(held)] += 1
            held = []
    return found


@pytest.fixture(scope="module")
def recipe(llama: Any) -> TokenizerSpec:
    return TokenizerSpec.of(llama, Path("llama"))


TEXTS = [[f"山{number}" * 5 for number in range(40)], [f"水{number}" * 5 for number in range(40)]]


def test_documents_come_as_often_as_their_source_weighs(tmp_path: Path, recipe: TokenizerSpec) -> None:
    plain = documents_in(flat(blocks(tmp_path, recipe, TEXTS, validationSplit=0).train), recipe)
    found = blocks(tmp_path, recipe, TEXTS, shares=[{"weight": 3}, {}], validationSplit=0)
    weighed = documents_in(flat(found.train), recipe)
    assert set(plain.values()) == {1}
    assert Counter(weighed.values()) == {3: 40, 1: 40}
    assert set(weighed) == set(plain)
    first, second = found.report["mixture"]
    assert (first["rows"], second["rows"], first["times"]) == (120, 40, 3.0)
    assert first["tokens"] + second["tokens"] == found.train.tokens()
    assert found.rows, "what was trained otherwise is no start for this"


def test_of_a_text_with_a_cap_the_last_document_is_cut(tmp_path: Path, recipe: TokenizerSpec) -> None:
    found = blocks(tmp_path, recipe, TEXTS, shares=[{"maxTokens": 100}, {"maxRows": 7}], validationSplit=0)
    first, second = found.report["mixture"]
    assert (first["tokens"], second["rows"]) == (100, 7)
    tokens = flat(found.train)
    assert len(tokens) == 100 + second["tokens"]
    assert tokens[-1] == recipe.eos
    whole = documents_in(flat(blocks(tmp_path, recipe, TEXTS, validationSplit=0).train), recipe)
    strangers = [document for document in documents_in(tokens, recipe) if document not in whole]
    assert len(strangers) <= 1, "the one that was cut"
    assert all(any(document[:-1] == other[: len(document) - 1] for other in whole) for document in strangers)


def test_validation_text_is_drawn_before_it_is_weighed_and_read_up_to_the_cap(
    tmp_path: Path, recipe: TokenizerSpec
) -> None:
    plain = blocks(tmp_path, recipe, TEXTS, validationSplit=0.2)
    weighed = blocks(tmp_path, recipe, TEXTS, shares=[{"weight": 2}, {}], validationSplit=0.2, maxEvalTokens=50)
    assert weighed.validation.tokens() == 50
    held_out = documents_in(flat(plain.validation), recipe)
    assert not set(documents_in(flat(weighed.train), recipe)) & set(held_out)
    assert set(documents_in(flat(weighed.train), recipe)) == set(documents_in(flat(plain.train), recipe))


def test_a_corpus_of_one_source_that_is_whole_is_what_it_was(tmp_path: Path, recipe: TokenizerSpec) -> None:
    found = blocks(tmp_path, recipe, TEXTS[:1], validationSplit=0)
    assert (found.rows, found.report["mixture"]) == ("", [])


def test_ranges_of_cut_documents() -> None:
    documents = np.array([(10, 1), (30, 2), (35, 3)], dtype=document_split.RECORD)
    assert document_shares.ranges(documents, np.array([10, 20, 0])).tolist() == [[0, 30]]
    assert document_shares.ranges(documents, np.array([10, 8, 5])).tolist() == [[0, 10], [30, 35], [10, 17], [29, 30]]
