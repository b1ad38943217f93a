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
from workloads.data import document_split, token_blocks, tokenize
from workloads.data.token_blocks import Blocks, Prepared, Stream
from workloads.data.tokenize import TokenizerSpec
from workloads.errors import DataError, SpecError
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
        training = {
            "blockSize": block,
            "maxSteps": dataset.pop("maxSteps", None),
            "seed": dataset.pop("seed", 42),
            "earlyStoppingPatience": dataset.pop("patience", None),
        }
        sources = {"train": train} | ({"validation": validation} if validation else {})
        spec = PretrainSpec.model_validate(
            {
                "model": {"uri": "base"},
                "dataset": {**{part: [{"uri": str(path)}] for part, path in sources.items()}, **dataset},
                "training": {"gradientAccumulation": 2, "batchSizePerDevice": 2, **training},
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


def rows(folder: Path, *texts: str) -> Path:
    """A corpus of these documents."""
    file = folder / f"{len(list(folder.iterdir()))}.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return file


def texts_of(found: Any, llama: Any) -> list[str]:
    """The documents that blocks or a stream hold, end to end; of a stream, in one pass over them."""
    whole = [token for block in found for token in block["input_ids"].tolist()]
    texts, held = [], []
    for token in whole:
        held.append(token)
        if token == 2:
            texts.append(llama.decode(held, skip_special_tokens=True))
            held = []
    assert not held, "the last document is whole"
    return texts


@pytest.mark.parametrize("seed", [1, 2])
def test_no_document_is_both_trained_on_and_validated_with(desk: Desk, tmp_path: Path, llama: Any, seed: int) -> None:
    poems = literature.chinese(60, 7)
    found = desk.prepare(rows(tmp_path, *poems), block=32, validationSplit=0.1, seed=seed)
    trained, aside = texts_of(found.train, llama), texts_of(found.validation, llama)
    assert sorted([*trained, *aside]) == sorted(poems)
    assert not {*trained} & {*aside}
    assert 2 <= len(aside) < 12


def test_the_seed_decides_which_documents_are_set_aside_and_their_order_does_not(
    desk: Desk, tmp_path: Path, llama: Any
) -> None:
    poems = literature.chinese(60, 7)
    first, again, other = (
        {*texts_of(desk.prepare(rows(tmp_path, *texts), validationSplit=0.2, seed=seed).validation, llama)}
        for texts, seed in [(poems, 1), (poems[::-1], 1), (poems, 2)]
    )
    assert first == again
    assert first != other


def test_equal_documents_stand_on_one_side(desk: Desk, tmp_path: Path, llama: Any) -> None:
    poems = literature.chinese(12, 7)
    found = desk.prepare(rows(tmp_path, *poems, *poems, *poems), validationSplit=0.25)
    trained, aside = texts_of(found.train, llama), texts_of(found.validation, llama)
    assert not {*trained} & {*aside}
    assert sorted([*trained, *aside]) == sorted(poems * 3)


@pytest.mark.parametrize("streamed", [False, True])
def test_what_stands_in_validation_text_of_its_own_is_not_trained_on(
    desk: Desk, tmp_path: Path, llama: Any, streamed: bool
) -> None:
    poems = literature.chinese(12, 7)
    dataset = {"streaming": True, "maxSteps": 1} if streamed else {}
    found = desk.prepare(rows(tmp_path, *poems), rows(tmp_path, *poems[3:5], "别的"), block=4096, **dataset)
    assert texts_of(islice(found.train, 1), llama) == poems[:3] + poems[5:]
    assert texts_of(found.validation, llama) == [*poems[3:5], "别的"]
    if not streamed:
        assert "data: 2 of 12 documents stand in dataset.validation too, and are not trained on" in desk.said


def test_text_that_is_all_in_validation_is_refused(desk: Desk, tmp_path: Path) -> None:
    text = rows(tmp_path, "一", "二")
    with pytest.raises(DataError, match=r"^dataset.train: every document stands in dataset.validation too"):
        desk.prepare(text, text)


@pytest.mark.parametrize(("lengths", "share", "aside"), [
    pytest.param([10], 0.5, [], id="a single document is trained on"),
    pytest.param([30, 10], 0.05, [1], id="of two, the smaller is set aside, however small the share"),
    pytest.param([30, 10], 0.9, [0], id="one at least is trained on"),
    pytest.param([10, 500, 10], 0.05, [0, 2], id="no more is taken than was asked for"),
    pytest.param([10, 20, 30], 0, [], id="none is set aside for a share of 0"),
])  # fmt: skip
def test_whole_documents_are_set_aside_up_to_the_share(lengths: list[int], share: float, aside: list[int]) -> None:
    documents = np.array([(end, number) for number, end in enumerate(np.cumsum(lengths))], dtype=document_split.RECORD)
    assert (
        np.flatnonzero(
            document_split.set_aside(documents["digest"], document_split.lengths(documents), share, seed=0)
        ).tolist()
        == aside
    )


def test_a_twentieth_of_the_tokens_is_set_aside() -> None:
    documents = np.array([(10 * end, end) for end in range(1, 2001)], dtype=document_split.RECORD)
    assert document_split.set_aside(documents["digest"], document_split.lengths(documents), 0.05, seed=42).sum() == 100


def test_a_single_document_leaves_nothing_for_validation_and_says_so(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("白日依山尽，黄河入海流。", encoding="utf-8")
    assert desk.prepare(tmp_path / "short.txt").validation is None
    assert desk.said[-2] == (
        "data: no validation: the text is a single document, of which no part is set aside: name dataset.validation"
    )


def test_early_stopping_without_anything_to_validate_with_is_refused(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_text("白日依山尽，黄河入海流。", encoding="utf-8")
    with pytest.raises(SpecError) as refused:
        desk.prepare(tmp_path / "short.txt", patience=2)
    assert str(refused.value) == (
        "training.earlyStoppingPatience is 2 and dataset.train is a single document, of which no part can be set aside: name "
        "dataset.validation, or remove training.earlyStoppingPatience"
    )


def test_what_is_trained_on_has_a_name_unless_it_is_everything(desk: Desk, tmp_path: Path) -> None:
    """A checkpoint that has read other documents is no start: it would be measured with what it knows."""
    poems = rows(tmp_path, *literature.chinese(30, 7))
    named = [desk.prepare(poems, validationSplit=0.2, seed=seed).rows for seed in (1, 1, 2)]
    assert named[0] == named[1] != named[2]
    assert desk.prepare(poems, validationSplit=0).rows == ""


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


def stream(length: int, corpus: int = 40, seed: int = 1, buffer: int = 16) -> list[int]:
    """Numbers of the blocks that a stream over a corpus of ``corpus`` blocks gives."""

    def passes() -> Any:
        return iter([np.full(4, number, dtype="<u2") for number in range(corpus)])

    made = Stream(passes, 4, length, seed)
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


def test_a_stream_of_nothing_is_refused() -> None:
    with pytest.raises(DataError, match="no text to train on is left beside validation"):
        stream(1, corpus=0)


@pytest.mark.parametrize("piece", [1, 3, 50])
def test_documents_are_left_out_whatever_pieces_they_come_in(piece: int) -> None:
    corpus = np.array([5, 6, 2, 7, 2, 5, 6, 2, 8, 8, 8, 8, 2, 9], dtype="<u2")
    aside = {document_split.number_of([np.array(document, dtype="<u2")]) for document in ([5, 6, 2], [8, 8, 2])}
    pieces = [corpus[start : start + piece] for start in range(0, len(corpus), piece)]
    kept = list(document_split.without(pieces, 2, aside, longest=3))
    assert np.concatenate(kept).tolist() == [7, 2, 8, 8, 8, 8, 2, 9]


def test_a_streamed_corpus_gives_the_blocks_that_lie_on_disk_otherwise(desk: Desk, novels: Path) -> None:
    stored = ids(desk.prepare(novels, validationSplit=0).train)
    found = desk.prepare(novels, streaming=True, maxSteps=-(-len(stored) // 4), validationSplit=0)
    assert isinstance(found.train, Stream)
    assert len(found.train) >= len(stored)
    taken = [row["input_ids"].tolist() for row in islice(found.train, len(stored))]
    assert sorted(taken) == sorted(stored)
    assert taken != stored


def test_a_streamed_corpus_sets_documents_of_its_start_aside(
    desk: Desk, tmp_path: Path, llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    poems = literature.chinese(60, 7)
    monkeypatch.setattr(token_blocks, "WINDOW_TOKENS", 600)
    corpus = rows(tmp_path, *poems, *poems)
    found = desk.prepare(corpus, streaming=True, maxSteps=1, block=1 << 20, validationSplit=0.2)
    aside, trained = texts_of(found.validation, llama), texts_of(islice(found.train, 1), llama)
    assert 1 <= len(aside) < 30
    assert {*aside} < {*poems[:40]}
    assert sorted(trained) == sorted(text for text in poems * 2 if text not in aside), "nor where it stands again"
    assert not list(desk.cache.rglob("tokens.bin")), "nothing on disk"
