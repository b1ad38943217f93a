"""Tokens a second and time to the first token of a chat with 1 to 32 users, against `transformers serve` and plain `generate`; and what a
crowd of mixed lengths pays: conversations that go on, short answers beside a long one, a short question beside a long prompt.

The same model, the same questions, the same number of tokens, over HTTP but for `generate`. `transformers serve` batches continuously: as it
is by default it writes one answer after the other, as `generate` does. Figures are printed, and bounded by nothing: a busy machine is no
failure. Seconds that a process computed tell more there than those that went by.
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

from tests.benchmarks.load import cpu_seconds
from tests.workloads import tiny
from tests.workloads.engine_process import PATIENCE, Engine, manifest
from workloads.data.chat_templates import named
from workloads.models import libraries

libraries.quiet()

USERS = (1, 8, 16, 32)
TOKENS = 64
REPEATS = 3
"""The best of them counts: on a machine that does other things beside, a mean measures those."""
THINGS = "山水云月松石江海风雪花鸟梅兰竹菊"
SETTINGS = {"temperature": 0, "max_tokens": TOKENS, "stream": True}
CONTINUOUS = ("--continuous-batching", "--cb-num-blocks", "128", "--cb-max-batch-tokens", "512")
LONG = 3400
"""Tokens of a long conversation, about: a character is one, and what the template puts around it."""


@dataclass
class Contender:
    """A server, and what was measured of it."""

    name: str
    url: str
    model: str
    pid: int
    seconds_to_ready: float
    per_second: dict[int, float] = field(default_factory=dict)
    """Tokens a second of all users together, by their number."""
    first: dict[int, float] = field(default_factory=dict)
    """Seconds until the last of them had a first token."""
    per_cpu_second: dict[int, float] = field(default_factory=dict)
    """Tokens by a second that the server's process computed."""

    crowd: dict[str, float] = field(default_factory=dict)
    """Seconds, by what was measured."""

    def measure(self, count: int) -> None:
        """With so many users at once; the best of all measurements is kept."""
        began = cpu_seconds(self.pid)
        speed, first = asyncio.run(_users(self, count))
        thrift = count * TOKENS / (cpu_seconds(self.pid) - began)
        self.per_second[count] = max(speed, self.per_second.get(count, 0.0))
        self.per_cpu_second[count] = max(thrift, self.per_cpu_second.get(count, 0.0))
        self.first[count] = min(first, self.first.get(count, first))

    def note(self, what: str, seconds: float) -> None:
        self.crowd[what] = min(seconds, self.crowd.get(what, seconds))


@dataclass(frozen=True)
class Timing:
    """Of an answer: seconds to its first text and to its end."""

    first: float
    whole: float
    text: str


def _client() -> httpx.AsyncClient:
    return httpx.AsyncClient(timeout=600, limits=httpx.Limits(max_connections=64))


async def _users(contender: Contender, count: int) -> tuple[float, float]:
    async with _client() as client:
        began = time.perf_counter()
        answers = await asyncio.gather(*(_answer(client, contender, _short(number)) for number in range(count)))
        return count * TOKENS / (time.perf_counter() - began), max(answer.first for answer in answers)


