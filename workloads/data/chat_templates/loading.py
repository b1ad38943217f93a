"""How a conversation becomes text, token ids and a loss mask: one source per format, for training, calibration and chat.

A template is Jinja, as tokenizers carry it, with ``{% generation %}`` around what the assistant says: that text, and nothing else, is
trained. The copy saved with a model has no such markers, which other Jinja implementations do not know.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jinja2 import TemplateError, TemplateSyntaxError
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase
from transformers.utils.chat_template_utils import render_jinja_template

from workloads.errors import SpecError

Message = Mapping[str, str]
"""``role`` (system, user or assistant) and ``content``."""
Span = tuple[int, int]

FOLDER = Path(__file__).parent
NAMED = ("HumanAssistant", "Llama2", "Llama3", "ChatML")
NEEDED_TOKENS: dict[str, tuple[str, ...]] = {
    "HumanAssistant": (),
    "Llama2": (),
    "Llama3": ("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "ChatML": ("<|im_start|>", "<|im_end|>"),
}
"""What a named template writes under its own name; each must be one token of the vocabulary."""
NEEDED_KINDS: dict[str, tuple[str, ...]] = {
    "HumanAssistant": ("eos",),
    "Llama2": ("eos", "bos"),
    "Llama3": ("bos",),
    "ChatML": (),
}
"""What it writes under the tokenizer's name."""

OPEN, CLOSE, ALIAS_OPEN, ALIAS_CLOSE = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
"""Unicode noncharacters, reserved for use inside a program: marks that no text from outside may carry."""
OURS = re.compile(f"[{OPEN}{CLOSE}{ALIAS_OPEN}{ALIAS_CLOSE}]")

GENERATION = re.compile(r"{%([-+]?)\s*(end)?generation\s*([-+]?)%}")


RENDERING = threading.Lock()
"""transformers keeps the generation marks of a rendering in the compiled template, which all threads share."""


class Encoded(NamedTuple):
    """A conversation in tokens."""

    ids: np.ndarray
    """int32, without special tokens beyond those the template writes."""
    loss_mask: np.ndarray
    """bool: what the assistant says, its end mark included."""
    spans: tuple[Span, ...]
    """Of each assistant message in order: first token, one past the last."""


