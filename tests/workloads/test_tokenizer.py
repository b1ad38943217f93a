"""The TokenizerJob as it is run: text and a base in, a tokenizer with its report out, and every way to end."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import Any

import pytest
from sentencepiece import SentencePieceProcessor
from transformers import AutoTokenizer

from tests.workloads.literature import chinese, english
from tests.workloads.process import Ended, Process
from tests.workloads.process import Place as ProcessPlace
from tests.workloads.vocabulary.test_extend import trained

LINES = 4000


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An English base, a novel in GBK, JSON lines of another novel; not to be written to."""
    folder = tmp_path_factory.mktemp("sources")
    (folder / "base").mkdir()
    (folder / "base" / "tokenizer.model").write_bytes(trained(english(4000), 640).SerializeToString())
    (folder / "corpus" / "web").mkdir(parents=True)
    (folder / "corpus" / "web" / "novel.txt").write_bytes("\n".join(chinese(LINES)).encode("gbk"))
    rows = [json.dumps({"text": line}, ensure_ascii=False) + "\n" for line in chinese(200, seed=5)]
    (folder / "corpus" / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    return folder


@pytest.fixture
def place(sources: Path, tmp_path: Path) -> Path:
    for entry in sources.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    return tmp_path


def job(**spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "TokenizerJob",
        "metadata": {"name": "novels"},
        "spec": {
            "base": {"uri": "base"},
            "dataset": {"train": [{"uri": "corpus"}]},
            "train": {"vocabSize": 1000},
            "output": {"uri": "out"},
            **spec,
        },
    }


def start(place: Path, manifest: dict[str, Any], *flags: str) -> Process:
    (place / "job.json").write_text(json.dumps(manifest, ensure_ascii=False), encoding="utf-8")
    environ = ProcessPlace.environ(_At(place))  # type: ignore[arg-type]
    return Process([sys.executable, "-m", "workloads.tokenizer", "job.json", *flags], place, environ)


class _At:
    def __init__(self, folder: Path) -> None:
        self.folder = folder


def run(place: Path, manifest: dict[str, Any], *flags: str) -> Ended:
    return start(place, manifest, *flags).end()


def test_a_base_grows_by_the_text(place: Path) -> None:
    manifest = job(compareWith=[{"name": "Latin only", "uri": "base"}])
    ended = run(place, manifest)
    assert (ended.code, ended.err) == (0, "")
    out = place / "out"
    assert sorted(path.name for path in out.iterdir()) == [
        "README.md", "artifact.json", "characters-per-token.png", "report.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json",
    ]  # fmt: skip

    pieces = SentencePieceProcessor(model_file=str(out / "tokenizer.model"))
    tokenizer = AutoTokenizer.from_pretrained(out)
    lines = [*chinese(500, seed=6), *english(100, seed=6)]
    assert [pieces.encode(line) for line in lines] == tokenizer(lines, add_special_tokens=False).input_ids

    artifact = json.loads((out / "artifact.json").read_text())
    report = json.loads((out / "report.json").read_text())
    assert artifact["kind"] == "Tokenizer"
    assert set(artifact["inputs"]) == {"base", "dataset.train[0]", "compareWith[0]"}
    per_token = report["charactersPerToken"]
    assert per_token["base"] == per_token["Latin only"] < 0.4
    assert per_token["ours"] > 1.2
    size = pieces.get_piece_size()
    assert report["pieces"]["total"] == size
    assert report["pieces"]["base"] + report["pieces"]["added"] == size
    assert artifact["metrics"] == {
        "pieces": size,
        "piecesAdded": report["pieces"]["added"],
        "charactersPerToken": per_token["ours"],
        "charactersPerTokenBase": per_token["base"],
        "huggingFaceAgreement": 1.0,
        "englishUnchanged": 1.0,
        "charactersLost": 0.0,
    }
    assert report["corpus"]["encodings"] == {"utf-8": 1, "gb18030": 1}
    assert report["measuredOn"]["sentences"] == (LINES + 200) // 100
    assert {trip["lostCount"] for trip in report["roundTrip"].values()} == {0}
    page = (out / "README.md").read_text()
    assert f"| Latin only | {per_token['base']:.3f} |" in page
    assert "![Characters per token](characters-per-token.png)" in page
    assert str(place) not in page
    assert (out / "characters-per-token.png").read_bytes().startswith(b"\x89PNG")

    stages = [line["stage"] for line in ended.lines if "stage" in line]
    assert list(dict.fromkeys(stages)) == ["Loading", "Preparing", "Training", "Merging", "Saving"]
    assert any(
        message.startswith(f"characters per token: {per_token['base']:.3f} before") for message in ended.messages
    )

    again = run(place, manifest)
    assert again.code == 0
    assert again.last_word["reason"] == "Reused"


def test_fields_can_be_given_on_the_command_line(place: Path) -> None:
    ended = run(place, job(), "--merge.maxSize", "704", "--output.uri", "small")
    assert ended.code == 0
    assert SentencePieceProcessor(model_file=str(place / "small" / "tokenizer.model")).get_piece_size() == 704


def test_a_stopped_run_leaves_nothing_and_starts_again(place: Path) -> None:
    (place / "much").mkdir()
    (place / "much" / "a.txt").write_text("\n".join(chinese(20_000) * 10), encoding="utf-8")
    process = start(place, job(dataset={"train": [{"uri": "much"}]}))
    process.until(lambda out: '"Preparing"' in out)
    process.send(signal.SIGTERM)
    ended = process.end()
    assert (ended.code, ended.last_word["reason"]) == (75, "Interrupted")
    assert not (place / "out").exists()
    assert list(place.glob(".out*")) == []


@pytest.mark.parametrize(
    ("spec", "code", "message"),
    [
        pytest.param({"base": {"uri": "llama3"}}, 64, "is a byte-level BPE (as Llama-3's and Qwen's are)", id="a byte-level base"),
        pytest.param({"base": {"uri": "nowhere"}}, 66, "spec.base.uri: nowhere", id="no base"),
        pytest.param(
            {"compareWith": [{"name": "x", "uri": "corpus"}]}, 66,
            "has neither tokenizer.model nor tokenizer.json", id="nothing to compare with",
        ),
        pytest.param(
            {"compareWith": [{"name": "x", "uri": "base"}, {"name": "x", "uri": "base"}]}, 64,
            "compareWith[1].name: x is taken: give each tokenizer a name of its own, and neither base nor ours", id="one name twice",
        ),
        pytest.param({"dataset": {"train": [{"uri": "broken.jsonl"}]}}, 65, "broken.jsonl, row 2: not JSON", id="a broken row"),
        pytest.param({"dataset": {"train": [{"uri": "empty.txt"}]}}, 65, "dataset.train holds no text: its files are empty", id="no text"),
        pytest.param(
            {"merge": {"maxSize": 640}}, 64, "merge.maxSize is 640 and the base has 640 pieces already: raise it above 640", id="no room",
        ),
        pytest.param({"merge": {"maxSize": 1000}}, 64, "merge.maxSize", id="a size that is no multiple of 64"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_told_in_one_line(place: Path, spec: dict[str, Any], code: int, message: str) -> None:
    (place / "llama3").mkdir()
    (place / "llama3" / "tokenizer.json").write_text('{"decoder": {"type": "ByteLevel"}}')
    (place / "broken.jsonl").write_text('{"text": "一"}\n{')
    (place / "empty.txt").touch()
    ended = run(place, job(**spec))
    assert ended.code == code
    assert message in ended.last_word["message"]
    (line,) = ended.err.splitlines()
    assert ended.last_word["message"] in line
    assert not (place / "out").exists()


def test_rows_that_cannot_be_used_are_passed_over_where_asked_for_and_told(place: Path) -> None:
    folder = place / "rows"
    folder.mkdir()
    lines = [json.dumps({"text": line}, ensure_ascii=False) for line in chinese(LINES)]
    whole = folder / "a.jsonl"
    whole.write_text("\n".join(["{", *lines, '{"title": "一"}']), encoding="utf-8")
    (folder / "readme.pdf").touch()
    ended = run(place, job(dataset={"train": [{"uri": "rows"}], "onBadRow": "Skip", "maxBadRows": 1}))
    assert ended.code == 65
    assert f"a.jsonl, row {LINES + 2}: no 'text'; it has" in ended.last_word["message"]
    assert "(row 2 that cannot be used, and maxBadRows is 1)" in ended.last_word["message"]

    ended = run(place, job(dataset={"train": [{"uri": "rows"}], "onBadRow": "Skip"}))
    assert ended.code == 0
    corpus = json.loads((place / "out" / "report.json").read_text(encoding="utf-8"))["corpus"]
    assert corpus["rows"] == LINES
    assert sum(corpus["badRows"].values()) == 2
    (left_out,) = corpus["leftOut"]
    assert "readme.pdf" in left_out
    assert left_out in (place / "out" / "README.md").read_text(encoding="utf-8").replace("\\", "")


def test_help_tells_every_field(place: Path) -> None:
    ended = run(place, job(), "--help")
    assert ended.code == 0
    for field in (
        "--base.uri",
        "--dataset.train",
        "--train.vocabSize",
        "--train.inputSentenceSize",
        "--merge.maxSize",
        "--compareWith",
    ):
        assert f"  {field} " in ended.out
