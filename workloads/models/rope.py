"""How a model's positions are stretched: what its own configuration says, what a spec adds, and what an adapter was trained with.

A scaling is set on a model that has none. Two of them are not put on top of each other, as none of their types is defined on another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from alpaca_operator.api import contract
from alpaca_operator.api.sources import RopeScaling
from workloads.errors import SpecError
from workloads.models.inspect import ADAPTER_CONFIG, Base, own_scaling, rope_type
from workloads.storage import contents

Trained = tuple[str, RopeScaling | None]
"""An adapter's name in messages, and the scaling that it was trained with."""


def stretched(base: Base, asked: RopeScaling | None, field: str, adapters: Sequence[Trained] = ()) -> Base:
    """``base`` with the scaling that the spec asks for in ``field``, or else with that of the adapters which go on it.

    Raises SpecError where the base has one of its own, and where adapters were trained with another.
    """
    wanted = asked
    if asked is None and adapters:
        wanted = adapters[0][1]
    for label, trained in adapters:
        if trained != wanted:
            other = f"{field} is {_words(asked)}" if asked else f"{adapters[0][0]} with {_words(wanted)}"
            raise SpecError(
                f"{label} was trained with {_words(trained)}, and {other}: "
                f"{f'set {field} to what the adapter was trained with' if asked else 'adapters of one kind of positions go together'}"
            )
    own = own_scaling(base.config)
    if wanted is None or own is None:
        return replace(base, rope_scaling=wanted)
    if asked is None and _same(own, wanted):
        return base
    cause = f"{field} is {_words(asked)}" if asked else f"{adapters[0][0]} was trained with {_words(wanted)}"
    remedy = f"remove {field} to keep the base's own" if asked else "name the base that the adapter was made from"
    raise SpecError(
        f"{cause}, and config.json of {base.folder} has a rope scaling of its own ({_described(own)}), which would be lost: {remedy}, or "
        "name a base without one"
    )


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
            found.append((label, _of_artifact(artifact.spec, artifact.inputs, artifact)))
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


def _same(own: Mapping[str, Any], scaling: RopeScaling) -> bool:
    return rope_type(own) == scaling.type and own.get("factor") == scaling.factor


def _words(scaling: RopeScaling | None) -> str:
    return f"ropeScaling {scaling.type} by {scaling.factor:g}" if scaling else "no ropeScaling"


def _described(own: Mapping[str, Any]) -> str:
    return f"{rope_type(own)} by {own['factor']:g}" if isinstance(own.get("factor"), int | float) else rope_type(own)
