"""The DatasetJob as it is run: raw text in, a corpus with its report out, whatever interrupts it and however many processes work."""

from __future__ import annotations

import json
import random
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api.conversations import DataSource
from alpaca_operator.api.corpus import CorpusSource
from tests.workloads.literature import chinese
from tests.workloads.process import Ended, Process
from tests.workloads.process import Place as ProcessPlace
from workloads.data import corpus, files
from workloads.data.rows import Reading, read

DOCUMENTS = 600
COPIES = 60
ADVERTISED = 50


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pages as JSON lines, of which some were copied and some advertise; novels in GBK; a table; a row that is none."""
    folder = tmp_path_factory.mktemp("raw")
    rng, lines = random.Random(1), chinese(30_000)
    pages = ["\n".join(lines[start : start + 50]) for start in range(0, DOCUMENTS * 40, 40)]
    (folder / "web").mkdir()
    for number in range(6):
        part = pages[number * 100 : (number + 1) * 100]
        part[:ADVERTISED] = (
            [page + "\n扫描下方二维码，关注我们的公众号" for page in part[:ADVERTISED]]
            if number == 0
            else part[:ADVERTISED]
        )
        part += rng.sample(pages[-100:], COPIES) if number == 2 else []
        rows = [json.dumps({"text": page}, ensure_ascii=False) for page in part]
        (folder / "web" / f"{number}.jsonl").write_text("\n".join(rows), encoding="utf-8")
    (folder / "web" / "6.jsonl").write_text('{"text": "半"\n{"text": "短"}\n{"text": " "}\n', encoding="utf-8")
    (folder / "novels").mkdir()
    (folder / "novels" / "a.txt").write_bytes("\r\n".join(lines[25_000:27_000]).encode("gbk"))
    (folder / "table.csv").write_text(f"内容,题\n{pages[0]!r},登楼\n", encoding="utf-8")
    return folder


@pytest.fixture
def place(raw: Path, tmp_path: Path) -> Path:
    for entry in raw.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def job(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "DatasetJob",
        "metadata": {"name": "poems"},
        "spec": {
            "sources": [{"uri": "web"}, {"uri": "novels"}, {"uri": "table.csv", "columns": {"text": "内容", "title": "题"}}],
            "onBadRow": "Skip",
            "clean": {"presets": ["Characters", "Advertisements"]},
            "filters": {"minCharacters": 20},
            "split": {"validationDocuments": 20},
            "output": {"uri": "out"},
            **spec,
        },
    }  # fmt: skip


NEARLY = job(deduplicate={"near": {}})
ALL = job(
    clean={"presets": ["Characters", "Advertisements"], "normalize": {"whitespace": "Collapse"}},
    filters={"minCharacters": 20, "language": ["zh"]},
    deduplicate={"exact": "Paragraph", "near": {}, "against": [{"uri": "table.csv", "columns": {"text": "内容"}}]},
    mixing={"temperature": 3},
    shuffle=True,
    format="Parquet",
    shardSize="0.2MB",
)
"""Every stage that there is."""


WEIGHED = job(
    sources=[
        {"uri": "web", "weight": 2.5},
        {"uri": "novels", "weight": 3},
        {"uri": "table.csv", "columns": {"text": "内容"}},
    ],
    shardSize="0.2MB",
)
"""Copies, and documents that are drawn."""


def start(place: Path, manifest: dict[str, Any], *flags: str) -> Process:
    (place / "job.json").write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")
    return Process([sys.executable, "-m", "workloads.dataset", "job.json", *flags], place, environ_of(place))


def environ_of(folder: Path) -> dict[str, str]:
    """Of a job in this folder."""
    return ProcessPlace.environ(_At(folder))  # type: ignore[arg-type]


class _At:
    def __init__(self, folder: Path) -> None:
        self.folder = folder


def run(place: Path, manifest: dict[str, Any], *flags: str) -> Ended:
    return start(place, manifest, *flags).end(600)


def published(folder: Path) -> dict[str, bytes]:
    """Every file of an output but the one that tells when it was made."""
    found = files_in(folder)
    del found["artifact.json"]
    return found


def files_in(folder: Path) -> dict[str, bytes]:
    """Every file of an output."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def rows(folder: Path) -> list[dict[str, str]]:
    return [record for path in sorted(folder.glob("*")) for _, record in files.records(path)]


