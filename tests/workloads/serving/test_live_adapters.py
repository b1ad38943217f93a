"""Adapters that come and go while the engine's process answers: the answers are those of an engine that was started with them."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.workloads import tiny
from tests.workloads.engine_process import PATIENCE, Engine, manifest
from tests.workloads.serving.engine.test_loading import adapter

# PEFT asks transformers by a name that is going to be removed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")
LONG = 1500
"""Tokens of an answer that is still written when the list has been read."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With `base`, and the adapters `first` and `second` on it; `wide` is on another vocabulary."""
    made = tmp_path_factory.mktemp("adapters")
    tiny.write_model(made / "base", hidden=64, max_position_embeddings=4096)
    adapter(made / "base", made / "first")
    adapter(made / "base", made / "second", use_dora=True, lora_alpha=32)
    other = tiny.write_model(made / "other", hidden=64, vocab_size=320)
    adapter(other, made / "wide", modules_to_save=["embed_tokens", "lm_head"])
    return made


def place(folder: Path, source: Path) -> Path:
    folder.mkdir()
    for each in source.iterdir():
        (folder / each.name).symlink_to(each)
    return folder


@pytest.fixture
def engines(folder: Path, tmp_path: Path) -> Iterator[tuple[Engine, Engine]]:
    """One that follows a list, and one that was started with two adapters."""
    with_them = [{"uri": "first", "name": "poet"}, {"uri": "second", "name": "sage"}]
    listed = place(tmp_path / "live", folder) / "list.json"
    write(listed, [])
    live = Engine(listed.parent, manifest(), ALPACA_ADAPTERS=str(listed))
    static = Engine(place(tmp_path / "static", folder), manifest(adapters=with_them))
    yield live, static
    live.close()
    static.close()


def write(path: Path, adapters: list[dict[str, str]]) -> None:
    """As the kubelet does: exchanged as a whole."""
    path.with_suffix(".new").write_text(json.dumps({"adapters": adapters}), encoding="utf-8")
    os.replace(path.with_suffix(".new"), path)


def names(engine: Engine) -> list[str]:
    return [each["id"] for each in httpx.get(f"{engine.url}/models").json()["data"]]


def until(holds: Callable[[], bool], what: str) -> None:
    limit = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < limit, what
        time.sleep(0.05)


def question(model: str, **fields: Any) -> dict[str, Any]:
    asked = [{"role": "user", "content": "第7问：赵先生喜欢什么？"}]
    return {"model": model, "messages": asked, "temperature": 0, "max_tokens": 24, "ignore_eos": True, **fields}


def told(engine: Engine, model: str) -> Any:
    """The tokens of an answer, and how likely each was, as exactly as they are told."""
    asked = question(model, logprobs=True, top_logprobs=3)
    answered = httpx.post(f"{engine.url}/chat/completions", json=asked, timeout=PATIENCE)
    assert answered.status_code == 200, answered.text
    return answered.json()["choices"][0]["logprobs"]["content"]


class Stream:
    """A long answer that is being written."""

    def __init__(self, engine: Engine, model: str, tokens: int) -> None:
        wanted = question(model, stream=True, max_tokens=tokens)
        self._asking = httpx.stream("POST", f"{engine.url}/chat/completions", json=wanted, timeout=PATIENCE)
        self._lines = self._asking.__enter__().iter_lines()
        self.text = ""
        self.pieces = 0
        self.ending: str | None = None
        self.take(1)

    def take(self, pieces: int) -> None:
        """So many more of it, or all that there are."""
        end = self.pieces + pieces
        for line in self._lines:
            if line.startswith("data: {"):
                choice = json.loads(line.removeprefix("data: "))["choices"][0]
                self.ending = choice["finish_reason"]
                if text := choice["delta"].get("content"):
                    self.text += text
                    self.pieces += 1
            if self.pieces == end:
                return

    def close(self) -> None:
        self._asking.__exit__(None, None, None)


def whole(engine: Engine, model: str, tokens: int) -> str:
    asked = question(model, max_tokens=tokens)
    answered = httpx.post(f"{engine.url}/chat/completions", json=asked, timeout=PATIENCE).json()["choices"][0]
    assert answered["finish_reason"] == "length"
    return str(answered["message"]["content"])


@pytest.mark.drill
def test_adapters_come_and_go_while_answers_stream(engines: tuple[Engine, Engine]) -> None:
    live, static = (engine.ready() for engine in engines)
    listed = live.folder / "list.json"
    poet, sage = {"name": "poet", "uri": "first"}, {"name": "sage", "uri": "second"}
    assert names(live) == ["tiny"]

    of_base = Stream(live, "tiny", 3500)
    write(listed, [poet])
    until(lambda: "poet" in names(live), "poet is never there")
    assert live.metric("alpaca_chat_running") == 1, "it came while an answer was written"
    assert whole(live, "poet", 24) == whole(static, "poet", 24)
    write(listed, [poet, sage])
    until(lambda: "sage" in names(live), "sage is never there")
    written = int(live.metric('alpaca_chat_tokens_total{kind="completion"}')) + 100
    of_base.take(written)
    of_base.close()
    live.until("alpaca_chat_running", 0)
    expected = whole(static, "tiny", written)  # some tokens of it have no text
    assert of_base.text[: len(expected)] == expected
    assert told(live, "sage") == told(static, "sage") != told(static, "tiny")

    of_poet = Stream(live, "poet", LONG)
    write(listed, [sage])
    until(lambda: "poet" not in names(live), "poet is still listed")
    assert live.metric("alpaca_chat_running") == 1, "it went while it answered"
    gone = httpx.post(f"{live.url}/chat/completions", json=question("poet"))
    assert (gone.status_code, gone.json()["error"]["code"]) == (404, "model_not_found")
    of_poet.take(LONG)
    assert (of_poet.text, of_poet.ending) == (whole(static, "poet", LONG), "length")
    live.said("adapter poet is dropped")

    write(listed, [])
    live.said("adapter sage is dropped")
    write(listed, [poet])
    until(lambda: "poet" in names(live), "poet does not come again")
    assert whole(live, "poet", 24) == of_poet.text[: len(whole(static, "poet", 24))]
