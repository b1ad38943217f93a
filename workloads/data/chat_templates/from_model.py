"""The chat template that a model's tokenizer carries, with generation markers where another source knows them."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial

from transformers import PreTrainedTokenizerBase

from workloads.data.chat_templates.generation_prompt import PROBES
from workloads.data.chat_templates.named import NAMED, named_source
from workloads.data.chat_templates.rendering import Span, render
from workloads.data.chat_templates.source import tool_role
from workloads.errors import SpecError


def own_source(tokenizer: PreTrainedTokenizerBase, train_on_prompt: bool) -> str:
    """The Jinja of the model's own template; marked by TRL or as the named template that writes the same, unless every token is trained.

    Raises SpecError where the tokenizer carries none.
    """
    from trl.chat_template_utils import get_training_chat_template

    carried = tokenizer.chat_template
    source: str | None = carried.get("default") if isinstance(carried, dict) else carried
    if source is None:
        raise SpecError(
            "template: FromModel, but the model's tokenizer has no chat template: set template to HumanAssistant "
            "(or Llama2, Llama3, ChatML, whichever the model was trained with), or give a templateFile"
        )
    if train_on_prompt:
        return source
    masked: str | None
    try:
        masked = get_training_chat_template(tokenizer)
    except ValueError:  # not one that TRL knows
        # A named template knows no tools: a model's own that does is taken as it is.
        masked = None if tool_role(source) else _named_source_of_same_text(source, tokenizer)
    return masked or source


def _named_source_of_same_text(source: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The named template that writes what the model's own does: its marks hold for the model's then.

    A system prompt of the model's own, written where a conversation has none, is put before the named template.
    """
    own = partial(render, source, tokenizer.special_tokens_map)
    for name in NAMED:
        try:
            named = named_source(name, tokenizer)
            for candidate in (named, _default_system(own, named, tokenizer) + named):
                other = partial(render, candidate, tokenizer.special_tokens_map)
                if all(own(probe, asked)[0] == other(probe, asked)[0] for probe in PROBES for asked in (False, True)):
                    return candidate
        except (SpecError, ValueError):  # it cannot be written with this tokenizer, or refuses a probe
            continue
    return None


def _default_system(own: Callable[..., tuple[str, list[Span]]], named: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Jinja that adds the system prompt which the model's template writes by itself, as far as ``named`` tells where it stands."""
    question = [{"role": "user", "content": "甲"}]
    system = [{"role": "system", "content": "乙"}, *question]
    before, _, after = render(named, tokenizer.special_tokens_map, system)[0].partition("乙")
    text = own(question)[0]
    if len(text) < len(before + after) or not (text.startswith(before) and text.endswith(after)):
        return ""
    prompt = text[len(before) : len(text) - len(after)]
    return (
        "{%- if messages[0].role != 'system' %}"
        f"{{%- set messages = [{{'role': 'system', 'content': {json.dumps(prompt, ensure_ascii=False)}}}] + messages %}}"
        "{%- endif %}\n"
    )
