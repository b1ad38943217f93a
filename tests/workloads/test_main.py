"""``python -m workloads``: what there is, and whole files of jobs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from alpaca_operator.api import KINDS
from tests.workloads.process import Place
from workloads import __main__ as workloads
from workloads.errors import DataError
from workloads.runtime.runtime import Metrics, Runtime

JOB = """\
apiVersion: literary-alpaca.io/v1alpha1
kind: SFTJob
metadata: {{name: {name}}}
spec: {{model: {{uri: model}}, dataset: {{train: [{{uri: rows.jsonl}}]}}, output: {{uri: {name}}}}}
---
apiVersion: v1
kind: Secret
metadata: {{name: hub}}
---
"""


@pytest.fixture
def ran(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A stand-in for `workloads.sft`, in a folder with a model and rows; the names of the jobs that it ran."""
    Place(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ALPACA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ALPACA_TERMINATION_LOG", str(tmp_path / "termination-log"))
    names = []

    def run(job: object, runtime: Runtime) -> Metrics:
        names.append(runtime.job.metadata.name)
        if runtime.job.metadata.name == "bad":
            raise DataError("rows.jsonl, row 1: no answer")
        with runtime.output("LoRAAdapter", {}) as folder:
            (folder / "adapter.safetensors").write_text(runtime.job.metadata.name)
        return {}

    module = ModuleType("workloads.sft")
    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "workloads.sft", module)
    return names


def manifest(file: str, *names: str) -> str:
    Path(file).write_text("".join(JOB.format(name=name) for name in names))
    return file


def test_every_job_of_every_file_runs_in_order(ran: list[str]) -> None:
    assert workloads.main([manifest("one.yaml", "b", "a"), manifest("two.yaml", "c")]) == 0
    assert ran == ["b", "a", "c"]


def test_the_first_that_fails_ends_it(ran: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert workloads.main([manifest("one.yaml", "a", "bad", "c")]) == 65
    assert ran == ["a", "bad"]
    assert "InvalidData: rows.jsonl, row 1: no answer" in capsys.readouterr().err.splitlines()


def test_what_is_there_already_is_not_run_again(ran: list[str]) -> None:
    workloads.main([manifest("one.yaml", "a")])
    workloads.main([manifest("one.yaml", "a", "b")])

    assert ran == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "kind: Secret\n", f"job.yaml holds no job: it needs a document of kind {' or '.join(KINDS)}", id="no job"
        ),
        pytest.param(
            JOB.format(name="a").replace("SFTJob", "SftJob"),
            "job.yaml: SftJob a: no such kind; did you mean SFTJob?",
            id="a kind nearly right",
        ),
        pytest.param(
            JOB.format(name="a") + JOB.format(name="b").replace("uri: b", "url: b"),
            "job.yaml:13: spec.output.uri: is missing: Folder of the result, by the same forms as inputs except `hf://`, `ms://` and `oci://`, which `publish` pushes to",
            id="one wrong job in a file of good ones",
        ),
    ],
)
def test_nothing_runs_of_a_file_with_a_mistake(
    ran: list[str], capsys: pytest.CaptureFixture[str], text: str, message: str
) -> None:
    Path("job.yaml").write_text(text)

    assert workloads.main(["job.yaml"]) == 64
    assert capsys.readouterr().err.splitlines()[0] == f"InvalidSpec: {message}"
    assert ran == []


def test_without_a_file_it_lists_the_nouns(capsys: pytest.CaptureFixture[str]) -> None:
    assert workloads.main([]) == 0

    text = capsys.readouterr().out
    for name, kind in KINDS.items():
        assert f"  {kind.workload}" in text
        assert f"{name}: " in text


SALON = """\
apiVersion: literary-alpaca.io/v1alpha1
kind: ChatDeployment
metadata: {name: salon}
spec: {model: {uri: poet}}
"""
NOT_RUN = "ChatDeployment salon is not run by this command: python -m workloads.chat chat.yaml --name salon"


@pytest.mark.parametrize(
    ("flags", "code", "message"),
    [
        pytest.param((), 0, NOT_RUN, id="run"),
        pytest.param(("--dry-run",), 0, NOT_RUN, id="looked at"),
        pytest.param(("--only", "salon"), 64, f"InvalidSpec: --only salon: {NOT_RUN}", id="asked for"),
    ],
)
def test_a_file_of_what_serves_alone_says_so(
    ran: list[str], capsys: pytest.CaptureFixture[str], flags: tuple[str, ...], code: int, message: str
) -> None:
    Path("chat.yaml").write_text(SALON)

    assert workloads.main(["chat.yaml", *flags]) == code
    assert capsys.readouterr() == ("", f"{message}\n")


def test_a_dry_run_of_one_job_shows_that_one(ran: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert workloads.main([manifest("one.yaml", "a", "b"), "--only", "b", "--dry-run"]) == 0

    told = capsys.readouterr()
    assert [line.split()[:2] for line in told.out.splitlines()] == [["STEP", "RESULT"], ["SFTJob", "b"]]
    assert told.err == ""


def test_what_serves_is_no_step_and_is_told_how_to_start(ran: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    manifest("one.yaml", "poet")
    chat = "kind: ChatDeployment\nmetadata: {name: salon}\nspec: {model: {from: {kind: SFTJob, name: poet}}}\n"
    Path("one.yaml").write_text(Path("one.yaml").read_text() + f"apiVersion: literary-alpaca.io/v1alpha1\n{chat}")

    assert workloads.main(["one.yaml"]) == 0
    assert ran == ["poet"]
    assert capsys.readouterr().err.splitlines()[-1] == (
        "ChatDeployment salon is not run by this command: python -m workloads.chat one.yaml --name salon"
    )
