"""Whether an adapter that vLLM is given fits its base. vLLM loads what it knows the name of, and answers as the base where that is
nothing: a wrong adapter is refused before vLLM reads a weight."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from alpaca_operator.api import contract
from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.sources import RopeScaling, Source, sources
from alpaca_operator.api.status import Reason
from workloads.errors import SpecError, WorkloadError
from workloads.models import libraries, model_request, rope
from workloads.models.configuration import read
from workloads.models.inspect import Base, config_of
from workloads.models.model_request import BaseOfAdapters
from workloads.runtime import exits
from workloads.serving.process import log
from workloads.storage import hub
from workloads.storage.sources import locate
from workloads.system.environment import Environment

CONFIGURATION = (".json",)
"""All that is downloaded of a base: vLLM brings the weights."""


def execute(job: ChatDeployment) -> int:
    """Check ``job``; returns the exit code."""
    try:
        environment = Environment.read(os.environ)
    except WorkloadError as error:
        return exits.exit_with(error, os.environ)
    try:
        checked = check(job, environment, lambda: None)
        log(checked)
        ending = exits.termination(Reason.SUCCEEDED, ExitCode.OK, checked, contract.Progress())
    except BaseException as error:  # noqa: BLE001 - every way to end has to reach the exit code and the last word
        ending = exits.failed(error, contract.Progress())
    exits.write_termination(ending, environment.termination_log)
    return ending.exit_code


def check(job: ChatDeployment, environment: Environment, heartbeat: Callable[[], None]) -> str:
    """What was found good, in a sentence. Raises WorkloadError where vLLM would serve something else than the spec says."""
    base = VllmBase.of(job, environment, heartbeat)
    adapters = []
    for field, source in sources(job.spec):
        if source.content == "Adapter":
            label = f"spec.{field} {source.uri}"
            base.must_fit(label, locate(source, field, environment, heartbeat))
            adapters.append(label)
    return " and ".join(f"{label} fits {base.label}" for label in adapters) or "there is no adapter"


@dataclass(frozen=True)
class VllmBase:
    """The model that vLLM puts adapters on."""

    folder: Path
    """With what it says of itself; the weights may be elsewhere."""
    asked: RopeScaling | None
    """As the spec stretches its positions, which is all that vLLM is told of them."""
    named: BaseOfAdapters

    @classmethod
    def of(cls, job: ChatDeployment, environment: Environment, heartbeat: Callable[[], None]) -> VllmBase:
        """That of the spec, after a download where it needs one. Raises WorkloadError."""
        spec = job.spec
        if spec.engine != "vLLM" or spec.model is None:
            raise SpecError(f"engine {spec.engine} looks at its adapters itself: this is for vLLM alone")
        libraries.quiet()  # peft would import GPTQModel, which is in this image for others
        label = f"spec.model {spec.model.uri}"
        folder = _folder_of_base(spec.model, environment, heartbeat)
        config = read(folder, label)
        named = BaseOfAdapters(label, str(spec.model.uri), config.vocab_size, config)
        return cls(folder, spec.model.rope_scaling, named)

    @property
    def label(self) -> str:
        """In messages."""
        return self.named.label

    def must_fit(self, label: str, folder: Path) -> None:
        """Raises WorkloadError, which begins with ``label``, for an adapter that vLLM would pass over a part of, or use beside what it was
        trained for."""
        model_request.check_adapter(label, folder, self.named)
        base = Base(self.folder, config_of(self.folder / "config.json", self.label), {})
        trained = rope.trained_with([(label, folder)])
        wanted = rope.stretched(base, self.asked, "spec.model.ropeScaling", trained).rope_scaling
        if wanted != self.asked and wanted is not None:
            raise SpecError(
                f"{label} was trained with ropeScaling {wanted.type} by {wanted.factor:g}, which vLLM is not told: set "
                "spec.model.ropeScaling to it"
            )


def _folder_of_base(source: Source, environment: Environment, heartbeat: Callable[[], None]) -> Path:
    uri = source.uri or ""
    if not uri.startswith("hf://"):
        return locate(source, "model", environment, heartbeat)
    where = f"spec.model.uri: {uri}"
    return hub.fetch(uri, source.content, (CONFIGURATION, ()), where, environment.hub_cache, heartbeat)
