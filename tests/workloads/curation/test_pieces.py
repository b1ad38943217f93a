"""A large file of JSON lines that several processes read: each line once, whole, and in its place."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.dataset import RawSource
from tests.workloads.curation.corpora import Made, run, write_lines
from tests.workloads.literature import chinese
from tests.workloads.test_dataset import files_in
from workloads.curation import shares
from workloads.data.corpus import CorpusFile, Tally, lines
from workloads.errors import DataError


def in_pieces(path: Path, size: int, encoding: str = "Auto") -> list[list[str]]:
    whole = path.stat().st_size
    spans = [(start, min(start + size, whole)) for start in range(0, whole, size)]
    return [list(lines(CorpusFile(path, "JSONL", encoding, span=span), Tally())) for span in spans]


CONTENTS = {
    "lines": "白日\n依山尽，黄河\n入海流\n",
    "no end": "白日\n依山尽",
    "empty lines": "\n\n白日\n\n\n依山尽\n\n",
    "Windows": "白日\r\n依山尽\r\n黄河\r\n",
    "one line": "白日依山尽黄河入海流" * 5,
    "long and short": "山\n" * 20 + "水" * 60 + "\n" + "山\n" * 20,
}


@pytest.mark.parametrize("name", CONTENTS)
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030"])
def test_each_line_is_in_one_piece(tmp_path: Path, name: str, encoding: str) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(CONTENTS[name].encode(encoding))
    whole = list(lines(CorpusFile(path, "JSONL", encoding), Tally()))
    for size in range(1, path.stat().st_size + 2):
        assert [line for piece in in_pieces(path, size, encoding) for line in piece] == whole, size


def test_pieces_of_a_long_file_do_not_depend_on_how_it_is_read(tmp_path: Path) -> None:
    rng = random.Random(1)
    texts = ["山水" * rng.choice([1, 10, 3000]) for _ in range(400)]
    write_lines(tmp_path / "a.jsonl", texts)
    whole = list(lines(CorpusFile(tmp_path / "a.jsonl", "JSONL"), Tally()))
    for size in (999, 65_536, 100_000):
        assert [line for piece in in_pieces(tmp_path / "a.jsonl", size) for line in piece] == whole


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "PIECE_BYTES", 20_000)
    monkeypatch.setattr(shares, "SHARE_BYTES", 20_000)


def make(folder: Path, name: str, processes: int) -> Made:
    spec = {"sources": [{"uri": str(folder / "a.jsonl")}], "split": {"validationDocuments": 5}}
    made = run(folder, name, **spec, parallelism={"processesPerNode": processes})
    (folder / "cache").rename(folder / f"cache-of-{name}")
    return made


def test_one_file_is_shared_out_and_the_bytes_are_the_same(tmp_path: Path, small: None) -> None:
    texts = ["\n".join(chinese(2000)[at : at + 5]) for at in range(0, 2000, 5)]
    write_lines(tmp_path / "a.jsonl", texts)
    alone, together = (make(tmp_path, f"out-{processes}", processes) for processes in (1, 2))
    assert files_in(alone.folder) == files_in(together.folder)
    assert sorted(alone.texts() + alone.texts("validation")) == sorted(texts)
    (said,) = [line for line in alone.said if line.startswith("reading: ")]
    count = -(-(tmp_path / "a.jsonl").stat().st_size // 20_000)
    assert (said, count > 5) == (f"reading: {count} shares in 1 process", True)
    stood = {row["id"]: row["text"] for row in alone.rows()}
    name, text = next((name, text) for name, text in stood.items() if "after byte 40,000" in name)
    number = int(name.partition(", line ")[2].partition(" ")[0])
    with (tmp_path / "a.jsonl").open("rb") as file:
        file.seek(40_000 - 1)
        file.readline()
        line = [file.readline() for _ in range(number)][-1]
    assert json.loads(line)["text"] == text, "its id says where it stood"


def test_a_row_that_cannot_be_used_is_told_with_its_place(tmp_path: Path, small: None) -> None:
    write_lines(tmp_path / "a.jsonl", ["山" * 100] * 200)
    with (tmp_path / "a.jsonl").open("a") as file:
        file.write('{"text": \n')
    at = (tmp_path / "a.jsonl").stat().st_size // 20_000 * 20_000
    with pytest.raises(DataError, match=rf"a\.jsonl, line \d+ after byte {at:,}: not JSON"):
        make(tmp_path, "out", 1)


@pytest.mark.parametrize(
    ("name", "content", "source"),
    [
        pytest.param("a.jsonl.gz", gzip.compress(b'{"text": "a"}\n' * 5000, 0), {}, id="packed"),
        pytest.param("a.jsonl", gzip.compress(b'{"text": "a"}\n' * 5000, 0), {}, id="packed, whatever its name"),
        pytest.param("a.jsonl", ('{"text": "山水"}\n' * 5000).encode("utf-16"), {}, id="UTF-16"),
        pytest.param("a.jsonl", ('{"text": "山水"}\n' * 5000).encode("utf-16-le"), {"encoding": "utf-16-le"}, id="named UTF-16"),
        pytest.param("a.jsonl", b'{"text": "a"}\n' * 5000, {"maxDocuments": 7}, id="with a bound"),
        pytest.param("a.csv", b"text\na\n" * 9000, {}, id="a table"),
        pytest.param("a.json", b'[{"text": "a"}' + b',\n{"text": "a"}' * 5000 + b"]", {}, id="an array"),
        pytest.param("a.txt", b"a\n" * 20000, {}, id="a text"),
    ],
)  # fmt: skip
def test_what_cannot_be_begun_in_the_middle_stays_whole(
    tmp_path: Path, small: None, name: str, content: bytes, source: dict[str, Any]
) -> None:
    (tmp_path / name).write_bytes(content)
    spec = RawSource.model_validate({"uri": "a", **source})
    (file,), _ = shares.files_of(0, spec, tmp_path / name)
    assert file.size > shares.PIECE_BYTES
    assert shares.pieces(file, spec) == [file]


def test_json_lines_are_known_whatever_their_name(tmp_path: Path, small: None) -> None:
    """As CLUE's and many another set has them."""
    texts = [f"第{number}首，白日依山尽。" for number in range(2000)]
    write_lines(tmp_path / "train.json", texts)
    made = run(tmp_path, sources=[{"uri": str(tmp_path / "train.json")}])
    assert sorted(made.texts()) == sorted(texts)
    (said,) = [line for line in made.said if line.startswith("reading: ")]
    assert int(said.split()[1]) > 3


