"""Where inputs are read from and where the output goes: by uri, or by the job that makes it."""

from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, Field

from alpaca_operator.api.model import Model, Name, Spec, Uri, models_of
from alpaca_operator.api.rules import Rule
from alpaca_operator.api.status import OutputKind


class SecretReference(Spec):
    """A Secret in the job's namespace whose keys become environment variables of the pod."""

    name: Name
    """Name of the Secret, with keys such as `HF_TOKEN`, `MODELSCOPE_API_TOKEN`, `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and
    `AWS_ENDPOINT_URL`, or `REGISTRY_USERNAME` and `REGISTRY_PASSWORD`."""


class JobReference(Spec):
    """Another job in the same namespace (locally: in the same file), whose output is read once it is published."""

    kind: Literal["DatasetJob", "TokenizerJob", "PretrainJob", "SFTJob", "MergeJob", "QuantizeJob", "EvaluationJob"]
    """Its kind."""
    name: Name
    """Its name."""


class Source(Spec):
    """Where an input is read from."""

    content: ClassVar[Literal["Model", "Adapter", "Tokenizer", "Dataset", "File"]] = "File"
    """What has to lie there. It decides which files count, and where a hub keeps it."""
    accepts: ClassVar[frozenset[OutputKind]] = frozenset()
    """Outputs of jobs that `from` may name here."""
    non_semantic: ClassVar = frozenset({"uri", "from_", "secret_ref"})  # what lies there counts, by its digest

    uri: Uri | None = None
    """`pvc://claim/path`, `hf://org/name@revision`, `ms://org/name@revision` (ModelScope), `s3://bucket/key`,
    `oci://registry/repository:tag`, `file:///path` or a path. On a laptop
    `pvc://claim/path` is `$ALPACA_STORAGE/claim/path` (`./storage/claim/path`)."""
    from_: JobReference | None = Field(None, alias="from")
    """The output of another job, in place of `uri`. This job waits until that one is complete."""
    secret_ref: SecretReference | None = None
    """Credentials for the source, from a Secret. Locally the same variables are read from the environment. A key that two inputs' Secrets
    have with different values is refused: one process has one `HF_TOKEN`."""

    rules: ClassVar = (
        Rule(
            cel="has(self.uri) != has(self.from)",
            holds=lambda source: (source.uri is None) != (source.from_ is None),
            message="an input needs uri or from, and not both: name one",
        ),
    )


class AdapterSource(Source):
    """A LoRA adapter."""

    content: ClassVar = "Adapter"
    accepts: ClassVar = frozenset({"LoRAAdapter"})


class ServableSource(Source):
    """A model that answers: full or quantized."""

    content: ClassVar = "Model"
    accepts: ClassVar = frozenset({"Model", "GPTQModel"})


class TokenizerSource(Source):
    """A tokenizer: a folder that holds one, or its file."""

    content: ClassVar = "Tokenizer"
    accepts: ClassVar = frozenset({"Tokenizer", "Model", "LoRAAdapter"})


def sources(part: object, path: str = "") -> Iterator[tuple[str, Source]]:
    """Every Source below ``part``, with the camelCase path of its field (``model``, ``dataset.train[0]``), in the order of the spec."""
    if isinstance(part, Source):
        yield path, part
    elif isinstance(part, Model):
        for name, alias in _ways(type(part)):
            yield from sources(getattr(part, name), f"{path}.{alias}" if path else alias)
    elif isinstance(part, list):
        for index, each in enumerate(part):
            yield from sources(each, f"{path}[{index}]")


@cache
def _ways(model: type[BaseModel]) -> tuple[tuple[str, str], ...]:
    """Python and camelCase names of the fields of ``model`` below which a Source may lie."""
    return tuple(
        (name, field.alias or name)
        for name, field in model.model_fields.items()
        if any(issubclass(part, Source) or _ways(part) for part in models_of(field.annotation))
    )


def resolved(part: Any, uris: Mapping[str, str], path: str = "") -> Any:
    """``part`` with every ``from`` replaced by the URI of the output it stands for, by the paths that ``sources`` gives.

    Raises KeyError for a reference that ``uris`` does not have.
    """
    if isinstance(part, Source):
        return part if part.from_ is None else part.model_copy(update={"from_": None, "uri": uris[path]})
    if isinstance(part, Model):
        names = {
            name: ".".join(filter(None, (path, field.alias or name))) for name, field in type(part).model_fields.items()
        }
        changed = {name: resolved(getattr(part, name), uris, where) for name, where in names.items()}
        return (
            part.model_copy(update=changed) if any(changed[name] is not getattr(part, name) for name in names) else part
        )
    if isinstance(part, list):
        items = [resolved(each, uris, f"{path}[{index}]") for index, each in enumerate(part)]
        return items if any(new is not old for new, old in zip(items, part, strict=True)) else part
    return part


class RopeScaling(Spec):
    """Stretches the rotary position embedding to longer sequences than the base was trained on."""

    type: Literal["linear", "dynamic", "yarn"] = "linear"
    """How positions are stretched: `linear` divides them, `dynamic` (NTK) and `yarn` change the base frequency."""
    factor: float = Field(ge=1, le=64)
    """How many times the base's context length."""


class ModelSource(Source):
    """The base model."""

    content: ClassVar = "Model"
    accepts: ClassVar = frozenset({"Model"})

    rope_scaling: RopeScaling | None = None
    """Set to train beyond the base's context length; absent keeps the base's own setting, or takes that of an adapter which was
    trained with one. Refused where the base has a scaling of its own, and where an adapter was trained with another."""


class AnsweringModel(ServableSource):
    """A model that answers: full or quantized."""

    rope_scaling: RopeScaling | None = None
    """Set to answer beyond the model's own context length; absent keeps the model's setting, or takes that of an adapter which was
    trained with one. Refused where the model has a scaling of its own, and where an adapter was trained with another."""


PUSHED_TO = ("hf://", "ms://", "oci://")
"""Schemes of places that nothing is written to piece by piece."""


class Output(Spec):
    """Where the result is written."""

    uri: Uri
    """Folder of the result, by the same forms as inputs except `hf://`, `ms://` and `oci://`, which `publish` pushes to. It is written beside its final place and renamed when
    whole, so that nothing half-written is ever found there. In a pod a path has to lie on a volume that outlives the pod."""
    overwrite: bool = False
    """Replace an artifact of other settings that already lies there. Off, such a job is refused and the artifact stays."""

    rules: ClassVar = (
        Rule(
            cel="!self.uri.startsWith('hf://') && !self.uri.startsWith('ms://') && !self.uri.startsWith('oci://')",
            holds=lambda output: not output.uri.startswith(PUSHED_TO),
            message="output.uri cannot be hf://, ms:// or oci://: write to pvc://, s3:// or a path, and name the other in publish, which pushes from there",
        ),
    )
