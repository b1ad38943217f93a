"""A prompt format bound to a tokenizer: conversations to text, token ids and a loss mask, and what ends an answer."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import cached_property
from itertools import repeat
from typing import Any

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from workloads.data.chat_templates import completeness
from workloads.data.chat_templates.backend import Backend
from workloads.data.chat_templates.control_tokens import ControlTokens, Spelled
from workloads.data.chat_templates.loss_mask import Encoded, RenderedText, with_loss_mask
from workloads.data.chat_templates.named import NEEDED_TOKENS
from workloads.data.chat_templates.rendering import GENERATION, Message, Span, Tools, render, without_generation
from workloads.data.chat_templates.source import names_of, tool_role

BOUNDS = ("bos_token", "eos_token", "pad_token", "unk_token")
"""What the tokenizer itself puts around texts, or in place of them."""


class Template:
    """A prompt format bound to a tokenizer.

    Strings in a message that spell control tokens (``</s>``) stay text: whatever a user writes, the control tokens of the result are
    those the template wrote. In answers, whose author is the author of the data, the tokens of the model's own language (``<think>``,
    ``<tool_call>``) are meant, and those alone stay text that end a turn or open one. Messages without such strings get exactly the ids
    that ``apply_chat_template`` gives.
    """

    def __init__(
        self,
        name: str,
        source: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        after_prompt: bool = False,
        ends: Collection[int] = (),
        notes: tuple[str, ...] = (),
        backend: Backend | None = None,
    ) -> None:
        """``after_prompt``: the source has no generation markers, and an answer is what follows the prompt that asks for it. ``ends`` are
        tokens that end an answer of this model, whatever the template writes. ``notes`` are for the log: what was decided for the user."""
        self.name = name
        self.source = source
        self.tokenizer = tokenizer
        self.after_prompt = after_prompt
        self.ends = tuple(ends)
        self.notes = notes
        self._variables = tokenizer.special_tokens_map
        self._backend = backend or Backend.of(tokenizer)
        self._control = ControlTokens(self._backend, source)
        self._tool_role = tool_role(source)

    def changed(self, source: str, note: str, *, after_prompt: bool) -> Template:
        """Another source for the same."""
        notes = (*self.notes, note) if note else self.notes
        return Template(
            self.name,
            source,
            self.tokenizer,
            after_prompt=after_prompt,
            ends=self.ends,
            notes=notes,
            backend=self._backend,
        )

    def given(self, variables: Mapping[str, Any]) -> Template:
        """The same with values for variables that its Jinja reads, such as ``enable_thinking``. Others change nothing, and are left out."""
        read = {name: value for name, value in variables.items() if name in names_of(self.source)}
        if not read:
            return self
        found = copy.copy(self)
        found._variables = {**self._variables, **read}
        return found

    @property
    def marks_answers(self) -> bool:
        """Whether it is known what the assistant says of a text."""
        return self.after_prompt or GENERATION.search(self.source) is not None

    @property
    def digest(self) -> str:
        """sha256 of everything that shapes ids and masks, for cache keys."""
        material = [self.source, self._variables, self._backend.state, self.after_prompt, self.ends]
        return hashlib.sha256(json.dumps(material, default=str).encode()).hexdigest()

    def render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str:
        """The text of a conversation, special strings of its content included as they are. Raises ValueError where it does not fit."""
        return self._render(messages, (), generation_prompt)[0]

    def rendered_whole(self, messages: Sequence[Message], tools: Tools = ()) -> tuple[str, list[Span]]:
        """As `render`, with the spans of the answers in characters. Raises ValueError also where the text lacks something said."""
        return self._render(messages, tools, whole=True)

    def encode(self, messages: Sequence[Message], tools: Tools = ()) -> Encoded:
        """Ids and mask of one conversation. Raises ValueError with the reason where it does not fit the format, or the format drops part
        of it."""
        return self.encode_batch([messages], [tools])[0]

    def encode_batch(
        self, conversations: Sequence[Sequence[Message]], tools: Sequence[Tools] | None = None
    ) -> list[Encoded]:
        """Several at once: the tokenizer runs on all cores. ``tools`` are those of each."""
        pairs = zip(conversations, repeat(()) if tools is None else tools, strict=tools is not None)
        rendered = [self._rendered(messages, of_one, whole=True) for messages, of_one in pairs]
        encoded: dict[int, Encoded] = {}
        for sealed in (False, True):
            chosen = [index for index, text in enumerate(rendered) if text.sealed is sealed]
            if not chosen:
                continue
            backend = self._tokenizer(sealed)
            encodings = backend.encode_batch([rendered[index].text for index in chosen], add_special_tokens=False)
            for index, encoding in zip(chosen, encodings, strict=True):
                encoded[index] = with_loss_mask(encoding, rendered[index], backend)
        return [encoded[index] for index in range(len(rendered))]

    def prompt(self, messages: Sequence[Message], tools: Tools = (), *, asked: bool = True) -> list[int]:
        """Ids that a model continues with its answer: a token prefix of the conversation it was trained on. Not ``asked``, what opens the
        answer is left out."""
        return self._ids(self._rendered(messages, tools, generation_prompt=asked))

    def continued(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        """Ids of a conversation up to the last word of its last message, an answer that is to be gone on with. Raises ValueError where the
        template writes that in other words."""
        rendered = self._rendered(messages, tools)
        said: str = messages[-1]["content"]
        start = rendered.spans[-1][0] if rendered.spans else 0
        for kept in (said, said.rstrip(), said.strip()):
            written = self._control.seal(self._spelled_in_answers.mark(kept), [])[0] if rendered.sealed else kept
            if (at := rendered.text.rfind(written, start)) >= 0:
                return self._ids(RenderedText(rendered.text[: at + len(written)], [], rendered.sealed))
        raise ValueError("it writes the last message in other words than it has, and cannot be stopped behind them")

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text outside of any conversation, in which control tokens are spelled and never meant."""
        return self._ids(RenderedText(self._control.seal(self._control.spelled.mark(text), [])[0], [], sealed=True))

    @property
    def control(self) -> Mapping[str, int]:
        """Every string that the tokenizer turns into a control token, with its id."""
        return self._control.ids

    @cached_property
    def hidden(self) -> Mapping[str, int]:
        """Of these, what is no part of an answer's text: not the words of a model's own language, such as ``<think>``."""
        return {
            text: number
            for text, number in self._control.ids.items()
            if text in self._control.special or text in self._structure
        }

    @cached_property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer."""
        eos = self.tokenizer.eos_token_id
        return list(dict.fromkeys([*self._answer[2], *([] if eos is None else [eos])]))

    @cached_property
    def _structure(self) -> frozenset[str]:
        """Control tokens that end a turn or open one, by their strings.

        Those around the messages of a probe, but for pairs such as ``<think>`` and ``</think>``, which are part of what is said; those
        around the messages of the formats known by name; and what the tokenizer puts around texts.
        """
        names = {number: text for text, number in self._control.ids.items()}
        known = {str(self._variables[name]) for name in BOUNDS if self._variables.get(name)}
        known |= {token for tokens in NEEDED_TOKENS.values() for token in tokens}
        known |= {names[number] for number in (*self.ends, *self._answer[2]) if number in names}
        written = {
            names[number]
            for probe, asked in self._probes()
            for number, _ in self._control.written_in(self._render(probe, (), asked)[0])
        }
        paired = {text for text in written if self._control.is_paired(text)}
        return frozenset((known & self._control.ids.keys()) | (written - paired))

    def _probes(self) -> Iterator[tuple[list[dict[str, str]], bool]]:
        """Conversations that the format takes, each whole and as a question."""
        texts = {"system": "规", "user": "问", "assistant": "答"}
        for roles in (("system", "user", "assistant", "user"), ("user", "assistant", "user"), ("user",)):
            probe = [{"role": role, "content": texts[role]} for role in roles]
            try:
                self._render(probe, (), True)
                self._render(probe, (), False)
            except ValueError:  # it has no system prompt, or is one of single questions
                continue
            yield probe, False
            yield probe, True

    @property
    def trains_end(self) -> bool:
        """Whether the assistant's end mark lies inside the generation markers; without it answers would never stop."""
        return bool(self._answer[2])

    @property
    def frame(self) -> tuple[str, str]:
        """The white space that the format puts before and after an answer, which is no part of it."""
        return self._answer[:2]

    def clean_answer(self, text: str) -> str:
        """A decoded answer without the format's own white space around it (the final line break of HumanAssistant)."""
        before, after = self.frame
        return text.removeprefix(before).removesuffix(after)

    @cached_property
    def next_turn(self) -> tuple[tuple[int, ...], tuple[str, ...]]:
        """What begins the user's turn after an answer: its control tokens, and its words where they are no ordinary ones
        (``Human:``, ``[INST]``). A model that writes them goes on with the user's part: its answer is over."""
        probe = [
            {"role": role, "content": text} for role, text in zip(("user", "assistant", "user"), "问答续", strict=True)
        ]
        try:
            text = self._render(probe)[0]
        except ValueError:  # a format of single questions
            return (), ()
        between = text[text.rindex("答") + 1 : text.rindex("续")]
        written = list(self._control.written_in(between))
        words = between[written[-1][1] if written else 0 :].strip()
        return tuple(dict.fromkeys(number for number, _ in written)), (words,) if words and not words[
            -1
        ].isalnum() else ()

    def install(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Makes this the chat template that is saved with ``tokenizer``."""
        tokenizer.chat_template = without_generation(self.source)

    @cached_property
    def _answer(self) -> tuple[str, str, list[int]]:
        """What stands before and after an answer inside the generation markers, and the control tokens that end it."""
        probe = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
        text, spans = self._render(probe)
        start, end = spans[-1] if spans else (text.rindex("答"), len(text))
        before, _, after = text[start:end].rpartition("答")
        return before, self._control.removed_from(after), [number for number, _ in self._control.written_in(after)]

    def _render(
        self, messages: Sequence[Message], tools: Tools = (), generation_prompt: bool = False, whole: bool = False
    ) -> tuple[str, list[Span]]:
        """Text and spans; with ``whole``, of nothing less than all that is said."""
        plain = [self._in_own_role(message, number) for number, message in enumerate(messages, start=1)]
        refusals = []
        for spelled in _spellings(plain):
            try:
                text, spans = self._rendered_as(spelled, tools, generation_prompt, whole)
            except ValueError as error:
                refusals.append(error)
                continue
            lost = completeness.missing(plain, tools, text, spans) if whole else None
            if lost is None:
                return text, spans
            # The last spelling that can be written loses least.
            refusals.insert(
                0,
                ValueError(
                    f"{lost} is not in the text that the template writes, which has no place for it: leave it out of the row, or give a "
                    "templateFile (or a model) whose template writes it"
                ),
            )
        raise refusals[0]

    def _rendered_as(
        self, messages: Sequence[Message], tools: Tools, generation_prompt: bool, whole: bool
    ) -> tuple[str, list[Span]]:
        text, spans = render(self.source, self._variables, messages, generation_prompt, tools)
        if not self.after_prompt:
            return text, spans
        try:
            return text, self._following_prompts(messages, tools, text)
        except ValueError:
            if whole:
                raise
            return text, []  # what is only asked may have answers that this model was not asked for so

    def _in_own_role(self, message: Message, number: int) -> Message:
        if message["role"] != "tool":
            return message
        if self._tool_role is None:
            raise ValueError(
                f"message {number} is what a tool gave, and the template has no role for that: leave it out of the row, or give a "
                "templateFile (or a model) whose template has one"
            )
        return {**message, "role": self._tool_role}

    def _following_prompts(self, messages: Sequence[Message], tools: Tools, text: str) -> list[Span]:
        """The spans of the answers in ``text``: what comes after the prompt that asks for each, up to its last control token."""
        spans = []
        for at, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            asked = render(self.source, self._variables, messages[:at], True, tools)[0]
            said = render(self.source, self._variables, messages[: at + 1], False, tools)[0]
            for before in (asked, said):
                if not text.startswith(before):
                    raise ValueError(
                        f"message {at + 1} would be trained after {_around(text, before)!r}, and be asked for after "
                        f"{_around(before, text)!r}: leave out what the template writes only where it asks (some do so with the system "
                        "prompt), or part the conversation, so that this answer is its last"
                    )
            ends = [end for _, end in self._control.written_in(said) if end > len(asked)]
            end = ends[-1] if ends and not said[ends[-1] :].strip() else len(said)
            spans.append((len(asked), end))
        return spans

    def _rendered(
        self, messages: Sequence[Message], tools: Tools = (), generation_prompt: bool = False, whole: bool = False
    ) -> RenderedText:
        """Ready for its tokenizer: the plain one, or the sealed one where something said spells a control token."""
        neutral = [_neutral(message, self._spelled_by(message)) for message in messages]
        offered = [_neutral(tool, self._control.spelled) for tool in tools]
        if neutral == list(messages) and offered == list(tools):
            return RenderedText(*self._render(messages, tools, generation_prompt, whole), sealed=False)
        return RenderedText(*self._control.seal(*self._render(neutral, offered, generation_prompt, whole)), sealed=True)

    def _spelled_by(self, message: Message) -> Spelled:
        return self._spelled_in_answers if message["role"] == "assistant" else self._control.spelled

    @cached_property
    def _spelled_in_answers(self) -> Spelled:
        return Spelled(self._structure)

    def _tokenizer(self, sealed: bool) -> Tokenizer:
        return self._control.sealed_tokenizer if sealed else self._backend.plain

    def _ids(self, rendered: RenderedText) -> list[int]:
        backend = self._tokenizer(rendered.sealed)
        # As a batch of one: the tokenizer lets other threads run meanwhile, which it does not for a single text.
        encoding = backend.encode_batch([rendered.text], add_special_tokens=False)[0]
        ids: list[int] = with_loss_mask(encoding, rendered, backend).ids.tolist()
        return ids


def _neutral(value: Any, spelled: Spelled) -> Any:
    """With marks around what spells control tokens."""
    if isinstance(value, str):
        return spelled.mark(value) if spelled.are_in(value) else value
    if isinstance(value, Mapping):
        return {name: part if name == "role" else _neutral(part, spelled) for name, part in value.items()}
    if isinstance(value, list):
        return [_neutral(part, spelled) for part in value]
    return value


def _spellings(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """The ways in which templates read calls: arguments as an object or as its JSON, the content of a mere call empty or null."""
    yield messages
    if not any(message.get("tool_calls") for message in messages):
        return
    for respelled in (_as_json, _without_content, lambda message: _as_json(_without_content(message))):
        yield [respelled(message) if message.get("tool_calls") else message for message in messages]


def _as_json(message: Message) -> Message:
    calls = [
        {
            **call,
            "function": {
                **call["function"],
                "arguments": json.dumps(call["function"]["arguments"], ensure_ascii=False),
            },
        }
        for call in message["tool_calls"]
    ]
    return {**message, "tool_calls": calls}


def _without_content(message: Message) -> Message:
    return message if message["content"] else {**message, "content": None}


SHOWN = 60
"""Characters of a text that are shown before the place where it differs from another."""


def _around(text: str, other: str) -> str:
    """The part of ``text`` where it parts from ``other``."""
    place = next(
        (at for at, (one, two) in enumerate(zip(text, other, strict=False)) if one != two), min(len(text), len(other))
    )
    return text[max(0, place - SHOWN) : place + SHOWN // 2]
