"""From files with conversations to token sequences on disk: read, filter, encode, split, pack, cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets

from alpaca_operator.api.sft import SFTSpec
from workloads.templates import Template


@dataclass(frozen=True)
class Prepared:
    """What a job trains on: memory-mapped, with the columns input_ids, labels (-100 where no loss is taken) and seq_lengths."""

    train: datasets.Dataset
    validation: datasets.Dataset | None
    report: dict[str, Any]


def datasets_for(
    spec: SFTSpec,
    inputs: Mapping[str, Any],
    template: Template,
    cache: Path,
    seed: int,
    *,
    say: Callable[[str], None] = print,
    beat: Callable[[], None] = lambda: None,
) -> Prepared:
    """Tokenised and packed sequences of ``spec.dataset``, made once and kept in ``cache``."""
    raise NotImplementedError
