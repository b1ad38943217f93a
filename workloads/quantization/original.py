"""The original of a quantization as it was measured, and the report on what was made of it: the beginning and the end of every format's
story."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from alpaca_operator.api.quantize import QuantizeJob
from workloads.evaluation.likeness import Likeness, Reference
from workloads.models.inspect import Base
from workloads.quantization import measure, report_files
from workloads.quantization.fidelity import ModelScores
from workloads.quantization.gguf.likeness import TokenLikeness
from workloads.quantization.gptq import QuantizedLayer
from workloads.quantization.prepare import Prepared
from workloads.quantization.report import Report
from workloads.runtime.runtime import Metrics, Runtime
from workloads.system.memory import Peak


@dataclass(frozen=True)
class Made:
    """What was made of an original."""

    scores: ModelScores
    fidelity: Likeness
    bytes_before: int
    bytes_after: int
    """Of the weights."""
    minutes: float
    """Of quantizing, without measuring."""
    layers: Sequence[QuantizedLayer] = ()
    tokens: TokenLikeness | None = None


@dataclass(frozen=True)
class Original:
    """It, and how well it foretells and answers."""

    job: QuantizeJob
    runtime: Runtime
    prepared: Prepared
    scores: ModelScores
    reference: Reference
    """Its head and its last hidden states."""
    peak: Peak

    @classmethod
    def measured(cls, job: QuantizeJob, runtime: Runtime, base: Base, prepared: Prepared, peak: Peak) -> Original:
        """Raises GateFailed for a model that is broken already."""
        reference = Reference(runtime.checkpoints.own / "reference")
        scores = measure.measure_original(job, runtime, base, prepared, reference)
        return cls(job, runtime, prepared, scores, reference, peak)

    def publish(self, made: Made, folder: Path, metrics: Metrics) -> None:
        """The report goes into ``folder``, beside what was made, and its figures into ``metrics``. Raises GateFailed where a gate is broken."""
        report = Report(
            job=self.job,
            inputs=self.runtime.inputs,
            rows=self.prepared.rows,
            before=self.scores,
            after=made.scores,
            fidelity=made.fidelity,
            bytes_before=made.bytes_before,
            bytes_after=made.bytes_after,
            minutes=made.minutes,
            peak_bytes=self.peak.resident(),
            peak_gpu_bytes=self.peak.gpu(),
            layers=made.layers,
            tokens=made.tokens,
        )
        metrics.update(report.metrics())
        report_files.publish(report, folder, self.runtime, metrics)
