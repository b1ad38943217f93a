"""The API's process attacked: bodies made to be slow, names and pages from elsewhere, requests that contradict themselves."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.workloads.engine_process import Engine, manifest
from tests.workloads.serving.attacks import ALIVE_SECONDS, most_before_livez, raw

KEY = "sk-alpaca"


@pytest.fixture(scope="module")
def engine(shelf: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """Without a key, as on a laptop."""
    folder = tmp_path_factory.mktemp("engine")
    (folder / "base").symlink_to(shelf / "base")
    started = Engine(folder, manifest("poet", hosts=["chat.example.org", "*.poets.org"]))
    # What a process loads for its first answer is nobody's attack.
    first = {"model": "poet", "max_tokens": 1, "messages": [{"role": "user", "content": "问"}]}
    assert httpx.post(f"{started.ready().url}/chat/completions", json=first, timeout=300).is_success
    yield started
    started.close()


def question(content: Any) -> bytes:
    return json.dumps(
        {"model": "poet", "messages": [{"role": "user", "content": content}]}, ensure_ascii=False
    ).encode()


MEGABYTES = 4 * 1024 * 1024
WIDE = {
    "parts that are none": lambda: b'{"model":"poet","messages":[{"role":"user","content":[' + b"0," * 190_000 + b"0]}]}",
    "messages that are none": lambda: b'{"model":"poet","messages":[' + b"{}," * 190_000 + b"{}]}",
    "stops that are none": lambda: question("x")[:-1] + b',"stop":[' + b"0," * 380_000 + b"0]}",
    "fields that nobody knows": lambda: question("x")[:-1] + b"".join(b',"f%d":[]' % n for n in range(190_000)) + b"}",
    "plain text": lambda: question("问a山b" * (MEGABYTES // 9)),
    "a text of one letter": lambda: question("a" * (MEGABYTES - 100)),
    "spaces": lambda: question(" " * (MEGABYTES - 100)),
    "control tokens": lambda: question("</s>" * (MEGABYTES // 4 - 100)),
    "a long history": lambda: json.dumps({"model": "poet", "max_tokens": 1, "messages": [
        {"role": role, "content": "山" * 120} for _ in range(4900) for role in ("user", "assistant")] + [{"role": "user", "content": "x"}]},
        ensure_ascii=False).encode(),
}  # fmt: skip


@pytest.mark.parametrize("name", WIDE)
def test_the_process_answers_while_a_body_that_is_made_to_be_slow_is_read(engine: Engine, name: str) -> None:
    body = WIDE[name]()
    assert len(body) <= MEGABYTES

    def attack() -> None:
        with ThreadPoolExecutor(4) as crowd:
            asked = [
                crowd.submit(httpx.post, f"{engine.url}/chat/completions", content=body, timeout=300) for _ in range(4)
            ]
            told = [each.result() for each in asked]
        assert {answer.status_code for answer in told} == ({200} if name == "a long history" else {400})
        assert max(len(answer.content) for answer in told) < 2000

    assert most_before_livez(engine.pid, engine.root, attack) < ALIVE_SECONDS


@pytest.mark.parametrize(
    ("head", "body"),
    [
        pytest.param(b"Content-Length: 8000000", b"", id="announced, and refused before it is sent"),
        pytest.param(b"Transfer-Encoding: chunked", b"400000\r\n" + b" " * 0x400000 + b"\r\n10\r\n" + b" " * 16 + b"\r\n0\r\n\r\n", id="in pieces"),
    ],
)  # fmt: skip
def test_a_body_beyond_the_bound_is_refused(engine: Engine, head: bytes, body: bytes) -> None:
    told = raw(
        engine.root,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        + head
        + b"\r\n\r\n"
        + body,
    )
    assert told.rpartition(b"HTTP/1.1 ")[2].startswith(b"413 ")
    assert b"The body is larger than 4 MiB: shorten the conversation." in told


def test_a_body_of_more_values_than_any_request_has_is_refused_unparsed(engine: Engine) -> None:
    body = b'{"messages": [' + b"[]," * 500_000 + b"[]]}"
    told: list[httpx.Response] = []
    assert (
        most_before_livez(
            engine.pid,
            engine.root,
            lambda: told.append(httpx.post(f"{engine.url}/chat/completions", content=body, timeout=300)),
        )
        < ALIVE_SECONDS
    )
    assert told[0].status_code == 413
    assert told[0].json()["error"]["message"] == (
        "The body has 1,000,003 commas and brackets, and at most 400,000 are read: shorten it."
    )


def test_a_body_is_not_read_of_one_who_has_no_key(tmp_path: Path, shelf: Path) -> None:
    (tmp_path / "base").symlink_to(shelf / "base")
    locked = Engine(tmp_path, manifest("poet"), ALPACA_API_KEY=KEY)
    try:
        told = raw(
            locked.root,
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 1000\r\n\r\n",
        )
        assert told.startswith(b"HTTP/1.1 401 ")  # not one word of it came, and none was asked for
    finally:
        locked.close()


def test_a_length_beside_pieces_is_refused(engine: Engine) -> None:
    told = raw(
        engine.root,
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /",
    )
    assert told.startswith(b"HTTP/1.1 400 ")
    assert b"contradict each other" in told
    assert told.count(b"HTTP/1.1 ") == 1


def test_a_compressed_body_is_refused_by_its_name(engine: Engine) -> None:
    body = gzip.compress(question("x"))
    told = httpx.post(f"{engine.url}/chat/completions", content=body, headers={"Content-Encoding": "gzip"}, timeout=60)
    assert told.status_code == 415
    assert told.json()["error"]["message"] == (
        "Content-Encoding is 'gzip', and bodies are read as they are: send it uncompressed."
    )


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        pytest.param({"Host": "evil.example"}, 421, id="a name that was pointed here"),
        pytest.param({"Host": "evil.example:8000", "Origin": "http://evil.example:8000"}, 421, id="its own page"),
        pytest.param({"Origin": "https://evil.example", "Content-Type": "text/plain"}, 403, id="a form elsewhere"),
        pytest.param({"Origin": "null"}, 403, id="a page without an origin"),
        pytest.param({"Origin": "http://localhost:3000"}, 403, id="another server of this machine"),
        pytest.param({"Host": "chat.example.org", "Origin": "https://chat.example.org"}, 200, id="a name that the spec has"),
        pytest.param({"Host": "li.poets.org"}, 200, id="a name below one that the spec has"),
        pytest.param({"Origin": "https://li.poets.org"}, 200, id="a page of such a name"),
        pytest.param({"Host": "poet-chat.lit.svc"}, 200, id="the Service"),
        pytest.param({"Host": "192.0.2.7:8000"}, 200, id="an address"),
        pytest.param({"Host": "localhost"}, 200, id="this machine"),
    ],
)  # fmt: skip
def test_pages_from_elsewhere_do_not_reach_a_laptops_api(engine: Engine, headers: dict[str, str], status: int) -> None:
    body = json.dumps({"model": "poet", "max_tokens": 1, "messages": [{"role": "user", "content": "问"}]})
    told = httpx.post(f"{engine.url}/chat/completions", content=body, headers=headers, timeout=60)
    assert told.status_code == status
    its_own = status == 200 and "Origin" in headers
    assert told.headers.get("access-control-allow-origin") == (headers["Origin"] if its_own else None)


def test_the_log_tells_of_every_request_and_of_nothing_that_was_said(engine: Engine) -> None:
    secret = "床前明月光"
    httpx.post(
        f"{engine.url}/chat/completions?secret={secret}",
        content=question(secret),
        headers={"X-Request-ID": "abc-1"},
        timeout=60,
    )
    httpx.get(f"{engine.url}/models/{secret}")
    line = engine.said("id=abc-1")
    assert line.startswith("access method=POST route=/v1/chat/completions status=200 ms=")
    assert f" in={len(question(secret))} out=" in line
    engine.said("route=/v1/models/* status=404")
    assert not any(secret in line for line in engine.messages)
    assert not any("/livez" in line for line in engine.messages)
