"""PretrainJob: continued pretraining of a Llama model on plain text, or pretraining from scratch."""

from typing import Any, ClassVar, Literal

from pydantic import Field

from alpaca_operator.api.corpus import Corpus, CorpusSource
from alpaca_operator.api.mixture import Share
from alpaca_operator.api.model import ShortText, Spec
from alpaca_operator.api.publication import PublishingSpec
from alpaca_operator.api.resource import JOB_COLUMNS, NODES_NAME_RULE, Job, Parallelism
from alpaca_operator.api.rules import Rule, untouched
from alpaca_operator.api.sources import ModelSource, Source, TokenizerSource
from alpaca_operator.api.status import OutputKind
from alpaca_operator.api.training import (
    FEWER_NODES_SHARE_A_STEP,
    PROJECTIONS,
    DeepSpeed,
    Load,
    Loop,
    LoRA,
    needs_validation,
)


class ConfigSource(Source):
    """A model's config.json, or the folder that holds it."""


class Init(Spec):
    """A model from scratch."""

    config: ConfigSource
    """The architecture. Weights that lie beside it are not read."""
    overrides: dict[ShortText, Any] = Field(
        default_factory=dict,
        max_length=64,
        json_schema_extra={"x-kubernetes-preserve-unknown-fields": True, "additionalProperties": None},
    )
    """Values of config.json to replace, such as `{num_hidden_layers: 8}`. `vocab_size` always follows the tokenizer."""


class TrainedText(CorpusSource, Share):
    """A source of text, and how much of it is trained on."""


class PretrainDataset(Corpus):
    """The text to train on and to validate with."""

    train: list[TrainedText] = Field(min_length=1, max_length=64)  # type: ignore[assignment]  # a list that is only read
    """Sources of text, read in this order. They are never changed."""

    validation: list[CorpusSource] = Field(default_factory=list, max_length=64)
    """Sources of validation text; given, `validationSplit` is not used. A document of `train` that stands here too is not trained on."""
    validation_split: float = Field(0.05, ge=0, lt=1)
    """Share of the tokens set aside for validation, in whole documents chosen by `training.seed`; equal documents stay together. 0 trains
    on all and evaluates nothing."""
    streaming: bool = False
    """Tokenise while training, for a corpus whose blocks (2 or 4 bytes a token) do not fit on the disk. Slower to resume, and the
    number of steps must be given by `training.maxSteps`."""
    max_eval_tokens: int | None = Field(None, ge=1, le=1_000_000_000_000)
    """Tokens that an evaluation reads at most: documents of the validation text in an order drawn by `training.seed`, the last cut there.
    What is left of them is not trained on either."""

    rules: ClassVar = (
        *Corpus.rules,
        Rule(
            cel="!self.streaming || self.train.all(source, source.weight == 1.0 && !has(source.maxRows) && !has(source.maxTokens))",
            holds=lambda dataset: not dataset.streaming or all(source.is_whole for source in dataset.train),
            message="streaming reads each source once, from its start: remove weight, maxRows and maxTokens of dataset.train, or set streaming to false",
        ),
    )


class PretrainLoRA(LoRA):
    """Low-rank adapters, with the embeddings and the output head trained whole: what a new vocabulary needs."""

    rank: int = Field(64, ge=1, le=1024)
    """Rank of the update matrices."""
    alpha: float = Field(128, gt=0, le=8192)
    """Scale of the update, divided by the rank (by its square root with `useRslora`)."""
    target_modules: list[ShortText] = Field(default_factory=lambda: list(PROJECTIONS), min_length=1, max_length=32)
    """Layers that get an adapter: the seven projections of a Llama block."""
    modules_to_save: list[ShortText] = Field(default_factory=lambda: ["embed_tokens", "lm_head"], max_length=16)
    """Layers trained whole and saved with the adapter."""


class PretrainTraining(Loop):
    """The training loop of pretraining."""

    epochs: float = Field(1, gt=0, le=1000)
    """Passes over the blocks. Not used when `maxSteps` is given."""
    learning_rate: float = Field(2e-5, gt=0, le=1)
    """Peak learning rate. 2e-5 suits a trained base; from scratch about 3e-4."""
    block_size: int = Field(4096, ge=16, le=1_048_576)
    """Tokens in a block. Documents are laid end to end, an end-of-text token between them, and cut into blocks; what is left over makes
    a last, shorter one."""


