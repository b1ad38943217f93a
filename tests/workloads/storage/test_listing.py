"""What lies below a folder: everything, once, in one order; and what is left out is named."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from workloads.storage.listing import HIDDEN, LISTED_ALREADY, NO_CONTENT, listed, listing


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_a_folder_s_listing_leaves_out_what_is_hidden(tmp_path: Path) -> None:
    for name in ("b.txt", "a/c.txt", ".git/config", "a/.cache", ".hidden"):
        written(tmp_path / name, name)

    assert listing(tmp_path) == ["a/c.txt", "b.txt"]


def test_links_are_followed_once_and_a_link_to_nothing_is_listed(tmp_path: Path) -> None:
    written(tmp_path / "shelf" / "a.txt", "a")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "linked").symlink_to(tmp_path / "shelf")
    (tmp_path / "shelf" / "back").symlink_to(tmp_path / "folder")
    (tmp_path / "folder" / "gone.txt").symlink_to("nowhere")
    os.mkfifo(tmp_path / "folder" / "pipe")

    assert listing(tmp_path / "folder") == ["gone.txt", "linked/a.txt"]


def test_what_is_left_out_is_named_with_the_reason(tmp_path: Path) -> None:
    written(tmp_path / "v3" / "a.txt", "a")
    (tmp_path / "latest").symlink_to("v3")
    written(tmp_path / ".git" / "config", "")
    os.mkfifo(tmp_path / "pipe")

    found = listed(tmp_path)

    assert found.files == ["v3/a.txt"]
    assert found.left_out == {"latest": LISTED_ALREADY, ".git": HIDDEN, "pipe": NO_CONTENT}


def test_links_in_a_circle_are_listed_as_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").symlink_to("b.jsonl")
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")

    assert listing(tmp_path) == ["a.jsonl", "b.jsonl"]


def test_a_folder_that_cannot_be_listed_is_no_empty_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written(tmp_path / "open" / "a.txt", "a")
    real = os.listdir

    def refusing(path: Path) -> list[str]:
        if str(path).endswith("open"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "listdir", refusing)  # modes do not bind root
    with pytest.raises(PermissionError) as refusal:
        listing(tmp_path)
    assert refusal.value.filename == str(tmp_path / "open")
