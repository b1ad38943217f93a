"""What the report and the card tell of a corpus, counted out here with nothing of what is measured."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from pathlib import Path

import pytest

from tests.workloads import tiny
from tests.workloads.curation.corpora import make, run, write_lines
from tests.workloads.literature import chinese
from workloads.curation import frequent, near
from workloads.errors import InputError

LINES = chinese(600, seed=6)
PAGES = ["".join(LINES[start : start + 5]) for start in range(0, 300, 5)]
ADVERTISED = [f"{page}\n扫描下方二维码，关注我们的公众号" for page in PAGES]


def test_runs_that_most_texts_have() -> None:
    texts = ["关注我们，山。关注我们", "关注 我们水", "火关注我们了", "其余文字", "其余，文字"]
    assert frequent.runs(texts) == [("关注我们", 3), ("其余文字", 2)]
    assert frequent.runs(["没有相同的", "另外一些字"]) == []


def test_of_very_many_runs_the_most_frequent_are_counted_out(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = Counter(
        run
        for letters in map(near.plain, ADVERTISED)
        for run in {letters[start : start + 4] for start in range(len(letters) - 3)}
    )
    often = counted.most_common(300)
    monkeypatch.setattr(frequent, "LOOKED_AT", 300)
    found = dict(frequent.runs(ADVERTISED))
    assert len(found) == frequent.SHOWN
    assert all(counted[run] == count for run, count in found.items())
    assert max(found.values()) == often[0][1] == len(ADVERTISED)
    assert min(found.values()) >= often[-1][1]


def test_what_cleaning_took_out_is_frequent_before_and_not_after(tmp_path: Path) -> None:
    made = make(
        tmp_path,
        {"网": ADVERTISED, "书": PAGES[:1]},
        clean={"presets": ["Advertisements"]},
        deduplicate={"exact": "None"},
    )
    runs = made.report["sources"]["网"]["frequentRuns"]
    assert (runs["read"]["documents"], runs["kept"]["documents"]) == (60, 60)
    before, after = (dict(map(tuple, runs[part]["runs"])) for part in ("read", "kept"))
    assert max(before.values()) == 60
    assert sum(count == 60 for count in before.values()) >= 3
    assert not set("关注公众二维码") & set("".join(run for run, count in after.items() if count > 50))
    assert made.report["sources"]["书"]["frequentRuns"]["read"] == {"documents": 1, "runs": []}


def test_characters_per_token_are_told_by_the_tokenizer_that_is_named(tmp_path: Path) -> None:
    tokenizer = tiny.write_tokenizer(tmp_path / "tokenizer")
    made = make(tmp_path, {"书": PAGES[:20]}, tokenizer={"uri": str(tmp_path / "tokenizer")})
    whole = sum(len(tokenizer.encode(page, add_special_tokens=False)) for page in PAGES[:20])
    expected = sum(map(len, PAGES[:20])) / whole
    assert made.report["sources"]["书"]["charactersPerToken"] == pytest.approx(expected, abs=0.001)
    assert f"<td>{made.report['sources']['书']['charactersPerToken']}</td>" in (
        tmp_path / "out" / "report.html"
    ).read_text("utf-8")
    without = make(tmp_path, {"书": PAGES[:20]}, "without")
    assert "charactersPerToken" not in without.report["sources"]["书"]
    assert any(line.startswith("reading: found ") for line in without.said)


def test_a_place_without_a_tokenizer_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no tokenizer in"):
        make(tmp_path, {"书": PAGES}, tokenizer={"uri": str(tmp_path / "empty")})
    assert not (tmp_path / "cache").exists()


def test_the_mixture_adds_up(tmp_path: Path) -> None:
    write_lines(tmp_path / "书.jsonl", PAGES[:20])
    write_lines(tmp_path / "网.jsonl", PAGES[20:])
    sources = [
        {"name": "书", "uri": str(tmp_path / "书.jsonl"), "weight": 3},
        {"name": "网", "uri": str(tmp_path / "网.jsonl")},
    ]
    made = run(tmp_path, sources=sources, split={"validationDocuments": 5})
    mixture = made.report["mixture"]
    for name, part in mixture.items():
        texts = [row["text"] for row in made.rows() if row["source"] == name]
        assert (part["documents"], part["characters"]) == (len(texts), sum(map(len, texts)))
        assert part["share"] == pytest.approx(sum(map(len, texts)) / sum(map(len, made.texts())), abs=1e-6)
    assert [part["weight"] for part in mixture.values()] == [3, 1]
    tempered = run(tmp_path, "two", sources=[{**one, "weight": 1} for one in sources], mixing={"temperature": 5})
    largest, smallest = tempered.report["mixture"]["网"], tempered.report["mixture"]["书"]
    assert largest["weight"] == 1 < smallest["weight"] <= 4


def test_the_card_has_the_licence_of_each_source(tmp_path: Path) -> None:
    for name in ("书", "网", "词"):
        write_lines(tmp_path / f"{name}.jsonl", [f"{name}：{page}" for page in PAGES[:3]])
    given = {"书": "CC-BY-SA-4.0", "网": None, "词": 'own: "see | terms"'}
    sources = [
        {"uri": str(tmp_path / f"{name}.jsonl"), "name": name} | ({"license": text} if text else {})
        for name, text in given.items()
    ]
    made = run(tmp_path, sources=sources)
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    header = card.split("---")[1]
    assert json.loads(header.split("license: ")[1].splitlines()[0]) == ["CC-BY-SA-4.0", 'own: "see | terms"', "unknown"]
    assert "| 书 | CC-BY-SA-4.0 | 3 |" in card
    assert "| 网 | not given | 3 |" in card
    assert '| 词 | own: "see \\| terms" | 3 |' in card
    again = run(tmp_path, "again", sources=[{**one, "license": "MIT"} for one in sources])
    assert any(line.startswith("reading: found ") for line in again.said), "a licence is no reason to read again"
    assert made.texts() == again.texts()


def test_notes_name_file_and_place_whatever_stands_behind_them(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("书/about.md", "x")
        archive.writestr("书/rows.jsonl", '{"text": "一首诗"}\n{"http://a.b/c": "x"}\n')
    made = run(tmp_path, sources=[{"uri": str(tmp_path / "a.zip")}], onBadRow="Skip")
    assert [note["first"] for note in made.report["notes"]] == [
        "a.zip, 书/about.md",
        "a.zip, 书/rows.jsonl, line 2: no 'text'; it has 'http://a.b/c': set columns.text to one of them",
    ]


def test_files_that_were_not_read_are_in_the_report(tmp_path: Path) -> None:
    """Whoever reads it before training did not read the log."""
    raw = tmp_path / "raw"
    for name, content in {
        "a.txt": "一首诗",
        "x/b.xlsx": "PK\x03\x04",
        "x/c.xlsx": "PK\x03\x04",
        "artifact.json": "{}",
    }.items():
        (raw / name).parent.mkdir(parents=True, exist_ok=True)
        (raw / name).write_text(content, encoding="utf-8")
    made = run(tmp_path, sources=[{"uri": str(raw)}])
    what = "files were not read, each is a ZIP archive (as .docx, .xlsx and .epub are)"
    assert made.report["notes"] == [{"what": what, "count": 2, "first": "b.xlsx"}]
    assert "未读取的文件：" in (made.folder / "report.html").read_text(encoding="utf-8")
