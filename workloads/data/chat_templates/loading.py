"""The template that a spec asks for: one of ours by name, the model's own, or a file; one source per format, for training, calibration
and chat."""

from __future__ import annotations

import json
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from workloads.data.chat_templates.from_model import own_source
from workloads.data.chat_templates.generation_prompt import PROBES, consistent, is_answering
from workloads.data.chat_templates.named import named_source
from workloads.data.chat_templates.source import DAY, pinned
from workloads.data.chat_templates.template import Template
from workloads.errors import SpecError


def load(
    choice: str,
    template_file: Path | None,
    tokenizer: PreTrainedTokenizerBase,
    *,
    train_on_prompt: bool = False,
    mend: bool = False,
    live_clock: bool = False,
) -> Template:
    """The template that a spec asks for. Raises SpecError where the tokenizer cannot carry it, or the loss cannot be masked.

    ``train_on_prompt`` accepts a template without generation markers, as every token is trained then. ``mend``, for a model that is going to
    be trained, makes prompts the beginning of what is trained, or refuses. ``live_clock`` lets it read the date; else that is the same
    every day, and so are the texts.
    """
    name, source = _chosen(choice, template_file, tokenizer, train_on_prompt)
    steady = source if live_clock else pinned(source)
    notes = () if steady == source else (f"it reads the clock: {DAY:%d %B %Y} stands for today",)
    template = Template(name, steady, tokenizer, ends=_declared_ends(tokenizer), notes=notes)
    return _checked(template, template_file is not None, train_on_prompt, mend)


def _chosen(
    choice: str, template_file: Path | None, tokenizer: PreTrainedTokenizerBase, train_on_prompt: bool
) -> tuple[str, str]:
    """How the template is called in messages, and its Jinja."""
    if template_file is not None:
        return "templateFile", _read(template_file)
    if choice == "FromModel":
        return choice, own_source(tokenizer, train_on_prompt)
    return choice, named_source(choice, tokenizer)


def _checked(template: Template, is_file: bool, train_on_prompt: bool, mend: bool) -> Template:
    tokenizer = template.tokenizer
    if is_file:
        way_out = "put {% generation %} and {% endgeneration %} around the assistant's text and its end mark"
    else:
        way_out = (
            "name a template that the model knows (HumanAssistant, Llama2, Llama3, ChatML), give a templateFile with "
            "{% generation %} around the assistant's text, or set dataset.trainOnPrompt"
        )
    try:
        template.encode(PROBES[0])
    except ValueError as error:
        raise SpecError(
            f"template: {template.name} cannot write a conversation ({error}): mend it, or name another template"
        ) from error
    if not template.marks_answers:
        template = _answering(template, mend)
    template = consistent(template) if mend else template
    if train_on_prompt:
        return template
    if not template.marks_answers:
        raise SpecError(
            f"template: {template.name} does not mark the assistant's text, so the loss cannot be limited to it: {way_out}"
        )
    example = template.encode(PROBES[0])
    if not template.trains_end:
        raise SpecError(
            f"template: {template.name} leaves the assistant's end mark out of {{% generation %}}, so answers would never stop: {way_out}"
        )
    if not set(template.stop_ids) & set(example.ids[example.loss_mask].tolist()):
        raise SpecError(
            f"template: {template.name} ends an answer with {tokenizer.decode(template.stop_ids[:1])}, which the model's tokenizer reads as "
            'ordinary text: set "normalized": false for it among added_tokens in tokenizer.json'
        )
    return template


def _answering(template: Template, mend: bool) -> Template:
    """A template without generation markers as one whose answers follow its prompts, where they do."""
    found = template.changed(template.source, "", after_prompt=True)
    if mend and not is_answering(found):
        found = consistent(template)
        found = found.changed(found.source, "", after_prompt=True)
    return found if is_answering(found) else template


def _declared_ends(tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """What ends an answer as the model beside the tokenizer says: of several, a template writes only some."""
    path = Path(tokenizer.name_or_path or "") / "generation_config.json"
    try:
        declared = json.loads(path.read_text(encoding="utf-8")).get("eos_token_id")
    except (OSError, ValueError):  # it is alone; what is wrong with a model's files is told by whoever loads them
        return ()
    return tuple(each for each in (declared if isinstance(declared, list) else [declared]) if isinstance(each, int))


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"templateFile: {path} is not a text file in UTF-8 ({error}): check the uri") from error
