"""Imported once by the fork server, so that a run in a process of its own starts in no time instead of ten seconds."""

from __future__ import annotations

from alpaca_operator.api.sft import SFTSpec
from workloads import model

model.hide_unused(
    SFTSpec.model_validate(
        {"model": {"uri": "x"}, "dataset": {"train": [{"uri": "x"}]}, "output": {"uri": "x"}},
    )
)

from workloads import (  # noqa: E402, F401
    card,
    cli,
    curves,
    data,
    merge,
    runtime,
    sft,
    templates,
    tokenizer_files,
    training,
    zero,
)
