"""SFTJob: supervised fine-tuning of a Llama model on conversations."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from alpaca_operator.api.base import (
    JOB_COLUMNS,
    AdapterSource,
    JobSpec,
    ModelSource,
    Parallelism,
    Raw,
    Resource,
    ShortText,
    Source,
    Spec,
)
from alpaca_operator.api.rules import Rule

PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
"""The seven linear layers of a Llama block."""

Tracker = Literal["TensorBoard", "WandB"]
TRACKERS: tuple[Tracker, ...] = ("TensorBoard",)

DataFormat = Literal["Auto", "HumanAssistantText", "InputTarget", "Alpaca", "ShareGPT", "Messages", "LCCC", "Math23K"]


class DataSource(Source):
    """A file, or a folder of files, with conversations: CSV, JSON, JSONL, Parquet, or a data set saved by `datasets`."""

    content: ClassVar = "Dataset"

    format: DataFormat = "Auto"
    """How rows are read. `Auto` decides by the columns of each file and says what it chose; name it when that is wrong."""
    columns: dict[ShortText, ShortText] = Field(default_factory=dict, max_length=16)
    """The format's column names mapped to the file's own, such as `{instruction: 问题, output: 答案}`."""


class SFTDataset(Spec):
    """The conversations to train on and to validate with."""

    train: list[DataSource] = Field(min_length=1, max_length=64)
    """Sources of training rows, read in this order."""
    validation: list[DataSource] = Field(default_factory=list, max_length=64)
    """Sources of validation rows; given, `validationSplit` is not used."""
    validation_split: float = Field(0.05, ge=0, lt=1)
    """Share of the training rows set aside for validation, chosen by `training.seed`. 0 trains on all and evaluates nothing."""
    overlong: Literal["Split", "TruncateHistory", "Drop"] = "Split"
    """What becomes of a conversation longer than `training.sequenceLength`: `Split` cuts it between turns into several examples,
    `TruncateHistory` drops its oldest turns, `Drop` leaves it out. A turn that is too long by itself is left out. Counts are reported."""
    packing: bool = True
    """Put several conversations into one sequence, kept apart by their positions (best-fit decreasing). Fewer, fuller
    sequences: about six times fewer steps for short rows; the change is reported."""
    train_on_prompt: bool = False
    """Train on every token instead of the assistant's answers only."""
    system_prompt: Annotated[str, StringConstraints(max_length=8192)] | None = None
    """System prompt for conversations that have none."""


class LoRA(Spec):
    """Low-rank adapters (LoRA, arXiv:2106.09685)."""

    rank: int = Field(8, ge=1, le=1024)
    """Rank of the update matrices. Raise it (64) when much has to be learnt."""
    alpha: float = Field(32, gt=0, le=8192)
    """Scale of the update, divided by the rank (by its square root with `useRslora`)."""
    dropout: float = Field(0.05, ge=0, lt=1)
    """Dropout on the adapter's input."""
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
    """4 (nf4 with double quantization) or 8 (int8). Only read with `method: QLoRA`."""


class Training(Spec):
    """The training loop."""

    incidental: ClassVar = frozenset({"log_steps", "save_steps", "keep_checkpoints", "report_to"})

    epochs: float = Field(3, gt=0, le=1000)
    """Passes over the training set. Not used when `maxSteps` is given."""
    max_steps: int | None = Field(None, ge=1, le=100_000_000)
    """Optimizer steps to make, whatever the size of the data."""
    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Peak learning rate. 1e-4 suits LoRA; use about 2e-5 with `method: Full`."""
    scheduler: Literal["cosine", "linear", "constant", "constant_with_warmup", "cosine_with_min_lr"] = "cosine"
    """How the learning rate falls after the warm-up. `cosine_with_min_lr` ends at a tenth of the peak."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of the steps over which the learning rate rises from 0."""
    weight_decay: float = Field(0.0, ge=0, le=1)
    """Decoupled weight decay (AdamW)."""
    max_grad_norm: float = Field(1.0, ge=0, le=1000)
    """Gradients are clipped to this norm; 0 does not clip."""
    optimizer: Literal["Auto", "adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit", "adafactor"] = (
        "Auto"
    )
    """`Auto` takes the fused AdamW on a GPU, an 8-bit one where memory is short."""
    sequence_length: int = Field(2048, ge=16, le=1_048_576)
    """Longest sequence in tokens."""
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
    neftune_alpha: float | None = Field(None, gt=0, le=100)
    """Noise on the embeddings while training (NEFTune, arXiv:2310.05914); 5 is usual."""
    report_to: list[Tracker] = Field(default_factory=lambda: list(TRACKERS), max_length=2)
    """Where curves are written. TensorBoard's lie in the output; WandB needs `wandb` in the image and its key in the environment."""


