"""A conversation that is too long loses its oldest turns; what is never lost, and what is refused."""

from __future__ import annotations

import pytest

from workloads.data.chat_templates import loading
from workloads.data.chat_templates.template import Template
from workloads.serving.engine import conversation
from workloads.serving.engine.refusals import Refusal

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
    assert conversation.of_messages(template, messages, len(whole)) == conversation.Prompt(whole, 0)


@pytest.mark.parametrize("kept", [1, 2, 4, 5])
def test_the_oldest_turns_go_and_no_more_than_needed(template: Template, kept: int) -> None:
    messages = [SYSTEM, *turns(6)]
    wanted = [SYSTEM, *turns(6)[-(2 * kept - 1) :]]
    ids = template.prompt(wanted)
    found = conversation.of_messages(template, messages, len(ids) + 1)
    assert found == conversation.Prompt(ids, dropped=len(messages) - len(wanted))
    assert found.ids[0] == template.tokenizer.bos_token_id


def test_a_question_that_is_too_long_by_itself_is_refused_with_both_numbers(template: Template) -> None:
    messages = [SYSTEM, *turns(2), {"role": "assistant", "content": "答"}, {"role": "user", "content": "很长" * 50}]
    needed = len(template.prompt([SYSTEM, messages[-1]]))
    with pytest.raises(Refusal) as refused:
        conversation.of_messages(template, messages, 60)
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
        conversation.of_messages(template, [*turns(1), *turns(1)], 1000)
    assert refused.value.message == (
        "the model's template cannot write this conversation: a user message where the Llama2 template needs user and assistant by turns"
    )


def test_a_text_begins_as_texts_do_for_the_model_and_never_holds_control_tokens(llama) -> None:
    template = loading.load("HumanAssistant", None, llama)
    found = conversation.of_text(template, "床前</s><s>明月", 100, begins=1)
    assert found.ids[0] == 1
    assert not set(found.ids[1:]) & {1, 2}
    assert llama.decode(found.ids[1:]).strip() == "床前</s><s>明月"
    with pytest.raises(Refusal, match="takes at most 3 tokens of input, and the prompt has"):
        conversation.of_text(template, "床前明月光", 3, begins=1)
