"""From a ChatDeployment to models that answer: inputs found, loaded, given a template, limits and a scheduler."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from alpaca_operator.api.chain import noted
from alpaca_operator.api.chat import ChatDeployment, Limits
from workloads.data import tokenize
from workloads.data.chat_templates import loading
from workloads.data.chat_templates.template import Template
from workloads.errors import SpecError
from workloads.models import inference, model_request
from workloads.models.configuration import configuration
from workloads.models.inference import LoadedModel
from workloads.models.model_request import InspectedModel, ModelRequest
from workloads.serving import defaults as defaults_of
from workloads.serving.engine import attention, beside
from workloads.serving.engine.beside import Beside
from workloads.serving.engine.model_specs import ModelSpec, model_specs
from workloads.serving.engine.queueing import Watcher
from workloads.serving.engine.scheduler import Scheduler
from workloads.serving.engine.served_model import Defaults, ServedModel
from workloads.storage import sources
from workloads.storage.hashing import HashCache
from workloads.storage.sources import Input, Inputs
from workloads.system import memory
from workloads.system.describe import some
from workloads.system.environment import Environment

SHARE_FOR_CONVERSATIONS = {"cuda": 0.85, "cpu": 0.5}
"""Share of the memory that is free once the models are loaded. On a GPU nobody else takes of it."""
FEWEST_POSITIONS = 64
"""With room for fewer there is no conversation."""


@dataclass(frozen=True)
class PreparedAdapter:
    """An adapter that can be put on its base, and how the model that it makes of it answers."""

    adapter: Beside
    template: Template
    defaults: Defaults


@dataclass(frozen=True)
class LoadedBase:
    """A model of the spec in memory, as adapters are put on it."""

    spec: ModelSpec
    inputs: Inputs
    model: InspectedModel
    """Without any of them."""
    found: LoadedModel
    served: ServedModel
    sharers: int
    """Models that share the memory."""

    def worn(self, place: int, prepared: PreparedAdapter) -> ServedModel:
        """The model that an adapter makes of it, written by the same scheduler."""
        return replace(
            self.served,
            name=prepared.adapter.name,
            kind="LoRAAdapter",
            digest=prepared.adapter.digest,
            template=prepared.template,
            defaults=prepared.defaults,
            ends=_ends(self.found, prepared.template),
            begins=_begins(prepared.template),
            adapter=place,
        )

    def positions(self, size: int) -> int:
        """Tokens of conversation that so many bytes less leave no room for."""
        share = SHARE_FOR_CONVERSATIONS[self.found.model.device.type]
        return math.ceil(size * share / self.sharers / self.found.bytes_per_position)


AdaptersOf = Callable[[ModelSpec, Inputs, InspectedModel], list[PreparedAdapter]]
"""(spec, inputs, base) -> the adapters that are put on it beside each other."""
Refuse = Callable[[str, Exception], None]
"""Takes the name of an adapter that cannot be put on its base, and why. Where it returns, that one is left out."""


def load(
    job: ChatDeployment, environment: Environment, watcher: Watcher, log: Callable[[str], None]
) -> dict[str, ServedModel]:
    """Every model of the spec by its name, ready to answer. Raises WorkloadError."""

    def adapters_of(spec: ModelSpec, inputs: Inputs, base: InspectedModel) -> list[PreparedAdapter]:
        fields = [f"{spec.prefix}adapters[{place}]" for place in range(len(spec.beside))]
        named = zip(spec.beside, fields, strict=True)
        return [prepare(job, spec, inputs, base, name, field, inputs[field]) for name, field in named]

    def refuse(name: str, error: Exception) -> None:
        raise error

    return load_bases(job, environment, watcher, log, adapters_of, refuse)[0]


def prepare(
    job: ChatDeployment, spec: ModelSpec, inputs: Inputs, base: InspectedModel, name: str, field: str, source: Input
) -> PreparedAdapter:
    """Look into the adapter that lies at ``source``. Raises WorkloadError for one that cannot stand beside others on ``base``."""
    adapter = beside.inspect(name, field, source, base)
    answering = defaults_of.resolved(job.spec.generation, [source.path, base.request.folder])
    return PreparedAdapter(
        adapter,
        _template(spec, inputs, adapter.model),
        Defaults(system_prompt=job.spec.system_prompt, **answering),
    )


def load_bases(
    job: ChatDeployment,
    environment: Environment,
    watcher: Watcher,
    log: Callable[[str], None],
    adapters_of: AdaptersOf,
    refuse: Refuse,
) -> tuple[dict[str, ServedModel], list[LoadedBase]]:
    """Every model by its name, and those of them that the spec itself names, in its order. Raises WorkloadError."""
    known = HashCache(environment.cache / "digests.json", lambda: None)
    inputs = sources.collect(job.spec, environment, known, lambda: None)
    sources.must_be_as_published(inputs, noted(job.metadata.annotations))
    known.save()
    if job.spec.engine == "Auto":
        log("engine Auto: Transformers answers, as vLLM comes from an image of its own, which only the operator starts")
    if job.spec.adapter_selector is not None:
        log("adapterSelector takes the adapters of a cluster's jobs: here those are served that adapters names")
    inspected = []
    for spec in model_specs(job):  # all of them, before the first is read: that may take minutes
        _must_be_no_gguf(spec, inputs)
        model = model_request.inspect_request(_request(spec, inputs))
        attention.check(configuration(model.base, model.request.label), spec.name)
        inspected.append((spec, model, _template(spec, inputs, model), adapters_of(spec, inputs, model)))
    loaded = []
    for spec, model, template, adapters in inspected:
        log(f"loading {spec.model.uri}")
        found = inference.load_inspected(model)
        for note in found.notes:
            log(note)
        # Before their memory is measured that conversations may have.
        places = [place for place, each in enumerate(adapters) if _is_put_on(found, place, each.adapter, refuse)]
        loaded.append((spec, model, found, template, {place: adapters[place] for place in places}))
    log("resolved: " + "; ".join(f"{spec.name}: {_settings_text(found.how)}" for spec, _, found, _, _ in loaded))
    served: dict[str, ServedModel] = {}
    bases = []
    for spec, model, found, template, worn in loaded:
        answering = served[spec.name] = _served(job, spec, inputs, found, template, watcher, len(loaded), log)
        base = LoadedBase(spec, inputs, model, found, answering, len(loaded))
        bases.append(base)
        for place, each in worn.items():
            served[each.adapter.name] = base.worn(place, each)
    for answering in served.values():
        if answering.adapter is None:
            answering.scheduler.start()
    return served, bases


def _is_put_on(found: LoadedModel, place: int, adapter: Beside, refuse: Refuse) -> bool:
    try:
        found.put_on(place, adapter.source, adapter.model.request.uri)
    except Exception as error:  # noqa: BLE001 - who was asked to take it says what it means
        refuse(adapter.name, error)
        return False
    return True


def _must_be_no_gguf(spec: ModelSpec, inputs: Inputs) -> None:
    folder = inputs[f"{spec.prefix}model"].path
    if not (folder / "config.json").is_file() and (files := sorted(path.name for path in folder.glob("*.gguf"))):
        raise SpecError(
            f"spec.{spec.prefix}model {spec.model.uri}: {some(files)} is read by llama.cpp alone: set engine to LlamaCpp"
        )


def _request(spec: ModelSpec, inputs: Inputs) -> ModelRequest:
    model = inputs[f"{spec.prefix}model"]
    adapters = [
        (f"{spec.prefix}adapters[{number}]", inputs[f"{spec.prefix}adapters[{number}]"])
        for number in range(len(spec.adapters))
    ]
    return ModelRequest(
        field=f"{spec.prefix}model",
        uri=model.uri,
        folder=model.path,
        adapters=tuple((field, found.uri, found.path) for field, found in adapters),
        bits=spec.load.bits if spec.load else None,
        rope_scaling=spec.model.rope_scaling,
    )


def _template(spec: ModelSpec, inputs: Inputs, model: InspectedModel) -> Template:
    """As training has it where the format is known; else the model's own text, which is enough to answer."""
    file = inputs.get(f"{spec.prefix}templateFile")
    path = file.path if file else None
    try:
        return loading.load(spec.template, path, model.tokenizer, live_clock=True)
    except SpecError:
        return loading.load(spec.template, path, model.tokenizer, train_on_prompt=True, live_clock=True)


