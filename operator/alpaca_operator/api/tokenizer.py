"""TokenizerJob: a vocabulary trained on text and merged into a Llama tokenizer."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from alpaca_operator.api.corpus import Corpus
from alpaca_operator.api.model import Spec
from alpaca_operator.api.resource import JOB_COLUMNS, Job, JobSpec
from alpaca_operator.api.sources import TokenizerSource

ComparedName = Annotated[
    str, StringConstraints(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._ -]*[A-Za-z0-9])?$")
]


class ComparedTokenizer(TokenizerSource):
    """A tokenizer whose characters per token are reported beside ours."""

    name: ComparedName
    """How the report calls it: letters, digits, `.`, `_`, `-` and spaces."""


class VocabularyTraining(Spec):
    """The new vocabulary (sentencepiece, BPE with byte fallback, text taken as it is)."""

    vocab_size: int = Field(32000, ge=320, le=1_000_000)
    """Pieces to train, of which 259 are bytes and control tokens. Those that the base has already, and those that Chinese does not
    need, are not taken over."""
    character_coverage: float = Field(0.9995, ge=0.98, le=1)
    """Share of the text's characters that get a piece of their own; the rest is written in bytes. Lowered, with a word, when
    `vocabSize` has no room for so many different characters."""
    input_sentence_size: int = Field(1_000_000, ge=1000, le=1_000_000_000)
    """Sentences to train on, drawn evenly from the whole text where it has more; a line of more than 200 characters is several. It
    bounds memory: 25 to 50 bytes for each byte of text, so 4 to 8 GB for a million sentences of 50 Chinese characters."""


class VocabularyMerge(Spec):
    """How the new pieces join the base."""

    max_size: int = Field(65536, ge=64, le=1_048_576, multiple_of=64)
    """Most pieces in all; those ranked lowest are dropped. 65536 is the largest size whose ids fit two bytes. The size that results
    is a multiple of 64 too."""


class TokenizerSpec(JobSpec):
    """What to extend, from what text, and where the result goes."""

    base: TokenizerSource
    """The tokenizer to extend: a folder with a sentencepiece tokenizer.model, or that file. Its pieces keep their ids. Byte-level BPE
    (Llama-3, Qwen) cannot be extended."""
    dataset: Corpus
    """The text to learn from."""
    train: VocabularyTraining = Field(default_factory=VocabularyTraining)
    """The new vocabulary."""
    merge: VocabularyMerge = Field(default_factory=VocabularyMerge)
    """How it joins the base."""
    compare_with: list[ComparedTokenizer] = Field(default_factory=list, max_length=16)
    """Other tokenizers for the report's comparison of characters per token."""


class TokenizerJob(Job):
    """Trains a vocabulary on text, merges it into a Llama tokenizer, and reports what was gained."""

    short_names: ClassVar = ("tokj",)
    columns: ClassVar = (
        *(column for column in JOB_COLUMNS if column["name"] not in ("Loss", "Model", "From", "Nodes")),
        {"name": "Base", "type": "string", "jsonPath": ".spec.base.uri", "priority": 1},
    )
    workload: ClassVar = "tokenizer"
    yields: ClassVar = "Tokenizer"
    name_limit: ClassVar = 44

    kind: Literal["TokenizerJob"] = "TokenizerJob"
    spec: TokenizerSpec
