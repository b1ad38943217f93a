"""From a ChatDeployment to models that answer: inputs found, loaded, given a template, limits and a scheduler."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from alpaca_operator.api.chain import noted
from alpaca_operator.api.chat import Answering, ChatDeployment, Limits
from alpaca_operator.api.generation import Decoding
from workloads.data import tokenize
from workloads.data.chat_templates import loading
from workloads.data.chat_templates.template import Template
from workloads.errors import InputError, SpecError
from workloads.models import inference
from workloads.models.inference import Looked, Servable, Wanted
from workloads.serving.engine.parts import Part, parts
from workloads.serving.engine.scheduler import Scheduler, Watcher
from workloads.serving.engine.served import Defaults, Served
from workloads.storage import sources
from workloads.storage.hashing import HashCache
from workloads.storage.sources import Inputs
from workloads.system import memory
from workloads.system.environment import Environment

SHARE_FOR_CONVERSATIONS = {"cuda": 0.85, "cpu": 0.5}
"""Share of the memory that is free once the models are loaded. On a GPU nobody else takes of it."""
FEWEST_POSITIONS = 64
"""With room for fewer there is no conversation."""
GENERATION = tuple(Answering.model_fields)
"""What both the spec and a generation_config.json may say."""


def load(
    job: ChatDeployment, environment: Environment, watcher: Watcher, log: Callable[[str], None]
) -> dict[str, Served]:
    """Every model of the spec by its name, ready to answer. Raises WorkloadError."""
    known = HashCache(environment.cache / "digests.json", lambda: None)
    inputs = sources.collect(job.spec, environment, known, lambda: None)
    sources.must_be_as_published(inputs, noted(job.metadata.annotations))
    known.save()
    if job.spec.engine == "Auto":
        log("engine Auto: Transformers answers, as vLLM comes from an image of its own, which only the operator starts")
    looked = []
    for part in parts(job):  # all of them, before the first is read: that may take minutes
        seen = inference.look(_wanted(part, inputs))
        looked.append((part, seen, _template(part, inputs, seen)))
    loaded = []
    for part, seen, template in looked:
        log(f"loading {part.model.uri}")
        found = inference.load_looked(seen)
        for note in found.notes:
            log(note)
        loaded.append((part, found, template))
    log("resolved: " + "; ".join(f"{part.name}: {_told(found.how)}" for part, found, _ in loaded))
    served = {
        part.name: _served(job, part, inputs, found, template, watcher, len(loaded), log)
        for part, found, template in loaded
    }
    for each in served.values():
        each.scheduler.start()
    return served


def _wanted(part: Part, inputs: Inputs) -> Wanted:
    model = inputs[f"{part.path}model"]
    adapters = [
        (f"{part.path}adapters[{number}]", inputs[f"{part.path}adapters[{number}]"])
        for number in range(len(part.adapters))
    ]
    return Wanted(
        field=f"{part.path}model",
        uri=model.uri,
        folder=model.path,
        adapters=tuple((field, found.uri, found.path) for field, found in adapters),
        bits=part.load.bits if part.load else None,
        rope_scaling=part.model.rope_scaling,
    )


def _template(part: Part, inputs: Inputs, seen: Looked) -> Template:
    """As training has it where the format is known; else the model's own text, which is enough to answer."""
    file = inputs.get(f"{part.path}templateFile")
    path = file.path if file else None
    try:
        return loading.load(part.template, path, seen.tokenizer)
    except SpecError:
        return loading.load(part.template, path, seen.tokenizer, train_on_prompt=True)


