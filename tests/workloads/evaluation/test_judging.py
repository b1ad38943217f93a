"""A judge's word: which verdict it is, what two orders make of it, and what many make of a model."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest

from alpaca_operator.api.evaluation import AskedEndpoint, Judge
from tests.workloads.answering import Answering, Body, said
from workloads.evaluation import endpoints, judging
from workloads.evaluation.judging import Judgement
from workloads.evaluation.questions import Question


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        pytest.param("A 更准确。\n[[A]]", "A", id="at the end"),
        pytest.param("[[A]] was my first thought, yet:\n\n[[B]]", "B", id="the last one counts"),
        pytest.param("**[[C]]**", "C", id="in bold"),
        pytest.param("A is better", None, id="without a verdict"),
        pytest.param("[[D]] [A]", None, id="no verdict of ours"),
        pytest.param("", None, id="nothing"),
    ],
)
def test_verdict(text: str, verdict: str | None) -> None:
    assert judging.verdict(text) == verdict


@pytest.mark.parametrize(
    ("first", "second", "outcome"),
    [
        pytest.param("A", "B", "win", id="preferred in both orders"),
        pytest.param("B", "A", "loss", id="the other is preferred in both"),
        pytest.param("A", "A", "tie", id="whatever stands first"),
        pytest.param("C", "B", "tie", id="preferred in one order"),
        pytest.param("C", "C", "tie", id="equal in both"),
        pytest.param("A", "D", None, id="one order without a verdict"),
    ],
)
def test_outcome_of_two_orders(first: str, second: str, outcome: str | None) -> None:
    assert Judgement(f"[[{first}]]", f"[[{second}]]").outcome == outcome


def test_shares_are_of_the_pairs_with_a_verdict() -> None:
    """Six wins of eight: Wilson's 40.9 % to 92.9 %."""
    win, loss, tie, none = (Judgement(f"[[{one}]]", f"[[{two}]]") for one, two in ("AB", "BA", "AA", "A?"))
    found = dict(enumerate([win] * 6 + [loss, tie, none]))
    assert judging.metrics(found) == {"winRate": 6 / 8, "tieRate": 1 / 8, "lossRate": 1 / 8}
    interval = judging.confidence(found)["winRate"]
    assert (interval.low, interval.high) == pytest.approx((0.409, 0.929), abs=1e-3)
    assert (interval.count, interval.unit) == (8, "questions")
    assert judging.in_one_voice(found) == 7 / 8
    assert all(map(math.isnan, judging.metrics({0: none}).values())), "which passes no gate"
    assert judging.confidence({0: none}) == {}
    assert judging.in_one_voice({}) is None


def judged(answer: Callable[[Body], str]) -> tuple[dict[int, Judgement], list[Body]]:
    questions = [Question(f"第{number}问", "诗", f"答{number}" if number else None, "here") for number in range(3)]
    pairs = [
        (question, "好" if number < 2 else "同", "坏" if number < 2 else "同")
        for number, question in enumerate(questions)
    ]
    with Answering(lambda body: said(answer(body))) as server:
        judge = Judge(endpoint=AskedEndpoint(url=server.url), against="base", max_new_tokens=64)
        asker = endpoints.find("judge.endpoint", judge.endpoint, judging.request_of(judge), {})
        found = dict(judging.judgements(asker, judge, pairs, "你是诗人。", at_once=4, heartbeat=lambda: None))
        return found, server.asked[1:]


def test_each_pair_is_put_in_both_orders_and_equal_answers_to_nobody() -> None:
    def answer(body: Body) -> str:
        text = body["messages"][-1]["content"]
        return "[[A]]" if "<answer of A>\n好\n" in text else "[[B]]"

    found, asked = judged(answer)
    assert {number: one.outcome for number, one in found.items()} == {0: "win", 1: "win", 2: "tie"}
    assert len(asked) == 4, "two pairs in two orders"
    assert {body["temperature"] for body in asked} == {0.0}
    assert {body["max_tokens"] for body in asked} == {64}
    texts = [body["messages"][1]["content"] for body in asked]
    assert all("<system>\n你是诗人。\n</system>\n\n<user>\n第" in text for text in texts)
    assert sum("what a good answer says>\n答1\n" in text for text in texts) == 2
    assert sum("reference" in text for text in texts) == 2, "nothing is said of a reference where there is none"


def test_a_judge_that_likes_what_stands_first_makes_no_winner() -> None:
    found, _ = judged(lambda body: "[[A]]")
    assert judging.metrics(found) == {"winRate": 0.0, "tieRate": 1.0, "lossRate": 0.0}
    assert judging.in_one_voice(found) == 1 / 3, "that of the equal answers"
