"""What stands in an earlier corpus, or in an earlier document, is left out of a later one; what stands nowhere else stays."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.workloads.curation.corpora import Made, make, run, write_lines
from tests.workloads.curation.test_near import page, worn
from workloads.curation import on_disk, paragraphs

EXACT, ALIKE = "duplicate of another document", "nearly like another document"


def adds_up(made: Made) -> None:
    """Every document and every character that was read is accounted for."""
    for source in made.report["sources"].values():
        ends = [source["train"], source["validation"], *source["dropped"].values()]
        assert sum(end["documents"] for end in ends) == source["read"]["documents"]
        for unit in ("characters", "bytes"):
            taken = [part[unit] for part in source["removedByRules"].values()]
            assert sum(end[unit] for end in ends) + sum(taken) == source["read"][unit]


def test_what_an_earlier_corpus_has_is_left_out(tmp_path: Path) -> None:
    earlier = [page(number) for number in range(30)]
    write_lines(tmp_path / "earlier.jsonl", [*earlier, earlier[0], worn(earlier[1], 0.005, seed=3)])
    equal = [text.replace("\n", " \n") for text in earlier[:10]]
    alike = [
        worn(text, 0.005, seed=number) + "\n又及，这一篇比先前的长一些。" for number, text in enumerate(earlier[10:20])
    ]
    new = [page(number) for number in range(100, 120)]
    made = make(
        tmp_path,
        {"web": [*equal, *alike, *new]},
        deduplicate={"near": {}, "against": [{"uri": str(tmp_path / "earlier.jsonl")}]},
    )
    assert made.texts() == new, "the earlier one stays, however long the other is, and none of it is written"
    assert (made.dropped(EXACT), made.dropped(ALIKE)) == (10, 10)
    assert made.report["total"]["read"]["documents"] == 40
    assert list(made.report["sources"]) == ["web"]
    adds_up(made)


def test_an_earlier_corpus_is_cleaned_by_the_same_rules(tmp_path: Path) -> None:
    write_lines(tmp_path / "earlier.jsonl", ["白日依山尽\u200b，黄河入海流。"])
    made = make(
        tmp_path,
        {"web": ["白日依山尽，黄河入海流。", "欲穷千里目，更上一层楼。"]},
        deduplicate={"against": [{"uri": str(tmp_path / "earlier.jsonl")}]},
    )
    assert made.texts() == ["欲穷千里目，更上一层楼。"]


def test_what_is_passed_over_in_an_earlier_corpus_is_told(tmp_path: Path) -> None:
    (tmp_path / "earlier.jsonl").write_text('{"text": "白日依山尽"}\n{"text": 5}', encoding="utf-8")
    made = make(
        tmp_path,
        {"web": ["白日依山尽", "黄河入海流"]},
        deduplicate={"against": [{"uri": str(tmp_path / "earlier.jsonl")}]},
        onBadRow="Skip",
    )
    assert made.texts() == ["黄河入海流"]
    assert made.report["notes"][0]["first"].startswith("earlier.jsonl, line 2: 'text' is a int")
    assert "compared with 2 documents of earlier corpora" in made.said
    assert made.metrics["documentsRead"] == 2


def test_other_earlier_corpora_are_compared_with_without_reading_the_sources_again(tmp_path: Path) -> None:
    for name, number in (("one", 1), ("two", 2)):
        write_lines(tmp_path / f"{name}.jsonl", [page(number)])
    write_lines(tmp_path / "more.jsonl", [page(50)])
    texts = {"web": [page(1), page(2), page(3)], "more": [page(50)]}
    (made, first), (again, second) = (
        (
            make(tmp_path, texts, f"out-{name}", deduplicate={"against": [{"uri": str(tmp_path / f"{name}.jsonl")}]}),
            name,
        )
        for name in ("one", "two")
    )
    assert (first, made.texts()) == ("one", [page(2), page(3), page(50)])
    assert (second, again.texts()) == ("two", [page(1), page(3), page(50)])
    assert "reading: 1 shares in 1 process" in again.said, "the earlier corpus"
    assert sum(line.startswith("reading: found 1 of 1 shares made") for line in again.said) == 1


def test_what_two_earlier_corpora_have_in_common_is_nobodys_affair(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_lines(tmp_path / f"{name}.jsonl", [page(1)])
    against = [{"uri": str(tmp_path / f"{name}.jsonl")} for name in ("one", "two")]
    made = make(tmp_path, {"web": [page(1), page(2)]}, deduplicate={"against": against})
    assert made.texts() == [page(2)]
    assert made.dropped(EXACT) == 1


LONG = [f"这是第{number}段很长的话，里面有二十个以上的字，所以要拿来和别的文章比较。" for number in range(6)]


def test_lines_of_earlier_documents_are_taken_out(tmp_path: Path) -> None:
    first = f"甲\n{LONG[0]}\n{LONG[1]}\n{LONG[0]}"
    second = f"乙\n{LONG[1]}\n{LONG[2]}\n短句在哪里都可以有\n {LONG[0]}"
    third = f"丙\n短句在哪里都可以有\n{LONG[3]}"
    nothing = f"{LONG[2]}\n{LONG[3]}"
    made = make(tmp_path, {"a": [first, second], "b": [third, first, nothing]}, deduplicate={"exact": "Paragraph"})
    assert made.texts() == [first, f"乙\n{LONG[2]}\n短句在哪里都可以有", third], "a refrain stays, a short line stays"
    assert made.dropped(EXACT) == 1
    assert made.dropped("nothing but lines of earlier documents") == 1
    assert made.report["changed"]["repeated-paragraphs"]["documents"] == 2
    assert made.report["changed"]["repeated-paragraphs"]["sentence"].startswith(
        "Lines that stand in an earlier document"
    )
    adds_up(made)


def test_what_is_left_is_measured_again(tmp_path: Path) -> None:
    """It had enough characters, and was Chinese enough, with the lines of others in it."""
    texts = [f"甲\n{LONG[0]}\n{LONG[1]}", f"{LONG[0]}\n余下的", f"{LONG[1]}\nnothing but Latin letters, twenty and more", f"{LONG[2]}\n余下的"]  # fmt: skip
    made = make(
        tmp_path,
        {"a": texts},
        deduplicate={"exact": "Paragraph"},
        filters={"minCharacters": 10, "minChineseShare": 0.3},
    )
    assert made.texts() == [texts[0], texts[3]]
    assert (made.dropped("minCharacters"), made.dropped("minChineseShare")) == (1, 1)
    adds_up(made)


def test_lines_are_the_same_in_however_many_turns_they_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = random.Random(3)
    lines = [f"这是第{number}段很长的话，里面有二十个以上的字，要拿来和别的文章比较。" for number in range(60)]
    texts = ["\n".join([f"第{number}篇", *rng.sample(lines, 6)]) for number in range(50)]
    made = make(tmp_path, {"a": texts[:25], "b": texts[25:]}, "at once", deduplicate={"exact": "Paragraph"})
    (tmp_path / "cache").rename(tmp_path / "cache-of-that")
    for name, value in (("LINES_AT_ONCE", 40), ("BUCKET_BYTES", 5000)):
        monkeypatch.setattr(paragraphs, name, value)
    monkeypatch.setattr(on_disk, "AT_ONCE", 16)
    again = make(tmp_path, {"a": texts[:25], "b": texts[25:]}, "in turns", deduplicate={"exact": "Paragraph"})
    assert len(list((tmp_path / "cache" / "curation").glob("matching-*/completions/*"))) > 2
    assert again.texts() == made.texts()
    seen: set[str] = set()
    for text in texts:
        seen |= set(text.split("\n"))
    kept = [line for text in made.texts() for line in text.split("\n")]
    assert sorted(kept) == sorted(seen), "each line once"


def test_documents_that_are_equal_without_these_lines_are_duplicates(tmp_path: Path) -> None:
    texts = [LONG[0], LONG[1], f"{LONG[0]}\n余下的", f"{LONG[1]}\n余下的"]
    made = make(tmp_path, {"a": texts}, deduplicate={"exact": "Paragraph"})
    assert made.texts() == [LONG[0], LONG[1], "余下的"]
    assert made.dropped(EXACT) == 1
    adds_up(made)


def test_lines_of_an_earlier_corpus_are_taken_out(tmp_path: Path) -> None:
    write_lines(tmp_path / "earlier.jsonl", [f"旧\n{LONG[4]}"])
    made = make(
        tmp_path,
        {"a": [f"新\n{LONG[4]}\n{LONG[5]}"]},
        deduplicate={"exact": "Paragraph", "near": {}, "against": [{"uri": str(tmp_path / "earlier.jsonl")}]},
    )
    assert made.texts() == [f"新\n{LONG[5]}"]
    adds_up(made)


@pytest.mark.parametrize("given", [{"columns": {"text": "内容"}}, {"format": "Text"}])
def test_an_earlier_corpus_is_read_as_it_says(tmp_path: Path, given: dict[str, object]) -> None:
    (tmp_path / "earlier.jsonl").write_text('{"内容": "白日依山尽"}', encoding="utf-8")
    write_lines(tmp_path / "web.jsonl", ["白日依山尽", '{"内容": "白日依山尽"}'])
    made = run(
        tmp_path,
        sources=[{"uri": str(tmp_path / "web.jsonl")}],
        deduplicate={"against": [{"uri": str(tmp_path / "earlier.jsonl"), **given}]},
    )
    assert made.texts() == (["白日依山尽"] if given == {"format": "Text"} else ['{"内容": "白日依山尽"}'])
