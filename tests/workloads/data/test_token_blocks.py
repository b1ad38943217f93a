"""A corpus becomes blocks of tokens: every token once, the same each time, tokenised once."""

from __future__ import annotations

import hashlib
import json
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from alpaca_operator.api.pretrain import PretrainSpec
from tests.workloads import library, literature
from workloads.data import token_blocks, tokenize
from workloads.data.token_blocks import Blocks, Prepared, Stream
from workloads.data.tokenize import TokenizerSpec
from workloads.errors import DataError
from workloads.storage.sources import Input, Inputs


@pytest.fixture(scope="module")
def recipe(llama: Any) -> TokenizerSpec:
    return TokenizerSpec.of(llama, Path("llama"))


@pytest.fixture(scope="module")
def novels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return library.write_novels(tmp_path_factory.mktemp("corpus") / "novels", 5, lines=60)


class Desk:
    """Prepares a corpus, and keeps what was said."""

    def __init__(self, recipe: TokenizerSpec, cache: Path) -> None:
        self.recipe = recipe
        self.cache = cache
        self.said: list[str] = []

    def prepare(self, train: Path, validation: Path | None = None, block: int = 64, **dataset: Any) -> Prepared:
        steps = dataset.pop("maxSteps", None)
        sources = {"train": train} | ({"validation": validation} if validation else {})
        spec = PretrainSpec.model_validate(
            {
                "model": {"uri": "base"},
                "dataset": {**{part: [{"uri": str(path)}] for part, path in sources.items()}, **dataset},
                "training": {"blockSize": block, "maxSteps": steps, "gradientAccumulation": 2, "batchSizePerDevice": 2},
                "output": {"uri": "out"},
            }
        )
        inputs = Inputs(
            {f"dataset.{part}[0]": Input(str(path), path, f"digest of {path.name}") for part, path in sources.items()}
        )
        self.said = []
        return token_blocks.prepare(spec, inputs, self.recipe, self.cache, log=self.said.append)


@pytest.fixture
def desk(recipe: TokenizerSpec, tmp_path: Path) -> Desk:
    return Desk(recipe, tmp_path / "cache")


def ids(found: Any) -> list[list[int]]:
    return [found[index]["input_ids"].tolist() for index in range(len(found))]


def test_every_token_of_the_corpus_is_in_one_block(desk: Desk, novels: Path, llama: Any) -> None:
    found = desk.prepare(novels, validationSplit=0)
    assert isinstance(found.train, Blocks)
    assert found.validation is None
    texts = [
        path.read_bytes().decode("gb18030" if number % 2 else "utf-8")
        for number, path in enumerate(sorted(novels.iterdir()))
    ]
    whole = [token for text in texts for token in [1, *llama.encode(text, add_special_tokens=False), 2]]
    cut = ids(found.train)
    assert [token for block in cut for token in block] == whole
    assert {len(block) for block in cut[:-1]} == {64}
    assert len(cut[-1]) == len(whole) % 64, "the remainder is kept"


def test_a_block_is_learnt_whole(desk: Desk, novels: Path) -> None:
    row = desk.prepare(novels).train[0]
    assert (row["labels"] == row["input_ids"]).all()
    assert row["seq_lengths"] == (64,)


def test_a_last_block_of_one_token_has_nothing_to_predict() -> None:
    assert token_blocks.blocks_in(128, 64) == 2
    assert token_blocks.blocks_in(129, 64) == 2
    assert token_blocks.blocks_in(130, 64) == 3


def test_a_twentieth_of_the_blocks_is_set_aside_by_the_seed() -> None:
    train, aside = token_blocks.split(200, 0.05, seed=42)
    assert len(aside) == 10
    assert sorted([*train, *aside]) == list(range(200))
    assert (token_blocks.split(200, 0.05, seed=42)[1] == aside).all()
    assert (token_blocks.split(200, 0.05, seed=43)[1] != aside).any()


@pytest.mark.parametrize(("amount", "share", "aside"), [(1, 0.05, 0), (2, 0.01, 1), (2, 0.9, 1), (10, 0.0, 0)])
def test_one_block_at_least_is_trained_and_one_set_aside(amount: int, share: float, aside: int) -> None:
    assert [len(part) for part in token_blocks.split(amount, share, seed=0)] == [amount - aside, aside]


