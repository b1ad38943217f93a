"""The vocabulary in a GGUF file as a tokenizer of `tokenizers`, so that templates, limits and texts are those of every other model.

What was written for llama.cpp (`quantization/gguf/vocabulary.py`, or by others) is read back here. Whether llama.cpp itself cuts texts alike
is looked at where both are loaded.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.errors import InputError
from workloads.quantization.gguf.vocabulary import CUTS, Kind
from workloads.serving.llama_cpp.gguf_file import GGUFFile

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPIECE_BPE = 2
ALIASES = {"llama3": "llama-bpe", "llama-v3": "llama-bpe"}
"""Other names of llama.cpp for the same way of cutting."""
STEPS = {name: steps for steps, name in CUTS.items()}
IGNORES_MERGES = "llama-bpe"
"""Where a word that is a token is that token, whatever merges would make of it."""


def of(file: GGUFFile) -> PreTrainedTokenizerBase:
    """Raises InputError for a vocabulary that is not understood here."""
    model = file.metadata.get("tokenizer.ggml.model")
    if model == "llama":
        return _sentencepiece(file)
    if model == "gpt2":
        return _byte_level(file)
    raise InputError(
        f"{file.label}: the tokenizer of {file.path.name} is of kind {model}, and llama (sentencepiece's BPE) and gpt2 (merges of bytes) "
        "are served: run llama.cpp's own server, and name it with engine External"
    )


def unused(file: GGUFFile) -> list[int]:
    """Ids that stand for nothing."""
    return [number for number, kind in enumerate(_kinds(file)) if kind == Kind.UNUSED]


def _kinds(file: GGUFFile) -> list[int]:
    count = len(file.metadata["tokenizer.ggml.tokens"])
    return [int(kind) for kind in file.metadata.get("tokenizer.ggml.token_type", [Kind.NORMAL] * count)]


def _special(file: GGUFFile) -> dict[str, str]:
    """Special tokens by the names that a tokenizer_config.json has for them."""
    tokens = file.metadata["tokenizer.ggml.tokens"]
    keys = {"bos_token": "bos", "eos_token": "eos", "unk_token": "unknown", "pad_token": "padding"}
    numbers = {name: file.metadata.get(f"tokenizer.ggml.{key}_token_id") for name, key in keys.items()}
    return {name: tokens[number] for name, number in numbers.items() if number is not None and number < len(tokens)}


def _sentencepiece(file: GGUFFile) -> PreTrainedTokenizerBase:
    """The pieces as a tokenizer.model, whose types of pieces are llama.cpp's, read as those of every Llama-2 are."""
    from sentencepiece import sentencepiece_model_pb2

    from workloads.data import tokenizer_io

    metadata, special = file.metadata, _special(file)
    proto = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    tokens = metadata["tokenizer.ggml.tokens"]
    for text, score, kind in zip(tokens, metadata["tokenizer.ggml.scores"], _kinds(file), strict=True):
        proto.pieces.add(piece=text, score=score, type=kind)
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type, trainer.byte_fallback = SPIECE_BPE, True
    for name, key in (("unk_id", "unknown"), ("bos_id", "bos"), ("eos_id", "eos"), ("pad_id", "padding")):
        setattr(trainer, name, metadata.get(f"tokenizer.ggml.{key}_token_id", -1))
    rules.add_dummy_prefix = bool(metadata.get("tokenizer.ggml.add_space_prefix", True))
    rules.remove_extra_whitespaces = False
    config = {
        "add_bos_token": bool(metadata.get("tokenizer.ggml.add_bos_token", True)),
        "chat_template": metadata.get("tokenizer.chat_template"),
        **special,
    }
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "tokenizer.model").write_bytes(proto.SerializeToString())
        Path(folder, "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
        return tokenizer_io.load_tokenizer(Path(folder))


def _byte_level(file: GGUFFile) -> PreTrainedTokenizerBase:
    from tokenizers import AddedToken, Tokenizer, decoders, processors
    from transformers import PreTrainedTokenizerFast

    metadata, special = file.metadata, _special(file)
    name = str(metadata.get("tokenizer.ggml.pre", "gpt-2"))
    name = ALIASES.get(name, name)
    if name not in STEPS:
        raise InputError(
            f"{file.label}: the tokenizer of {file.path.name} cuts text as {name}, and {', '.join(STEPS)} are known here: run llama.cpp's own "
            "server, and name it with engine External"
        )
    tokens, kinds = metadata["tokenizer.ggml.tokens"], _kinds(file)
    tokenizer = Tokenizer(_merging(tokens, metadata["tokenizer.ggml.merges"], name))
    tokenizer.pre_tokenizer = _cutting(name)
    tokenizer.decoder = decoders.ByteLevel()
    of_kind: Mapping[Kind, list[Any]] = {
        kind: [AddedToken(text, normalized=False) for text, found in zip(tokens, kinds, strict=True) if found == kind]
        for kind in (Kind.CONTROL, Kind.USER_DEFINED)
    }
    tokenizer.add_special_tokens(of_kind[Kind.CONTROL])
    tokenizer.add_tokens(of_kind[Kind.USER_DEFINED])
    if metadata.get("tokenizer.ggml.add_bos_token", False) and "bos_token" in special:
        first = special["bos_token"]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, tokenizer.token_to_id(first))]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, chat_template=metadata.get("tokenizer.chat_template"), **special
    )


def _merging(tokens: list[str], merges: list[str], name: str) -> Any:
    from tokenizers import models

    vocabulary = {text: number for number, text in enumerate(tokens)}
    pairs = [(left, right) for left, _, right in (merge.partition(" ") for merge in merges)]
    return models.BPE(vocabulary, pairs, ignore_merges=name == IGNORES_MERGES)


def _cutting(name: str) -> Any:
    """What cuts text before merges, by llama.cpp's name for it."""
    from tokenizers import Regex, pre_tokenizers

    steps: list[Any] = [
        pre_tokenizers.Digits(individual_digits=True)
        if step == "digits"
        else pre_tokenizers.Split(Regex(step), "isolated")
        for step in STEPS[name]
    ]
    return pre_tokenizers.Sequence([*steps, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
