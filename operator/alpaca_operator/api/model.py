"""What every typed part is made of: closed to unknown fields, frozen, bound by rules; and the texts that fields share."""

from typing import Annotated, Any, ClassVar, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator
from pydantic.alias_generators import to_camel

from alpaca_operator.api.rules import Rule


class Model(BaseModel):
    """Base of everything typed here: camelCase outside, closed to unknown fields, frozen."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        extra="forbid",
        frozen=True,
        protected_namespaces=(),
        validate_default=False,
        defer_build=True,
    )


def models_of(annotation: Any) -> list[type[BaseModel]]:
    """The models inside an annotation, such as ``list[Toleration]`` or ``Cache | None``."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for arm in get_args(annotation) for model in models_of(arm)]


class Spec(Model):
    """A part of a spec. ``rules`` bind its fields to each other; the API server and this class both enforce them."""

    rules: ClassVar[tuple[Rule, ...]] = ()
    non_semantic: ClassVar[frozenset[str]] = frozenset()
    """Fields (by their Python names) that leave the result as it is: a job that differs in nothing else is the same job, whose
    output is reused and whose checkpoints are gone on from."""

    publishing: ClassVar[frozenset[str]] = frozenset()
    """Fields that shape only how a finished training is published: a job that differs in nothing else goes on from its checkpoints."""

    @model_validator(mode="after")
    def _obey_rules(self) -> Self:
        broken = [rule.message for rule in self.rules if not rule.holds(self)]
        if broken:
            raise ValueError("; ".join(broken))
        return self


Name = Annotated[str, StringConstraints(min_length=1, max_length=253, pattern=r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$")]
"""The name of a Kubernetes object."""


SCHEMES = ("hf://", "ms://", "pvc://", "s3://", "oci://", "file://")
NO_SUCH_PLACE = "a place is hf://org/name, ms://org/name, pvc://claim/path, s3://bucket/key, oci://registry/repository:tag, file:///path or a path: copy what lies elsewhere to one of these"


def _is_place(uri: str) -> bool:
    known = any(uri.startswith(scheme) and uri != scheme for scheme in SCHEMES)
    return (known or ":" not in uri) and "\n" not in uri


def _place(uri: str) -> str:
    if not _is_place(uri):
        raise ValueError(NO_SUCH_PLACE)
    return uri


IS_PLACE = Rule(
    cel="("
    + " || ".join(f"(self.startsWith('{scheme}') && self != '{scheme}')" for scheme in SCHEMES)
    + " || !self.contains(':'))"
    " && !self.contains('\\n')",
    holds=_is_place,
    message=NO_SUCH_PLACE,
)


ModelName = Annotated[
    str, StringConstraints(min_length=1, max_length=40, pattern=r"^[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?$")
]
"""How a report, a gate or a page calls a model."""


Uri = Annotated[
    str,
    StringConstraints(min_length=1, max_length=1024),
    AfterValidator(_place),
    Field(
        examples=["pvc://models/llama-2-7b", "hf://meta-llama/Llama-2-7b-hf@main", "s3://bucket/key", "./model"],
        json_schema_extra={"x-kubernetes-validations": [IS_PLACE.as_schema()]},
    ),
]


QUANTITY = r"^\+?([0-9]+(\.[0-9]*)?|\.[0-9]+)([KMGTPE]i|[numkMGTPE]|[eE][+-]?[0-9]+)?$"
"""How Kubernetes writes quantities; `16GB` is none, and neither is one below 0."""


INT_OR_STRING: dict[str, Any] = {"x-kubernetes-int-or-string": True}

Quantity = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, StringConstraints(max_length=64, pattern=QUANTITY)],
    Field(json_schema_extra=INT_OR_STRING, examples=["16Gi", "500m"]),
]
"""A Kubernetes quantity, such as ``2``, ``500m`` or ``16Gi``."""


IntOrPercent = Annotated[
    Annotated[int, Field(ge=0)] | Annotated[str, StringConstraints(max_length=64, pattern="^[0-9]+%$")],
    Field(json_schema_extra=INT_OR_STRING, examples=["50%"]),
]
"""A number of pods, or a share of them."""


Size = Annotated[str, StringConstraints(max_length=32, pattern=QUANTITY), Field(examples=["1Gi", "512Mi"])]
"""A quantity of bytes."""


ShardSize = Annotated[str, StringConstraints(max_length=16, pattern=r"^[0-9]+(\.[0-9]+)?(MB|GB)$")]
"""The size of a file of weights, such as ``5GB``."""


Raw = Annotated[
    dict[str, Any],
    Field(json_schema_extra={"x-kubernetes-preserve-unknown-fields": True, "additionalProperties": None}),
]
"""A piece of a pod spec, handed on as it is; the API server checks it when the pod is made."""


ShortText = Annotated[str, StringConstraints(max_length=253)]


Path = Annotated[str, StringConstraints(max_length=1024)]
