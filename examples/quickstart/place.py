"""What the chain starts from, put where its manifests look for it: base, raw text, held-out text, questions."""

from __future__ import annotations

import filecmp
import shutil
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent
TEXTS = ("corpus", "web.jsonl", "held-out.txt", "poems.jsonl", "questions.jsonl")


def fill(folder: Path, say: Callable[[str], None]) -> None:
    """Make or copy into ``folder`` what is not there yet, or is another version."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TEXTS:
        _copy(HERE / name, folder / name)
    base = folder / "base"
    if (base / "config.json").is_file():
        say(f"{base} is there already")
        return
    from examples.quickstart.base import make

    make(base, say)


def _copy(source: Path, target: Path) -> None:
    if source.is_dir():
        target.mkdir(exist_ok=True)
        for file in source.iterdir():
            _copy(file, target / file.name)
    elif not target.is_file() or not filecmp.cmp(source, target, shallow=False):
        shutil.copyfile(source, target)
