"""A tokenizer as llama.cpp reads it: tokens, their types, and how text is cut into them.

llama.cpp has code of its own for each way of cutting. A tokenizer whose way is not one of those is refused here; whether both cut the
rows alike is measured afterwards (`likeness`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Any

from workloads.errors import InputError

if TYPE_CHECKING:
    from gguf import GGUFWriter
    from transformers import PreTrainedTokenizerBase

    from workloads.data.chat_templates.template import Template

SPACE = "▁"
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
LAST = -1e9
"""Score of what is never made by a merge."""
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
LLAMA3 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
CUTS: Mapping[tuple[str, ...], str] = {
    (LLAMA3,): "llama-bpe",
    (QWEN2,): "qwen2",
    (GPT2,): "gpt-2",
    ("digits", GPT2): "smollm",
}
"""llama.cpp's names for what cuts text before merges, by the steps of a tokenizer.json."""


class Kind(IntEnum):
    """Types of a token."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file has of a tokenizer."""

    model: str
    """llama.cpp's name for the family: `llama` for sentencepiece's, `gpt2` for merges of bytes."""
    tokens: Sequence[str]
    kinds: Sequence[int]
    scores: Sequence[float] | None
    merges: Sequence[str] | None
    cut: str
    add_bos: bool
    add_space_prefix: bool
    ids: Mapping[str, int]
    """Special tokens by `gguf`'s names for them: `bos`, `eos`, `eot`, `eom`, `pad`, `unk`."""
    chat_template: str

    def add_to(self, writer: GGUFWriter) -> None:
        """The metadata below `tokenizer`."""
        writer.add_tokenizer_model(self.model)
        writer.add_tokenizer_pre(self.cut)
        writer.add_token_list(list(self.tokens))
        writer.add_token_types(list(self.kinds))
        if self.scores is not None:
            writer.add_token_scores(list(self.scores))
        if self.merges is not None:
            writer.add_token_merges(list(self.merges))
        for name, number in self.ids.items():
            getattr(writer, f"add_{name}_token_id")(number)
        writer.add_add_bos_token(self.add_bos)
        writer.add_add_eos_token(False)
        writer.add_add_space_prefix(self.add_space_prefix)
        writer.add_chat_template(self.chat_template)


def of(tokenizer: PreTrainedTokenizerBase, template: Template, rows: int, label: str) -> Vocabulary:
    """The vocabulary of a model with ``rows`` rows in its embedding. Raises InputError, which begins with ``label``, for a tokenizer that
    llama.cpp has no code for."""
    state: dict[str, Any] = json.loads(tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    if model["type"] != "BPE":
        raise InputError(
            f"{label}: its tokenizer is of type {model['type']}, and BPE is written as GGUF: name a model with Llama's or Qwen's tokenizer"
        )
    of_bytes = _steps(state["pre_tokenizer"])[-1:] == ["bytes"]
    added = {entry["content"]: entry for entry in state["added_tokens"]}
    names = {number: text for text, number in tokenizer.get_vocab().items()}
    tokens = [names.get(number, f"[PAD{number}]") for number in range(rows)]
    kinds = [_kind(tokens[number], number in names, added, model, of_bytes) for number in range(rows)]
    merges = [pair if isinstance(pair, str) else " ".join(pair) for pair in model["merges"]]
    own = tokenizer("a", add_special_tokens=True)["input_ids"]
    return Vocabulary(
        model="gpt2" if of_bytes else "llama",
        tokens=tokens,
        kinds=kinds,
        scores=None if of_bytes else _scores(tokens, merges, model, label),
        merges=merges if of_bytes else None,
        cut=_cut(state, label) if of_bytes else "default",
        add_bos=bool(own) and own[0] == tokenizer.bos_token_id,
        add_space_prefix=not of_bytes and _prefixed(state),
        ids=_special_ids(tokenizer, template),
        chat_template=str(tokenizer.chat_template),
    )


def _kind(text: str, known: bool, added: Mapping[str, Any], model: Mapping[str, Any], of_bytes: bool) -> Kind:
    if not known:
        return Kind.UNUSED
    if text == model.get("unk_token"):
        return Kind.UNKNOWN
    if text in added:
        return Kind.CONTROL if added[text]["special"] else Kind.USER_DEFINED
    return Kind.BYTE if not of_bytes and text in BYTES else Kind.NORMAL


def _scores(tokens: Sequence[str], merges: Sequence[str], model: Mapping[str, Any], label: str) -> list[float]:
    """llama.cpp joins the two neighbours whose whole has the highest score, and asks for no list of merges: the score of a piece is minus
    the rank of the first merge that makes it. Raises InputError without the 256 bytes, which it writes what it does not know by."""
    missing = [byte for byte in BYTES if byte not in model["vocab"]]
    if missing:
        raise InputError(
            f"{label}: its tokenizer lacks {len(missing)} of the 256 bytes ({missing[0]} first), without which llama.cpp cannot write unknown "
            "characters: name a model whose tokenizer has byte fallback"
        )
    rank: dict[str, int] = {}
    for number, pair in enumerate(merges):
        rank.setdefault(pair.replace(" ", ""), number)
    return [-float(rank[token]) if token in rank else LAST for token in tokens]


def _prefixed(state: Mapping[str, Any]) -> bool:
    """Whether a stretch of text begins with a space of its own."""
    normalizer = state["normalizer"] or {}
    steps = normalizer.get("normalizers", [normalizer])
    return any(step.get("type") == "Prepend" and step["prepend"] == SPACE for step in steps)


def _steps(pre_tokenizer: Mapping[str, Any] | None) -> list[str]:
    """Patterns by which text is cut, `digits`, and `bytes` at the end where bytes are made characters."""
    if pre_tokenizer is None:
        return []
    kind = pre_tokenizer["type"]
    if kind == "Sequence":
        return [name for step in pre_tokenizer["pretokenizers"] for name in _steps(step)]
    if kind == "Split" and pre_tokenizer["behavior"] == "Isolated" and not pre_tokenizer["invert"]:
        return [str(pre_tokenizer["pattern"].get("Regex"))]
    if kind == "Digits" and pre_tokenizer["individual_digits"]:
        return ["digits"]
    if kind == "ByteLevel" and not pre_tokenizer["add_prefix_space"]:
        return [*([GPT2] if pre_tokenizer["use_regex"] else []), "bytes"]
    return [kind]


def _cut(state: Mapping[str, Any], label: str) -> str:
    steps = tuple(_steps(state["pre_tokenizer"])[:-1])
    if steps not in CUTS:
        raise InputError(
            f"{label}: its tokenizer cuts text by {', then '.join(map(repr, steps)) or 'nothing'}, which llama.cpp has no name for that is "
            f"known here ({', '.join(CUTS.values())}): name a model with one of these tokenizers"
        )
    return CUTS[steps]


def _special_ids(tokenizer: PreTrainedTokenizerBase, template: Template) -> dict[str, int]:
    """An answer ends at `eos`, `eot` or `eom`."""
    ends = template.stop_ids
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else ends[0]
    others = [number for number in ends if number != eos]
    found = {
        "bos": tokenizer.bos_token_id,
        "eos": eos,
        "eot": others[0] if others else None,
        "eom": others[1] if len(others) > 1 else None,
        "pad": tokenizer.pad_token_id,
        "unk": tokenizer.unk_token_id,
    }
    return {name: int(number) for name, number in found.items() if number is not None}
