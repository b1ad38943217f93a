"""Rows to sequences: what is kept, cut, trained, set aside, packed and found again."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from alpaca_operator.api.sft import SFTDataset, SFTSpec
from tests.workloads.conftest import POEMS
from workloads.data import conversations
from workloads.data.chat_templates.loading import Template, load
from workloads.data.conversations import IGNORED, Report, best_fit, datasets_for, held_out_of, prepare
from workloads.data.layouts import Row
from workloads.errors import DataError


class Lying(NamedTuple):
    """An input, as the runtime hands it over."""

    path: Path
    digest: str = "sha256:0"


@pytest.fixture(scope="module")
def template(llama) -> Template:
    return load("HumanAssistant", None, llama)


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    spoken = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    return ([{"role": "system", "content": system}] if system else []) + spoken


def rows(*conversations: list[dict[str, str]]) -> list[Row]:
    return [
        Row("rows.jsonl", number, tuple(messages), "line") for number, messages in enumerate(conversations, start=1)
    ]


def dataset(**settings_: Any) -> SFTDataset:
    return SFTDataset.model_validate({"train": [{"uri": "rows"}], **settings_})


def examples(
    template: Template,
    *conversations: list[dict[str, str]],
    length: int = 2048,
    report: Report | None = None,
    **settings_: Any,
):
    return list(prepare(rows(*conversations), template, dataset(**settings_), length, report or Report()))


def texts(template: Template, found: list[conversations.Example]) -> list[str]:
    return [template.tokenizer.decode(example.ids) for example in found]


def rendered(template: Template, *conversations: list[dict[str, str]]) -> list[str]:
    """The text as a tokenizer gives it back."""
    return [template.tokenizer.decode(template.encode(messages).ids) for messages in conversations]


# What is kept


def test_a_conversation_is_an_example_that_trains_its_answers(template: Template) -> None:
    [example] = examples(template, turns("床前明月光？", "疑是地上霜。", "谁写的？", "李白。"))
    encoded = template.encode(turns("床前明月光？", "疑是地上霜。", "谁写的？", "李白。"))
    assert example.ids.tolist() == encoded.ids.tolist()
    assert example.loss_mask.tolist() == encoded.loss_mask.tolist()


KEPT = {
    "no answer at all": ([turns("q")], [], {"dropped": {"without an assistant turn": 1}}),
    "no messages": ([[]], [], {"dropped": {"without an assistant turn": 1}}),
    "an empty answer": ([turns("q", " \n")], [], {"dropped": {"with nothing to train on": 1}, "leftOut": {"with an empty answer": 1}}),
    "an empty answer among others": ([turns("q", "", "r", "b")], [turns("r", "b")], {"leftOut": {"with an empty answer": 1}}),
    "an empty question": ([turns("", "a", "r", "b")], [turns("r", "b")], {"leftOut": {"with an empty question": 1}}),
    "a question at the end": (
        [turns("q", "a", "r")], [turns("q", "a")], {"repaired": {"questions without an answer at the end, left out": 1}},
    ),
    "an answer of weight 0 at the end": (
        [[*turns("q", "a", "r"), {"role": "assistant", "content": "b", "weight": "0"}]], [turns("q", "a")], {},
    ),
    "an empty system prompt": ([[{"role": "system", "content": " "}, *turns("q", "a")]], [turns("q", "a")], {}),
}  # fmt: skip


@pytest.mark.parametrize(
    ("given_rows", "kept", "counted"), [pytest.param(*case, id=name) for name, case in KEPT.items()]
)
def test_what_is_left_out_is_counted(template: Template, given_rows, kept, counted: dict[str, dict[str, int]]) -> None:
    report = Report()
    assert texts(template, examples(template, *given_rows, report=report)) == rendered(template, *kept)
    told = report.as_dict()
    assert {key: told[key] for key in ("dropped", "leftOut", "repaired") if told[key]} == counted


def test_an_answer_of_weight_0_is_context_only(template: Template) -> None:
    messages = turns("q", "a", "r", "b")
    messages[1]["weight"] = "0"
    [example] = examples(template, messages)
    encoded = template.encode(messages)
    first, last = encoded.spans[0]
    assert not example.loss_mask[first:last].any()
    assert example.loss_mask[slice(*encoded.spans[1])].all()


def test_no_part_ends_in_an_answer_of_weight_0(template: Template) -> None:
    messages = turns(*(text for number in range(6) for text in (f"问{number}", f"答{number}" * 4)))
    for message in messages[3::4]:
        message["weight"] = "0"
    found = examples(template, messages, length=60)
    assert len(found) > 1
    assert all(example.loss_mask[-1] for example in found)


def test_the_system_prompt_of_the_spec_is_for_conversations_without_one(template: Template) -> None:
    found = examples(template, turns("q", "a"), turns("q", "a", system="own"), system_prompt="given")
    assert texts(template, found) == rendered(template, turns("q", "a", system="given"), turns("q", "a", system="own"))


def test_training_on_the_prompt_trains_all_but_the_first_token(template: Template) -> None:
    [example] = examples(template, turns("q", "a"), train_on_prompt=True)
    assert example.loss_mask.tolist() == [False] + [True] * (len(example.ids) - 1)


def test_messages_in_a_row_are_joined_where_the_template_needs_turns(llama) -> None:
    template, report = load("Llama2", None, llama), Report()
    speakers = [("assistant", "x"), ("user", "q"), ("user", "r"), ("assistant", "a"), ("assistant", "b")]
    found = examples(template, [{"role": role, "content": text} for role, text in speakers], report=report)
    assert texts(template, found) == rendered(template, turns("q\nr", "a\nb"))
    assert report.repaired == {"messages in a row by one speaker, joined": 2}
    assert report.left_out == {"before the first question": 1}


def test_a_row_that_the_template_refuses_is_named(llama) -> None:
    template = load("Llama2", None, llama)
    late = [*turns("q", "a"), {"role": "system", "content": "s"}, *turns("r", "b")]
    with pytest.raises(DataError) as refusal:
        examples(template, turns("q", "a"), late)
    assert str(refusal.value) == (
        "rows.jsonl, line 2: does not fit template Llama2: a system message where the Llama2 template needs user and assistant by turns: "
        "mend or remove this line"
    )


# What is too long


LONG = turns(*(f"{kind}{number}" * 5 for number in range(6) for kind in ("问", "答")), system="诗")


@pytest.mark.parametrize("length", [60, 100, 200])
def test_split_cuts_between_turns_and_loses_none(template: Template, length: int) -> None:
    report = Report()
    found = examples(template, LONG, length=length, report=report)
    assert len(found) > 1
    assert all(len(example.ids) <= length for example in found)
    assert all(example.ids[-1] == template.tokenizer.eos_token_id and example.loss_mask[-1] for example in found)
    answers = "".join(texts(template, found))
    assert all(answers.count(message["content"]) == 1 for message in LONG[1:])
    assert all(text.startswith("<s> System: 诗") for text in texts(template, found))
    assert (report.split, report.left_out.total(), report.dropped.total()) == (1, 0, 0)


def test_split_leaves_out_a_turn_that_is_too_long_by_itself(template: Template) -> None:
    report = Report(sequence_length=60)
    messages = turns("q", "a", "r", "长" * 100, "s", "c")
    found = examples(template, messages, length=60, report=report)
    assert texts(template, found) == rendered(template, turns("q", "a"), turns("s", "c"))
    assert report.left_out == {"longer than 60 tokens by themselves": 1}


def test_truncate_history_keeps_the_newest_turns(template: Template) -> None:
    report = Report()
    [example] = examples(template, LONG, length=100, overlong="TruncateHistory", report=report)
    assert len(example.ids) <= 100
    kept = texts(template, [example])[0]
    assert LONG[-1]["content"] in kept
    assert LONG[1]["content"] not in kept
    whole = [number for number in range(6) if LONG[2 + 2 * number]["content"] in kept]
    assert whole == list(range(whole[0], 6))
    more = [LONG[0], *LONG[2 * whole[0] - 1 :]]
    assert len(template.encode(more).ids) > 100  # one exchange more would not fit
    assert report.truncated == 1


def test_drop_leaves_the_conversation_out(template: Template) -> None:
    report = Report()
    assert texts(
        template, examples(template, LONG, turns("q", "a"), length=100, overlong="Drop", report=report)
    ) == rendered(template, turns("q", "a"))
    assert report.dropped == {"longer than 100 tokens": 1}


@pytest.mark.parametrize("overlong", ["Split", "TruncateHistory"])
def test_a_conversation_without_a_turn_that_fits_is_dropped(template: Template, overlong: str) -> None:
    report = Report()
    assert examples(template, turns("q", "长" * 100), length=60, overlong=overlong, report=report) == []
    assert report.dropped == {"longer than 60 tokens in every turn": 1}


CONTENT = st.text(st.sampled_from("明月光霜a b\n"), min_size=1, max_size=60).filter(str.strip)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    exchanges=st.lists(st.tuples(CONTENT, CONTENT), min_size=1, max_size=6),
    length=st.integers(16, 150),
    overlong=st.sampled_from(["Split", "TruncateHistory"]),
)
def test_every_turn_that_fits_is_kept_and_every_example_ends_trained(
    template: Template, exchanges, length: int, overlong: str
) -> None:
    messages = turns(*(text for exchange in exchanges for text in exchange))
    found = examples(template, messages, length=length, overlong=overlong)
    fitting = [list(exchange) for exchange in exchanges if len(template.encode(turns(*exchange)).ids) <= length]
    assert all(len(example.ids) <= length and example.loss_mask[-1] for example in found)
    assert all(example.ids[-1] == template.tokenizer.eos_token_id for example in found)
    bos = template.tokenizer.bos_token_id
    kept = sum(int((example.ids == bos).sum()) for example in found) // 2
    assert kept == len(fitting) if overlong == "Split" else min(1, len(fitting)) <= kept <= len(fitting)


# Packing


@settings(deadline=None)
@given(lengths=st.lists(st.integers(1, 50), max_size=80), room=st.integers(0, 50))
def test_packing_keeps_every_example_once_and_overfills_nothing(lengths: list[int], room: int) -> None:
    capacity = max([*lengths, 1]) + room
    sequences = best_fit(np.array(lengths, dtype=np.int64), capacity)
    assert sorted(index for sequence in sequences for index in sequence) == list(range(len(lengths)))
    assert all(sum(lengths[index] for index in sequence) <= capacity for sequence in sequences)
    free = sorted(capacity - sum(lengths[index] for index in sequence) for sequence in sequences)
    assert sum(left > capacity / 2 for left in free) <= 1  # two that are half empty would have been one


def test_packing_is_best_fit_decreasing() -> None:
    assert best_fit(np.array([3, 7, 5, 2, 3]), 10) == [[0, 1], [2, 3, 4]]


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
def prepared(tmp_path: Path, template: Template) -> Callable[..., conversations.Prepared]:
    def run(*, source: Path = POEMS, said: list[str] | None = None, seed: int = 42, length: int = 128, digest: str = "sha256:0",
            inputs: dict[str, Lying] | None = None, chosen: Template = template, **settings_: Any) -> conversations.Prepared:  # fmt: skip
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
    monkeypatch.setattr(conversations, "prepare", lambda *_, **__: pytest.fail("prepared again"))
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
        broken.setattr(conversations, "_write", lambda *_: pytest.fail("killed"))
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
from workloads.data import conversations
from workloads.data.chat_templates import loading
from workloads.data import tokenizer_io
tokenizer = tokenizer_io.load_tokenizer(Path({str(sentencepiece_folder)!r}))
spec = SFTSpec.model_validate({{"model": {{"uri": "m"}}, "output": {{"uri": "o"}}, "dataset": {{"train": [{{"uri": "x"}}]}}}})
inputs = {{"dataset.train[0]": SimpleNamespace(path=Path({str(POEMS)!r}), digest="d")}}
conversations.datasets_for(spec, inputs, loading.load("HumanAssistant", None, tokenizer), Path({str(tmp_path)!r}), 1)
"""
    running = [subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate()[0] for process in running]
    assert [process.returncode for process in running] == [0, 0]
    assert sorted("found prepared" in text for text in said) == [False, True]
