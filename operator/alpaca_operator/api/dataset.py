"""DatasetJob: raw text of many origins made into a corpus."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, StringConstraints

from alpaca_operator.api.conversations import DataFormat
from alpaca_operator.api.corpus import Encoding
from alpaca_operator.api.model import ShardSize, ShortText, Spec
from alpaca_operator.api.resource import JOB_COLUMNS, Job, JobSpec
from alpaca_operator.api.rows import RowPolicy
from alpaca_operator.api.rules import Rule
from alpaca_operator.api.sources import Source, TokenizerSource

RawFormat = Literal[
    "Auto",
    "Text",
    "JSONL",
    "JSON",
    "CSV",
    "Parquet",
    "Arrow",
    "WikiExtractor",
    "WikiXML",
    "WuDao",
    "MNBVC",
    "CLUE",
    "EPUB",
]
Preset = Literal["Characters", "Web", "Advertisements", "Scans"]
Mask = Literal["PhoneNumber", "IDCard", "Email", "IPAddress"]
SourceName = Annotated[str, StringConstraints(min_length=1, max_length=60, pattern=r"^[^\s/\\][^/\\\n]*$")]
RuleName = Annotated[str, StringConstraints(min_length=1, max_length=60, pattern=r"^[A-Za-z][A-Za-z0-9-]*$")]
Pattern = Annotated[str, StringConstraints(min_length=1, max_length=2048)]
Language = Annotated[str, StringConstraints(min_length=2, max_length=2, pattern=r"^[a-z]{2}$")]
Word = Annotated[str, StringConstraints(min_length=1, max_length=253)]


class RawColumns(Spec):
    """The fields of a row."""

    text: ShortText = "text"
    """Column, or JSON key, that holds the text."""
    title: ShortText | None = None
    """Column, or JSON key, of a title: it becomes the first line of the document, unless it is that already."""


class ConversationRows(Spec):
    """The layout of rows that are conversations."""

    format: DataFormat = "Auto"
    """How rows are read, as in SFTJob. `Auto` decides by the columns of each file, and says what it chose."""
    columns: dict[ShortText, ShortText] = Field(default_factory=dict, max_length=16)
    """The format's column names mapped to the file's own, such as `{instruction: 问题, output: 答案}`."""


class RawRows(Source):
    """A file, or a folder of files (with its subfolders, linked ones too), of text as it came: .txt, JSON lines, JSON arrays, CSV, MediaWiki's
    XML, each also as .gz, .bz2 or .zst, Parquet, Arrow, EPUB; and what lies in .zip and .tar. It is never changed."""

    content: ClassVar = "Dataset"
    accepts: ClassVar = frozenset({"Dataset"})

    format: RawFormat = "Auto"
    """How files are read. `Auto` goes by their endings, and looks into files that have none; files of another kind are left out, and named.
    A named format reads every file of the folder so. Rows without `columns.text` that have the fields of WuDao, MNBVC or CLUE are read as
    these; books (`.epub`) and dumps of MediaWiki (`.xml`) are known by their endings, what WikiExtractor wrote by its first line (`<doc id=`)."""
    columns: RawColumns = Field(default_factory=RawColumns)
    """Where the text is in rows of JSON, CSV and Parquet, such as `{text: 内容}`."""
    conversations: ConversationRows | None = None
    """With `content: Conversations`: the layout of the rows, where `Auto` is wrong."""
    encoding: Encoding = "Auto"
    """Encoding of text files, JSON and CSV. `Auto` tells it for each file from a sample; name it where that is wrong."""


class RawSource(RawRows):
    """Text as it came."""

    name: SourceName | None = None
    """How the report and each document call it. Absent, it is the last part of the uri, or the name of the job that makes it."""
    license: ShortText | None = None
    """Licence of the source, such as `CC-BY-SA-4.0`, for the card of the corpus."""
    max_documents: int | None = Field(None, ge=1, le=10_000_000_000)
    """Read so many documents at most, the first of the files by name. A source with a bound is read by one process."""
    max_bytes: int | None = Field(None, ge=1, le=1_000_000_000_000_000)
    """Read documents until their text has so many bytes (in UTF-8); the document that passes the bound is the last."""
    weight: float = Field(1.0, ge=0.001, le=100)
    """How often its documents stand in the training part: 2 is twice, in files of their own, 0.5 is one of two, drawn by `seed`."""


class CleaningRule(Spec):
    """A regular expression, and what is done to text that it finds."""

    name: RuleName
    """How counts and examples call it."""
    pattern: Pattern
    """A regular expression as Python's `re` reads it; `^` and `$` are the ends of a line."""
    action: Literal["Replace", "Unescape", "DropLine", "DropDocument"] = "Replace"
    """`Replace` puts `replacement` in the place of each match, `Unescape` what HTML shows for it (`&ldquo;`, `&#8220;`),
    `DropLine` leaves out lines that have one, `DropDocument` documents."""
    replacement: Word | None = None
    """With `Replace`: what a match becomes, with `\\1` for its first group; absent removes the match."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.replacement) || self.action == 'Replace'",
            holds=lambda rule: rule.replacement is None or rule.action == "Replace",
            message="replacement is only read with action Replace: remove one of them",
        ),
    )


class Normalization(Spec):
    """One way to write a character."""

    width: Literal["Keep", "HalfLetters"] = "Keep"
    """`HalfLetters` writes full-width Latin letters and digits (Ａ１) in half width, and leaves Chinese punctuation as it is."""
    traditional: Literal["Keep", "ToSimplified", "ToTraditional"] = "Keep"
    """Traditional characters to simplified ones, or the other way, by OpenCC's dictionaries."""
    whitespace: Literal["Keep", "Collapse"] = "Keep"
    """`Collapse` writes each run of spaces in a line, full-width ones too, as one space, takes out those at its ends, indents among them, and leaves one
    empty line of several. Layouts that mean something, such as code and tables, are lost by it."""