class DeepSpeed(Spec):
    """DeepSpeed, where it is asked for."""

    preset: Literal["Zero2", "Zero3"] | None = None
    """`Zero2` shards gradients and optimizer state over the processes, `Zero3` the weights too."""
    offload: Literal["None", "CPU"] = "None"
    """`CPU` keeps optimizer state (with `Zero3` weights too) in main memory: slower, and fits where the GPU is too small."""
    config: Raw | None = None
    """A DeepSpeed configuration of your own, in place of a preset. Values of `auto` follow `training`."""

    rules: ClassVar = (
        Rule(
            cel="has(self.preset) != has(self.config)",
            holds=lambda deepspeed: (deepspeed.preset is None) != (deepspeed.config is None),
            message="deepspeed needs either preset (Zero2 or Zero3) or config, not both: remove one",
        ),
    )


class SFTSpec(JobSpec):
    """What to fine-tune, on what, how, and where the result goes."""

    model: ModelSource
    """The base model: a folder with config.json, safetensors weights and a tokenizer."""
    adapter: AdapterSource | None = None
    """A LoRA adapter to go on training, in place of a fresh one. Its rank, alpha and layers are kept; `lora` must agree or be left out."""
    dataset: SFTDataset
    """The conversations."""
    template: Literal["FromModel", "HumanAssistant", "Llama2", "Llama3", "ChatML"] = "FromModel"
    """How a conversation becomes text. `FromModel` uses the chat template in the model's tokenizer; a base model without one needs a
    named template, such as `HumanAssistant`."""
    template_file: Source | None = None
    """A Jinja chat template with `{% generation %}` around the assistant's text, used in place of `template`."""
    method: Literal["LoRA", "QLoRA", "Full"] = "LoRA"
    """`LoRA` trains adapters on a frozen base, `QLoRA` on a base held in 4 or 8 bits, `Full` trains every weight."""
    lora: LoRA = Field(default_factory=LoRA)
    """The adapter. Not read with `method: Full`."""
    load: Load | None = None
    """How `QLoRA` holds the base; absent is 4 bits."""
    training: Training = Field(default_factory=Training)
    """The training loop."""
    deepspeed: DeepSpeed | None = None
    """Absent, one process trains without DeepSpeed."""
    merge: bool = False
    """Publish the merged model, with the adapter in its folder `adapter`, instead of the adapter alone."""
    parallelism: Parallelism = Field(default_factory=Parallelism)
    """How many processes train together."""

    rules: ClassVar = (
        Rule(
            cel="self.method != 'QLoRA' || !has(self.deepspeed) || !has(self.deepspeed.preset) || self.deepspeed.preset != 'Zero3'",
            holds=lambda spec: spec.method != "QLoRA" or spec.deepspeed is None or spec.deepspeed.preset != "Zero3",
            message="QLoRA does not run under ZeRO-3: set deepspeed.preset to Zero2, or method to LoRA",
        ),
        Rule(
            cel="!has(self.load) || self.method == 'QLoRA'",
            holds=lambda spec: spec.load is None or spec.method == "QLoRA",
            message="load.bits is only read with method QLoRA: set method to QLoRA, or remove load",
        ),
        Rule(
            cel="!has(self.adapter) || self.method != 'Full'",
            holds=lambda spec: spec.adapter is None or spec.method != "Full",
            message="adapter goes on training an adapter, which method Full does not: set method to LoRA or QLoRA, or remove adapter",
        ),
        Rule(
            cel="!self.merge || self.method != 'Full'",
            holds=lambda spec: not spec.merge or spec.method != "Full",
            message="merge has nothing to merge with method Full: remove merge, the output is a whole model already",
        ),
        Rule(
            cel="!has(self.training.earlyStoppingPatience) || size(self.dataset.validation) > 0 || self.dataset.validationSplit > 0.0",
            holds=lambda spec: (
                spec.training.early_stopping_patience is None
                or len(spec.dataset.validation) > 0
                or spec.dataset.validation_split > 0
            ),
            message="training.earlyStoppingPatience needs validation rows: set dataset.validationSplit above 0, or dataset.validation",
        ),
        Rule(
            cel="!has(self.templateFile) || self.template == 'FromModel'",
            holds=lambda spec: spec.template_file is None or spec.template == "FromModel",
            message="template and templateFile both name a template: remove one",
        ),
    )


class SFTJob(Resource):
    """Fine-tunes a Llama model on conversations, and publishes an adapter or a merged model."""

    short_names: ClassVar = ("sftj",)
    columns: ClassVar = JOB_COLUMNS
    workload: ClassVar = "sft"

    kind: Literal["SFTJob"] = "SFTJob"
    spec: SFTSpec
