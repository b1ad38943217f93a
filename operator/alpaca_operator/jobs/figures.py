"""Pure: the figures of a run, as numbers for programs and as words for kubectl."""

from __future__ import annotations

import math

from alpaca_operator.api.contract import Goodput, Progress, Termination
from alpaca_operator.api.status import GoodputStatus, ProgressStatus


def running(progress: Progress, at: str) -> ProgressStatus:
    """Of a pod that runs, as it told them at ``at``."""
    return ProgressStatus(
        step=progress.step,
        total_steps=progress.total_steps,
        percent=_percent(progress.step, progress.total_steps),
        epoch=progress.epoch,
        loss=progress.loss if progress.loss is not None and math.isfinite(progress.loss) else None,
        loss_display=_loss(progress.loss),
        learning_rate=progress.learning_rate,
        tokens_per_second=progress.tokens_per_second,
        eta_seconds=progress.eta_seconds,
        eta=None if progress.eta_seconds is None else duration(progress.eta_seconds),
        goodput=_goodput(progress.goodput),
        display=_display(progress.step, progress.total_steps),
        stage=progress.stage,
        updated_at=at,
    )


def resting(last: ProgressStatus | None) -> ProgressStatus | None:
    """Of a run without a pod: where it was remains of interest, when it will end nobody knows."""
    return last and last.model_copy(update={"eta": None, "eta_seconds": None})


def final(termination: Termination | None, last: ProgressStatus | None) -> ProgressStatus | None:
    """Of a run that ended well."""
    if termination is None or termination.step is None:
        return last and last.model_copy(update=OVER)
    progress = last or ProgressStatus()
    of_an_earlier_step = {} if progress.step == termination.step else {"epoch": None, "learning_rate": None}
    return progress.model_copy(
        update={
            **OVER,
            **of_an_earlier_step,
            "step": termination.step,
            "total_steps": termination.total_steps,
            "percent": _percent(termination.step, termination.total_steps),
            "display": _display(termination.step, termination.total_steps),
            "loss": progress.loss if termination.loss is None else termination.loss,
            "loss_display": progress.loss_display if termination.loss is None else _loss(termination.loss),
        }
    )


def metric(value: float) -> float:
    """Six figures: kubectl shows a number with all that it has, and artifact.json keeps the rest. A count stays whole."""
    return value if value.is_integer() else float(f"{value:.6g}")


def _goodput(told: Goodput | None) -> GoodputStatus | None:
    """Three figures: more would change with every look."""
    if told is None:
        return None
    return GoodputStatus(steps=round(told.steps, 3), time=None if told.time is None else round(told.time, 3))


OVER = {"eta": None, "eta_seconds": None, "stage": None}


def _percent(step: int | None, total: int | None) -> int | None:
    return None if step is None or not total else min(100, 100 * step // total)


def _display(step: int | None, total: int | None) -> str | None:
    """As kubectl shows it: `1200/5000 24%`."""
    if step is None:
        return None
    return f"{step}/{total} {_percent(step, total)}%" if total else str(step)


def _loss(loss: float | None) -> str | None:
    """Four figures: of a loss more are noise."""
    if loss is None:
        return None
    return f"{loss:.4g}" if math.isfinite(loss) else "NaN"


def duration(seconds: int) -> str:
    """`45s`, `12m`, `2h05m`, `3d04h`: two units at most, as kubectl does."""
    seconds = max(0, seconds)
    if seconds < 60:
        return f"{seconds}s"
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if hours < 1:
        return f"{minutes}m"
    if days < 1:
        return f"{hours}h{minutes % 60:02d}m"
    return f"{days}d{hours % 24:02d}h"
