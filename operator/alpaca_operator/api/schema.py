"""From a typed model to the structural schema of a CustomResourceDefinition.

Kubernetes wants less than pydantic gives: no ``$ref``, no ``null`` branches, bounds in the older boolean form, every
default on the object that holds it. A part that nothing was said of is absent, and so is what is empty: the models know what
that stands for, and every write of an object pays for all that it holds.
"""

import typing
from typing import Any

from pydantic import BaseModel

from alpaca_operator.api.model import Spec, models_of
from alpaca_operator.api.resource import Resource, ResourceSpec
from alpaca_operator.api.rules import keep
from alpaca_operator.api.sentences import sentences
from alpaca_operator.api.status import unseen

DROPPED = ("title", "examples", "$defs", "format", "pattern_properties")
KEPT_FORMATS = ("date-time",)


def structural(model: type[BaseModel]) -> dict[str, Any]:
    """The structural schema of ``model``: inline, closed, with defaults, rules and descriptions."""
    schema = model.model_json_schema(by_alias=True, mode="validation")
    plain: dict[str, Any] = _plain(schema, schema.get("$defs", {}))
    _annotate(plain, model)
    return plain


def resource_schema(kind: type[Resource]) -> dict[str, Any]:
    """The ``openAPIV3Schema`` of a kind: its spec with immutability, its status, the cap on its name."""
    spec_model = kind.model_fields["spec"].annotation
    assert isinstance(spec_model, type)
    assert issubclass(spec_model, ResourceSpec)
    spec = structural(spec_model)
    keep(spec, spec_model.fixed())
    status_model = next(arm for arm in typing.get_args(kind.model_fields["status"].annotation) if arm is not type(None))
    status = structural(status_model)
    # kstatus calls an object without status current; one that nobody has looked at yet must not look healthy.
    status["default"] = unseen()
    return {
        "description": kind.__doc__,
        "type": "object",
        "required": ["spec"],
        "properties": {
            "apiVersion": {"type": "string"},
            "kind": {"type": "string"},
            "metadata": {"type": "object"},
            "spec": spec,
            "status": status,
        },
        "x-kubernetes-validations": [
            {
                "rule": f"size(self.metadata.name) <= {kind.name_limit}",
                "message": f"metadata.name may have {kind.name_limit} characters at most, so that the names of its pods fit 63: shorten it",
            },
            *(rule.as_schema() for rule in kind.name_rules),
        ],
    }


def _plain(node: Any, definitions: dict[str, Any]) -> Any:
    """``node`` with references inlined and what Kubernetes does not take rewritten."""
    if isinstance(node, list):
        return [_plain(item, definitions) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target = definitions[node["$ref"].rsplit("/", 1)[1]]
        return _plain({**target, **{key: value for key, value in node.items() if key != "$ref"}}, definitions)
    node = dict(node)
    arms = [arm for arm in node.pop("anyOf", []) if arm != {"type": "null"}]
    if len(arms) == 1:  # an optional field: absent, never null
        node = {**arms[0], **node}
        return _plain(
            {key: value for key, value in node.items() if not (key == "default" and value is None)}, definitions
        )
    if node.get("x-kubernetes-int-or-string"):  # bounds of the number and of the text stand side by side
        bounds = {key: value for arm in arms for key, value in arm.items() if key != "type"}
        kept = ("description", "default", "x-kubernetes-int-or-string")
        return {key: value for key, value in node.items() if key in kept} | bounds
    if "const" in node:
        node["enum"] = [node.pop("const")]
    for bound, flag in (("minimum", "exclusiveMinimum"), ("maximum", "exclusiveMaximum")):
        if flag in node:
            node[bound], node[flag] = node[flag], True
    plain: dict[str, Any] = {}
    for key, value in node.items():
        if key in ("properties",):
            plain[key] = {name: _plain(child, definitions) for name, child in value.items()}
        elif key == "format" and value in KEPT_FORMATS:
            plain[key] = value
        elif key == "additionalProperties" and value in (False, None):
            continue  # CRDs are closed by pruning and by strict field validation
        elif key in DROPPED or (key == "default" and value is None):
            continue
        elif key == "propertyNames":
            continue  # not structural; Python checks the names
        elif key == "description":
            plain[key] = " ".join(str(value).split())
        elif key in ("default", "enum", "required"):
            plain[key] = value
        else:
            plain[key] = _plain(value, definitions)
    return plain


def _annotate(schema: dict[str, Any], model: type[BaseModel]) -> None:
    """Adds what pydantic's JSON schema does not carry: sentences, rules, and the defaults that come from a factory."""
    if issubclass(model, Spec) and model.rules:
        schema["x-kubernetes-validations"] = [rule.as_schema() for rule in model.rules]
    told = sentences(model)
    for name, field in model.model_fields.items():
        child = schema["properties"][field.alias or name]
        if sentence := told.get(name):
            child = schema["properties"][field.alias or name] = (
                {"description": sentence} | child | {"description": sentence}
            )
        for arm in models_of(field.annotation):
            _annotate(child.get("items") or child.get("additionalProperties") or child, arm)
        if field.default_factory is not None and "default" not in child:
            made = field.get_default(call_default_factory=True, validated_data={})
            if made and not isinstance(made, BaseModel):
                child["default"] = made
