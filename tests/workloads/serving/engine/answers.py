"""Answers of a scheduler, and what plain `generate` says instead."""

from __future__ import annotations

import threading
from typing import Any

import torch

from workloads.models.sampling import Controls
from workloads.serving.engine.answer import Answer
from workloads.serving.engine.scheduler import Scheduler
from workloads.serving.engine.text import Writer

LONGEST = 40
CONTROLS = {
    "the likeliest token": {"temperature": 0.0},
    "repetition penalty": {"temperature": 0.0, "repetition_penalty": 1.3},
    "temperature": {"temperature": 0.7},
    "top_k": {"temperature": 1.0, "top_k": 5},
    "top_p": {"temperature": 1.3, "top_p": 0.8},
    "all of them": {"temperature": 0.8, "top_k": 20, "top_p": 0.9, "repetition_penalty": 1.1},
}


class Letters:
    """Pieces that name the token."""

    def of(self, number: int) -> bytes:
        return f"{number} ".encode()


def started(model: Any, **options: Any) -> Scheduler:
    made = Scheduler(model, **{"max_batch": 16, "max_queue": 64, "positions": 10**6, **options})
    made.start()
    return made


def answer(
    prompt: list[int], timeout: float = 600, ends: frozenset[int] = frozenset(), stop: str = "", **controls: Any
) -> Answer:
    settings = {
        "temperature": 0.0,
        "top_p": 1.0,
        "top_k": 0,
        "repetition_penalty": 1.0,
        "max_tokens": LONGEST,
        **controls,
    }
    writer = Writer(Letters(), stops=[stop])  # type: ignore[arg-type]
    return Answer(list(prompt), Controls(**settings), writer, ends, timeout)


async def ids(scheduler: Scheduler, asked: Answer) -> list[int]:
    return [int(number) for number in (await scheduler.submit(asked).whole()).split()]


def generated(model: Any, prompt: list[int], seed: int, **controls: Any) -> list[int]:
    """What plain `generate` writes."""
    torch.manual_seed(seed)
    draws = {key: controls[key] for key in ("temperature", "top_k", "top_p") if key in controls}
    with torch.inference_mode():
        out = model.generate(
            torch.tensor([prompt]),
            attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
            max_new_tokens=LONGEST,
            eos_token_id=None,
            pad_token_id=0,
            repetition_penalty=controls.get("repetition_penalty", 1.0),
            **({"do_sample": True, "top_k": 0} | draws if draws.get("temperature") else {"do_sample": False}),
        )
    return out[0, len(prompt) :].tolist()


class Held:
    """A model whose steps wait until they are let go."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.device, self.dtype = model.device, model.dtype
        self.gate = threading.Event()
        self.begun = threading.Event()
        self.steps = 0
        self.sizes: list[int] = []
        """Tokens of each step."""

    def __call__(self, **inputs: Any) -> Any:
        self.gate.wait(60)
        self.begun.set()
        self.steps += 1
        self.sizes.append(inputs["input_ids"].numel())
        return self._model(**inputs)
