"""The quickstart: its texts, its chain, and the whole of it with a few steps each."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import zstandard

from alpaca_operator.api import KINDS
from alpaca_operator.api.sources import sources
from examples.quickstart import place
from examples.quickstart.__main__ import CHAIN
from workloads.manifest import chain, spec

ROOT = Path(__file__).parents[2]
HERE = ROOT / "examples" / "quickstart"
MARKS = re.compile(r"[，。！？；：、“”‘’《》·…\s]")

SHRUNK = {"maxSteps": 2, "epochs": 1, "saveSteps": 1}

QUICKSTART = """\
import sys
from examples.quickstart import __main__ as quickstart, base
base.STEPS = 2
quickstart.CHAIN = sys.argv[1]
code = quickstart.main()
print("torch was imported:", "torch" in sys.modules)
sys.exit(code)
"""


def words(file: Path) -> str:
    return MARKS.sub("", file.read_text(encoding="utf-8"))


def steps() -> list[chain.Step]:
    return chain.steps(spec.load_all(KINDS, str(ROOT / CHAIN)))


def shrunk(folder: Path) -> Path:
    """The chain with two steps where there were hundreds, and without gates: so little learns nothing."""
    file = ROOT / CHAIN
    documents = spec.documents(file.read_text(encoding="utf-8"), str(file))
    for document in documents:
        if "training" in document["spec"]:
            document["spec"]["training"] |= SHRUNK
        if document["kind"] == "TokenizerJob":
            document["spec"] |= {"train": {"vocabSize": 3000, "characterCoverage": 0.98}, "merge": {"maxSize": 1024}}
        document["spec"].pop("gates", None)
    target = folder / "chain.json"
    target.write_text(json.dumps({"kind": "List", "items": documents}, ensure_ascii=False), encoding="utf-8")
    return target


class TestTexts:
    def test_held_out_text_is_in_no_corpus(self):
        corpus = [words(file) for file in [*(HERE / "corpus").glob("*.txt"), HERE / "web.jsonl"]]
        pieces = [MARKS.sub("", piece) for piece in (HERE / "held-out.txt").read_text(encoding="utf-8").split("\n\n")]
        assert len(pieces) > 50
        assert not [piece for piece in pieces if len(piece) > 20 and any(piece in text for text in corpus)]

    def test_every_poem_that_is_asked_for_is_in_the_corpus(self):
        rows = [
            json.loads(line)["messages"] for line in (HERE / "poems.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        asked = [row[1]["content"] for row in rows if row[0]["content"].startswith("请背诵")]
        corpus = words(HERE / "corpus" / "poems.txt")
        assert len(asked) == 25
        assert not [poem for poem in asked if MARKS.sub("", poem) not in corpus]

    def test_the_questions_of_the_report_have_the_answers_of_the_set(self):
        rows = [
            json.loads(line)["messages"] for line in (HERE / "poems.jsonl").read_text(encoding="utf-8").splitlines()
        ]
        known = {row[0]["content"]: row[1]["content"] for row in rows}
        questions = [json.loads(line) for line in (HERE / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
        assert {each["question"]: each["reference"] for each in questions}.items() <= known.items()

    def test_they_are_small_and_their_origin_is_told(self):
        notice = (HERE / "NOTICE.md").read_text(encoding="utf-8")
        files = [*(HERE / "corpus").iterdir(), HERE / "web.jsonl", HERE / "held-out.txt", HERE / "poems.jsonl"]
        assert sum(file.stat().st_size for file in files) < 400_000
        assert [file.name for file in files if file.name not in notice] == []


class TestChain:
    def test_it_has_a_step_of_every_kind_that_ends(self):
        assert {step.job.kind for step in steps()} == set(KINDS) - {"ChatDeployment"}

    def test_all_that_it_starts_from_is_put_in_place(self, tmp_path):
        (tmp_path / "base").mkdir()
        (tmp_path / "base" / "config.json").write_text("{}")
        place.fill(tmp_path, print)
        made = {step.job.spec.output.uri for step in steps()}
        wanted = {source.uri for step in steps() for _, source in sources(step.job.spec)} - made
        assert {uri.removeprefix("pvc://quickstart/") for uri in wanted} == {path.name for path in tmp_path.iterdir()}

    def test_a_text_that_was_edited_is_copied_again_and_others_are_left_alone(self, tmp_path):
        (tmp_path / "base").mkdir()
        (tmp_path / "base" / "config.json").write_text("{}")
        place.fill(tmp_path, print)
        old, edited = tmp_path / "poems.jsonl", tmp_path / "corpus" / "poems.txt"
        edited.write_text("别的", encoding="utf-8")
        before = old.stat().st_mtime_ns
        place.fill(tmp_path, print)
        assert words(edited) == words(HERE / "corpus" / "poems.txt")
        assert old.stat().st_mtime_ns == before


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[subprocess.CompletedProcess[str]]:
    """Two runs, one after the other, of a chain made small."""
    folder = tmp_path_factory.mktemp("quickstart")
    small = shrunk(folder)
    environment = {
        "ALPACA_STORAGE": str(folder / "storage"),
        "ALPACA_CACHE": str(folder / "cache"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    return [
        subprocess.run(
            [sys.executable, "-c", QUICKSTART, str(small)],
            env={**os.environ, **environment},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        for _ in range(2)
    ]


def results(run: subprocess.CompletedProcess[str]) -> list[str]:
    table = run.stderr[run.stderr.rindex("STEP ") :].splitlines()[1:]
    return [line.split()[2] for line in table]


class TestWhole:
    def test_the_corpus_is_without_what_was_put_into_the_raw_text(self, runs):
        (shard,) = (Path(str(runs[0].args[-1])).parent / "storage" / "quickstart" / "clean" / "train").iterdir()
        with zstandard.open(shard, "rt", encoding="utf-8") as lines:
            rows = [json.loads(line)["text"] for line in lines]
        assert len(rows) == len(set(rows)) == 5 + 25, "five files, and each poem of the sites once"
        assert not [row for row in rows if re.search(r"公众号|转载|热线|https?:|月票|编辑|404", row)]
        told = re.search(r"^characters of raw text, kept +(\S+) → (\S+)$", runs[0].stdout, re.M)
        assert told is not None

    def test_every_step_ends_well(self, runs):
        assert runs[0].returncode == 0, runs[0].stdout + runs[0].stderr
        assert results(runs[0]) == ["Succeeded"] * 9

    def test_no_library_draws_a_progress_of_its_own(self, runs):
        assert re.findall(r".*(?:it/s|s/it).*", runs[0].stdout + runs[0].stderr) == []

    def test_it_ends_with_what_was_gained_and_where_it_lies(self, runs):
        told: dict[str, Any] = dict(
            re.findall(
                r"^(characters per token|perplexity of held-out text|bits per byte of it) +(\S+ → \S+)$",
                runs[0].stdout,
                re.M,
            )
        )
        assert set(told) == {"characters per token", "perplexity of held-out text", "bits per byte of it"}
        before, after = (float(number) for number in told["characters per token"].split(" → "))
        assert after > before
        for model in ("base", "poet", "poet-4bit"):
            assert len(re.findall(rf"^  {model} +\S", runs[0].stdout, re.M)) == 3  # questions
        assert "storage/quickstart/report/report.html" in runs[0].stdout

    def test_the_second_run_reuses_every_step_and_imports_no_torch(self, runs):
        assert runs[1].returncode == 0, runs[1].stdout + runs[1].stderr
        assert results(runs[1]) == ["Reused"] * 9
        assert "torch was imported: False" in runs[1].stdout.splitlines()

    def test_the_second_run_tells_the_same(self, runs):
        first, second = (
            run.stdout[run.stdout.index("== 3.") :].replace("torch was imported: True", "") for run in runs
        )
        assert first.splitlines()[:-1] == second.splitlines()[:-1]
