"""The page: its layout, and what happens when something is pressed.

Everything that a user has lives in their browser: the open conversation is the value of the shelf, settings are the values of the
components. The server keeps nothing but the answers that are being written.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import gradio as gr

from workloads.serving.page import markup, translations
from workloads.serving.page.answering import Inquiry, Run
from workloads.serving.page.components import header, shelf
from workloads.serving.page.conversation import Answer, Conversation, Turn
from workloads.serving.page.models import Controls, EngineStatus, Models
from workloads.serving.page.settings import Settings
from workloads.serving.page.translations import Language

PANES = 2
"""Models side by side; more would leave none enough room."""
LONGEST_ANSWER = 4096
"""End of the slider where the model does not tell its context."""
FOCUS = "() => { if (innerWidth > 640) document.querySelector('#question textarea').focus(); }"
"""On a phone the keyboard would cover the page."""
CURSOR = " ▍"

Updates = dict[gr.components.Component, Any]


def build(settings: Settings, models: Models) -> gr.Blocks:
    """The page, to be mounted. Its texts need ``translations.TRANSLATIONS`` given to Gradio as translations."""
    return _Page(settings, models).blocks


class _Page:
    def __init__(self, settings: Settings, models: Models) -> None:
        self._settings, self._models = settings, models
        self._runs: dict[str | None, Run] = {}
        """Of each open page the answers that are being written, by its session."""
        self.blocks: gr.Blocks = gr.Blocks(title=settings.title, analytics_enabled=False, fill_height=True)
        with self.blocks:
            self._lay_out()
            self._wire()

    def _lay_out(self) -> None:
        text = gr.I18n(**translations.TRANSLATIONS)
        with gr.Sidebar(label=text("conversations"), open=False, width=320):
            self.new_aside = gr.Button(text("new"), variant="secondary", elem_id="new-aside")
            self.shelf = shelf()
            with gr.Accordion(text("settings"), open=True):
                self._lay_out_settings(text)
        self.header = header(self._settings.title, self._looking(), has_login=self._settings.login is not None)
        with gr.Row(equal_height=True, elem_id="panes"):
            self.panes = [
                gr.Chatbot(
                    elem_id=f"pane-{number}",
                    elem_classes="pane",
                    show_label=False,
                    height="var(--pane-height)",
                    visible=number == 0,
                    latex_delimiters=markup.FORMULAS,
                    buttons=["copy"],
                    feedback_options=None,
                    allow_tags=False,
                    layout="bubble",
                )
                for number in range(PANES)
            ]
        with gr.Row(elem_id="ask"):
            self.question = gr.Textbox(
                label=text("question"),
                show_label=False,
                container=False,
                placeholder=text("question_hint"),
                lines=1,
                max_lines=10,
                interactive=False,  # until the conversation that the browser kept is there: it would come over the first answer
                scale=8,
                elem_id="question",
            )
            self.send = gr.Button(text("send"), variant="primary", scale=1, min_width=88, elem_id="send")
            self.stop = gr.Button(text("stop"), variant="stop", scale=1, min_width=88, visible=False, elem_id="stop")
        with gr.Row(elem_id="after"):
            self.again = gr.Button(text("again"), size="sm", elem_id="again")
            self.new = gr.Button(text("new"), size="sm", elem_id="new")

    def _lay_out_settings(self, text: Callable[[str], Any]) -> None:
        """They can be changed once the model's own are known, which would else come over what a user has set."""
        self.chosen_models = gr.Dropdown(
            label=text("models"),
            info=text("models_info"),
            multiselect=True,
            max_choices=PANES,
            visible=False,
            elem_id="models",
        )
        self.system = gr.Textbox(
            self._settings.system_prompt,
            label=text("system"),
            placeholder=text("system_hint"),
            lines=2,
            max_lines=8,
            elem_id="system",
            interactive=False,
        )

        def slider(name: str, low: float, high: float, step: float) -> gr.Slider:
            value = getattr(Controls(), name) if name != "history_turns" else self._settings.history_turns
            return gr.Slider(
                low,
                high,
                value,
                step=step,
                label=text(name),
                info=text(f"{name}_info"),
                elem_id=name,
                buttons=[],
                interactive=False,
            )

        self.sliders = {
            "temperature": slider("temperature", 0, 1, 0.05),
            "top_p": slider("top_p", 0.05, 1, 0.05),
            "top_k": slider("top_k", 0, 200, 1),
            "repetition_penalty": slider("repetition_penalty", 1, 2, 0.05),
            "max_new_tokens": slider("max_new_tokens", 1, LONGEST_ANSWER, 1),
            "history_turns": slider("history_turns", 0, 100, 1),
        }
        self.reset = gr.Button(text("reset"), size="sm", elem_id="reset")

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        settings = [self.chosen_models, self.system, *self.sliders.values()]
        buttons = [self.send, self.stop, self.again]
        answers = [self.shelf, *self.panes, self.question, *buttons]
        asking = gr.on(
            [self.send.click, self.question.submit], self._ask, [self.question, self.shelf, *settings], answers, **quiet
        )
        again = self.again.click(self._ask_again, [self.shelf, *settings], answers, **quiet)
        for event in (asking, again):
            event.then(self._rest, None, buttons, **quiet)
        self.stop.click(self._stop, queue=False, **quiet)
        self.blocks.unload(self._stop)  # Gradio itself would notice at the next word, which a long queue keeps away
        leaving = {**quiet, "cancels": [asking, again]}
        for begins in (self.new.click, self.new_aside.click, self.shelf.emptied):
            begins(self._begin, None, answers, **leaving).then(None, js=FOCUS)
        self.shelf.opened(self._open, [self.chosen_models], answers, **leaving)
        self.shelf.restored(self._open, [self.chosen_models], answers, **quiet).then(None, js=FOCUS)
        self.header.found(self._offer, None, [*settings, *self.panes], queue=False, **quiet)
        self.reset.click(None, js="() => { alpaca.forget(); }").then(
            self._offer_defaults, None, [*settings, *self.panes], queue=False, **quiet
        )
        kept: dict[str, Any] = {"models": self.chosen_models, "system": self.system, **self.sliders}
        for name, component in kept.items():
            component.input(None, component, js=f"(value) => {{ alpaca.choose('{name}', value); }}")
        # Gradio tells of a text that was pasted at the next key only.
        self.system.blur(None, self.system, js="(value) => { alpaca.choose('system', value); }")
        self.chosen_models.input(self._show, [self.shelf, self.chosen_models], self.panes, queue=False, **quiet)

    def _looking(self) -> Callable[[Any], Awaitable[dict[str, Any]]]:
        """What the header asks for. Gradio marks it as one of its own, which a method would not let it."""

        async def look(nothing: Any) -> dict[str, Any]:
            status = await self._models.look()
            names = [model.name for model in status.models]
            defaults = [model.defaults.model_dump() for model in status.models]
            return {
                "condition": status.condition,
                "detail": status.detail,
                "waiting": status.waiting,
                "models": names,
                "signature": repr((names, defaults)),
            }

        return look

    async def _ask(
        self, request: gr.Request, question: str, shelf: Any, chosen: list[str], system: str, *sliders: float
    ) -> AsyncIterator[Updates]:
        conversation = Conversation.read(shelf)
        if not question.strip() or request.session_hash in self._runs:  # Enter, while an answer is being written
            yield {self.shelf: gr.skip()}
            return
        async for updates in self._answer(conversation.asked(question), chosen, system, sliders, request):
            yield updates

    async def _ask_again(
        self, request: gr.Request, shelf: Any, chosen: list[str], system: str, *sliders: float
    ) -> AsyncIterator[Updates]:
        conversation = Conversation.read(shelf)
        if not conversation.turns or request.session_hash in self._runs:
            yield {self.shelf: gr.skip()}
            return
        async for updates in self._answer(conversation.without_last_answer(), chosen, system, sliders, request):
            yield updates

    async def _answer(
        self,
        conversation: Conversation,
        chosen: list[str],
        system: str,
        sliders: tuple[float, ...],
        request: gr.Request,
    ) -> AsyncIterator[Updates]:
        """The last question of ``conversation`` put to the chosen models, with the answers as they grow."""
        language = preferred_language(request)
        given = dict(zip(self.sliders, sliders, strict=True))
        history_turns = int(given.pop("history_turns"))
        controls = Controls(**given)
        status = await self._models.look()
        names = self._names(status, chosen)
        begun: Updates = {
            self.question: "",
            self.send: gr.update(visible=False),
            self.stop: gr.update(visible=True),
            self.again: gr.update(interactive=False),
        }
        asked = [model for name in names if (model := status.find(name))]
        if not asked:
            problem = status.condition if status.condition in translations.PROBLEMS["en"] else "missing"
            failed = [
                Answer(model=name, state="failed", problem=problem, detail=status.detail) for name in names or [""]
            ]
            yield {self.question: "", **self._pane_updates(conversation.answered(failed), names, language)}
            return
        inquiries = [
            Inquiry(
                model,
                conversation.messages(model.name, history_turns, _system(system, model.system_prompt)),
                controls,
                self._settings.is_ours,
            )
            for model in asked
        ]
        run = self._runs[request.session_hash] = Run(inquiries)
        yield {**begun, **self._pane_updates(conversation.answered(run.answers), names, language)}
        try:
            async for answers in run.growing():
                yield self._pane_updates(conversation.answered(answers), names, language)
        finally:
            if self._runs.get(request.session_hash) is run:
                del self._runs[request.session_hash]

    def _stop(self, request: gr.Request) -> None:
        if run := self._runs.get(request.session_hash):
            run.stop()

    def _rest(self) -> Updates:
        return {
            self.send: gr.update(visible=True),
            self.stop: gr.update(visible=False),
            self.again: gr.update(interactive=True),
        }

    def _begin(self, request: gr.Request) -> Updates:
        """An empty conversation."""
        return {
            self.shelf: Conversation().to_browser(),
            **{pane: gr.update(value=[], placeholder=_welcome(preferred_language(request))) for pane in self.panes},
            self.question: "",
            **self._rest(),
        }

    async def _open(self, event: gr.EventData, request: gr.Request, chosen: list[str]) -> Updates:
        """The conversation that the browser has kept, or an empty one."""
        conversation = Conversation.read(event._data.get("conversation"))
        chosen = chosen or event._data.get("chosen", {}).get("models") or []
        updates = self._pane_updates(
            conversation, self._names(await self._models.look(), chosen), preferred_language(request)
        )
        return {
            **{
                pane: gr.update(value=updates[pane], placeholder=_welcome(preferred_language(request)))
                for pane in self.panes
            },
            self.shelf: updates[self.shelf],
            self.question: gr.update(interactive=True),
            **self._rest(),
        }

    async def _show(self, request: gr.Request, shelf: Any, chosen: list[str]) -> Updates:
        """The conversation with the answers of other models."""
        names = self._names(await self._models.look(), chosen)
        updates = self._pane_updates(Conversation.read(shelf), names, preferred_language(request))
        return {
            pane: gr.update(value=updates[pane], **self._frame(names, number)) for number, pane in enumerate(self.panes)
        }

    async def _offer(self, event: gr.EventData) -> Updates:
        """The models that there are, and their settings where the user chose none. The panes' content is left alone: the conversation
        may be on its way from the browser at the same time."""
        return await self._offered(event._data.get("chosen") or {})

    async def _offer_defaults(self) -> Updates:
        return await self._offered({})

    async def _offered(self, chosen: dict[str, Any]) -> Updates:
        status = await self._models.look()
        names = self._names(status, chosen.get("models"))
        first = status.find(names[0]) if names else None
        defaults = (first.defaults if first else Controls()).model_dump()
        defaults["history_turns"] = self._settings.history_turns
        updates: Updates = {
            self.chosen_models: gr.update(
                choices=[model.name for model in status.models], value=names, visible=len(status.models) > 1
            ),
            self.system: gr.update(
                value=chosen.get("system", self._settings.system_prompt or (first.system_prompt if first else "")),
                interactive=True,
            ),
        }
        for name, slider in self.sliders.items():
            longest = (first.context_length if first else None) or LONGEST_ANSWER
            highest = longest if name == "max_new_tokens" else slider.maximum
            updates[slider] = gr.update(
                value=chosen.get(name, defaults[name]), maximum=max(highest, defaults[name]), interactive=True
            )
        return {**updates, **{pane: gr.update(**self._frame(names, number)) for number, pane in enumerate(self.panes)}}

    def _names(self, status: EngineStatus, chosen: Any) -> list[str]:
        """Of the chosen models those that there are, at least one if there is any."""
        known = [model.name for model in status.models]
        wanted = [name for name in chosen or [] if name in known]
        return (wanted or known[: PANES if self._settings.compares else 1])[:PANES]

    def _pane_updates(self, conversation: Conversation, names: list[str], language: Language) -> Updates:
        panes: Updates = {
            pane: _messages(conversation, names[number : number + 1], number, language)
            for number, pane in enumerate(self.panes)
        }
        return {self.shelf: conversation.to_browser(), **panes}

    def _frame(self, names: list[str], number: int) -> dict[str, Any]:
        """Whether there is a pane, and whose it is."""
        return {
            "visible": number < max(1, len(names)),
            "label": names[number] if number < len(names) else None,
            "show_label": len(names) > 1,
        }