def _served(
    job: ChatDeployment,
    spec: ModelSpec,
    inputs: Inputs,
    found: LoadedModel,
    template: Template,
    watcher: Watcher,
    sharers: int,
    log: Callable[[str], None],
) -> ServedModel:
    if found.kind == "GPTQModel" and found.model.device.type == "cpu":
        import torch

        torch.compiler.set_stance(
            "force_eager"
        )  # GPTQModel would have its kernels compiled, and an image has no compiler
    attention.prepare(found.model)
    limits = job.spec.limits
    positions = _positions(found, sharers)
    if positions < FEWEST_POSITIONS:
        raise SpecError(
            f"{spec.name}: the weights leave room for {positions} tokens of conversation: raise pod.resources.limits, or set load.bits"
        )
    if positions < found.context:
        log(f"{spec.name}: memory is left for {positions} of the model's {found.context} positions")
    context = min(found.context, positions)
    answering = defaults_of.resolved(job.spec.generation, _folders(spec, inputs))
    defaults = Defaults(system_prompt=job.spec.system_prompt, **answering)
    tokenizer = template.tokenizer
    if not template.stop_ids:
        log(f"{spec.name}: the template names no token that ends an answer: answers end at maxNewTokens")
    return ServedModel(
        name=spec.name,
        kind=found.kind,
        digest=inputs[f"{spec.prefix}adapters[0]" if spec.adapters else f"{spec.prefix}model"].digest,
        template=template,
        defaults=defaults,
        scheduler=Scheduler(
            found.computing,
            max_batch=1 if found.changes_with_length else limits.max_batch,
            max_queue=limits.max_queue,
            positions=positions,
            vocabulary_size=tokenize.rows_of(tokenizer),
            watcher=watcher,
            piece=context if found.changes_with_length else None,
            remembers=not found.changes_with_length,
            before=found.start_anew if found.changes_with_length else lambda: None,
            wear=found.wear,
        ),
        context=context,
        max_input_tokens=input_limit(limits, context, defaults, spec),
        timeout_seconds=limits.request_timeout_seconds,
        ends=_ends(found, template),
        begins=_begins(template),
    )


