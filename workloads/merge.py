"""Adapters merged into their base: ``python -m workloads.merge merge-job.yaml``.

Every field of MergeJob can be given or overridden as an option (``--dtype float16``); ``--help`` lists them.
"""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from alpaca_operator.api.merge import MergeJob, MergeSpec
from workloads.errors import DataError, InputError
from workloads.models import inspect, libraries, merge_card, rope, safetensors_io
from workloads.runtime import command
from workloads.runtime.runtime import Metrics, Runtime
from workloads.storage import contents

PROOF_TEXTS = (
    "暮色渐渐落下来，江面上只剩一条小船，船头的灯忽明忽暗。老人收了网，抬头望了望远处的山，一句话也没有说。",
    "问：怎样写好一篇短文？\n答：先想清楚要说什么，再把不必说的话都删去。",
    "2024年3月15日，图书馆购入新书1,280册，共计人民币46,500.00元。",
    "The lamp burned low, and nobody in the house remembered who had promised to come back before the snow.",
    "Human: What makes a story worth telling twice?\nAssistant: Usually a person in it whom we would like to meet again.",
    "for number in range(10):\n    print(number * number)\n",
)
"""What a merged model is compared on: prose and dialogue in both languages, numbers, code."""
PROOF_TOKENS = 128
"""How much of each text is looked at."""


@dataclass
class Vocabulary:
    """The tokenizer that the merged model is going to have."""

    tokenizer: Any
    folder: Path
    rows: int
    """Rows of the embeddings, so far."""
    grown: list[str] = field(default_factory=list)
    """What happened to the rows, in a sentence for each adapter that changed them."""


def run(job: MergeJob, runtime: Runtime) -> Metrics:
    """Look, merge, prove, publish."""
    spec = job.spec
    base = inspect.inspect_model(runtime.inputs["model"].path, "spec.model.uri", str(spec.model.uri))
    if "quantization_config" in base.config:
        how = base.config["quantization_config"].get("quant_method", "quantized")
        raise InputError(
            f"spec.model.uri {spec.model.uri} is quantized ({how}), and an update is lost in its rounding: name the model that it was "
            "quantized from; the result can be quantized afterwards"
        )
    trained = rope.trained_with(
        (f"spec.adapters[{number}] {source.uri}", runtime.inputs[f"adapters[{number}]"].path)
        for number, source in enumerate(spec.adapters)
    )
    base = rope.stretched(base, spec.model.rope_scaling, "spec.model.ropeScaling", trained)
    for line in rope.taken_over(base, spec.model.rope_scaling):
        runtime.progress.log(line)
    libraries.quiet()

    from workloads.data import tokenizer_io
    from workloads.models import merge_lora

    runtime.progress.update(stage="Preparing")
    vocabulary = Vocabulary(tokenizer_io.load_tokenizer(base.folder), base.folder, base.rows)
    steps = [_step(spec, runtime, number, vocabulary) for number in range(len(spec.adapters))]
    if _rows_of(vocabulary.tokenizer) > vocabulary.rows:
        raise DataError(
            f"spec.model {spec.model.uri}: its tokenizer has {_rows_of(vocabulary.tokenizer)} tokens and its embedding {vocabulary.rows} "
            "rows: put the tokenizer there that the model was trained with"
        )
    reach = min(PROOF_TOKENS, int(base.config.get("max_position_embeddings") or PROOF_TOKENS))
    sample = [vocabulary.tokenizer(text)["input_ids"][:reach] for text in PROOF_TEXTS]

    def heartbeat() -> None:
        runtime.progress.heartbeat()
        runtime.stop.check()

    def written(number: int, total: int) -> None:
        runtime.progress.update(log=True, stage="Merging", step=number, total_steps=total)
        if number == total:
            runtime.progress.update(stage="Evaluating")

    dtype = base.dtype if spec.dtype == "Auto" else spec.dtype
    runtime.must_have_room(result=inspect.with_rows(base, vocabulary.rows).bytes_as(dtype))
    metrics: Metrics = {}
    with runtime.output("Model", metrics) as folder:
        runtime.progress.update(stage="Merging")
        target = merge_lora.Target(
            folder,
            dtype,
            shard_size=safetensors_io.byte_count(spec.max_shard_size),
            limit=spec.max_logit_difference,
            remedy=(
                "name the base that the adapters were made from"
                if dtype == "float32"
                else "set dtype to float32, which rounds nothing: what differs then is no rounding"
            ),
            written=written,
            heartbeat=heartbeat,
        )
        check = merge_lora.merge(base, steps, target, sample)
        metrics["mergeLogitDifference"] = check.logit_difference
        metrics["mergeTokenAgreement"] = check.token_agreement
        runtime.progress.log(
            f"merged in float32, saved as {dtype}: largest logit difference {check.logit_difference:.3g}, the same likeliest token at "
            f"{100 * check.token_agreement:.1f} % of the positions"
        )
        runtime.progress.update(stage="Saving")
        tokenizer_io.save_tokenizer(vocabulary.tokenizer, vocabulary.folder, folder)
        _write_generation_config(folder, base, steps, vocabulary)
        merge_card.write(folder, merge_card.MergedModel(job, runtime.inputs, dtype, base, vocabulary.grown, metrics))
    return metrics


