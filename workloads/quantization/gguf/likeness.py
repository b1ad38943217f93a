"""Whether llama.cpp cuts the rows into the tokens that the model was trained on, and ends its answers where the model does."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from workloads.data.chat_templates.template import Template
    from workloads.quantization.gguf.llama_cpp import Runner

SHOWN = 4
"""Tokens that are shown on both sides of a difference."""


@dataclass(frozen=True)
class TokenLikeness:
    """Of two tokenizers that should be one."""

    texts: int
    equal: int
    """Of them those with the same tokens."""
    first_difference: str | None
    passed_over: tuple[str, ...]
    """Tokens at which an answer ends, and which llama.cpp goes on after."""

    @property
    def share(self) -> float:
        """Of the texts with the same tokens; 0 without texts."""
        return self.equal / self.texts if self.texts else 0.0

    def __str__(self) -> str:
        return f"llama.cpp cuts {self.equal:,} of {self.texts:,} conversations into the same tokens"

    def broken(self, least: float) -> list[str]:
        """The gates that it does not keep; ``least`` is the spec's ``gguf.minEqualRows``."""
        found = []
        if self.share < least:
            found.append(
                f"{self}, and gguf.minEqualRows {least:g} asks for {least:.2%} (the first difference: {self.first_difference}): lower "
                "gguf.minEqualRows where that is rare enough, or name a model with another tokenizer"
            )
        if self.passed_over:
            found.append(
                f"an answer ends at {', '.join(self.passed_over)}, where llama.cpp goes on: name a template with fewer end marks"
            )
        return found


def compare(texts: Iterable[str], template: Template, runner: Runner) -> TokenLikeness:
    """Of the tokenizer that ``template`` is bound to and llama.cpp's, on whole conversations, control tokens among them."""
    count = equal = 0
    difference = None
    tokenizer = template.tokenizer
    for text in texts:
        ours = tokenizer(text, add_special_tokens=False)["input_ids"]
        theirs = runner.tokens(text)
        count += 1
        equal += ours == theirs
        if ours != theirs and difference is None:
            difference = _difference(ours, theirs, tokenizer.convert_ids_to_tokens)
    ends = tokenizer.convert_ids_to_tokens([end for end in template.stop_ids if not runner.ends(end)])
    return TokenLikeness(count, equal, difference, tuple(map(repr, ends)))


def _difference(ours: list[int], theirs: list[int], names: object) -> str:
    assert callable(names)
    place = next(
        (at for at, (one, two) in enumerate(zip(ours, theirs, strict=False)) if one != two), min(len(ours), len(theirs))
    )
    around = slice(max(0, place - 1), place + SHOWN)
    return f"{names(ours[around])} here, {names(theirs[around])} there"
