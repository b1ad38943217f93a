"""Corpora and memory: every stage there is, in a process that its cgroup holds to a part of the text's size."""

from __future__ import annotations

import json
import os
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.benchmarks import confined
from tests.workloads.literature import chinese
from tests.workloads.process import ROOT
from workloads.curation.shares import PIECE_BYTES
from workloads.system import atomic

pytestmark = [pytest.mark.slow, pytest.mark.timeout(7200)]

MEMORY = 192 << 20
"""Bytes that the process may have: what it is before it reads anything takes more than half of them."""
TIMES, GIGABYTES = int(os.environ.get("ALPACA_DRILL_TIMES", "10")), int(os.environ.get("ALPACA_DRILL_GIGABYTES", "10"))
"""How much text the drills take: so many times MEMORY, and a file of so many gigabytes."""
LINES = 24
"""Of a page."""
EQUAL, ALIKE = 0.05, 0.1
"""Shares of the pages that repeat an earlier one, and that do so but for a line."""


def write_pages(path: Path, size: int) -> tuple[int, int, int]:
    """A file of JSON lines of so many bytes; returns how many pages it has, how many of them are equal to one of the last thousand, and how many
    are like one but for a line."""
    lines, rng, written, last = chinese(20_000, seed=4), random.Random(5), 0, list[list[str]]()
    counts = [0, 0, 0]
    with path.open("w", encoding="utf-8") as out:
        while written < size:
            page = [f"{line}，第{counts[0]}篇" for line in rng.sample(lines, LINES)]  # lines that no other page has
            drawn = rng.random()
            if last and drawn < EQUAL + ALIKE:
                page = list(rng.choice(last))
                if drawn >= EQUAL:
                    page[rng.randrange(LINES)] = rng.choice(lines)
                counts[1 if drawn < EQUAL else 2] += 1
            elif len(last) < 1000 or rng.random() < 0.1:
                last = [*last[-999:], page]
            counts[0] += 1
            row = json.dumps({"text": "\n".join(page)}, ensure_ascii=False) + "\n"
            out.write(row)
            written += len(row.encode())
    return counts[0], counts[1], counts[2]


def command(folder: Path, **spec: Any) -> tuple[list[str], dict[str, str]]:
    """A DatasetJob over `raw` as a user starts it."""
    manifest = {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "DatasetJob",
        "metadata": {"name": "large"},
        "spec": {
            "sources": [{"uri": "raw"}],
            "output": {"uri": "out"},
            "parallelism": {"processesPerNode": 1},
            **spec,
        },
    }
    (folder / "job.json").write_text(json.dumps(manifest), encoding="utf-8")
    environ = os.environ | {
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "operator"))),
        "ALPACA_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
    }
    return [sys.executable, "-m", "workloads.dataset", "job.json"], environ


@pytest.fixture
def room(tmp_path: Path) -> Iterator[Path]:
    """A folder that is emptied at once: what lies in it is as large as a disk may be."""
    yield tmp_path
    for path in tmp_path.iterdir():
        atomic.discard(path)


ALL: dict[str, Any] = {
    "filters": {"minCharacters": 60},
    "split": {"validationShare": 0.01},
    "mixing": {"temperature": 2},
    "shuffle": True,
}
"""Every stage there is."""


def made(folder: Path, size: int, spec: dict[str, Any], *, alike_are_found: bool = True) -> str:
    """A corpus of so many bytes made within MEMORY, its counts looked at; returns what it took, in words."""
    (folder / "raw").mkdir(parents=True)
    pages, equal, alike = write_pages(folder / "raw" / "a.jsonl", size)
    started, begun = command(folder, **spec), time.monotonic()
    code, peak, is_held = confined.run(started[0], folder, started[1], MEMORY)
    assert code == 0, (folder / "printed").read_text(encoding="utf-8")
    report = json.loads((folder / "out" / "report.json").read_text(encoding="utf-8"))
    dropped = {reason: amount["documents"] for reason, amount in report["dropped"].items()}
    assert report["total"]["read"]["documents"] == pages
    assert report["total"]["kept"]["documents"] + sum(dropped.values()) == pages
    assert dropped["duplicate of another document"] >= equal * 0.9
    assert sum(dropped.values()) >= (equal + alike_are_found * alike) * 0.9
    how = "held to it by its cgroup" if is_held else "not held to it: this user may make no cgroup"
    return (
        f"{size >> 20} MB of text in {peak >> 20} MB of memory (limit {MEMORY >> 20} MB, {how}), "
        f"{time.monotonic() - begun:.0f} s; {dropped}"
    )


def test_a_corpus_may_be_larger_than_the_memory(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """In one file, which is read in pieces; without near duplicates, which take their time: the drills have them."""
    spec = {"split": {"validationDocuments": 100}, "shuffle": True}
    told = made(room / "large", MEMORY * 3 // 2, spec, alike_are_found=False)
    with capsys.disabled():
        print(f"\n{told}")


@pytest.mark.drill
@pytest.mark.parametrize("exact", ["Document", "Paragraph"])
def test_a_corpus_may_be_many_times_as_large_as_the_memory(
    room: Path, capsys: pytest.CaptureFixture[str], exact: str
) -> None:
    """Every stage there is, over one file that is read in pieces."""
    told = made(room / "large", TIMES * MEMORY, {**ALL, "deduplicate": {"exact": exact, "near": {}}})
    with capsys.disabled():
        print(f"\n{told}")


@pytest.mark.drill
def test_a_file_of_gigabytes_is_read_in_pieces(room: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Most of each row is a column that is not asked for, as dumps of the web have them."""
    path = room / "raw" / "a.jsonl"
    path.parent.mkdir()
    size, rows, page = GIGABYTES << 30, 0, "<p>" * (1 << 18)
    with path.open("w", encoding="utf-8") as file:
        while file.tell() < size:
            text = f"第{rows}篇，白日依山尽，黄河入海流。"
            file.write(json.dumps({"html": page, "text": text}, ensure_ascii=False) + "\n")
            rows += 1
    started, begun = command(room, parallelism={"processesPerNode": 2}), time.monotonic()
    code, peak, _ = confined.run(started[0], room, started[1], 1 << 30)
    printed = (room / "printed").read_text(encoding="utf-8")
    assert code == 0, printed
    report = json.loads((room / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["total"]["kept"]["documents"] == report["total"]["read"]["documents"] == rows
    assert f"reading: {-(-path.stat().st_size // PIECE_BYTES)} shares in 2 processes" in printed
    with capsys.disabled():
        print(
            f"\n{GIGABYTES} GB in one file, {rows} rows in it: {peak >> 20} MB of memory, {time.monotonic() - begun:.0f} s"
        )
