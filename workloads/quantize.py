"""Quantization by GPTQ: ``python -m workloads.quantize quantize-job.yaml``.

Every field of QuantizeJob can be given or overridden as an option (``--groupSize 64``); ``--help`` lists them.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import math
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api import contract
from alpaca_operator.api.generation import Decoding
from alpaca_operator.api.quantize import QuantizeJob, QuantizeSpec
from workloads.errors import GateFailed, Interrupted, OutOfMemory
from workloads.models import inspect, load
from workloads.runtime import command, exits
from workloads.runtime.runtime import Metrics, Runtime

if TYPE_CHECKING:
    from workloads.data.chat_templates.template import Template
    from workloads.evaluation.perplexity import Score
    from workloads.models.inspect import Base
    from workloads.quantization.calibration import CalibrationRows
    from workloads.quantization.fidelity import Fidelity, ModelScores
    from workloads.quantization.gptq import QuantizedLayer
    from workloads.quantization.layers import LayerStore

GENERATION = "generation_config.json"
SHAPING = {"bits", "group_size", "sym", "desc_act", "act_group_aware", "damp_percent", "true_sequential"}
"""Fields that decide what becomes of a layer, besides model and rows."""
MEMORY_REMEDY = (
    "lower calibration.samples or calibration.sequenceLength, or ask for more memory in pod.resources.limits (the original is measured "
    "whole; layers are quantized one at a time)"
)


@dataclass(frozen=True)
class Prepared:
    """All that is read before a model is."""

    tokenizer: Any
    template: Template
    rows: CalibrationRows
    source: Path
    """The folder that the model is loaded from."""


def run(job: QuantizeJob, runtime: Runtime) -> Metrics:
    """Look, draw, measure, quantize, measure again, and publish what keeps its gates."""
    try:
        return _run(job, runtime)
    except Exception as error:
        if isinstance(exits.explain(error), OutOfMemory):
            raise OutOfMemory(
                f"out of memory while {runtime.progress.current.stage.lower()}: {MEMORY_REMEDY}"
            ) from error
        raise


def _run(job: QuantizeJob, runtime: Runtime) -> Metrics:
    from workloads.models import libraries
    from workloads.quantization import gptq
    from workloads.system import memory

    peak = memory.Peak()
    spec = job.spec
    base = inspect.inspect_model(runtime.inputs["model"].path, "spec.model.uri", str(spec.model.uri))
    gptq.check(base, f"spec.model {spec.model.uri}", spec)
    inspect.check_positions(
        base, spec.model.rope_scaling, spec.calibration.sequence_length, "calibration.sequenceLength"
    )
    own = runtime.checkpoints.own
    with runtime.stop.interruptible():
        libraries.prepare_gptqmodel()
        from workloads.data import tokenizer_io
        from workloads.quantization import fidelity, report_files
        from workloads.quantization.report import Report, warnings

        prepared = _prepare(job, runtime, base)
        runtime.progress.update(stage="Evaluating")
        reference = fidelity.Reference(own / "reference")
        before, _ = _measured(spec, runtime, prepared, prepared.source, reference.record)
        runtime.progress.log(f"before: {before}")
        if not math.isfinite(before.score.perplexity):
            raise GateFailed(
                f"perplexity before quantization is {before.score.perplexity}: the model gives no numbers on the measured rows; name "
                "one that was not saved broken, in a type that holds its values"
            )

    began = time.monotonic()
    kept = _layers(job, base, prepared, runtime)
    quantized, layers = _quantize(job, prepared, kept, base, runtime)
    minutes = (time.monotonic() - began) / 60
    for line in warnings(layers, spec.damp_percent):
        runtime.progress.log(line)

    metrics: Metrics = {}
    with runtime.output("GPTQModel", metrics) as folder, runtime.stop.interruptible(_stopped_late(kept)):
        with libraries.silenced():
            gptq.save(quantized, own / "saved", folder, runtime.progress.heartbeat)
        del quantized
        tokenizer_io.save_tokenizer(prepared.tokenizer, base.folder, folder, prepared.template)
        _write_generation_config(folder, base, prepared)
        runtime.progress.update(stage="Evaluating")
        after, likeness = _measured(spec, runtime, prepared, folder, reference.compare)
        runtime.progress.log(f"after: {after}, {likeness}")
        report = Report(
            job=job,
            inputs=runtime.inputs,
            rows=prepared.rows,
            before=before,
            after=after,
            fidelity=likeness,
            layers=layers,
            bytes_before=gptq.weight_bytes(base.folder),
            bytes_after=gptq.weight_bytes(folder),
            minutes=minutes,
            peak_bytes=peak.resident(),
            peak_gpu_bytes=peak.gpu(),
        )
        metrics.update(report.metrics())
        if report.broken:
            target = own / "rejected"
            target.mkdir()
            report_files.write(report, target)
            where = runtime.reject(target)
            _keep_only_layers(own)
            raise GateFailed(f"{'; '.join(report.broken)}: nothing is published, the report is at {where}", metrics)
        report_files.write(report, folder)
        report_files.write_card(report, folder)
        runtime.progress.update(stage="Saving")
    return metrics


def _stopped_late(kept: LayerStore | None) -> str:
    """What a signal ends with once the layers are done."""
    remedy = "run again to go on from the layers, which are kept" if kept else "run again to start"
    return f"stopped while the result was saved and measured: {remedy}"


def _prepare(job: QuantizeJob, runtime: Runtime, base: Base) -> Prepared:
    """Tokenizer, template and rows. What lies in this run's folder from before it is new."""
    from workloads.data import tokenizer_io
    from workloads.data.chat_templates import loading
    from workloads.quantization import calibration, gptq

    spec = job.spec
    runtime.progress.update(stage="Preparing")
    tokenizer = tokenizer_io.load_tokenizer(base.folder)
    inspect.check_vocabulary(base, tokenizer, f"spec.model {spec.model.uri}")
    template_file = runtime.inputs["templateFile"].path if spec.template_file else None
    template = loading.load(spec.template, template_file, tokenizer)
    rows = calibration.draw(spec, runtime.inputs, template, heartbeat=runtime.progress.heartbeat)
    for line in rows.lines():
        runtime.progress.log(line)
    widest = max(set().union(*gptq.widths(base).values()))
    if rows.tokens < widest:
        runtime.progress.log(
            f"warning: {rows.tokens:,} tokens weigh the errors of layers with {widest:,} inputs: with fewer tokens than inputs the weighing "
            "is a guess; give more or longer rows"
        )
    runtime.checkpoints.own.mkdir(parents=True, exist_ok=True)
    return Prepared(tokenizer, template, rows, _source(base, spec, tokenizer, runtime.checkpoints.own / "model"))


