"""Sources are mixed by their weights: copies stand in files of their own, what is not drawn is counted."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workloads.curation.corpora import run, write_lines

POEMS = [f"第{number}首，白日依山尽。" for number in range(400)]
PAGES = [f"第{number}页，黄河入海流。" for number in range(400)]


def mixed(folder: Path, name: str, poems: float, pages: float, **spec: object):  # type: ignore[no-untyped-def]
    write_lines(folder / "诗.jsonl", POEMS)
    write_lines(folder / "网.jsonl", PAGES)
    sources = [
        {"name": source, "uri": str(folder / f"{source}.jsonl"), "weight": weight}
        for source, weight in (("诗", poems), ("网", pages))
    ]
    return run(folder, name, sources=sources, split={"validationDocuments": 40}, **spec)


def test_weights_mix_sources(tmp_path: Path) -> None:
    made = mixed(tmp_path, "out", 2.5, 0.25)
    counts = made.report["sources"]
    for name, texts in (("诗", POEMS), ("网", PAGES)):
        source = counts[name]
        dropped = source["dropped"].get("not drawn by the weight of its source", {"documents": 0})["documents"]
        assert source["train"]["documents"] + source["validation"]["documents"] + dropped == len(texts)
        in_files = [row["text"] for row in made.rows() if row["source"] == name]
        assert len(in_files) == source["train"]["documents"] + source["repeated"]["documents"]
    poems = [row["text"] for row in made.rows() if row["source"] == "诗"]
    assert len(poems) / counts["诗"]["train"]["documents"] == pytest.approx(2.5, abs=0.15)
    assert counts["网"]["train"]["documents"] == pytest.approx(95, abs=25)
    assert len(made.rows("validation")) == 40
    assert sorted(path.name for path in (made.folder / "train").iterdir()) == [
        "00000-00000.jsonl.zst", "00000-copy-1-00000.jsonl.zst", "00000-copy-2-00000.jsonl.zst",
    ]  # fmt: skip


def test_other_weights_read_nothing_again(tmp_path: Path) -> None:
    mixed(tmp_path, "first", 1, 1)
    again = mixed(tmp_path, "second", 3, 1)
    assert any(line.startswith("reading: found ") for line in again.said)
    assert not any(line.startswith("reading: 1 ") for line in again.said)
    assert len(again.rows()) > 1000
