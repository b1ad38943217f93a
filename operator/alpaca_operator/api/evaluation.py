"""EvaluationJob: models side by side, on held-out text and on questions, with gates."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from alpaca_operator.api.conversations import DataSource, SystemPrompt, TemplateName
from alpaca_operator.api.generation import Decoding
from alpaca_operator.api.model import ModelName, ShortText, Spec
from alpaca_operator.api.resource import JOB_COLUMNS, Job, JobSpec
from alpaca_operator.api.rows import RowPolicy
from alpaca_operator.api.rules import Rule
from alpaca_operator.api.sources import AdapterSource, ServableSource, Source
from alpaca_operator.api.training import Load

Metric = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z][A-Za-z0-9_.:/,-]*$")]


class EvaluatedModel(Spec):
    """A model to be measured."""

    name: ModelName
    """How the report and the gates call it."""
    model: ServableSource
    """The model: full, or quantized by QuantizeJob."""
    adapters: list[AdapterSource] = Field(default_factory=list, max_length=16)
    """Adapters put on it, not merged."""
    load: Load | None = None
    """Hold it in 8 or 4 bits. Not for a model that is quantized already."""
    template: TemplateName = "FromModel"
    """How a question becomes text for this model."""
    template_file: Source | None = None
    """A Jinja chat template, used in place of `template`."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.templateFile) || self.template == 'FromModel'",
            holds=lambda model: model.template_file is None or model.template == "FromModel",
            message="template and templateFile both name a template: remove one",
        ),
    )


class HeldOut(RowPolicy):
    """Conversations that no model was trained on."""

    validation: list[DataSource] = Field(min_length=1, max_length=64)
    """Sources of conversations, in any format that SFTJob reads."""
    sequence_length: int = Field(2048, ge=16, le=1_048_576)
    """Longest row in tokens; longer conversations are cut between turns. One that some model cannot hold in whole turns is left out for
    all, so that every model is measured on the same answers."""
    samples: int | None = Field(None, ge=1, le=10_000_000)
    """Rows drawn, the same for every model; absent takes all."""
    system_prompt: SystemPrompt | None = None
    """System prompt for conversations that have none."""


class Prompts(Spec):
    """Questions that every model answers."""

    preset: Literal["zh"] | None = None
    """`zh`: the questions that come with the workload, in Chinese, in eight categories."""
    file: Source | None = None
    """Questions of your own: JSON lines or CSV with `question` and, if you like, `category` and `reference`; or a Markdown table."""
    categories: list[ShortText] = Field(default_factory=list, max_length=64)
    """Take only questions of these categories; absent takes all."""
    limit: int | None = Field(None, ge=1, le=100_000)
    """Most questions, taken evenly over the categories."""

    rules: ClassVar = (
        Rule(
            cel="has(self.preset) != has(self.file)",
            holds=lambda prompts: (prompts.preset is None) != (prompts.file is None),
            message="prompts needs preset or file, and not both: name one",
        ),
    )


class Generation(Decoding):
    """How questions are answered."""

    temperature: float = Field(0.0, ge=0, le=2)
    """0 takes the likeliest token each time, so that a run can be repeated. Higher values draw, by `seed`."""
    repetition_penalty: float = Field(1.0, ge=1, le=10)
    """Tokens that were used already become this much less likely. 1, off, shows the model as it is."""
    max_new_tokens: int = Field(256, ge=1, le=65536)
    """Longest answer, in tokens. An answer that reaches it has not stopped by itself."""
    batch_size: int = Field(8, ge=1, le=4096)
    """Questions answered, and rows measured, together."""
    seed: int = Field(42, ge=0, le=4294967295)
    """Seed of the draw. By the same seed and settings a chat gives the same answer."""

    rules: ClassVar = (
        Rule(
            cel="self.temperature > 0.0 || (self.topP == 0.95 && self.topK == 50 && self.seed == 42)",
            holds=lambda how: how.temperature > 0 or (how.top_p, how.top_k, how.seed) == (0.95, 50, 42),
            message="generation.topP, topK and seed are of a draw, and temperature 0 draws nothing: remove them, or set temperature above 0",
        ),
    )


class Task(Spec):
    """A task of lm-evaluation-harness."""

    name: Metric
    """Its name, such as `ceval-valid` or `cmmlu`."""
    num_fewshot: int | None = Field(None, ge=0, le=64)
    """Examples put before each question; absent leaves it to the task."""
    limit: int | None = Field(None, ge=1, le=10_000_000)
    """Most questions of each subtask; absent takes all."""


