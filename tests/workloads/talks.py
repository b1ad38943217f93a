"""Conversations, the rows that hold them and the examples that they become."""

from __future__ import annotations

from typing import Any

from alpaca_operator.api.conversations import SFTDataset
from workloads.data.chat_templates.template import Template
from workloads.data.conversations import Example, prepare
from workloads.data.report import Report
from workloads.data.rows import Row


def turns(*texts: str, system: str | None = None) -> list[dict[str, str]]:
    spoken = [{"role": ("user", "assistant")[index % 2], "content": text} for index, text in enumerate(texts)]
    return ([{"role": "system", "content": system}] if system else []) + spoken


def rows(*conversations: list[dict[str, str]]) -> list[Row]:
    return [
        Row("rows.jsonl", number, tuple(messages), "line") for number, messages in enumerate(conversations, start=1)
    ]


def dataset(**settings_: Any) -> SFTDataset:
    return SFTDataset.model_validate({"train": [{"uri": "rows"}], **settings_})


def examples(
    template: Template,
    *conversations: list[dict[str, str]],
    length: int = 2048,
    report: Report | None = None,
    **settings_: Any,
) -> list[Example]:
    return list(prepare(rows(*conversations), template, dataset(**settings_), length, report or Report()))


LONG = turns(*(f"{kind}{number}" * 5 for number in range(6) for kind in ("问", "答")), system="诗")