def _short(number: int) -> list[dict[str, str]]:
    return [{"role": "user", "content": (THINGS[number % 16] + THINGS[(number // 16 + number) % 16]) * 4}]


def _long(number: int) -> list[dict[str, str]]:
    """Such that no two begin alike."""
    return [{"role": "user", "content": (f"{number}" + THINGS[number % 16] + THINGS) * (LONG // 18)}]


async def _crowd(contender: Contender, number: int) -> None:
    """What a crowd of mixed lengths pays; ``number`` makes the texts new."""
    async with _client() as client:

        async def shorts() -> float:
            return max(
                each.whole
                for each in await asyncio.gather(*(_answer(client, contender, _short(at)) for at in range(7)))
            )

        contender.note("seven short answers", await shorts())
        talk = _long(2 * number)
        first = await _answer(client, contender, talk)
        contender.note("first turn of a long conversation, to its first token", first.first)
        talk += [{"role": "assistant", "content": first.text}, {"role": "user", "content": "山"}]
        contender.note("second turn", (await _answer(client, contender, talk)).first)

        begun = asyncio.Event()
        beside = asyncio.create_task(_answer(client, contender, talk, tokens=4 * TOKENS, begun=begun))
        await begun.wait()
        contender.note("seven short answers beside a long one that is written", await shorts())
        await beside
        alone = await _answer(client, contender, [{"role": "user", "content": "水月"}], tokens=8)
        contender.note("a short question, to its first token", alone.first)
        reading = asyncio.create_task(_answer(client, contender, _long(2 * number + 1)))
        await asyncio.sleep(0.1)  # it is being read
        together = await _answer(client, contender, [{"role": "user", "content": "月水"}], tokens=8)
        assert not reading.done()
        contender.note("a short question beside a long prompt", together.first)
        await reading


async def _answer(
    client: httpx.AsyncClient,
    contender: Contender,
    messages: list[dict[str, str]],
    tokens: int = TOKENS,
    begun: asyncio.Event | None = None,
) -> Timing:
    body = {**SETTINGS, "model": contender.model, "messages": messages, "max_tokens": tokens}
    began, first, reason, text = time.perf_counter(), 0.0, None, ""
    async with client.stream("POST", f"{contender.url}/chat/completions", json=body) as response:
        assert response.status_code == 200, await response.aread()
        async for line in response.aiter_lines():
            if line.startswith("data: {"):
                choice = json.loads(line.removeprefix("data: "))["choices"][0]
                reason = choice.get("finish_reason") or reason
                if new := choice["delta"].get("content"):
                    text += new
                    first = first or time.perf_counter() - began
                    if begun is not None:
                        begun.set()
    assert first, "no text came"
    assert reason == "length", f"the answer ended early: {reason}"
    return Timing(first, time.perf_counter() - began, text)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`base`, a Llama of 7 M weights that never ends an answer."""
    from safetensors.torch import load_file, save_file

    folder = tmp_path_factory.mktemp("chat")
    shape = {"vocab_size": 8192, "num_attention_heads": 8, "max_position_embeddings": 8192}
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
    engine = Engine(folder, manifest(template="FromModel", limits={"maxBatch": 32}))
    try:
        ready = _until(began, engine.root, "ready")
        yield Contender("workloads.engine", engine.url, "tiny", engine.pid, ready)
    finally:
        engine.close()


@contextmanager
def _transformers(folder: Path) -> Iterator[Contender]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began = time.perf_counter()
    command = [str(Path(sys.executable).with_name("transformers")), "serve", str(folder / "base"), "--port", str(port)]
    with (folder / "transformers.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--device", "cpu", "--dtype", "float32", *CONTINUOUS],
            env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
            stdout=log,
            stderr=log,
        )
    try:
        ready = _until(began, f"http://127.0.0.1:{port}", "ok")
        yield Contender("transformers serve", f"http://127.0.0.1:{port}/v1", str(folder / "base"), process.pid, ready)
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
    with _ours(folder) as ours, _transformers(folder) as theirs:
        contenders = [ours, theirs]
        for contender in contenders:  # what is compiled or allocated at the first request is not what is measured
            asyncio.run(_users(contender, 1))
        for count in USERS:
            for _ in range(REPEATS):  # in turns, so that a busy minute of the machine does not hit one of them alone
                for contender in contenders:
                    contender.measure(count)
        generated = _generated(folder)
    with capsys.disabled():
        print(f"\na chat, {TOKENS} tokens an answer, the likeliest; generate alone writes {generated:,.0f} tokens/s")
        head = "".join(f"{f'{count} user' + 's' * (count > 1):>21}" for count in USERS)
        print(f"{'tokens/s, by CPU second, ms to last first':<42}{head}{'s to ready':>12}")
        for each in contenders:
            cells = "".join(
                f"{each.per_second[count]:>8,.0f}{each.per_cpu_second[count]:>7,.0f}{1000 * each.first[count]:>6,.0f}"
                for count in USERS
            )
            print(f"{each.name:<42}{cells}{each.seconds_to_ready:>12.1f}")
        for what, speeds in (
            ("second", [each.per_second for each in contenders]),
            ("CPU second", [each.per_cpu_second for each in contenders]),
        ):
            mine, others = speeds
            ratios = ", ".join(f"{mine[count] / others[count]:.2f}" for count in USERS)
            print(f"the engine's tokens by {what} against transformers serve: {ratios} (aim 1 or more for each)")
            print(f"32 users get {mine[32] / mine[8]:.2f} times the tokens by {what} of 8 (aim 1 or more)")


@pytest.mark.drill
def test_a_crowd_of_mixed_lengths(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        _ours(folder) as ours,
        _transformers(folder) as theirs,
    ):
        contenders = [ours, theirs]
        for number in range(REPEATS):
            for contender in contenders:
                asyncio.run(_crowd(contender, number))
    with capsys.disabled():
        print(f"\na chat of mixed lengths, {LONG} tokens are long; milliseconds, the best of {REPEATS}")
        for what in ours.crowd:
            print(f"{what:<58}" + "".join(f"{1000 * each.crowd[what]:>9,.0f}" for each in contenders))
        for what, than, aim in (
            ("second turn", "first turn of a long conversation, to its first token", 0.1),
            ("seven short answers beside a long one that is written", "seven short answers", 1.5),
            ("a short question beside a long prompt", "a short question, to its first token", 1.5),
        ):
            figures = "".join(f"{each.crowd[what] / each.crowd[than]:>9.2f}" for each in contenders)
            print(f"{f'{what}, as a part':<58}{figures} (aim {aim})")
