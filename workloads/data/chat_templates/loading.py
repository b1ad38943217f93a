"""The template that a spec asks for: one of ours by name, the model's own, or a file; one source per format, for training, calibration
and chat."""

from __future__ import annotations

from pathlib import Path

from transformers import PreTrainedTokenizerBase

from workloads.data.chat_templates.from_model import PROBES, from_model
from workloads.data.chat_templates.named import named_source
from workloads.data.chat_templates.rendering import GENERATION
from workloads.data.chat_templates.template import Template
from workloads.errors import SpecError


def load(
    choice: str, template_file: Path | None, tokenizer: PreTrainedTokenizerBase, *, train_on_prompt: bool = False
) -> Template:
    """The template that a spec asks for. Raises SpecError where the tokenizer cannot carry it, or the loss cannot be masked.

    ``train_on_prompt`` accepts a template without generation markers, as every token is trained then.
    """
    if template_file is not None:
        template = Template("templateFile", _read(template_file), tokenizer)
        way_out = "put {% generation %} and {% endgeneration %} around the assistant's text and its end mark"
    elif choice == "FromModel":
        template = from_model(tokenizer, train_on_prompt)
        way_out = (
            "name a template that the model knows (HumanAssistant, Llama2, Llama3, ChatML), give a templateFile with "
            "{% generation %} around the assistant's text, or set dataset.trainOnPrompt"
        )
    else:
        template, way_out = Template(choice, named_source(choice, tokenizer), tokenizer), ""
    try:
        example = template.encode(PROBES[0])
    except ValueError as error:
        raise SpecError(
            f"template: {template.name} cannot write a conversation ({error}): mend it, or name another template"
        ) from error
    if train_on_prompt:
        return template
    if GENERATION.search(template.source) is None:
        raise SpecError(
            f"template: {template.name} does not mark the assistant's text, so the loss cannot be limited to it: {way_out}"
        )
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


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SpecError(f"templateFile: {path} is not a text file in UTF-8 ({error}): check the uri") from error
