"""The settings of transformers' Trainer, all of them ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments

from workloads.runtime.scale import ALONE, Scale
from workloads.training import method
from workloads.training.auto import Policy
from workloads.training.method import Spec


def of(
    spec: Spec, policy: Policy, scratch: Path, deepspeed: dict[str, Any] | None, scale: Scale = ALONE
) -> TrainingArguments:
    """Every setting of the Trainer that shapes the result or is on by itself, set from the spec and from the number of processes alone."""
    training = spec.training
    checkpointing = policy.gradient_checkpointing == "Full"
    arguments = TrainingArguments(
        output_dir=str(scratch),
        num_train_epochs=training.epochs,
        max_steps=training.max_steps or -1,
        per_device_train_batch_size=training.batch_size_per_device,
        per_device_eval_batch_size=training.batch_size_per_device,
        gradient_accumulation_steps=scale.accumulation(training.gradient_accumulation),
        learning_rate=training.learning_rate,
        lr_scheduler_type=training.scheduler,
        lr_scheduler_kwargs={"min_lr_rate": 0.1} if training.scheduler == "cosine_with_min_lr" else {},
        warmup_steps=training.warmup_ratio,
        optim=policy.optimizer,
        weight_decay=training.weight_decay,
        adam_beta1=0.9,
        adam_beta2=0.999,
        adam_epsilon=1e-8,
        max_grad_norm=training.max_grad_norm,
        label_smoothing_factor=0.0,
        average_tokens_across_devices=True,
        ddp_backend=_backend() if scale.count > 1 else None,
        # The watchdog is to speak first: it knows where the run stood.
        ddp_timeout=spec.failure_policy.hang_timeout_seconds + 60,
        ddp_find_unused_parameters=False,
        ddp_broadcast_buffers=False,
        bf16=policy.precision == "bf16",
        fp16=policy.precision == "fp16",
        tf32=None,
        # Told to use the CPU, accelerate would leave DeepSpeed out; it finds the CPU by itself.
        use_cpu=not torch.cuda.is_available() and deepspeed is None,
        activation_checkpointing=checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        use_cache=False,
        torch_compile=False,
        neftune_noise_alpha=method.of(spec).neftune_alpha,
        seed=training.seed,
        data_seed=training.seed,
        full_determinism=False,
        train_sampling_strategy="random",
        remove_unused_columns=False,
        label_names=["labels"],
        dataloader_drop_last=False,
        dataloader_num_workers=0,  # the rows are tokenised already
        dataloader_pin_memory=torch.cuda.is_available(),
        accelerator_config={
            "use_seedable_sampler": True,
            "split_batches": False,
            "even_batches": True,
            "dispatch_batches": False,
            "use_configured_state": deepspeed is not None,  # which `deepspeed_config.start` made
        },
        logging_strategy="steps",
        logging_steps=training.log_steps,
        logging_first_step=False,
        logging_nan_inf_filter=False,  # it would hide a diverged loss
        log_level="error",
        disable_tqdm=True,
        report_to=["wandb"] if "WandB" in training.report_to else [],
        include_num_input_tokens_seen="no",
        # When to evaluate, save and stop is decided by `EvalSaveStopCallback`.
        eval_strategy="no",
        save_strategy="no",
        load_best_model_at_end=False,
        prediction_loss_only=True,
        ignore_data_skip=False,
        restore_callback_states_from_checkpoint=False,
        enable_jit_checkpoint=False,
        push_to_hub=False,
        skip_memory_metrics=True,
        deepspeed=deepspeed,
    )
    # A process uses one GPU: left to itself, the Trainer of a single one would deal its batches out to all that it sees (DataParallel).
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _backend() -> str:
    return "nccl" if torch.cuda.is_available() else "gloo"
