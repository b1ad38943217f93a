"""Control tokens that a template writes, and strings of a message that only spell them: those stay text.

A string of a message that spells one is marked before rendering. Afterwards the template's own control tokens are put under aliases that
no text can spell, and the marks go: the text is *sealed*, and a tokenizer that knows the aliases alone gives the ids.
"""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import cached_property

from tokenizers import Tokenizer

from workloads.data.chat_templates.rendering import Span

OPEN, CLOSE, ALIAS_OPEN, ALIAS_CLOSE = "\ufdd0", "\ufdd1", "\ufdd2", "\ufdd3"
"""Unicode noncharacters, reserved for use inside a program: marks that no text from outside may carry."""
RESERVED = re.compile(f"[{OPEN}{CLOSE}{ALIAS_OPEN}{ALIAS_CLOSE}]")


class Spelled:
    """Strings of messages that spell some control tokens."""

    def __init__(self, tokens: Iterable[str]) -> None:
        self._pattern = re.compile(f"{_any_of(tokens)}|{RESERVED.pattern}")

    def are_in(self, text: str) -> bool:
        """Whether ``text`` cannot be rendered as it is."""
        return self._pattern.search(text) is not None

    def mark(self, text: str) -> str:
        """``text`` with marks around each of the tokens that it spells."""
        return self._pattern.sub(_marked, text)


class ControlTokens:
    """The control tokens of a tokenizer (``state``: its JSON) and of the template ``source``."""

    def __init__(self, state: str, source: str) -> None:
        self._state = state
        self.ids: dict[str, int] = {
            token["content"]: token["id"]
            for token in json.loads(state)["added_tokens"]
            if token["special"] or (token["content"] in source and token["content"].strip())
        }
        """Every string that the tokenizer turns into a control token, with its id."""
        self.special = frozenset(token["content"] for token in json.loads(state)["added_tokens"] if token["special"])
        """Those that the tokenizer itself calls special; the others are words of the model's own, such as ``<think>``."""
        self.spelled = Spelled(self.ids)
        spelled = _any_of(self.ids)
        self._rendered = re.compile(f"{OPEN}({spelled}){CLOSE}|({spelled})|[{OPEN}{CLOSE}]")

    def is_paired(self, token: str) -> bool:
        """Whether ``token`` is one of two like ``<think>`` and ``</think>``, which enclose a part of what is said."""
        opening = token.replace("</", "<", 1)
        return opening.startswith("<") and opening in self.ids and f"</{opening[1:]}" in self.ids

    def written_in(self, rendered: str) -> Iterator[tuple[int, int]]:
        """Of each control token that the template wrote: its id, and where it ends."""
        for match in self._rendered.finditer(rendered):
            if match[2]:
                yield self.ids[match[2]], match.end()

    def removed_from(self, rendered: str) -> str:
        """``rendered`` without control tokens."""
        return self._rendered.sub("", rendered)

    def seal(self, rendered: str, spans: list[Span]) -> tuple[str, list[Span]]:
        """Control tokens that the template wrote under their aliases, those that a message spells as text; ``spans`` moved along."""
        pieces, before, after, length, last = [], [0], [0], 0, 0
        for match in self._rendered.finditer(rendered):
            spelled, written = match[1], match[2]
            piece = spelled or (_alias(self.ids[written]) if written else "")
            pieces += [rendered[last : match.start()], piece]
            length += match.start() - last + len(piece)
            last = match.end()
            before.append(last)
            after.append(length)
        pieces.append(rendered[last:])

        def moved(position: int) -> int:
            at = bisect_right(before, position) - 1
            return after[at] + position - before[at]

        return "".join(pieces), [(moved(start), moved(end)) for start, end in spans]

    @cached_property
    def sealed_tokenizer(self) -> Tokenizer:
        """The tokenizer with its control tokens under names that no text can spell; all else as it was, and every id the same."""
        aliases = {text: _alias(number) for text, number in self.ids.items()}
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
        moved = [text for text, number in self.ids.items() if sealed.token_to_id(aliases[text]) != number]
        assert not moved, f"sealing the tokenizer moved the ids of {moved}"
        return sealed


def _any_of(tokens: Iterable[str]) -> str:
    return "|".join(re.escape(text) for text in sorted(tokens, key=len, reverse=True)) or "(?!)"


def _alias(number: int) -> str:
    return f"{ALIAS_OPEN}{number}{ALIAS_CLOSE}"


def _marked(match: re.Match[str]) -> str:
    return "\ufffd" if RESERVED.fullmatch(match[0]) else f"{OPEN}{match[0]}{CLOSE}"
