"""Text to ids: the same as the tokenizer gives for whole documents, whatever way the text comes in."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.workloads import literature
from workloads.data import tokenize
from workloads.data.tokenize import Encoder, TextChunk, TokenizerSpec
from workloads.errors import DataError

TRICKY = [
    "明月几时有？把酒问青天。",
    "  two  spaces, a tab\tand   three   ",
    "\n\nblank lines\n\n\nin it\n",
    "\r\nof Windows\r\n",
    "1234567890" * 30,
    "</s><s>[INST] looks like control tokens",
    "▁a▁▁b",
    "emoji 🐉🐲 and 𠀀𠮷",
    "ａ full-width ，line。" * 40,
]


@pytest.fixture(params=["llama", "byte_level", "not_legacy"])
def tokenizer(request: pytest.FixtureRequest) -> Any:
    return request.getfixturevalue(request.param)


def recipe_of(tokenizer: Any, bos: int | None = None) -> TokenizerSpec:
    recipe = TokenizerSpec.of(tokenizer, Path("nowhere"))
    return TokenizerSpec(recipe.state, bos, recipe.eos, recipe.rows)


def ids_of(tokenizer: Any, text: str) -> list[int]:
    """As the tokenizer encodes a whole document of plain text."""
    backend = tokenizer.backend_tokenizer
    backend.encode_special_tokens = True
    try:
        return backend.encode(text, add_special_tokens=False).ids
    finally:
        backend.encode_special_tokens = False


def documents(draw: random.Random) -> list[str]:
    lines = [*TRICKY, *literature.chinese(40, 1), *literature.english(40, 2)]
    return [draw.choice(["\n", "", "。\n\n", " "]).join(draw.choices(lines, k=draw.randint(1, 80))) for _ in range(12)]


@pytest.mark.parametrize("seed", range(3))
def test_text_cut_anywhere_has_the_ids_of_the_whole(tokenizer: Any, seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "PIECE", 37)
    draw = random.Random(seed)
    texts = documents(draw)
    blocks: list[str] = []
    for text in texts:
        while text:
            size = draw.randint(1, 200)
            blocks.append(text[:size])
            text = text[size:]
        blocks.append("")
    recipe = recipe_of(tokenizer)
    found = np.concatenate(list(tokenize.encode(iter(blocks), recipe, 1, lambda: None))).tolist()
    assert found == [token for text in texts for token in [*ids_of(tokenizer, text), recipe.eos]]


def test_pieces_are_short_even_where_a_line_is_long(llama: Any) -> None:
    recipe = recipe_of(llama)
    line = "".join(literature.chinese(2000, 4))
    assert "\n" not in line
    longest = max(map(len, Encoder(recipe)._pieces(line)))
    assert len(line) > 30_000
    assert longest <= tokenize.PIECE


def test_a_line_of_400000_characters_takes_no_longer_than_the_same_text_in_lines(llama: Any) -> None:
    encoder = Encoder(recipe_of(llama))
    lines = literature.chinese(14_000, 8)

    def seconds(text: str) -> float:
        return min(_timed(encoder, text) for _ in range(3))

    assert seconds("".join(lines)) < 2 * seconds("\n".join(lines))


def _timed(encoder: Encoder, text: str) -> float:
    began = time.process_time()
    encoder([TextChunk(text, first=True, last=True)])
    return time.process_time() - began


@pytest.mark.parametrize(
    "block", ["明月几时有？把酒问青天。\n" * 80, "明月几时有把酒问青天" * 100], ids=["in lines", "in one line"]
)
def test_a_document_is_handed_on_long_before_its_end_is_read(llama: Any, block: str) -> None:
    read = 0

    def endless() -> Iterator[str]:
        nonlocal read
        while True:
            read += len(block)
            yield block

    found = tokenize.encode(endless(), recipe_of(llama), 1, lambda: None)
    next(found)
    next(found)
    assert read < 2 * tokenize.SMALL * tokenize.UNIT


def test_each_document_begins_with_one_bos_and_ends_with_one_eos(llama: Any) -> None:
    texts = [text for text in TRICKY for _ in range(3)]
    found = np.concatenate(
        list(tokenize.encode((b for text in texts for b in (text, "")), recipe_of(llama, bos=1), 1, lambda: None))
    )
    assert int((found == 1).sum()) == len(texts)
    assert int((found == 2).sum()) == len(texts)
    starts = np.flatnonzero(found == 1)
    assert starts[0] == 0
    assert found[-1] == 2
    assert (found[starts[1:] - 1] == 2).all()


def test_who_begins_documents_with_bos_is_told_by_the_tokenizer(
    llama: Any, byte_level: Any, sentencepiece_folder: Path, tmp_path: Path
) -> None:
    from workloads.data.tokenizer_io import load_tokenizer

    assert TokenizerSpec.of(llama, sentencepiece_folder).bos == 1, "a bare tokenizer.model is Llama's"
    assert TokenizerSpec.of(byte_level, tmp_path).bos == byte_level.bos_token_id, "it says so in its post-processor"
    (tmp_path / "tokenizer.model").write_bytes((sentencepiece_folder / "tokenizer.model").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text('{"add_bos_token": false}')
    assert TokenizerSpec.of(load_tokenizer(tmp_path), tmp_path).bos is None


def test_a_tokenizer_without_an_end_of_text_token_is_refused(byte_level_folder: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    bare = PreTrainedTokenizerFast(tokenizer_file=str(byte_level_folder / "tokenizer.json"))
    with pytest.raises(DataError) as refused:
        TokenizerSpec.of(bare, byte_level_folder)
    assert str(refused.value) == (
        f"the tokenizer in {byte_level_folder} has no end-of-text token, which goes between documents: set eos_token in its "
        "tokenizer_config.json"
    )


def test_several_processes_give_the_same_ids_in_the_same_order(llama: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokenize, "UNIT", 2000)
    recipe = recipe_of(llama, bos=1)
    blocks = [block for text in literature.chinese(1500, 6) for block in (text, "")]
    alone = np.concatenate(list(tokenize.encode(iter(blocks), recipe, 1, lambda: None)))
    beats: list[None] = []
    together = np.concatenate(list(tokenize.encode(iter(blocks), recipe, 2, lambda: beats.append(None))))
    assert (alone == together).all()
    assert beats


ORPHANS = """
import itertools, sys
from pathlib import Path
from workloads.data import tokenize
tokenize.UNIT = 1000
recipe = tokenize.TokenizerSpec(Path(sys.argv[1]).read_text(), 1, 2, 2000)
if __name__ == "__main__":
    for ids in tokenize.encode(itertools.cycle(["text " * 100, ""]), recipe, 2, lambda: None):
        print(flush=True)
