"""What a corpus costs beside bare datatrove pipelines with the same steps in the same run, and how well near-duplicates are told.

Processor times and ratios are printed and not judged: they depend on the machine. Of the near-duplicates it is judged that none is lost below
the threshold.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from loguru import logger

from alpaca_operator.api.dataset import Filters, NearDuplicates, RawSource
from tests.benchmarks.test_corpus_size import command
from tests.workloads.curation.corpora import make, write_lines
from tests.workloads.curation.test_near import jaccard, worn
from tests.workloads.literature import chinese
from workloads.curation import measures, near, rules, shares, steps
from workloads.curation.ledger import Ledger

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

logger.disable("datatrove")

PAGES, LINES = 4000, 40
FILTERS = Filters(min_characters=20, min_chinese_share=0.3, max_symbol_share=0.5, max_duplicate_line_share=0.5)
CORRUPTIONS = (0.01, 0.02, 0.03, 0.05, 0.1, 0.2)


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages as JSON lines."""
    folder = tmp_path_factory.mktemp("raw")
    lines, rng = chinese(20_000, seed=2), random.Random(3)
    write_lines(folder / "a.jsonl", ["\n".join(rng.sample(lines, LINES)) for _ in range(PAGES)])
    return folder


def seconds(work: Callable[[], Any]) -> float:
    """Of this process's processor, the better of two."""
    taken = []
    for _ in range(2):
        start = time.process_time()
        work()
        taken.append(time.process_time() - start)
    return min(taken)


def run_through(pipeline: list[Any]) -> int:
    data: Any = None
    for step in pipeline:
        data = step(data, 0, 1)
    return sum(1 for _ in data or ())


