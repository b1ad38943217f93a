from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from workloads.serving.engine import attention

QUESTIONS = ["山", "第7问：赵先生喜欢什么？" * 6, "他喜欢水。", "0123", "云" * 50, "月", "松石" * 9, "hello"]
"""Of very different lengths."""


@pytest.fixture(scope="module")
def model(shelf: Path) -> Any:
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(shelf / "base", dtype=torch.float32).eval()
    attention.prepare(loaded)
    return loaded


@pytest.fixture(scope="module")
def prompts(shelf: Path) -> list[list[int]]:
    from workloads.data.tokenizer_io import load_tokenizer

    tokenizer = load_tokenizer(shelf / "base")
    return [[1, *tokenizer(question, add_special_tokens=False).input_ids] for question in QUESTIONS]