def preferred_language(request: gr.Request) -> Language:
    """The language that the user chose, or that the browser prefers."""
    chosen = request.cookies.get("alpaca-language")
    return translations.language(chosen or request.headers.get("accept-language", ""))


def _welcome(language: Language) -> str:
    return f"# 🦙\n\n{translations.NOTES[language]['welcome']}"


def _system(written: str, default: str) -> str | None:
    """The system prompt to send; None leaves it to the engine. One that was cleared is sent empty, for the engine would put its own."""
    if written.strip():
        return written
    return "" if default else None


def _messages(conversation: Conversation, name: list[str], number: int, language: Language) -> list[dict[str, str]]:
    """A pane: each question, with the answer of the model called ``name``, or else the one that came as number ``number``."""
    messages = []
    for turn in conversation.turns:
        messages.append({"role": "user", "content": markup.question(turn.question)})
        if answer := _of(turn, name, number):
            messages.append({"role": "assistant", "content": _text(answer, language)})
    return messages


def _of(turn: Turn, name: list[str], number: int) -> Answer | None:
    own = [answer for answer in turn.answers if answer.model in name]
    return next(iter(own or turn.answers[number : number + 1]), None)


def _text(answer: Answer, language: Language) -> str:
    notes = translations.NOTES[language]
    remarks = []
    if answer.dropped:
        remarks.append(notes["dropped"].format(count=answer.dropped))
    if answer.state in ("stopped", "cut"):
        remarks.append(notes[answer.state])
    if answer.state == "failed":
        remarks.append(translations.PROBLEMS[language].get(answer.problem, answer.problem))
        remarks += [markup.question(answer.detail)] if answer.detail else []
    text = markup.answer(answer.text.strip("\n"))
    if answer.state == "writing":
        return text + CURSOR
    if not text.strip() and not remarks:
        text = notes["empty"]
    return "\n\n".join([*([text] if text.strip() else []), *(f"> {line}" for line in remarks)])
