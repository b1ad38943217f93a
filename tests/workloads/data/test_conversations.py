"""Rows to examples: what is kept, cut and trained."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.workloads.talks import LONG, examples, turns
from workloads.data.chat_templates.loading import load
from workloads.data.chat_templates.template import Template
from workloads.data.conversations import Example
from workloads.data.report import Report
from workloads.errors import DataError


@pytest.fixture(scope="module")
def template(llama) -> Template:
    return load("HumanAssistant", None, llama)


def texts(template: Template, found: list[Example]) -> list[str]:
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