def without_generation(source: str) -> str:
    """The same template without generation markers. An ``if true`` stands in for each, so that white space is trimmed as before."""
    return GENERATION.sub(lambda tag: f"{{%{tag[1]} {'endif' if tag[2] else 'if true'} {tag[3]}%}}", source)


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
        control = [
            t for t in backend["added_tokens"] if t["special"] or (t["content"] in source and t["content"].strip())
        ]
        self._control = {token["content"]: token["id"] for token in control}
        spelled = "|".join(re.escape(text) for text in sorted(self._control, key=len, reverse=True)) or "(?!)"
        self._spelled = re.compile(f"{spelled}|{OURS.pattern}")
        self._rendered = re.compile(f"{OPEN}({spelled}){CLOSE}|({spelled})|[{OPEN}{CLOSE}]")

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
        rendered = [self._text(messages) for messages in conversations]
        found: list[Encoded | None] = [None] * len(rendered)
        for sealed in (False, True):
            chosen = [index for index, text in enumerate(rendered) if text.sealed is sealed]
            if not chosen:
                continue
            backend = self._sealed if sealed else self._plain
            encodings = backend.encode_batch([rendered[index].text for index in chosen], add_special_tokens=False)
            for index, encoding in zip(chosen, encodings, strict=True):
                found[index] = _masked(encoding, rendered[index], backend)
        return found  # type: ignore[return-value]

    def prompt(self, messages: Sequence[Message]) -> list[int]:
        """Ids that a model continues with its answer: a token prefix of the conversation it was trained on."""
        text = self._text(messages, generation_prompt=True)
        backend = self._sealed if text.sealed else self._plain
        return _masked(backend.encode(text.text, add_special_tokens=False), text, backend).ids.tolist()

    @cached_property
    def _answer(self) -> tuple[str, str, list[int]]:
        """What stands before and after an answer inside the generation markers, and the control tokens that end it."""
        probe = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答"}]
        text, spans = self._render(probe)
        start, end = spans[-1] if spans else (text.rindex("答"), len(text))
        before, _, after = text[start:end].rpartition("答")
        ends = [self._control[m[2]] for m in self._rendered.finditer(after) if m[2]]
        return before, self._rendered.sub("", after), ends

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
        ids = [self._control[match[2]] for match in self._rendered.finditer(between) if match[2]]
        last = max((match.end() for match in self._rendered.finditer(between) if match[2]), default=0)
        words = between[last:].strip()
        return tuple(dict.fromkeys(ids)), (words,) if words and not words[-1].isalnum() else ()

    @property
    def control(self) -> Mapping[str, int]:
        """Every string that the tokenizer turns into a control token, with its id."""
        return self._control

    def encode_text(self, text: str) -> list[int]:
        """Ids of a text outside of any conversation, in which control tokens are spelled and never meant."""
        rendered = _Text(self._seal(self._spelled.sub(_mark, text), [])[0], [], sealed=True)
        return _masked(
            self._sealed.encode(rendered.text, add_special_tokens=False), rendered, self._sealed
        ).ids.tolist()

    def install(self, tokenizer: PreTrainedTokenizerBase) -> None:
        """Makes this the chat template that is saved with ``tokenizer``."""
        tokenizer.chat_template = without_generation(self.source)

    def _render(self, messages: Sequence[Message], generation_prompt: bool = False) -> tuple[str, list[Span]]:
        return _rendered(self.source, self._variables, messages, generation_prompt)

    def _text(self, messages: Sequence[Message], generation_prompt: bool = False) -> _Text:
        if not any(self._spelled.search(message["content"]) for message in messages):
            return _Text(*self._render(messages, generation_prompt), sealed=False)
        marked = [
            {"role": message["role"], "content": self._spelled.sub(_mark, message["content"])} for message in messages
        ]
        text, spans = self._render(marked, generation_prompt)
        return _Text(*self._seal(text, spans), sealed=True)

    def _seal(self, text: str, spans: list[Span]) -> tuple[str, list[Span]]:
        """Control tokens that the template wrote under their aliases, those that a message spells as text."""
        pieces, before, after, length, last = [], [0], [0], 0, 0
        for match in self._rendered.finditer(text):
            spelled, written = match[1], match[2]
            piece = spelled or (_alias(self._control[written]) if written else "")
            pieces += [text[last : match.start()], piece]
            length += match.start() - last + len(piece)
            last = match.end()
            before.append(last)
            after.append(length)
        pieces.append(text[last:])

        def moved(position: int) -> int:
            at = bisect_right(before, position) - 1
            return after[at] + position - before[at]

        return "".join(pieces), [(moved(start), moved(end)) for start, end in spans]

    @cached_property
    def _sealed(self) -> Tokenizer:
        """The tokenizer with its control tokens under names that no text can spell; all else as it was, and every id the same."""
        aliases = {text: _alias(number) for text, number in self._control.items()}
        state = json.loads(self._state)
        for token in state["added_tokens"]:
            token["content"] = aliases.get(token["content"], token["content"])
        model = state["model"]
        if isinstance(model["vocab"], dict):
            model["vocab"] = {aliases.get(piece, piece): number for piece, number in model["vocab"].items()}
        else:
            model["vocab"] = [[aliases.get(piece, piece), score] for piece, score in model["vocab"]]
        if model.get("unk_token") is not None:
            model["unk_token"] = aliases.get(model["unk_token"], model["unk_token"])
        if "merges" in model:
            pairs = (merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"])
            model["merges"] = [pair for pair in pairs if not {*pair, "".join(pair)} & aliases.keys()]
        sealed = Tokenizer.from_str(json.dumps(state))
        moved = [text for text, number in self._control.items() if sealed.token_to_id(aliases[text]) != number]
        assert not moved, f"sealing the tokenizer moved the ids of {moved}"
        return sealed


def _rendered(
    source: str, variables: Mapping[str, str], messages: Sequence[Message], generation_prompt: bool = False
) -> tuple[str, list[Span]]:
    """Text, and the spans between generation markers. Raises ValueError with the template's reason."""
    plain = [{"role": message["role"], "content": message["content"]} for message in messages]
    try:
        with RENDERING:
            texts, spans = render_jinja_template(
                conversations=[plain],
                chat_template=source,
                return_assistant_tokens_mask=GENERATION.search(source) is not None,
                add_generation_prompt=generation_prompt,
                **variables,
            )
    except TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.message}") from error
    except (
        TemplateError,
        TypeError,
    ) as error:  # TypeError: it joins a text and a special token that the tokenizer lacks
        raise ValueError(str(error)) from error
    return texts[0], list(spans[0]) if spans else []