def test_a_single_block_leaves_nothing_for_validation_and_says_so(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("白日依山尽，黄河入海流。", encoding="utf-8")
    assert desk.prepare(tmp_path / "short.txt").validation is None
    assert desk.said[-2] == (
        "data: no validation: the text is a single block; lower training.blockSize, or name dataset.validation"
    )


def test_validation_text_of_its_own_is_all_validation(desk: Desk, novels: Path, tmp_path: Path) -> None:
    (tmp_path / "own.jsonl").write_text("\n".join(json.dumps({"text": line}) for line in literature.english(30, 3)))
    found = desk.prepare(novels, tmp_path / "own.jsonl")
    assert found.validation is not None
    assert ids(found.train) == ids(desk.prepare(novels, validationSplit=0).train)
    assert sum(block.count(2) for block in ids(found.validation)) == 30


def test_tokens_are_made_once_and_found_by_every_later_run(
    desk: Desk, novels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ids(desk.prepare(novels).train)

    def refuse(*_: Any) -> Any:
        raise AssertionError("tokenised again")

    monkeypatch.setattr(tokenize, "encode", refuse)
    assert ids(desk.prepare(novels).train) == first
    assert desk.said[0].startswith("data: found train tokenised in ")
    assert len(desk.prepare(novels, block=32).train) > len(first), "another block size reads the same tokens"


def test_tokens_are_kept_where_every_version_looked_for_them(desk: Desk, novels: Path, recipe: TokenizerSpec) -> None:
    desk.prepare(novels)
    material = [1, tokenizers.__version__, recipe.digest, "train", [["digest of novels", "Auto", "Auto", "text"]]]
    (folder,) = {file.parent for file in desk.cache.rglob("tokens.bin")}
    assert folder.name == hashlib.sha256(json.dumps(material).encode()).hexdigest()[:32]


@pytest.mark.parametrize("streamed", [False, True])
def test_the_test_set_of_a_hub_is_not_trained_on(desk: Desk, tmp_path: Path, llama: Any, streamed: bool) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    for name, text in {
        "train-0": "春江潮水连海平",
        "validation-0": "海上明月共潮生",
        "test-0": "滟滟随波千万里",
    }.items():
        (folder / f"{name}.jsonl").write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    dataset = {"streaming": True, "maxSteps": 1} if streamed else {}
    found = desk.prepare(folder, validationSplit=0, **dataset)
    trained = next(iter(found.train))["input_ids"].tolist()
    assert trained == [1, *llama.encode("春江潮水连海平", add_special_tokens=False), 2]
    assert (
        f"data: train: 2 files of other splits of the data set left out (first: {folder / 'test-0.jsonl'})" in desk.said
    )


def test_tokens_that_hold_a_test_set_are_not_found(desk: Desk, tmp_path: Path, recipe: TokenizerSpec) -> None:
    folder = tmp_path / "hub"
    folder.mkdir()
    for name in ("train", "test"):
        (folder / f"{name}.txt").write_text("春江潮水连海平", encoding="utf-8")
    material = [1, tokenizers.__version__, recipe.digest, "train", [["digest of hub", "Auto", "Auto", "text"]]]
    before = hashlib.sha256(json.dumps(material).encode()).hexdigest()[:32]
    desk.prepare(folder)
    assert before not in {file.parent.name for file in desk.cache.rglob("tokens.bin")}


def test_another_tokenizer_or_other_text_is_tokenised_anew(desk: Desk, novels: Path, recipe: TokenizerSpec) -> None:
    desk.prepare(novels)
    desk.recipe = TokenizerSpec(recipe.state, None, recipe.eos, recipe.rows)
    found = desk.prepare(novels)
    assert not desk.said[0].startswith("data: found")
    assert all(1 not in block for block in ids(found.train))


def test_a_cache_that_was_cut_short_is_made_again(desk: Desk, novels: Path) -> None:
    first = ids(desk.prepare(novels).train)
    (file,) = desk.cache.rglob("tokens.bin")
    file.write_bytes(file.read_bytes()[:-10])
    assert ids(desk.prepare(novels).train) == first


def test_what_a_failed_run_left_is_not_taken_for_a_corpus(desk: Desk, tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text('{"text": "一"}\n{"txt": "二"}\n', encoding="utf-8")
    for _ in range(2):
        with pytest.raises(DataError) as refused:
            desk.prepare(rows)
        assert str(refused.value) == (
            f"{rows}, row 2: no 'text'; it has 'txt': set dataset.train[].columns.text to one of them"
        )
    assert not list(desk.cache.rglob("*.partial"))


def test_text_without_a_word_is_refused(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").touch()
    with pytest.raises(DataError) as refused:
        desk.prepare(tmp_path / "empty.txt")
    assert str(refused.value) == f"dataset.train: no text in {tmp_path / 'empty.txt'}: name files that hold some"


def saved(folder: Path, **splits: list[str]) -> Path:
    """Texts as the library `datasets` saves them, as one data set or as splits."""
    import datasets

    made = {name: datasets.Dataset.from_dict({"text": texts}) for name, texts in splits.items()}
    whole: Any = datasets.DatasetDict(made) if len(made) > 1 else made.popitem()[1]
    whole.save_to_disk(folder)
    return folder


def test_a_data_set_saved_to_disk_is_read_row_by_row(desk: Desk, tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", train=literature.chinese(20, 1))
    told = desk.prepare(folder, validationSplit=0).report["train"]
    assert (told["documents"], told["files"]) == (20, 1)


def test_of_saved_splits_training_reads_train_and_validation_its_own(desk: Desk, tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", train=literature.chinese(20, 1), test=literature.chinese(7, 2))
    report = desk.prepare(folder, folder).report
    assert report["train"]["documents"] == 20
    assert report["validation"]["documents"] == 7


def test_saved_splits_without_train_are_refused(desk: Desk, tmp_path: Path) -> None:
    folder = saved(tmp_path / "set", first=["一"], second=["二"])
    with pytest.raises(DataError) as refused:
        desk.prepare(folder)
    assert str(refused.value) == (
        f"{folder}: saved with the splits first, second: name one of them in uri, such as {folder / 'first'}"
    )


def test_the_counts_are_told(desk: Desk, novels: Path) -> None:
    found = desk.prepare(novels)
    told = found.report["train"]
    assert told["documents"] == told["files"] == 5
    assert told["charactersPerToken"] == round(told["characters"] / told["tokens"], 4)
    assert any("5 documents" in line for line in desk.said)
    assert desk.said[-1] == (
        f"data: for training: {len(found.train)} blocks of 64 tokens ({found.train.tokens():,} tokens); "  # type: ignore[union-attr]
        f"for validation: {len(found.validation or [])} blocks ({found.validation.tokens() if found.validation else 0:,} tokens)"
    )


@pytest.mark.parametrize("size", [1, 7, 64, 1000])
def test_arrays_of_any_length_are_cut_alike(size: int) -> None:
    draw = np.random.default_rng(size)
    whole = draw.integers(0, 60000, 5000).astype("<u2")
    pieces = np.split(whole, np.sort(draw.integers(0, 5000, 40)))
    found = list(token_blocks.cut(pieces, size))
    kept = 5000 - (5000 % size == 1)
    assert np.concatenate(found).tolist() == whole[:kept].tolist()
    assert {len(block) for block in found[:-1]} <= {size}


# Streaming


def stream(length: int, corpus: int = 40, seed: int = 1, aside: tuple[int, ...] = (), buffer: int = 16) -> list[int]:
    """Numbers of the blocks that a stream over a corpus of ``corpus`` blocks gives."""

    def passes() -> Any:
        return iter([np.full(4, number, dtype="<u2") for number in range(corpus)])

    made = Stream(passes, 4, length, seed, aside)
    made._buffer = buffer
    return [int(row["input_ids"][0]) for row in made]


def test_a_stream_gives_each_block_once_before_it_begins_anew() -> None:
    found = stream(100)
    assert len(found) == 100
    assert sorted(found[:40]) == sorted(found[40:80]) == list(range(40))
    assert found[:40] != found[40:80], "shuffled anew"
    assert found[:40] != list(range(40))


def test_a_stream_is_the_same_each_time_and_another_with_another_seed() -> None:
    assert stream(60) == stream(60)
    assert stream(60) != stream(60, seed=2)


def test_blocks_set_aside_are_not_streamed() -> None:
    assert not {3, 7} & set(stream(100, aside=(3, 7)))


def test_a_stream_with_everything_set_aside_is_refused() -> None:
    with pytest.raises(DataError, match="no text to train on is left beside validation"):
        stream(1, corpus=2, aside=(0, 1))


def test_a_streamed_corpus_gives_the_blocks_that_lie_on_disk_otherwise(desk: Desk, novels: Path) -> None:
    stored = ids(desk.prepare(novels, validationSplit=0).train)
    found = desk.prepare(novels, streaming=True, maxSteps=-(-len(stored) // 4), validationSplit=0)
    assert isinstance(found.train, Stream)
    assert len(found.train) >= len(stored)
    taken = [row["input_ids"].tolist() for row in islice(found.train, len(stored))]
    assert sorted(taken) == sorted(stored)
    assert taken != stored


def test_a_streamed_corpus_sets_blocks_of_its_start_aside(
    desk: Desk, novels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(token_blocks, "WINDOW_TOKENS", 64 * 20)
    stored = ids(desk.prepare(novels, validationSplit=0).train)
    found = desk.prepare(novels, streaming=True, maxSteps=-(-len(stored) // 4), validationSplit=0.2)
    assert found.validation is not None
    aside = ids(found.validation)
    assert len(aside) == 4
    assert all(block in stored[:20] for block in aside)
    assert not [row for row in found.train if row["input_ids"].tolist() in aside]
    assert not list(desk.cache.rglob("*.bin")) or len(list(desk.cache.rglob("*.bin"))) == 1, "nothing more on disk"
