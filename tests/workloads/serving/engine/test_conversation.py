"""A conversation that is too long loses its oldest turns; what is never lost, and what is refused."""

from __future__ import annotations

import pytest

from workloads.data.chat_templates import loading
from workloads.data.chat_templates.template import Template
from workloads.serving.engine import conversation
from workloads.serving.engine.conversation import Room
from workloads.serving.engine.text import longest_token
from workloads.serving.refusal import Refusal

LONGEST = 16
"""Characters of the longest token."""
SYSTEM = {"role": "system", "content": "你是诗人。"}


@pytest.fixture(params=["HumanAssistant", "Llama2"])
def template(request: pytest.FixtureRequest, llama) -> Template:
    return loading.load(request.param, None, llama)


def turns(count: int) -> list[dict[str, str]]:
    """Questions and answers by turns, the last a question."""
    said = [
        [{"role": "user", "content": f"第{n}问"}, {"role": "assistant", "content": f"第{n}答"}] for n in range(count)
    ]
    return [message for turn in said for message in turn][:-1]


def test_what_fits_is_left_as_it_is(template: Template) -> None:
    messages = [SYSTEM, *turns(3)]
    whole = template.prompt(messages)
    assert conversation.of_messages(template, messages, Room(len(whole), LONGEST)) == conversation.Prompt(whole, 0)


@pytest.mark.parametrize("kept", [1, 2, 4, 5])
def test_the_oldest_turns_go_and_no_more_than_needed(template: Template, kept: int) -> None:
    messages = [SYSTEM, *turns(6)]
    wanted = [SYSTEM, *turns(6)[-(2 * kept - 1) :]]
    ids = template.prompt(wanted)
    found = conversation.of_messages(template, messages, Room(len(ids) + 1, LONGEST))
    assert found == conversation.Prompt(ids, dropped=len(messages) - len(wanted))
    assert found.ids[0] == template.tokenizer.bos_token_id


def test_a_question_that_is_too_long_by_itself_is_refused_with_both_numbers(template: Template) -> None:
    messages = [SYSTEM, *turns(2), {"role": "assistant", "content": "答"}, {"role": "user", "content": "很长" * 50}]
    needed = len(template.prompt([SYSTEM, messages[-1]]))
    with pytest.raises(Refusal) as refused:
        conversation.of_messages(template, messages, Room(60, LONGEST))
    assert refused.value.body() == {
        "error": {
            "message": f"This server takes at most 60 tokens of input, and the newest question with the system prompt has {needed}: "
            "shorten it.",
            "type": "invalid_request_error",
            "param": "messages",
            "code": "context_length_exceeded",
        }
    }


def test_a_conversation_that_the_template_cannot_write_is_refused_with_its_reason(llama) -> None:
    template = loading.load("Llama2", None, llama)
    with pytest.raises(Refusal) as refused:
        conversation.of_messages(template, [*turns(1), *turns(1)], Room(1000, LONGEST))
    assert refused.value.message == (
        "the model's template cannot write this conversation: a user message where the Llama2 template needs user and assistant by turns"
    )


def test_a_text_begins_as_texts_do_for_the_model_and_never_holds_control_tokens(llama) -> None:
    template = loading.load("HumanAssistant", None, llama)
    found = conversation.of_text(template, "床前</s><s>明月", Room(100, LONGEST), begins=1)
    assert found.ids[0] == 1
    assert not set(found.ids[1:]) & {1, 2}
    assert llama.decode(found.ids[1:]).strip() == "床前</s><s>明月"
    with pytest.raises(Refusal, match="takes at most 3 tokens of input, and the prompt has"):
        conversation.of_text(template, "床前明月光", Room(3, LONGEST), begins=1)


def test_megabytes_are_refused_by_their_length_and_never_tokenized(
    template: Template, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Template, "prompt", lambda *_: pytest.fail("it was tokenized"))
    monkeypatch.setattr(Template, "encode_text", lambda *_: pytest.fail("it was tokenized"))
    with pytest.raises(
        Refusal,
        match="at most 60 tokens of input, and the newest question with the system prompt has at least 250001: ",
    ):
        conversation.of_messages(template, [SYSTEM, {"role": "user", "content": "长" * 4_000_000}], Room(60, LONGEST))
    with pytest.raises(Refusal, match="at most 60 tokens of input, and the prompt has at least 250000: "):
        conversation.of_text(template, "长" * 4_000_000, Room(60, LONGEST), begins=None)


def test_old_turns_of_megabytes_go_without_being_tokenized(template: Template, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[int] = []
    prompt = Template.prompt
    monkeypatch.setattr(
        Template,
        "prompt",
        lambda self, messages: seen.append(sum(len(m["content"]) for m in messages)) or prompt(self, messages),
    )
    old = [{"role": "user", "content": "长" * 1_000_000}, {"role": "assistant", "content": "答"}]
    found = conversation.of_messages(template, [SYSTEM, *old, *turns(2)], Room(100, LONGEST))
    assert found == conversation.Prompt(prompt(template, [SYSTEM, *turns(2)]), dropped=2)
    assert max(seen) <= 1600


def test_no_token_stands_for_more_characters_than_the_longest(llama, byte_level) -> None:
    for tokenizer in (llama, byte_level):
        for text in ("床前明月光", " " * 300, "internationalization" * 9, "👍👍"):
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
            assert len(text) <= longest_token(tokenizer) * len(ids)
