"""The output: as Parquet, shuffled, mixed by temperature; each read back with the readers of those who train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.conversations import DataSource
from alpaca_operator.api.corpus import CorpusSource
from tests.workloads.curation.corpora import Made, make
from tests.workloads.curation.test_talks import ROWS, sft, write
from workloads.curation import shards
from workloads.data import corpus
from workloads.data.rows import Reading, read

POEMS = [f"第{number}首，白日依山尽。" * 3 for number in range(300)]
PAGES = [f"第{number}页，黄河入海流。" for number in range(100)]


def read_by_pretraining(folder: Path, part: str) -> list[str]:
    """The documents that PretrainJob and TokenizerJob read."""
    (folder / "artifact.json").touch()
    tally = corpus.Tally()
    found = corpus.files_of([(CorpusSource(uri="pvc://a/out"), folder)], tally, part)
    texts, held = [], ""
    for block in corpus.documents(found, tally):
        if block == corpus.END:
            texts.append(held)
            held = ""
        held += block
    return texts


@pytest.mark.parametrize("compression", ["zstd", "gzip", "None"])
def test_parquet_is_read_as_the_lines_are(tmp_path: Path, compression: str) -> None:
    spec: dict[str, Any] = {"split": {"validationDocuments": 20}, "compression": compression}
    lines = make(tmp_path, {"诗": POEMS}, "lines", **spec)
    columns = make(tmp_path, {"诗": POEMS}, "columns", format="Parquet", shardSize="0.01MB", **spec)
    names = [path.name for path in sorted((tmp_path / "columns" / "train").iterdir())]
    assert names[:2] == ["00000-00000.parquet", "00000-00001.parquet"]
    for part in ("train", "validation"):
        assert columns.rows(part) == lines.rows(part)
        texts = [row["text"] for row in lines.rows(part)]
        assert read_by_pretraining(tmp_path / "columns", part) == read_by_pretraining(tmp_path / "lines", part) == texts
    assert (tmp_path / "columns" / "report.json").read_bytes() == (tmp_path / "lines" / "report.json").read_bytes()


def test_the_codec_is_the_one_that_was_asked_for(tmp_path: Path) -> None:
    from pyarrow import parquet

    for compression, codec in (("zstd", "ZSTD"), ("gzip", "GZIP"), ("None", "UNCOMPRESSED")):
        make(tmp_path, {"诗": POEMS}, compression, format="Parquet", compression=compression)
        (path,) = (tmp_path / compression / "train").iterdir()
        assert parquet.ParquetFile(path).metadata.row_group(0).column(0).compression == codec


def test_parquet_of_many_rows_is_written_in_groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from pyarrow import parquet

    from workloads.curation import packing

    monkeypatch.setattr(packing, "ROW_GROUP", 2000)
    made = make(tmp_path, {"诗": POEMS}, format="Parquet")
    (path,) = (tmp_path / "out" / "train").iterdir()
    assert parquet.ParquetFile(path).num_row_groups > 10
    assert made.texts() == POEMS


def test_conversations_as_parquet_are_read_by_fine_tuning(tmp_path: Path) -> None:
    from tests.workloads.curation.corpora import run

    path = write(tmp_path / "rows", "messages.jsonl", [ROWS["messages.jsonl"]])
    run(tmp_path, content="Conversations", sources=[{"uri": str(path)}], format="Parquet", clean={"presets": []})
    assert sft(tmp_path / "out") == sft(path)
    reading = Reading()
    list(read([(DataSource(uri="pvc://a/b"), tmp_path / "out")], reading))
    assert "Messages (by column messages)" in reading.files[0]


def shuffled(folder: Path, name: str, **spec: Any) -> Made:
    return make(folder, {"诗": POEMS, "网": PAGES}, name, shuffle=True, split={"validationDocuments": 20}, **spec)


def test_shuffled_documents_are_the_same_in_an_order_of_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = make(tmp_path, {"诗": POEMS, "网": PAGES}, "plain", split={"validationDocuments": 20})
    one, again, other = shuffled(tmp_path, "one"), shuffled(tmp_path, "again"), shuffled(tmp_path, "other", seed=7)
    monkeypatch.setattr(shards, "BUCKET_BYTES", 2000)
    many = shuffled(tmp_path, "many", shardSize="0.01MB")
    for part in ("train", "validation"):
        assert sorted(one.texts(part)) == sorted(plain.texts(part))
        assert one.texts(part) == again.texts(part) == many.texts(part)
    assert len(list((tmp_path / "many" / "train").iterdir())) > 10
    assert one.texts() != plain.texts()
    assert other.texts() != one.texts()
    assert one.report == plain.report
    sources = [row["source"] for row in one.rows()]
    halves = [sources[:190].count("网"), sources[190:].count("网")]
    assert min(halves) > 30, "sources are strewn over the whole"
    assert not list((tmp_path / "cache" / "curation").glob("scattering-*/buckets")), "what was put into buckets is gone"


def test_copies_are_strewn_as_well(tmp_path: Path) -> None:
    made = make(tmp_path, {"诗": POEMS}, shuffle=True)
    assert sorted(made.texts()) == sorted(POEMS)
    twice = make(tmp_path, {}, "twice", shuffle=True, sources=[{"uri": str(tmp_path / "诗.jsonl"), "weight": 2}])
    assert sorted(twice.texts()) == sorted(POEMS * 2)
    assert [path.name for path in (tmp_path / "twice" / "train").iterdir()] == ["00000-00000.jsonl.zst"]


def test_a_temperature_makes_sources_more_alike(tmp_path: Path) -> None:
    def share(made: Made) -> float:
        sizes = dict.fromkeys(("诗", "网"), 0)
        for row in made.rows():
            sizes[row["source"]] += len(row["text"].encode())
        return sizes["网"] / sizes["诗"]

    as_it_is = make(tmp_path, {"诗": POEMS, "网": PAGES}, "one", mixing={"temperature": 1})
    cooled = make(tmp_path, {"诗": POEMS, "网": PAGES}, "two", mixing={"temperature": 2})
    bounded = make(tmp_path, {"诗": POEMS, "网": PAGES}, "three", mixing={"temperature": 2, "epochsPerSource": 1.5})
    alike = make(tmp_path, {"诗": POEMS, "网": PAGES}, "four", mixing={"temperature": 100})
    ratio = share(as_it_is)
    assert sorted(as_it_is.texts()) == sorted(POEMS + PAGES)
    assert share(cooled) == pytest.approx(ratio**0.5, rel=0.1)
    assert share(bounded) == pytest.approx(ratio * 1.5, rel=0.1)
    assert share(alike) == pytest.approx(ratio * 4, rel=0.1), "no source stands more than four times"
