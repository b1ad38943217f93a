"""Tokens a second and time to the first token of a chat with 1 to 16 users, against `transformers serve` and plain `generate`.

The same model, the same questions, the same number of tokens, over HTTP but for `generate`. Figures are printed, and
bounded by nothing: a busy machine is no failure.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.workloads import tiny
from tests.workloads.engine_process import PATIENCE, Engine, manifest
from workloads.data.chat_templates import named
from workloads.models import libraries

libraries.quiet()

USERS = (1, 4, 8, 16)
TOKENS = 64
REPEATS = 3
"""The best of them counts: on a machine that does other things beside, a mean measures those."""
THINGS = "山水云月松石江海风雪花鸟梅兰竹菊"
SETTINGS = {"temperature": 0, "max_tokens": TOKENS, "stream": True}


@dataclass
class Contender:
    """A server, and what was measured of it."""

    name: str
    url: str
    model: str
    seconds_to_ready: float
    per_second: dict[int, float] = field(default_factory=dict)
    """Tokens a second of all users together, by their number."""
    first: dict[int, float] = field(default_factory=dict)
    """Seconds until the last of them had a first token."""

    def measure(self, count: int) -> None:
        """With so many users at once; the best of all measurements is kept."""
        speed, first = asyncio.run(_users(self, count))
        self.per_second[count] = max(speed, self.per_second.get(count, 0.0))
        self.first[count] = min(first, self.first.get(count, first))


async def _users(contender: Contender, count: int) -> tuple[float, float]:
    async with httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=count)) as client:
        began = time.perf_counter()
        firsts = await asyncio.gather(*(_answer(client, contender, number) for number in range(count)))
        return count * TOKENS / (time.perf_counter() - began), max(firsts)


async def _answer(client: httpx.AsyncClient, contender: Contender, number: int) -> float:
    """Seconds to the first text."""
    body = {**SETTINGS, "model": contender.model, "messages": [{"role": "user", "content": THINGS[number] * 8}]}
    began, first, reason = time.perf_counter(), 0.0, None
    async with client.stream("POST", f"{contender.url}/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                choice = json.loads(line.removeprefix("data: "))["choices"][0]
                reason = choice.get("finish_reason") or reason
                if choice["delta"].get("content"):
                    first = first or time.perf_counter() - began
    assert first, "no text came"
    assert reason == "length", f"the answer ended early: {reason}"
    return first


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, a Llama of 7 M weights that never ends an answer."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("chat")
    shape = {"vocab_size": 8192, "num_attention_heads": 8, "max_position_embeddings": 1024}
    base = tiny.write_model(folder / "base", hidden=256, intermediate_size=704, num_hidden_layers=4, **shape)
    weights = load_file(base / "model.safetensors")
    words = len(load_tokenizer(base))
    weights["lm_head.weight"][[*range(4), *range(words, 8192)]] = (
        0  # never the likeliest: control tokens, rows without a token
    )
    save_file(weights, base / "model.safetensors", {"format": "pt"})
    template = named.FOLDER / "ChatML.jinja"
    shutil.copy(template, base / "chat_template.jinja")
    return folder


def load_tokenizer(base: Path) -> Any:
    from workloads.data import tokenizer_io

    return tokenizer_io.load_tokenizer(base)


@contextmanager
def _ours(folder: Path) -> Iterator[Contender]:
    began = time.perf_counter()
    engine = Engine(folder, manifest(template="FromModel", limits={"maxBatch": 16}))
    try:
        ready = _until(began, engine.root, "ready")
        yield Contender("workloads.engine", engine.url, "tiny", ready)
    finally:
        engine.close()


@contextmanager
def _transformers(folder: Path, name: str, *flags: str) -> Iterator[Contender]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.perf_counter()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder / "base"), "--port", str(port)]
    with (folder / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--dtype", "float32", *flags],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
    try:
        ready = _until(began, f"http://127.0.0.1:{port}", "ok")
        yield Contender(name, f"http://127.0.0.1:{port}/v1", str(folder / "base"), ready)
    finally:
        process.kill()
        process.wait()


def _until(began: float, root: str, status: str) -> float:
    """Seconds until it says that it answers."""
    while time.perf_counter() - began < PATIENCE:
        try:
            if httpx.get(f"{root}/health").json().get("status") == status:
                return time.perf_counter() - began
        except httpx.TransportError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{root} never became {status}")


def _generated(folder: Path) -> float:
    """Tokens a second of plain `generate`, one answer after the other: more users make it no faster."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder / "base", dtype=torch.float32).eval()
    tokenizer = load_tokenizer(folder / "base")
    times = []
    for number in range(REPEATS + 1):
        ids = tokenizer(THINGS[number] * 8, return_tensors="pt").input_ids
        began = time.perf_counter()
        with torch.inference_mode():
            out = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=TOKENS,
                pad_token_id=3,
            )
        times.append(time.perf_counter() - began)
        assert out.shape[1] - ids.shape[1] == TOKENS
    return TOKENS / min(times)


def test_many_users(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    continuous = ("--continuous-batching", "--cb-num-blocks", "64", "--cb-max-batch-tokens", "512")
    with (
        _ours(folder) as ours,
        _transformers(folder, "transformers serve") as theirs,
        _transformers(folder, "transformers serve, continuous batching", *continuous) as continuously,
    ):
        contenders = [ours, theirs, continuously]
        for contender in contenders:  # what is compiled or allocated at the first request is not what is measured
            asyncio.run(_users(contender, 1))
        for count in USERS:
            for _ in range(REPEATS):  # in turns, so that a busy minute of the machine does not hit one of them alone
                for contender in contenders:
                    contender.measure(count)
        generated = _generated(folder)
    with capsys.disabled():
        print(f"\na chat, {TOKENS} tokens an answer, the likeliest; generate alone writes {generated:,.0f} tokens/s")
        head = "".join(f"{f'{count} user' + 's' * (count > 1):>16}" for count in USERS)
        print(f"{'tokens/s, ms to the last first token':<42}{head}{'s to ready':>12}")
        for each in contenders:
            cells = "".join(f"{each.per_second[count]:>9,.0f}{1000 * each.first[count]:>7,.0f}" for count in USERS)
            print(f"{each.name:<42}{cells}{each.seconds_to_ready:>12.1f}")
    print(
        f"eight users of the engine get {ours.per_second[8] / ours.per_second[1]:.1f} times the tokens of one (aim 2.5)"
    )
