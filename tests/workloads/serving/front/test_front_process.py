"""The process before vLLM, as its container runs it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.workloads.engine_process import PATIENCE, ROOT, manifest
from tests.workloads.serving.front.standin import Vllm


@pytest.fixture
def vllm() -> Iterator[Vllm]:
    made = Vllm()
    yield made
    made.goes_on.set()
    made.end()


def test_one_that_is_told_to_stop_finishes_what_it_answers_and_takes_nothing_new(vllm: Vllm, tmp_path: Path) -> None:
    chat = manifest("poet", model={"uri": "hf://me/poet"}, template="FromModel", engine="vLLM")
    (tmp_path / "chat.json").write_text(json.dumps(chat), encoding="utf-8")
    variables = {
        **{name: value for name, value in os.environ.items() if not name.startswith("ALPACA_")},
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "operator"))),
        "ALPACA_CACHE": str(tmp_path / "cache"),
        "ALPACA_ENGINE_PORT": "0",
        "ALPACA_VLLM_URL": vllm.url,
    }
    command = [sys.executable, "-m", "workloads.chat_api", "chat.json"]
    with subprocess.Popen(command, cwd=tmp_path, env=variables, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        url = process.stderr.readline().split(" at ")[1].strip()
        threading.Thread(target=process.stderr.read, daemon=True).start()  # else the pipe is full some day
        vllm.goes_on.clear()
        body = {"model": "poet", "messages": [{"role": "user", "content": "问"}], "stream": True}
        with httpx.stream("POST", f"{url}/chat/completions", json=body, timeout=PATIENCE) as stream:
            lines = stream.iter_lines()
            next(lines)
            process.send_signal(signal.SIGTERM)
            limit = time.monotonic() + PATIENCE
            while httpx.get(f"{url.removesuffix('/v1')}/health").json() != {"status": "draining"}:
                assert time.monotonic() < limit
            refused = httpx.post(f"{url}/chat/completions", json=body)
            assert refused.status_code == 503
            assert refused.json()["error"]["code"] == "shutting_down"
            assert process.poll() is None
            vllm.goes_on.set()
            assert "data: [DONE]" in list(lines)
        assert process.wait(max(1.0, limit - time.monotonic())) == 0
