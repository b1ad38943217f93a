"""How a model's positions are stretched: what its own configuration says, what a spec adds, and what an adapter was trained with.

A scaling is set on a model that has none. Two of them are not put on top of each other, as none of their types is defined on another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from alpaca_operator.api import contract
from alpaca_operator.api.sources import RopeScaling
from workloads.errors import SpecError
from workloads.models.inspect import ADAPTER_CONFIG, Base, own_scaling, rope_type
from workloads.storage import contents

RECORD = "ropeScaling"
"""Its name in the policy of an artifact."""


class Trained(NamedTuple):
    """An adapter of ours, and the positions that it was trained at."""

    label: str
    """In messages."""
    scaling: RopeScaling | None
    """What the spec of its training put on the base."""
    record: Mapping[str, Any] | None = None
    """How the base's positions were stretched then, by the spec or by itself; None where they were not, or nobody wrote it down."""


def stretched(base: Base, asked: RopeScaling | None, field: str, adapters: Sequence[Trained] = ()) -> Base:
    """``base`` with the scaling that the spec asks for in ``field``, or else with that of the adapters which go on it.

    Raises SpecError where the base has one of its own, and where adapters were trained with another.
    """
    wanted = adapters[0].scaling if asked is None and adapters else asked
    for adapter in adapters:
        if adapter.scaling != wanted:
            other = f"{field} is {_words(asked)}" if asked else f"{adapters[0].label} with {_words(wanted)}"
            raise SpecError(
                f"{adapter.label} was trained with {_words(adapter.scaling)}, and {other}: "
                f"{f'set {field} to what the adapter was trained with' if asked else 'adapters of one kind of positions go together'}"
            )
    made = _with(base, wanted, field if asked else None, adapters)
    for adapter in adapters:
        _must_be_as_trained(made, adapter)
    return made


def _with(base: Base, wanted: RopeScaling | None, field: str | None, adapters: Sequence[Trained]) -> Base:
    """``base`` with the scaling that ``field`` asks for, or else the adapters."""
    own = own_scaling(base.config)
    if wanted is None or own is None:
        return replace(base, rope_scaling=wanted)
    if field is None and _agree({"type": wanted.type, "factor": wanted.factor}, own):
        return base
    cause = f"{field} is {_words(wanted)}" if field else f"{adapters[0].label} was trained with {_words(wanted)}"
    remedy = f"remove {field} to keep the base's own" if field else "name the base that the adapter was made from"
    raise SpecError(
        f"{cause}, and config.json of {base.folder} has a rope scaling of its own ({_described(own)}), which would be lost: {remedy}, or "
        "name a base without one"
    )


def _must_be_as_trained(base: Base, adapter: Trained) -> None:
    """Raises SpecError where the base that the adapter was trained on had another scaling of its own."""
    now = recorded(base).get(RECORD)
    if adapter.record is not None and (now is None or not _agree(adapter.record, now)):
        raise SpecError(
            f"{adapter.label} was trained with a rope scaling of {_described(adapter.record)}, and {base.folder} has "
            f"{_described(now) if now else 'none'}: name the base that the adapter was made from"
        )


def recorded(base: Base) -> dict[str, Any]:
    """How the positions of ``base`` are stretched, by itself or by the spec, for the artifact of what is trained on it."""
    own = own_scaling(base.config) or {}
    if base.rope_scaling is not None:
        own = base.rope_scaling.model_dump()
    numbers = {key: value for key, value in own.items() if key not in ("type", "rope_type", "rope_theta")}
    return {RECORD: {"type": rope_type(own), **numbers}} if own else {}


def taken_over(base: Base, asked: RopeScaling | None) -> list[str]:
    """A sentence for the user where an adapter has decided for them."""
    if asked is not None or base.rope_scaling is None:
        return []
    return [f"{_words(base.rope_scaling)}, as the adapter was trained with it"]


def trained_with(adapters: Iterable[tuple[str, Path]]) -> list[Trained]:
    """What those of the adapters were trained with that our own jobs made; of others nobody knows."""
    found = []
    for label, folder in adapters:
        artifact = _artifact_of(folder)
        if artifact is not None:
            scaling = _of_artifact(artifact.spec, artifact.inputs, artifact)
            found.append(Trained(label, scaling, artifact.resolved_policy.get(RECORD)))
    return found


def _artifact_of(folder: Path) -> contract.Artifact | None:
    """That of the folder; or, for the adapter beside a merged model, that of the two."""
    own = contents.read_artifact(folder)
    if own is not None:
        return own
    above = contents.read_artifact(folder.resolve().parent)
    inside = f"{folder.resolve().name}/{ADAPTER_CONFIG}"
    return above if above is not None and any(file.path == inside for file in above.files) else None


def _of_artifact(
    spec: Mapping[str, Any], inputs: Mapping[str, contract.ArtifactInput], artifact: contract.Artifact
) -> RopeScaling | None:
    """What its spec says; else what the adapter was trained with that it started from."""
    scaling = (spec.get("model") or {}).get("ropeScaling")
    if scaling is not None:
        return RopeScaling.model_validate(scaling)
    start = inputs.get("adapter")
    earlier = artifact.ancestors.get(start.digest) if start is not None else None
    return _of_artifact(earlier.spec, earlier.inputs, artifact) if earlier is not None else None


def apply(config: Any, scaling: RopeScaling) -> None:
    """Set it on a transformers configuration, so that what is saved with it reaches as far as it was trained."""
    original = config.max_position_embeddings
    config.rope_parameters = {
        **(config.rope_parameters or {}),
        "rope_type": scaling.type,
        "factor": scaling.factor,
        **({"original_max_position_embeddings": original} if scaling.type == "yarn" else {}),
    }
    # Dynamic scaling measures the length against this number, so there it has to stay the original's.
    if scaling.type != "dynamic":
        config.max_position_embeddings = int(original * scaling.factor)


def _agree(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two scalings are one, as far as both say; a saved configuration has more numbers than a spec."""
    return rope_type(one) == rope_type(other) and all(
        one[key] == other[key] for key in one.keys() & other.keys() - {"type", "rope_type", "rope_theta"}
    )


def _words(scaling: RopeScaling | None) -> str:
    return f"ropeScaling {scaling.type} by {scaling.factor:g}" if scaling else "no ropeScaling"


def _described(own: Mapping[str, Any]) -> str:
    return f"{rope_type(own)} by {own['factor']:g}" if isinstance(own.get("factor"), int | float) else rope_type(own)
