"""Conversations as browsers send them, and as models are asked."""

from __future__ import annotations

from typing import Any

import pytest

from workloads.serving.page.conversation import Answer, Conversation, Turn


def turn(question: str, **answers: str) -> Turn:
    return Turn(
        question=question, answers=[Answer(model=name, text=text, state="done") for name, text in answers.items()]
    )


THREE = Conversation(turns=[turn("一", poet="壹", base="1"), turn("二", poet="贰", base=""), turn("三")])


def said(messages: list[dict[str, str]]) -> str:
    return " ".join(f"{message['role'][0]}:{message['content']}" for message in messages)


@pytest.mark.parametrize(
    ("model", "turns", "system", "asked"),
    [
        pytest.param("poet", 20, None, "u:一 a:壹 u:二 a:贰 u:三", id="all that was said"),
        pytest.param("poet", 1, None, "u:二 a:贰 u:三", id="the last turns"),
        pytest.param("poet", 0, None, "u:三", id="no history"),
        pytest.param("base", 20, None, "u:一 a:1 u:二 a:贰 u:三", id="another's answer where there is none of its own"),
        pytest.param("new", 20, None, "u:一 a:壹 u:二 a:贰 u:三", id="a model that was not asked before"),
        pytest.param("poet", 1, "诗人", "s:诗人 u:二 a:贰 u:三", id="a system prompt is no turn"),
        pytest.param("poet", 0, "", "s: u:三", id="a system prompt that was cleared"),
    ],
)
def test_a_model_is_asked_with_the_history_that_the_user_wants(
    model: str, turns: int, system: str | None, asked: str
) -> None:
    assert said(THREE.messages(model, turns, system)) == asked


def test_a_turn_that_nobody_answered_is_left_out() -> None:
    failed = Turn(question="零", answers=[Answer(model="poet", state="failed", problem="full")])
    assert said(Conversation(turns=[failed, turn("一")]).messages("poet", 20, None)) == "u:一"


@pytest.mark.parametrize(
    "value",
    [
        pytest.param(None, id="nothing"),
        pytest.param("x", id="a text"),
        pytest.param({"turns": [{"answers": []}]}, id="a turn without a question"),
        pytest.param(
            {"turns": [{"question": "x", "answers": [{"model": "a", "state": "odd"}]}]}, id="an unknown state"
        ),
    ],
)
def test_what_is_no_conversation_begins_a_new_one(value: Any) -> None:
    assert Conversation.read(value).turns == []


def test_what_the_browser_keeps_is_read_as_it_was() -> None:
    assert Conversation.read(THREE.to_browser()) == THREE


def test_an_answer_that_was_being_written_when_the_page_was_left_was_stopped() -> None:
    left = Conversation().asked("一").answered([Answer(model="poet", text="壹")])
    assert [answer.state for answer in Conversation.read(left.to_browser()).turns[0].answers] == ["stopped"]


def test_a_conversation_is_called_by_its_first_question_in_one_short_line() -> None:
    assert Conversation().asked("  第一\n行 " + "长" * 100).title == "第一 行 " + "长" * 35


def test_asking_again_takes_the_last_answers_away() -> None:
    conversation = Conversation(turns=[turn("一", poet="壹"), turn("二", poet="贰")])
    assert said(conversation.without_last_answer().messages("poet", 20, None)) == "u:一 a:壹 u:二"
