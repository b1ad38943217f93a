"""Where a finished model is pushed to: hubs and registries, for others to load it from."""

import hashlib
import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, StringConstraints

from alpaca_operator.api.model import Spec
from alpaca_operator.api.resource import JobSpec
from alpaca_operator.api.rules import Rule
from alpaca_operator.api.sources import JobReference, SecretReference

_NAME = "[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?"
_REGISTRY = r"[A-Za-z0-9.-]+(:[0-9]+)?(/[a-z0-9]+([._-]+[a-z0-9]+)*)+:[A-Za-z0-9_][A-Za-z0-9._-]*"
PUSHED_TO = re.compile(f"(hf|ms)://{_NAME}/{_NAME}(@[A-Za-z0-9._/-]+)?|oci://{_REGISTRY}")
NOT_PUSHED_TO = "publish[].uri is a place that takes a model: write hf://org/name, hf://org/name@branch, ms://org/name or oci://registry/repository:tag"


IS_PUSHED_TO = Rule(
    cel=f"self.matches('^({PUSHED_TO.pattern})$')",
    holds=lambda uri: PUSHED_TO.fullmatch(uri) is not None,
    message=NOT_PUSHED_TO,
)


def _place(uri: str) -> str:
    if not IS_PUSHED_TO.holds(uri):
        raise ValueError(IS_PUSHED_TO.message)
    return uri


PublishUri = Annotated[
    str,
    StringConstraints(min_length=1, max_length=512),
    AfterValidator(_place),
    Field(
        examples=["hf://org/name", "hf://org/name@branch", "ms://org/name", "oci://registry.example/org/name:v1"],
        json_schema_extra={"x-kubernetes-validations": [IS_PUSHED_TO.as_schema()]},
    ),
]


class PublishGate(Spec):
    """A job that has to end well before a model is pushed."""

    from_: JobReference = Field(alias="from")
    """An EvaluationJob with gates, or any other job. One that measured this job's model counts for the very model that it measured."""


class Publication(Spec):
    """A place that the finished model is pushed to, as one commit, by a pod of its own without a GPU. Broken off, it leaves nothing there
    that looks whole, and is tried again; the model stays at `output` whatever becomes of it."""

    uri: PublishUri
    """`hf://org/name` or `hf://org/name@branch`: a repository of the Hugging Face hub (or of the mirror that `HF_ENDPOINT` names). It is
    made where it is not there. `ms://org/name` or `ms://org/name@branch`: the same on ModelScope (or the site that `MODELSCOPE_ENDPOINT`
    names), where another branch than `master` has to be there. `oci://registry/repository:tag`: a registry of container images, as an
    artifact that `oras pull` reads. What is somebody else's there is left alone; a model of this project is followed by this one."""
    secret_ref: SecretReference | None = None
    """Credentials for this place alone, from a Secret: `HF_TOKEN`, with write access, and `HF_ENDPOINT` for another hub;
    `MODELSCOPE_API_TOKEN` and `MODELSCOPE_ENDPOINT` likewise; or `REGISTRY_USERNAME` and `REGISTRY_PASSWORD`. Locally the same variables are
    read from the environment."""
    private: bool | None = None
    """Whether a repository of a hub that has to be made is private; absent, it is. One that is there stays as it is."""
    after: list[PublishGate] = Field(default_factory=list, max_length=16)
    """Jobs that have to end well before the model is pushed here."""

    rules: ClassVar = (
        Rule(
            cel="!has(self.private) || !self.uri.startsWith('oci://')",
            holds=lambda place: place.private is None or not place.uri.startswith("oci://"),
            message="private is of a hub: who may pull from a registry is set there; remove private",
        ),
    )


def _each_once(places: list[Publication]) -> list[Publication]:
    """As the API server sees to it by the type of the list."""
    uris = [one.uri for one in places]
    if twice := next((uri for uri in uris if uris.count(uri) > 1), None):
        raise ValueError(f"publish names {twice} twice: remove one of the two")
    return places


class PublishingSpec(JobSpec):
    """What every job that makes a model has besides its own fields."""

    publish: Annotated[list[Publication], AfterValidator(_each_once)] = Field(
        default_factory=list,
        max_length=8,
        json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["uri"]},
    )
    """Places that the model is pushed to once it lies at `output`, with its card as their README. May be changed, also of a finished job:
    then what lies at `output` is pushed, and nothing is trained."""

    non_semantic: ClassVar = JobSpec.non_semantic | {"publish"}
    mutable: ClassVar = JobSpec.mutable | {"publish"}


def publications(spec: Any) -> list[Publication]:
    """Those of a spec of any kind."""
    return list(getattr(spec, "publish", ()))


def word(place: Publication, digest: str | None) -> str:
    """A short name of a push: of what, where and with what. Another one is another push."""
    told = place.model_dump_json(by_alias=True, exclude={"after"}, exclude_none=True)
    return hashlib.sha256(f"{digest} {told}".encode()).hexdigest()[:16]
