"""The losses of a run by step: as numbers, as a picture, and drawn in characters."""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Curves:
    """Losses by step."""

    train: list[tuple[int, float]]
    validation: list[tuple[int, float]]

    def write(self, path: Path) -> None:
        """As CSV with the columns step, loss and evalLoss."""
        by_step: dict[int, list[float | str]] = {}
        for at, points in enumerate((self.train, self.validation)):
            for step, loss in points:
                by_step.setdefault(step, ["", ""])[at] = loss
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["step", "loss", "evalLoss"])
            writer.writerows([step, *losses] for step, losses in sorted(by_step.items()))

    @classmethod
    def read(cls, path: Path) -> Curves:
        """What `write` wrote."""
        with path.open(encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        return cls(
            train=[(int(row["step"]), float(row["loss"])) for row in rows if row["loss"]],
            validation=[(int(row["step"]), float(row["evalLoss"])) for row in rows if row["evalLoss"]],
        )

    @classmethod
    def of(cls, log_history: Sequence[Mapping[str, Any]]) -> Curves:
        """From the history that the Trainer keeps in its state."""
        return cls(
            train=[(entry["step"], entry["loss"]) for entry in log_history if "loss" in entry],
            validation=[(entry["step"], entry["eval_loss"]) for entry in log_history if "eval_loss" in entry],
        )


def picture(curves: Curves, path: Path) -> None:
    """Training and validation loss over the steps, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4), dpi=110)
    axes.plot(*zip(*curves.train, strict=True), color="#b0c4de", linewidth=1, label="training loss")
    if len(curves.train) >= 10:
        axes.plot(*zip(*_smooth(curves.train), strict=True), color="#1f4e8c", linewidth=1.8, label="smoothed")
    if curves.validation:
        axes.plot(*zip(*curves.validation, strict=True), "o-", color="#c0392b", markersize=4, label="validation loss")
    axes.set_xlabel("step")
    axes.set_ylabel("nats per token")
    axes.grid(alpha=0.3)
    axes.legend()
    figure.tight_layout()
    # Without the software's version in it, the same curve is the same file.
    figure.savefig(path, metadata={"Software": None})
    pyplot.close(figure)


def chart(curves: Curves, width: int = 64, height: int = 10) -> str:
    """The training loss (`█`) over the steps in characters, validation loss as `o`, for terminals without pictures."""
    points = curves.train
    if not points:
        return ""
    first, last = points[0][0], max(step for step, _ in (*points, *curves.validation))

    def column(step: int) -> int:
        return min(width - 1, (step - first) * width // max(1, last - first + 1))

    groups: dict[int, list[float]] = {}
    for step, loss in points:
        groups.setdefault(column(step), []).append(loss)
    means = {at: sum(losses) / len(losses) for at, losses in groups.items()}
    low = min([*means.values(), *(loss for _, loss in curves.validation)])
    high = max([*means.values(), *(loss for _, loss in curves.validation)])

    def row(loss: float) -> int:
        return round((high - loss) / ((high - low) or 1.0) * (height - 1))

    canvas = [[" "] * width for _ in range(height)]
    level = next(iter(means.values()))
    for at in range(width):
        level = means.get(at, level)
        canvas[row(level)][at] = "█"
    for step, loss in curves.validation:
        canvas[row(loss)][column(step)] = "o"
    labels = {0: f"{high:.2f}", height - 1: f"{low:.2f}"}
    lines = [f"{labels.get(number, ''):>7} ┤{''.join(cells).rstrip()}" for number, cells in enumerate(canvas)]
    legend = "█ training loss" + (", o validation loss" if curves.validation else "")
    return "\n".join(
        [*lines, f"{'':7} └{'─' * width}", f"{'':9}{f'step {first}':<{width - 8}}{f'{last}':>8}", f"{'':9}{legend}"]
    )


def _smooth(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """A running mean over a twentieth of the curve."""
    half = max(1, len(points) // 40)
    return [
        (step, sum(loss for _, loss in window) / len(window))
        for number, (step, _) in enumerate(points)
        for window in [points[max(0, number - half) : number + half + 1]]
    ]
