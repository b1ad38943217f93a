"""LlamaIndex against the engine's process, from an environment of its own."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.workloads import callers
from tests.workloads.engine_process import Engine, manifest
from tests.workloads.serving import llama_index_client

pytestmark = pytest.mark.drill
KEY = "sk-alpaca"


def test_llama_index_asks_for_answers_texts_tools_and_types(tmp_path: Path, llama: Any) -> None:
    callers.write(tmp_path, llama)
    told = {"name": "told", "model": {"uri": "told"}, "template": "HumanAssistant"}
    generation = {"temperature": 0, "maxNewTokens": 800}
    chat = manifest("agent", model={"uri": "agent"}, template="FromModel", compareWith=told, generation=generation)
    engine = Engine(tmp_path, chat, ALPACA_API_KEY=KEY)
    try:
        engine.ready()
        asked = [llama_index_client.environment(), llama_index_client.__file__, engine.url, KEY]
        done = subprocess.run(asked, capture_output=True, text=True, timeout=600, check=False, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
    finally:
        engine.close()
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["whole"].startswith("看看。")
    assert found["streamed"] == found["awaited"] == found["whole"]
    assert (found["call"], found["answer"]) == (["weather", {"city": "北京"}], callers.ANSWER)
    assert found["typed"] == {"city": "上海", "degrees": 21, "rain": True}
    assert found["completed"] == found["completed as a stream"] == "".join(callers.DAY)
    assert found["refused"].startswith("NotFoundError: ")
    assert "this server has agent and told" in found["refused"]