def _measured(
    spec: QuantizeSpec,
    runtime: Runtime,
    prepared: Prepared,
    folder: Path,
    score: Callable[..., tuple[Score, Fidelity | None]],
) -> tuple[ModelScores, Any]:
    """How the model in ``folder`` foretells and answers, and what ``score`` finds besides."""
    from workloads.evaluation import generation
    from workloads.models import inference, libraries, model_request
    from workloads.quantization import fidelity

    rows, heartbeat = prepared.rows.evaluation, runtime.progress.heartbeat
    with libraries.silenced(), libraries.without_compiling():
        loaded = inference.load(model_request.ModelRequest("model", str(spec.model.uri), folder))
        found, likeness = score(loaded.model, rows, prepared.tokenizer.pad_token_id, heartbeat)
        asked = fidelity.questions(rows, spec.evaluation.answers, loaded.context)
        decoding = Decoding(temperature=0, repetition_penalty=1, max_new_tokens=spec.evaluation.max_new_tokens)
        answers = [
            answer
            for _, answer in generation.answers(loaded.model, prepared.template, asked, decoding, heartbeat=heartbeat)
        ]
    stopped = sum(answer.stopped for answer in answers) / len(answers) if answers else None
    return fidelity.ModelScores(found, len(answers), stopped), likeness


