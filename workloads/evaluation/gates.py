"""Bounds on what was measured: which metrics there will be, and which bounds are broken."""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from alpaca_operator.api.evaluation import EvaluationSpec, Gate
from workloads.errors import SpecError
from workloads.evaluation.gaps import Gap
from workloads.evaluation.intervals import Interval
from workloads.evaluation.metrics import OF_ANSWERS, OF_JUDGE, OF_ORIGINAL, OF_ROWS, format_value, names_of

NO_GAPS: Mapping[str, Sequence[Gap]] = {}
NEEDED = {"dataset": OF_ROWS, "original": OF_ORIGINAL, "prompts": OF_ANSWERS, "judge": OF_JUDGE}
"""Parts of the spec, and the metrics that there are with them alone."""


@dataclass(frozen=True)
class Verdict:
    """A gate, and what was found."""

    gate: Gate
    value: float | None
    """None where the metric was not a number at all, or is missing."""
    interval: Interval | None = None
    """Of the value, where there is one."""

    @property
    def broken(self) -> str | None:
        """Which bound is broken, with its value; None for a gate that passes. A value at its bound passes, NaN and infinity never do."""
        gate, value = self.gate, self.value
        what = self._what
        if value is None or not math.isfinite(value):
            state = "missing" if value is None else "not a number" if math.isnan(value) else "infinite"
            return f"{what} is {state}, with a bound of {self._bounds}"
        if gate.min is not None and value < gate.min:
            return f"{what} is {_format_beside(value, gate.min)}, below min {gate.min:g}"
        if gate.max is not None and value > gate.max:
            return f"{what} is {_format_beside(value, gate.max)}, above max {gate.max:g}"
        return None

    @property
    def undecided(self) -> str | None:
        """That too little was measured: somewhere in the interval of the value the gate would be judged otherwise. None where it is decided,
        or nothing is known of the value's spread."""
        gate, value, interval = self.gate, self.value, self.interval
        if value is None or interval is None or not math.isfinite(value):
            return None
        edges = interval.low, interval.high
        if all(self._keeps(edge) == self._keeps(value) for edge in edges):
            return None
        low, high = (format_value(gate.metric, edge) for edge in edges)
        verb = "does" if interval.count == 1 else "do"
        unit = interval.unit.removesuffix("s") if interval.count == 1 else interval.unit
        return (
            f"{interval.count} {unit} {verb} not decide {self._what}: it is {format_value(gate.metric, value)} on them, and of all it may be "
            f"{low} to {high} (95 %), {self._bounds} among it: measure more"
        )

    @property
    def _what(self) -> str:
        return f"{self.gate.metric} of {self.gate.model}"

    @property
    def _bounds(self) -> str:
        given = (("min", self.gate.min), ("max", self.gate.max))
        return " and ".join(f"{name} {bound:g}" for name, bound in given if bound is not None)

    def _keeps(self, value: float) -> bool:
        gate = self.gate
        return (gate.min is None or value >= gate.min) and (gate.max is None or value <= gate.max)


def _format_beside(value: float, bound: float) -> str:
    """Six digits, or all of them where six would make it look like its bound."""
    short = f"{value:.6g}"
    return repr(value) if short == f"{bound:.6g}" else short


def check(
    spec: EvaluationSpec,
    of_tasks: Collection[str] | None = None,
    gaps: Mapping[str, Sequence[Gap]] = NO_GAPS,
) -> None:
    """Refuse a gate on a metric that there will not be.

    ``of_tasks`` are the metrics of the tasks; None while they are not known, and then names with a `/` pass. ``gaps``: by model, what is not
    measured of it. Raises SpecError.
    """
    metrics = names_of(spec, of_tasks or ())
    for number, gate in enumerate(spec.gates):
        why = next((gap.why for gap in gaps.get(gate.model, ()) if gate.metric in gap.metrics), None)
        if why is not None:
            raise SpecError(
                f"spec.gates[{number}].metric: {gate.metric} of {gate.model} will not be in the report: {why}; remove the gate"
            )
        if gate.metric in metrics or (of_tasks is None and spec.tasks and "/" in gate.metric):
            continue
        needed = next((part for part, names in NEEDED.items() if gate.metric in names), None)
        if needed:
            raise SpecError(
                f"spec.gates[{number}].metric: {gate.metric} is measured on {needed}, which the spec does not have: add it"
            )
        close = difflib.get_close_matches(gate.metric, metrics, n=1)
        hint = f"did you mean {close[0]}? " if close else ""
        raise SpecError(
            f"spec.gates[{number}].metric: {gate.metric} will not be in the report: {hint}There will be {', '.join(metrics)}"
        )


def judge(
    gates: Sequence[Gate],
    metrics: Mapping[str, Mapping[str, float]],
    intervals: Mapping[str, Mapping[str, Interval]],
) -> list[Verdict]:
    """Every gate with its value and that value's interval; ``metrics`` and ``intervals`` by model, then by name."""
    return [
        Verdict(gate, metrics[gate.model].get(gate.metric), intervals[gate.model].get(gate.metric)) for gate in gates
    ]
