"""How one request's conversation becomes a prompt, and what its answer may say: tools, their choice, the format of the answer, a beginning
that is gone on with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

from workloads.data.chat_templates.rendering import Message, Tools
from workloads.data.chat_templates.template import Template
from workloads.serving.engine import schema
from workloads.serving.engine.schema import ChatRequest
from workloads.serving.engine.text import Pieces
from workloads.serving.engine.tools import call_format, prompt
from workloads.serving.engine.tools.call_format import EXPLAINED, CallFormat
from workloads.serving.engine.tools.calls import CallReader
from workloads.serving.engine.tools.constraint import Constraint, Vocabulary
from workloads.serving.engine.tools.grammar import Calls, GrammarError, of_arguments, of_value
from workloads.serving.engine.tools.schema import ResponseFormat
from workloads.serving.engine.tools.trial import EndlessGrammarError
from workloads.serving.refusal import Refusal, cut

ANY_OBJECT: dict[str, Any] = {"type": "object"}


class Language:
    """What a model's template and vocabulary say of tools and grammars."""

    def __init__(self, template: Template, pieces: Pieces, control: Collection[int], ends: Collection[int]) -> None:
        self.template = template
        self.vocabulary = Vocabulary(pieces, control, ends)
        own = call_format.of_template(template)
        self.has_tools = own is not None
        self.form: CallFormat = own or EXPLAINED
        marks = "".join((self.form.opening, self.form.before, self.form.between, self.form.after, self.form.closing))
        self.tokens: Mapping[str, int] = {
            mark: number for mark, number in template.hidden.items() if own and mark in marks
        }
        """Control tokens that calls are written with: of an answer with tools they are no part to be hidden."""

    def prompt(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        """Ids that the model goes on from. Raises ValueError where the template cannot write the conversation."""
        return self.template.prompt(*self.in_own_words(messages, tools))

    def in_own_words(self, messages: Sequence[Message], tools: Tools) -> tuple[Sequence[Message], Tools]:
        """What the template is given: messages, and the tools that it writes itself."""
        if self.has_tools:
            return messages, tools
        if tools:
            messages = prompt.introduced(messages, tools, has_system=self.has_system)
        return prompt.in_words(messages), ()

    @cached_property
    def has_system(self) -> bool:
        """Whether the format has a place for a system prompt."""
        probe = [{"role": "system", "content": "规"}, {"role": "user", "content": "问"}]
        try:
            return "规" in self.template.render(probe)
        except ValueError:
            return False


@dataclass(frozen=True)
class Dialect:
    """One request's."""

    language: Language
    functions: tuple[Mapping[str, Any], ...]
    """Those that may be called, of OpenAI's form."""
    tools: Tools
    """Those that the model is told of."""
    request: ChatRequest

    @classmethod
    def of(cls, language: Language, request: ChatRequest) -> Dialect:
        """Raises Refusal for a choice that cannot be made, and for fields that contradict each other."""
        choice = request.choice
        if request.goes_on:
            _check_last(request)
        offered = {tool.function.name: tool for tool in request.tools or ()}
        for name in choice.names or ():
            if name not in offered:
                raise Refusal(
                    400,
                    f"Invalid value for 'tool_choice': {name} is not one of the tools: {', '.join(offered) or 'there are none'}.",
                    "invalid_value",
                    "tool_choice",
                )
        if choice.mode == "required" and not offered:
            raise Refusal(
                400, "Invalid value for 'tool_choice': it wants a call, and there are no tools.", "invalid_value", "tool_choice"
            )  # fmt: skip
        if choice.mode == "none":
            return cls(language, (), (), request)
        told = tuple(tool.plain() for tool in offered.values())
        callable_ = [tool for name, tool in offered.items() if choice.names is None or name in choice.names]
        return cls(language, tuple(tool.function.model_dump() for tool in callable_), told, request)

    @property
    def hidden_tokens(self) -> Mapping[str, int]:
        """Control tokens that this answer shows, for its calls to be read."""
        return self.language.tokens if self.functions else {}

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids that the model goes on from. Raises ValueError where the template cannot write the conversation."""
        messages, tools = self.language.in_own_words(messages, self.tools)
        if self.request.goes_on:
            return self._template.continued(messages, tools)
        return self._template.prompt(messages, tools, asked=self.request.asks)

    @property
    def _template(self) -> Template:
        """With the variables of the request. Raises Refusal for one that spells a control token: it would become one."""
        template = self.language.template
        for name, value in self.request.variables.items():
            if isinstance(value, str) and any(mark in value for mark in template.control):
                raise Refusal(
                    400,
                    f"Invalid value for 'chat_template_kwargs': {cut(name)} spells a control token of the model: send other text.",
                    "invalid_value",
                    "chat_template_kwargs",
                )
        return template.given(self.request.variables)

    def reader(self) -> CallReader | None:
        """What reads calls in an answer; None where there can be none."""
        if not self.functions:
            return None
        return CallReader(self.language.form, forced=self.request.choice.is_named)

    @property
    def is_bound(self) -> bool:
        """Whether a grammar says where the answer ends, so that no words in it do."""
        return self.request.format is not None or (bool(self.functions) and self.request.choice.mode == "required")

    def constraint(self, frame: tuple[str, str]) -> Constraint | None:
        """For one answer, between the white space of ``frame``. Raises Refusal that names the schema which is to blame."""
        if not self.functions and self.request.format is None:
            return None
        vocabulary = self.language.vocabulary
        control = self.language.template.hidden
        before, after = ("" if any(mark in part for mark in control) else part for part in frame)
        try:
            return vocabulary.constraint(self._grammar((before, after)))
        except GrammarError as error:
            if not isinstance(error, EndlessGrammarError):  # whose it is would take as long to be found, for each anew
                self._blame(vocabulary)
            param = "tools" if self.functions else "response_format"
            raise Refusal(
                400, f"The tools and response_format together are too much to hold an answer to: {error}", "invalid_value", param
            ) from error  # fmt: skip

    def _grammar(self, frame: tuple[str, str]) -> str:
        form = self.request.format
        if form is not None and not self.functions:
            return of_value(_schema(form), frame, strict=form.strict)
        calls = Calls(
            self.language.form,
            self.functions,
            frame,
            self.language.tokens,
            several=self.request.parallel_tool_calls is not False,
        )
        if self.request.choice.mode == "required":
            return calls.required()
        return calls.beside_text() if form is None else calls.beside_value(_schema(form), strict=form.strict)

    def _blame(self, vocabulary: Vocabulary) -> None:
        """Raises Refusal for the schema that is no grammar by itself."""
        form = self.request.format
        if form is not None:
            _check(
                vocabulary,
                lambda: of_value(_schema(form), ("", ""), strict=form.strict),
                f"Invalid schema for response_format '{form.name}'",
                "response_format",
                "invalid_json_schema",
            )
        names = [tool.function.name for tool in self.request.tools or ()]
        for function in self.functions:
            _check(
                vocabulary,
                partial(of_arguments, function),
                f"Invalid schema for function '{function['name']}'",
                f"tools[{names.index(function['name'])}].function.parameters",
                "invalid_function_parameters",
            )


def said(messages: Sequence[schema.Message]) -> list[dict[str, Any]]:
    """The messages of a request as templates take them. Raises Refusal for calls that are none, and for results of calls that nobody made."""
    told: list[dict[str, Any]] = []
    called: dict[str, str] = {}
    for number, message in enumerate(messages):
        place = f"messages[{number}]"
        plain = message.plain()
        if message.role == "assistant" and message.tool_calls:
            plain["tool_calls"] = [
                call.plain(f"{place}.tool_calls[{at}]") for at, call in enumerate(message.tool_calls)
            ]
            called |= {call.id: call.function.name for call in message.tool_calls if call.id}
        if message.role == "tool":
            if message.tool_call_id not in called:
                raise Refusal(
                    400,
                    f"Invalid value for '{place}.tool_call_id': no assistant's message before it has a call of that id in its tool_calls.",
                    "invalid_conversation",
                    f"{place}.tool_call_id",
                )
            plain |= {"tool_call_id": message.tool_call_id, "name": called[message.tool_call_id]}
        told.append(plain)
    return told


def _check_last(request: ChatRequest) -> None:
    """Raises Refusal where there is nothing to go on with."""
    last = request.messages[-1]
    if last.role != "assistant" or last.tool_calls or not last.text.strip():
        problem = "the last message has to be an assistant's, with text that can be gone on with"
    elif request.add_generation_prompt:
        problem = "with add_generation_prompt a new message begins; leave one of the two out"
    elif request.format is not None or request.choice.mode == "required":
        problem = "response_format and tool_choice say how an answer begins; leave them out"
    else:
        return
    raise Refusal(
        400,
        f"Invalid value for 'continue_final_message': {problem}.",
        "invalid_value",
        "continue_final_message",
    )


def _schema(form: ResponseFormat) -> Any:
    return ANY_OBJECT if form.schema_ is None else form.schema_


def _check(vocabulary: Vocabulary, grammar: Callable[[], str], what: str, param: str, code: str) -> None:
    try:
        vocabulary.constraint(grammar())
    except GrammarError as error:
        raise Refusal(400, f"{what}: {error}.", code, param) from error
