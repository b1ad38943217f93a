"""Whether the adapter that vLLM is given fits its base. vLLM loads what it knows the name of, and answers as the base where that is
nothing: a wrong adapter is refused before vLLM reads a weight."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from alpaca_operator.api import contract
from alpaca_operator.api.chat import ChatDeployment
from alpaca_operator.api.contract import ExitCode
from alpaca_operator.api.sources import Source, sources
from alpaca_operator.api.status import Reason
from workloads.errors import SpecError, WorkloadError
from workloads.models import model_request, rope
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
    spec = job.spec
    if spec.engine != "vLLM" or spec.model is None:
        raise SpecError(f"engine {spec.engine} looks at its adapters itself: this is for vLLM alone")
    label = f"spec.model {spec.model.uri}"
    folder = _folder_of_base(spec.model, environment, heartbeat)
    config = read(folder, label)
    base = BaseOfAdapters(label, str(spec.model.uri), config.vocab_size, config)
    adapters = []
    for field, source in sources(spec):
        if source.content == "Adapter":
            adapters.append((f"spec.{field} {source.uri}", locate(source, field, environment, heartbeat)))
            model_request.check_adapter(*adapters[-1], base)
    _must_be_stretched_as_trained(job, folder, label, adapters)
    return " and ".join(f"{named} fits {label}" for named, _ in adapters) or "there is no adapter"


def _folder_of_base(source: Source, environment: Environment, heartbeat: Callable[[], None]) -> Path:
    uri = source.uri or ""
    if not uri.startswith("hf://"):
        return locate(source, "model", environment, heartbeat)
    where = f"spec.model.uri: {uri}"
    return hub.fetch(uri, source.content, (CONFIGURATION, ()), where, environment.hub_cache, heartbeat)


def _must_be_stretched_as_trained(
    job: ChatDeployment, folder: Path, label: str, adapters: list[tuple[str, Path]]
) -> None:
    """Of positions vLLM is told what the spec says and nothing else."""
    assert job.spec.model is not None
    asked = job.spec.model.rope_scaling
    base = Base(folder, config_of(folder / "config.json", label), {})
    wanted = rope.stretched(base, asked, "spec.model.ropeScaling", rope.trained_with(adapters)).rope_scaling
    if wanted != asked and wanted is not None:
        raise SpecError(
            f"{adapters[0][0]} was trained with ropeScaling {wanted.type} by {wanted.factor:g}, which vLLM is not told: set "
            "spec.model.ropeScaling to it"
        )
