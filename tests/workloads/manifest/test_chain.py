"""Chains of jobs on one machine: their order, what is reused, what is made again, and where an artifact comes from."""

from __future__ import annotations

import io
import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from alpaca_operator.api import KINDS, SFTJob
from alpaca_operator.api.contract import ARTIFACT_FILE, Artifact
from workloads import __main__, sft
from workloads.errors import InputError, SpecError
from workloads.manifest import chain, spec
from workloads.runtime import chain_run, command
from workloads.storage import lineage
from workloads.system.environment import Environment

ROWS = '{"messages": [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]}\n'


def job(name: str, model: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "SFTJob",
        "metadata": {"name": name},
        "spec": {
            "model": model,
            "dataset": {"train": [{"uri": "rows.jsonl"}]},
            "output": {"uri": f"pvc://models/{name}"},
            "method": "Full",
            **fields,
        },
    }


def after(name: str) -> dict[str, Any]:
    return {"from": {"kind": "SFTJob", "name": name}}


def typed(*manifests: dict[str, Any]) -> list[SFTJob]:
    return [SFTJob.model_validate(manifest) for manifest in manifests]


BASE = {"uri": "pvc://models/base"}
TWO = (job("second", after("first")), job("first", BASE))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with rows and a base, and a `sft` whose result is a file with what it was made from."""
    base = tmp_path / "storage" / "models" / "base"
    base.mkdir(parents=True)
    (base / "config.json").write_text("{}")
    (base / "model.safetensors").write_text("weights of the base")
    (tmp_path / "rows.jsonl").write_text(ROWS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.delenv("ALPACA_STORAGE", raising=False)
    monkeypatch.setattr(sft, "run", copy_the_model)
    return tmp_path


def copy_the_model(job: Any, runtime: Any) -> dict[str, float | None]:
    """Stands for a training: the runtime, the publishing and the digests around it are the real ones."""
    if job.spec.training.seed == 13:
        raise InputError("seed 13 is unlucky: choose another")
    with runtime.output("Model", {"evalLoss": 0.5}) as target:
        (target / "config.json").write_text("{}")
        before = (runtime.inputs["model"].path / "model.safetensors").read_text()
        (target / "model.safetensors").write_text(
            f"{before}, then {job.metadata.name} by seed {job.spec.training.seed}"
        )
    return {"evalLoss": 0.5}


def write(folder: Path, *manifests: dict[str, Any]) -> str:
    file = folder / "chain.yaml"
    file.write_text("---\n".join(json.dumps(manifest, indent=1) + "\n" for manifest in manifests))
    return str(file)


def table(text: str) -> dict[str, str]:
    """Result by name, from the last table that was printed."""
    lines = text[text.rindex("STEP ") :].splitlines()[1:]
    return {
        line.split()[1]: " ".join(line.split()[2:4]) if "to run" in line else line.split()[2] for line in lines if line
    }


def weights(folder: Path, name: str) -> str:
    return (folder / "storage" / "models" / name / "model.safetensors").read_text()


class TestOrder:
    def test_producers_come_first_whatever_the_order_of_the_file(self):
        manifests = (job("third", after("second")), *TWO)
        assert [step.title for step in chain.steps(typed(*manifests))] == [
            "SFTJob first",
            "SFTJob second",
            "SFTJob third",
        ]

    def test_a_thousand_steps_are_ordered_and_a_circle_of_them_is_found(self):
        line = [job(f"step-{number}", after(f"step-{number - 1}")) for number in range(999, 0, -1)]
        ordered = chain.steps(typed(*line, job("step-0", BASE)))
        assert [step.job.metadata.name for step in ordered] == [f"step-{number}" for number in range(1000)]
        with pytest.raises(
            SpecError, match=r"^SFTJob step-999 waits for itself \(step-999 → step-998 → .* → step-999\): "
        ):
            chain.steps(typed(*line, job("step-0", after("step-999"))))

    def test_a_reference_becomes_the_place_of_the_output(self):
        second = chain.steps(typed(*TWO))[1].job
        assert second.spec.model.uri == "pvc://models/first"
        assert second.spec.model.from_ is None

    @pytest.mark.parametrize(
        ("manifests", "message"),
        [
            pytest.param(
                (job("second", after("first")),),
                "SFTJob second: spec.model.from names SFTJob first, which none of the files holds: add its manifest to them, or name its "
                "output by uri",
                id="a producer that is not there",
            ),
            pytest.param(
                (job("second", after("first")), job("first", BASE, method="LoRA")),
                "SFTJob second: spec.model.from names SFTJob first, which makes a LoRAAdapter; model takes Model: set merge on it, or put a "
                "MergeJob between",
                id="an adapter where a model is needed",
            ),
            pytest.param(
                (job("a", after("b")), job("b", after("a"))),
                "SFTJob a waits for itself (a → b → a): break the circle",
                id="a circle",
            ),
            pytest.param(
                (job("a", after("a")),),
                "SFTJob a waits for itself (a → a): break the circle",
                id="a job that reads itself",
            ),
            pytest.param(
                (job("a", BASE), job("a", BASE)),
                "SFTJob a is there twice: give one of them another name",
                id="one name for two jobs",
            ),
            pytest.param(
                (job("a", BASE, output={"uri": "pvc://models/x"}), job("b", BASE, output={"uri": "pvc://models/./x/"})),
                "SFTJob a and SFTJob b have the same spec.output.uri, pvc://models/./x/: give each a folder of its own",
                id="one place for two outputs",
            ),
        ],
    )
    def test_a_chain_that_cannot_be_run_is_refused(self, manifests, message):
        with pytest.raises(SpecError) as refused:
            chain.steps(typed(*manifests))
        assert str(refused.value) == message


class TestRunning:
    def test_a_chain_runs_to_its_end_and_is_reused(self, folder, capsys):
        file = write(folder, *TWO)
        assert __main__.main([file]) == 0
        told = capsys.readouterr().err
        assert "[1/2] SFTJob first → pvc://models/first" in told
        assert table(told) == {"first": "Succeeded", "second": "Succeeded"}
        assert weights(folder, "second") == "weights of the base, then first by seed 42, then second by seed 42"
        assert __main__.main([file]) == 0
        again = capsys.readouterr().err
        assert table(again) == {"first": "Reused", "second": "Reused"}
        assert again.rstrip().endswith("pvc://models/second  evalLoss 0.5")  # what was measured when it was made

    def test_it_stops_at_the_first_failure_and_goes_on_there(self, folder, capsys):
        unlucky = write(
            folder,
            job("second", after("first"), training={"seed": 13}),
            job("first", BASE),
            job("third", after("second")),
        )
        assert __main__.main([unlucky]) == InputError.exit_code
        told = capsys.readouterr().err
        assert "InputNotFound: seed 13 is unlucky: choose another" in told
        assert table(told) == {"first": "Succeeded", "second": "Failed", "third": "not"}
        mended = write(folder, job("second", after("first")), job("first", BASE), job("third", after("second")))
        assert __main__.main([mended]) == 0
        assert table(capsys.readouterr().err) == {"first": "Reused", "second": "Succeeded", "third": "Succeeded"}

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
    def test_a_signal_at_the_end_of_a_step_stops_the_chain_behind_it(self, folder, capsys, monkeypatch, number):
        def copy_and_be_told_to_stop(job: Any, runtime: Any) -> dict[str, float | None]:
            metrics = copy_the_model(job, runtime)
            os.kill(os.getpid(), number)  # what was published stays; what comes next must not begin
            return metrics

        file = write(folder, *TWO)
        monkeypatch.setattr(sft, "run", copy_and_be_told_to_stop)
        assert __main__.main([file]) == 75
        told = capsys.readouterr().err
        assert "Interrupted: stopped before SFTJob second: run again to go on" in told.splitlines()
        assert table(told) == {"first": "Succeeded", "second": "Interrupted"}
        monkeypatch.setattr(sft, "run", copy_the_model)
        assert __main__.main([file]) == 0
        assert table(capsys.readouterr().err) == {"first": "Reused", "second": "Succeeded"}

    def test_a_changed_step_is_made_again_with_all_that_depends_on_it(self, folder, capsys):
        assert __main__.main([write(folder, *TWO, job("other", BASE))]) == 0
        changed = write(folder, TWO[0], job("first", BASE, training={"seed": 7}), job("other", BASE))
        assert __main__.main([changed, "--dry-run"]) == 0
        assert table(capsys.readouterr().out) == {"first": "to run", "second": "to run", "other": "Reused"}
        assert __main__.main([changed]) == 0
        assert table(capsys.readouterr().err) == {"first": "Succeeded", "second": "Succeeded", "other": "Reused"}
        assert weights(folder, "second") == "weights of the base, then first by seed 7, then second by seed 42"

    def test_what_another_job_made_is_never_replaced(self, folder, capsys):
        assert __main__.main([write(folder, job("first", BASE))]) == 0
        assert (
            __main__.main(
                [write(folder, job("thief", BASE, output={"uri": "pvc://models/first"}, training={"seed": 7}))]
            )
            == 64
        )
        assert "holds another artifact (Model by SFTJob first" in capsys.readouterr().err
        assert weights(folder, "first") == "weights of the base, then first by seed 42"

    def test_a_dry_run_writes_nothing(self, folder, capsys):
        assert __main__.main([write(folder, *TWO), "--dry-run"]) == 0
        assert table(capsys.readouterr().out) == {"first": "to run", "second": "to run"}
        assert [path.name for path in (folder / "storage" / "models").iterdir()] == ["base"]

    def test_a_dry_run_names_the_step_that_lacks_an_input(self, folder, capsys):
        file = write(folder, job("first", BASE), job("lost", {"uri": "pvc://models/nowhere"}))
        assert __main__.main([file, "--dry-run"]) == InputError.exit_code
        told = capsys.readouterr()
        assert told.err.startswith("InputNotFound: SFTJob lost: spec.model.uri: pvc://models/nowhere: ")

    def test_one_job_alone_finds_its_inputs_in_the_same_file(self, folder, capsys):
        file = write(folder, *TWO)
        assert __main__.main([file, "--only", "first"]) == 0
        assert __main__.main([file, "--only", "second"]) == 0
        assert weights(folder, "second").endswith("then second by seed 42")
        assert __main__.main([file, "--only", "fourth"]) == 64
        assert "--only fourth: no such job; there are first, second" in capsys.readouterr().err

    def test_a_chain_is_read_from_standard_input(self, folder, capsys, monkeypatch):
        text = Path(write(folder, *TWO)).read_text()
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        assert __main__.main(["-"]) == 0
        assert table(capsys.readouterr().err) == {"first": "Succeeded", "second": "Succeeded"}
        monkeypatch.setattr("sys.stdin", io.StringIO(text))
        second = ["-", "--name", "second", "--output.uri", "pvc://models/third"]
        assert command.main(SFTJob, sft.run, second) == 0
        assert weights(folder, "third").endswith("then second by seed 42")

    def test_a_changed_corpus_is_noticed(self, folder, capsys):
        file = write(folder, *TWO)
        assert __main__.main([file]) == 0
        (folder / "rows.jsonl").write_text(ROWS * 2, encoding="utf-8")
        chained = chain.steps(spec.load_all(KINDS, file))
        chain_run.foresee(chained, Environment.read({"XDG_CACHE_HOME": str(folder / "cache")}))
        assert [step.outcome for step in chained] == ["to run", "to run"]


def cut_short(first: Path) -> None:
    (first / "model.safetensors").write_text("weights")


def change_a_byte(first: Path) -> None:
    weights = first / "model.safetensors"
    weights.write_text(weights.read_text().replace("base", "bass"))


def lose_a_file(first: Path) -> None:
    (first / "config.json").unlink()


def break_off(first: Path) -> None:
    artifact = first / ARTIFACT_FILE
    artifact.write_text(artifact.read_text()[:300])


class TestDamage:
    @pytest.mark.parametrize(
        ("harm", "damage"),
        [
            pytest.param(cut_short, "model.safetensors has 7 bytes instead of 42", id="weights that were cut short"),
            pytest.param(
                change_a_byte, "the content of model.safetensors has changed", id="another byte in the weights"
            ),
        ],
    )
    def test_a_damaged_output_is_no_input_and_its_chain_makes_it_again(self, folder, capsys, harm, damage):
        file = write(folder, *TWO)
        assert __main__.main([file, "--only", "first"]) == 0
        harm(folder / "storage" / "models" / "first")
        capsys.readouterr()
        assert __main__.main([file, "--only", "second"]) == InputError.exit_code
        assert capsys.readouterr().err.splitlines()[1] == (
            f"InputNotFound: spec.model.uri: pvc://models/first: what lies there is not what SFTJob first published ({damage}): copy it "
            "again, or remove its artifact.json to take it as it is"
        )
        assert __main__.main([file]) == 0
        told = capsys.readouterr()
        assert f"the artifact at pvc://models/first is damaged ({damage}): it is made again" in told.out
        assert table(told.err) == {"first": "Succeeded", "second": "Succeeded"}

    @pytest.mark.parametrize(
        ("harm", "message"),
        [
            pytest.param(
                lose_a_file, r"{here}/storage/models/first has no config.json; it holds ", id="half of the files"
            ),
            pytest.param(
                break_off, r"{here}/storage/models/first/artifact.json is damaged (", id="half of artifact.json"
            ),
        ],
    )
    def test_half_a_copy_is_no_input(self, folder, capsys, harm, message):
        file = write(folder, *TWO)
        assert __main__.main([file, "--only", "first"]) == 0
        harm(folder / "storage" / "models" / "first")
        capsys.readouterr()
        assert __main__.main([file, "--only", "second"]) == InputError.exit_code
        told = capsys.readouterr().err.splitlines()[1]
        assert told.startswith(f"InputNotFound: spec.model.uri: pvc://models/first: {message.format(here=folder)}")

    def test_what_was_changed_on_purpose_is_taken_without_its_artifact(self, folder, capsys):
        file = write(folder, *TWO)
        assert __main__.main([file, "--only", "first"]) == 0
        first = folder / "storage" / "models" / "first"
        change_a_byte(first)
        (first / ARTIFACT_FILE).unlink()
        assert __main__.main([file, "--only", "second"]) == 0
        assert weights(folder, "second").startswith("weights of the bass")
        assert lineage.read(folder / "storage" / "models" / "second").ancestors == {}

    def test_files_that_shape_no_result_may_change(self, folder, capsys):
        file = write(folder, *TWO)
        assert __main__.main([file, "--only", "first"]) == 0
        (folder / "storage" / "models" / "first" / "NOTES.md").write_text("mine")
        assert __main__.main([file, "--only", "second"]) == 0


class TestTable:
    @pytest.mark.parametrize(
        ("metrics", "told"),
        [
            pytest.param({"steps": 3.0}, "", id="what nobody compares is left out"),
            pytest.param(
                {"charactersPerToken": 0.9648, "charactersPerTokenBase": 0.4373},
                "charactersPerToken 0.4373 → 0.9648",
                id="a vocabulary, beside its base",
            ),
            pytest.param(
                {"perplexity": 337.85, "perplexityBefore": 31843.57, "evalLoss": 5.8226, "finalLoss": None},
                "evalLoss 5.823, perplexity 31,844 → 337.9",
                id="numbers as they are read, not as exponents",
            ),
            pytest.param(
                {"a/perplexity": 9.0, "a/bitsPerByte": 12.37, "b/bitsPerByte": None, "a/stopRate": 0.5},
                "bitsPerByte of a 12.37, b none",
                id="models side by side, by what compares any two",
            ),
            pytest.param({"a/stopRate": 0.5}, "stopRate of a 0.5", id="models that only answered"),
        ],
    )
    def test_the_metrics_of_a_step_fit_on_a_line(self, metrics, told):
        (step,) = chain.steps(typed(job("first", BASE)))
        step.metrics = metrics
        assert chain_run.table([step]).splitlines()[1].partition("pvc://models/first")[2].strip() == told


class TestLineage:
    def test_the_last_artifact_leads_back_to_the_first_inputs_when_those_between_are_gone(self, folder, capsys):
        assert __main__.main([write(folder, *TWO)]) == 0
        artifact = lineage.read(folder / "storage" / "models" / "second")
        first = artifact.ancestors[artifact.inputs["model"].digest]
        assert first.job == {"kind": "SFTJob", "name": "first"}
        assert first.spec_digest == lineage.read(folder / "storage" / "models" / "first").spec_digest
        assert {field: made.uri for field, made in first.inputs.items()} == {
            "model": "pvc://models/base",
            "dataset.train[0]": "rows.jsonl",
        }
        capsys.readouterr()
        assert __main__.main(["lineage", "storage/models/second"]) == 0
        told = capsys.readouterr().out.splitlines()
        assert told[0].startswith("storage/models/second  (Model by SFTJob second)  sha256:")
        assert any(line.startswith("├─ model: pvc://models/first  (Model by SFTJob first)  sha256:") for line in told)
        assert any(line.startswith("│  ├─ model: pvc://models/base  sha256:") for line in told)

    def test_what_two_ways_lead_to_is_held_and_told_once(self, tmp_path):
        """Each round reads the one before twice, as a merge reads the base of its adapter: told anew each time, ten would be a thousand."""
        for number in range(4):
            before = {"uri": f"pvc://models/{number - 1}", "digest": f"sha256:{number - 1}"}
            folder = tmp_path / str(number)
            folder.mkdir()
            made = Artifact(
                kind="Model",
                job={"kind": "MergeJob", "name": f"round-{number}"},
                digest=f"sha256:{number}",
                spec_digest=f"sha256:spec-{number}",
                inputs={"model": before, "adapters[0]": before},
                ancestors=lineage.ancestors([tmp_path / str(number - 1)] * 2),
            )
            (folder / ARTIFACT_FILE).write_text(made.model_dump_json(by_alias=True), encoding="utf-8")
        third = lineage.read(tmp_path / "3")
        assert sorted(third.ancestors) == ["sha256:0", "sha256:1", "sha256:2"]
        assert lineage.tree(third, "3").splitlines() == [
            "3  (Model by MergeJob round-3)  sha256:3",
            "├─ model: pvc://models/2  (Model by MergeJob round-2)  sha256:2",
            "│  ├─ model: pvc://models/1  (Model by MergeJob round-1)  sha256:1",
            "│  │  ├─ model: pvc://models/0  (Model by MergeJob round-0)  sha256:0",
            "│  │  │  ├─ model: pvc://models/-1  sha256:-1",
            "│  │  │  └─ adapters[0]: pvc://models/-1  sha256:-1",
            "│  │  └─ adapters[0]: pvc://models/0  (Model by MergeJob round-0)  sha256:0, see above",
            "│  └─ adapters[0]: pvc://models/1  (Model by MergeJob round-1)  sha256:1, see above",
            "└─ adapters[0]: pvc://models/2  (Model by MergeJob round-2)  sha256:2, see above",
        ]

    def test_a_chain_may_be_longer_than_python_recurses(self):
        def reads(number: int) -> dict[str, Any]:
            return {"model": {"uri": f"pvc://models/{number}", "digest": f"sha256:{number}"}}

        made = {"kind": "Model", "spec_digest": "sha256:spec"}
        ancestors = {f"sha256:{number}": {**made, "inputs": reads(number - 1)} for number in range(1, 2001)}
        last = Artifact.model_validate({**made, "digest": "sha256:2001", "inputs": reads(2000), "ancestors": ancestors})
        assert len(lineage.tree(last, "last").splitlines()) == 2002

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            pytest.param(None, "broken: no artifact.json there: name the output of a job", id="no artifact"),
            pytest.param(
                "{", "broken/artifact.json cannot be read as an artifact (ValidationError): ", id="a damaged one"
            ),
        ],
    )
    def test_what_is_no_artifact_is_told(self, tmp_path, monkeypatch, capsys, content, message):
        monkeypatch.chdir(tmp_path)
        Path("broken").mkdir()
        if content is not None:
            Path("broken", ARTIFACT_FILE).write_text(content)
        assert __main__.main(["lineage", "broken"]) == InputError.exit_code
        assert message in capsys.readouterr().err
