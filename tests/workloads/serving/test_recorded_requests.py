"""Requests as the clients that people put before a model send them, kept as files, to the engine's process."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.workloads import callers
from tests.workloads.engine_process import Engine, manifest

KEY = "sk-alpaca"
RECORDED = Path(__file__).parent / "recorded"
FILES = {path.stem: json.loads(path.read_text(encoding="utf-8")) for path in sorted(RECORDED.glob("*.json"))}
REQUESTS = [
    pytest.param(request, id=f"{found['client']}: {request['title']}")
    for found in FILES.values()
    for request in found["requests"]
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory, llama: Any) -> Iterator[Engine]:
    folder = tmp_path_factory.mktemp("recorded")
    callers.write(folder, llama)
    told = {"name": "told", "model": {"uri": "told"}, "template": "HumanAssistant"}
    chat = manifest("agent", model={"uri": "agent"}, template="FromModel", compareWith=told)
    started = Engine(folder, chat, ALPACA_API_KEY=KEY)
    yield started.ready()
    started.close()


def test_there_are_files_of_all_that_we_know() -> None:
    assert {found["client"] for found in FILES.values()} == {
        "Open WebUI",
        "LobeChat",
        "Dify",
        "Continue",
        "Cherry Studio",
    }


@pytest.mark.parametrize("request_", REQUESTS)
def test_what_a_client_sends_is_answered(engine: Engine, request_: dict[str, Any]) -> None:
    body = request_["body"]
    headers = {**request_["headers"], "Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
    answer = httpx.post(engine.root + request_["path"], content=json.dumps(body), headers=headers, timeout=120)
    assert answer.status_code == 200, answer.text
    text, calls, reason, usage = streamed(answer.text) if body.get("stream") else whole(answer.json())
    assert reason in ("stop", "length", "tool_calls")
    if body.get("stream_options", {}).get("include_usage") or not body.get("stream"):
        assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] > 0
    match request_["gives"]:
        case "text":
            assert text
            assert not calls
        case "calls":
            offered = [tool["function"]["name"] for tool in body["tools"]]
            assert calls
            assert all(name in offered and isinstance(json.loads(said), dict) for name, said in calls)
        case "json":
            assert json.loads(text)["sky"] in ("晴", "雨")


Told = tuple[str, list[tuple[str, str]], str, dict[str, int]]


def whole(body: dict[str, Any]) -> Told:
    choice = body["choices"][0]
    message = choice.get("message", {"content": choice.get("text")})
    calls = [(call["function"]["name"], call["function"]["arguments"]) for call in message.get("tool_calls", ())]
    return message["content"] or "", calls, choice["finish_reason"], body["usage"]


def streamed(body: str) -> Told:
    """Read as a client does: events behind `data: `, comments passed over, deltas put together by their index."""
    events = [event.removeprefix("data: ") for event in body.split("\n\n") if event and not event.startswith(":")]
    assert events[-1] == "[DONE]"
    text, calls, reason, usage = "", {}, "", {}
    for event in map(json.loads, events[:-1]):
        usage = event.get("usage") or usage
        for choice in event["choices"]:
            reason = choice["finish_reason"] or reason
            delta = choice.get("delta", {"content": choice.get("text")})
            text += delta.get("content") or ""
            for part in delta.get("tool_calls", ()):
                call = calls.setdefault(part["index"], ["", ""])
                call[0] += part["function"].get("name", "")
                call[1] += part["function"]["arguments"]
    return text, [(name, said) for name, said in calls.values()], reason, usage