class _Text(NamedTuple):
    """A rendered conversation."""

    text: str
    spans: list[Span]
    """The assistant's stretches, in characters."""
    sealed: bool
    """Whether control tokens stand under their aliases, for the sealed tokenizer."""


FEW_SPANS = 8
"""Up to so many, looking each up in the encoding is quicker than taking the offsets of all tokens out of it."""


def _masked(encoding: Any, rendered: _Text, backend: Tokenizer) -> Encoded:
    ids = encoding.ids
    spans = _looked_up(encoding, rendered) if len(rendered.spans) <= FEW_SPANS else None
    if spans is None:
        offsets = np.asarray(encoding.offsets, dtype=np.int64).reshape(-1, 2)
        spans = _in_tokens(rendered.spans, offsets)
        cuts = [
            start
            for (start, _), (first, last) in zip(rendered.spans, spans, strict=True)
            if first < last and offsets[first, 0] < start
        ]
        if cuts:
            # A token reaches from the prompt into the answer. When the model answers it has the prompt's tokens alone, so the text
            # is encoded in two parts there.
            ids, offsets = _encode_parts(rendered.text, cuts, backend)
            spans = _in_tokens(rendered.spans, offsets)
    mask = np.zeros(len(ids), dtype=bool)
    for first, last in spans:
        mask[first:last] = True
    return Encoded(np.asarray(ids, dtype=np.int32), mask, tuple(spans))


def _looked_up(encoding: Any, rendered: _Text) -> list[Span] | None:
    """The spans in tokens, where tokens begin at both ends of each; None where one does not."""
    found = []
    for start, end in rendered.spans:
        first = encoding.char_to_token(start)
        last = encoding.char_to_token(end) if end < len(rendered.text) else len(encoding)
        if first is None or last is None or encoding.token_to_chars(first)[0] < start:
            return None
        if last < len(encoding) and encoding.token_to_chars(last)[0] < end:
            return None
        found.append((first, last))
    return found


def _in_tokens(spans: Sequence[Span], offsets: np.ndarray) -> list[Span]:
    """Tokens that have a character in each span; a character of several tokens belongs to all of them."""
    return [
        (
            int(np.searchsorted(offsets[:, 1], start, side="right")),
            int(np.searchsorted(offsets[:, 0], end, side="left")),
        )
        for start, end in spans
    ]


def _encode_parts(text: str, cuts: Sequence[int], backend: Tokenizer) -> tuple[list[int], np.ndarray]:
    """Ids and offsets of ``text`` in parts, none but the first with the space that sentencepiece puts before a text."""
    lead = backend.encode("\n", add_special_tokens=False).ids
    ids: list[int] = []
    offsets: list[tuple[int, int]] = []
    for start, end in pairwise([0, *cuts, len(text)]):
        led = start > 0
        encoding = backend.encode("\n" * led + text[start:end], add_special_tokens=False)
        if led and encoding.ids[: len(lead)] != lead:
            led = False
            encoding = backend.encode(text[start:end], add_special_tokens=False)
        skip = len(lead) if led else 0
        ids += encoding.ids[skip:]
        offsets += [(left + start - led, right + start - led) for left, right in encoding.offsets[skip:]]
    return ids, np.asarray(offsets, dtype=np.int64).reshape(-1, 2)


def _alias(number: int) -> str:
    return f"{ALIAS_OPEN}{number}{ALIAS_CLOSE}"


