"""The models of an evaluation: looked into all at once, loaded one after the other, or asked where they are served."""

from __future__ import annotations

import ctypes
import gc
import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from alpaca_operator.api.evaluation import EvaluationSpec
from workloads.errors import SpecError
from workloads.evaluation import endpoints
from workloads.evaluation.endpoints import Asker
from workloads.models import inference, inspect, model_request
from workloads.runtime.runtime import Runtime

if TYPE_CHECKING:
    from workloads.data.chat_templates.template import Template


@dataclass(frozen=True)
class Candidate:
    """A model that can be loaded."""

    name: str
    digest: str
    inspected: model_request.InspectedModel
    template: Template | None
    """How it is asked; None where only tasks are run, which have formats of their own."""

    @property
    def uri(self) -> str:
        return self.inspected.request.uri

    @property
    def kind(self) -> str:
        return self.inspected.kind

    @property
    def adapters(self) -> list[str]:
        """Their URIs."""
        return [uri for _, uri, _ in self.inspected.request.adapters]

    @property
    def weight_bytes(self) -> int:
        """Of its files, adapters included."""
        files = self.inspected.base.files
        adapters = [folder / inspect.ADAPTER_WEIGHTS for _, _, folder in self.inspected.request.adapters]
        return sum(path.stat().st_size for path in (*files, *adapters))

    @contextmanager
    def loaded(self) -> Iterator[inference.LoadedModel]:
        """In memory while the block runs, and out of it afterwards."""
        from workloads.models import libraries

        found = inference.load_inspected(self.inspected)
        try:
            with libraries.without_compiling() if found.kind == "GPTQModel" else nullcontext():
                yield found
        finally:
            found.model = None  # whoever still holds the rest of it holds no weights
            release()


@dataclass(frozen=True)
class RemoteCandidate:
    """A model that is served elsewhere, and asked there. What lies there nobody knows: it has no digest."""

    name: str
    asker: Asker
    digest: str | None = None
    template: None = None
    kind: str = "Endpoint"
    adapters: tuple[str, ...] = ()

    @property
    def uri(self) -> str:
        return self.asker.uri


AnyCandidate = Candidate | RemoteCandidate


def prepare(spec: EvaluationSpec, runtime: Runtime, number: int) -> AnyCandidate:
    """One of the models. Raises SpecError, InputError or DataError that names its field."""
    from workloads.data.chat_templates import loading

    one, field = spec.models[number], f"models[{number}]"
    if one.endpoint is not None:
        asked = endpoints.request_of(spec.generation, spec.generation.seed)
        return RemoteCandidate(one.name, endpoints.find(f"{field}.endpoint", one.endpoint, asked, os.environ))
    assert one.model is not None, "a rule of the spec"
    source = runtime.inputs[f"{field}.model"]
    inspected = model_request.inspect_request(
        model_request.ModelRequest(
            field=f"{field}.model",
            uri=source.uri,
            folder=source.path,
            adapters=[
                (f"{field}.adapters[{place}]", found.uri, found.path)
                for place in range(len(one.adapters))
                for found in [runtime.inputs[f"{field}.adapters[{place}]"]]
            ],
            bits=one.load.bits if one.load else None,
            rope_scaling=one.model.rope_scaling,
        )
    )
    template = None
    if spec.dataset is not None or spec.prompts is not None:
        file = runtime.inputs[f"{field}.templateFile"].path if one.template_file else None
        try:
            # Without rows to score it does not matter which part of a conversation the assistant says.
            template = loading.load(one.template, file, inspected.tokenizer, train_on_prompt=spec.dataset is None)
        except SpecError as error:
            raise SpecError(f"spec.{field} ({one.name}): {error}") from error
    return Candidate(one.name, source.digest, inspected, template)


def release() -> None:
    """Give the memory of a model back, to the system too: the next one needs it."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with suppress(OSError, AttributeError):  # glibc keeps what was freed; other C libraries have no such call
        ctypes.CDLL(None).malloc_trim(0)
