"""The CRD says what the models say, in the form that Kubernetes takes."""

from __future__ import annotations

import typing
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel
from ruamel.yaml import YAML

from alpaca_operator.api import KINDS, PLURALS
from alpaca_operator.api.crd import SIZE_LIMIT, crd, render
from alpaca_operator.api.docs import page
from alpaca_operator.api.resource import Resource
from alpaca_operator.api.schema import resource_schema
from alpaca_operator.api.sources import Source
from tests.api.minimal import MINIMAL
from tests.cluster.bed.controlplane import ControlPlane

ROOT = Path(__file__).parents[2]


def walk(node, path=""):
    """Every schema below ``node`` with its path."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    if "items" in node:
        yield from walk(node["items"], f"{path}[]")
    if isinstance(node.get("additionalProperties"), dict):
        yield from walk(node["additionalProperties"], f"{path}{{}}")


def without_empty(value):
    """``value`` without fields that are empty lists or empty objects."""
    if isinstance(value, list):
        return [without_empty(each) for each in value]
    if not isinstance(value, dict):
        return value
    kept = {name: without_empty(each) for name, each in value.items()}
    return {name: each for name, each in kept.items() if each not in ([], {})}


def manifest(kind: type[Resource], spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": kind.__name__,
        "metadata": {"name": "defaults"},
        "spec": spec,
    }


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
class TestEveryKind:
    def test_the_committed_crd_is_the_generated_one(self, kind):
        committed = ROOT / "manifests" / "crd" / f"{PLURALS[kind.__name__]}.yaml"
        assert committed.read_text(encoding="utf-8") == render(kind), "run `make generate`"

    def test_the_crd_is_small_enough_for_client_side_apply(self, kind):
        assert len(render(kind).encode()) <= SIZE_LIMIT

    def test_the_schema_is_structural(self, kind):
        for path, node in walk(resource_schema(kind)):
            for word in ("$ref", "anyOf", "oneOf", "allOf", "const", "title", "nullable", "propertyNames"):
                assert word not in node, f"{path}: {word}"
            assert "type" in node or node.get("x-kubernetes-int-or-string"), path
            if "exclusiveMinimum" in node:
                assert node["exclusiveMinimum"] is True, path

    def test_every_string_list_and_map_that_a_user_writes_is_bounded(self, kind):
        spec = resource_schema(kind)["properties"]["spec"]
        for path, node in walk(spec):
            if node.get("type") == "string" and "enum" not in node:
                assert "maxLength" in node, path
            if node.get("type") == "array":
                assert "maxItems" in node, path
            if "additionalProperties" in node:
                assert "maxProperties" in node, path

    def test_every_field_that_a_user_writes_is_explained(self, kind):
        spec = resource_schema(kind)["properties"]["spec"]
        for path, node in walk(spec):
            named = path and not path.endswith(("[]", "{}"))
            assert not named or node.get("description"), f"{path} has no sentence under it"

    def test_what_nothing_was_said_of_is_not_written_into_every_object(self, kind):
        for path, node in walk(resource_schema(kind)):
            assert node.get("default") != [], path
            assert not isinstance(node.get("default"), dict) or path == ".status", path

    def test_what_every_write_pays_for_reads_no_field_of_the_spec(self, kind):
        """A rule on the spec that reads a field costs the API server a list of all fields; `has` of what is absent costs nothing."""
        spec = resource_schema(kind)["properties"]["spec"]
        told = [each["rule"] for _, node in walk(spec) for each in node.get("x-kubernetes-validations", [])]
        transitions = [rule for rule in told if "oldSelf" in rule]
        fixed = kind.model_fields["spec"].annotation.fixed()
        absent = {f"has(self.{field}) == has(oldSelf.{field})" for field in fixed}
        assert transitions.count("self == oldSelf") == len(fixed)
        assert set(transitions) - {"self == oldSelf"} <= absent

    def test_a_fresh_object_does_not_look_observed(self, kind):
        fresh = resource_schema(kind)["properties"]["status"]["default"]
        (ready,) = fresh["conditions"]
        assert (fresh["observedGeneration"], ready["type"], ready["status"]) == (-1, "Ready", "Unknown")
        assert ready["reason"] == "Pending"

    def test_child_names_fit_a_label(self, kind):
        # Job name, then "-" and five random characters for a pod; an Indexed Job adds its index.
        assert kind.name_limit + len(f"-{kind.workload}") + len("-00-abcde") <= 63


def test_the_reference_page_is_the_generated_one():
    assert (ROOT / "docs" / "api.md").read_text(encoding="utf-8") == page(), "run `make generate`"


def with_every_part(model: type[BaseModel], spec: dict[str, Any]) -> dict[str, Any]:
    """``spec`` of ``model``, with each part that it leaves out as an object in which nothing is said."""
    full = dict(spec)
    for field in model.model_fields.values():
        name, below = field.alias or "", parts(field.annotation)
        if name not in spec:
            made = field.get_default(call_default_factory=True, validated_data={})
            if isinstance(made, BaseModel):
                full[name] = with_every_part(type(made), {})
        elif below and isinstance(spec[name], list):
            full[name] = [with_every_part(below[0], each) for each in spec[name]]
        elif below:
            full[name] = with_every_part(below[0], spec[name])
    return full


@pytest.mark.controlplane
@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
class TestDefaults:
    def served(self, plane: ControlPlane, kind: type[Resource], spec: dict[str, Any]) -> dict[str, Any]:
        plane.apply(crd(kind))
        plane.kubectl("wait", "--for=condition=Established", f"crd/{PLURALS[kind.__name__]}.literary-alpaca.io")
        plane.create(manifest(kind, spec))
        found = plane.get(PLURALS[kind.__name__], "defaults")
        plane.kubectl("delete", PLURALS[kind.__name__], "defaults")
        return found

    def test_the_api_server_fills_in_the_same_as_the_model(self, kind, control_plane):
        spec = with_every_part(kind.model_fields["spec"].annotation, MINIMAL[kind.__name__])
        ours = kind.model_validate(manifest(kind, spec)).spec
        served = self.served(control_plane, kind, spec)
        assert without_empty(served["spec"]) == without_empty(
            ours.model_dump(mode="json", by_alias=True, exclude_none=True)
        )
        assert kind.model_validate(served).spec == ours

    def test_a_part_that_nothing_was_said_of_stays_absent_and_means_the_same(self, kind, control_plane):
        spec = MINIMAL[kind.__name__]
        served = self.served(control_plane, kind, spec)
        assert {field for field, value in served["spec"].items() if isinstance(value, dict)} <= set(spec)
        assert kind.model_validate(served).spec == kind.model_validate(manifest(kind, spec)).spec


def test_committed_crds_are_yaml_of_our_kinds_only():
    files = sorted((ROOT / "manifests" / "crd").glob("*s.yaml"))
    assert files
    assert {YAML(typ="safe").load(file)["spec"]["names"]["kind"] for file in files} == set(KINDS)


def most_sources(model: type[BaseModel]) -> int:
    """As many inputs as a spec of this model can name."""
    total = 0
    for field in model.model_fields.values():
        bound = next((one.max_length for one in field.metadata if hasattr(one, "max_length")), 1)
        total += bound * sum(issubclass(part, Source) + most_sources(part) for part in parts(field.annotation))
    return total


def parts(annotation: typing.Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for argument in typing.get_args(annotation) for part in parts(argument)]


@pytest.mark.parametrize("kind", KINDS.values(), ids=lambda kind: kind.__name__)
def test_the_status_has_room_for_every_input_that_a_spec_can_name(kind):
    """A status that the API server refuses would leave the resource without any."""
    [status] = [arm for arm in typing.get_args(kind.model_fields["status"].annotation) if arm is not type(None)]
    room = crd(kind)["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]["status"]["properties"]
    assert 0 < most_sources(kind.model_fields["spec"].annotation) <= room["resolvedInputs"]["maxProperties"]
    assert "resolvedInputs" in {field.alias for field in status.model_fields.values()}
