"""Notebooks run from their first cell to their last, as Jupyter runs them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "examples" / "notebooks"


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a notebook keeps its models."""
    return tmp_path_factory.mktemp("notebooks")


def run(name: str, storage: Path) -> list[str]:
    """What each code cell said."""
    environment = {
        **os.environ,
        "ALPACA_STORAGE": str(storage),
        "ALPACA_CACHE": str(storage / ".cache"),
        "HOME": str(storage),
        "OMP_NUM_THREADS": "1",
        "PYTHONWARNINGS": "ignore",
    }
    target = storage / f"{name}.ipynb"
    script = (
        "import nbformat, sys; from nbclient import NotebookClient; book = nbformat.read(sys.argv[1], 4); "
        "NotebookClient(book, timeout=600, resources={'metadata': {'path': sys.argv[3]}}).execute(); nbformat.write(book, sys.argv[2])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(FOLDER / f"{name}.ipynb"), str(target), str(FOLDER)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=800,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    book: Any = nbformat.read(target, 4)
    return ["".join(map(said, cell["outputs"])) for cell in book["cells"] if cell["cell_type"] == "code"]


def said(output: Any) -> str:
    return str(output["text"] if output["output_type"] == "stream" else output["data"]["text/plain"])


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_notebook_is_valid_and_kept_without_its_outputs(path: Path) -> None:
    book: Any = nbformat.read(path, 4)
    nbformat.validate(book)
    code = [cell for cell in book["cells"] if cell["cell_type"] == "code"]
    assert code
    assert [cell["id"] for cell in code if cell["outputs"] or cell["execution_count"]] == []


@pytest.mark.drill
def test_the_vocabulary_needs_fewer_tokens_for_chinese_alone(storage: Path) -> None:
    *_, lines, figures = run("vocabulary", storage)
    counts = [int(count) for count in re.findall(r"^(?:before|after) +(\d+)", lines, re.MULTILINE)]
    poem, _, english = zip(counts[::2], counts[1::2], strict=True)
    assert poem[1] < 0.6 * poem[0]
    assert english[0] == english[1]
    assert figures.startswith("{")


@pytest.mark.drill
def test_a_chain_leaves_a_model_that_foretells_the_answers_better_than_its_base(storage: Path) -> None:
    *_, gains, lineage = run("chain", storage)
    (text, answers) = re.findall(r"^(?:held-out text|answers) +([\d.]+) -> ([\d.]+)$", gains, re.MULTILINE)
    assert float(text[1]) < float(text[0])
    assert float(answers[1]) < 0.9 * float(answers[0])
    for job in ("notebook-corpus", "notebook-pieces", "notebook-reader", "notebook-poet"):
        assert job in lineage