def test_conversations_in_pieces_have_the_layout_of_their_file(tmp_path: Path, small: None) -> None:
    """Its first rows say which; the later ones alone would be read as another."""
    rows = [{"input": f"第{number}问", "target": f"第{number}答"} for number in range(900)]
    for row in rows[200:]:
        row |= {"instruction": "看一看", "output": "不是这个"}
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "whole").mkdir()
    (tmp_path / "whole" / "a.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    (tmp_path / "a.jsonl").write_text(text, encoding="utf-8")
    spec: dict[str, Any] = {"content": "Conversations", "parallelism": {"processesPerNode": 1}}
    whole = run(tmp_path, "whole-out", **spec, sources=[{"uri": str(tmp_path / "whole")}])
    made = run(tmp_path, "out", **spec, sources=[{"uri": str(tmp_path / "a.jsonl")}])
    (said,) = [line for line in made.said if line.startswith("reading: ")]
    assert int(said.split()[1]) > 2
    assert [row["messages"] for row in made.rows()] == [row["messages"] for row in whole.rows()]
    assert {row["messages"][1]["content"] for row in made.rows()} == {row["target"] for row in rows}  # type: ignore[index]
    assert len(made.rows()) == 900
    (note,) = made.report["notes"]
    assert note["count"] == 1, "the layout is told once"