def _step(spec: MergeSpec, runtime: Runtime, number: int, vocabulary: Vocabulary) -> Any:
    """An adapter, checked; its tokenizer becomes the model's, and its larger vocabulary makes the embeddings grow."""
    from workloads.data import tokenizer_io
    from workloads.models import lora_adapter, merge_lora, resize_embeddings

    source, found = spec.adapters[number], runtime.inputs[f"adapters[{number}]"]
    label = f"spec.adapters[{number}] {source.uri}"
    adapter = lora_adapter.LoRAAdapter.open(found.path, label, source.weight)
    stranger = _made_from_another(found.path, runtime) if number == 0 else None
    remap = None
    if any((found.path / name).is_file() for name in contents.VOCABULARY_FILES):
        tokenizer = tokenizer_io.load_tokenizer(found.path)
        rows = _rows_of(tokenizer)
        if adapter.rows is None and rows > vocabulary.rows:
            raise DataError(
                f"{label}: its tokenizer has {rows} tokens, the base {spec.model.uri} has {vocabulary.rows} rows, and the adapter brings no "
                "embeddings: name the base that the adapter was made from"
            )
        if adapter.rows not in (None, vocabulary.rows) and rows == adapter.rows:
            if stranger is not None:
                raise DataError(
                    f"{label} was trained with a vocabulary of {rows} rows on {stranger}, and the base {spec.model.uri} has "
                    f"{vocabulary.rows}: name the base that the adapter was made from"
                )
            remap = resize_embeddings.embedding_remap(vocabulary.tokenizer, tokenizer, vocabulary.rows)
            vocabulary.rows = rows
            vocabulary.grown.append(str(remap))
            runtime.progress.log(f"adapters[{number}] brings its vocabulary: {remap}")
        if tokenizer.chat_template is None:
            tokenizer.chat_template = vocabulary.tokenizer.chat_template
        vocabulary.tokenizer, vocabulary.folder = tokenizer, found.path
    if stranger is not None:
        runtime.progress.log(
            f"warning: adapters[{number}] was trained on {stranger}, whose content is not that of model {spec.model.uri}"
        )
    return merge_lora.Step(adapter, remap)


def _made_from_another(adapter: Path, runtime: Runtime) -> str | None:
    """The base that one of our own adapters was trained on, where it is not the one given here."""
    artifact = contents.read_artifact(adapter)
    made_from = artifact.inputs.get("model") if artifact else None
    if made_from is None or made_from.digest == runtime.inputs["model"].digest:
        return None
    return made_from.uri


def _rows_of(tokenizer: Any) -> int:
    from workloads.data import tokenize

    return tokenize.rows_of(tokenizer)


def _write_generation_config(folder: Path, base: inspect.Base, steps: list[Any], vocabulary: Vocabulary) -> None:
    """How the model is meant to be sampled: as the last adapter that says so, else as the base."""
    for source in (*(step.adapter.folder for step in reversed(steps)), base.folder):
        if (source / inspect.GENERATION_CONFIG).is_file():
            shutil.copyfile(source / inspect.GENERATION_CONFIG, folder / inspect.GENERATION_CONFIG)
            break
    if not vocabulary.grown:
        return
    ids = {name: getattr(vocabulary.tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    for path in (folder / "config.json", folder / inspect.GENERATION_CONFIG):
        if path.is_file():
            content = json.loads(path.read_text(encoding="utf-8"))
            stops = content.get("eos_token_id")
            kept = {"eos_token_id"} if isinstance(stops, list) and ids["eos_token_id"] in stops else set()
            content |= {name: number for name, number in ids.items() if name not in kept}
            path.write_text(json.dumps(content, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(command.main(MergeJob, run))
