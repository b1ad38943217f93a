"""A conversation rendered by a Jinja template, with the stretches that the assistant says.

A template is Jinja, as tokenizers carry it, with ``{% generation %}`` around what the assistant says: that text, and nothing else, is
trained. The copy saved with a model has no such markers, which other Jinja implementations do not know.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Mapping, Sequence
from typing import Any, cast

from jinja2 import TemplateError, TemplateSyntaxError
from transformers.utils.chat_template_utils import render_jinja_template

Message = Mapping[str, Any]
"""``role`` (system, user, assistant or tool) and ``content``, and what else of FIELDS it has."""
Tools = Sequence[Mapping[str, Any]]
"""Those that a conversation may call, in OpenAI's form."""
FIELDS = ("role", "content", "reasoning_content", "tool_calls", "tool_call_id", "name")
"""Of a message, what templates read."""
Span = tuple[int, int]
"""Start, and one past the end: in characters or tokens."""

GENERATION = re.compile(r"{%([-+]?)\s*(end)?generation\s*([-+]?)%}")
RENDERING_LOCK = threading.Lock()
"""transformers keeps the generation marks of a rendering in the compiled template, which all threads share."""


def without_generation(source: str) -> str:
    """The same template without generation markers. An ``if true`` stands in for each, so that white space is trimmed as before."""
    return GENERATION.sub(lambda tag: f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}", source)


def render(
    source: str,
    variables: Mapping[str, str],
    messages: Sequence[Message],
    generation_prompt: bool = False,
    tools: Tools = (),
) -> tuple[str, list[Span]]:
    """Text, and the spans between generation markers, in characters. ``variables`` are the tokenizer's special tokens.

    Raises ValueError with the template's reason.
    """
    plain = [{name: message[name] for name in FIELDS if name in message} for message in messages]
    try:
        with RENDERING_LOCK:
            texts, spans = cast(
                "tuple[list[str], list[list[Span]]]",  # transformers declares a text
                render_jinja_template(
                    conversations=[plain],
                    tools=[dict(tool) for tool in tools] or None,
                    chat_template=source,
                    return_assistant_tokens_mask=GENERATION.search(source) is not None,
                    add_generation_prompt=generation_prompt,
                    **dict[str, Any](variables),
                ),
            )
    except TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.message}") from error
    except (TemplateError, TypeError, LookupError, AttributeError) as error:
        # It joins a text and a special token that the tokenizer lacks, or takes a part of what has none.
        raise ValueError(str(error)) from error
    return texts[0], list(spans[0]) if spans else []
