"""What browsers ask, and how models are asked for it."""

from __future__ import annotations

import pytest

from workloads.serving.page.asking import controls_of, names_of
from workloads.serving.page.conversation import Asked, Chosen, Said, Turn
from workloads.serving.page.models import Controls, EngineStatus, Model


def turn(question: str, **answers: str) -> Turn:
    return Turn(question=question, answers=[Said(model=name, text=text) for name, text in answers.items()])


THREE = Asked(turns=[turn("一", poet="壹", base="1"), turn("二", poet="贰", base=""), turn("三")])


def said(messages: list[dict[str, str]]) -> str:
    return " ".join(f"{message['role'][0]}:{message['content']}" for message in messages)


@pytest.mark.parametrize(
    ("model", "system", "asked"),
    [
        pytest.param("poet", None, "u:一 a:壹 u:二 a:贰 u:三", id="all that was said"),
        pytest.param("base", None, "u:一 a:1 u:二 a:贰 u:三", id="another's answer where there is none of its own"),
        pytest.param("new", None, "u:一 a:壹 u:二 a:贰 u:三", id="a model that was not asked before"),
        pytest.param("poet", "诗人", "s:诗人 u:一 a:壹 u:二 a:贰 u:三", id="a system prompt"),
        pytest.param("poet", "", "s: u:一 a:壹 u:二 a:贰 u:三", id="a system prompt that was cleared"),
    ],
)
def test_a_model_is_asked_with_what_was_said(model: str, system: str | None, asked: str) -> None:
    assert said(THREE.messages(model, system)) == asked


def test_a_turn_that_nobody_answered_is_left_out() -> None:
    assert said(Asked(turns=[turn("零", poet=""), turn("一")]).messages("poet", None)) == "u:一"


def test_an_answer_that_was_cut_is_given_back_as_the_beginning_of_the_same() -> None:
    asked = Asked(turns=[turn("一", poet="壹"), turn("二", poet="贰就", base="2")])
    assert said(asked.messages("poet", None)) == "u:一 a:壹 u:二 a:贰就"
    assert said(asked.messages("new", None)) == "u:一 a:壹 u:二"


def test_what_the_user_did_not_choose_follows_the_model() -> None:
    model = Model("poet", client=None, defaults=Controls(temperature=0.9, top_k=7))  # type: ignore[arg-type]
    controls = controls_of(model, Chosen(temperature=0.0, max_new_tokens=5))
    assert (controls.temperature, controls.top_k, controls.max_new_tokens) == (0.0, 7, 5)


@pytest.mark.parametrize(
    ("wanted", "compares", "asked"),
    [
        ([], False, ["a"]), ([], True, ["a", "b"]), (["b"], True, ["b"]), (["gone"], False, ["a"]),
        (["c", "gone", "a", "b"], False, ["c", "a"]), (["a", "a"], False, ["a"]),
    ],
)  # fmt: skip
def test_of_the_wanted_models_those_are_asked_that_there_are(
    wanted: list[str], compares: bool, asked: list[str]
) -> None:
    models = tuple(Model(name, client=None) for name in "abc")  # type: ignore[arg-type]
    assert names_of(EngineStatus("ready", models), wanted, compares) == asked
