"""From a ChatDeployment to models that answer: inputs found, loaded, given a template, limits and a scheduler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
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
from workloads.storage.sources import Inputs
from workloads.system import memory
from workloads.system.describe import some
from workloads.system.environment import Environment

SHARE_FOR_CONVERSATIONS = {"cuda": 0.85, "cpu": 0.5}
"""Share of the memory that is free once the models are loaded. On a GPU nobody else takes of it."""
FEWEST_POSITIONS = 64
"""With room for fewer there is no conversation."""


def load(
    job: ChatDeployment, environment: Environment, watcher: Watcher, log: Callable[[str], None]
) -> dict[str, ServedModel]:
    """Every model of the spec by its name, ready to answer. Raises WorkloadError."""
    known = HashCache(environment.cache / "digests.json", lambda: None)
    inputs = sources.collect(job.spec, environment, known, lambda: None)
    sources.must_be_as_published(inputs, noted(job.metadata.annotations))
    known.save()
    if job.spec.engine == "Auto":
        log("engine Auto: Transformers answers, as vLLM comes from an image of its own, which only the operator starts")
    inspected = []
    for spec in model_specs(job):  # all of them, before the first is read: that may take minutes
        _must_be_no_gguf(spec, inputs)
        model = model_request.inspect_request(_request(spec, inputs))
        attention.check(configuration(model.base, model.request.label), spec.name)
        adapters = [(each, _template(spec, inputs, each.model)) for each in beside.inspected(spec, inputs, model)]
        inspected.append((spec, model, _template(spec, inputs, model), adapters))
    loaded = []
    for spec, model, template, adapters in inspected:
        log(f"loading {spec.model.uri}")
        found = inference.load_inspected(model, [each.source for each, _ in adapters])
        for note in found.notes:
            log(note)
        loaded.append((spec, found, template, adapters))
    log("resolved: " + "; ".join(f"{spec.name}: {_settings_text(found.how)}" for spec, found, _, _ in loaded))
    served: dict[str, ServedModel] = {}
    for spec, found, template, adapters in loaded:
        base = served[spec.name] = _served(job, spec, inputs, found, template, watcher, len(loaded), log)
        for place, (each, own) in enumerate(adapters):
            served[each.name] = _worn(base, place, each, own, job, found)
    for answering in served.values():
        if answering.adapter is None:
            answering.scheduler.start()
    return served


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
            found.model,
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


def _worn(
    base: ServedModel, place: int, adapter: Beside, template: Template, job: ChatDeployment, found: LoadedModel
) -> ServedModel:
    """The model that an adapter makes of the base, written by the same scheduler."""
    folders = [adapter.source[2], adapter.model.request.folder]
    answering = defaults_of.resolved(job.spec.generation, folders)
    return replace(
        base,
        name=adapter.name,
        kind="LoRAAdapter",
        digest=adapter.digest,
        template=template,
        defaults=Defaults(system_prompt=job.spec.system_prompt, **answering),
        ends=_ends(found, template),
        begins=_begins(template),
        adapter=place,
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
