"""EvaluationJob: models side by side, on held-out text and on questions, with gates."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from alpaca_operator.api.conversations import DataSource, SystemPrompt, TemplateName
from alpaca_operator.api.endpoint import Endpoint, KeyReference
from alpaca_operator.api.generation import Decoding
from alpaca_operator.api.model import ModelName, ShortText, Spec
from alpaca_operator.api.resource import JOB_COLUMNS, Job, JobSpec
from alpaca_operator.api.rows import RowPolicy
from alpaca_operator.api.rules import Rule
from alpaca_operator.api.sources import AdapterSource, AnsweringModel, Source
from alpaca_operator.api.training import Load

Metric = Annotated[str, StringConstraints(min_length=1, max_length=128, pattern=r"^[A-Za-z][A-Za-z0-9_.:/,-]*$")]


class AskedEndpoint(Endpoint):
    """An OpenAI-compatible API, asked by the job."""

    secret_ref: KeyReference | None = None
    """Its API key. Locally the variable `ALPACA_MODELS_<n>_API_KEY` is read, `<n>` the place in `models` from 0 on, or
    `ALPACA_JUDGE_API_KEY`."""


class EvaluatedModel(Spec):
    """A model to be measured."""

    name: ModelName
    """How the report and the gates call it."""
    model: AnsweringModel | None = None
    """The model: full, or quantized by QuantizeJob."""
    endpoint: AskedEndpoint | None = None
    """An OpenAI-compatible API in its place. Only its answers to `prompts` can be measured: it tells no probabilities of a given text, so
    there is neither perplexity nor any other figure of `dataset`, and `tasks` are not run."""
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
        Rule(
            cel="has(self.model) != has(self.endpoint)",
            holds=lambda model: (model.model is None) != (model.endpoint is None),
            message="one of models needs model or endpoint, and not both: name one",
        ),
        Rule(
            cel="!has(self.endpoint) || !(has(self.adapters) && size(self.adapters) > 0 || has(self.load) || has(self.templateFile) || "
            "self.template != 'FromModel')",
            holds=lambda model: (
                model.endpoint is None
                or not (model.adapters or model.load or model.template_file or model.template != "FromModel")
            ),
            message="whoever serves an endpoint sets adapters, load and template there: remove them beside endpoint",
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
    """Questions of your own: JSON lines or CSV with `question` and, if you like, `category` and `reference`; or a Markdown table. Answers to
    questions with a `reference` are held against it."""
    held_out: int | None = Field(None, ge=1, le=100_000)
    """So many conversations of `dataset` are asked, up to their last answer, against which the models' answers are held."""
    categories: list[ShortText] = Field(default_factory=list, max_length=64)
    """Take only questions of these categories; absent takes all."""
    limit: int | None = Field(None, ge=1, le=100_000)
    """Most questions, taken evenly over the categories."""

    rules: ClassVar = (
        Rule(
            cel="[has(self.preset), has(self.file), has(self.heldOut)].filter(given, given).size() == 1",
            holds=lambda prompts: [prompts.preset, prompts.file, prompts.held_out].count(None) == 2,
            message="prompts needs one of preset, file and heldOut: name one",
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


class Judge(Spec):
    """A model that compares answers, two at a time, each pair in both orders."""

    endpoint: AskedEndpoint
    """Where it is asked."""
    against: ModelName
    """Which of `models` the answers of every other one are compared with."""
    max_new_tokens: int = Field(1024, ge=16, le=65536)
    """Longest judgement, in tokens. One without a verdict at its end counts for none, and is told."""


class Gate(Spec):
    """A bound that a model must keep."""

    metric: Metric
    """A metric of the report: of `dataset` `perplexity`, `bitsPerByte`, `evalLoss`, `tokenAccuracy`, with `original` also
    `tokenAgreement`, `meanDivergence`; of `prompts` `stopRate`, `repetitionRate`, `chineseShare`, `answerTokens`,
    `answerCharacters`, `emptyRate`, `answerTokensPerSecond`, with references also `exactMatch`, `tokenF1`, `chrF`, with `judge` also
    `winRate`, `tieRate`, `lossRate`; of any `peakMemoryBytes`, `weightBytes`; of a task its own, such as `ceval-valid/acc`."""
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
    original: ModelName | None = None
    """Which of `models` the others were made from: of each that reads the rows of `dataset` in the same tokens, `tokenAgreement` is the share
    of the positions where its likeliest token is the original's, `meanDivergence` the mean Kullback-Leibler divergence from the original."""
    prompts: Prompts | None = None
    """Questions that every model answers, side by side."""
    judge: Judge | None = None
    """A model that says which of two answers is better."""
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
            cel="!has(self.prompts) || !has(self.prompts.heldOut) || has(self.dataset)",
            holds=lambda spec: spec.prompts is None or spec.prompts.held_out is None or spec.dataset is not None,
            message="prompts.heldOut asks conversations of dataset, and there is none: set dataset",
        ),
        Rule(
            cel="has(self.prompts) || self.models.all(model, !has(model.endpoint))",
            holds=lambda spec: spec.prompts is not None or all(model.endpoint is None for model in spec.models),
            message="an endpoint can only be asked questions, and there are none: set prompts, or name the model itself",
        ),
        Rule(
            cel="!has(self.original) || self.models.exists(model, model.name == self.original && !has(model.endpoint))",
            holds=lambda spec: (
                spec.original is None
                or any(model.name == spec.original and model.endpoint is None for model in spec.models)
            ),
            message="original names no model among models that is loaded here: correct it",
        ),
        Rule(
            cel="!has(self.original) || (has(self.dataset) && size(self.models) > 1)",
            holds=lambda spec: spec.original is None or (spec.dataset is not None and len(spec.models) > 1),
            message="original is what other models are held against, on the rows of dataset: set dataset and name another model, or remove original",
        ),
        Rule(
            cel="!has(self.judge) || (has(self.prompts) && size(self.models) > 1)",
            holds=lambda spec: spec.judge is None or (spec.prompts is not None and len(spec.models) > 1),
            message="judge compares the answers of two models: set prompts and name another model, or remove judge",
        ),
        Rule(
            cel="!has(self.judge) || self.models.exists(model, model.name == self.judge.against)",
            holds=lambda spec: spec.judge is None or spec.judge.against in {model.name for model in spec.models},
            message="judge.against names a model that is not among models: correct it",
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