class Gate(Spec):
    """A bound that a model must keep."""

    metric: Metric
    """A metric of the report: of `dataset` `perplexity`, `bitsPerByte`, `evalLoss`, `tokenAccuracy`; of `prompts` `stopRate`,
    `repetitionRate`, `chineseShare`, `answerTokens`, `answerCharacters`, `emptyRate`, `answerTokensPerSecond`; of any
    `peakMemoryBytes`, `weightBytes`; of a task its own, such as `ceval-valid/acc`."""
    model: ModelName
    """Which of `models`."""
    min: float | None = Field(None, allow_inf_nan=False)
    """Smallest value that passes."""
    max: float | None = Field(None, allow_inf_nan=False)
    """Largest value that passes."""

    rules: ClassVar = (
        Rule(
            cel="has(self.min) || has(self.max)",
            holds=lambda gate: gate.min is not None or gate.max is not None,
            message="a gate needs min or max",
        ),
    )


class EvaluationSpec(JobSpec):
    """What to measure, on what, and what has to hold."""

    models: list[EvaluatedModel] = Field(min_length=1, max_length=16)
    """The models, loaded one after the other."""
    dataset: HeldOut | None = None
    """Held-out conversations: loss, perplexity, token accuracy, bits per byte."""
    prompts: Prompts | None = None
    """Questions that every model answers, side by side."""
    system_prompt: SystemPrompt | None = None
    """System prompt before every question."""
    system_prompt_preset: Literal["llama2-zh"] | None = None
    """A system prompt known by name: `llama2-zh` is the bilingual one that literary-alpaca2 was tuned with."""
    generation: Generation = Field(default_factory=Generation)
    """How questions are answered."""
    tasks: list[Task] = Field(default_factory=list, max_length=64)
    """Tasks of lm-evaluation-harness. Their data must be reachable, or lie in the cache."""
    task_files: Source | None = None
    """A folder with tasks of your own, as lm-evaluation-harness reads them."""
    gates: list[Gate] = Field(default_factory=list, max_length=64)
    """Bounds. Where one is broken the step fails with `GateFailed`, and what depends on it does not start."""

    rules: ClassVar = (
        Rule(
            cel="has(self.dataset) || has(self.prompts) || (has(self.tasks) && size(self.tasks) > 0)",
            holds=lambda spec: spec.dataset is not None or spec.prompts is not None or len(spec.tasks) > 0,
            message="nothing is measured: give dataset, prompts or tasks",
        ),
        Rule(
            cel="has(self.prompts) || !(has(self.systemPrompt) || has(self.systemPromptPreset))",
            holds=lambda spec: spec.prompts is not None or not (spec.system_prompt or spec.system_prompt_preset),
            message="systemPrompt and systemPromptPreset are put before questions, and there are none: set prompts, or dataset.systemPrompt for rows",
        ),
        Rule(
            cel="(has(self.tasks) && size(self.tasks) > 0) || !has(self.taskFiles)",
            holds=lambda spec: len(spec.tasks) > 0 or spec.task_files is None,
            message="taskFiles holds tasks that nothing runs: name them in tasks",
        ),
        Rule(
            cel="has(self.dataset) || has(self.prompts) || self.models.all(model, model.template == 'FromModel' && !has(model.templateFile))",
            holds=lambda spec: (
                spec.dataset is not None
                or spec.prompts is not None
                or all(model.template == "FromModel" and model.template_file is None for model in spec.models)
            ),
            message="tasks bring formats of their own, which no template changes: remove template and templateFile of models, or set dataset or prompts",
        ),
        Rule(
            cel="!has(self.systemPrompt) || !has(self.systemPromptPreset)",
            holds=lambda spec: spec.system_prompt is None or spec.system_prompt_preset is None,
            message="systemPrompt and systemPromptPreset both name a system prompt: remove one",
        ),
        Rule(
            cel="self.models.all(model, self.models.exists_one(other, other.name == model.name))",
            holds=lambda spec: len({model.name for model in spec.models}) == len(spec.models),
            message="two of models have the same name: give each a name of its own",
        ),
        Rule(
            cel="!has(self.gates) || self.gates.all(gate, self.models.exists(model, model.name == gate.model))",
            holds=lambda spec: {gate.model for gate in spec.gates} <= {model.name for model in spec.models},
            message="a gate names a model that is not among models: correct gates[].model",
        ),
    )


class EvaluationJob(Job):
    """Measures models side by side, on held-out conversations, questions and benchmark tasks, and fails where a gate is broken."""

    short_names: ClassVar = ("evalj",)
    columns: ClassVar = (
        *(column for column in JOB_COLUMNS if column["name"] not in ("Loss", "Model", "From", "Nodes")),
        {"name": "Metrics", "type": "string", "jsonPath": ".status.metrics", "priority": 1},
    )
    workload: ClassVar = "evaluate"
    yields: ClassVar = "Report"
    name_limit: ClassVar = 45

    kind: Literal["EvaluationJob"] = "EvaluationJob"
    spec: EvaluationSpec
