"""What became of the rows of a data set, counted: for the log, the artifact and the model card."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from workloads.data.rows import Reading

FILES_LISTED = 20
"""Names of files in the log; of a set with more, their number is told."""


@dataclass
class Report(Reading):
    """What became of the rows, in numbers that add up."""

    dropped: Counter[str] = field(default_factory=Counter)
    """Conversations left out, by reason."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Turns left out of conversations that stayed, by reason."""
    split: int = 0
    """Conversations cut into several examples."""
    truncated: int = 0
    """Conversations that lost their oldest turns."""
    examples: int = 0
    tokens: int = 0
    trained_tokens: int = 0
    sequences: int = 0
    """What the training steps are counted in."""
    sequence_length: int = 0
    packed: bool = False

    @property
    def masked_share(self) -> float:
        """Share of the tokens that no loss is taken of."""
        return 1 - self.trained_tokens / self.tokens if self.tokens else 0.0

    def as_dict(self) -> dict[str, Any]:
        """For the artifact and the model card."""
        return {
            "files": self.files,
            "read": self.read,
            "repaired": dict(self.repaired),
            "badRows": dict(self.bad.counted),
            "dropped": dict(self.dropped),
            "leftOut": dict(self.left_out),
            "split": self.split,
            "truncated": self.truncated,
            "examples": self.examples,
            "tokens": self.tokens,
            "trainedTokens": self.trained_tokens,
            "maskedShare": round(self.masked_share, 4),
            "sequences": self.sequences,
            "sequenceLength": self.sequence_length,
            "packed": self.packed,
        }

    def lines(self) -> list[str]:
        """For the log, one fact a line."""
        length = self.sequence_length
        lines = self.files[:FILES_LISTED]
        if len(self.files) > FILES_LISTED:
            lines.append(f"and {len(self.files) - FILES_LISTED:,} files more")
        lines += self.not_read
        lines.append(f"{self.read:,} conversations read")
        lines += self.bad.lines()
        lines += [f"repaired: {count:,} {what}" for what, count in sorted(self.repaired.items())]
        lines += [
            f"dropped: {count:,} {plural(count, 'conversation')} {why}" for why, count in sorted(self.dropped.items())
        ]
        lines += [f"left out: {count:,} {plural(count, 'turn')} {why}" for why, count in sorted(self.left_out.items())]
        if self.split:
            lines.append(
                f"split: {self.split:,} {plural(self.split, 'conversation')} longer than {length} tokens, between turns"
            )
        if self.truncated:
            lines.append(
                f"truncated: {self.truncated:,} {plural(self.truncated, 'conversation')} longer than {length} tokens lost the oldest turns"
            )
        lines.append(f"{self.examples:,} examples, {self.tokens:,} tokens, {self.masked_share:.1%} of them masked")
        if self.packed and self.sequences:
            lines.append(
                f"packed into {self.sequences:,} sequences of at most {length} tokens ({self.tokens / self.sequences / length:.0%} full): "
                f"{self.examples / self.sequences:.1f} times fewer steps an epoch than with packing off"
            )
        return lines


def plural(count: int, noun: str) -> str:
    return noun if count == 1 else noun + "s"
