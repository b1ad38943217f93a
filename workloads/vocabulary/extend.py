"""A base vocabulary and a new one become one: base ids stay, new pieces follow, every reader gives the same ids.

Works on sentencepiece's own protobuf, so that everything about the base that is not a new piece (normaliser, dummy prefix, ids,
scores) is byte for byte the base's.
"""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workloads.errors import DataError, InputError, SpecError
from workloads.system.describe import some

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6
"""Types of a piece (sentencepiece_model.proto)."""
BPE = 2
"""The model type whose pieces are found by merging (sentencepiece_model.proto)."""
SPACE = "▁"
MULTIPLE = 64
"""Sizes are multiples of this, which matrix kernels want. Pieces are dropped to reach one: padding rows can be sampled, though no
text has their ids."""
LOWEST_SCORE = -(2.0**23)
"""Scores are float32, which counts in ones down to here. Llama-2 gives runs of spaces -1e9: counting on from there, every new
piece would have the same score."""

TOKENIZER_MODEL = "tokenizer.model"
SPECIAL = ("bos_token", "eos_token", "unk_token", "pad_token")
KEPT_CONFIG = ("model_max_length", "chat_template", "add_bos_token", "add_eos_token", "padding_side")

BYTE_LEVEL_REASON = (
    "is a byte-level BPE (as Llama-3's and Qwen's are): its pieces are bytes without scores, found after a split by a regular "
    "expression, so that Chinese pieces from sentencepiece cannot be appended to it. Name a base with a sentencepiece tokenizer.model, such as Llama-2"
)


@dataclass(frozen=True)
class Base:
    """A tokenizer that can be added to."""

    proto: Any
    """Its ModelProto, with tokens that the folder's JSON files add after the last piece."""
    config: dict[str, Any] = field(default_factory=dict)
    """Its tokenizer_config.json."""

    @property
    def legacy(self) -> bool:
        """Whether each stretch of text between control tokens gets the dummy prefix, as with Llama-2."""
        return bool(self.config.get("legacy", True))


@dataclass(frozen=True)
class Merged:
    """A base with new pieces behind it."""

    proto: Any
    added: tuple[str, ...]
    """The new pieces by rank; the first has the id that follows the base's last."""
    left_out: dict[str, int]
    """Trained pieces that were not taken, counted by reason."""


def load_base(path: Path, where: str = "spec.base.uri") -> Base:
    """The tokenizer at ``path``, a folder or a tokenizer.model.

    Raises SpecError for one that sentencepiece pieces cannot be appended to, InputError for one that cannot be read.
    """
    folder = path if path.is_dir() else path.parent
    file = path / TOKENIZER_MODEL if path.is_dir() else path
    if not file.is_file() or file.suffix == ".json":
        for other in (folder / "tokenizer.json", folder / "merges.txt"):
            if _is_byte_level(other):
                raise SpecError(f"{where}: {other} {BYTE_LEVEL_REASON}")
        names = some(sorted(entry.name for entry in folder.iterdir()), 12)
        raise InputError(
            f"{where}: {folder} has no {TOKENIZER_MODEL}, which new pieces are appended to; it holds {names}"
        )
    proto = _read(file, where)
    _must_be_mergeable(proto, file, where)
    if not path.is_dir():
        return Base(proto)
    config = _json_of(folder / "tokenizer_config.json", where)
    template = folder / "chat_template.jinja"
    if template.is_file():
        config["chat_template"] = template.read_text(encoding="utf-8")
    _append_added_tokens(proto, folder, where)
    return Base(proto, config)


def must_have_room(base: Base, max_size: int) -> None:
    """Raises SpecError where ``base`` fills ``max_size`` by itself."""
    size = len(base.proto.pieces)
    if max_size <= size:
        raise SpecError(f"merge.maxSize is {max_size} and the base has {size} pieces already: raise it above {size}")


def merge(base: Base, trained: Any, max_size: int) -> Merged:
    """``base`` with the pieces of ``trained`` (a ModelProto) that it lacks, ``max_size`` pieces in all at most.

    New characters come first, then longer pieces in the order in which training merged them: a longer piece is reached through
    its characters, and a character that is missing costs three tokens each time. Scores descend from the base's lowest, so that
    no new piece changes how the base's own are merged, and sentencepiece and Hugging Face's merge list agree on the order.
    """
    must_have_room(base, max_size)
    size = len(base.proto.pieces)
    candidates, left_out = _candidates(base.proto, trained)
    while True:
        total = min(size + len(candidates), max_size) // MULTIPLE * MULTIPLE
        taken = candidates[: max(0, total - size)]
        if not taken:
            raise DataError(
                f"dataset.train gives {len(candidates)} pieces that the base lacks, too few to grow its {size} to the next multiple of "
                f"{MULTIPLE}: give more text in the language to add, or raise train.vocabSize"
            )
        proto = _appended(base.proto, taken)
        unreachable = _unreachable(proto, taken, size)
        if not unreachable:
            left_out["aboveMaxSize"] += len(candidates) - len(taken)
            return Merged(proto, tuple(taken), {reason: count for reason, count in left_out.items() if count})
        left_out["unreachable"] += len(unreachable)
        candidates = [piece for piece in candidates if piece not in unreachable]


