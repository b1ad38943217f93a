"""Over corpora that are drawn at random, with every step at work: what was read is what was kept and what was dropped, to the last character."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from tests.workloads.curation.corpora import Made, run
from tests.workloads.curation.test_near import worn
from tests.workloads.literature import chinese

LINES = chinese(1500, seed=11)
SHARED = [f"本站声明：第{number}条，转载请注明出处，否则将依法追究您的法律责任。" for number in range(4)]
EXAM = "下列诗句中，哪一句出自唐代诗人王之涣的《登鹳雀楼》？请选出正确的一项。"


def page(rng: random.Random) -> str:
    start = rng.randrange(len(LINES) - 12)
    return "\n".join(LINES[start : start + rng.randint(6, 12)])


def document(rng: random.Random, earlier: list[str]) -> str:
    """A page, or what some step drops or changes."""
    kinds = (
        lambda: page(rng),
        lambda: page(rng),
        lambda: rng.choice(earlier) if earlier else "",
        lambda: worn(rng.choice(earlier), 0.004, rng.randrange(1000)) if earlier else " ",
        lambda: f"{page(rng)}\n{rng.choice(SHARED)}",
        lambda: "\n".join(rng.sample(SHARED, 2)),
        lambda: f"{page(rng)}\r\n\r\n\r\n扫描下方二维码，关注我们的公众号\u200b",
        lambda: f"{rng.choice(LINES)}{EXAM}{rng.choice(LINES)}",
        lambda: "The quick brown fox jumps over the lazy dog. " * rng.randint(1, 4),
        lambda: "★☆" * rng.randint(1, 30),
        lambda: "同一行字在这里重复\n" * rng.randint(3, 9),
        lambda: "太短",
        lambda: f"含有禁词的{page(rng)}",
        lambda: " \u3000\n",
    )
    return rng.choice(kinds)()


SPEC: dict[str, Any] = {
    "onBadRow": "Skip",
    "clean": {
        "presets": ["Characters", "Advertisements"],
        "rules": [{"name": "no", "pattern": "禁词", "action": "DropDocument"}],
        "normalize": {"whitespace": "Collapse"},
    },
    "filters": {
        "minCharacters": 10,
        "maxCharacters": 400,
        "minChineseShare": 0.2,
        "maxSymbolShare": 0.3,
        "maxDuplicateLineShare": 0.5,
        "language": ["zh"],
    },
    "privacy": {"mask": ["Email"]},
    "split": {"validationDocuments": 7},
}


def write(path: Path, rng: random.Random, count: int) -> list[str]:
    texts: list[str] = []
    for _ in range(count):
        texts.append(document(rng, texts))
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    for _ in range(3):
        lines.insert(rng.randrange(len(lines)), rng.choice(['{"text": 5}', "{", '{"other": "a"}']))
    path.write_text("\n".join(lines), encoding="utf-8")
    return texts


@pytest.mark.parametrize("seed", range(4))
def test_every_document_is_accounted_for_whatever_the_steps(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    texts = {name: write(tmp_path / f"{name}.jsonl", rng, 120) for name in ("甲", "乙")}
    write(tmp_path / "old.jsonl", rng, 30)
    (tmp_path / "exam.jsonl").write_text(json.dumps({"q": EXAM}, ensure_ascii=False), encoding="utf-8")
    weighed = seed % 2
    made = run(
        tmp_path,
        **SPEC,
        seed=seed,
        sources=[
            {"uri": str(tmp_path / f"{name}.jsonl"), "name": name, "weight": 0.6 if weighed else 1} for name in texts
        ],
        deduplicate={
            "exact": "Paragraph" if seed < 2 else "Document",
            "near": {"threshold": 0.7},
            "against": [{"uri": str(tmp_path / "old.jsonl")}],
        },
        decontaminate={"against": [{"uri": str(tmp_path / "exam.jsonl")}]},
        mixing={} if weighed else {"temperature": 2},
        shuffle=bool(weighed),
        format="Parquet" if seed == 3 else "JSONL",
    )
    adds_up(made, texts)
    reasons = set(made.report["dropped"])
    assert {
        "duplicate of another document",
        "holds what is measured on",
        "row that cannot be used",
        "no",
        "empty",
    } <= reasons
    assert {"minCharacters", "minChineseShare"} <= reasons
    assert "nearly like another document" in reasons or seed < 2, (
        "without the lines that they share, pages are not alike"
    )
    assert ("not drawn by the weight of its source" in reasons) == bool(weighed)
    assert ("repeated-paragraphs" in made.report["changed"]) == (seed < 2)


def adds_up(made: Made, texts: dict[str, list[str]]) -> None:
    in_files: dict[str, Counter[str]] = {}
    for part in ("train", "validation"):
        in_files[part] = Counter(row["source"] for row in made.rows(part))
    for name, source in made.report["sources"].items():
        assert source["read"]["documents"] == len(texts[name]) + 3
        assert source["read"]["characters"] == sum(map(len, texts[name]))
        assert source["read"]["bytes"] == sum(len(text.encode()) for text in texts[name])
        ends = [source["train"], source["validation"], *source["dropped"].values()]
        taken = list(source["removedByRules"].values())
        assert sum(end["documents"] for end in ends) == source["read"]["documents"]
        for unit in ("characters", "bytes"):
            assert sum(end[unit] for end in [*ends, *taken]) == source["read"][unit]
        assert in_files["train"][name] == source["train"]["documents"] + source["repeated"]["documents"]
        assert in_files["validation"][name] == source["validation"]["documents"]
        assert in_files["train"][name] == made.report["mixture"][name]["documents"]
    held = {row["text"] for row in made.rows("validation")}
    assert len(held) == 7
    assert not held & set(made.texts())
    total = sum(
        source["dropped"].get(reason, {"documents": 0})["documents"]
        for source in made.report["sources"].values()
        for reason in source["dropped"]
    )
    assert (
        total
        == sum(found["documents"] for found in made.report["dropped"].values())
        == made.metrics["documentsDropped"]
    )
