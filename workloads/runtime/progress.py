"""How far a run is: a bar on a terminal, JSON lines elsewhere. `metrics_server.py` tells it over HTTP."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, TextIO

from alpaca_operator.api import contract
from workloads.system.clock import now

UNSIZED = (100, 24)
"""Columns and rows of a pseudo-terminal that has no size: tqdm would show nothing on it."""

SPEED_WINDOW = 20
"""Steps over which the speed is averaged for the time that is left."""

FIELDS = frozenset(contract.Progress.model_fields)


class Display(Protocol):
    """Where the user reads along."""

    def progress(self, progress: contract.Progress, *, logged: bool) -> None:
        """Fields changed; ``logged`` marks the steps whose numbers the user asked to see (`training.logSteps`)."""

    def log(self, message: str) -> None:
        """A line: a decision, a count, a warning."""

    def close(self) -> None:
        """The run is over."""


class ProgressTracker:
    """The state of a run, as it is told to the user, the operator and the watchdog."""

    def __init__(self, display: Display, heartbeat: Callable[[], None] = lambda: None) -> None:
        self._display: Display | None = display
        self._heartbeat = heartbeat
        self._lock = threading.RLock()
        self._recent: deque[tuple[float, int]] = deque(maxlen=SPEED_WINDOW)
        self.current = contract.Progress()

    def update(self, *, log: bool = False, **fields: Any) -> None:
        """Set fields of ``contract.Progress``, by their Python names; ``log`` writes them out as one JSON line.

        The time that is left is computed from the last steps where ``eta_seconds`` is not given.
        """
        unknown = fields.keys() - FIELDS
        if unknown:
            raise TypeError(f"contract.Progress has no field {', '.join(sorted(unknown))}")
        self._heartbeat()
        with self._lock:
            values = {name: getattr(self.current, name) for name in contract.Progress.model_fields} | fields
            if "step" in fields and "eta_seconds" not in fields:
                values["eta_seconds"] = self._eta(values["step"], values["total_steps"])
            self.current = contract.Progress.model_validate(values)
            self._show(lambda display: display.progress(self.current, logged=log))

    def log(self, message: str) -> None:
        """Tell the user something in one line."""
        self._heartbeat()
        with self._lock:
            self._show(lambda display: display.log(message))

    def finish(self, message: str) -> None:
        """The last line of a run that ended well, below the bar."""
        with self._lock:
            self._show(lambda display: display.close())
            self._show(lambda display: display.log(message))

    def heartbeat(self) -> None:
        """Tell the watchdog that work goes on."""
        self._heartbeat()

    def close(self) -> None:
        with self._lock:
            self._show(lambda display: display.close())

    def _show(self, what: Callable[[Display], None]) -> None:
        """Whoever read along may be gone (a closed pipe, a lost terminal): the training is worth more than its log."""
        try:
            if self._display is not None:
                what(self._display)
        except OSError:
            self._display = None

    def _eta(self, step: int | None, total: int | None) -> int | None:
        if step is None or total is None:
            return None
        if self._recent and step < self._recent[-1][1]:
            self._recent.clear()
        self._recent.append((time.monotonic(), step))
        (first_time, first_step), (last_time, last_step) = self._recent[0], self._recent[-1]
        if last_step == first_step:
            return None
        return max(0, round((total - step) * (last_time - first_time) / (last_step - first_step)))


class JsonLines:
    """One JSON object a line: for pods, pipes and whoever parses them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._stage: str | None = None

    def progress(self, progress: contract.Progress, *, logged: bool) -> None:
        if logged:
            # pydantic writes null for a loss that is no number; json.dumps would write NaN, which is not JSON.
            fields = json.loads(
                progress.model_dump_json(by_alias=True, exclude_none=True, exclude={"resolved_policy", "checkpoint"})
            )
            self._write(fields)
        elif progress.stage != self._stage and not (progress.stage == "Training" and progress.step):
            self._write({"stage": progress.stage})  # going back to training after a save is no news
        self._stage = progress.stage

    def log(self, message: str) -> None:
        self._write({"message": message})

    def close(self) -> None:
        pass

    def _write(self, fields: dict[str, Any]) -> None:
        print(json.dumps({"time": now(), **fields}, ensure_ascii=False), file=self._out, flush=True)


class Bar:
    """A progress bar for people, with step, loss, tokens/s and the time that is left."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._bar: Any = None
        self._stage: str | None = None

    def progress(self, progress: contract.Progress, *, logged: bool) -> None:
        if progress.stage != self._stage:
            self._stage = progress.stage
            if progress.stage != "Training" and self._bar is None:
                self.log(f"{progress.stage} …")
        if progress.step is None or progress.total_steps is None:
            return
        if self._bar is None:
            from tqdm import tqdm

            sized = os.get_terminal_size(self._out.fileno()).columns > 0
            self._bar = tqdm(
                total=progress.total_steps,
                initial=progress.step,
                unit="step",
                disable=False,  # the bars of libraries are off by an environment variable
                file=self._out,
                dynamic_ncols=sized,
                ncols=None if sized else UNSIZED[0],
                nrows=None if sized else UNSIZED[1],
            )
        self._bar.set_description_str(progress.stage, refresh=False)
        postfix = {
            "loss": f"{progress.loss:.4f}" if progress.loss is not None else None,
            "tokens/s": f"{progress.tokens_per_second:,.0f}" if progress.tokens_per_second is not None else None,
            "evalLoss": f"{progress.eval_loss:.4f}" if progress.eval_loss is not None else None,
        }
        self._bar.set_postfix_str(", ".join(f"{name}={text}" for name, text in postfix.items() if text), refresh=False)
        self._bar.total = progress.total_steps
        if progress.step == self._bar.n:
            self._bar.refresh()
        else:
            self._bar.update(progress.step - self._bar.n)

    def log(self, message: str) -> None:
        if self._bar is not None:
            self._bar.write(message, file=self._out)
        else:
            print(message, file=self._out, flush=True)

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None
