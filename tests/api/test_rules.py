"""One table of cases, put to the models in Python and to the CRD on a real API server: both say the same, in the same words."""

from __future__ import annotations

import copy
import json
import typing
from collections.abc import Iterator
from typing import Any

import pytest
from pydantic import BaseModel, ValidationError

from alpaca_operator.api import KINDS, SFTJob
from alpaca_operator.api.base import Spec
from alpaca_operator.api.crd import crd
from alpaca_operator.api.rules import Rule
from tests.cluster.bed.cache import BedError
from tests.cluster.bed.controlplane import ControlPlane

MINIMAL: dict[str, Any] = {
    "model": {"uri": "pvc://models/base"},
    "dataset": {"train": [{"uri": "pvc://data/poems.jsonl"}]},
    "output": {"uri": "pvc://models/poet"},
}

BROKEN = [
    pytest.param({"model": {}}, "an input needs uri or from, and not both: name one", id="an input that names nothing"),
    pytest.param(
        {"model": {"uri": "pvc://models/base", "from": {"kind": "PretrainJob", "name": "base"}}},
        "an input needs uri or from, and not both: name one",
        id="an input that names two",
    ),
    pytest.param(
        {"output": {"uri": "hf://me/poet"}},
        "output.uri cannot be hf://: write to pvc://, s3:// or a path",
        id="an output on a hub",
    ),
    pytest.param(
        {"parallelism": {"nodes": 2}},
        "parallelism.nodes above 1 is not supported by this version: set nodes to 1 and use a node with more GPUs",
        id="several nodes",
    ),
    pytest.param(
        {"parallelism": {"processesPerNode": 8}},
        "parallelism.processesPerNode above 1 is not supported by this version: leave it out",
        id="several processes",
    ),
    pytest.param(
        {"method": "QLoRA", "deepspeed": {"preset": "Zero3"}},
        "QLoRA does not run under ZeRO-3: set deepspeed.preset to Zero2, or method to LoRA",
        id="QLoRA under ZeRO-3",
    ),
    pytest.param(
        {"load": {"bits": 8}},
        "load.bits is only read with method QLoRA: set method to QLoRA, or remove load",
        id="bits without QLoRA",
    ),
    pytest.param(
        {"adapter": {"uri": "pvc://models/a"}, "method": "Full"},
        "adapter goes on training an adapter, which method Full does not: set method to LoRA or QLoRA, or remove adapter",
        id="an adapter for full fine-tuning",
    ),
    pytest.param(
        {"merge": True, "method": "Full"},
        "merge has nothing to merge with method Full: remove merge, the output is a whole model already",
        id="nothing to merge",
    ),
    pytest.param(
        {"training": {"earlyStoppingPatience": 3}, "dataset": {"train": [{"uri": "a"}], "validationSplit": 0}},
        "training.earlyStoppingPatience needs validation rows: set dataset.validationSplit above 0, or dataset.validation",
        id="early stopping without rows to validate with",
    ),
    pytest.param(
        {"template": "Llama2", "templateFile": {"uri": "pvc://data/own.jinja"}},
        "template and templateFile both name a template: remove one",
        id="two templates",
    ),
    pytest.param(
        {"deepspeed": {}},
        "deepspeed needs either preset (Zero2 or Zero3) or config, not both: remove one",
        id="DeepSpeed without a word on how",
    ),
    pytest.param(
        {"deepspeed": {"preset": "Zero2", "config": {"zero_optimization": {"stage": 2}}}},
        "deepspeed needs either preset (Zero2 or Zero3) or config, not both: remove one",
        id="DeepSpeed told twice",
    ),
]

TAKEN = [
    pytest.param({"model": {"from": {"kind": "PretrainJob", "name": "base"}}}, id="a model that another job makes"),
    pytest.param({}, id="the smallest"),
    pytest.param({"output": {"uri": "s3://bucket/poet"}}, id="an output in an object store"),
    pytest.param({"parallelism": {"nodes": 1, "processesPerNode": 1}}, id="one process, said aloud"),
    pytest.param({"method": "QLoRA", "load": {"bits": 8}, "deepspeed": {"preset": "Zero2"}}, id="QLoRA under ZeRO-2"),
    pytest.param(
        {"method": "QLoRA", "deepspeed": {"config": {"zero_optimization": {"stage": 2}}}},
        id="QLoRA under a config of one's own",
    ),
    pytest.param({"adapter": {"uri": "pvc://models/a"}, "merge": True}, id="an adapter trained on and merged"),
    pytest.param({"method": "Full", "deepspeed": {"preset": "Zero3"}}, id="full fine-tuning under ZeRO-3"),
    pytest.param({"training": {"earlyStoppingPatience": 3}}, id="early stopping on the split that is the default"),
    pytest.param(
        {
            "training": {"earlyStoppingPatience": 3},
            "dataset": {"train": [{"uri": "a"}], "validation": [{"uri": "b"}], "validationSplit": 0},
        },
        id="early stopping on a set of its own",
    ),
    pytest.param({"templateFile": {"uri": "pvc://data/own.jinja"}}, id="a template of one's own"),
    pytest.param({"template": "HumanAssistant"}, id="a named template"),
]

