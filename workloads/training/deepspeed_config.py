"""DeepSpeed: what a preset stands for, what a configuration of the user's own does, and a process group for one process."""

from __future__ import annotations

import atexit
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

from alpaca_operator.api.training import DeepSpeed
from workloads.errors import SpecError
from workloads.training.auto import Policy

FOLLOWING = dict.fromkeys(
    ("gradient_clipping", "gradient_accumulation_steps", "train_batch_size", "train_micro_batch_size_per_gpu"), "auto"
)
"""Of a configuration of the user's own, what follows `training` where it does not say otherwise: DeepSpeed would neither clip nor know
the batch."""
PRECISIONS = {"bf16", "bfloat16", "fp16", "amp", "torch_autocast"}
"""Blocks that say what is computed in; without one it would be float32, whatever `training.precision` is."""


def config(wanted: DeepSpeed | None, policy: Policy, log: Callable[[str], None]) -> dict[str, Any] | None:
    """The DeepSpeed configuration of a job, or None where DeepSpeed is not used.

    The presets have no scheduler block: with one, DeepSpeed's own schedule would replace `training.scheduler`. Values of ``auto``
    are filled in from the training settings by transformers.
    """
    if wanted is not None and wanted.config is not None:
        for block, fields in (("scheduler", "scheduler and training.warmupRatio"), ("optimizer", "optimizer")):
            if block in wanted.config:
                log(
                    f"warning: deepspeed.config has a block `{block}`, which overrides training.{fields}: remove it to use them"
                )
        precision = (
            {} if PRECISIONS & wanted.config.keys() else {"bf16": {"enabled": "auto"}, "fp16": {"enabled": "auto"}}
        )
        return {**FOLLOWING, **precision, **wanted.config}
    if policy.parallel == "None":
        return None
    offload = policy.parallel.endswith("Offload")
    stage = 3 if policy.parallel.startswith("Zero3") else 2
    zero: dict[str, Any] = {
        "stage": stage,
        "overlap_comm": True,
        "contiguous_gradients": True,
        "reduce_bucket_size": 5e8,
    }
    if stage == 2:
        zero |= {"allgather_partitions": True, "allgather_bucket_size": 5e8, "reduce_scatter": True}
    else:
        zero |= {
            "stage3_prefetch_bucket_size": "auto",
            "stage3_param_persistence_threshold": "auto",
            "stage3_max_live_parameters": 1e9,
            "stage3_max_reuse_distance": 1e9,
            # Without this a save under ZeRO-3 holds empty tensors.
            "stage3_gather_16bit_weights_on_model_save": True,
            "reduce_bucket_size": "auto",
        }
    if offload:
        pinned = {"device": "cpu", "pin_memory": True}
        zero["offload_optimizer"] = pinned
        if stage == 3:
            zero["offload_param"] = pinned
    return {
        "bf16": {"enabled": "auto"},
        "fp16": {"enabled": "auto", "loss_scale": 0, "initial_scale_power": 16, "loss_scale_window": 1000},
        "zero_optimization": zero,
        "gradient_accumulation_steps": "auto",
        "gradient_clipping": "auto",
        "train_batch_size": "auto",
        "train_micro_batch_size_per_gpu": "auto",
        # transformers' AdamW with our own schedule; DeepSpeed would refuse it under offload without this word.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 1 << 30,
        "wall_clock_breakdown": False,
    }


@contextmanager
def mismatches_told() -> Iterator[None]:
    """Raises SpecError where a configuration of the user's own contradicts the training settings; transformers finds out as it starts."""
    try:
        yield
    except ValueError as error:
        if "DeepSpeed config values" not in str(error):
            raise
        values = "; ".join(line[2:] for line in str(error).splitlines() if line.startswith("- "))
        raise SpecError(f"deepspeed.config contradicts training ({values}): set these values to auto") from error


def start(on_gpu: bool, timeout: float) -> None:
    """The process group, of one where the launcher has not said otherwise, which DeepSpeed needs before a model is loaded; it is taken
    down when the process ends. ``timeout``: seconds without a step after which the watchdog speaks, before any collective gives up."""
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(_free_port()))
    os.environ.setdefault("RANK", "0")
    os.environ.setdefault("LOCAL_RANK", "0")
    os.environ.setdefault("WORLD_SIZE", "1")
    if not on_gpu:
        os.environ["DS_ACCELERATOR"] = "cpu"
    import deepspeed
    import torch
    from accelerate import PartialState

    if on_gpu:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    else:
        # Kernels that could be built for a CPU: the one that would be is a reduction for inference, which training never calls, and building
        # it takes a compiler, and minutes on a busy node.
        deepspeed.ops.__compatible_ops__ = {}
    backend = "nccl" if on_gpu else "gloo"
    deepspeed.init_distributed(backend, verbose=False, timeout=timedelta(seconds=timeout + 60))
    atexit.register(_end, torch.distributed)
    # Left to itself accelerate knows no backend for DeepSpeed on a CPU, and takes each of several processes for the only one.
    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    PartialState(backend=backend)
    del os.environ["ACCELERATE_USE_DEEPSPEED"]


def _end(distributed: Any) -> None:
    if distributed.is_initialized():
        distributed.destroy_process_group()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
