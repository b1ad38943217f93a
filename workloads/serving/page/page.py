"""The page: its layout, and what its parts have to do with each other.

Everything happens in the browser, by the scripts in static/: conversations and settings are kept there, and questions are asked from
there (asking.py). Of Gradio the page has its components; no press of a button waits for a server.
"""

from __future__ import annotations

import hashlib
from collections.abc import Awaitable, Callable
from typing import Any

import gradio as gr

from workloads.serving.page import theme, translations
from workloads.serving.page.components import ask, header, shelf
from workloads.serving.page.conversation import MODELS
from workloads.serving.page.models import Controls, Models
from workloads.serving.page.settings import Settings

LONGEST_ANSWER = 4096
"""End of the slider where the model does not tell its context."""
SLIDERS = {
    "temperature": (0, 1, 0.05), "top_p": (0.05, 1, 0.05), "top_k": (0, 200, 1), "repetition_penalty": (1, 2, 0.05),
    "max_new_tokens": (1, LONGEST_ANSWER, 1), "history_turns": (0, 100, 1),
}  # fmt: skip
"""Lowest, highest and step of each setting, but where a model's own is higher."""
FORMULAS: list[dict[str, str | bool]] = [
    {"left": "$$", "right": "$$", "display": True},
    {"left": r"\[", "right": r"\]", "display": True},
    {"left": r"\(", "right": r"\)", "display": False},
]
"""A single dollar is money as well: markup.js tells it from a formula."""


def build(settings: Settings, models: Models) -> gr.Blocks:
    """The page, to be mounted. Its texts need ``translations.TRANSLATIONS`` given to Gradio as translations."""
    return _Page(settings, models).blocks


class _Page:
    def __init__(self, settings: Settings, models: Models) -> None:
        self._settings = settings
        self.blocks: gr.Blocks = gr.Blocks(title=settings.title, analytics_enabled=False, fill_height=True)
        with self.blocks:
            self._lay_out(_looking(models))
            self._wire()

    def _lay_out(self, look: Callable[[Any], Awaitable[dict[str, Any]]]) -> None:
        text = gr.I18n(**translations.TRANSLATIONS)
        self.header = header(self._settings, look, {name: highest for name, (_, highest, _) in SLIDERS.items()})
        with gr.Sidebar(label=text("conversations"), open=False, width=300):
            self.shelf = shelf()
        with gr.Sidebar(label=text("settings"), open=False, width=340, position="right"):
            self._lay_out_settings(text)
        with gr.Row(equal_height=True, elem_id="panes"):
            self.panes = [
                gr.Chatbot(
                    elem_id=f"pane-{number}",
                    elem_classes="pane",
                    show_label=False,
                    height="100%",
                    visible=number == 0,
                    latex_delimiters=FORMULAS,
                    buttons=["copy"],
                    allow_tags=False,
                    layout="bubble",
                )
                for number in range(MODELS)
            ]
        with gr.Column(elem_id="composer"):
            self.attached = ask()
            with gr.Row(elem_id="line"):
                self.clip = gr.Button("📎", elem_id="clip", min_width=44, scale=0)
                self.question = gr.Textbox(
                    label=text("question"),
                    show_label=False,
                    container=False,
                    placeholder=text("question_hint"),
                    lines=1,
                    max_lines=10,
                    scale=8,
                    elem_id="question",
                )
                self.send = gr.Button(text("send"), variant="primary", scale=0, min_width=72, elem_id="send")
                self.stop = gr.Button(text("stop"), variant="secondary", scale=0, min_width=72, elem_id="stop")

    def _lay_out_settings(self, text: Callable[[str], Any]) -> None:
        """They can be changed once the model's own are known, which would else come over what a user has set."""
        self.system = gr.Textbox(
            self._settings.system_prompt,
            label=text("system"),
            placeholder=text("system_hint"),
            lines=2,
            max_lines=8,
            elem_id="system",
            interactive=False,
        )
        values = {**Controls().model_dump(), "history_turns": self._settings.history_turns}
        self.sliders = {
            name: gr.Slider(
                lowest,
                highest,
                values[name],
                step=step,
                label=text(name),
                info=text(f"{name}_info"),
                elem_id=name,
                buttons=[],
                interactive=False,
            )
            for name, (lowest, highest, step) in SLIDERS.items()
        }
        self.reset = gr.Button(text("reset"), size="sm", elem_id="reset")

    def _wire(self) -> None:
        offered = [self.system, *self.sliders.values(), *self.panes]
        always: dict[str, Any] = {"trigger_mode": "multiple", "show_progress": "hidden", "api_visibility": "private"}
        gr.on(
            [self.send.click, self.question.submit],
            None,
            self.question,
            self.question,
            js="(text) => alpaca.send(text)",
            **always,
        )
        self.stop.click(None, js="() => { alpaca.talk.stop(); }", **always)
        self.clip.click(None, js="() => { alpaca.pick(); }", **always)
        self.attached.filled(None, None, self.question, js="() => alpaca.draft", **always)
        self.shelf.grown(None, None, self.panes, js="() => alpaca.talk.panes()", **always)
        self.header.found(None, None, offered, js="() => alpaca.offered()", **always)
        self.reset.click(None, None, offered, js="() => { alpaca.talk.forget(); return alpaca.offered(); }", **always)
        for pane in self.panes:
            pane.retry(None, js="() => { alpaca.talk.again(); }", **always)
            pane.option_select(None, js="() => { alpaca.talk.goOn(); }", **always)
        chosen: dict[str, gr.Textbox | gr.Slider] = {"system": self.system, **self.sliders}
        for name, component in chosen.items():
            component.input(None, component, js=f"(value) => {{ alpaca.talk.choose('{name}', value); }}", **always)
        # Gradio tells of a text that was pasted at the next key only.
        self.system.blur(None, self.system, js="(value) => { alpaca.talk.choose('system', value); }", **always)


def _looking(models: Models) -> Callable[[Any], Awaitable[dict[str, Any]]]:
    """What the header asks for. Gradio marks it as one of its own, which a method would not let it."""
    version = _version()

    async def look(nothing: Any) -> dict[str, Any]:
        status = await models.look()
        return {
            "condition": status.condition,
            "detail": status.detail,
            "waiting": status.waiting,
            "models": [
                {
                    "name": model.name,
                    "defaults": model.defaults.model_dump(),
                    "contextLength": model.context_length,
                    "systemPrompt": model.system_prompt,
                }
                for model in status.models
            ],
            "version": version,
        }

    return look


def _version() -> str:
    """The same in every replica of one version."""
    files = sorted(theme.STATIC.iterdir())
    return hashlib.sha256(b"".join([gr.__version__.encode(), *(file.read_bytes() for file in files)])).hexdigest()[:12]
