"""QuantizeJob: a model in fewer bits, or as one file for other runtimes, measured before and after."""

import json
from typing import Any, ClassVar, Literal

from pydantic import Field

from alpaca_operator.api.conversations import DataSource, SystemPrompt, TemplateName
from alpaca_operator.api.model import Spec
from alpaca_operator.api.publication import PublishingSpec
from alpaca_operator.api.resource import JOB_COLUMNS, Job
from alpaca_operator.api.rows import RowPolicy
from alpaca_operator.api.rules import Rule, untouched
from alpaca_operator.api.sources import ModelSource, Source
from alpaca_operator.api.status import OutputKind


class Calibration(RowPolicy):
    """The rows by which rounding errors are weighed: text of the kind that the model will write."""

    train: list[DataSource] = Field(min_length=1, max_length=64)
    """Sources of conversations, in any format that SFTJob reads. Best are the rows that the model was tuned on."""
    samples: int = Field(512, ge=1, le=65536)
    """Rows taken, drawn by `seed` from all that are long enough."""
    sequence_length: int = Field(2048, ge=16, le=1_048_576)
    """Longest row in tokens; longer conversations are cut between turns."""
    min_tokens: int = Field(16, ge=1, le=65536)
    """Rows with fewer tokens are left out, and counted."""
    system_prompt: SystemPrompt | None = None
    """System prompt for conversations that have none."""
    seed: int = Field(42, ge=0, le=4294967295)
    """Seed of the draw."""


class Measurement(Spec):
    """What the model is measured on, before and after."""

    validation: list[DataSource] = Field(default_factory=list, max_length=64)
    """Conversations for measuring. Absent, a tenth of the different conversations of `calibration.train` is kept aside."""
    samples: int = Field(128, ge=1, le=65536)
    """Most rows measured for perplexity, agreement and divergence, drawn by `calibration.seed`."""
    answers: int = Field(16, ge=0, le=4096)
    """Questions of these rows that are answered, before and after, to see whether answers still end by themselves. 0 asks none."""
    max_new_tokens: int = Field(256, ge=1, le=65536)
    """Longest answer, in tokens. One that reaches it has not ended by itself."""


