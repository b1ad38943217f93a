"""A data set prepared: what is trained on, what is set aside, and what is found again in the cache."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from alpaca_operator.api.sft import SFTSpec
from tests.workloads.conftest import POEMS
from tests.workloads.talks import LONG, examples, turns
from workloads.data.chat_templates.loading import load
from workloads.data.chat_templates.template import Template
from workloads.data.packing import IGNORED
from workloads.data.prepared import Prepared, datasets_for, held_out_of
from workloads.errors import DataError


class Lying(NamedTuple):
    """An input, as the runtime hands it over."""

    path: Path
    digest: str = "sha256:0"


@pytest.fixture(scope="module")
def template(llama) -> Template:
    return load("HumanAssistant", None, llama)


# Setting aside


def test_equal_conversations_stay_on_one_side() -> None:
    numbers = np.array([5, 9, 5, 7, 9, 1, 3], dtype=np.uint64)
    aside = held_out_of(numbers, 0.4)
    assert set(numbers[aside]) & set(numbers[~aside]) == set()
    assert len(set(numbers[aside])) == 2


@pytest.mark.parametrize(
    ("different", "share", "count"), [(1, 0.5, 0), (2, 0.01, 1), (2, 0.99, 1), (200, 0.05, 10), (200, 0.1, 20)]
)
def test_the_share_is_met_and_neither_side_is_empty(different: int, share: float, count: int) -> None:
    assert held_out_of(np.arange(different, dtype=np.uint64), share).sum() == count


def test_adding_rows_moves_conversations_one_way_only(template: Template) -> None:
    """Those at the border: the side of all others depends on nothing but themselves."""
    numbers = np.array(
        [example.conversation for example in examples(template, *(turns(f"q{n}", "a") for n in range(110)))],
        dtype=np.uint64,
    )
    before, after = (set(part[held_out_of(part, 0.1)]) & set(numbers[:100]) for part in (numbers[:100], numbers))
    assert before <= after or after <= before


# The whole, through the cache


@pytest.fixture
def prepared(tmp_path: Path, template: Template) -> Callable[..., Prepared]:
    def run(*, source: Path = POEMS, said: list[str] | None = None, seed: int = 42, length: int = 128, digest: str = "sha256:0",
            inputs: dict[str, Lying] | None = None, chosen: Template = template, **settings_: Any) -> Prepared:  # fmt: skip
        spec = SFTSpec.model_validate({
            "model": {"uri": "m"}, "output": {"uri": "o"}, "training": {"sequenceLength": length},
            "dataset": {"train": [{"uri": "rows"}], **settings_},
        })  # fmt: skip
        said = [] if said is None else said
        return datasets_for(
            spec,
            inputs or {"dataset.train[0]": Lying(source, digest)},
            chosen,
            tmp_path / "cache",
            seed,
            log=said.append,
        )

    return run


def parts(sequences) -> list[tuple[list[int], list[int]]]:
    """Ids and labels of every example in the sequences."""
    found = []
    for row in sequences:
        start = 0
        for length in row["seq_lengths"]:
            found.append((row["input_ids"][start : start + length], row["labels"][start : start + length]))
            start += length
        assert start == len(row["input_ids"]) == len(row["labels"])
    return found


@pytest.mark.parametrize("packing", [True, False])
def test_every_conversation_is_there_once_with_its_labels(prepared, template: Template, packing: bool) -> None:
    result = prepared(packing=packing)
    conversations = [json.loads(line)["messages"] for line in POEMS.read_text(encoding="utf-8").splitlines()]
    expected = []
    for encoded in template.encode_batch(conversations):
        labels = np.where(encoded.loss_mask, encoded.ids, IGNORED)
        expected.append((encoded.ids.tolist(), labels.tolist()))
    assert sorted([*parts(result.train), *parts(result.validation)]) == sorted(expected)
    assert len(parts(result.validation)) == 10
    assert all(len(row["input_ids"]) <= 128 for row in result.train)
    assert packing or all(len(row["seq_lengths"]) == 1 for row in result.train)


def test_the_first_label_of_each_packed_example_is_ignored(prepared) -> None:
    result = prepared(train_on_prompt=True)
    assert all(labels[0] == IGNORED and IGNORED not in labels[1:] for _, labels in parts(result.train))


def test_the_second_run_finds_what_the_first_prepared(prepared, monkeypatch: pytest.MonkeyPatch) -> None:
    first = prepared()
    monkeypatch.setattr("workloads.data.prepared.prepare", lambda *_, **__: pytest.fail("prepared again"))
    said: list[str] = []
    second = prepared(said=said)
    assert parts(second.train) == parts(first.train)
    assert second.report == first.report
    assert said[0].startswith("data: found prepared in ")
    assert said[1:] == [f"data: {line}" for line in first.report["lines"]]


@pytest.mark.parametrize("change", [
    pytest.param({"digest": "sha256:1"}, id="other content"), pytest.param({"seed": 43}, id="another seed"),
    pytest.param({"length": 129}, id="another sequence length"), pytest.param({"packing": False}, id="no packing"),
    pytest.param({"overlong": "Drop"}, id="another rule for overlong"), pytest.param({"train_on_prompt": True}, id="prompts trained"),
    pytest.param({"system_prompt": "s"}, id="a system prompt"), pytest.param({"validation_split": 0}, id="no validation"),
    pytest.param({"train": [{"uri": "rows", "format": "Messages"}]}, id="a named format"),
])  # fmt: skip
def test_whatever_shapes_the_result_is_prepared_anew(prepared, change: dict[str, Any]) -> None:
    prepared()
    said: list[str] = []
    prepared(said=said, **change)
    assert not said[0].startswith("data: found prepared in ")


def test_where_the_data_lies_does_not_matter(prepared, tmp_path: Path) -> None:
    prepared()
    moved = tmp_path / "elsewhere.jsonl"
    moved.write_bytes(POEMS.read_bytes())
    said: list[str] = []
    prepared(said=said, source=moved)
    assert said[0].startswith("data: found prepared in ")


@pytest.mark.parametrize("damage", ["report.json", "train.arrow"])
def test_a_damaged_cache_is_prepared_anew(prepared, tmp_path: Path, damage: str) -> None:
    first = prepared()
    [broken] = (tmp_path / "cache").rglob(damage)
    content = broken.read_bytes()
    del first
    broken.write_bytes(content[: len(content) // 2])
    again = prepared()
    assert len(parts(again.train)) == 190


def test_what_a_killed_run_left_is_not_taken_for_a_result(
    prepared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        broken.setattr("workloads.data.prepared.write_sequences", lambda *_: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            prepared()
    assert len(parts(prepared().train)) == 190
    assert not list((tmp_path / "cache").rglob("*.partial"))


def test_the_split_depends_on_the_seed_alone(prepared) -> None:
    assert parts(prepared(seed=1).validation) == parts(prepared(seed=1, packing=True, overlong="Drop").validation)
    assert parts(prepared(seed=1).validation) != parts(prepared(seed=2).validation)


def test_validation_files_are_used_whole(prepared, tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text(json.dumps({"messages": turns("q", "a")}) + "\n")
    inputs = {"dataset.train[0]": Lying(POEMS), "dataset.validation[0]": Lying(held)}
    result = prepared(inputs=inputs, validation=[{"uri": "held"}])
    assert (len(parts(result.train)), len(parts(result.validation))) == (200, 1)


def test_without_a_share_there_is_no_validation(prepared) -> None:
    result = prepared(validation_split=0)
    assert result.validation is None
    assert len(parts(result.train)) == 200


def test_one_conversation_is_trained_on_and_said_so(prepared, tmp_path: Path) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text((json.dumps({"messages": turns("q", "a")}) + "\n") * 3)
    result = prepared(source=one)
    assert result.validation is None
    assert "no validation: too few different conversations to set any aside" in result.report["lines"]


def test_the_report_tells_what_became_of_the_rows(prepared, tmp_path: Path) -> None:
    source = tmp_path / "rows.jsonl"
    mixed = [turns("q", "a"), turns("q"), turns("r", "长" * 200), LONG, turns("s", "b", "t")]
    source.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in mixed))
    result = prepared(source=source, length=100, validation_split=0)
    report = result.report["train"]
    counts = (report["read"], report["examples"], report["sequences"], report["split"])
    assert result.report["lines"] == [
        f"train: {source}: Messages (by column messages), utf-8",
        "train: 5 conversations read",
        "train: repaired: 1 questions without an answer at the end, left out",
        "train: dropped: 1 conversation longer than 100 tokens in every turn",
        "train: dropped: 1 conversation without an assistant turn",
        "train: split: 1 conversation longer than 100 tokens, between turns",
        f"train: {report['examples']} examples, {report['tokens']} tokens, {report['maskedShare']:.1%} of them masked",
        f"train: packed into {report['sequences']} sequences of at most 100 tokens "
        f"({report['tokens'] / report['sequences'] / 100:.0%} full): {report['examples'] / report['sequences']:.1f} times fewer steps an "
        "epoch than with packing off",
    ]
    assert counts[0] == 5
    assert counts[3] == 1
    assert counts[2] < counts[1]
    labels = [label for _, each in parts(result.train) for label in each]
    assert report["trainedTokens"] == sum(label != IGNORED for label in labels)


@pytest.mark.parametrize(("content", "message"), [
    pytest.param("", "dataset.train: no rows in 1 file: check the uri", id="an empty file"),
    pytest.param(
        json.dumps({"messages": turns("q")}) + "\n",
        "dataset.train: no example is left of 1 conversation (1 without an assistant turn): check format and columns, or raise "
        "training.sequenceLength",
        id="nothing but questions",
    ),
])  # fmt: skip
def test_nothing_left_is_an_error(prepared, tmp_path: Path, content: str, message: str) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text(content)
    with pytest.raises(DataError) as refusal:
        prepared(source=source)
    assert str(refusal.value) == message


def test_several_processes_prepare_once(tmp_path: Path, sentencepiece_folder: Path) -> None:
    import subprocess
    import sys

    program = f"""
from pathlib import Path
from types import SimpleNamespace
from alpaca_operator.api.sft import SFTSpec
from workloads.data import prepared
from workloads.data.chat_templates import loading
from workloads.data import tokenizer_io
tokenizer = tokenizer_io.load_tokenizer(Path({str(sentencepiece_folder)!r}))
spec = SFTSpec.model_validate({{"model": {{"uri": "m"}}, "output": {{"uri": "o"}}, "dataset": {{"train": [{{"uri": "x"}}]}}}})
inputs = {{"dataset.train[0]": SimpleNamespace(path=Path({str(POEMS)!r}), digest="d")}}
prepared.datasets_for(spec, inputs, loading.load("HumanAssistant", None, tokenizer), Path({str(tmp_path)!r}), 1)
"""
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sorted("found prepared" in text for text in said) == [False, True]
