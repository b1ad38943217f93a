"""What a run of SFTJob and PretrainJob hands to the libraries: up to the first step everything is real."""

from __future__ import annotations

import hashlib
import tempfile
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import MagicMock, patch

from peft.tuners.lora import LoraLayer
from transformers import TrainerControl, TrainerState

from alpaca_operator.api.training import Loop
from tests.honoured.desk import Desk, Reached
from workloads import pretrain, sft
from workloads.models import merge_lora
from workloads.runtime import gpus
from workloads.runtime.distributed import DistributedContext
from workloads.runtime.scale import Scale
from workloads.system.environment import Environment
from workloads.system.hardware import Device
from workloads.training import arguments, auto, checks, deepspeed_config, memory_estimate, run
from workloads.training.callbacks import EvalSaveStopCallback
from workloads.training.resume_state import ResumeState
from workloads.training.trainer import Trainer

GPU = Device("cuda", "a GPU", 24 * 2**30, (9, 0), 1, flash_attention_2=True, flash_attention_3=True)
CPU = Device("cpu", "a CPU", 0)


def settings(job: Any, desk: Desk) -> list[Any]:
    """What `Auto` becomes on a GPU and on a CPU, and the arguments of the Trainer."""
    spec = job.spec
    found: list[Any] = []
    folder = desk.inputs(job)["model" if spec.model else "init.config"].path
    base = checks.inspect_trainable(folder, "model", "base", spec)
    sizes = memory_estimate.sizes(base, spec)
    checks.check_trackers(spec)
    for device in (GPU, CPU):
        policy = auto.resolve(spec, device, sizes)
        found.append(policy)
    config = deepspeed_config.config(spec.deepspeed, policy, lambda line: None)
    with patch.object(arguments, "TrainingArguments", side_effect=lambda **given: MagicMock(**given, n_gpu=1)) as made:
        arguments.of(spec, policy, Path("scratch"), config, Scale())
    found.append(sorted((name, str(value)) for name, value in made.call_args.kwargs.items()))
    found.append(gpus.processes(job, Environment.read({"ALPACA_IN_POD": "1"})))
    with patch.object(run, "_tensorboard_folder"), patch("workloads.training.tensorboard.TensorBoard"):
        found.append(len(run._callbacks(spec, SimpleNamespace(distributed=DistributedContext()))))  # type: ignore[arg-type]
    return [*found, rhythm(spec.training), kept(spec.training, desk.folder)]


def rhythm(loop: Loop) -> list[Any]:
    """When it evaluates, saves and stops in twelve steps, where no evaluation is better than the first."""
    trainer = MagicMock(settings=loop, evaluate_first=False, eval_dataset=[1], step_tokens=0)
    trainer.runtime = SimpleNamespace(
        distributed=DistributedContext(),
        stop=SimpleNamespace(requested=False),
        progress=MagicMock(),
        attempts=MagicMock(),
    )
    trainer.throughput.add.return_value = 1.0
    trainer.resume_state = ResumeState()
    trainer.stopped_early = lambda: Trainer.stopped_early(trainer)
    callback = EvalSaveStopCallback(trainer)
    callback.steps_per_epoch = 5
    found = []
    for step in range(1, 13):
        state, control = TrainerState(global_step=step, max_steps=100), TrainerControl(should_log=True)
        callback.on_step_end(None, state, control)  # type: ignore[arg-type]
        evaluated = control.should_evaluate
        if evaluated:
            callback.on_evaluate(None, state, control, metrics={"eval_loss": 1.0})  # type: ignore[arg-type]
        found.append((evaluated, control.should_save, control.should_training_stop))
    return found


def kept(loop: Loop, scratch: Path) -> Any:
    """How many checkpoints are left after one was written."""
    trainer = MagicMock(settings=loop, resume_state=ResumeState(), _globalstep_last_logged=0, _tr_loss=0.0, _correct=0)
    trainer.state.global_step = 1
    trainer.runtime.distributed = DistributedContext()
    trainer.runtime.checkpoints.write.return_value.__enter__.return_value = scratch
    trainer.runtime.checkpoints.own.name = "run"
    Trainer._save_checkpoint(trainer, None, None)
    return trainer.runtime.checkpoints.prune.call_args.args


def reached(job: Any, desk: Desk, scratch: Path) -> list[Any]:
    """Rows and model of a run, up to its first step, and how its result would be called."""
    found: list[Any] = [job.output_kind]

    def train(job: Any, runtime: Any, policy: Any, setup: Any) -> dict[str, float]:
        found.append(policy)
        found.append([_rows(part) for part in (setup.train, setup.validation)])
        found.append(_described(setup.load_model()))
        if setup.merge is not None:
            scratch.mkdir(parents=True, exist_ok=True)
            with patch.object(merge_lora, "merge", side_effect=Reached) as merged, suppress(Reached):
                setup.merge(desk.folder / "adapter", Path(tempfile.mkdtemp(dir=scratch)), {})
            target = merged.call_args.args[2]
            found.append([target.dtype, target.shard_size])
        return {}

    command = sft if job.kind == "SFTJob" else pretrain
    with patch.object(run, "train", train):
        command.run(job, desk.runtime(job, scratch))  # type: ignore[arg-type]
    return found


def _rows(part: Any) -> str:
    """A digest of the first rows."""
    digest = hashlib.sha256()
    for number, row in enumerate(part if part is not None else ()):
        digest.update(str([list(map(int, row[name])) for name in ("input_ids", "labels", "seq_lengths")]).encode())
        if number == 40:
            break
    return digest.hexdigest()


def _described(model: Any) -> list[str]:
    """Shape, positions and adapter of a model, and what of it is trained."""
    config = model.config.to_dict()
    adapter = (
        {name: str(value) for name, value in model.peft_config["default"].to_dict().items()}
        if hasattr(model, "peft_config")
        else {}
    )
    for layers in ("target_modules", "modules_to_save"):
        if adapter:
            adapter[layers] = str(sorted(getattr(model.peft_config["default"], layers) or []))
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    dropouts = {str(layer.lora_dropout) for layer in model.modules() if isinstance(layer, LoraLayer)}
    shapes = [tuple(weight.shape) for weight in model.parameters()]
    kinds = sorted({type(module).__name__ for module in model.modules()})
    return [
        str(part)
        for part in (sorted(config.items(), key=str), sorted(adapter.items()), trained, sorted(dropouts), shapes, kinds)
    ]