class Cleaning(Spec):
    """What is mended or taken out of documents. Rules work in the order: `normalize`, presets, `rulesFile`, `rules`."""

    presets: list[Preset] = Field(["Characters"], max_length=8)
    """Named sets of rules. `Characters` mends what is no text (control and zero-width characters, line ends, spaces of other widths, runs of empty lines).
    The others take text out: `Web` rests of markup and navigation, `Advertisements` lines that advertise or ask to share, `Scans` page
    numbers and debris of character recognition, and joins lines that the page had broken."""
    rules_file: Source | None = None
    """More rules, as a YAML file: a list of entries with `name`, `sentence`, `chinese`, `pattern`, `action`, `replacement`, and `examples`
    (`[{before, after}]`), which are tried before anything is read."""
    rules_: list[CleaningRule] = Field(default_factory=list, max_length=64, alias="rules")
    """Rules of your own."""
    normalize: Normalization = Field(default_factory=Normalization)
    """Width and script of characters, and spaces."""


class Filters(Spec):
    """Documents that are left out, measured after cleaning. A filter that is absent leaves none out."""

    min_characters: int | None = Field(None, ge=1, le=1_000_000_000)
    """Fewest characters."""
    max_characters: int | None = Field(None, ge=1, le=1_000_000_000)
    """Most characters."""
    min_chinese_share: float | None = Field(None, gt=0, le=1)
    """Least share of Chinese characters among those that are no space."""
    max_symbol_share: float | None = Field(None, ge=0, lt=1)
    """Largest share of characters that are neither letters (of any script), digits, spaces nor punctuation."""
    max_duplicate_line_share: float | None = Field(None, ge=0, lt=1)
    """Largest share of the characters that stand in lines which repeat an earlier line of the document."""
    max_duplicate_ngram_share: float | None = Field(None, ge=0, lt=1)
    """Largest share of the runs of ten characters that repeat an earlier run of the document."""
    language: list[Language] = Field(default_factory=list, max_length=75)
    """Languages that stay, by their codes in ISO 639-1, such as `[zh, en]`; traditional and simplified Chinese are both `zh`. The language of a document is told
    by lingua from 1,000 characters in its middle; one in which it sees none is left out."""
    blocklist: list[Word] = Field(default_factory=list, max_length=1024)
    """Words; a document that holds one of them is left out."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.minCharacters) || !has(self.maxCharacters) || self.minCharacters <= self.maxCharacters",
            holds=lambda filters: (
                filters.min_characters is None
                or filters.max_characters is None
                or filters.min_characters <= filters.max_characters
            ),
            message="minCharacters is above maxCharacters, and no document would be left: lower it, or raise maxCharacters",
        ),
    )


class NearDuplicates(Spec):
    """Documents that are nearly alike: the similarity of two is the share of all their runs of characters that both have."""

    ngram: int = Field(5, ge=2, le=20)
    """Characters of a run; letters and digits alone count. Longer runs tell more, and find less in short documents."""
    threshold: float = Field(0.8, ge=0.5, le=0.95)
    """Similarity from which one of two is left out. Of the pairs 0.05 above it 99 in 100 are found; a document that is not as similar as this
    to one that stays is never left out for it, within 0.02 or so for long documents."""
    keep: Literal["Longest", "FirstSource"] = "Longest"
    """Which stays: the longest, or that of the source named first (the longest of them)."""


class EarlierCorpus(RawRows):
    """A corpus that was made earlier. Nothing of it is written; it is cleaned by the same rules, so that like is compared with like."""


class Deduplication(Spec):
    """Documents that say what another one says. Of equal ones that of the source named first stays."""

    exact: Literal["Document", "Paragraph", "None"] = "Document"
    """`Document` leaves out documents that are equal to another after cleaning, spaces and line ends aside. `Paragraph` does so too, and then
    takes out of each document the lines that stand in an earlier one: those of 20 letters and digits or more."""
    near: NearDuplicates | None = None
    """Leave out documents that are nearly like another, by MinHash over runs of characters. Absent, they stay; `{}` takes the defaults."""
    against: list[EarlierCorpus] = Field(default_factory=list, max_length=64)
    """Earlier corpora: what they hold, exactly or nearly, is left out here."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.against) || size(self.against) == 0 || self.exact != 'None' || has(self.near)",
            holds=lambda asked: not asked.against or asked.exact != "None" or asked.near is not None,
            message="against is compared by exact or near: set one of them, or remove against",
        ),
    )