OUT_OF_BOUNDS = [
    pytest.param({"method": "lora"}, "method", id="a word that is none of the choices"),
    pytest.param({"trainng": {"epochs": 1}}, "trainng", id="a field that is misspelt"),
    pytest.param({"training": {"learningRate": 0}}, "learningRate", id="a bound that is itself excluded"),
    pytest.param({"training": {"epochs": 1001}}, "epochs", id="above a bound"),
    pytest.param({"dataset": {"train": []}}, "train", id="no data"),
    pytest.param({"model": {"uri": "ftp://x/y"}}, "uri", id="a scheme that is not served"),
    pytest.param({"output": {}}, "uri", id="a required field that is missing"),
    pytest.param(
        {"model": {"from": {"kind": "Job", "name": "x"}}}, "kind", id="a reference to a kind that has no output"
    ),
    pytest.param({"cache": {"claimName": "Not A Name"}}, "claimName", id="no name of Kubernetes"),
    pytest.param({"failurePolicy": {"hangTimeoutSeconds": 9}}, "hangTimeoutSeconds", id="below a bound"),
    pytest.param({"load": {"bits": 3}, "method": "QLoRA"}, "bits", id="a number that is none of the choices"),
]


def manifest(spec: dict[str, Any], name: str = "rules") -> dict[str, Any]:
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "SFTJob",
        "metadata": {"name": name, "namespace": "default"},
        "spec": copy.deepcopy(MINIMAL) | spec,
    }


def rules(model: type[BaseModel]) -> Iterator[Rule]:
    """Every rule of a model and of what it consists of."""
    yield from getattr(model, "rules", ())
    for field in model.model_fields.values():
        for part in _models(field.annotation):
            yield from rules(part)


def _models(annotation: Any) -> Iterator[type[Spec]]:
    if isinstance(annotation, type) and issubclass(annotation, Spec):
        yield annotation
    for argument in typing.get_args(annotation):
        yield from _models(argument)


EVERY_MESSAGE = {rule.message for kind in KINDS.values() for rule in rules(kind)}


def words_of_python(obj: dict[str, Any]) -> set[str]:
    """Messages of the rules that the model refuses it for."""
    try:
        KINDS[obj["kind"]].model_validate(obj)
    except ValidationError as error:
        return {message for message in EVERY_MESSAGE for each in error.errors() if message in each["msg"]}
    return set()


@pytest.fixture(scope="module")
def served(control_plane) -> ControlPlane:
    for kind in KINDS.values():
        control_plane.apply(crd(kind))
    control_plane.kubectl("wait", "--for=condition=Established", "crd", "--all")
    return control_plane


def words_of_the_server(plane: ControlPlane, obj: dict[str, Any]) -> str:
    """All that the API server has against it."""
    try:
        plane.kubectl("create", "--dry-run=server", "-f", "-", input=json.dumps(obj))
    except BedError as error:
        return str(error)
    return ""


def test_every_rule_has_a_case_that_breaks_it():
    assert EVERY_MESSAGE
    assert EVERY_MESSAGE - {case.values[1] for case in BROKEN} == set()


class TestInPython:
    @pytest.mark.parametrize(("spec", "message"), BROKEN)
    def test_a_broken_rule(self, spec, message):
        assert words_of_python(manifest(spec)) == {message}

    @pytest.mark.parametrize("spec", TAKEN)
    def test_what_is_taken(self, spec):
        SFTJob.model_validate(manifest(spec))

    @pytest.mark.parametrize(("spec", "field"), OUT_OF_BOUNDS)
    def test_a_bound(self, spec, field):
        with pytest.raises(ValidationError) as caught:
            SFTJob.model_validate(manifest(spec))
        assert [field in map(str, each["loc"]) for each in caught.value.errors()] == [True]