def save(merged: Merged, base: Base, folder: Path) -> None:
    """Writes tokenizer.model, tokenizer.json and tokenizer_config.json, which give the same ids to every reader.

    The class is PreTrainedTokenizerFast because transformers 5 rebuilds a LlamaTokenizer without the normaliser of tokenizer.json.
    """
    from tokenizers.processors import TemplateProcessing

    from workloads.data.tokenizer_io import sentencepiece_to_fast

    path = folder / TOKENIZER_MODEL
    path.write_bytes(merged.proto.SerializeToString())
    tokenizer, names = sentencepiece_to_fast(path, legacy=base.legacy)
    special = _special_tokens(base, names, tokenizer.get_vocab())
    starts = bool(base.config.get("add_bos_token", True)) and "bos_token" in special
    ends = bool(base.config.get("add_eos_token", False)) and "eos_token" in special
    frame = ([special["bos_token"]] if starts else []), ([special["eos_token"]] if ends else [])
    if starts or ends:
        tokenizer.post_processor = TemplateProcessing(
            single=[*frame[0], "$A", *frame[1]],
            pair=[
                *frame[0],
                "$A",
                *frame[1],
                *(f"{token}:1" for token in frame[0]),
                "$B:1",
                *(f"{token}:1" for token in frame[1]),
            ],
            special_tokens=[(token, tokenizer.token_to_id(token)) for token in frame[0] + frame[1]],
        )
    state = json.loads(tokenizer.to_str())
    # As `a b`, which every version of `tokenizers` reads; those before 0.20 do not know pairs.
    state["model"]["merges"] = [" ".join(pair) for pair in state["model"]["merges"]]
    (folder / "tokenizer.json").write_text(json.dumps(state, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "legacy": base.legacy,
        "add_bos_token": starts,
        "add_eos_token": ends,
        "clean_up_tokenization_spaces": False,
        **special,
        **{key: base.config[key] for key in KEPT_CONFIG if base.config.get(key) is not None},
    }
    (folder / "tokenizer_config.json").write_text(
        json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8"
    )


def _candidates(base: Any, trained: Any) -> tuple[list[str], Counter[str]]:
    """Trained pieces that the base lacks, by rank, and the counts of those left out."""
    known = {piece.piece for piece in base.pieces}
    ranked = sorted(
        (piece for piece in trained.pieces if piece.type == NORMAL),
        key=lambda piece: (len(piece.piece) > 1, -piece.score),
    )
    taken: list[str] = []
    left_out: Counter[str] = Counter()
    for piece in (entry.piece for entry in ranked):
        if piece in known:
            left_out["inBase"] += 1
        elif len(piece) > 1 and SPACED_CHINESE.match(piece):
            left_out["spaceBeforeChinese"] += 1
        elif piece.isascii() or (len(piece) > 1 and LATIN.fullmatch(piece) and not CHINESE_MARKS.fullmatch(piece)):
            left_out["latin"] += 1
        else:
            taken.append(piece)
    return taken, left_out


HAN = "\u2e80-\u2fdf\u3005\u3007\u3021-\u3029\u3031-\u3035\u3038-\u303b\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
"""Ideographs: radicals, iteration marks, the unified blocks and their extensions (planes 2 and 3 hold nothing else)."""
CHINESE = HAN + "\u3000-\u303f\u3100-\u312f\u31a0-\u31bf\u3200-\u33ff\ufe10-\ufe1f\ufe30-\ufe4f\uff00-\uffef"
"""Ideographs, bopomofo, and the punctuation and full-width forms that go with them."""
SPACED_CHINESE = re.compile(f"{SPACE}[{CHINESE}]")
"""Chinese has no spaces: such a piece arises at the start of a line only, and would give a word a second embedding."""
LATIN = re.compile(f"[\u0000-\u024f\u2000-\u206f{SPACE}]+")
"""Text of Latin letters, digits, ASCII and general punctuation: new pieces of these would change how English is cut. Single letters
beyond ASCII are taken (pinyin has some); a tab is not, the base writes it as a byte."""
CHINESE_MARKS = re.compile("—+|…+")
"""Chinese dash and ellipsis, each a doubled character of general punctuation."""


def _appended(base: Any, pieces: Sequence[str]) -> Any:
    """A copy of ``base`` with ``pieces`` behind it, scores descending from its lowest."""
    proto = type(base)()
    proto.CopyFrom(base)
    lowest = min(piece.score for piece in base.pieces if piece.type == NORMAL and piece.score > LOWEST_SCORE)
    for rank, piece in enumerate(pieces, start=1):
        proto.pieces.add(piece=piece, score=math.floor(lowest) - rank)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return proto


def _unreachable(proto: Any, pieces: Sequence[str], first_id: int) -> set[str]:
    """Those of ``pieces`` that no text is ever cut into. ``first_id`` is the id of the first.

    What a piece is cut into by itself, it is cut into everywhere: a merge with a neighbour takes characters away from it and can
    add none. Such a piece would have an embedding row that never trains.
    """
    from sentencepiece import SentencePieceProcessor

    bare = type(proto)()
    bare.CopyFrom(proto)
    bare.normalizer_spec.add_dummy_prefix = False
    processor = SentencePieceProcessor(model_proto=bare.SerializeToString())
    cut = processor.encode([piece.replace(SPACE, " ") for piece in pieces])
    # sentencepiece merges characters that are no pieces themselves; Hugging Face's tokenizers writes those as bytes first.
    characters = {piece.piece for piece in proto.pieces if piece.type == NORMAL and len(piece.piece) == 1}
    return {
        piece
        for number, (piece, ids) in enumerate(zip(pieces, cut, strict=True), start=first_id)
        if ids != [number] or not characters.issuperset(piece)
    }


def _special_tokens(base: Base, names: dict[str, str | None], vocabulary: Iterable[str]) -> dict[str, str]:
    """The base's special tokens; the pad token is never EOS, since a collator that masks padding would mask the end of every text."""
    known = set(vocabulary)
    special = {}
    for kind in SPECIAL:
        token = base.config.get(kind)
        name = (token.get("content") if isinstance(token, dict) else token) or names.get(kind)
        if name in known:
            special[kind] = str(name)
    if special.get("pad_token", special.get("eos_token")) == special.get("eos_token"):
        special["pad_token"] = special["unk_token"]
    return special


def parse(content: bytes) -> Any:
    """A sentencepiece ModelProto. Raises DecodeError for what is none."""
    from sentencepiece import sentencepiece_model_pb2

    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]  # made at run time
    proto.ParseFromString(content)
    return proto