class HeldOutSource(Source):
    """Rows that are measured on, in whatever a source may be; archives too. Every text in a row counts, of all splits; of a text file every line."""

    content: ClassVar = "Dataset"
    accepts: ClassVar = frozenset({"Dataset"})


class Decontamination(Spec):
    """Documents that hold what a model will be measured on."""

    against: list[HeldOutSource] = Field(min_length=1, max_length=64)
    """The rows of evaluation and held-out sets."""
    ngram: int = Field(13, ge=5, le=100)
    """Characters of a run; letters and digits alone count. Texts of fewer are not looked for."""
    share: float = Field(0.5, gt=0, le=1)
    """A document that has so much of the runs of one text is left out."""


class Privacy(Spec):
    """What tells of persons."""

    mask: list[Mask] = Field(default_factory=list, max_length=4)
    """Kinds of numbers and addresses that are written as `[电话]`, `[身份证]`, `[邮箱]`, `[IP]`. None unless asked for."""


class Split(Spec):
    """Documents that are set aside for validation, drawn by `seed` after duplicates are out, whole ones."""

    validation_share: float | None = Field(None, gt=0, lt=1)
    """Share of the documents; one at least."""
    validation_documents: int | None = Field(None, ge=1, le=100_000_000)
    """Their number; half of all at most."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.validationShare) || !has(self.validationDocuments)",
            holds=lambda split: split.validation_share is None or split.validation_documents is None,
            message="validationShare and validationDocuments both say how much is set aside: remove one",
        ),
    )


class Mixing(Spec):
    """How often sources of different sizes stand in the training part."""

    temperature: float | None = Field(None, ge=1, le=100)
    """Draws sources in proportion to n^(1/T), n being the bytes that each has for training: at 1 as they are, the higher the more alike. The largest
    stands once, smaller ones are repeated (Arivazhagan et al. 2019, arXiv:1907.05019). Absent, `weight` of each source says it."""
    epochs_per_source: float | None = Field(None, ge=1, le=100)
    """With `temperature`: how often a source stands at most. Absent is 4, up to which repeated text teaches about as much as new
    (Muennighoff et al. 2023, arXiv:2305.16264)."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.epochsPerSource) || has(self.temperature)",
            holds=lambda mixing: mixing.epochs_per_source is None or mixing.temperature is not None,
            message="epochsPerSource is only read with temperature: set it, or lower the weight of sources",
        ),
    )


class CorpusParallelism(Spec):
    """How many machines and processes work at once. The result is the same, byte for byte, whatever their number."""

    nodes: int = Field(1, ge=1, le=1024)
    """Pods that share the work. All of them mount what the output and the cache lie on (ReadWriteMany); one that is lost is replaced, and
    makes its part alone again. Above 1 the operator makes an Indexed Job."""
    processes_per_node: int | None = Field(None, ge=1, le=256)
    """Processes in each pod. Absent, there is one for each processor that it may use. Each needs up to 2 GB of memory."""

    non_semantic: ClassVar = frozenset({"nodes", "processes_per_node"})


ROW_FORMATS = ("Auto", "JSONL", "JSON", "CSV", "Parquet", "Arrow")
"""Formats of files that hold rows."""


def _every(spec: "DatasetSpec") -> list[RawRows]:
    return [*spec.sources, *spec.deduplicate.against]


def _all(condition: str) -> str:
    """CEL: a condition on ``s``, of every source and every earlier corpus."""
    against = "has(self.deduplicate) && has(self.deduplicate.against)"
    return f"(self.sources.all(s, {condition}) && (!({against}) || self.deduplicate.against.all(s, {condition})))"


