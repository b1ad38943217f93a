"""The command line and the manifest: what is read, and what is said of what cannot be."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from alpaca_operator.api import SFTJob
from tests.workloads.process import Place
from workloads.errors import InputError, SpecError, WorkloadError
from workloads.manifest import cli, fields, spec
from workloads.runtime import command

WHOLE = ["--model.uri", "m", "--dataset.train", "[{uri: a.csv}]", "--output.uri", "out"]

MANIFEST = """\
apiVersion: v1
kind: Secret
metadata: {name: hub}
---
apiVersion: literary-alpaca.io/v1alpha1
kind: SFTJob
metadata:
  name: poet
spec:
  model: {uri: pvc://models/base}
  dataset:
    train:
      - uri: pvc://data/a.csv
  training:
    learningRate: 1e-4
  output: {uri: pvc://models/poet}
"""


def job(*arguments: str) -> SFTJob:
    loaded = spec.load_job(SFTJob, *cli.parse(SFTJob, list(arguments)))
    assert isinstance(loaded, SFTJob)
    return loaded


def at(loaded: SFTJob, path: str) -> Any:
    node: Any = loaded.model_dump(by_alias=True)["spec"]
    for step in fields.steps(path):
        node = node[step]
    return node


@pytest.mark.parametrize(
    ("flags", "path", "value"),
    [
        pytest.param(["--training.epochs", "1"], "training.epochs", 1.0, id="a number"),
        pytest.param(["--training.epochs=0.5"], "training.epochs", 0.5, id="a value after ="),
        pytest.param(["--training.learningRate", "1e-4"], "training.learningRate", 1e-4, id="1e-4 is a number"),
        pytest.param(["--merge"], "merge", True, id="a switch alone is on"),
        pytest.param(["--merge", "false"], "merge", False, id="a switch takes a value"),
        pytest.param(["--dataset.train[0].uri", "b.csv"], "dataset.train[0].uri", "b.csv", id="an element's field"),
        pytest.param(
            ["--dataset.train[1].uri", "b.csv"], "dataset.train[1].uri", "b.csv", id="the element after the last"
        ),
        pytest.param(
            ["--dataset.train", '[{"uri": "c.csv", "columns": {"output": "答案"}}]'],
            "dataset.train[0].columns",
            {"output": "答案"},
            id="a list as JSON",
        ),
        pytest.param(
            ["--lora.targetModules", "[q_proj, v_proj]"],
            "lora.targetModules",
            ["q_proj", "v_proj"],
            id="a list as YAML",
        ),
        pytest.param(["--dataset.systemPrompt", "off"], "dataset.systemPrompt", "off", id="off is text"),
        pytest.param(
            ["--dataset.systemPrompt", "诗人: yes"],
            "dataset.systemPrompt",
            "诗人: yes",
            id="text is taken as it stands",
        ),
        pytest.param(
            ["--dataset.systemPrompt", "123"], "dataset.systemPrompt", "123", id="digits are text for a text field"
        ),
        pytest.param(
            ["--deepspeed.offload", "None", "--deepspeed.preset", "Zero2"],
            "deepspeed.offload",
            "None",
            id="a word that YAML could read otherwise",
        ),
        pytest.param(
            ["--pod.resources.limits", "{nvidia.com/gpu: 1}"], "pod.resources.limits", {"nvidia.com/gpu": 1}, id="a map"
        ),
        pytest.param(["--training.maxSteps", "null"], "training.maxSteps", None, id="null unsets"),
        pytest.param(["--cache.claimName", "hub"], "cache.claimName", "hub", id="a part that was absent"),
    ],
)
def test_a_flag_sets_its_field(flags: list[str], path: str, value: object) -> None:
    assert at(job(*WHOLE, *flags), path) == value


def test_flags_replace_what_the_file_says(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(MANIFEST)

    loaded = job(str(file), "--merge", "--training.epochs", "1")

    assert loaded.metadata.name == "poet"
    assert (loaded.spec.merge, loaded.spec.training.epochs, loaded.spec.training.learning_rate) == (True, 1.0, 1e-4)


def test_a_wrong_flag_is_not_blamed_on_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(edited("learningRate: 1e-4", "seed: x"))

    with pytest.raises(SpecError) as refused:
        job("job.yaml", "--training.epochs", "many")

    assert str(refused.value) == (
        "spec.training.epochs: 'many' is not a number above 0 and at most 1,000\n"
        "job.yaml:15: spec.training.seed: 'x' is not a whole number from 0 to 4,294,967,295"
    )


def test_a_switch_does_not_swallow_the_file(tmp_path: Path) -> None:
    file = tmp_path / "job.yaml"
    file.write_text(MANIFEST)

    assert job("--merge", str(file)).spec.model.uri == "pvc://models/base"


def test_without_a_file_the_name_is_the_noun() -> None:
    assert job(*WHOLE).metadata.name == "sft"
    assert job(*WHOLE, "--name", "poet").metadata.name == "poet"


def test_json_reads_like_yaml(tmp_path: Path) -> None:
    document = spec.documents(MANIFEST, "job.yaml")[1]
    file = tmp_path / "job.json"
    file.write_text(json.dumps(document))

    assert job(str(file)) == spec.validated(SFTJob, document, "job.yaml")


def test_what_the_cluster_added_does_not_matter() -> None:
    document = spec.documents(MANIFEST, "job.yaml")[1]
    document["metadata"] |= {"uid": "1", "managedFields": [{"manager": "kubectl"}], "generation": 3}
    document["status"] = {"observedGeneration": 3, "newerField": 1}

    assert spec.validated(SFTJob, document, "job.yaml").spec.output.uri == "pvc://models/poet"


def test_yaml_is_read_as_kubectl_reads_it() -> None:
    text = "rate: 1e-4\nswitch: off\nanswer: yes\nday: 2026-11-24\noctal: 0o10\nempty:\n"

    (read,) = spec.documents(text, "f.yaml")

    assert read == {"rate": 1e-4, "switch": "off", "answer": "yes", "day": "2026-11-24", "octal": 8, "empty": None}


def test_a_list_object_stands_for_its_items() -> None:
    text = "kind: List\nitems: [{kind: SFTJob, metadata: {name: a}}, {kind: Secret}]\n"

    assert [document["kind"] for document in spec.documents(text, "f.yaml")] == ["SFTJob", "Secret"]


def edited(old: str, new: str) -> str:
    assert old in MANIFEST
    return MANIFEST.replace(old, new)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            edited("learningRate: 1e-4", "learningRate: abc"),
            "job.yaml:15: spec.training.learningRate: 'abc' is not a number above 0 and at most 1",
            id="a word for a number",
        ),
        pytest.param(
            edited("learningRate: 1e-4", 'learningRate: "1e-4"'),
            "job.yaml:15: spec.training.learningRate: '1e-4' is not a number above 0 and at most 1",
            id="a number in quotes, which the API server refuses too",
        ),
        pytest.param(
            edited("learningRate: 1e-4", "learning_rate: 1e-4"),
            "job.yaml:15: spec.training.learning_rate: unknown field; did you mean learningRate?",
            id="a name in snake case",
        ),
        pytest.param(
            edited("learningRate: 1e-4", "packing: true"),
            "job.yaml:15: spec.training.packing: unknown field here; did you mean spec.dataset.packing?",
            id="a field in the wrong part",
        ),
        pytest.param(
            edited("learningRate: 1e-4", "seed: -1"),
            "job.yaml:15: spec.training.seed: -1 is not a whole number from 0 to 4,294,967,295",
            id="a number out of bounds",
        ),
        pytest.param(
            edited("spec:\n", "spec:\n  method: Lora\n"),
            "job.yaml:10: spec.method: 'Lora' is not one of LoRA, QLoRA, Full; did you mean LoRA?",
            id="a word nearly right",
        ),
        pytest.param(
            edited("  output: {uri: pvc://models/poet}\n", ""),
            "job.yaml:9: spec.output: is missing: Where the result is written",
            id="a required part is missing",
        ),
        pytest.param(
            edited("uri: pvc://models/poet", "uri: hf://me/poet"),
            "job.yaml:16: spec.output: output.uri cannot be hf://, ms:// or oci://: write to pvc://, s3:// or a path, and name the other in publish, which pushes from there",
            id="a rule of one part",
        ),
        pytest.param(
            edited("spec:\n", "spec:\n  method: Full\n  merge: true\n"),
            "job.yaml:9: spec: merge has nothing to merge with method Full: remove merge, the output is a whole model already",
            id="a rule over several fields",
        ),
        pytest.param(
            edited("uri: pvc://models/base", "uri: gopher://models"),
            "job.yaml:10: spec.model.uri: a place is hf://org/name, ms://org/name, pvc://claim/path, s3://bucket/key, oci://registry/repository:tag, file:///path or a path: copy what lies "
            "elsewhere to one of these",
            id="a place that is not read",
        ),
        pytest.param(
            edited("learningRate: 1e-4", "epochs: 0\n    seed: x"),
            "job.yaml:15: spec.training.epochs: 0 is not a number above 0 and at most 1,000\n"
            "job.yaml:16: spec.training.seed: 'x' is not a whole number from 0 to 4,294,967,295",
            id="several problems, one line each",
        ),
        pytest.param(
            edited("v1alpha1", "v9"),
            "job.yaml: apiVersion is 'literary-alpaca.io/v9': this version reads literary-alpaca.io/v1alpha1",
            id="another version of the API",
        ),
        pytest.param(
            edited("kind: SFTJob", "kind: SFTjob"),
            "job.yaml holds no SFTJob, but Secret hub, SFTjob poet; did you mean kind: SFTJob where it says SFTjob?",
            id="a kind nearly right",
        ),
        pytest.param("a: b: c\n", "job.yaml:1: not YAML: mapping values are not allowed here", id="broken YAML"),
        pytest.param(
            "a: 1\na: 2\n",
            'job.yaml:2: not YAML: found duplicate key "a" with value "2" (original value: "1")',
            id="a key twice",
        ),
        pytest.param(
            "just text",
            "job.yaml: 'just text' is no Kubernetes object: it needs apiVersion, kind, metadata and spec",
            id="no object",
        ),
        pytest.param("", "job.yaml holds no SFTJob, but nothing", id="an empty file"),
        pytest.param(
            MANIFEST + "---\n" + MANIFEST.partition("---\n")[2].replace("name: poet", "name: bard"),
            "job.yaml holds 2 SFTJobs: choose one with --name: poet, bard",
            id="two jobs and no name",
        ),
    ],
)
def test_a_wrong_manifest_is_refused_with_line_field_and_remedy(
    text: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("job.yaml").write_text(text)

    with pytest.raises(SpecError) as refused:
        job("job.yaml")

    assert str(refused.value) == message


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        pytest.param(
            ["--learningRate", "1"],
            SpecError,
            "--learningRate: no such field: did you mean --training.learningRate? (--help lists all)",
            id="a field without its part",
        ),
        pytest.param(
            ["--training.learning_rate", "1"],
            SpecError,
            "--training.learning_rate: no such field: did you mean --training.learningRate? (--help lists all)",
            id="a flag in snake case",
        ),
        pytest.param(
            ["--training.epochs"],
            SpecError,
            "--training.epochs needs a value: a number above 0 and at most 1,000",
            id="no value",
        ),
        pytest.param(
            ["a.yaml", "b.yaml"], SpecError, "'b.yaml' and 'a.yaml': give one FILE; flags start with --", id="two files"
        ),
        pytest.param(["-m", "x"], SpecError, "-m: flags start with -- (--help lists all)", id="a short flag"),
        pytest.param(
            [*WHOLE, "--model", "pvc://models/base"],
            SpecError,
            "spec.model: 'pvc://models/base' is not a map; write spec.model.uri",
            id="a place where a map is due",
        ),
        pytest.param(
            [*WHOLE, "--dataset.train", "a.csv"],
            SpecError,
            "spec.dataset.train: 'a.csv' is not a list of 1 to 64 elements; write spec.dataset.train[0].uri",
            id="a place where a list is due",
        ),
        pytest.param(
            [*WHOLE, "--dataset.train[3].uri", "x"],
            SpecError,
            "--dataset.train[3].uri: the next free element is [1]",
            id="an element after a gap",
        ),
        pytest.param(
            ["--dataset.train", "[{"],
            SpecError,
            "--dataset.train: '[{' is not YAML: expected the node content, but found '<stream end>'",
            id="a broken value",
        ),
        pytest.param(
            ["nowhere.yaml"],
            InputError,
            "nowhere.yaml does not exist; did you mean nowhere.yml?",
            id="a file that is not there",
        ),
        pytest.param(
            [*WHOLE, "--training.epochs", "x"],
            SpecError,
            "spec.training.epochs: 'x' is not a number above 0 and at most 1,000",
            id="a wrong value in a flag",
        ),
    ],
)
def test_a_wrong_command_line_is_refused(
    arguments: list[str], error: type[WorkloadError], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("nowhere.yml").touch()

    with pytest.raises(error) as refused:
        job(*arguments)

    assert str(refused.value) == message


def test_help_tells_every_field_with_its_sentence() -> None:
    text = " ".join(cli.help_text(SFTJob, 100).split())
    spec_model = SFTJob.model_fields["spec"].annotation

    told = list(fields.walk(spec_model))
    assert len(told) > 80
    for path, field in told:
        name = ".".join(path)
        assert (f"{name}:" if field.model and not field.is_list else f"--{name} ") in text, name
        assert field.sentence in text, name
    assert (
        "--training.learningRate NUMBER Peak learning rate. 1e-4 suits LoRA; use about 2e-5 with `method: Full`. (above 0 and at most 1, default 0.0001)"
        in text
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        pytest.param(["--help"], 0, id="help"),
        pytest.param(["--training.epochs", "many"], 64, id="a refusal"),
    ],
)
def test_what_answers_at_once_imports_nothing_heavy(arguments: list[str], code: int, tmp_path: Path) -> None:
    heavy = [
        "torch",
        "transformers",
        "datasets",
        "huggingface_hub",
        "pyarrow",
        "tqdm",
        "prometheus_client",
        "http.server",
    ]
    program = f"""if True:
        import sys
        from alpaca_operator.api import SFTJob
        from workloads.runtime import command
        code = command.main(SFTJob, None, {arguments})
        print(sorted(set(sys.modules) & set({heavy})))
        sys.exit(code)"""

    ended = subprocess.run(
        [sys.executable, "-c", program], env=Place(tmp_path).environ(), capture_output=True, text=True, check=False
    )

    assert (ended.returncode, ended.stdout.splitlines()[-1]) == (code, "[]"), ended.stderr


def test_a_refused_spec_exits_64_with_a_line_and_a_last_word(tmp_path: Path) -> None:
    ended = Place(tmp_path).run("pass", "--training.epochs", "many")

    message = "spec.training.epochs: 'many' is not a number above 0 and at most 1,000"
    assert (ended.code, ended.err) == (64, f"InvalidSpec: {message}\n")
    assert ended.last_word == {"reason": "InvalidSpec", "exitCode": 64, "message": message}


class TestWhatTheOperatorHandsOver:
    """It may be newer than the image."""

    DOCUMENT: ClassVar[dict[str, Any]] = {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "SFTJob",
        "metadata": {"name": "poet", "uid": "u"},
        "spec": {
            "model": {"uri": "m", "quantum": {"bits": 2}},
            "dataset": {"train": [{"uri": "a.csv", "novel": 1}]},
            "output": {"uri": "out"},
            "novel": True,
        },
    }

    def test_is_read_without_what_is_newer_and_a_word_on_it(self) -> None:
        left_out: list[str] = []
        job = spec.load_job(SFTJob, "job.json", None, [], json.dumps(self.DOCUMENT), left_out.append)
        assert job.spec.model.uri == "m"
        assert sorted(left_out) == ["spec.dataset.train[0].novel", "spec.model.quantum", "spec.novel"]

    def test_and_refused_for_what_is_wrong(self) -> None:
        document = {**self.DOCUMENT, "spec": {**self.DOCUMENT["spec"], "method": "Magic"}}
        with pytest.raises(SpecError, match="'Magic' is not one of"):
            spec.load_job(SFTJob, "job.json", None, [], json.dumps(document), lambda _: None)

    @pytest.mark.parametrize("in_pod", [True, False])
    def test_a_pod_goes_on_and_a_laptop_does_not(
        self, in_pod: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
    ) -> None:
        (tmp_path / "job.json").write_text(json.dumps(self.DOCUMENT))
        monkeypatch.setenv("ALPACA_IN_POD", "1" if in_pod else "")
        monkeypatch.setenv("ALPACA_TERMINATION_LOG", str(tmp_path / "word"))
        began: list[SFTJob] = []
        code = command.serve(SFTJob, lambda job: began.append(job) or 0, [str(tmp_path / "job.json")])
        said = capfd.readouterr()
        if in_pod:
            assert (code, len(began)) == (0, 1)
            words = [json.loads(line)["message"] for line in said.out.splitlines()]
            assert words[0].endswith(
                " is left out: this image does not know it, and is older than the operator: set pod.image to a newer one to have it honoured"
            )
            assert len(words) == 3
        else:
            assert (code, began) == (64, [])
            assert "spec.novel: unknown field" in said.err
