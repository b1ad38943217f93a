"""Parts of the page that Gradio has no component for: the header, and the list of conversations.

They are functions: for a subclass of a component Gradio writes a stub file beside its source.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr

from workloads.serving.page import translations
from workloads.serving.page.conversation import Conversation
from workloads.serving.page.theme import STATIC


def _script(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")


def header(title: str, look: Callable[..., Awaitable[dict[str, Any]]], *, has_login: bool) -> gr.HTML:
    """Title, state of the model, language, shade, and how to leave where there is a login. `found` fires when the models are others than before, with the user's `chosen` settings."""
    return gr.HTML(
        elem_id="header",
        html_template='<header><h1 class="title"></h1><p class="state" role="status"><span class="words"></span></p>'
        '<div class="switches"><button class="language"></button><button class="shade">◐</button><button class="leave" hidden></button></div></header>',
        js_on_load=_script("header.js"),
        server_functions=[look],
        apply_default_css=False,
        title=title,
        hasLogin=has_login,
        words=translations.CONDITIONS,
    )


def shelf() -> gr.HTML:
    """The conversations that this browser keeps. Its value is the open one; `opened` fires with the one to show, `emptied` when the open
    one was deleted."""
    return gr.HTML(
        Conversation().to_browser(),
        elem_id="shelf",
        html_template='<ul class="shelf"></ul>',
        js_on_load=_script("shelf.js"),
        apply_default_css=False,
        words=translations.CONDITIONS,
    )