def _source(base: Base, spec: QuantizeSpec, tokenizer: Any, folder: Path) -> Path:
    """The model's folder, or one that stands for it: with the rope scaling of the spec, and with no link that leads out of it, as GPTQModel
    wants it for going on."""
    outside = any(path.is_symlink() for path in inspect.weight_files(base.folder, "spec.model"))
    if spec.model.rope_scaling is None and not outside:
        return base.folder
    from transformers import AutoConfig

    from workloads.data import tokenizer_io
    from workloads.quantization import layers

    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    config = AutoConfig.from_pretrained(base.folder, trust_remote_code=False, local_files_only=True)
    if spec.model.rope_scaling:
        load.apply_rope_scaling(config, spec.model.rope_scaling.type, spec.model.rope_scaling.factor)
    config.save_pretrained(folder)
    names = [path.name for path in inspect.weight_files(base.folder, "spec.model")]
    for name in [*names, "model.safetensors.index.json", GENERATION]:
        if (base.folder / name).is_file():
            layers.stand_for((base.folder / name).resolve(), folder / name)
    tokenizer_io.save_tokenizer(tokenizer, base.folder, folder)
    return folder


def _keep_only_layers(own: Path) -> None:
    """After a broken gate: finished layers stay for a run with other gates, the working files, as large as the model once more, go."""
    from workloads.quantization import layers

    for path in [*own.iterdir(), *(own / layers.STORE).glob("attempt-*")]:
        if path.name == layers.STORE:
            continue
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


# Layer by layer


def _layers(job: QuantizeJob, base: Base, prepared: Prepared, runtime: Runtime) -> LayerStore | None:
    """Where finished layers are kept, with those of an earlier run, whose folders then go; None where GPTQModel cannot go on from them."""
    runs = runtime.checkpoints.own.parent
    kept = _kept_layers(job, base, prepared, runtime, runs)
    for folder in runs.glob("run-*"):
        if folder != runtime.checkpoints.own and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
    return kept


def _kept_layers(job: QuantizeJob, base: Base, prepared: Prepared, runtime: Runtime, runs: Path) -> LayerStore | None:
    import torch

    from workloads.quantization import layers
    from workloads.storage import hashing

    kind, scaling = base.config.get("model_type"), job.spec.model.rope_scaling
    why_not = next(
        filter(
            None,
            (
                kind not in layers.SUPPORTED and f"models of type {kind}",
                not job.spec.true_sequential and "trueSequential false",
                any(path.is_symlink() for path in prepared.source.glob("*.safetensors"))
                and "weights on another volume than the output's",
                threading.current_thread() is not threading.main_thread() and "a thread",
            ),
        ),
        None,
    )
    if why_not:
        runtime.progress.log(f"a restart begins anew: finished layers cannot be kept with {why_not}")
        return None
    # Neither what is measured nor what is allowed shapes a layer: a gate that is set anew finds them finished.
    made_from = hashing.of_json(
        {
            "model": runtime.inputs["model"].digest,
            "ropeScaling": scaling.model_dump() if scaling else None,
            "settings": job.spec.model_dump(mode="json", include=SHAPING),
            "rows": prepared.rows.digest,
            "versions": {name: importlib.metadata.version(name) for name in ("gptqmodel", "torch", "transformers")},
            "device": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "cpu",
        }
    )
    every = layers.interval(prepared.rows.tokens, int(base.config.get("hidden_size", 0)))
    own = layers.LayerStore(runtime.checkpoints.own / layers.STORE, made_from, every)
    done = own.take_over(runs)
    if done:
        runtime.progress.log(f"going on after layer {done}, which an earlier run finished")
    else:
        own.begin()
        if every > 1:
            runtime.progress.log(
                f"finished layers are kept every {every} layers, as the rows between two of them are large"
            )
    return own


