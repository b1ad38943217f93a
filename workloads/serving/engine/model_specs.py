"""The models that a ChatDeployment names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.conversations import TemplateName
from alpaca_operator.api.sources import AdapterSource, AnsweringModel
from alpaca_operator.api.training import Load
from workloads.errors import SpecError


@dataclass(frozen=True)
class ModelSpec:
    """A model that the spec names: the one that is served, or the one beside it."""

    name: str
    prefix: str
    """Of the names of its fields: empty, or `compareWith.`."""
    model: AnsweringModel
    adapters: Sequence[AdapterSource]
    load: Load | None
    template: TemplateName
    beside: tuple[str, ...] = ()
    """Names of adapters that are models of their own on it: those of the spec's `adapters`, which are not put on it for all then."""

    @property
    def names(self) -> tuple[str, ...]:
        """All that it answers to."""
        return (self.name, *self.beside)


def model_specs(job: ChatDeployment) -> list[ModelSpec]:
    """The models of a spec, in order. Raises SpecError for an engine that is not this one."""
    spec = job.spec
    if spec.engine == "External":
        raise SpecError("engine External loads no model: run the page alone (python -m workloads.chat_ui)")
    if spec.engine == "vLLM":
        raise SpecError(
            "engine vLLM runs from its own image in a cluster: set engine to Auto or Transformers here, or start vLLM yourself and name it "
            "with engine External and endpoint.url"
        )
    assert spec.model is not None, "a rule of the spec"
    name = job.metadata.name
    beside = tuple(adapter.name for adapter in spec.adapters if adapter.name)
    found = [ModelSpec(name, "", spec.model, [] if beside else spec.adapters, spec.load, spec.template, beside)]
    if (other := spec.compare_with) is not None:
        assert other.model is not None, "a rule of the spec"
        found.append(
            ModelSpec(
                other.name or f"{name}-other", "compareWith.", other.model, other.adapters, other.load, other.template
            )
        )
    if name in beside:
        raise SpecError(
            f"adapters[{beside.index(name)}].name {name} is the name of the deployment, which the model alone has: give it another"
        )
    if len(found) > 1 and found[1].name in found[0].names:
        what = "the deployment" if found[1].name == name else "an adapter"
        raise SpecError(f"compareWith.name {found[1].name} is the name of {what}: give it another")
    return found