def test_reading_and_cleaning_beside_a_bare_pipeline(
    raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from datatrove.pipeline.filters import LambdaFilter
    from datatrove.pipeline.formatters.base import BaseFormatter
    from datatrove.pipeline.readers import JsonlReader
    from datatrove.pipeline.writers import JsonlWriter

    source = RawSource(uri=str(raw))
    files, _ = shares.files_of(0, source, raw)
    origins = [shares.Origin("a", source)]
    cleaning = [*rules.preset("Characters"), *rules.preset("Web"), *rules.preset("Advertisements")]

    class Format(BaseFormatter):
        name = "rules"

        def format(self, text: str) -> str:
            for rule in cleaning:
                text = rule.apply(text) or ""
            return text

    def ours() -> None:
        ledger = Ledger()
        found = run_through(
            [
                steps.Read([files], origins, 0, tmp_path / "scratch", ledger),
                steps.Clean(cleaning, origins, ledger),
                steps.Filter(FILTERS, origins, ledger),
                steps.Store(tmp_path / "ours", ledger),
            ]
        )
        assert found == PAGES

    def bare() -> None:
        found = run_through(
            [
                JsonlReader(str(raw)),
                Format(),
                LambdaFilter(lambda document: measures.failed(FILTERS, document.text) is None),
                JsonlWriter(str(tmp_path / "bare"), compression="zstd"),
            ]
        )
        assert found == PAGES

    bare_seconds, our_seconds = seconds(bare), seconds(ours)
    size = files[0].size / 1e6
    with capsys.disabled():
        print(
            f"\nreading, cleaning, filters: {size / our_seconds:.1f} MB/s a core, {bare_seconds / our_seconds:.2f} times a bare datatrove pipeline"
        )


def test_signatures_beside_datatroves_own(raw: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from datatrove.data import Document
    from datatrove.pipeline.dedup.minhash import MinhashDedupSignature

    config = near.config(NearDuplicates())
    lines, rng = chinese(20_000, seed=2), random.Random(3)
    texts = ["\n".join(rng.sample(lines, LINES)) for _ in range(400)]

    def documents() -> Iterator[Document]:
        return (Document(text=text, id="") for text in texts)

    theirs = MinhashDedupSignature(str(tmp_path / "theirs"), config, language=near.Characters())
    ours = near.Signatures(tmp_path / "ours", config)
    their_seconds = seconds(lambda: theirs.run(documents(), 0, 1))
    our_seconds = seconds(lambda: ours.run(documents(), 0, 1))
    with capsys.disabled():
        print(
            f"\nMinHash: {sum(map(len, texts)) / our_seconds / 1e6:.2f} M characters/s a core, {their_seconds / our_seconds:.2f} times datatrove's own"
        )


def test_near_duplicates_by_how_much_was_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = chinese(20_000, seed=9)
    pages = ["\n".join(lines[at : at + 20]) for at in range(0, 12_000, 20)]
    told = ["", "changed characters, similarity, left out:"]
    for share in CORRUPTIONS:
        copies = [worn(page, share, seed=number) for number, page in enumerate(pages)]
        made = make(
            tmp_path, {"first": pages, "second": copies}, f"out-{share}", deduplicate={"near": {"keep": "FirstSource"}}
        )
        kept = set(made.texts())
        likes = [jaccard(page, copy) for page, copy in zip(pages, copies, strict=True)]
        gone = [copy not in kept for copy in copies]
        told.append(f"  {share:4.0%}  {sum(likes) / len(likes):.2f}  {sum(gone) / len(gone):.1%}")
        lost = [like for like, out in zip(likes, gone, strict=True) if out and like < 0.7]
        assert lost == []
        assert set(pages) <= kept
    with capsys.disabled():
        print("\n".join(told))


def write_corpus(path: Path, size: int) -> None:
    """A file of JSON lines of so many bytes, each line another one."""
    lines, rng, written = chinese(20_000, seed=4), random.Random(5), 0
    with path.open("w", encoding="utf-8") as out:
        while written < size:
            line = json.dumps({"text": "\n".join(rng.sample(lines, LINES))}, ensure_ascii=False) + "\n"
            out.write(line)
            written += len(line.encode())


CORPUS = int(os.environ.get("ALPACA_DRILL_MEGABYTES", "1024")) << 20
FILES = max(32, CORPUS >> 24)
"""A corpus beside which the two seconds of a start are few, in files that two processes may share evenly: a user's has more of both."""
TICKS = os.sysconf("SC_CLK_TCK")


def family(pid: int) -> list[int]:
    """A process, those that it started, and those that these did."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [pid, *(each for child in children for each in family(int(child)))]


def processor_seconds(process: subprocess.Popen[bytes]) -> dict[int, float]:
    """Of a process and of those that it starts, until it ends."""
    taken: dict[int, float] = {}
    while process.poll() is None:
        with suppress(FileNotFoundError, ProcessLookupError):
            for pid in family(process.pid):
                fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
                taken[pid] = (int(fields[11]) + int(fields[12])) / TICKS
        time.sleep(0.05)
    return taken


@contextmanager
def cleaning(folder: Path, files: list[Path], processes: int) -> Iterator[subprocess.Popen[bytes]]:
    """A DatasetJob over these files, as a user starts it."""
    (folder / "raw").mkdir(parents=True)
    for file in files:
        (folder / "raw" / file.name).hardlink_to(file)
    presets = ["Characters", "Web", "Advertisements"]
    asked = command(
        folder, clean={"presets": presets}, deduplicate={"near": {}}, parallelism={"processesPerNode": processes}
    )
    with subprocess.Popen(asked[0], cwd=folder, env=asked[1], stdout=subprocess.DEVNULL) as process:
        yield process
    assert process.returncode == 0


@pytest.mark.drill
@pytest.mark.timeout(3600)
def test_two_processes_beside_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the clock, which knows what else the machine does; and by what the processors did: how much more both did together than one alone, and how
    fast they were with two to themselves, as the first process works while the others wait, and then the slower of these decides. Beside them two
    jobs at once, each with half of the files and one process: what the machine gives to whom two processes have nothing to tell each other."""
    (tmp_path / "written").mkdir()
    files = [tmp_path / "written" / f"{number}.jsonl" for number in range(FILES)]
    for file in files:
        write_corpus(file, CORPUS // FILES)
    clock: dict[int, float] = {}
    processors: dict[int, list[float]] = {}
    for processes in (1, 2):
        begun = time.monotonic()
        with cleaning(tmp_path / str(processes), files, processes) as process:
            found = processor_seconds(process)
        clock[processes] = time.monotonic() - begun
        processors[processes] = [found.pop(process.pid), *sorted(found.values())]
    begun = time.monotonic()
    with cleaning(tmp_path / "half", files[::2], 1), cleaning(tmp_path / "other", files[1::2], 1):
        pass
    apart = time.monotonic() - begun
    (alone,), (first, *others) = processors[1], processors[2]
    with capsys.disabled():
        print(
            f"\n1 process {clock[1]:.0f} s, 2 processes {clock[2]:.0f} s by the clock, {clock[1] / clock[2]:.2f} times as fast, start and all; two jobs "
            f"apart, with half of it each, {apart:.0f} s, {clock[1] / apart:.2f} times as fast; by their processors {alone:.1f} s, and {first:.1f} s of "
            f"the first and {sum(others):.1f} s of the others, {(first + sum(others)) / alone:.2f} of one's; with two to themselves "
            f"{alone / (first + max(others)):.2f} times as fast"
        )
