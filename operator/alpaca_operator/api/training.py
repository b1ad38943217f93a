"""What every kind that trains has in common: the loop, adapters, DeepSpeed."""

from typing import ClassVar, Literal

from pydantic import Field

from alpaca_operator.api.model import Raw, ShortText, Spec
from alpaca_operator.api.rules import Rule

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The seven linear layers of a Llama block."""

Tracker = Literal["TensorBoard", "WandB"]
TRACKERS: tuple[Tracker, ...] = ("TensorBoard",)


class LoRA(Spec):
    """Low-rank adapters (LoRA, arXiv:2106.09685)."""

    rank: int = Field(8, ge=1, le=1024)
    """Rank of the update matrices. Raise it (64) when much has to be learnt."""
    alpha: float = Field(32, gt=0, le=8192)
    """Scale of the update, divided by the rank (by its square root with `useRslora`)."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Dropout on the adapter's input, also where training goes on from an `adapter`, whatever that was trained with. 0 where experts of a
    mixture get an adapter: PEFT gives those none."""
    target_modules: list[ShortText] = Field(default_factory=lambda: list(PROJECTIONS), min_length=1, max_length=32)
    """Layers that get an adapter: the seven projections of a Llama block."""
    modules_to_save: list[ShortText] = Field(default_factory=list, max_length=16)
    """Layers trained whole and saved with the adapter, such as `embed_tokens` and `lm_head` after a change of vocabulary."""
    use_rslora: bool = False
    """Scale by alpha / sqrt(rank) (rsLoRA, arXiv:2312.03732): steadier at high ranks."""
    use_dora: bool = False
    """Learn magnitude and direction apart (DoRA, arXiv:2402.09353): often better at low ranks, slower."""


class Load(Spec):
    """How the base is held in memory while an adapter is trained."""

    bits: Literal[4, 8] = 4
    """4 (nf4 with double quantization) or 8 (int8)."""


class Loop(Spec):
    """The training loop of every kind that trains."""

    non_semantic: ClassVar = frozenset({"log_steps", "save_steps", "keep_checkpoints", "report_to"})

    epochs: float = Field(3, gt=0, le=1000)
    """Passes over the training set. Not used when `maxSteps` is given."""
    max_steps: int | None = Field(None, ge=1, le=100_000_000)
    """Optimizer steps to make, whatever the size of the data."""
    learning_rate: float = Field(2e-5, gt=0, le=1)
    """Peak learning rate."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup", "cosine_with_min_lr"] = "cosine"
    """How the learning rate falls after the warm-up: towards 0, which it would reach one step after the last. `cosine_with_min_lr` ends
    at about a tenth of the peak."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises to its peak; no step is made at 0."""
    weight_decay: float = Field(0.0, ge=0, le=1)
    """Decoupled weight decay (AdamW)."""
    max_grad_norm: float = Field(1.0, ge=0, le=1000)
    """Gradients are clipped to this norm; 0 does not clip."""
    optimizer: Literal["Auto", "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adafactor"] = (
        "Auto"
    )
    """`Auto` takes the fused AdamW on a GPU, an 8-bit one where memory is short, and one in main memory beside a whole model whose float32
    weights do not fit. A named one is never replaced."""
    batch_size_per_device: int = Field(1, ge=1, le=4096)
    """Sequences per process and forward pass."""
    gradient_accumulation: int = Field(8, ge=1, le=65536)
    """Forward passes per optimizer step."""
    seed: int = Field(42, ge=0, le=4294967295)
    """Seed of data order, dropout and new weights."""
    precision: Literal["Auto", "bf16", "fp16", "fp32"] = "Auto"
    """`Auto` is bf16 on GPUs that have it (sm80 and newer), fp16 on older ones, fp32 on a CPU."""
    attention: Literal["Auto", "sdpa", "flash_attention_2", "flash_attention_3", "eager"] = "Auto"
    """Attention kernel. `Auto` takes FlashAttention where it is installed and the GPU has it, else PyTorch's sdpa."""
    gradient_checkpointing: Literal["Auto", "Full", "None"] = "Auto"
    """`Full` recomputes activations in the backward pass: less memory, about a third slower. `Auto` decides by an estimate."""
    log_steps: int = Field(1, ge=1, le=1_000_000)
    """Steps between two logged losses."""
    eval_steps: int | None = Field(None, ge=1, le=100_000_000)
    """Steps between two evaluations; absent evaluates after each epoch."""
    save_steps: int = Field(100, ge=1, le=100_000_000)
    """Steps between two checkpoints: at most this many are lost when a node dies."""
    keep_checkpoints: int = Field(2, ge=1, le=1000)
    """Newest checkpoints kept while training."""
    early_stopping_patience: int | None = Field(None, ge=1, le=1000)
    """Stop after this many evaluations without a better loss, and publish the best. Needs validation rows."""
    report_to: list[Tracker] = Field(default_factory=lambda: list(TRACKERS), max_length=2)
    """Where curves are written. TensorBoard's lie in the output; WandB needs `wandb` in the image and its key in the environment."""

    rules: ClassVar = (
        Rule(
            cel="self.scheduler != 'constant' || self.warmupRatio == 0.03 || self.warmupRatio == 0.0",
            holds=lambda loop: loop.scheduler != "constant" or loop.warmup_ratio in (0.03, 0.0),
            message="training.scheduler constant has no warm-up: remove warmupRatio, or set scheduler to constant_with_warmup",
        ),
    )