@pytest.mark.controlplane
class TestOnTheApiServer:
    @pytest.mark.parametrize(("spec", "message"), BROKEN)
    def test_a_broken_rule(self, served, spec, message):
        said = words_of_the_server(served, manifest(spec))
        assert {each for each in EVERY_MESSAGE if each in said} == {message}, said

    @pytest.mark.parametrize("spec", TAKEN)
    def test_what_is_taken(self, served, spec):
        assert words_of_the_server(served, manifest(spec)) == ""

    @pytest.mark.parametrize(("spec", "field"), OUT_OF_BOUNDS)
    def test_a_bound(self, served, spec, field):
        said = words_of_the_server(served, manifest(spec))
        assert field in said, said

    def test_a_name_whose_pods_would_not_fit(self, served):
        longest = "a" * SFTJob.name_limit
        assert words_of_the_server(served, manifest({}, longest)) == ""
        said = words_of_the_server(served, manifest({}, f"{longest}a"))
        assert "metadata.name may have 50 characters at most, so that the names of its pods fit 63: shorten it" in said


FULL: dict[str, Any] = {
    **MINIMAL,
    "adapter": {"uri": "pvc://models/a"},
    "templateFile": {"uri": "pvc://data/own.jinja"},
    "load": {"bits": 8},
    "method": "QLoRA",
    "deepspeed": {"preset": "Zero2"},
    "cache": {"claimName": "cache"},
    "activeDeadlineSeconds": 3600,
    "ttlSecondsAfterFinished": 60,
}

CHANGED: dict[str, Any] = {
    "model": {"uri": "pvc://models/other"},
    "adapter": {"uri": "pvc://models/b"},
    "dataset": {"train": [{"uri": "pvc://data/other.jsonl"}]},
    "template": "Llama2",
    "templateFile": {"uri": "pvc://data/other.jinja"},
    "method": "LoRA",
    "lora": {"rank": 16},
    "load": {"bits": 4},
    "training": {"epochs": 1},
    "deepspeed": {"preset": "Zero2", "offload": "CPU"},
    "merge": True,
    "parallelism": {"nodes": 1, "processesPerNode": 1},
    "output": {"uri": "pvc://models/other"},
    "failurePolicy": {"maxRestarts": 0},
    "cache": {"claimName": "other"},
    "pod": {"shmSize": "2Gi"},
}
"""For every field that must not change, another value."""


@pytest.fixture(scope="module")
def job(served) -> Iterator[ControlPlane]:
    served.create(manifest(FULL, "immutable"), manifest({}, "immutable-small"))
    yield served
    served.kubectl("delete", "sftjob", "immutable", "immutable-small", "-n", "default")


@pytest.mark.controlplane
class TestImmutability:
    def refusal(self, plane: ControlPlane, name: str, spec: dict[str, Any]) -> str:
        try:
            plane.kubectl(
                "patch",
                "sftjob",
                name,
                "-n",
                "default",
                "--type=merge",
                "--dry-run=server",
                "-p",
                json.dumps({"spec": spec}),
            )
        except BedError as error:
            return str(error)
        return ""

    @staticmethod
    def message(field: str) -> str:
        return f"field is immutable: to change {field}, create a job with a new name (outputs that did not change are reused)"

    @pytest.mark.parametrize("field", CHANGED)
    def test_a_field_keeps_its_value(self, job, field):
        assert self.message(field) in self.refusal(job, "immutable", {field: CHANGED[field]})

    @pytest.mark.parametrize("field", ["adapter", "templateFile", "load", "deepspeed", "cache"])
    def test_a_field_cannot_be_removed(self, job, field):
        """With `self == oldSelf` on the field alone it could be removed, and then added with another value."""
        assert self.message(field) in self.refusal(job, "immutable", {field: None})

    @pytest.mark.parametrize("field", ["adapter", "templateFile", "deepspeed", "cache"])
    def test_a_field_cannot_be_added(self, job, field):
        assert self.message(field) in self.refusal(job, "immutable-small", {field: FULL[field]})

    @pytest.mark.parametrize(
        "spec",
        [
            {"suspend": True},
            {"activeDeadlineSeconds": 7200},
            {"activeDeadlineSeconds": None},
            {"ttlSecondsAfterFinished": 0},
            {"ttlSecondsAfterFinished": None},
        ],
        ids=json.dumps,
    )
    def test_what_may_change(self, job, spec):
        assert self.refusal(job, "immutable", spec) == ""
        assert set(spec) <= SFTJob.model_fields["spec"].annotation.mutable

    def test_every_field_is_one_or_the_other(self):
        spec = SFTJob.model_fields["spec"].annotation
        aliases = {field.alias for field in spec.model_fields.values()}
        assert aliases == set(CHANGED) | spec.mutable