def _ends(found: LoadedModel, template: Template) -> frozenset[int]:
    """Tokens that end an answer."""
    own = getattr(found.model.generation_config, "eos_token_id", None)
    own = [] if own is None else [own] if isinstance(own, int) else list(own)
    return frozenset({*template.stop_ids, *template.next_turn[0], *own})


def _begins(template: Template) -> int | None:
    """The token that texts outside of a conversation begin with, where the tokenizer sets one."""
    begins = template.tokenizer.bos_token_id
    plain = template.tokenizer("a")["input_ids"]
    return begins if begins is not None and plain[:1] == [begins] else None


def _folders(spec: ModelSpec, inputs: Inputs) -> list[Path]:
    """Those that may say how the model is meant to be sampled, the newest first."""
    adapters = [inputs[f"{spec.prefix}adapters[{number}]"].path for number in range(len(spec.adapters))]
    return [*reversed(adapters), inputs[f"{spec.prefix}model"].path]


def _positions(found: LoadedModel, sharers: int) -> int:
    """Tokens of conversation that there is memory for: each device remembers what its layers do."""
    import torch

    def positions(device: torch.device, layers: int) -> float:
        free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else memory.available()
        its_part = found.bytes_per_position * layers / found.layers.total()
        return free * SHARE_FOR_CONVERSATIONS[device.type] / sharers / its_part

    return int(min(positions(device, layers) for device, layers in found.layers.items()))


def input_limit(limits: Limits, context: int, defaults: Defaults, spec: ModelSpec) -> int:
    if limits.max_input_tokens is None:
        return context - min(defaults.max_new_tokens, context // 2)
    if limits.max_input_tokens >= context:
        raise SpecError(
            f"limits.maxInputTokens is {limits.max_input_tokens} and {spec.name} has {context} positions for question and answer together: "
            f"lower it to {context - 1} or less, or set {spec.prefix}model.ropeScaling"
        )
    return limits.max_input_tokens


def _settings_text(how: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in how.items())