def amounts(*parts: dict[str, Any], name: str) -> int:
    return sum(int(part[name]) for part in parts)


def test_a_corpus_is_made_and_every_document_accounted_for(place: Path) -> None:
    ended = run(place, job(), "--parallelism.processesPerNode", "1")
    assert (ended.code, ended.err) == (0, "")
    out = place / "out"
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    train, validation = rows(out / "train"), rows(out / "validation")

    for name, source in report["sources"].items():
        ends = [source["train"], source["validation"], *source["dropped"].values()]
        assert amounts(*ends, name="documents") == source["read"]["documents"], name
        ends += source["removedByRules"].values()
        assert amounts(*ends, name="characters") == source["read"]["characters"], name
        assert amounts(*ends, name="bytes") == source["read"]["bytes"], name
        for part, told in ((train, "train"), (validation, "validation")):
            texts = [row["text"] for row in part if row["source"] == name]
            assert (len(texts), sum(map(len, texts))) == (source[told]["documents"], source[told]["characters"])

    web = report["sources"]["web"]
    assert web["read"]["documents"] == DOCUMENTS + COPIES + 3
    assert {reason: found["documents"] for reason, found in web["dropped"].items()} == {
        "duplicate of another document": COPIES,
        "empty": 1,
        "minCharacters": 1,
        "row that cannot be used": 1,
    }
    assert web["removedByRules"]["follow-us"]["documents"] == ADVERTISED
    assert report["sources"]["novels"]["read"]["documents"] == 1
    assert len(validation) == 20
    texts = [row["text"] for row in train + validation]
    assert len(set(texts)) == len(texts) == report["total"]["kept"]["documents"]
    assert not any("公众号" in text for text in texts)
    examples = report["dropped"]["duplicate of another document"]["examples"]
    assert len(examples) == 20
    assert {example["removed"] for example in report["changed"]["follow-us"]["examples"]} == {
        "\n扫描下方二维码，关注我们的公众号"
    }
    assert report["notes"] == [
        {"what": "rows that cannot be used were passed over", "count": 1, "first": report["notes"][0]["first"]}
    ]

    artifact = json.loads((out / "artifact.json").read_text(encoding="utf-8"))
    assert artifact["kind"] == "Dataset"
    assert artifact["metrics"]["documentsKept"] == len(texts)
    assert artifact["metrics"]["duplicates"] == COPIES
    assert str(place) not in (out / "report.json").read_text(encoding="utf-8") + (out / "README.md").read_text(
        encoding="utf-8"
    )

    again = run(place, job(), "--parallelism.processesPerNode", "2")
    assert again.last_word["reason"] == "Reused"


def test_who_trains_reads_one_part_and_validates_on_the_other(place: Path) -> None:
    assert run(place, job()).code == 0
    for part in ("train", "validation"):
        tally = corpus.Tally()
        found = corpus.files_of([(CorpusSource(uri="pvc://a/out"), place / "out")], tally, part)
        read = "".join(corpus.documents(found, tally))
        assert tally.rows == len(rows(place / "out" / part))
        assert len(read) == sum(len(row["text"]) for row in rows(place / "out" / part))


def test_a_set_of_conversations_is_read_by_who_fine_tunes(place: Path) -> None:
    rows_of_them = [{"问": f"第{number}句是什么？", "答": f"第{number}句。"} for number in range(40)]
    lines = [json.dumps(row, ensure_ascii=False) for row in [*rows_of_them, *rows_of_them[:10]]]
    (place / "talks.jsonl").write_text("\n".join(lines), encoding="utf-8")
    manifest = job(
        content="Conversations", sources=[{"uri": "talks.jsonl"}], filters={}, split={"validationShare": 0.1}
    )
    assert run(place, manifest).code == 0
    found: dict[str, set[str]] = {}
    for part, count in (("train", 36), ("validation", 4)):
        reading = Reading()
        talks = list(read([(DataSource(uri="pvc://a/out"), place / "out")], reading, part))
        found[part] = {str(talk.messages[0]["content"]) for talk in talks}
        assert (len(talks), len(found[part]), sum(reading.bad.counted.values())) == (count, count, 0)
        assert len(reading.files) == 1, reading.files
    assert found["train"] | found["validation"] == {row["问"] for row in rows_of_them}
    assert run(place, manifest).last_word["reason"] == "Reused"


