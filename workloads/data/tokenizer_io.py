"""Tokenizers on disk: read with the ids that the model was trained on, written so that every reader gets the same ones.

transformers 5 rebuilds a LlamaTokenizer from its vocabulary and forgets the normalizer in tokenizer.json: after ``<s>`` the word
``Human`` becomes ``H``, ``uman``. A tokenizer.json is therefore read as it is, and a bare tokenizer.model is turned into one here.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE, Unigram
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from workloads.data.chat_templates.template import Template
from workloads.errors import InputError
from workloads.system.describe import some

SPECIAL_NAMES = {
    "bos_token": ("<s>", "<|begin_of_text|>"),
    "eos_token": ("</s>", "<|end_of_text|>", "<|im_end|>", "<|endoftext|>"),
    "unk_token": ("<unk>",),
}
"""Names by which a tokenizer.json without tokenizer_config.json is understood; the first that it has."""
PAD_NAMES = (
    "<pad>", "[PAD]", "<|pad|>", "<|finetune_right_pad_id|>", "<unk>", "<|endoftext|>", "<|reserved_special_token_0|>", "<|vision_pad|>",
)  # fmt: skip
"""Tokens fit for padding, best first. Never EOS: a collator that masks padding would mask the end of every answer."""
COPIED = ("tokenizer.model",)
SPIECE_UNKNOWN, SPIECE_CONTROL, SPIECE_USER = 2, 3, 4
"""Types of a piece in a sentencepiece model (sentencepiece_model.proto)."""
SPIECE_UNIGRAM = 1


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in ``folder``, padding on the right with a token that is not EOS. Raises InputError where there is none."""
    config = _json(folder / "tokenizer_config.json")
    if (folder / "tokenizer.json").is_file():
        tokenizer = _from_tokenizer_json(folder, config)
    elif (folder / "tokenizer.model").is_file():
        tokenizer = _from_sentencepiece(folder, config)
    elif (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        tokenizer = _read(AutoTokenizer, folder, "vocab.json")
    else:
        names = sorted(entry.name for entry in folder.iterdir()) if folder.is_dir() else []
        raise InputError(
            f"model.uri: no tokenizer in {folder}: it needs tokenizer.json or tokenizer.model; found {some(names, 12) or 'nothing'}"
        )
    tokenizer.padding_side = "right"
    _choose_pad(tokenizer)
    return tokenizer


def save_tokenizer(
    tokenizer: PreTrainedTokenizerBase, source_folder: Path, target_folder: Path, template: Template | None = None
) -> None:
    """Writes tokenizer.json under the class that reads it as it is, tokenizer.model beside it, and the chat template.

    Without a ``template``, the tokenizer keeps the chat template that it has, if any.
    """
    if template is not None:
        template.install(tokenizer)
    target_folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(target_folder)
    _write_merges_for_all(target_folder / "tokenizer.json")
    path = target_folder / "tokenizer_config.json"
    config = _json(path)
    source = _json(source_folder / "tokenizer_config.json")
    for key in ("name_or_path", "tokenizer_file", "vocab_file", "is_local", "backend", "local_files_only"):
        config.pop(key, None)
    config["tokenizer_class"] = "PreTrainedTokenizerFast"
    if tokenizer.chat_template is not None:
        config["chat_template"] = tokenizer.chat_template  # transformers 4 reads it here, 5 in chat_template.jinja
    for name in COPIED:
        if (source_folder / name).is_file():
            shutil.copyfile(source_folder / name, target_folder / name)
            config["legacy"] = bool(source.get("legacy", True))
    path.write_text(json.dumps(config, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")


def _write_merges_for_all(path: Path) -> None:
    """Merges as ``a b``, which every version of `tokenizers` reads; those before 0.20 do not know pairs."""
    state = json.loads(path.read_text(encoding="utf-8"))
    merges = state["model"].get("merges")
    if merges and not any(" " in piece for pair in merges for piece in pair if not isinstance(pair, str)):
        state["model"]["merges"] = [pair if isinstance(pair, str) else " ".join(pair) for pair in merges]
        path.write_text(json.dumps(state, ensure_ascii=False, indent=2), encoding="utf-8")


def _must_be_whole(path: Path) -> None:
    """Raises InputError for a tokenizer.model that begins as sentencepiece's do and cannot be read: it would be copied into every output,
    where merges and other programs trust it. Models of another kind begin otherwise, and are copied as they are."""
    from google.protobuf.message import DecodeError

    content = path.read_bytes() if path.is_file() else b""
    if not content.startswith(b"\n"):
        return
    try:
        _model_proto().ParseFromString(content)
    except DecodeError as error:
        raise InputError(f"model.uri: {path} is damaged ({len(content)} bytes): copy it again") from error


def _read(kind: Any, folder: Path, name: str) -> PreTrainedTokenizerBase:
    """What transformers makes of a folder, by the file ``name`` in it. Raises InputError for one that cannot be read."""
    try:
        tokenizer: PreTrainedTokenizerBase = kind.from_pretrained(folder)
    except Exception as error:  # `tokenizers` raises nothing narrower
        raise InputError(
            f"model.uri: {folder / name} cannot be read ({type(error).__name__}: {error}): copy the model again"
        ) from error
    return tokenizer


def _from_tokenizer_json(folder: Path, config: dict[str, Any]) -> PreTrainedTokenizerBase:
    _must_be_whole(folder / "tokenizer.model")
    tokenizer = _read(PreTrainedTokenizerFast, folder, "tokenizer.json")
    if not config:
        _name_special_tokens(tokenizer, folder)
    return tokenizer


def _name_special_tokens(tokenizer: PreTrainedTokenizerBase, folder: Path) -> None:
    """Without a tokenizer_config.json: the ids in the model's config, else the customary names."""
    vocabulary = tokenizer.get_vocab()
    model = _json(folder / "config.json") | _json(folder / "generation_config.json")
    for kind, names in SPECIAL_NAMES.items():
        number = model.get(f"{kind}_id")
        number = number[0] if isinstance(number, list) and number else number
        name = tokenizer.convert_ids_to_tokens(number) if isinstance(number, int) else None
        name = name or next((candidate for candidate in names if candidate in vocabulary), None)
        if name is not None:
            setattr(tokenizer, kind, name)


def _from_sentencepiece(folder: Path, config: dict[str, Any]) -> PreTrainedTokenizerBase:
    path = folder / "tokenizer.model"
    tokenizer, special = sentencepiece_to_fast(path, legacy=bool(config.get("legacy", True)))
    for kind in special:
        token = config.get(kind)
        special[kind] = (token.get("content") if isinstance(token, dict) else token) or special[kind]
    _add_ends(tokenizer, special, bos=config.get("add_bos_token", True), eos=config.get("add_eos_token", False))
    if (folder / "chat_template.jinja").is_file():
        config = config | {"chat_template": (folder / "chat_template.jinja").read_text(encoding="utf-8")}
    keep = {
        key: config[key] for key in ("model_max_length", "chat_template", "pad_token") if config.get(key) is not None
    }
    if isinstance(keep.get("pad_token"), dict):
        keep["pad_token"] = keep["pad_token"]["content"]
    added = _json(folder / "added_tokens.json")
    for text, number in sorted(added.items(), key=lambda item: item[1]):
        tokenizer.add_tokens([AddedToken(text, normalized=False)])
        if tokenizer.token_to_id(text) != number:
            raise InputError(
                f"model.uri: {folder / 'added_tokens.json'} gives {text!r} the id {number}, but the next free id of "
                f"{path.name} is {tokenizer.token_to_id(text)}: the two files do not belong together"
            )
    named = {kind: token for kind, token in special.items() if token}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **named, **keep)
    fast.init_kwargs["legacy"] = bool(config.get("legacy", True))
    return fast


def _add_ends(tokenizer: Tokenizer, special: dict[str, str | None], *, bos: bool, eos: bool) -> None:
    """What Llama's tokenizer puts around a plain text when it is asked for special tokens; chat templates never ask."""
    first, last = special["bos_token"] if bos else None, special["eos_token"] if eos else None
    ends = [text for text in (first, last) if text]
    if ends:
        single = " ".join(filter(None, [first, "$A", last]))
        pair = f"{single} {' '.join(filter(None, [first and first + ':1', '$B:1', last and last + ':1']))}"
        tokenizer.post_processor = processors.TemplateProcessing(
            single=single, pair=pair, special_tokens=[(text, tokenizer.token_to_id(text)) for text in ends]
        )


def sentencepiece_to_fast(path: Path, *, legacy: bool = True) -> tuple[Tokenizer, dict[str, str | None]]:
    """A `tokenizers` tokenizer with the ids of transformers 4's Llama tokenizer, and the names of its special tokens.

    ``legacy`` is Llama's: each stretch of text between control tokens gets the dummy prefix. Without it only the start of the whole
    text does. Llama-2 and everything trained with transformers before 4.31 is legacy, which is why it is the default.
    """
    from google.protobuf.message import DecodeError
    from transformers.convert_slow_tokenizer import generate_merges

    proto = _model_proto()
    try:
        proto.ParseFromString(path.read_bytes())
    except DecodeError:
        proto.Clear()
    if not proto.pieces:
        raise InputError(
            f"model.uri: {path} is not a sentencepiece model: convert it to tokenizer.json with transformers first"
        )
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    vocab = {piece: number for number, (piece, _) in enumerate(pieces)}
    of_type = {
        kind: [piece.piece for piece in proto.pieces if piece.type == kind]
        for kind in (SPIECE_UNKNOWN, SPIECE_CONTROL, SPIECE_USER)
    }
    trainer, rules = proto.trainer_spec, proto.normalizer_spec
    unknown = pieces[trainer.unk_id][0] if trainer.unk_id >= 0 else None
    if trainer.model_type == SPIECE_UNIGRAM:
        tokenizer = Tokenizer(Unigram(pieces, unk_id=trainer.unk_id, byte_fallback=trainer.byte_fallback))
    else:
        merges = generate_merges(vocab, dict(pieces))
        tokenizer = Tokenizer(BPE(vocab, merges, unk_token=unknown, fuse_unk=True, byte_fallback=trainer.byte_fallback))
    tokenizer.add_special_tokens(
        [AddedToken(piece, normalized=False) for piece in of_type[SPIECE_UNKNOWN] + of_type[SPIECE_CONTROL]]
    )
    tokenizer.add_tokens([AddedToken(piece, normalized=False) for piece in of_type[SPIECE_USER]])
    steps: list[Any] = []
    if rules.precompiled_charsmap:
        steps.append(normalizers.Precompiled(rules.precompiled_charsmap))
    if rules.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if legacy:
        steps += [normalizers.Prepend("▁")] if rules.add_dummy_prefix else []
        steps.append(normalizers.Replace(" ", "▁"))
    else:
        scheme = "first" if rules.add_dummy_prefix else "never"
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme=scheme, split=False)
    tokenizer.normalizer = normalizers.Sequence(steps) if steps else None
    tail = [decoders.Strip(content=" ", left=1)] if rules.add_dummy_prefix else []
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *tail])
    name = {number: piece for piece, number in vocab.items()}.get
    return tokenizer, {"bos_token": name(trainer.bos_id), "eos_token": name(trainer.eos_id), "unk_token": unknown}


def _model_proto() -> Any:
    """An empty sentencepiece model. Its class is made at import, where no type checker sees it."""
    from sentencepiece import sentencepiece_model_pb2

    return sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]


def _choose_pad(tokenizer: PreTrainedTokenizerBase) -> None:
    if tokenizer.pad_token is not None and tokenizer.pad_token_id != tokenizer.eos_token_id:
        return
    vocabulary = tokenizer.get_vocab()
    candidates = [name for name in (*PAD_NAMES, tokenizer.unk_token, tokenizer.bos_token) if name in vocabulary]
    tokenizer.pad_token = next(
        name for name in (*candidates, *vocabulary) if vocabulary[name] != tokenizer.eos_token_id
    )


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"model.uri: {path} is not JSON ({error}): copy the model again") from error
    return value if isinstance(value, dict) else {}
