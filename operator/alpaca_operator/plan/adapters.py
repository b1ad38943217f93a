"""The adapters beside each other on a model: they are listed in an annotation, which pods follow, and are not in their configuration."""

from __future__ import annotations

from alpaca_operator.api.chat import ChatDeployment, ChatSpec, ServedAdapter
from alpaca_operator.api.contract import (
    ADAPTERS_PATH,
    ANNOTATION_ADAPTERS,
    ENV_ADAPTERS,
    AdapterList,
    ListedAdapter,
)
from alpaca_operator.inputs import Inputs, selected_name
from alpaca_operator.plan.base import Manifest

FIELDS = frozenset({"adapters", "adapter_selector"})
"""Of the spec, by their Python names."""
FIELD = "adapters["
"""What the names of their inputs begin with."""


def are_listed(spec: ChatSpec) -> bool:
    """Whether they may change while pods serve. Those that are put on the model for all are a part of it. vLLM sets memory aside for them,
    and does so where there are some, or may be."""
    if not all(adapter.name for adapter in spec.adapters):
        return False
    may_come = bool(spec.adapters) or spec.adapter_selector is not None
    return spec.engine == "Transformers" or (spec.engine == "vLLM" and may_come)


def with_selected(spec: ChatSpec, inputs: Inputs) -> ChatSpec:
    """The spec with those among its adapters that its selector takes."""
    selected = {name: found for field, found in inputs.items() if (name := selected_name(field))}
    taken = [ServedAdapter.model_construct(name=name, uri=found.uri) for name, found in selected.items()]
    return spec.model_copy(update={"adapters": [*spec.adapters, *taken]}) if taken else spec


def annotation(chat: ChatDeployment, inputs: Inputs) -> dict[str, str]:
    """Of the Deployment, and of its pods."""
    digests = {selected_name(field) or field: found.digest for field, found in inputs.items()}
    listed = [
        ListedAdapter(
            name=adapter.name or "",
            uri=adapter.uri or "",
            digest=digests.get(adapter.name or "") or digests.get(f"{FIELD}{place}]"),
        )
        for place, adapter in enumerate(chat.spec.adapters)
    ]
    return {ANNOTATION_ADAPTERS: AdapterList(adapters=listed).to_json()}


def without(inputs: Inputs) -> Inputs:
    """Those of everything else."""
    return {field: found for field, found in inputs.items() if not (field.startswith(FIELD) or selected_name(field))}


def show(frame: Manifest, container: str) -> None:
    """Let a container of a pod follow the pod's list."""
    config = next(volume for volume in frame["spec"]["volumes"] if volume["name"] == "alpaca-config")
    source = {"fieldPath": f"metadata.annotations['{ANNOTATION_ADAPTERS}']"}
    config["downwardAPI"]["items"].append({"path": ADAPTERS_PATH.rpartition("/")[2], "fieldRef": source})
    follows = next(each for each in frame["spec"]["containers"] if each["name"] == container)
    follows["env"].append({"name": ENV_ADAPTERS, "value": ADAPTERS_PATH})
