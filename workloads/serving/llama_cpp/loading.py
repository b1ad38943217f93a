"""From a ChatDeployment with ``engine: LlamaCpp`` to models that answer."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from alpaca_operator.api.chain import noted
from alpaca_operator.api.chat import ChatDeployment
from workloads.data.chat_templates import loading as templates
from workloads.data.chat_templates.template import Template
from workloads.errors import SpecError
from workloads.quantization.gguf import llama_cpp
from workloads.serving import defaults as defaults_of
from workloads.serving.engine.loading import FEWEST_POSITIONS, SHARE_FOR_CONVERSATIONS, input_limit
from workloads.serving.engine.model_specs import ModelSpec, model_specs
from workloads.serving.engine.queueing import Watcher
from workloads.serving.engine.served_model import Defaults, ServedModel
from workloads.serving.llama_cpp import gguf_file, tokenizer
from workloads.serving.llama_cpp.context import MOST_ROWS, Context
from workloads.serving.llama_cpp.gguf_file import GGUFFile
from workloads.serving.llama_cpp.scheduler import LlamaCppScheduler
from workloads.storage import sources
from workloads.storage.hashing import HashCache
from workloads.storage.sources import Inputs
from workloads.system import memory
from workloads.system.environment import Environment

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

USUAL_POSITIONS = 4096
"""Of a conversation. Memory is taken when the file is loaded, so it is taken for usual ones, and for one of any length."""
PROBES = (
    "为什么天是蓝的？\n\n1. 因为光，2. 因为风。",
    "Hello,  world! It's 2024;\tdef f(x):\n    return x**2\n",
    "……————🙂🙃 ﬁ ①",
)
"""Texts that tokenizers cut differently where they differ."""


def load(
    job: ChatDeployment, environment: Environment, watcher: Watcher, log: Callable[[str], None]
) -> dict[str, ServedModel]:
    """Every model of the spec by its name, ready to answer. Raises WorkloadError."""
    llama_cpp.must_be_there("engine LlamaCpp")
    known = HashCache(environment.cache / "digests.json", lambda: None)
    inputs = sources.collect(job.spec, environment, known, lambda: None)
    sources.must_be_as_published(inputs, noted(job.metadata.annotations))
    known.save()
    specs = model_specs(job)
    read = []
    for spec in specs:
        file = gguf_file.read(inputs[f"{spec.prefix}model"].path, f"spec.{spec.prefix}model {spec.model.uri}")
        words = tokenizer.of(file)
        read.append((spec, file, words, _template(spec, inputs, words)))
    served = {}
    for at, (spec, file, words, template) in enumerate(read):
        log(f"loading {spec.model.uri}: {file.path.name}, by llama.cpp on CPUs")
        served[spec.name] = _served(job, spec, inputs, file, words, template, watcher, len(specs) - at, log)
    for each in served.values():
        each.scheduler.start()
    return served


def _template(spec: ModelSpec, inputs: Inputs, words: PreTrainedTokenizerBase) -> Template:
    file = inputs.get(f"{spec.prefix}templateFile")
    return templates.load(spec.template, file.path if file else None, words, train_on_prompt=True, live_clock=True)


def _served(
    job: ChatDeployment,
    spec: ModelSpec,
    inputs: Inputs,
    file: GGUFFile,
    words: PreTrainedTokenizerBase,
    template: Template,
    watcher: Watcher,
    sharers: int,
    log: Callable[[str], None],
) -> ServedModel:
    limits = job.spec.limits
    rows = min(limits.max_batch, MOST_ROWS)
    if rows < limits.max_batch:
        log(
            f"{spec.name}: llama.cpp answers {rows} questions at the same time, fewer than limits.maxBatch {limits.max_batch}"
        )
    positions = _positions(spec, file, rows, sharers)
    context = min(file.context, positions)
    if context < file.context:
        log(f"{spec.name}: memory is left for {context} of the model's {file.context} positions")
    held = Context(file.path, positions=positions, rows=rows, threads=_threads())
    _must_cut_alike(spec, file, held, words)
    answering = defaults_of.resolved(job.spec.generation, [file.path.parent])
    defaults = Defaults(system_prompt=job.spec.system_prompt, **answering)
    begins = words.bos_token_id
    plain = words("a")["input_ids"]
    return ServedModel(
        name=spec.name,
        kind="GGUFModel",
        digest=inputs[f"{spec.prefix}model"].digest,
        template=template,
        defaults=defaults,
        scheduler=LlamaCppScheduler(
            held,
            max_batch=rows,
            max_queue=limits.max_queue,
            positions=positions,
            unused=tokenizer.unused(file),
            watcher=watcher,
        ),
        context=context,
        max_input_tokens=input_limit(limits, context, defaults, spec),
        timeout_seconds=limits.request_timeout_seconds,
        ends=frozenset({*template.stop_ids, *template.next_turn[0], *held.ends()}),
        begins=begins if begins is not None and plain[:1] == [begins] else None,
    )


def _positions(spec: ModelSpec, file: GGUFFile, rows: int, sharers: int) -> int:
    """Tokens of conversation that memory is taken for. Raises SpecError where the file leaves none."""
    left = memory.available() - _weights(file.path)
    affordable = int(left * SHARE_FOR_CONVERSATIONS["cpu"] / sharers / file.bytes_per_position)
    if affordable < FEWEST_POSITIONS:
        raise SpecError(
            f"{spec.name}: the weights leave room for {max(0, affordable)} tokens of conversation: raise pod.resources.limits, or write the file "
            "in fewer bits (gguf.type)"
        )
    return min(affordable, max(file.context, USUAL_POSITIONS * rows), file.context * rows)


def _weights(path: Path) -> int:
    """Bytes of the file, with its further parts."""
    if gguf_file.FIRST_PART.search(path.name):
        stem = gguf_file.PART.sub("", path.name)
        return sum(part.stat().st_size for part in path.parent.glob(f"{stem}-*.gguf"))
    return path.stat().st_size


def _threads() -> int:
    import torch

    return torch.get_num_threads()


def _must_cut_alike(spec: ModelSpec, file: GGUFFile, held: Context, words: PreTrainedTokenizerBase) -> None:
    """Raises SpecError where llama.cpp cuts texts otherwise than the tokenizer that was made of the file: answers would begin after other
    tokens than the model was trained on."""
    for probe in PROBES:
        ours, theirs = words(probe, add_special_tokens=False)["input_ids"], held.tokens(probe)
        if ours != theirs:
            raise SpecError(
                f"{spec.name}: llama.cpp cuts {probe!r} into {len(theirs)} tokens, and the vocabulary of {file.path.name} read here into "
                f"{len(ours)}: run llama.cpp's own server, and name it with engine External"
            )
