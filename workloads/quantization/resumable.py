"""Quantizing layer by layer, on from the layers that an earlier run finished; a signal stops it after the layer at hand."""

from __future__ import annotations

import contextlib
import importlib.metadata
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alpaca_operator.api import contract
from alpaca_operator.api.quantize import QuantizeJob
from workloads.errors import Interrupted
from workloads.quantization.prepare import Prepared
from workloads.runtime.runtime import Runtime

if TYPE_CHECKING:
    from workloads.models.inspect import Base
    from workloads.quantization.gptq import QuantizedLayer
    from workloads.quantization.layers import LayerStore

SHAPING = {"bits", "group_size", "sym", "desc_act", "act_group_aware", "damp_percent", "true_sequential"}
"""Fields that decide what becomes of a layer, besides model and rows."""


def open_store(job: QuantizeJob, base: Base, prepared: Prepared, runtime: Runtime) -> LayerStore | None:
    """Where finished layers are kept, with those of an earlier run, whose folders then go; None where GPTQModel cannot go on from them."""
    runs = runtime.checkpoints.own.parent
    kept = _store(job, base, prepared, runtime, runs)
    for folder in runs.glob("run-*"):
        if folder != runtime.checkpoints.own and folder.is_dir():
            shutil.rmtree(folder, ignore_errors=True)
    return kept


def _store(job: QuantizeJob, base: Base, prepared: Prepared, runtime: Runtime, runs: Path) -> LayerStore | None:
    import torch

    from workloads.quantization import layers
    from workloads.storage import hashing

    reason = _why_not_resumable(job, base, prepared)
    if reason:
        runtime.progress.log(f"a restart begins anew: finished layers cannot be kept with {reason}")
        return None
    scaling = job.spec.model.rope_scaling
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


def _why_not_resumable(job: QuantizeJob, base: Base, prepared: Prepared) -> str | None:
    """What GPTQModel's checkpoints do not go with; None where they can be made."""
    from workloads.quantization import layers

    kind = base.config.get("model_type")
    if kind not in layers.SUPPORTED:
        return f"models of type {kind}"
    if not job.spec.true_sequential:
        return "trueSequential false"
    if any(path.is_symlink() for path in prepared.source.glob("*.safetensors")):
        return "weights on another volume than the output's"
    # Signals, by which it stops, arrive in the main thread only.
    return None if threading.current_thread() is threading.main_thread() else "a thread"


def quantize_layers(
    job: QuantizeJob, prepared: Prepared, layers: LayerStore | None, base: Base, runtime: Runtime
) -> tuple[Any, list[QuantizedLayer]]:
    """The quantized model as GPTQModel holds it. Raises Interrupted after a signal, with what is done kept where it can be."""
    from gptqmodel.looper.checkpoint import CheckpointStopped
    from gptqmodel.looper.checkpoint_store import CheckpointError

    from workloads.models import libraries
    from workloads.quantization import gptq

    total = int(base.config["num_hidden_layers"])
    runtime.progress.update(stage="Quantizing", step=layers.done if layers else 0, total_steps=total)
    listener = _Listener(job, runtime, layers, total)
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
    return quantize_layers(job, prepared, layers, base, runtime)


class _Listener:
    """Passes on what GPTQModel says of its steps; and the ear for signals, which it takes for itself while it works."""

    def __init__(self, job: QuantizeJob, runtime: Runtime, layers: LayerStore | None, total: int) -> None:
        self._output = job.spec.output.uri
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
            uri = f"{self._output}.checkpoints/{self._runtime.checkpoints.own.name}/layers"
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