def _read(file: Path, where: str) -> Any:
    from google.protobuf.message import DecodeError

    content = file.read_bytes()
    if re.match(rb"[A-Za-z0-9+/]+=* \d+\r?\n", content[:256]):  # Llama-3 ships tiktoken's ranks under this name
        raise SpecError(f"{where}: {file} {BYTE_LEVEL_REASON}")
    try:
        proto = parse(content)
    except DecodeError as error:
        raise InputError(
            f"{where}: {file} is not a sentencepiece model: copy it again ({len(content)} bytes)"
        ) from error
    if not proto.pieces:
        raise InputError(f"{where}: {file} holds no pieces: copy it again ({len(content)} bytes)")
    return proto


def _must_be_mergeable(proto: Any, file: Path, where: str) -> None:
    if proto.trainer_spec.model_type != BPE:
        kind = {1: "unigram", 3: "word", 4: "character"}.get(proto.trainer_spec.model_type, "other")
        raise SpecError(
            f"{where}: {file} is a sentencepiece model of type {kind}; pieces can be appended to type BPE only"
        )
    if len({piece.piece for piece in proto.pieces if piece.type == BYTE}) != 256:
        raise SpecError(
            f"{where}: {file} lacks byte pieces (byte_fallback), so that text outside its vocabulary is lost: name another base"
        )
    if proto.trainer_spec.treat_whitespace_as_suffix or not proto.normalizer_spec.escape_whitespaces:
        raise SpecError(
            f"{where}: {file} does not write spaces as {SPACE} before words (treat_whitespace_as_suffix, escape_whitespaces): name "
            "another base"
        )


def _append_added_tokens(proto: Any, folder: Path, where: str) -> None:
    """Tokens that the folder's JSON files place after the last piece, such as a `<pad>`, become pieces with those ids."""
    added: dict[int, tuple[str, bool]] = {}
    for text, number in _json_of(folder / "added_tokens.json", where).items():
        added[int(number)] = (text, True)
    for token in _json_of(folder / "tokenizer.json", where).get("added_tokens", []):
        added[int(token["id"])] = (token["content"], bool(token.get("special")))
    for number, token in _json_of(folder / "tokenizer_config.json", where).get("added_tokens_decoder", {}).items():
        added[int(number)] = (token["content"], bool(token.get("special")))
    for number in sorted(number for number in added if number >= len(proto.pieces)):
        text, special = added[number]
        if number != len(proto.pieces):
            raise InputError(
                f"{where}: {folder} gives the added token {text!r} the id {number}, and no token has the id {len(proto.pieces)}: its files "
                "do not belong together"
            )
        proto.pieces.add(piece=text, score=0, type=CONTROL if special else USER_DEFINED)


def _is_byte_level(file: Path) -> bool:
    if file.name == "merges.txt":  # GPT-2's layout, which only byte-level BPE has
        return file.is_file()
    return file.is_file() and '"ByteLevel"' in file.read_text(encoding="utf-8", errors="replace")


def _json_of(file: Path, where: str) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{where}: {file} is not JSON ({error}): copy the base again") from error
    return value if isinstance(value, dict) else {}