class DatasetSpec(RowPolicy, JobSpec):
    """What to read, what to take out, and where the corpus goes."""

    content: Literal["Text", "Conversations"] = "Text"
    """What sources hold. `Conversations` are rows in the layouts that SFTJob reads: every message is cleaned, two that ask the same are
    duplicates, and the output has their `messages`, which SFTJob reads."""
    sources: list[RawSource] = Field(min_length=1, max_length=64)
    """Text as it came."""
    clean: Cleaning = Field(default_factory=Cleaning)
    """What is mended or taken out of documents."""
    filters: Filters = Field(default_factory=Filters)
    """Documents that are left out."""
    deduplicate: Deduplication = Field(default_factory=Deduplication)
    """Documents that say what another one says."""
    decontaminate: Decontamination | None = None
    """Documents that hold rows of evaluation sets are left out."""
    privacy: Privacy = Field(default_factory=Privacy)
    """What tells of persons."""
    split: Split = Field(default_factory=Split)
    """What is set aside for validation: the folder `validation` of the output, which a PretrainJob reads that names this job in
    `dataset.validation`."""
    mixing: Mixing = Field(default_factory=Mixing)
    """How often sources of different sizes stand in the training part."""
    shuffle: bool = False
    """Write documents in an order that is drawn by `seed`, over all sources, instead of in that of their files. Copies by weight are
    strewn among them, and may stand near each other. It takes the room of the corpus once more while it is made."""
    seed: int = Field(42, ge=0, le=2**31 - 1)
    """Draws what is set aside, the order of `shuffle`, and the examples of the report."""
    shard_size: ShardSize = "256MB"
    """Size, before compression, at which a file of the output is full."""
    format: Literal["JSONL", "Parquet"] = "JSONL"
    """Format of the output: JSON lines, or Parquet, of which a reader takes the columns that it needs. Both are read by `from`."""
    compression: Literal["zstd", "gzip", "None"] = "zstd"
    """How files of the output are packed; each reader of ours opens all three."""
    tokenizer: TokenizerSource | None = None
    """Tells in the report how many characters of each source a token has."""
    parallelism: CorpusParallelism = Field(default_factory=CorpusParallelism)
    """How many pods and processes work at once."""

    rules: ClassVar = (
        *RowPolicy.rules,
        Rule(
            cel=f"self.content == 'Conversations' || {_all('!has(s.conversations)')}",
            holds=lambda spec: (
                spec.content == "Conversations" or all(source.conversations is None for source in _every(spec))
            ),
            message="conversations is only read with content Conversations: set it, or remove conversations",
        ),
        Rule(
            cel="self.content == 'Text' || "
            + _all(
                f"s.format in {list(ROW_FORMATS)} && (!has(s.columns) || (s.columns.text == 'text' && !has(s.columns.title)))"
            ),
            holds=lambda spec: (
                spec.content == "Text"
                or all(source.format in ROW_FORMATS and source.columns == RawColumns() for source in _every(spec))
            ),
            message=f"conversations are rows: set format to one of {', '.join(ROW_FORMATS)}, and conversations.columns in place of columns",
        ),
        Rule(
            cel="!has(self.mixing) || !has(self.mixing.temperature) || self.sources.all(s, s.weight == 1.0)",
            holds=lambda spec: spec.mixing.temperature is None or all(source.weight == 1 for source in spec.sources),
            message="mixing.temperature and the weight of a source both say how often it is repeated: remove one of them",
        ),
        Rule(
            cel="self.content == 'Text' || !has(self.deduplicate) || self.deduplicate.exact != 'Paragraph'",
            holds=lambda spec: spec.content == "Text" or spec.deduplicate.exact != "Paragraph",
            message="deduplicate.exact Paragraph takes lines out of text: with content Conversations set it to Document",
        ),
    )
    non_semantic: ClassVar = JobSpec.non_semantic | {"parallelism"}


class DatasetJob(Job):
    """Cleans, filters and de-duplicates raw text into a corpus, and reports what became of every document."""

    short_names: ClassVar = ("dataj",)
    columns: ClassVar = (
        *(column for column in JOB_COLUMNS if column["name"] not in ("Loss", "Model", "From")),
        {"name": "Kept", "type": "number", "jsonPath": ".status.metrics.documentsKept"},
        {"name": "Duplicates", "type": "number", "jsonPath": ".status.metrics.duplicates"},
    )
    workload: ClassVar = "dataset"
    yields: ClassVar = "Dataset"
    name_limit: ClassVar = 46
    name_rules: ClassVar = (
        Rule(
            cel="!has(self.spec.parallelism) || self.spec.parallelism.nodes == 1 || !self.metadata.name.contains('.')",
            holds=lambda job: job.spec.parallelism.nodes == 1 or "." not in job.metadata.name,
            message="metadata.name of a job of several nodes becomes the name of hosts: write it without dots",
        ),
    )
    nodes_work_apart: ClassVar = True

    kind: Literal["DatasetJob"] = "DatasetJob"
    spec: DatasetSpec

    @property
    def nodes(self) -> int:
        return self.spec.parallelism.nodes
