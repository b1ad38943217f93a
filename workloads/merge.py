"""Adapters merged into their base: ``python -m workloads.merge merge-job.yaml``.

Every field of MergeJob can be given or overridden as an option (``--dtype float16``); ``--help`` lists them.
"""

from __future__ import annotations

import sys

from alpaca_operator.api.merge import MergeJob
from workloads import cli, model
from workloads.errors import InputError, SpecError
from workloads.runtime import Metrics, Runtime

PROOF_TEXTS = (
    "床前明月光，疑是地上霜。举头望明月，低头思故乡。",
    "Human: Write a short letter to a friend about the sea.\nAssistant: Dear friend, the sea was grey this morning.\n",
)


def run(job: MergeJob, here: Runtime) -> Metrics:
    """Look, merge, prove, publish."""
    spec = job.spec
    base = model.look(here.inputs["model"].path, "spec.model.uri", str(spec.model.uri))
    if "quantization_config" in base.config:
        raise InputError(f"spec.model.uri {spec.model.uri} is quantized: name the unquantized model")
    if len(spec.adapters) > 1 or spec.adapters[0].weight != 1:
        raise SpecError("adapters: only one, of weight 1, can be merged")
    model.quiet_libraries()
    from workloads import merging, tokenizer_files

    adapter = here.inputs["adapters[0]"].path
    tokenizer = tokenizer_files.load_tokenizer(base.folder)
    sample = [tokenizer(text)["input_ids"] for text in PROOF_TEXTS]
    metrics: Metrics = {}
    with here.output("Model", metrics) as folder:
        here.progress.update(stage="Merging")
        proof = merging.merge(base, adapter, folder, sample, spec.dtype, spec.model.rope_scaling)
        metrics["mergeLogitDifference"] = proof.logit_difference
        metrics["mergeTokenAgreement"] = proof.token_agreement
        tokenizer_files.save_tokenizer(tokenizer, base.folder, folder)
    return metrics


if __name__ == "__main__":
    sys.exit(cli.main(MergeJob, run))
