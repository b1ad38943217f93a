"""Bounds on what was measured: which metrics there will be, and which bounds are broken."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from alpaca_operator.api.evaluation import EvaluationSpec, Gate
from workloads.errors import SpecError
from workloads.evaluation.metrics import OF_ANSWERS, OF_ROWS, names_of


@dataclass(frozen=True)
class Verdict:
    """A gate, and what was found."""

    gate: Gate
    value: float | None
    """None where the metric was not a number at all, or is missing."""

    @property
    def broken(self) -> str | None:
        """Which bound is broken, with its value; None for a gate that passes. A value at its bound passes, NaN and infinity never do."""
        gate, value = self.gate, self.value
        what = f"{gate.metric} of {gate.model}"
        if value is None or not math.isfinite(value):
            bounds = " and ".join(
                f"{name} {bound:g}" for name, bound in (("min", gate.min), ("max", gate.max)) if bound is not None
            )
            state = "missing" if value is None else "not a number" if math.isnan(value) else "infinite"
            return f"{what} is {state}, with a bound of {bounds}"
        if gate.min is not None and value < gate.min:
            return f"{what} is {_format_beside(value, gate.min)}, below min {gate.min:g}"
        if gate.max is not None and value > gate.max:
            return f"{what} is {_format_beside(value, gate.max)}, above max {gate.max:g}"
        return None


def _format_beside(value: float, bound: float) -> str:
    """Six digits, or all of them where six would make it look like its bound."""
    short = f"{value:.6g}"
    return repr(value) if short == f"{bound:.6g}" else short


def check(spec: EvaluationSpec, of_tasks: Collection[str] | None = None) -> None:
    """Refuse a gate on a metric that there will not be.

    ``of_tasks`` are the metrics of the tasks; None while they are not known, and then names with a `/` pass. Raises SpecError.
    """
    metrics = names_of(spec, of_tasks or ())
    for number, gate in enumerate(spec.gates):
        if gate.metric in metrics or (of_tasks is None and spec.tasks and "/" in gate.metric):
            continue
        needed = "dataset" if gate.metric in OF_ROWS else "prompts" if gate.metric in OF_ANSWERS else None
        if needed:
            raise SpecError(
                f"spec.gates[{number}].metric: {gate.metric} is measured on {needed}, which the spec does not have: add it"
            )
        close = difflib.get_close_matches(gate.metric, metrics, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise SpecError(
            f"spec.gates[{number}].metric: {gate.metric} will not be in the report: {hint}There will be {', '.join(metrics)}"
        )


def judge(gates: Sequence[Gate], metrics: Mapping[str, Mapping[str, float]]) -> list[Verdict]:
    """Every gate with its value; ``metrics`` by model, then by name."""
    return [Verdict(gate, metrics[gate.model].get(gate.metric)) for gate in gates]
