"""Documents that hold a row of an evaluation set are left out, and those that only share a phrase with one stay."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from tests.workloads.curation.corpora import make
from workloads.errors import DataError

QUESTION = "下列诗句中，哪一句出自唐代诗人王之涣的《登鹳雀楼》？请选出正确的一项。"
OTHER = "鹳雀楼位于今天的哪一个省份？请根据地理知识回答这个问题。"
REASON = "holds what is measured on"


@pytest.fixture
def sets(tmp_path: Path) -> list[dict[str, str]]:
    """Two sets: rows with choices as JSON lines, lines of a text file."""
    row = {"id": 1, "question": QUESTION, "choices": ["白日依山尽", "床前明月光"], "answer": {"text": "白日依山尽"}}
    (tmp_path / "test.jsonl").write_text(json.dumps(row, ensure_ascii=False), encoding="utf-8")
    (tmp_path / "other.txt").write_text(f"{OTHER}\n短句\n", encoding="utf-8")
    return [{"uri": str(tmp_path / name)} for name in ("test.jsonl", "other.txt")]


def test_documents_that_hold_a_row_are_left_out(tmp_path: Path, sets: list[dict[str, str]]) -> None:
    stay = ["白日依山尽，黄河入海流。" * 3, f"他想起{QUESTION[:16]}，就走了。" + "后来下雨。" * 9, "短句"]
    go = [
        f"题目。{QUESTION}答案是第一项。" + "随便写些别的。" * 20,
        QUESTION.replace("，", " ,\n").replace("？", "?"),
        f"前面{OTHER[: len(OTHER) * 3 // 4]}后面",
    ]
    made = make(tmp_path, {"web": [*stay, *go]}, decontaminate={"against": sets})
    assert made.texts() == stay
    assert made.dropped(REASON) == 3
    assert "decontaminating: 2 texts of evaluation sets; 4 are too short to be looked for" in made.said


def test_how_much_of_a_row_may_be_there_is_asked(tmp_path: Path, sets: list[dict[str, str]]) -> None:
    half = f"前面{OTHER[: len(OTHER) * 3 // 4]}后面"
    made = make(tmp_path, {"web": [half]}, decontaminate={"against": sets, "share": 1})
    assert made.texts() == [half]


def test_sets_of_nothing_but_short_texts_are_refused(tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("短句\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"no row has 13 letters or digits: lower decontaminate\.ngram"):
        make(tmp_path, {"web": ["a"]}, decontaminate={"against": [{"uri": str(tmp_path / "short.txt")}]})


def test_the_rows_of_every_split_count(tmp_path: Path) -> None:
    """Of a file that keeps several splits it is the test that is measured on."""
    splits = {"train": [{"q": "另一道题，从前就有人做过，也有答案。"}], "test": [{"q": QUESTION}]}
    (tmp_path / "exam.json").write_text(json.dumps(splits, ensure_ascii=False), encoding="utf-8")
    made = make(
        tmp_path, {"web": [QUESTION, "白日依山尽"]}, decontaminate={"against": [{"uri": str(tmp_path / "exam.json")}]}
    )
    assert made.texts() == ["白日依山尽"]


def test_archives_of_evaluation_sets_are_read_and_what_is_not_read_is_told(tmp_path: Path) -> None:
    exam = tmp_path / "exam"
    exam.mkdir()
    (exam / "test.xlsx").write_bytes(b"PK\x03\x04")
    with zipfile.ZipFile(exam / "cmmlu.zip", "w") as archive:
        archive.writestr("test/poems.csv", f"Question,A\n{QUESTION},白日\n")
        archive.writestr("test/none.txt", "")
        archive.writestr("README.md", OTHER)
    made = make(tmp_path, {"web": [QUESTION, OTHER]}, decontaminate={"against": [{"uri": str(exam)}]})
    assert made.texts() == [OTHER]
    told = [line for line in made.said if "not read" in line]
    assert told == [
        f"decontaminating: {exam}: not read, each is a ZIP archive (as .docx, .xlsx and .epub are): test.xlsx",
        f"decontaminating: 1 files of archives were not read (first: {exam / 'cmmlu.zip'}, README.md)",
    ]
    passed_over = f"decontaminating: 1 empty files passed over (first: {exam / 'cmmlu.zip'}, test/none.txt)"
    assert passed_over in made.said
    assert not list((tmp_path / "cache").rglob("*.unpacked"))


def test_what_is_wrong_with_an_evaluation_set_in_an_archive_is_told_with_its_place(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "exam.zip", "w") as archive:
        archive.writestr("test.jsonl", "{")
    with pytest.raises(DataError, match=r"exam\.zip, test\.jsonl, line 1: not JSON"):
        make(tmp_path, {"web": ["a"]}, decontaminate={"against": [{"uri": str(tmp_path / "exam.zip")}]})