class GGUF(Spec):
    """A file for llama.cpp, ollama and what is built on them."""

    type: Literal["F16", "BF16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "Q3_K_M", "Q2_K"] = "Q8_0"
    """How weights are held, by llama.cpp's names: in 16 bits, or in about as many bits as the name begins with."""
    min_equal_rows: float = Field(1.0, ge=0, le=1)
    """Smallest share of the conversations that llama.cpp must cut into the very tokens that the model was trained on. Below it the step
    fails with `GateFailed` and publishes nothing."""


def _of_gptq(field: str, name: str, default: Any) -> Rule:
    """``field``, ``name`` in Python, is as when nothing was said of it where the result is no GPTQ model."""
    there = f"!has(self.{field})" if default is None else f"self.{field} == {json.dumps(default)}"
    return Rule(
        cel=f"self.format == 'GPTQ' || {there}",
        holds=lambda spec: spec.format == "GPTQ" or getattr(spec, name) == default,
        message=f"{field} is GPTQ's, and format is not GPTQ: remove {field}, or set format to GPTQ",
    )


class QuantizeSpec(PublishingSpec):
    """What to quantize, how, by what text, and where the result goes."""

    model: ModelSource
    """The model, not quantized. Adapters are merged first."""
    format: Literal["GPTQ", "GGUF", "FP8"] = "GPTQ"
    """`GPTQ` (arXiv:2210.17323) for transformers and vLLM, by the rows of `calibration`; `GGUF`, one file for llama.cpp and ollama; `FP8`,
    8-bit floats for vLLM on GPUs that compute with them. In the last two no row weighs anything: there the rows show what was lost."""
    gguf: GGUF = Field(default_factory=GGUF)
    """The file. Nothing may be set here with `format: GPTQ`."""
    bits: Literal[2, 3, 4, 8] = 4
    """Bits of a weight. This field and those up to `trueSequential` are GPTQ's."""
    group_size: Literal[-1, 32, 64, 128, 256, 512, 1024] = 128
    """Weights that share a scale; smaller is more exact and larger on disk. The inputs of every layer must be divisible by it. -1 is
    one scale for a whole row."""
    sym: bool = True
    """Symmetric around zero: what the fast kernels read."""
    desc_act: bool = False
    """Quantize columns in the order of their activations: more exact, slower to run in most kernels."""
    act_group_aware: bool | None = None
    """Order columns by their activations without leaving their groups: more exact, at no cost when run. Absent, this is done wherever it
    can be: with groups, and without `descAct`."""
    damp_percent: float = Field(0.05, gt=0, lt=1)
    """Damping of the Hessian's diagonal. Raise it when a layer is reported as not positive definite."""
    true_sequential: bool = True
    """Quantize the layers of a block one after the other, each seeing the error of those before."""
    calibration: Calibration
    """The rows by which rounding errors are weighed, and whose tokens are compared with `format: GGUF`."""
    evaluation: Measurement = Field(default_factory=Measurement)
    """What the model is measured on, before and after."""
    template: TemplateName = "FromModel"
    """How a conversation becomes text: the one that the model was tuned with."""
    template_file: Source | None = None
    """A Jinja chat template with `{% generation %}` around the assistant's text, used in place of `template`."""
    max_perplexity_increase: float | None = Field(None, ge=0, le=100)
    """Largest increase of perplexity, as a share: 0.1 allows 10 to become 11. Above it the step fails with `GateFailed` and publishes
    nothing. Absent, any finite perplexity passes."""
    min_stop_rate: float | None = Field(None, ge=0, le=1)
    """Smallest share of answers that the quantized model ends by itself. Below it the step fails with `GateFailed`
    and publishes nothing."""
    min_token_agreement: float | None = Field(None, ge=0, le=1)
    """Smallest share of the measured positions where the likeliest token is still the original's. Below it the step fails with
    `GateFailed` and publishes nothing."""
    max_mean_divergence: float | None = Field(None, ge=0, allow_inf_nan=False)
    """Largest mean Kullback-Leibler divergence from the original's distribution, in nats a token. Above it the step fails with
    `GateFailed` and publishes nothing."""

    rules: ClassVar = (
        _of_gptq("bits", "bits", 4),
        _of_gptq("groupSize", "group_size", 128),
        _of_gptq("sym", "sym", True),
        _of_gptq("descAct", "desc_act", False),
        _of_gptq("actGroupAware", "act_group_aware", None),
        _of_gptq("dampPercent", "damp_percent", 0.05),
        _of_gptq("trueSequential", "true_sequential", True),
        Rule(
            cel=untouched("gguf", GGUF, unless="self.format == 'GGUF'"),
            holds=lambda spec: spec.format == "GGUF" or spec.gguf == GGUF(),
            message="gguf is of a GGUF file, and format is not GGUF: remove gguf, or set format to GGUF",
        ),
        Rule(
            cel="!self.descAct || !has(self.actGroupAware) || !self.actGroupAware",
            holds=lambda spec: not (spec.desc_act and spec.act_group_aware),
            message="descAct and actGroupAware both order the columns: remove one of them",
        ),
        Rule(
            cel="self.groupSize != -1 || !has(self.actGroupAware) || !self.actGroupAware",
            holds=lambda spec: not (spec.group_size == -1 and spec.act_group_aware),
            message="actGroupAware orders columns within their groups, and groupSize -1 has none: remove actGroupAware",
        ),
        Rule(
            cel="!has(self.templateFile) || self.template == 'FromModel'",
            holds=lambda spec: spec.template_file is None or spec.template == "FromModel",
            message="template and templateFile both name a template: remove one",
        ),
        Rule(
            cel="!has(self.minStopRate) || !has(self.evaluation) || self.evaluation.answers > 0",
            holds=lambda spec: spec.min_stop_rate is None or spec.evaluation.answers > 0,
            message="minStopRate needs answers: set evaluation.answers above 0, or remove minStopRate",
        ),
    )

    @property
    def orders_in_groups(self) -> bool:
        """What an absent `actGroupAware` stands for."""
        if self.act_group_aware is None:
            return not self.desc_act and self.group_size != -1
        return self.act_group_aware


PERPLEXITY = (
    {"name": "Perplexity", "type": "number", "jsonPath": ".status.metrics.perplexity"},
    {"name": "Before", "type": "number", "jsonPath": ".status.metrics.perplexityBefore", "priority": 1},
)


class QuantizeJob(Job):
    """Quantizes a model by GPTQ on your own rows, or writes it as GGUF or in FP8, measures what was lost, and refuses to publish what lost
    too much."""

    short_names: ClassVar = ("qj",)
    columns: ClassVar = tuple(
        each
        for column in JOB_COLUMNS
        if column["name"] != "Nodes"
        for each in (PERPLEXITY if column["name"] == "Loss" else (column,))
    )
    workload: ClassVar = "quantize"
    yields: ClassVar = "GPTQModel"
    name_limit: ClassVar = 45

    kind: Literal["QuantizeJob"] = "QuantizeJob"
    spec: QuantizeSpec

    @property
    def output_kind(self) -> OutputKind:
        made: dict[str, OutputKind] = {"GPTQ": "GPTQModel", "GGUF": "GGUFModel", "FP8": "FP8Model"}
        return made[self.spec.format]
