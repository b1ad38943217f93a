"""Plain text as an input: what TokenizerJob learns a vocabulary from."""

from typing import ClassVar, Literal

from pydantic import Field

from alpaca_operator.api.model import ShortText, Spec
from alpaca_operator.api.rows import RowPolicy
from alpaca_operator.api.sources import Source

CorpusFormat = Literal["Auto", "Text", "JSONL", "CSV", "Parquet", "Arrow"]
Encoding = Literal[
    "Auto", "utf-8", "gb18030", "big5", "utf-16", "utf-16-le", "utf-16-be", "shift_jis", "euc_kr", "cp1252"
]


class CorpusColumns(Spec):
    """The fields of a row."""

    text: ShortText = "text"
    """Column, or JSON key, that holds the text."""


class CorpusSource(Source):
    """A file, or a folder of files (with its subfolders, linked ones too), of text: .txt, JSON lines, CSV, each also as .gz, .bz2 or .zst, Parquet, Arrow,
    or a data set saved by `datasets`."""

    content: ClassVar = "Dataset"
    accepts: ClassVar = frozenset({"Dataset"})

    format: CorpusFormat = "Auto"
    """How files are read. `Auto` goes by their endings: `.txt`, `.jsonl` or `.ndjson` or `.json`, `.csv` or `.tsv`, `.parquet`, `.arrow`; other
    files of a folder are left out, and named. A single file with another ending, or none, is looked at. Name it where the endings say something
    else."""
    columns: CorpusColumns = Field(default_factory=CorpusColumns)
    """Where the text is in rows of JSON lines, CSV and Parquet, such as `{text: 内容}`."""
    encoding: Encoding = "Auto"
    """Encoding of text files, JSON lines and CSV. `Auto` tells it for each file from a sample; name it where that is wrong."""


class Corpus(RowPolicy):
    """The text to learn from."""

    train: list[CorpusSource] = Field(min_length=1, max_length=64)
    """Sources of text, read in this order. They are never changed."""