def _served(
    job: ChatDeployment,
    part: Part,
    inputs: Inputs,
    found: Servable,
    template: Template,
    watcher: Watcher,
    sharers: int,
    log: Callable[[str], None],
) -> Served:
    if found.kind == "GPTQModel" and found.model.device.type == "cpu":
        import torch

        torch.compiler.set_stance(
            "force_eager"
        )  # GPTQModel would have its kernels compiled, and an image has no compiler
    limits = job.spec.limits
    positions = _positions(found, sharers)
    if positions < FEWEST_POSITIONS:
        raise SpecError(
            f"{part.name}: the weights leave room for {positions} tokens of conversation: raise pod.resources.limits, or set load.bits"
        )
    if positions < found.context:
        log(f"{part.name}: memory is left for {positions} of the model's {found.context} positions")
    context = min(found.context, positions)
    defaults = _defaults(job.spec.generation, job.spec.system_prompt, _folders(part, inputs))
    tokenizer = template.tokenizer
    own_ends = getattr(found.model.generation_config, "eos_token_id", None)
    own_ends = [] if own_ends is None else [own_ends] if isinstance(own_ends, int) else list(own_ends)
    if not template.stop_ids:
        log(f"{part.name}: the template names no token that ends an answer: answers end at maxNewTokens")
    begins = tokenizer.bos_token_id
    plain = tokenizer("a")["input_ids"]
    return Served(
        name=part.name,
        kind=found.kind,
        digest=inputs[f"{part.path}adapters[0]" if part.adapters else f"{part.path}model"].digest,
        template=template,
        defaults=defaults,
        scheduler=Scheduler(
            found.model,
            max_batch=1 if found.changes_with_length else limits.max_batch,
            max_queue=limits.max_queue,
            positions=positions,
            words=tokenize.rows_of(tokenizer),
            watcher=watcher,
            **({"piece": context, "before": found.start_anew} if found.changes_with_length else {}),
        ),
        context=context,
        max_input_tokens=_input_limit(limits, context, defaults, part),
        timeout_seconds=limits.request_timeout_seconds,
        ends=frozenset({*template.stop_ids, *template.next_turn[0], *own_ends}),
        begins=begins if begins is not None and plain[:1] == [begins] else None,
    )


def _folders(part: Part, inputs: Inputs) -> list[Path]:
    """Those that may say how the model is meant to be sampled, the newest first."""
    adapters = [inputs[f"{part.path}adapters[{number}]"].path for number in range(len(part.adapters))]
    return [*reversed(adapters), inputs[f"{part.path}model"].path]


def _positions(found: Servable, sharers: int) -> int:
    """Tokens of conversation that there is memory for."""
    import torch

    device = found.model.device.type
    free = torch.cuda.mem_get_info()[0] if device == "cuda" else memory.available()
    return int(free * SHARE_FOR_CONVERSATIONS[device] / sharers / found.bytes_per_position)


def _input_limit(limits: Limits, context: int, defaults: Defaults, part: Part) -> int:
    if limits.max_input_tokens is None:
        return context - min(defaults.max_new_tokens, context // 2)
    if limits.max_input_tokens >= context:
        raise SpecError(
            f"limits.maxInputTokens is {limits.max_input_tokens} and {part.name} has {context} positions for question and answer together: "
            f"lower it to {context - 1} or less, or set {part.path}model.ropeScaling"
        )
    return limits.max_input_tokens


def _defaults(asked: Answering, system_prompt: str | None, folders: list[Path]) -> Defaults:
    """The spec's word, else the model's own, else ours."""
    own = next((found for folder in folders if (found := _generation_config(folder))), {})
    ours = Decoding()
    values: dict[str, Any] = {}
    for name in GENERATION:
        candidates = (getattr(asked, name), own.get(name), getattr(ours, name))
        values[name] = next(value for value in candidates if value is not None)
    return Defaults(system_prompt=system_prompt, **values)


def _generation_config(folder: Path) -> dict[str, Any]:
    """How the model is meant to be sampled, with values that our own bounds take."""
    path = folder / "generation_config.json"
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"spec.model: {path} is no JSON ({error}): copy the model again") from error
    found = {name: content[name] for name in GENERATION if isinstance(content.get(name), int | float)}
    if content.get("do_sample") is False:
        found["temperature"] = 0.0
    try:
        Answering.model_validate(found)
    except ValueError as error:
        raise InputError(f"spec.model: {path}: {error}: correct it, or set generation") from error
    return found


def _told(how: dict[str, Any]) -> str:
    return ", ".join(f"{name}={value}" for name, value in how.items())
