"""Which files of a data set are read for what, and how they become records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from alpaca_operator.api.conversations import DataSource
from alpaca_operator.api.corpus import CorpusSource
from workloads.data import corpus
from workloads.data.corpus import Tally, texts
from workloads.data.files import _json_values, files_of, records
from workloads.data.rows import Reading, read
from workloads.data.selection import saved_split
from workloads.errors import DataError, InputError

SPLITS = pytest.mark.parametrize(("part", "names", "read_names"), [
    pytest.param("train", ["a.jsonl", "b.jsonl"], ["a", "b"], id="all, where none says what it is"),
    pytest.param("train", ["latest.jsonl", "contest.jsonl"], ["contest", "latest"], id="a word that contains a split's name is none"),
    pytest.param("train", ["train-0.jsonl", "train-1.jsonl", "test-0.jsonl"], ["train-0", "train-1"], id="not the test set"),
    pytest.param("train", ["data/train.jsonl", "data/dev.jsonl", "more.jsonl"], ["train", "more"], id="others that do not say"),
    pytest.param("train", ["test.jsonl"], ["test"], id="the test set alone"),
    pytest.param("validation", ["train.jsonl", "dev.jsonl", "test.jsonl"], ["dev"], id="validation before test"),
    pytest.param("validation", ["train.jsonl", "test.jsonl"], ["test"], id="test for validation"),
    pytest.param("train", ["poems.jsonl", "test.jsonl"], ["poems"], id="what says nothing, beside a test set"),
    pytest.param("validation", ["poems.jsonl", "test.jsonl"], ["test"], id="what says nothing is no validation beside a test set"),
    pytest.param("validation", ["a.jsonl", "b.jsonl"], ["a", "b"], id="all for validation, where none says what it is"),
])  # fmt: skip


@SPLITS
def test_of_a_folder_with_splits_only_those_for_the_purpose_are_read(
    tmp_path: Path, part: str, names: list[str], read_names: list[str]
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, json.dumps({"instruction": Path(name).stem, "output": "a"}))
    reading = Reading()
    found = [row.messages[0]["content"] for row in read([(DataSource(uri="x"), tmp_path)], reading, part)]
    assert found == read_names
    assert any("other splits not read: " in line for line in reading.not_read) == (len(found) < len(names))


@SPLITS
def test_a_corpus_is_read_from_the_same_files_and_says_so(
    tmp_path: Path, part: str, names: list[str], read_names: list[str]
) -> None:
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write(tmp_path / name, json.dumps({"text": Path(name).stem}))
    tally = Tally()
    chosen = corpus.files_of([(CorpusSource(uri="x"), tmp_path)], tally, part)
    assert list(texts(chosen, tally)) == read_names
    left_out = [f"{tmp_path / name}" for name in sorted(names) if Path(name).stem not in read_names]
    expected = (
        [f"{len(left_out)} files of other splits of the data set left out (first: {left_out[0]})"] if left_out else []
    )
    assert tally.problem_lines() == expected


@pytest.mark.parametrize(("part", "names", "splits"), [
    pytest.param("train", ["test.jsonl", "validation.jsonl"], "test, validation", id="a test set and a validation set are not trained on"),
    pytest.param("validation", ["train.jsonl"], "train", id="what is trained on is not measured with"),
    pytest.param("validation", ["poems.jsonl", "train.jsonl"], "train", id="nor what lies beside it"),
])  # fmt: skip
def test_a_folder_of_which_no_file_is_for_the_purpose_is_refused(
    tmp_path: Path, part: str, names: list[str], splits: str
) -> None:
    for name in names:
        write(tmp_path / name, json.dumps({"text": name}))
    with pytest.raises(DataError) as refusal:
        corpus.files_of([(CorpusSource(uri="x"), tmp_path)], Tally(), part)
    assert str(refusal.value) == (
        f"{tmp_path}: its files are of the splits {splits}, and none of them is for {part}: name the file in uri, such as "
        f"{tmp_path / names[0]}"
    )


def write(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize(("part", "names", "chosen"), [
    pytest.param("train", ["test", "train"], "train", id="its own"),
    pytest.param("train", ["test", "training"], "training", id="its own under another name"),
    pytest.param("train", ["all"], "all", id="the only one there is"),
    pytest.param("validation", ["train", "dev", "test"], "dev", id="validation before test"),
    pytest.param("validation", ["train", "test"], "test", id="test for validation"),
    pytest.param("train", ["extra", "train"], "train", id="its own beside one that is none of the usual"),
    pytest.param("validation", ["all"], "all", id="the only one, which says nothing"),
])  # fmt: skip
def test_of_a_saved_data_set_one_split_is_read(part: str, names: list[str], chosen: str) -> None:
    assert saved_split(Path("rows"), names, part) == chosen


@pytest.mark.parametrize(("part", "names"), [
    pytest.param("train", ["a", "b"], id="names that say nothing"),
    pytest.param("train", ["validation", "test"], id="only others, for training"),
    pytest.param("train", ["extra", "test"], id="a test set beside one that says nothing"),
    pytest.param("validation", ["train"], id="only what is trained on, for validation"),
])  # fmt: skip
def test_saved_splits_of_which_none_is_for_the_purpose_are_not_guessed_at(part: str, names: list[str]) -> None:
    with pytest.raises(DataError) as refusal:
        saved_split(Path("rows"), names, part)
    assert str(refusal.value) == (
        f"rows: saved with the splits {', '.join(names)}: name one of them in uri, such as rows/{names[0]}"
    )


def test_damage_in_a_json_file_is_told_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "rows.json").write_bytes('{"text": "床前明月光"}\n'.encode() * 3 + b'{"text": "\xe6\x98"}\n')
    with pytest.raises(DataError) as refusal:
        list(records(tmp_path / "rows.json"))
    assert str(refusal.value) == (
        f"{tmp_path / 'rows.json'}, line 4: the bytes e6 98 are not utf-8, as the rest of the file is: save the file as UTF-8"
    )


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_an_array_is_read_alike_in_pieces_of_any_size(tmp_path: Path, chunk: int) -> None:
    values = [{"a": [1, {"b": '}],[{"\\'}], "明": None}, ["x"], 12345, -1.5e3, "text", True, [], {}]
    path = write(tmp_path / "rows.json", json.dumps(values, ensure_ascii=False, indent=1))
    assert list(_json_values(path, "utf-8", chunk)) == values


def test_a_folder_without_data_says_what_it_has(tmp_path: Path) -> None:
    write(tmp_path / "notes.md", "x")
    with pytest.raises(DataError) as refusal:
        files_of(tmp_path, "train")
    assert str(refusal.value) == (
        f"{tmp_path}: no data file (.arrow, .csv, .feather, .json, .jsonl, .ndjson, .parquet, .tsv, or a folder saved by datasets) among notes.md: "
        "name the file in uri"
    )


def test_a_path_without_anything_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError) as refusal:
        files_of(tmp_path / "gone.csv", "train")
    assert str(refusal.value) == f"dataset: nothing at {tmp_path / 'gone.csv'}: check the uri"
