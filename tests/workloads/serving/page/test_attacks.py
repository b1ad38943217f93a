"""The page's process attacked: Gradio's own routes, bodies made to be slow, pages from elsewhere, guesses at the password."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.workloads.serving.attacks import ALIVE_SECONDS, most_before_livez, raw
from tests.workloads.serving.page.conftest import Served, page_process
from tests.workloads.serving.page.standin import Engine
from tests.workloads.serving.page.steps import POET

SECRET = {"ALPACA_CHAT_USERNAME": "li", "ALPACA_CHAT_PASSWORD": "床前明月光", "ALPACA_API_KEY": "key"}
MEGABYTES = 8 * 1024 * 1024


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A page without a login."""
    with (
        Engine() as engine,
        page_process(POET, tmp_path_factory.mktemp("page"), ALPACA_ENGINE_URL=engine.url) as served,
    ):
        yield served


@pytest.fixture(scope="module")
def page(served: Served) -> str:
    """Its address."""
    return served.url


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of one behind a login."""
    folder = tmp_path_factory.mktemp("locked")
    with Engine() as engine, page_process(POET, folder, ALPACA_ENGINE_URL=engine.url, **SECRET) as served:
        yield served.url


def entered(url: str, password: str = "床前明月光", **headers: str) -> httpx.Response:
    return httpx.post(f"{url}/login", data={"username": "li", "password": password}, headers=headers, timeout=60)


def conversation(turns: int, text: str) -> dict[str, Any]:
    return {"turns": [{"question": text, "answers": [{"model": "poet", "text": text}]}] * turns}


def test_the_page_answers_while_bodies_that_are_made_to_be_slow_come_in(served: Served, page: str) -> None:
    zeros = b'{"data":[' + b"0," * (MEGABYTES // 2 - 20) + b"0]}"
    statuses: dict[str, set[int]] = {}

    def attack() -> None:
        with httpx.Client(timeout=300) as client:
            gradio = ("cancel", "reset", "component_server/", "queue/join", "run/predict", "upload", "call/x")
            for route in ("answers", *(f"gradio_api/{name}" for name in gradio)):
                told = {client.post(f"{page}/{route}", content=zeros).status_code for _ in range(2)}
                statuses[route] = told

    assert most_before_livez(served.process.pid, page, attack) < ALIVE_SECONDS
    read = {"answers", "gradio_api/component_server/"}
    assert {route for route, told in statuses.items() if told == {413}} == read
    assert all(told == {404} for route, told in statuses.items() if route not in read)


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        pytest.param(conversation(190, "床前明月光，疑是地上霜。\n" * 200), 200, id="many long turns"),
        pytest.param(conversation(1, "`<![a](b)$$\\(" * 100_000), 200, id="marks that nothing closes"),
        pytest.param({"turns": [{}] * 300_000}, 413, id="more turns than are read"),
        pytest.param({"turns": [{}] * 150_000}, 400, id="turns that are none"),
        pytest.param({"turns": [{"question": "x", "answers": [0] * 300_000}]}, 400, id="answers that are none"),
        pytest.param({"turns": [{"question": "x"}], "models": ["x"] * 300_000}, 400, id="models without end"),
    ],
)
def test_the_page_answers_while_conversations_that_are_made_to_be_slow_are_read(
    served: Served, page: str, asked: dict[str, Any], status: int
) -> None:
    body = json.dumps(asked, separators=(",", ":")).encode()

    def attack() -> None:
        with httpx.Client(timeout=300) as client:
            for _ in range(3):
                told = client.post(f"{page}/answers", content=body)
                assert told.status_code == status

    assert most_before_livez(served.process.pid, page, attack) < ALIVE_SECONDS


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({}, "turns: Field required"),
        ({"turns": []}, "turns: List should have at least 1 item after validation, not 0"),
        ({"turns": [{"question": 1}]}, "turns.0.question: Input should be a valid string"),
        ({"turns": [{"question": "x"}], "chosen": {"topP": 2}}, "chosen.topP: Input should be less than or equal to 1"),
        ([], "body: Input should be an object"),
    ],
)
def test_what_is_no_question_is_refused_with_the_field(page: str, asked: Any, told: str) -> None:
    answer = httpx.post(f"{page}/answers", json=asked, timeout=60)
    assert (answer.status_code, answer.json()) == (400, {"detail": told})


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/gradio_api/upload", 404), ("GET", "/gradio_api/file=/etc/passwd", 404), ("GET", "/gradio_api/proxy=http://x/", 404),
        ("POST", "/gradio_api/api/predict", 404), ("GET", "/gradio_api/openapi.json", 404), ("GET", "/monitoring", 404),
        ("GET", "/token", 404), ("GET", "/gradio_api/runs", 404), ("GET", "/logout", 404), ("GET", "/robots.txt", 404),
        ("POST", "/gradio_api/stream/x", 404), ("POST", "/gradio_api/queue/join", 404), ("GET", "/gradio_api/queue/data", 404), ("GET", "//evil.example/", 404), ("PUT", "/", 405), ("OPTIONS", "/config", 405),
        ("GET", "/assets/../../../../etc/passwd", 404), ("TRACE", "/config", 405),
    ],
)  # fmt: skip
def test_only_what_the_page_uses_is_there(page: str, method: str, path: str, status: int) -> None:
    told = raw(page, f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert told.startswith(f"HTTP/1.1 {status} ".encode())


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:9"])
def test_a_page_elsewhere_reads_and_sends_nothing(page: str, origin: str) -> None:
    for method, path in (("GET", "/config"), ("POST", "/answers"), ("GET", "/")):
        told = httpx.request(
            method, f"{page}{path}", headers={"Origin": origin, "Host": "chat.example.org"}, timeout=60
        )
        assert told.status_code == 421
        told = httpx.request(method, f"{page}{path}", headers={"Origin": origin, "Cookie": "a=b"}, timeout=60)
        assert told.status_code == 403
        assert not any(name.startswith("access-control") for name in told.headers)


def test_a_browser_is_told_what_it_may_do(page: str) -> None:
    told = httpx.get(page, headers={"Origin": page}, timeout=60)
    assert told.status_code == 200
    policy = dict(part.strip().split(" ", 1) for part in told.headers["content-security-policy"].split(";"))
    assert "'unsafe-inline'" not in policy["script-src"]
    assert policy["script-src"].count("'sha256-") == told.text.count("<script") - told.text.count(" src=")
    assert (policy["img-src"], policy["media-src"], policy["frame-src"]) == ("data: blob:", "'none'", "'none'")
    assert (policy["object-src"], policy["frame-ancestors"], policy["form-action"]) == ("'none'", "'self'", "'none'")
    assert (told.headers["x-content-type-options"], told.headers["referrer-policy"]) == ("nosniff", "same-origin")
    assert not any(name.startswith("access-control") for name in told.headers)


def test_nothing_is_read_before_the_login(locked: str) -> None:
    zeros = b"POST %s HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 60000\r\n\r\n"
    for route in (b"/answers", b"/gradio_api/component_server/"):
        assert raw(locked, zeros % route).startswith(b"HTTP/1.1 401 ")
    for path in ("/config", "/theme.css", "/gradio_api/app_id"):
        told = httpx.get(f"{locked}{path}", timeout=60)
        assert (told.status_code, told.json()) == (
            401,
            {"detail": "Log in first: the session has ended, or there was none."},
        )
    led = httpx.get(locked, timeout=60)
    assert (led.status_code, led.headers["location"]) == (303, "/login")  # which a probe follows, and is well with


def test_a_session_is_for_this_page_alone_and_ends(locked: str) -> None:
    told = entered(locked)
    assert (told.status_code, told.headers["location"]) == (303, "/")
    name, _, rest = told.headers["set-cookie"].partition("=")
    assert name.startswith("alpaca-session-")
    assert {part.strip().lower() for part in rest.split(";")[1:]} == {
        "httponly",
        "max-age=43200",
        "path=/",
        "samesite=lax",
    }
    assert "Secure" in entered(locked, **{"X-Forwarded-Proto": "https"}).headers["set-cookie"]
    with httpx.Client(cookies=told.cookies, timeout=60) as user:
        assert user.get(f"{locked}/config").status_code == 200
        assert user.get(f"{locked}/logout").status_code == 405  # what a picture could ask for
        assert user.post(f"{locked}/logout", headers={"Origin": "https://evil.example"}).status_code == 403
        assert user.get(f"{locked}/config").status_code == 200
        assert user.post(f"{locked}/logout").headers["location"] == "/login"
        assert user.get(f"{locked}/config").status_code == 401


def test_guesses_are_slowed_down_and_logged_without_what_was_guessed(tmp_path: Path) -> None:
    with Engine() as engine, page_process(POET, tmp_path, ALPACA_ENGINE_URL=engine.url, **SECRET) as served:
        statuses = [entered(served.url, f"guess-{number}").status_code for number in range(12)]
        assert statuses == [401] * 10 + [429] * 2
        late = entered(served.url)
        assert late.status_code == 429
        assert 0 < int(late.headers["retry-after"]) <= 60
    told = "".join(served.said())
    assert "login refused: wrong password number 10 within a minute, from 127.0.0.1 itself" in told
    assert "access method=POST route=/login status=429" in told
    assert "guess" not in told
    assert "床前" not in told
