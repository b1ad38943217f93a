"""A model measured on the evaluation rows: the original and the quantized one in the same way."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api.generation import Decoding
from alpaca_operator.api.quantize import QuantizeJob, QuantizeSpec
from alpaca_operator.api.sources import RopeScaling
from workloads.errors import GateFailed
from workloads.quantization.prepare import Prepared
from workloads.runtime.runtime import Runtime

if TYPE_CHECKING:
    from workloads.evaluation.likeness import Likeness, Reference
    from workloads.evaluation.perplexity import Score
    from workloads.models.inspect import Base
    from workloads.quantization.fidelity import ModelScores


def measure_original(
    job: QuantizeJob, runtime: Runtime, base: Base, prepared: Prepared, reference: Reference
) -> ModelScores:
    """The original where it lies, not what stands for it while it is quantized. Its head and its last hidden states go to ``reference``. Raises GateFailed for a model that is broken already."""
    runtime.progress.update(stage="Evaluating")
    before, _ = measure(job.spec, runtime, prepared, base.folder, reference.record, job.spec.model.rope_scaling)
    runtime.progress.log(f"before: {before}")
    if not math.isfinite(before.score.perplexity):
        raise GateFailed(
            f"perplexity before quantization is {before.score.perplexity}: the model gives no numbers on the measured rows; name "
            "one that was not saved broken, in a type that holds its values"
        )
    return before


def measure(
    spec: QuantizeSpec,
    runtime: Runtime,
    prepared: Prepared,
    folder: Path,
    score: Callable[..., tuple[Score, Likeness | None]],
    rope_scaling: RopeScaling | None = None,
) -> tuple[ModelScores, Any]:
    """How the model in ``folder``, with ``rope_scaling`` on it, foretells and answers, and what ``score`` finds besides."""
    from workloads.evaluation import generation
    from workloads.models import inference, libraries, model_request
    from workloads.quantization import fidelity

    rows, heartbeat = prepared.rows.evaluation, runtime.progress.heartbeat
    with libraries.silenced(), libraries.without_compiling():
        loaded = inference.load(
            model_request.ModelRequest("model", str(spec.model.uri), folder, rope_scaling=rope_scaling)
        )
        found, likeness = score(loaded.model, rows, prepared.tokenizer.pad_token_id, heartbeat)
        asked = fidelity.questions(rows, spec.evaluation.answers, loaded.context)
        decoding = Decoding(temperature=0, repetition_penalty=1, max_new_tokens=spec.evaluation.max_new_tokens)
        answers = [
            answer
            for _, answer in generation.answers(loaded.model, prepared.template, asked, decoding, heartbeat=heartbeat)
        ]
    stopped = sum(answer.stopped for answer in answers) / len(answers) if answers else None
    return fidelity.ModelScores(found, len(answers), stopped), likeness