"""


def test_processes_end_with_a_parent_that_was_killed(llama: Any, tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(recipe_of(llama).state, encoding="utf-8")
    (tmp_path / "job.py").write_text(ORPHANS)
    root = Path(__file__).parents[3]
    environment = {**os.environ, "PYTHONPATH": f"{root}:{root / 'operator'}"}
    parent = subprocess.Popen(
        [sys.executable, "job.py", "state.json"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE
    )
    assert parent.stdout
    assert parent.stdout.readline() == b"\n"
    children = _children(parent.pid)
    assert len(children) >= 2
    parent.kill()
    parent.wait()
    limit = time.monotonic() + 60
    while alive := [child for child in children if Path(f"/proc/{child}").exists()]:
        assert time.monotonic() < limit, f"{alive} run on"
        time.sleep(0.05)
    parent.stdout.close()


def _children(pid: int) -> list[int]:
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]


def test_the_bytes_of_all_tokens_are_the_length_of_the_text(tokenizer: Any) -> None:
    recipe = recipe_of(tokenizer)
    size = tokenize.bytes_per_token(tokenizer, recipe)
    # Sentencepiece takes its mark for a space; and before a text that starts with one it puts none, unless it is a legacy one.
    plain = [text for text in TRICKY if tokenize.SPACE not in text and not text.startswith(" ")]
    for text in [*plain, *literature.chinese(20, 3), *literature.english(20, 3)]:
        ids = Encoder(recipe)([TextChunk(text, first=True, last=True)])
        assert size[ids].sum() == len(text.encode()), repr(text)


def test_ids_take_two_bytes_where_they_fit(llama: Any) -> None:
    recipe = recipe_of(llama)
    assert recipe.dtype.itemsize == 2
    assert TokenizerSpec(recipe.state, None, 2, 65536).dtype.itemsize == 2
    assert TokenizerSpec(recipe.state, None, 2, 65537).dtype.itemsize == 4
