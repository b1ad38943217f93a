"""The stages of a corpus, one after the other, each in a folder that is named after all that shapes what it makes.

A stage that is whole is not made again: not after a kill, and not for a job whose settings differ only in what comes later.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from datatrove.pipeline.dedup.exact_dedup import ExactDedupConfig, ExactFindDedups
from datatrove.pipeline.dedup.minhash import MinhashDedupBuckets, MinhashDedupFilter

from alpaca_operator.api.dataset import DatasetSpec, NearDuplicates
from workloads.curation import choice, clusters, equal, near, paragraphs, shards, steps
from workloads.curation.cleaning import Rule
from workloads.curation.executor import Stage
from workloads.curation.ledger import Ledger, excerpts_of
from workloads.curation.shares import Origin, RawFile
from workloads.storage import hashing
from workloads.storage.artifact import fingerprint_fields
from workloads.storage.sources import Inputs

VERSION = 4
"""Raised whenever the same settings and sources would become another corpus, or stages with other files."""
EXACT, ALIKE = "duplicate of another document", "nearly like another document"
BUCKETS = 8
"""Parts that equal documents are looked for in, where there are several shares."""
UNITS = {"MB": 10**6, "GB": 10**9}
STORED = (
    "cleaned/{rank:05d}.*",
    "hashes/{rank:05d}.hashes",
    "sizes/{rank:05d}.sizes",
    "ledgers/{rank:05d}.json",
    "signatures/*/{rank:05d}.*",
)
"""What a stage makes that stores documents, to be compared."""


@dataclass(frozen=True)
class Work:
    """What is made of what."""

    spec: DatasetSpec
    inputs: Inputs
    origins: list[Origin]
    """The sources."""
    earlier: list[Origin]
    """Corpora that are compared with."""
    shares: list[list[RawFile]]
    """Those of the sources, then those of earlier corpora, which are read and compared with, and not written."""
    own: int
    """How many shares are of the sources."""
    rules: Sequence[Rule]
    bad_rows: int
    home: Path
    """Where the folders of stages lie."""

    @property
    def everyone(self) -> list[Origin]:
        """Whoever has a document: by the number in its metadata."""
        return [*self.origins, *self.earlier]

    def ledger(self) -> Ledger:
        of_shares = [{self.everyone[file.source].name for file in share} for share in self.shares]
        return Ledger(seed=self.spec.seed, most=excerpts_of(of_shares))

    @property
    def buckets(self) -> int:
        return 1 if len(self.shares) == 1 else BUCKETS

    @property
    def paragraph_buckets(self) -> int:
        """Parts that equal lines are looked for in: each fits in memory."""
        return paragraphs.buckets(self._bytes())

    @property
    def shuffle_buckets(self) -> int:
        return shards.buckets(self._bytes())

    def _bytes(self) -> int:
        return sum(file.size for share in self.shares for file in share)

    def reading_key(self, shares: Sequence[Sequence[RawFile]], origins: Sequence[Origin], field: str) -> str:
        """Of all that shapes the cleaned documents of the origins that lie at ``field`` of the spec. They stand as their contents: the same files
        elsewhere are the same."""
        spec = self.spec
        read = [origin.spec.model_copy(update={"weight": 1.0, "license": None}) for origin in origins]
        parts: dict[str, Any] = {
            name: fingerprint_fields(part, self.inputs, name)
            for name, part in (
                (field, read),
                ("clean", spec.clean),
                ("filters", spec.filters),
                ("privacy", spec.privacy),
                ("decontaminate", spec.decontaminate),
            )
        }
        return hashing.of_json(
            {
                **parts,
                "version": VERSION,
                "content": spec.content,
                "seed": spec.seed,
                "badRows": self.bad_rows,
                "names": [origin.name for origin in origins],
                "numbers": [file.source for share in shares for file in share],
                "buckets": self.buckets,
                "rules": [
                    {name: str(value) for name, value in vars(rule).items() if name != "found"} for rule in self.rules
                ],
                "shares": [[file.key for file in share] for share in shares],
                "opencc": metadata.version("opencc"),
                "lingua": metadata.version("lingua-language-detector") if spec.filters.language else None,
            }
        )

    @property
    def held_out(self) -> Path | None:
        """Where the runs of evaluation sets lie, which no document may hold; None where nobody asks."""
        asked = self.spec.decontaminate
        if asked is None:
            return None
        return self.folder("held-out", fingerprint_fields(asked, self.inputs, "decontaminate")).with_suffix(".npz")

    def folder(self, name: str, *made_from: Any) -> Path:
        """Of a stage that is made from these keys and settings."""
        return self.home / f"{name}-{hashing.of_json([VERSION, *made_from]).removeprefix('sha256:')[:24]}"


def compared(work: Work) -> ExactDedupConfig:
    """How equal documents are told."""
    return equal.config(len(work.origins))


BUFFERED_BYTES = 16 << 20
"""Of all files together that a comparison reads side by side."""


def buffered(work: Work, record: int) -> int:
    """Records of so many bytes that are read at once from the file of each share."""
    return max(16, min(4096, BUFFERED_BYTES // (record * len(work.shares))))


def reading(work: Work) -> Stage:
    """Read, clean and filter the sources; what is left is stored, with a number for each text to compare."""
    shares = work.shares[: work.own]
    return _reading(work, shares, work.folder("reading", work.reading_key(shares, work.origins, "sources")))


def reading_earlier(work: Work) -> Stage:
    """The same for the corpora that are compared with. By themselves: who names others does not read the sources again."""
    shares = work.shares[work.own :]
    key = work.reading_key(shares, work.earlier, "deduplicate.against")
    return _reading(work, shares, work.folder("reading-earlier", key))


def _reading(work: Work, shares: list[list[RawFile]], folder: Path) -> Stage:
    ledger = work.ledger()
    clean: list[Any] = []
    if work.spec.decontaminate is not None and work.held_out is not None:
        clean.append(steps.Decontaminate(work.spec.decontaminate, work.held_out, work.everyone, ledger))
    return Stage(
        "reading",
        folder,
        [
            steps.Read(shares, work.everyone, work.bad_rows, folder / "unpacked", ledger),
            steps.Clean(work.rules, work.everyone, ledger),
            steps.Filter(work.spec.filters, work.everyone, ledger),
            *clean,
            steps.Store(folder, ledger),
            equal.Signatures(folder / "signatures", compared(work), work.buckets),
        ],
        tasks=len(shares),
        products=STORED,
    )


def joining(work: Work, own: Stage, earlier: Stage) -> Stage:
    """One folder of what was read of both: the shares of the sources, then those of earlier corpora."""
    folder = work.folder("joining", own.folder.name, earlier.folder.name)
    join = steps.Join(own.folder, earlier.folder, folder, STORED, work.own)
    return Stage("joining", folder, [join], tasks=len(work.shares), products=STORED)


def exact(work: Work, reading: Stage) -> Stage:
    """Which documents are equal to another."""
    folder = work.folder("exact", reading.folder.name)
    finder = ExactFindDedups(
        str(reading.folder / "signatures"),
        str(folder / "duplicates"),
        compared(work),
        lines_to_buffer=buffered(work, equal.SIGNATURE.itemsize),
    )
    return Stage("comparing", folder, [finder], tasks=work.buckets, products=["duplicates/{rank:05d}/*"])


class Paragraphs:
    """The three stages by which lines that stand in an earlier document are taken out. The last stores documents as the reading does."""

    def __init__(self, work: Work, reading: Stage, exact: Stage) -> None:
        shares = len(work.shares)
        duplicates, config = exact.folder / "duplicates", compared(work)
        marked = work.folder("marking", exact.folder.name)
        mark = paragraphs.Mark(marked, work.paragraph_buckets)
        self.marking = Stage(
            "marking",
            marked,
            [steps.Load(reading.folder), equal.Filter(duplicates, config), mark],
            tasks=shares,
            products=["*/{rank:05d}.lines"],
        )
        matched = work.folder("matching", marked.name)
        self.matching = Stage(
            "matching",
            matched,
            [paragraphs.Match(marked, matched, shares, work.own)],
            tasks=work.paragraph_buckets,
            products=["{rank:04d}/*.lines"],
        )
        folder = work.folder("removing", matched.name)
        ledger = work.ledger()
        dropped = steps.Dropped(EXACT, work.everyone, ledger)
        self.removing = Stage(
            "removing",
            folder,
            [
                steps.Load(reading.folder),
                equal.Filter(duplicates, config, dropped),
                paragraphs.Remove(matched, work.spec.filters, work.everyone, ledger),
                steps.Store(folder, ledger),
                equal.Signatures(folder / "signatures", config, work.buckets),
            ],
            tasks=shares,
            products=STORED,
        )

    def stages(self) -> list[Stage]:
        """In the order in which they are made."""
        return [self.marking, self.matching, self.removing]


class Near:
    """The four stages by which near-duplicates are found."""

    def __init__(self, work: Work, reading: Stage, exact: Stage | None, asked: NearDuplicates) -> None:
        shares = len(work.shares)
        unequal = exact.folder.name if exact else None
        minhash = near.config(asked)

        def documents() -> list[Any]:
            """What the comparison of equal ones left: near-duplicates are told by their numbers among these."""
            loaded: list[Any] = [steps.Load(reading.folder)]
            if exact is not None:
                loaded.append(equal.Filter(exact.folder / "duplicates", compared(work)))
            return [*loaded, steps.Compared()]

        signed = work.folder("signing", reading.folder.name, unequal, str(minhash))
        self.signing = Stage(
            "signing",
            signed,
            [*documents(), near.Signatures(signed / "signatures", minhash)],
            tasks=shares,
            products=["signatures/*/{rank:05d}.minhash.sig"],
        )
        banded = work.folder("banding", signed.name)
        finder = MinhashDedupBuckets(
            str(signed / "signatures"),
            str(banded / "pairs"),
            config=minhash,
            lines_to_buffer=buffered(work, near.signature_bytes(minhash)),
        )
        self.banding = Stage(
            "banding",
            banded,
            [finder, near.Ends(banded / "pairs")],
            tasks=minhash.num_buckets,
            products=["pairs/{rank:05d}_00.*"],
        )
        sketched = work.folder("sketching", banded.name)
        self.sketching = Stage(
            "sketching",
            sketched,
            [*documents(), near.Sketches(banded / "pairs", sketched, asked.ngram)],
            tasks=shares,
            products=["{rank:05d}.candidates", "{rank:05d}.sketches", "{rank:05d}.names"],
        )
        self.folder = work.folder("clustering", sketched.name, asked.threshold, asked.keep)
        cluster = clusters.Cluster(banded / "pairs", sketched, self.folder, asked, work.own)
        self.clustering = Stage("clustering", self.folder, [cluster], tasks=1, products=["*.remove", clusters.CLUSTERS])

    def stages(self) -> list[Stage]:
        """In the order in which they are made."""
        return [self.signing, self.banding, self.sketching, self.clustering]


def choosing(work: Work, reading: Stage, exact: Stage | None, alike: Near | None) -> Stage:
    """Which documents are for validation."""
    split, mixing = (fingerprint_fields(part, work.inputs) for part in (work.spec.split, work.spec.mixing))
    left_out = [stage.folder.name for stage in (exact, alike) if stage]
    weights = [source.weight for source in work.spec.sources]
    folder = work.folder("choosing", reading.folder.name, left_out, split, mixing, weights, work.spec.seed)
    removed = choice.Removed(exact.folder / "duplicates" if exact else None, alike.folder if alike else None)
    step = choice.Choose(reading.folder, folder, removed, work.spec, work.own)
    return Stage("choosing", folder, [step], tasks=1, products=[choice.CHOICE])


WRITTEN = tuple(f"{name}/{{rank:05d}}-*" for name in shards.PARTS)


def writing(work: Work, reading: Stage, exact: Stage | None, alike: Near | None, choosing: Stage) -> list[Stage]:
    """The files of the corpus: in one stage, whose ledgers have the counts, or shuffled in two, of which the first has them."""
    spec = work.spec
    size = int(float(spec.shard_size[:-2]) * UNITS[spec.shard_size[-2:]])
    form = shards.Form(spec.format, spec.compression, size, spec.content)
    written = (choosing.folder.name, spec.shard_size, spec.compression, spec.format)
    folder = work.folder("scattering", choosing.folder.name) if spec.shuffle else work.folder("writing", *written)
    ledger = work.ledger()
    pipeline: list[Any] = [steps.Load(reading.folder)]
    if exact is not None:
        dropped = steps.Dropped(EXACT, work.origins, ledger)
        pipeline.append(equal.Filter(exact.folder / "duplicates", compared(work), dropped))
    if alike is not None:
        left_out: Any = steps.Dropped(ALIKE, work.origins, ledger)
        pipeline.append(MinhashDedupFilter(str(alike.folder), exclusion_writer=left_out))
    count = work.shuffle_buckets
    target = shards.Scattered(folder / "buckets", count, spec.seed) if spec.shuffle else shards.Files(folder, form)
    choice_file = choosing.folder / choice.CHOICE
    pipeline.append(shards.Write(folder, choice_file, spec.seed, target, work.origins, ledger))
    products = ["buckets/*/{rank:05d}.*"] if spec.shuffle else WRITTEN
    first = Stage(
        "scattering" if spec.shuffle else "writing",
        folder,
        pipeline,
        tasks=work.own,
        products=[*products, "ledgers/{rank:05d}.json"],
    )
    if not spec.shuffle:
        return [first]
    gathered = work.folder("writing", "shuffled", *written)
    gather = shards.Gather(folder / "buckets", gathered, form)
    return [first, Stage("writing", gathered, [gather], tasks=count, products=WRITTEN)]
