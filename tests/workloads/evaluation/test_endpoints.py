"""Models behind an API: what is asked of them, what a refusal says, and how a stop does not wait for them."""

from __future__ import annotations

import socket
import threading
from typing import Any

import pytest

from alpaca_operator.api.evaluation import AskedEndpoint, Generation
from tests.workloads.answering import Answering, Body, refused, said
from workloads.errors import InputError, Interrupted, SpecError, WorkloadError
from workloads.evaluation import endpoints

KEYS = {"ALPACA_MODELS_1_API_KEY": "s3cret"}
FIELD = "models[1].endpoint"
GREEDY = endpoints.request_of(Generation(max_new_tokens=32), 42)


def found(server: Answering, request: Body = GREEDY, **settings: Any) -> endpoints.Asker:
    return endpoints.find(FIELD, AskedEndpoint(url=server.url, **settings), request, KEYS)


def test_the_first_model_that_it_lists_is_asked_with_the_key_of_its_own_variable() -> None:
    with Answering(lambda body: said(f"答{body['messages'][-1]['content']}"), ("poet", "other")) as server:
        asker = found(server)
        assert asker.uri == f"{server.url} (poet)"
        questions = [[{"role": "user", "content": str(number)}] for number in range(7)]
        replies = dict(asker.replies(questions, GREEDY, at_once=3))
    assert {number: reply.text for number, reply in replies.items()} == {number: f"答{number}" for number in range(7)}
    assert replies[0] == endpoints.Reply("答0", 2, "stop")
    assert server.keys == {"Bearer s3cret"}
    assert server.asked[0]["max_tokens"] == 1, "it was tried out before"
    assert server.asked[1] == {
        "model": "poet",
        "messages": questions[int(server.asked[1]["messages"][0]["content"])],
        "temperature": 0.0,
        "max_tokens": 32,
    }
    assert server.most_at_once <= 3


def test_a_draw_says_how() -> None:
    how = Generation(temperature=0.7, top_p=0.9, top_k=0, repetition_penalty=1.2, max_new_tokens=8)
    request = endpoints.request_of(how, 7)
    with Answering(lambda body: said("好")) as server:
        found(server, request, model="mine")
    asked = {"model": "mine", "messages": [{"role": "user", "content": "1"}], "temperature": 0.7, "max_tokens": 1}
    assert server.asked == [asked | {"top_p": 0.9, "seed": 7, "repetition_penalty": 1.2}]


@pytest.mark.parametrize(
    ("answer", "models", "kind", "message"),
    [
        pytest.param(
            refused(401, "no such key"),
            ("poet",),
            SpecError,
            "spec.models[1].endpoint.secretRef: {url} refuses the key (401): name the Secret that holds it (locally ALPACA_MODELS_1_API_KEY)",
            id="a key that it does not know",
        ),
        pytest.param(
            refused(400, "top_k is unknown"),
            ("poet",),
            SpecError,
            "spec.models[1].endpoint: {url} refuses the question (Error code: 400 - top_k is unknown): correct the model, or the setting "
            "that it names",
            id="a setting that it does not take",
        ),
        pytest.param(
            (200, "<html>Welcome</html>"),
            ("poet",),
            InputError,
            "spec.models[1].endpoint.url: {url} answers without choices: name the base of an OpenAI-compatible API, with its version",
            id="a page",
        ),
        pytest.param(
            said("好"),
            (),
            InputError,
            "spec.models[1].endpoint.url: {url} lists no model: name one in models[1].endpoint.model",
            id="no model",
        ),
        pytest.param(
            refused(503, "loading"),
            ("poet",),
            InputError,
            "spec.models[1].endpoint.url: {url} is busy or failed 6 times (Error code: 503 - loading): run again later",
            id="a server that is not ready",
        ),
    ],
)
def test_what_it_refuses_is_told_before_anything_is_loaded(
    answer: Any, models: tuple[str, ...], kind: type[WorkloadError], message: str
) -> None:
    with Answering(lambda body: answer, models) as server, pytest.raises(kind) as told:
        found(server)
    assert str(told.value) == message.format(url=server.url)


def test_a_server_that_is_not_there_is_told_with_its_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(endpoints, "RETRIES", 0)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        with pytest.raises(InputError, match=rf"^spec\.models\[1\]\.endpoint\.url: {url} cannot be reached \("):
            endpoints.find(FIELD, AskedEndpoint(url=url), GREEDY, {})


def test_a_failure_that_passes_is_nothing_and_one_that_stays_is_no_fault_of_the_spec() -> None:
    turn = iter(range(100))

    def answer(body: Body) -> tuple[int, Body]:
        return refused(429, "slowly") if next(turn) % 3 else said("好")

    question = [[{"role": "user", "content": "问"}]]
    with Answering(answer) as server:
        asker = found(server, model="poet")
        assert [reply.text for _, reply in asker.replies(question, GREEDY)] == ["好"]
        turn = iter([1] * 100)
        with pytest.raises(WorkloadError) as told:
            list(asker.replies(question, GREEDY))
    assert told.value.exit_code == 70, "it is tried again"
    assert "is busy or failed 6 times (Error code: 429 - slowly): run again later" in str(told.value)


def test_a_stop_does_not_wait_for_answers() -> None:
    going = threading.Event()
    beats = iter(range(100))

    def answer(body: Body) -> tuple[int, Body]:
        if body["max_tokens"] > 1:
            going.wait(60)
        return said("好")

    def heartbeat() -> None:
        if next(beats) == 1:
            raise Interrupted("stopped")

    with Answering(answer) as server:
        asker = found(server)
        with pytest.raises(Interrupted):
            list(asker.replies([[{"role": "user", "content": "问"}]] * 4, GREEDY, heartbeat=heartbeat))
        assert not going.is_set()
        going.set()