@pytest.mark.parametrize(
    ("manifest", "stage", "number"),
    [
        pytest.param(NEARLY, "reading", signal.SIGKILL, id="killed while reading"),
        pytest.param(NEARLY, "sketching", signal.SIGKILL, id="killed while comparing"),
        pytest.param(NEARLY, "writing", signal.SIGKILL, id="killed while writing"),
        pytest.param(NEARLY, "reading", signal.SIGTERM, id="stopped while reading"),
        pytest.param(ALL, "marking", signal.SIGKILL, id="killed while lines get their numbers"),
        pytest.param(ALL, "removing", signal.SIGKILL, id="killed while lines are taken out"),
        pytest.param(ALL, "scattering", signal.SIGKILL, id="killed while shuffling"),
        pytest.param(WEIGHED, "writing", signal.SIGKILL, id="killed while copies by weight are written"),
    ],
)
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    place: Path, manifest: dict[str, Any], stage: str, number: signal.Signals
) -> None:
    assert run(place, manifest, "--output.uri", "whole", "--parallelism.processesPerNode", "1").code == 0
    (place / "cache").rename(place / "cache-of-the-whole")
    process = start(place, manifest, "--parallelism.processesPerNode", "2")
    process.until(lambda _: any((place / "cache").glob(f"curation/{stage}-*/completions/*")), seconds=300)
    process.send(number)
    ended = process.end(300)
    assert ended.code == (-signal.SIGKILL if number == signal.SIGKILL else 75)
    assert not (place / "out").exists()

    ended = run(place, manifest, "--parallelism.processesPerNode", "4")
    assert ended.code == 0
    assert any(message.startswith(f"{stage}: found ") for message in ended.messages)
    assert published(place / "out") == published(place / "whole")


def test_a_job_that_differs_in_its_split_reads_nothing_again(place: Path) -> None:
    assert run(place, job(), "--output.uri", "first").code == 0
    ended = run(place, job(split={"validationShare": 0.5}))
    assert ended.code == 0
    assert any(message.startswith("reading: found ") for message in ended.messages)
    assert not any(message.startswith(("reading: 1", "comparing: 1")) for message in ended.messages)
    report = json.loads((place / "out" / "report.json").read_text(encoding="utf-8"))
    held = sum(source["validation"]["documents"] for source in report["sources"].values())
    assert held == round(report["total"]["kept"]["documents"] / 2)


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        pytest.param({"onBadRow": "Fail"}, 65, "web/6.jsonl, line 1: not JSON", id="a broken row"),
        pytest.param({"filters": {"minCharacters": 1_000_000}}, 65, "no document is left of", id="nothing left"),
        pytest.param({"sources": [{"uri": "nowhere"}]}, 66, "nowhere", id="no source"),
        pytest.param({"clean": {"rules": [{"name": "a", "pattern": "("}]}}, 64, "clean.rules[0].pattern: '(' cannot be used", id="no expression"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_told_in_one_line(place: Path, spec: dict[str, Any], code: int, message: str) -> None:
    ended = run(place, job(**spec))
    assert ended.code == code, ended.err
    assert message in ended.last_word["message"]
    (line,) = ended.err.splitlines()
    assert ended.last_word["message"] in line
    assert not (place / "out").exists()


def test_the_other_ways_to_pack(place: Path) -> None:
    assert run(place, job(), "--output.uri", "zstd").code == 0
    for compression, ending in (("gzip", ".jsonl.gz"), ("None", ".jsonl")):
        assert run(place, job(compression=compression), "--output.uri", compression, "--shardSize", "0.1MB").code == 0
        written = list((place / compression / "train").iterdir())
        assert all(path.name.endswith(ending) for path in written)
        assert rows(place / compression / "train") == rows(place / "zstd" / "train")
