"""What a quantization cost, in figures, and whether it keeps its gates."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from alpaca_operator.api.quantize import QuantizeJob
from workloads.evaluation.intervals import Interval
from workloads.evaluation.likeness import Likeness
from workloads.quantization.calibration import CalibrationRows
from workloads.quantization.fidelity import ModelScores
from workloads.quantization.gguf.likeness import TokenLikeness
from workloads.quantization.gptq import QuantizedLayer
from workloads.storage.sources import Inputs
from workloads.system.describe import some


@dataclass(frozen=True)
class Report:
    """The figures of one QuantizeJob."""

    job: QuantizeJob
    inputs: Inputs
    rows: CalibrationRows
    before: ModelScores
    after: ModelScores
    fidelity: Likeness
    bytes_before: int
    bytes_after: int
    """Of the weights."""
    minutes: float
    """Of quantizing, without measuring."""
    peak_bytes: int
    peak_gpu_bytes: int | None
    layers: Sequence[QuantizedLayer] = ()
    """Of a GPTQ model."""
    tokens: TokenLikeness | None = None
    """Of a GGUF file."""

    @property
    def title(self) -> str:
        """What it has become, in short."""
        spec = self.job.spec
        return {"GPTQ": f"{spec.bits} bits", "GGUF": f"GGUF {spec.gguf.type}", "FP8": "FP8"}[spec.format]

    @property
    def made(self) -> str:
        """What was done, in words."""
        return {"GPTQ": "quantized by GPTQ", "GGUF": "written as GGUF", "FP8": "written in FP8"}[self.job.spec.format]

    @property
    def tags(self) -> list[str]:
        """For the card."""
        spec = self.job.spec
        tags = {
            "GPTQ": ["gptq", f"{spec.bits}-bit"],
            "GGUF": ["gguf", "llama-cpp", "ollama"],
            "FP8": ["fp8", "compressed-tensors", "vllm"],
        }
        return tags[spec.format]

    @property
    def order(self) -> str:
        """In which order the columns of a layer are quantized."""
        spec = self.job.spec
        if spec.desc_act:
            return "by activation (descAct)"
        return "by activation within groups (actGroupAware)" if spec.orders_in_groups else "as they lie"

    @property
    def increase(self) -> float:
        """Of perplexity, as a share."""
        return self.after.score.perplexity / self.before.score.perplexity - 1

    @cached_property
    def broken(self) -> list[str]:
        """The gates that the result does not keep, each with value and bound. A value at its bound passes, what is no number never does."""
        told = (self._perplexity_gate(), self._stop_rate_gate(), self._agreement_gate(), self._divergence_gate())
        found = [message for message in told if message is not None]
        return [*found, *(self.tokens.broken(self.job.spec.gguf.min_equal_rows) if self.tokens else [])]

    def _perplexity_gate(self) -> str | None:
        before, after = self.before.score.perplexity, self.after.score.perplexity
        if not math.isfinite(after):
            return f"perplexity after quantization is {after} (before: {before:.4f})"
        allowed = self.job.spec.max_perplexity_increase
        if allowed is None:
            return None
        most = before * (1 + allowed)
        # Rounding of our own is no loss of the model's.
        if after <= most or math.isclose(after, most, rel_tol=1e-9):
            return None
        return (
            f"perplexity rose by {self.increase:.2%}, from {before:.4f} to {after:.4f}, and maxPerplexityIncrease {allowed:g} allows "
            f"{allowed:.2%}"
        )

    def _stop_rate_gate(self) -> str | None:
        least, rate = self.job.spec.min_stop_rate, self.after.stop_rate
        if least is None or (rate is not None and rate >= least):
            return None
        ended = (
            "no question was short enough to be asked"
            if rate is None
            else f"{percent(rate)} of the answers ended by themselves"
        )
        return f"{ended} (before: {percent(self.before.stop_rate)}), and minStopRate {least:g} asks for {least:.1%}"

    def _agreement_gate(self) -> str | None:
        least, found = self.job.spec.min_token_agreement, self.fidelity.agreement
        if least is None or found >= least:
            return None
        return f"the likeliest token is the original's at {found:.2%} of the positions, and minTokenAgreement {least:g} asks for {least:.2%}"

    def _divergence_gate(self) -> str | None:
        most, found = self.job.spec.max_mean_divergence, self.fidelity.divergence
        if most is None or found <= most:
            return None
        return (
            f"the mean divergence from the original is {found:.6g} nats a token, and maxMeanDivergence allows {most:g}"
        )

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Where the figures of all such rows and answers lie with 95 % confidence, by the names of `metrics`."""
        before = self.before.intervals()
        found = {
            f"{name}Before": before[name] for name in ("perplexity", "tokenAccuracy", "stopRate") if name in before
        }
        return found | self.after.intervals() | self.fidelity.intervals()

    @property
    def undecided(self) -> list[str]:
        """What the gates say of too little that was measured: within the interval they would be judged otherwise."""
        spec = self.job.spec
        least = {
            "minStopRate": ("stopRate", spec.min_stop_rate),
            "minTokenAgreement": ("tokenAgreement", spec.min_token_agreement),
        }
        most = {
            "maxPerplexityIncrease": ("perplexityIncrease", spec.max_perplexity_increase),
            "maxMeanDivergence": ("meanDivergence", spec.max_mean_divergence),
        }
        found = []
        for field, (name, bound) in (least | most).items():
            interval = self.intervals.get(name)
            if bound is None or interval is None:
                continue
            passes = [edge >= bound if field in least else edge <= bound for edge in (interval.low, interval.high)]
            if passes[0] != passes[1]:
                found.append(
                    f"{interval.count} {interval.unit} do not decide {field} {bound:g}: of all, {name} may be {figure(name, interval.low)} to "
                    f"{figure(name, interval.high)} (95 %): measure more"
                )
        return found

    def metrics(self) -> dict[str, float | None]:
        """For the status and artifact.json; None for what is no number."""
        found = {
            "perplexityBefore": self.before.score.perplexity,
            "perplexity": self.after.score.perplexity,
            "perplexityIncrease": self.increase,
            "evalLoss": self.after.score.loss,
            "tokenAccuracyBefore": self.before.score.accuracy,
            "tokenAccuracy": self.after.score.accuracy,
            "tokenAgreement": self.fidelity.agreement,
            "meanDivergence": self.fidelity.divergence,
            "stopRateBefore": self.before.stop_rate,
            "stopRate": self.after.stop_rate,
            "bytesBefore": float(self.bytes_before),
            "bytesAfter": float(self.bytes_after),
            "equalRows": self.tokens.share if self.tokens else None,
            "calibrationRows": float(len(self.rows.calibration)),
            "calibrationTokens": float(self.rows.tokens),
            "quantizeMinutes": round(self.minutes, 3),
            "peakMemoryBytes": float(self.peak_bytes),
        }
        return {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in found.items()
            if value is not None
        }

    def as_dict(self) -> dict[str, Any]:
        """The content of report.json. What is no number is null there, and named in ``broken``."""
        spec = self.job.spec
        return {
            "job": self.job.metadata.name,
            "model": {"uri": spec.model.uri, "digest": self.inputs["model"].digest},
            "format": spec.format,
            **{"GPTQ": self._gptq, "GGUF": self._gguf, "FP8": dict}[spec.format](),
            "calibration": {
                "digest": self.rows.digest,
                "rows": len(self.rows.calibration),
                "tokens": self.rows.tokens,
                "dropped": dict(self.rows.dropped),
                "reports": {part: self._named(report.as_dict()) for part, report in self.rows.reports.items()},
            },
            "evaluation": {
                "rows": len(self.rows.evaluation),
                "tokens": self.before.score.tokens,
                "answers": self.after.answers,
            },
            "metrics": self.metrics(),
            "intervals": {
                name: [found.low, found.high]
                for name, found in self.intervals.items()
                if math.isfinite(found.low) and math.isfinite(found.high)
            },
            "peakGpuBytes": self.peak_gpu_bytes,
            "layers": [
                {"block": layer.block, "name": layer.name, "error": layer.error, "damping": layer.damping}
                for layer in self.layers
            ],
            "gates": {
                "maxPerplexityIncrease": spec.max_perplexity_increase,
                "minStopRate": spec.min_stop_rate,
                "minTokenAgreement": spec.min_token_agreement,
                "maxMeanDivergence": spec.max_mean_divergence,
            },
            "broken": self.broken,
            "undecided": self.undecided,
        }

    def _gptq(self) -> dict[str, Any]:
        spec = self.job.spec
        return {
            "bits": spec.bits,
            "groupSize": spec.group_size,
            "sym": spec.sym,
            "order": self.order,
            "descAct": spec.desc_act,
            "actGroupAware": spec.orders_in_groups,
            "dampPercent": spec.damp_percent,
        }

    def _gguf(self) -> dict[str, Any]:
        assert self.tokens is not None, "a GGUF file was not compared"
        return {
            "type": self.job.spec.gguf.type,
            "tokens": {
                "texts": self.tokens.texts,
                "equal": self.tokens.equal,
                "firstDifference": self.tokens.first_difference,
            },
        }

    def _named(self, reading: dict[str, Any]) -> dict[str, Any]:
        """Files as the job names them, not by where they lay here."""
        files = list(reading["files"])
        for found in self.inputs.values():
            files = [line.replace(str(found.path), found.uri) for line in files]
        return reading | {"files": files}


