"""A pointer is no content, in whatever input it lies."""

from __future__ import annotations

from pathlib import Path

import pytest

from alpaca_operator.api.conversations import DataSource
from alpaca_operator.api.corpus import CorpusSource
from alpaca_operator.api.sources import AdapterSource, ModelSource, Source
from alpaca_operator.api.tokenizer import TokenizerSource
from workloads.errors import InputError
from workloads.storage import sources
from workloads.system.environment import Environment

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "1" * 64 + "\nsize 52428801\n"


def located(source: Source, folder: Path) -> Path:
    environment = Environment.read({"ALPACA_STORAGE": str(folder), "ALPACA_CACHE": str(folder), "ALPACA_RUN_ID": "r"})
    return sources.locate(source, "field", environment, lambda: None)


@pytest.mark.parametrize(("kind", "config", "file"), [
    pytest.param(ModelSource, "config.json", "model-00002-of-00003.safetensors", id="weights"),
    pytest.param(ModelSource, "config.json", "pytorch_model.bin", id="pickled weights, where there are no others"),
    pytest.param(AdapterSource, "adapter_config.json", "adapter_model.safetensors", id="an adapter"),
    pytest.param(TokenizerSource, "tokenizer_config.json", "tokenizer.model", id="a tokenizer"),
    pytest.param(DataSource, "README.md", "rows.jsonl", id="rows"),
    pytest.param(CorpusSource, "a.txt", "deep/novel.txt", id="a corpus"),
])  # fmt: skip
def test_a_pointer_in_any_input_is_refused_with_what_fetches_it(
    tmp_path: Path, kind: type[Source], config: str, file: str
) -> None:
    (tmp_path / "in" / file).parent.mkdir(parents=True)
    (tmp_path / "in" / config).write_text("{}")
    (tmp_path / "in" / file).write_text(LFS)
    with pytest.raises(InputError) as refusal:
        located(kind(uri=str(tmp_path / "in")), tmp_path)
    assert str(refusal.value) == (
        f"spec.field.uri: {tmp_path}/in: {tmp_path}/in/{file} is a Git LFS pointer, not the content: run `git lfs pull` in {tmp_path}/in, "
        "or copy the files from where they are whole"
    )


def test_a_file_that_is_a_pointer_is_refused_too(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text(LFS)
    with pytest.raises(InputError, match=r"rows\.jsonl is a Git LFS pointer, not the content: run `git lfs pull` in "):
        located(DataSource(uri=str(tmp_path / "rows.jsonl")), tmp_path)


def test_text_about_pointers_is_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("A pointer begins so: " + LFS)
    (tmp_path / "b.txt").write_text(LFS + "\n" * 1024)
    assert located(CorpusSource(uri=str(tmp_path)), tmp_path) == tmp_path
