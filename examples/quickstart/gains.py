"""What a chain has gained, told from the artifacts that it left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from alpaca_operator.api.contract import Artifact
from workloads import lineage


def lines(folder: Path) -> Iterator[str]:
    """A line each for what a token holds, and for how well held-out text is foretold, before and after."""
    vocabulary, stage_1, stage_2 = (_metrics(folder / name) for name in ("vocabulary", "stage-1", "stage-2"))
    before, after = vocabulary["charactersPerTokenBase"], vocabulary["charactersPerToken"]
    yield f"characters per token         {before:>9.2f} → {after:.2f}   the same text in {after / before:.1f} times fewer tokens"
    yield f"perplexity of held-out text  {stage_1['perplexityBefore']:>9,.0f} → {stage_2['perplexity']:,.0f}"
    yield f"bits per byte of it          {stage_1['bitsPerByteBefore']:>9.2f} → {stage_2['bitsPerByte']:.2f}"


def _metrics(folder: Path) -> dict[str, float]:
    artifact: Artifact = lineage.read(folder)
    return {name: value for name, value in artifact.metrics.items() if value is not None}
