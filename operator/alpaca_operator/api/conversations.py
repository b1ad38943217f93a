"""Conversations as several kinds read them: their files, and how they become text."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from alpaca_operator.api.mixture import Share
from alpaca_operator.api.model import ShortText
from alpaca_operator.api.rows import RowPolicy
from alpaca_operator.api.sources import Source

DataFormat = Literal["Auto", "HumanAssistantText", "InputTarget", "Alpaca", "ShareGPT", "Messages", "LCCC", "Math23K"]
TemplateName = Literal["FromModel", "HumanAssistant", "Llama2", "Llama3", "ChatML"]
SystemPrompt = Annotated[str, StringConstraints(max_length=8192)]


class DataSource(Source):
    """A file, or a folder of files (with its subfolders, linked ones too), with conversations: CSV, JSON, JSONL, each also as .gz, .bz2 or .zst, Parquet,
    Arrow, or a data set saved by `datasets`."""

    content: ClassVar = "Dataset"
    accepts: ClassVar = frozenset({"Dataset"})

    format: DataFormat = "Auto"
    """How rows are read. `Auto` decides by the columns of each file and says what it chose; name it when that is wrong."""
    columns: dict[ShortText, ShortText] = Field(default_factory=dict, max_length=16)
    """The format's column names mapped to the file's own, such as `{instruction: 问题, output: 答案}`."""


class SFTDataset(RowPolicy):
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
    system_prompt: SystemPrompt | None = None
    """System prompt for conversations that have none."""


class TrainedSource(DataSource, Share):
    """A source of conversations, and how much of it is trained on."""


class TrainedDataset(SFTDataset):
    """The conversations to train on and to validate with, weighed against each other."""

    train: list[TrainedSource] = Field(min_length=1, max_length=64)  # type: ignore[assignment]  # a list that is only read
    """Sources of training rows, read in this order."""
    max_eval_tokens: int | None = Field(None, ge=1, le=1_000_000_000_000)
    """Tokens that an evaluation reads at most: of the validation rows as many as fit, drawn by `training.seed`. Those that do not are not
    trained on either."""
