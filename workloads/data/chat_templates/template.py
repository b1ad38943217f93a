"""A prompt format bound to a tokenizer: conversations to text, token ids and a loss mask, and what ends an answer."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cached_property

from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from workloads.data.chat_templates.control_tokens import ControlTokens
from workloads.data.chat_templates.loss_mask import Encoded, RenderedText, with_loss_mask
from workloads.data.chat_templates.rendering import Message, Span, render, without_generation


class Template:
    """A prompt format bound to a tokenizer.

    Strings in a message that spell control tokens (``</s>``) stay text: whatever a user writes, the control tokens of the result are
    those the template wrote. Messages without such strings get exactly the ids that ``apply_chat_template`` gives.
    """

    def __init__(self, name: str, source: str, tokenizer: PreTrainedTokenizerBase) -> None:
        self.name = name
        self.source = source
        self.tokenizer = tokenizer
        self._variables = tokenizer.special_tokens_map
        backend = json.loads(tokenizer.backend_tokenizer.to_str())
        # Special tokens come from the template alone, and a byte-level post-processor would cut spaces off the offsets.
        backend |= {"post_processor": None, "truncation": None, "padding": None}
        self._state = json.dumps(backend)
        self._plain = Tokenizer.from_str(self._state)
        self._control = ControlTokens(self._state, source)

    @property
    def digest(self) -> str:
        """sha256 of everything that shapes ids and masks, for cache keys."""
        return hashlib.sha256(json.dumps([self.source, self._variables, self._state], default=str).encode()).hexdigest()

    def render(self, messages: Sequence[Message], generation_prompt: bool = False) -> str:
        """The text of a conversation, special strings of its content included as they are. Raises ValueError where it does not fit."""
        return self._render(messages, generation_prompt)[0]

    def encode(self, messages: Sequence[Message]) -> Encoded:
        """Ids and mask of one conversation. Raises ValueError with the template's reason where it does not fit the format."""
        return self.encode_batch([messages])[0]

    def encode_batch(self, conversations: Sequence[Sequence[Message]]) -> list[Encoded]:
        """Several at once: the tokenizer runs on all cores."""
        rendered = [self._rendered(messages) for messages in conversations]
        encoded: dict[int, Encoded] = {}
        for sealed in (False, True):
            chosen = [index for index, text in enumerate(rendered) if text.sealed is sealed]
            if not chosen:
                continue
            backend = self._backend(sealed)
            encodings = backend.encode_batch([rendered[index].text for index in chosen], add_special_tokens=False)
            for index, encoding in zip(chosen, encodings, strict=True):
                encoded[index] = with_loss_mask(encoding, rendered[index], backend)
        return [encoded[index] for index in range(len(rendered))]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids that a model continues with its answer: a token prefix of the conversation it was trained on."""
        return self._ids(self._rendered(messages, generation_prompt=True))

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text outside of any conversation, in which control tokens are spelled and never meant."""
        return self._ids(RenderedText(self._control.seal(self._control.mark(text), [])[0], [], sealed=True))

    @property
    def control(self) -> Mapping[str, int]:
        """Every string that the tokenizer turns into a control token, with its id."""
        return self._control.ids

    @cached_property
    def stop_ids(self) -> list[int]:
        """Tokens that end an answer."""
        eos = self.tokenizer.eos_token_id
        return list(dict.fromkeys([*self._answer[2], *([] if eos is None else [eos])]))

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

    def _render(self, messages: Sequence[Message], generation_prompt: bool = False) -> tuple[str, list[Span]]:
        return render(self.source, self._variables, messages, generation_prompt)

    def _rendered(self, messages: Sequence[Message], generation_prompt: bool = False) -> RenderedText:
        """Ready for its tokenizer: the plain one, or the sealed one where a message spells a control token."""
        if not any(self._control.are_spelled_in(message["content"]) for message in messages):
            return RenderedText(*self._render(messages, generation_prompt), sealed=False)
        marked = [{"role": message["role"], "content": self._control.mark(message["content"])} for message in messages]
        return RenderedText(*self._control.seal(*self._render(marked, generation_prompt)), sealed=True)

    def _backend(self, sealed: bool) -> Tokenizer:
        return self._control.sealed_tokenizer if sealed else self._plain

    def _ids(self, rendered: RenderedText) -> list[int]:
        backend = self._backend(rendered.sealed)
        ids: list[int] = with_loss_mask(
            backend.encode(rendered.text, add_special_tokens=False), rendered, backend
        ).ids.tolist()
        return ids