class DeepSpeed(Spec):
    """DeepSpeed, where it is asked for."""

    preset: Literal["Zero2", "Zero3"] | None = None
    """`Zero2` shards gradients and optimizer state over the processes, `Zero3` the weights too."""
    offload: Literal["None", "CPU"] = "None"
    """`CPU` keeps optimizer state (with `Zero3` weights too) in main memory: slower, and fits where the GPU is too small."""
    config: Raw | None = None
    """A DeepSpeed configuration of your own, in place of a preset. Values of `auto`, and clipping, batch and precision where they are
    absent, follow `training`. A key that DeepSpeed does not accept or does not read is refused by its name."""

    rules: ClassVar = (
        Rule(
            cel="has(self.preset) != has(self.config)",
            holds=lambda deepspeed: (deepspeed.preset is None) != (deepspeed.config is None),
            message="deepspeed needs either preset (Zero2 or Zero3) or config, not both: remove one",
        ),
        Rule(
            cel="!has(self.config) || self.offload == 'None'",
            holds=lambda deepspeed: deepspeed.config is None or deepspeed.offload == "None",
            message="deepspeed.offload is only read with preset: name offload_optimizer and offload_param in config, or remove offload",
        ),
    )


def needs_validation(field: str, what: str) -> Rule:
    """Of a kind with `training` and `dataset`: ``training.<field>`` needs ``what``, so something has to be evaluated."""
    name = next(name for name, info in Loop.model_fields.items() if info.alias == field)
    return Rule(
        cel=f"!has(self.training) || !has(self.training.{field}) || "
        "(has(self.dataset.validation) && size(self.dataset.validation) > 0) || "
        "self.dataset.validationSplit > 0.0",
        holds=lambda spec: (
            getattr(spec.training, name) is None
            or len(spec.dataset.validation) > 0
            or spec.dataset.validation_split > 0
        ),
        message=f"training.{field} needs {what}: set dataset.validationSplit above 0, or dataset.validation",
    )


FEWER_NODES_SHARE_A_STEP = Rule(
    cel="!has(self.parallelism) || !has(self.parallelism.minNodes) || "
    f"((has(self.training) ? self.training.gradientAccumulation : {Loop.model_fields['gradient_accumulation'].default}) * self.parallelism.nodes) % "
    "self.parallelism.minNodes == 0",
    holds=lambda spec: (
        spec.parallelism.min_nodes is None
        or spec.training.gradient_accumulation * spec.parallelism.nodes % spec.parallelism.min_nodes == 0
    ),
    message="training.gradientAccumulation × parallelism.nodes has to be a multiple of parallelism.minNodes, so that fewer machines make the same "
    "steps: change one of them",
)
"""Of a kind with `training` and `parallelism`."""
