"""The engine's process from start to end: exit codes, last words, signals, and page and API in one process."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.workloads import parrot
from tests.workloads.engine_process import PATIENCE, Engine, manifest

Start = Callable[..., Engine]
ENDLESS = {"model": "tiny", "messages": [{"role": "user", "content": "问"}], "temperature": 0, "stream": True}


@pytest.fixture
def start(tmp_path: Path, llama) -> Iterator[Start]:
    """Starts an engine over a model that never stops."""
    line = [llama.convert_tokens_to_ids(piece) for piece in ("▁", "明", "月")]
    last = llama(":", add_special_tokens=False).input_ids[-1]
    parrot.write(tmp_path / "base", llama, [line, [last, *line]], max_position_embeddings=30_000)
    engines: list[Engine] = []

    def started(module: str = "engine", environment: dict[str, str] | None = None, **spec: Any) -> Engine:
        engines.append(Engine(tmp_path, manifest(**spec), module, **(environment or {})))
        return engines[-1]

    yield started
    for engine in engines:
        engine.close()


def test_a_stop_lets_answers_finish_and_refuses_new_ones(start: Start) -> None:
    engine = start(pod={"terminationGracePeriodSeconds": 600}).ready()
    with httpx.stream(
        "POST", f"{engine.url}/chat/completions", json={**ENDLESS, "max_tokens": 6000}, timeout=600
    ) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if '"content":"明' in line)
        engine.stop()
        limit = time.monotonic() + PATIENCE
        while httpx.get(f"{engine.root}/health").json() != {"status": "draining"}:
            assert time.monotonic() < limit
        refused = httpx.post(f"{engine.url}/chat/completions", json=ENDLESS)
        rest = list(lines)
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "shutting_down")
    assert rest[-2] == "data: [DONE]" or rest[-1] == "data: [DONE]"
    assert any('"finish_reason":"length"' in line for line in rest)
    assert engine.end() == 0
    assert engine.last_word == {"reason": "Succeeded", "exitCode": 0, "message": "stopped as asked"}
    assert "stopping: running answers are finished, new requests are refused" in engine.messages
    assert engine.errors == ""


def test_answers_that_outlast_the_grace_period_end_with_a_reason(start: Start) -> None:
    engine = start(pod={"terminationGracePeriodSeconds": 4}).ready()
    with httpx.stream(
        "POST", f"{engine.url}/chat/completions", json={**ENDLESS, "max_tokens": 29_000}, timeout=600
    ) as answer:
        lines = answer.iter_lines()
        next(line for line in lines if '"content":"明' in line)
        engine.stop()
        rest = [line for line in lines if line]
    assert engine.end() == 0
    assert '"code":"shutting_down"' in rest[-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_while_loading_is_obeyed_at_once(start: Start, number: signal.Signals) -> None:
    engine = start()
    engine.stop(number)
    assert engine.end() == 0
    assert engine.errors == ""


@pytest.mark.parametrize(
    ("spec", "environment", "code", "told"),
    [
        pytest.param({"model": {"uri": "nowhere"}}, {}, 66, "InputNotFound: spec.model.uri: nowhere: ", id="a model that is not there"),
        pytest.param({"auth": {"secretName": "poet"}}, {}, 64, "InvalidSpec: auth.secretName is poet and ALPACA_API_KEY is not set: put the key apiKey into that Secret; locally set the variable", id="a login without a key"),
        pytest.param({}, {"ALPACA_CHAT_USERNAME": "a", "ALPACA_CHAT_PASSWORD": "b"}, 64, "InvalidSpec: ALPACA_CHAT_USERNAME locks the page and ALPACA_API_KEY is not set: the API would be open; set it too", id="a page that is locked alone"),
        pytest.param({}, {"ALPACA_API_KEY": "钥匙"}, 64, "InvalidSpec: ALPACA_API_KEY has spaces or characters beyond ASCII, which clients cannot send: use letters, digits and signs", id="a key that nobody can send"),
        pytest.param({}, {"ALPACA_ENGINE_PORT": "web"}, 64, "InvalidSpec: ALPACA_ENGINE_PORT is 'web': give a port, or 0 for a free one", id="a port that is none"),
    ],
)  # fmt: skip
def test_what_cannot_be_served_ends_with_its_code_and_a_line(
    tmp_path: Path, spec: dict[str, Any], environment: dict[str, str], code: int, told: str
) -> None:
    with pytest.raises(AssertionError, match="it ended"):
        Engine(tmp_path, manifest(**spec), **environment).ready()
    assert (tmp_path / "stderr").read_text(encoding="utf-8").startswith(told)
    assert f'"exitCode":{code}' in (tmp_path / "termination").read_text(encoding="utf-8")


def test_page_and_api_come_from_one_process(start: Start) -> None:
    engine = start("chat", {"ALPACA_PAGE_PORT": "0"}).ready()
    limit = time.monotonic() + PATIENCE
    while "the page is at " not in engine.errors:
        assert time.monotonic() < limit
        time.sleep(0.05)
    page = engine.errors.partition("the page is at ")[2].split()[0]
    assert httpx.get(page, timeout=60).status_code == 200
    asked = httpx.post(f"{engine.url}/chat/completions", json={**ENDLESS, "stream": False, "max_tokens": 6}, timeout=60)
    assert asked.json()["choices"][0]["message"]["content"] == "明月 明月"
    engine.stop()
    assert engine.end() == 0


@pytest.mark.parametrize("module", ["chat", "engine"])
def test_help_names_the_command_and_needs_no_torch(module: str) -> None:
    code = (
        f"import runpy, sys; sys.argv = ['x', '--help']\n"
        f"try: runpy.run_module('workloads.{module}', run_name='__main__')\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'starlette', 'gradio'} & set(sys.modules)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.startswith(f"usage: python -m workloads.{module} [FILE]")
    assert "--limits.maxQueue INTEGER" in shown.stdout