def warnings(layers: Sequence[QuantizedLayer], damping: float) -> list[str]:
    """What the user should know of single layers; ``damping`` is what the spec asked for."""
    guessed = [f"{layer.block}.{layer.name}" for layer in layers if layer.error is None]
    damped = [
        f"{layer.block}.{layer.name} ({layer.damping:.2f})"
        for layer in layers
        if layer.error is not None and layer.damping > damping + 1e-6
    ]
    lines = []
    if guessed:
        lines.append(
            f"warning: {_layers(guessed)} {'was' if len(guessed) == 1 else 'were'} rounded without weighing, as the rows gave too little to weigh by ({some(guessed, 4)}): give "
            "more or longer rows"
        )
    if damped:
        lines.append(f"{_layers(damped)} needed more damping than dampPercent ({some(damped, 4)})")
    return lines


def _layers(names: Sequence[str]) -> str:
    return f"{len(names)} layer{'' if len(names) == 1 else 's'}"


AS_SHARE = {
    "perplexityIncrease",
    "stopRate",
    "stopRateBefore",
    "tokenAgreement",
    "tokenAccuracy",
    "tokenAccuracyBefore",
}


def figure(name: str, value: float) -> str:
    """A metric as people read it."""
    return percent(value) if name in AS_SHARE else f"{value:.4g}"


def percent(value: float | None) -> str:
    return "–" if value is None else f"{value:.1%}"