def _mark(match: re.Match[str]) -> str:
    return "\ufffd" if OURS.fullmatch(match[0]) else f"{OPEN}{match[0]}{CLOSE}"


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
        template = _from_model(tokenizer, train_on_prompt)
        way_out = (
            "name a template that the model knows (HumanAssistant, Llama2, Llama3, ChatML), give a templateFile with "
            "{% generation %} around the assistant's text, or set dataset.trainOnPrompt"
        )
    else:
        template, way_out = Template(choice, _named_source(choice, tokenizer), tokenizer), ""
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


def _named_source(name: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Raises SpecError where the tokenizer lacks a token that the template writes."""
    known = tokenizer.get_added_vocab()
    missing = [token for token in NEEDED_TOKENS[name] if token not in known]
    missing += [f"an {kind}_token" for kind in NEEDED_KINDS[name] if getattr(tokenizer, f"{kind}_token") is None]
    if missing:
        raise SpecError(
            f"template: {name} needs {', '.join(missing)}, which the model's tokenizer lacks: "
            "use FromModel, or HumanAssistant, which needs only an eos_token"
        )
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8")


def _from_model(tokenizer: PreTrainedTokenizerBase, train_on_prompt: bool) -> Template:
    from trl.chat_template_utils import get_training_chat_template

    source = tokenizer.chat_template
    if isinstance(source, dict):
        source = source.get("default")
    if source is None:
        raise SpecError(
            "template: FromModel, but the model's tokenizer has no chat template: set template to HumanAssistant "
            "(or Llama2, Llama3, ChatML, whichever the model was trained with), or give a templateFile"
        )
    if train_on_prompt:
        return Template("FromModel", source, tokenizer)
    try:
        masked = get_training_chat_template(tokenizer)
    except ValueError:  # not one that TRL knows
        masked = _named_source_of_same_text(source, tokenizer)
    return Template("FromModel", masked or source, tokenizer)


PROBES = tuple(
    [{"role": role, "content": f"{text} "} for role, text in zip(roles, "甲乙丙丁戊", strict=False)]
    for roles in (
        ["user", "assistant"],
        ["system", "user", "assistant"],
        ["user", "assistant", "user", "assistant"],
        ["system", "user", "assistant", "user"],
        ["user"],
    )
)
"""Conversations that tell formats apart, by their default system prompts too."""


def _named_source_of_same_text(source: str, tokenizer: PreTrainedTokenizerBase) -> str | None:
    """The named template that writes what the model's own does: its marks hold for the model's then.

    A system prompt of the model's own, written where a conversation has none, is put before the named template.
    """
    own = partial(_rendered, source, tokenizer.special_tokens_map)
    for name in NAMED:
        try:
            named = _named_source(name, tokenizer)
            for candidate in (named, _default_system(own, named, tokenizer) + named):
                other = partial(_rendered, candidate, tokenizer.special_tokens_map)
                if all(own(probe, asked)[0] == other(probe, asked)[0] for probe in PROBES for asked in (False, True)):
                    return candidate
        except (SpecError, ValueError):  # it cannot be written with this tokenizer, or refuses a probe
            continue
    return None


def _default_system(own: Callable[..., tuple[str, list[Span]]], named: str, tokenizer: PreTrainedTokenizerBase) -> str:
    """Jinja that adds the system prompt which the model's template writes by itself, as far as ``named`` tells where it stands."""
    question = [{"role": "user", "content": "甲"}]
    system = [{"role": "system", "content": "乙"}, *question]
    before, _, after = _rendered(named, tokenizer.special_tokens_map, system)[0].partition("乙")
    text = own(question)[0]
    if len(text) < len(before + after) or not (text.startswith(before) and text.endswith(after)):
        return ""
    prompt = text[len(before) : len(text) - len(after)]
    return (
        "{%- if messages[0].role != 'system' %}"
        f"{{%- set messages = [{{'role': 'system', 'content': {json.dumps(prompt, ensure_ascii=False)}}}] + messages %}}"
        "{%- endif %}\n"
    )
