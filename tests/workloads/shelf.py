"""Fixtures: tiny models and data, made once a session, and a folder for a test's jobs."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.workloads import tiny
from tests.workloads.runs import Place


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, `tied` (a model with tied embeddings) and `train.json` (60 rows); not to be written to."""
    folder = tmp_path_factory.mktemp("shelf")
    tiny.write_model(folder / "base")
    tiny.write_model(folder / "tied", tie_word_embeddings=True, seed=1)
    tiny.write_rows(folder / "train.json", 60)
    return folder


@pytest.fixture
def place(shelf: Path, tmp_path: Path) -> Place:
    """A folder of its own for a test's jobs, with the shelf's models and rows in it."""
    for entry in shelf.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    return Place(tmp_path)
