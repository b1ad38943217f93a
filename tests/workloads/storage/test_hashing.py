"""Digests are the same for the same contents, and are not read twice."""

from __future__ import annotations

import hashlib
import os
import time
from pathlib import Path

import pytest

from workloads.storage import hashing
from workloads.storage.hashing import HashCache, listing

OLD = time.time() - 3600


def written(path: Path, text: str, at: float = OLD) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    os.utime(path, (at, at))
    return path


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    return tmp_path / "cache" / "digests.json"


def learnt(memory: Path, path: Path) -> None:
    known = HashCache(memory)
    known.file(path)
    known.save()


def test_a_file_is_known_by_the_next_process(memory: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "model", "weights")
    learnt(memory, path)

    assert HashCache(memory).cached(path) == hashlib.sha256(b"weights").hexdigest()


def test_a_changed_file_is_read_again_even_with_its_old_size_and_time(memory: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "model", "weights")
    learnt(memory, path)
    written(path, "WEIGHTS")

    assert HashCache(memory).cached(path) is None
    assert HashCache(memory).file(path) == hashlib.sha256(b"WEIGHTS").hexdigest()


def test_a_file_of_just_now_is_not_trusted_yet(memory: Path, tmp_path: Path) -> None:
    path = written(tmp_path / "model", "weights", at=time.time())
    learnt(memory, path)

    assert HashCache(memory).cached(path) is None


def test_two_processes_do_not_forget_each_other_s_digests(memory: Path, tmp_path: Path) -> None:
    one, two = HashCache(memory), HashCache(memory)
    paths = [written(tmp_path / name, name) for name in ("a", "b")]
    one.file(paths[0])
    two.file(paths[1])
    one.save()
    two.save()

    assert all(HashCache(memory).cached(path) for path in paths)


@pytest.mark.parametrize("content", ["", "{", "[]", "null"])
def test_a_broken_memory_costs_time_only(memory: Path, tmp_path: Path, content: str) -> None:
    written(memory, content)
    path = written(tmp_path / "model", "weights")

    learnt(memory, path)

    assert HashCache(memory).cached(path) == hashlib.sha256(b"weights").hexdigest()


def test_a_hub_blob_is_named_by_its_digest(memory: Path, tmp_path: Path) -> None:
    name = hashlib.sha256(b"weights").hexdigest()
    written(tmp_path / "blobs" / name, "not read")
    link = tmp_path / "snapshots" / "model.safetensors"
    link.parent.mkdir()
    link.symlink_to(f"../blobs/{name}")

    assert HashCache(memory).file(link) == name


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


def test_the_digest_of_files_depends_on_names_and_contents_not_on_order() -> None:
    both = {"a": "1" * 64, "b": "2" * 64}

    assert hashing.of_files(both) == hashing.of_files(dict(reversed(both.items())))
    assert hashing.of_files(both) != hashing.of_files({"a": "2" * 64, "b": "1" * 64})
    assert hashing.of_files(both) != hashing.of_files({"a": "1" * 64, "c": "2" * 64})


def test_the_digest_of_a_json_value_does_not_depend_on_the_order_of_its_keys() -> None:
    assert hashing.of_json({"a": 1, "b": ["诗"]}) == hashing.of_json({"b": ["诗"], "a": 1})
