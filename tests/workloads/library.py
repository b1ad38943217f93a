"""A small library for pretraining: Chinese novels and English rows, a base that knows English, a vocabulary that knows Chinese."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.workloads import literature
from tests.workloads.runs import Place, merged

PIECES = 600


@pytest.fixture(scope="session")
def library_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `write` makes; not to be written to."""
    return write(tmp_path_factory.mktemp("library") / "library")


@pytest.fixture
def study(library_folder: Path, tmp_path: Path) -> Place:
    """A folder of its own for a test's jobs, with the library's models and texts in it."""
    for entry in library_folder.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    return Place(tmp_path)


def job(**spec: Any) -> dict[str, Any]:
    """A PretrainJob over `base`, `novels` and `rows.jsonl`; ``spec`` adds to it and overrides it, field by field."""
    return {
        "apiVersion": "literary-alpaca.io/v1alpha1",
        "kind": "PretrainJob",
        "metadata": {"name": "tiny"},
        "spec": merged(
            {
                "model": {"uri": "base"},
                "dataset": {"train": [{"uri": "novels"}, {"uri": "rows.jsonl"}]},
                "training": {
                    "blockSize": 128,
                    "batchSizePerDevice": 4,
                    "gradientAccumulation": 2,
                    "learningRate": 1e-2,
                    "reportTo": [],
                },
                "output": {"uri": "out"},
            },
            spec,
        ),
    }


def write(folder: Path) -> Path:
    """`base` (a Llama of two layers), `tied`, `vocab` (its tokenizer with Chinese pieces), `novels` (.txt) and `rows.jsonl`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_novels(folder / "novels", 4, lines=150)
    rows = literature.chinese(100, 99) + literature.english(60, 7)
    with (folder / "rows.jsonl").open("w", encoding="utf-8") as file:
        file.writelines(json.dumps({"text": row}, ensure_ascii=False) + "\n" for row in rows)
    write_base(folder / "base")
    write_base(folder / "tied", tie_word_embeddings=True)
    write_vocabulary(folder / "base", folder / "vocab")
    return folder


def write_novels(folder: Path, count: int, lines: int) -> Path:
    """Text files, every other one in GB18030."""
    folder.mkdir()
    for number in range(count):
        text = "\n".join(literature.chinese(lines, number))
        (folder / f"{number}.txt").write_bytes(text.encode("gb18030" if number % 2 else "utf-8"))
    return folder


def write_base(folder: Path, **config: Any) -> Path:
    """A random Llama and a tokenizer.model of English and the commonest bytes."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    folder.mkdir(parents=True)
    train_pieces(folder / "tokenizer", literature.english(1500, 1), PIECES)
    torch.manual_seed(3)
    settings = {
        "vocab_size": PIECES,
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 512,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "tie_word_embeddings": False,
        **config,
    }
    LlamaForCausalLM(LlamaConfig(**settings)).save_pretrained(folder)
    return folder


def train_pieces(prefix: Path, lines: list[str], size: int) -> Path:
    """A sentencepiece model as Llama's are made; returns its file."""
    import sentencepiece

    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines),
        model_prefix=str(prefix),
        model_type="bpe",
        vocab_size=size,
        character_coverage=1.0,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    prefix.with_suffix(".vocab").unlink()
    return prefix.with_suffix(".model")


def write_vocabulary(base: Path, folder: Path) -> Path:
    """The base's tokenizer with Chinese pieces behind its own, as TokenizerJob makes it."""
    from workloads.vocabulary import extend

    folder.mkdir()
    trained = train_pieces(folder / "chinese", literature.chinese(1500, 5), 700)
    found = extend.load_base(base)
    merged = extend.merge(found, extend.parse(trained.read_bytes()), 1024)
    trained.unlink()
    extend.save(merged, found, folder)
    return folder
