"""Parts of the page that Gradio has no component for: the header, the list of conversations, files that go along with a question.

They are functions: for a subclass of a component Gradio writes a stub file beside its source.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr

from workloads.serving.page import translations
from workloads.serving.page.settings import Settings
from workloads.serving.page.theme import STATIC


def _part(name: str, **properties: Any) -> gr.HTML:
    """The part whose template and script are called so."""
    return gr.HTML(
        elem_id=name,
        html_template=(STATIC / f"{name}.html").read_text(encoding="utf-8"),
        js_on_load=(STATIC / f"{name}.js").read_text(encoding="utf-8"),
        apply_default_css=False,
        words=translations.SPOKEN,
        **properties,
    )


def header(settings: Settings, look: Callable[..., Awaitable[dict[str, Any]]], longest: dict[str, float]) -> gr.HTML:
    """Title, models, their state, language, shade, and how to leave where there is a login. `found` fires when settings are to be shown
    that are others than before."""
    return _part(
        "header",
        server_functions=[look],
        title=settings.title,
        hasLogin=settings.login is not None,
        historyTurns=settings.history_turns,
        compares=settings.compares,
        system=settings.system_prompt,
        votes=settings.votes is not None,
        suggestions=translations.SUGGESTIONS,
        sliders=longest,
    )


def shelf() -> gr.HTML:
    """The conversations that this browser keeps. `grown` fires when the open one is to be shown anew."""
    return _part("shelf")


def ask() -> gr.HTML:
    """Files that go along with the question, and which one is put otherwise. `filled` fires with a text for the question."""
    return _part("ask")
