"""Tokenizers that the tests train themselves: sentencepiece with byte fallback as Llama-2 has it, byte-level BPE as Llama-3 has it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.workloads.buckets import server, store  # noqa: F401
from tests.workloads.library import library_folder, study  # noqa: F401
from tests.workloads.quantized import bench, made  # noqa: F401
from tests.workloads.shelf import place, shelf  # noqa: F401

POEMS = Path(__file__).parents[2] / "examples" / "quickstart" / "poems.jsonl"
ENGLISH = [
    "Human: Assistant: System: The quick brown fox jumps over the lazy dog.",
    "A human reads what an assistant writes; the assistant answers what the human asks.",
    "user assistant system [INST] [/INST] <<SYS>> <</SYS>> s INST SYS",
]
LLAMA3_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTE_LEVEL_TOKENS = [
    "<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>", "<|im_end|>",
    "<|reserved_special_token_0|>",
]  # fmt: skip


def corpus() -> list[str]:
    rows = [json.loads(line)["messages"] for line in POEMS.read_text(encoding="utf-8").splitlines()]
    return [message["content"] for messages in rows for message in messages] + ENGLISH * 20


@pytest.fixture(scope="session")
def sentencepiece_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bare tokenizer.model, trained as Llama-2's was: BPE, byte fallback, dummy prefix, spaces and characters as they are."""
    import sentencepiece

    folder = tmp_path_factory.mktemp("sentencepiece")
    (folder / "corpus.txt").write_text("\n".join(corpus()), encoding="utf-8")
    sentencepiece.SentencePieceTrainer.train(
        input=str(folder / "corpus.txt"),
        model_prefix=str(folder / "tokenizer"),
        model_type="bpe",
        vocab_size=1200,
        character_coverage=0.9995,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        allow_whitespace_only_pieces=True,
        minloglevel=2,
    )
    for name in ("corpus.txt", "tokenizer.vocab"):
        (folder / name).unlink()
    return folder


@pytest.fixture(scope="session")
def byte_level_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tokenizer.json and its config, as Llama-3 has them; ChatML's tokens too."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        [*corpus(), *["a\n\nb", "  def f():\n    return 1\n\n\n"] * 200],
        trainers.BpeTrainer(vocab_size=1200, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False),
    )
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in BYTE_LEVEL_TOKENS])
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence(
        [
            processors.ByteLevel(trim_offsets=True),
            processors.TemplateProcessing(single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", bos)]),
        ]
    )
    folder = tmp_path_factory.mktemp("byte-level")
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<|begin_of_text|>",
        "eos_token": "<|end_of_text|>",
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


@pytest.fixture(scope="session")
def llama(sentencepiece_folder: Path):
    from workloads.data.tokenizer_io import load_tokenizer

    return load_tokenizer(sentencepiece_folder)


@pytest.fixture(scope="session")
def byte_level(byte_level_folder: Path):
    from workloads.data.tokenizer_io import load_tokenizer

    return load_tokenizer(byte_level_folder)


@pytest.fixture(scope="session")
def not_legacy(sentencepiece_folder: Path, tmp_path_factory: pytest.TempPathFactory):
    """The same pieces with ``legacy: false``: only the start of a text gets the dummy prefix."""
    from workloads.data.tokenizer_io import load_tokenizer

    folder = tmp_path_factory.mktemp("not-legacy")
    (folder / "tokenizer.model").write_bytes((sentencepiece_folder / "tokenizer.model").read_bytes())
    (folder / "tokenizer_config.json").write_text(json.dumps({"legacy": False}))
    return load_tokenizer(folder)
