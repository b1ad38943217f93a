"""SFTJob: supervised fine-tuning of a Llama model on conversations."""

from typing import ClassVar, Literal

from pydantic import Field

from alpaca_operator.api.conversations import TemplateName, TrainedDataset
from alpaca_operator.api.model import ShardSize
from alpaca_operator.api.publication import PublishingSpec
from alpaca_operator.api.resource import JOB_COLUMNS, NODES_NAME_RULE, Job, Parallelism
from alpaca_operator.api.rules import Rule, untouched
from alpaca_operator.api.sources import AdapterSource, ModelSource, Source
from alpaca_operator.api.status import OutputKind
from alpaca_operator.api.training import FEWER_NODES_SHARE_A_STEP, DeepSpeed, Load, Loop, LoRA, needs_validation


class Training(Loop):
    """The training loop of fine-tuning."""

    learning_rate: float = Field(1e-4, gt=0, le=1)
    """Peak learning rate. 1e-4 suits LoRA; use about 2e-5 with `method: Full`."""
    sequence_length: int = Field(2048, ge=16, le=1_048_576)
    """Longest sequence in tokens."""
    neftune_alpha: float | None = Field(None, gt=0, le=100)
    """Noise on the embeddings while training (NEFTune, arXiv:2310.05914); 5 is usual."""


class SFTSpec(PublishingSpec):
    """What to fine-tune, on what, how, and where the result goes."""

    model: ModelSource
    """The base model: a folder with config.json, safetensors weights and a tokenizer."""
    adapter: AdapterSource | None = None
    """A LoRA adapter to go on training, in place of a fresh one. Its rank, alpha and layers are kept; `lora` must agree or be left out, but
    for `dropout`."""
    dataset: TrainedDataset
    """The conversations."""
    template: TemplateName = "FromModel"
    """How a conversation becomes text. `FromModel` uses the chat template in the model's tokenizer; a base model without one needs a
    named template, such as `HumanAssistant`."""
    template_file: Source | None = None
    """A Jinja chat template with `{% generation %}` around the assistant's text, used in place of `template`."""
    method: Literal["LoRA", "QLoRA", "Full"] = "LoRA"
    """`LoRA` trains adapters on a frozen base, `QLoRA` on a base held in 4 or 8 bits, `Full` trains every weight."""
    lora: LoRA = Field(default_factory=LoRA)
    """The adapter. Nothing may be set here with `method: Full`."""
    load: Load | None = None
    """How `QLoRA` holds the base; absent is 4 bits."""
    training: Training = Field(default_factory=Training)
    """The training loop."""
    deepspeed: DeepSpeed | None = None
    """Absent, processes train by plain data parallelism."""
    merge: bool = False
    """Publish the merged model, with the adapter in its folder `adapter`, instead of the adapter alone. The adapter is published first,
    and the model takes its place; should merging fail, `merge: false` or another `dtype` publishes without training again."""
    dtype: Literal["Auto", "float32", "bfloat16", "float16"] = "Auto"
    """Type of a whole model's weights, merged or trained as a whole. `Auto` is that of the base; steps and sums are made in float32."""
    max_shard_size: ShardSize = "5GB"
    """Largest file of a whole model's weights."""
    parallelism: Parallelism = Field(default_factory=Parallelism)
    """How many processes train together."""

    publishing: ClassVar = frozenset({"merge", "dtype", "max_shard_size"})
    rules: ClassVar = (
        Rule(
            cel="!has(self.deepspeed) || self.method != 'QLoRA' || !has(self.deepspeed.preset) || self.deepspeed.preset != 'Zero3'",
            holds=lambda spec: spec.method != "QLoRA" or spec.deepspeed is None or spec.deepspeed.preset != "Zero3",
            message="QLoRA does not run under ZeRO-3: set deepspeed.preset to Zero2, or method to LoRA",
        ),
        Rule(
            cel=untouched("lora", LoRA, unless="self.method != 'Full'"),
            holds=lambda spec: spec.method != "Full" or spec.lora == LoRA(),
            message="lora is an adapter's, which method Full does not train: remove lora, or set method to LoRA",
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
            cel="(self.dtype == 'Auto' && self.maxShardSize == '5GB') || self.merge || self.method == 'Full'",
            holds=lambda spec: (
                spec.merge or spec.method == "Full" or (spec.dtype == "Auto" and spec.max_shard_size == "5GB")
            ),
            message="dtype and maxShardSize are of a whole model: set merge to true, or remove them",
        ),
        FEWER_NODES_SHARE_A_STEP,
        needs_validation("evalSteps", "something to evaluate"),
        needs_validation("earlyStoppingPatience", "validation rows"),
        Rule(
            cel="!has(self.templateFile) || self.template == 'FromModel'",
            holds=lambda spec: spec.template_file is None or spec.template == "FromModel",
            message="template and templateFile both name a template: remove one",
        ),
    )


class SFTJob(Job):
    """Fine-tunes a Llama model on conversations, and publishes an adapter or a merged model."""

    short_names: ClassVar = ("sftj",)
    columns: ClassVar = JOB_COLUMNS
    workload: ClassVar = "sft"

    name_rules: ClassVar = (NODES_NAME_RULE,)

    kind: Literal["SFTJob"] = "SFTJob"
    spec: SFTSpec

    @property
    def nodes(self) -> int:
        return self.spec.parallelism.nodes

    @property
    def output_kind(self) -> OutputKind:
        """An adapter, unless it is merged or every weight is trained."""
        return "Model" if self.spec.merge or self.spec.method == "Full" else "LoRAAdapter"
