"""What of a report a model cannot have, and why: told to whoever reads it, and to a gate that would bind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from workloads.evaluation.metrics import OF_JUDGE, OF_MODELS, OF_ORIGINAL, OF_REFERENCES, OF_ROWS


@dataclass(frozen=True)
class Gap:
    """Metrics that are not measured of a model."""

    metrics: tuple[str, ...]
    why: str
    why_zh: str
    is_told: bool = False
    """In the report: where a reader would look for them."""


def of_endpoint(of_tasks: Sequence[str]) -> Gap:
    """What an API that writes answers cannot be asked."""
    return Gap(
        (*OF_ROWS, *OF_ORIGINAL, *of_tasks, *OF_MODELS),
        "an endpoint tells no probabilities of a given text, and nothing of its memory",
        "接口不给出指定文本的概率，也不说明占用的内存",
        is_told=True,
    )


OTHER_TOKENS = Gap(
    OF_ORIGINAL,
    "it reads the rows in other tokens than the original, so that positions cannot be compared",
    "它把数据切成与原模型不同的词元，无法逐位置比较",
    is_told=True,
)
ITSELF = Gap(OF_ORIGINAL, "it is the original", "它就是原模型")
BASELINE = Gap(OF_JUDGE, "it is what the others are compared with", "它是其他模型的比较对象")
NO_REFERENCES = Gap(
    OF_REFERENCES, "no question has a reference to hold answers against", "没有一道题带有可供对照的参考答案"
)