def _quantize(
    job: QuantizeJob, prepared: Prepared, layers: LayerStore | None, base: Base, runtime: Runtime
) -> tuple[Any, list[QuantizedLayer]]:
    """The quantized model as GPTQModel holds it. Raises Interrupted after a signal, with what is done kept where it can be."""
    from gptqmodel.looper.checkpoint import CheckpointStopped
    from gptqmodel.looper.checkpoint_store import CheckpointError

    from workloads.models import libraries
    from workloads.quantization import gptq

    total = int(base.config["num_hidden_layers"])
    runtime.progress.update(stage="Quantizing", step=layers.done if layers else 0, total_steps=total)
    listener = _Listener(runtime, layers, total)
    offload = runtime.checkpoints.own / "offload"
    interruptible = contextlib.nullcontext() if layers else runtime.stop.interruptible()
    with libraries.silenced(), listener.beating(), interruptible:
        try:
            return gptq.quantize(
                prepared.source, job.spec, prepared.rows.calibration, offload, layers and layers.config, listener
            )
        except CheckpointStopped as stopped:
            assert layers is not None, "stopped by a checkpoint that nobody asked for"
            raise Interrupted(
                f"stopped after layer {layers.done} of {total}, which are kept: run again to go on"
            ) from stopped
        except CheckpointError as error:
            if layers is None or not listener.resumed:
                raise
            runtime.progress.log(f"the layers of the earlier run cannot be gone on from ({error}): beginning anew")
    layers.begin()
    return _quantize(job, prepared, layers, base, runtime)


class _Listener:
    """Passes on what GPTQModel says of its steps; and the ear for signals, which it takes for itself while it works."""

    def __init__(self, runtime: Runtime, layers: LayerStore | None, total: int) -> None:
        self._runtime = runtime
        self._layers = layers
        self._total = total
        self.resumed = bool(layers and layers.done)
        self._ours = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
        self._listening = False

    def subset_event(self, **_: Any) -> None:
        """Before and after each group of linear layers."""
        self._listen()
        self._runtime.progress.heartbeat()
        stop = self._runtime.stop
        if stop.requested and time.monotonic() > stop.deadline:
            done = self._layers.done if self._layers else 0
            raise Interrupted(
                f"stopped within layer {done + 1} of {self._total}: run again to go on after layer {done}"
            )

    def layer_complete(self, *, layer_idx: int, submodule_finalized: bool) -> None:
        if submodule_finalized:
            return  # called a second time, once it is packed
        self._runtime.checkpoints.check()
        fields: dict[str, Any] = {"step": layer_idx + 1, "total_steps": self._total}
        if self._layers and self._layers.done:
            uri = f"{self._runtime.job.spec.output.uri}.checkpoints/{self._runtime.checkpoints.own.name}/layers"
            fields["checkpoint"] = contract.Checkpoint(uri=uri, step=self._layers.done)
        self._runtime.progress.update(log=True, stage="Quantizing", **fields)

    def _listen(self) -> None:
        """Let a signal reach both: GPTQModel keeps the layer at hand and stops, we know by when."""
        if self._listening or self._layers is None:
            return
        self._listening = True
        for number, ours in self._ours.items():
            theirs = signal.getsignal(number)

            def both(number: int, frame: Any, theirs: Any = theirs, ours: Any = ours) -> None:
                theirs(number, frame)
                ours(number, frame)

            signal.signal(number, both)

    @contextlib.contextmanager
    def beating(self) -> Iterator[None]:
        """A sign of life at every call of a module: the rows take a long time to pass one layer of a large model."""
        from torch.nn.modules.module import register_module_forward_pre_hook

        hook = register_module_forward_pre_hook(lambda module, inputs: self._runtime.progress.heartbeat())
        try:
            yield
        finally:
            hook.remove()


def _write_generation_config(folder: Path, base: Base, prepared: Prepared) -> None:
    """How the model is meant to be sampled: as the original, which GPTQModel would not leave as it is."""
    if (base.folder / GENERATION).is_file():
        shutil.copyfile(base.folder / GENERATION, folder / GENERATION)
        return
    from transformers import GenerationConfig

    GenerationConfig(
        bos_token_id=prepared.tokenizer.bos_token_id,
        eos_token_id=prepared.template.stop_ids,
        pad_token_id=prepared.tokenizer.pad_token_id,
    ).save_pretrained(str(folder))


if __name__ == "__main__":
    sys.exit(command.main(QuantizeJob, run))
