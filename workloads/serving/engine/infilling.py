"""A text with a gap, as models for code were trained to read it: what stands before it and behind it, between tokens made for that."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.data.chat_templates.template import Template

SPACE = "▁"
"""As sentencepiece writes it. It puts one before every text."""
ANCHOR = "\ue000"
"""A character of no language, which no piece of a vocabulary joins to its neighbours."""


@dataclass(frozen=True)
class Marks:
    """The tokens of one family of models. Each stands before its part: the text before the gap, the text behind it, what fills it."""

    before: str
    behind: str
    middle: str
    ends: tuple[str, ...] = ()
    """What else a model of the family writes where the gap is full."""

    @property
    def all(self) -> tuple[str, ...]:
        return (self.before, self.behind, self.middle, *self.ends)


FAMILIES = (
    Marks("▁<PRE>", "▁<SUF>", "▁<MID>", ("▁<EOT>",)),  # CodeLlama
    Marks(  # Qwen2.5 and later, CodeGemma
        "<|fim_prefix|>",
        "<|fim_suffix|>",
        "<|fim_middle|>",
        ("<|fim_pad|>", "<|endoftext|>", "<|repo_name|>", "<|file_sep|>", "<|file_separator|>"),
    ),
    Marks("<fim_prefix>", "<fim_suffix>", "<fim_middle>", ("<fim_pad>", "<|endoftext|>", "<file_sep>")),  # StarCoder
    Marks("<｜fim▁begin｜>", "<｜fim▁hole｜>", "<｜fim▁end｜>"),  # DeepSeek-Coder
)


class Infilling:
    """The marks of a tokenizer, by their ids."""

    def __init__(self, marks: Marks, template: Template) -> None:
        known = template.tokenizer.get_vocab()
        self._template = template
        self._before, self._behind, self._middle = (known[mark] for mark in (marks.before, marks.behind, marks.middle))
        self.ends = frozenset(known[mark] for mark in marks.all if mark in known)
        """Tokens with which what fills the gap is over."""
        first = template.tokenizer.convert_ids_to_tokens(template.encode_text("a"))[0]
        self._sign = ANCHOR if first.startswith(SPACE) else ""

    @classmethod
    def of(cls, template: Template) -> Infilling | None:
        """None for a tokenizer that has no such tokens."""
        known = template.tokenizer.get_vocab()
        found = (marks for marks in FAMILIES if {marks.before, marks.behind, marks.middle} <= known.keys())
        return next((cls(marks, template) for marks in found), None)

    def ids(self, before: str, behind: str) -> list[int]:
        """What a model goes on from to fill the gap. The text behind it is no beginning: it gets no space that it does not have."""
        read = self._template.encode_text
        after_sign = read(self._sign + behind)[len(read(self._sign)) :]
        return [self._before, *read(before), self._behind, *after_sign, self._middle]