class PretrainSpec(PublishingSpec):
    """What to pretrain, on what text, and where the result goes."""

    model: ModelSource | None = None
    """The base model to go on with. Either this or `init`."""
    init: Init | None = None
    """Start from scratch instead, with fresh weights."""
    tokenizer: TokenizerSource | None = None
    """A tokenizer other than the model's, such as one that TokenizerJob extended: the embeddings grow to its size, each new row the mean of
    the rows of the pieces that it replaces. Needed with `init`."""
    dataset: PretrainDataset
    """The text."""
    trainable: Literal["Embeddings", "LoRA", "Full"] = "Full"
    """`Embeddings` trains the input and output embeddings alone (a first stage after a change of vocabulary), `LoRA` adapters besides,
    `Full` every weight."""
    lora: PretrainLoRA = Field(default_factory=PretrainLoRA)
    """The adapter. Nothing may be set here without `trainable: LoRA`."""
    load: Load | None = None
    """Hold the base in 4 or 8 bits. Only with `trainable: LoRA`."""
    training: PretrainTraining = Field(default_factory=PretrainTraining)
    """The training loop."""
    deepspeed: DeepSpeed | None = None
    """Absent, processes train by plain data parallelism."""
    parallelism: Parallelism = Field(default_factory=Parallelism)
    """How many processes train together."""

    rules: ClassVar = (
        Rule(
            cel="has(self.model) != has(self.init)",
            holds=lambda spec: (spec.model is None) != (spec.init is None),
            message="a PretrainJob needs either model (go on with a base) or init (start from scratch), not both",
        ),
        Rule(
            cel="!has(self.init) || has(self.tokenizer)",
            holds=lambda spec: spec.init is None or spec.tokenizer is not None,
            message="init starts from scratch and has no tokenizer of its own: set tokenizer",
        ),
        Rule(
            cel="!has(self.init) || self.trainable == 'Full'",
            holds=lambda spec: spec.init is None or spec.trainable == "Full",
            message="init starts from random weights, which trainable Embeddings or LoRA would leave random: set trainable to Full",
        ),
        Rule(
            cel=untouched("lora", PretrainLoRA, unless="self.trainable == 'LoRA'"),
            holds=lambda spec: spec.trainable == "LoRA" or spec.lora == PretrainLoRA(),
            message="lora is an adapter's, and trainable says that none is trained: remove lora, or set trainable to LoRA",
        ),
        Rule(
            cel="!has(self.load) || self.trainable == 'LoRA'",
            holds=lambda spec: spec.load is None or spec.trainable == "LoRA",
            message="load.bits freezes the base, so it needs trainable LoRA: set trainable to LoRA, or remove load",
        ),
        Rule(
            cel="!has(self.load) || !has(self.deepspeed) || !has(self.deepspeed.preset) || self.deepspeed.preset != 'Zero3'",
            holds=lambda spec: spec.load is None or spec.deepspeed is None or spec.deepspeed.preset != "Zero3",
            message="a base in 4 or 8 bits does not run under ZeRO-3: set deepspeed.preset to Zero2, or remove load",
        ),
        Rule(
            cel="!self.dataset.streaming || (has(self.training) && has(self.training.maxSteps))",
            holds=lambda spec: not spec.dataset.streaming or spec.training.max_steps is not None,
            message="dataset.streaming does not know how long the corpus is: set training.maxSteps",
        ),
        FEWER_NODES_SHARE_A_STEP,
        needs_validation("evalSteps", "something to evaluate"),
        needs_validation("earlyStoppingPatience", "validation text"),
    )


class PretrainJob(Job):
    """Trains a Llama model on plain text: continued pretraining after a change of vocabulary, or from scratch."""

    short_names: ClassVar = ("ptj",)
    columns: ClassVar = JOB_COLUMNS
    workload: ClassVar = "pretrain"
    name_limit: ClassVar = 45

    name_rules: ClassVar = (NODES_NAME_RULE,)

    kind: Literal["PretrainJob"] = "PretrainJob"
    spec: PretrainSpec

    @property
    def nodes(self) -> int:
        return self.spec.parallelism.nodes

    @property
    def output_kind(self) -> OutputKind:
        """An adapter for `trainable: LoRA`, a whole model otherwise."""
        return "LoRAAdapter" if self.spec.trainable == "LoRA" else "Model"
